//! The command line.

pub mod run_args;
