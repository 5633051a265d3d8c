//! Adapters in: `/proc`, NVML, heartbeats, log tails. They read and tell; they decide nothing.

pub mod proc;
pub mod signal;
