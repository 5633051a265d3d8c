//! What goes into the core about GPUs.

use std::{sync::Arc, time::Duration};

use super::core::GpuLook;
use crate::{
    domain::{
        gpu::join::RankFacts,
        id::{PidMap, ProcId},
        state::{Rank, State},
    },
    probe::{finder::Finder, gpu::GpuProbe},
};

/// For how long bytes are counted after somebody asked for them.
pub const TRAFFIC: Duration = Duration::from_secs(10);

/// What is known of the devices of the ranks that live: made anew only when there is something new.
#[derive(Debug, Default)]
pub struct Devices {
    learned: u64,
    living: Vec<Living>,
    facts: Arc<[RankFacts]>,
}

/// What the state says of a rank that lives: process, position, `LOCAL_RANK`.
type Living = (ProcId, u32, Option<u32>);

fn living(state: &State) -> impl Iterator<Item = Living> {
    let alive = state.ranks.iter().filter(|rank| rank.state.is_alive());
    alive.map(|rank: &Rank| (rank.proc, rank.local_rank, rank.place.local_rank))
}

impl Devices {
    /// Takes what the driver answered last, and what is known of the devices of the ranks that live. Never waits.
    pub fn look(
        &mut self,
        probe: &GpuProbe,
        state: &State,
        finder: Option<&Finder>,
        sample: bool,
    ) -> GpuLook {
        let learned = finder.map_or(0, Finder::learned);
        if learned != self.learned || !living(state).eq(self.living.iter().copied()) {
            self.learned = learned;
            self.living = living(state).collect();
            self.facts = facts(&self.living, finder);
        }
        let ranks = Arc::clone(&self.facts);
        GpuLook { reading: probe.latest(), ranks, xids: probe.take_xids(), sample }
    }
}

fn facts(living: &[Living], finder: Option<&Finder>) -> Arc<[RankFacts]> {
    let known: PidMap<_> = finder
        .into_iter()
        .flat_map(Finder::all_facts)
        .map(|(proc, facts)| (proc.pid, (proc, facts)))
        .collect();
    let facts = living.iter().map(|(proc, local_rank, env_local_rank)| {
        let facts = known.get(&proc.pid).filter(|(known, _)| known == proc).map(|(_, facts)| facts);
        let env = facts.and_then(|facts| facts.env.as_ref());
        RankFacts {
            local_rank: *local_rank,
            pid: proc.pid,
            env_local_rank: env.and_then(|env| env.place.local_rank).or(*env_local_rank),
            cuda_visible_devices: env.and_then(|env| env.cuda_visible_devices.clone()),
        }
    });
    facts.collect()
}
