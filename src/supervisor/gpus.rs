//! What goes into the core about GPUs.

use std::{collections::HashMap, time::Duration};

use super::core::GpuLook;
use crate::{
    domain::{gpu::join::RankFacts, state::State},
    probe::{finder::Finder, gpu::GpuProbe},
};

/// For how long bytes are counted after somebody asked for them.
pub const TRAFFIC: Duration = Duration::from_secs(10);

/// Takes what the driver answered last, and what is known of the devices of the ranks that live. Never waits.
pub fn look(probe: &GpuProbe, state: &State, finder: Option<&Finder>, sample: bool) -> GpuLook {
    let reading = probe.latest();
    let living = state.ranks.iter().filter(|rank| rank.state.is_alive());
    let facts: HashMap<_, _> = finder.into_iter().flat_map(Finder::all_facts).collect();
    let ranks = living.map(|rank| {
        let env = facts.get(&rank.proc).and_then(|facts| facts.env.as_ref());
        RankFacts {
            local_rank: rank.local_rank,
            pid: rank.proc.pid,
            env_local_rank: env.and_then(|env| env.place.local_rank).or(rank.place.local_rank),
            cuda_visible_devices: env.and_then(|env| env.cuda_visible_devices.clone()),
        }
    });
    GpuLook { reading, ranks: ranks.collect(), xids: probe.take_xids(), sample }
}
