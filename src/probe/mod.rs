//! Adapters in: `/proc`, NVML, heartbeats, log tails. They read and tell; they decide nothing.

pub mod finder;
pub mod proc;
pub mod scan;
pub mod signal;
