//! The only writer: the loop, children, hub, journal; the rank shim and the injected Python files.

pub mod agent;
pub mod shim;
pub mod trainer;
