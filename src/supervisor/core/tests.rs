//! Scripts of inputs and what comes out.
