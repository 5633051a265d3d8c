//! What one input costs with many ranks. `cargo test --release -- --ignored --nocapture cost_of` prints it.

use std::time::Instant;

use super::{script::*, *};
use crate::{
    domain::sample::{Place, Sighting},
    probe::finder::RankLook,
};

/// A job with `ranks` living ranks that all have begun to work.
fn large(ranks: u32) -> Core {
    let mut out = Out::default();
    let rules = Rules {
        monitor_interval_ms: 100,
        stop_grace_ms: 1000,
        end_orphans: false,
        expects_beats: true,
        ..Rules::default()
    };
    let mut core = Core::new(T0, job_info(Launcher::Torchrun, 3, ranks), rules, None, &mut out);
    core.handle(T0, Input::Spawned(Ok(proc(100))), &mut out);
    for n in 0..ranks {
        let place = Place {
            rank: Some(n),
            local_rank: Some(n),
            world_size: Some(ranks),
            local_world_size: Some(ranks),
            restart_count: Some(0),
            ..Place::default()
        };
        let sighting = Sighting { proc: proc(1000 + n as i32), agent_pid: 100, place };
        core.handle(T0, Input::Seen(sighting), &mut out);
    }
    let ranks = core.crew.values().map(|member| RankLook {
        sighting: Sighting { proc: member.proc, agent_pid: 100, place: member.place.clone() }.into(),
        look: look(Kernel::Alive),
        fresh: false,
    });
    let look = TreeLook { ranks: ranks.collect(), agent: Some(look(Kernel::Alive)), ..TreeLook::default() };
    core.handle(T0, Input::Looked { look, sample: true }, &mut out);
    core
}

fn beat(n: u32, step: u64) -> Input {
    Input::Beat(Beat { pid: 1000 + n as i32, step: Some(step), ..Beat::default() })
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_beat_with_512_ranks() {
    const RANKS: u32 = 512;
    let mut core = large(RANKS);
    let mut out = Out::default();
    let begin = Instant::now();
    for round in 1..=100 {
        for n in 0..RANKS {
            core.handle(T0 + Duration::from_secs(round), beat(n, round), &mut out);
            std::hint::black_box(core.deadline());
        }
        out = Out::default();
    }
    let each = begin.elapsed() / (100 * RANKS);
    let begin = Instant::now();
    for round in 0..100 {
        core.handle(T0 + Duration::from_secs(200 + round), Input::Tick, &mut out);
    }
    println!("a beat costs {each:?}, a tick {:?} with {RANKS} ranks", begin.elapsed() / 100);
}

#[test]
fn a_beat_asks_nothing_of_the_other_ranks() {
    let mut core = large(64);
    let mut out = Out::default();
    core.handle(T0, beat(3, 1), &mut out);
    let now = T0 + Duration::from_secs(3600);
    let mut out = Out::default();
    core.handle(now, beat(3, 2), &mut out);
    assert!(out.events.is_empty() && out.effects.is_empty(), "{out:?}");
    core.handle(now, Input::Tick, &mut out);
    assert_eq!(out.events.len(), 63, "the others have been silent for an hour and count as running");
}
