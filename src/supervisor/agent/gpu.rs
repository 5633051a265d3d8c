//! Before a restart: GPU memory that the ranks before, or other dead jobs, still hold.

use std::time::{Duration, Instant};

use super::report;
use crate::{
    domain::{
        gpu::wait::{Blocked, blocked},
        time::human,
    },
    probe::gpu::GpuProbe,
};

/// Between two looks.
pub const LOOK: Duration = Duration::from_millis(100);

/// A restart that waits for GPU memory.
#[derive(Debug)]
pub struct GpuWait {
    /// The restart that will follow.
    pub restart: u32,
    probe: GpuProbe,
    since: Instant,
    limit: Duration,
    told: bool,
}

impl GpuWait {
    /// Begins to ask the driver.
    pub fn new(restart: u32, limit: Duration) -> GpuWait {
        GpuWait { restart, probe: GpuProbe::start(), since: Instant::now(), limit, told: false }
    }

    /// Looks once; whether the ranks can be started now. Never waits.
    pub fn is_over(&mut self) -> bool {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let waited = self.since.elapsed();
        match blocked(&self.probe.latest(), 0, visible.as_deref(), waited, self.limit) {
            Blocked::Unknown => return false,
            Blocked::By(who) => {
                if !std::mem::replace(&mut self.told, true) {
                    report::log('W', &format!("waiting up to {} for GPU memory: {who}", human(self.limit)));
                }
                return false;
            }
            Blocked::Anyway(who) => report::log('W', &format!("restarting although {who}")),
            Blocked::No if self.told => {
                report::log('W', &format!("GPU memory is free after {}", human(waited)));
            }
            Blocked::No => {}
        }
        true
    }
}
