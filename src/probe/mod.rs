//! Adapters in: `/proc`, NVML, heartbeats, log tails. They read and tell; they decide nothing.

pub mod beat;
pub mod cgroup;
pub mod cpu_clock;
pub mod deaths;
#[cfg(test)]
mod fake;
pub mod files;
pub mod finder;
pub mod flight;
pub mod gpu;
pub mod host;
pub mod proc;
pub mod rank;
pub mod ras;
pub mod scan;
pub mod signal;
pub mod stack;
pub mod suspect;
