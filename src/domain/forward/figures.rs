//! Figures of ranks under the names that W&B gives to system metrics, and elastictop's own.
//!
//! They are events of a run, not rows of its history: they come by the clock while a rank hangs or restarts, which is
//! when they matter, and a row of history would take a step from the script's own rows.

use std::time::Duration;

use super::Source;
use crate::domain::{
    rank::RankState,
    state::{Rank, State},
    time::Stamp,
};

/// What the machine has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Hardware threads that the job may use.
    pub cores: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// Older figures of a GPU are not told again.
const FRESH: Duration = Duration::from_secs(30);

/// A name without the prefix `system.`, and a value.
pub type Figure = (String, f64);

/// The figures of one rank; those that are not known are left out.
pub fn of_rank(
    state: &State,
    rank: &Rank,
    machine: Machine,
    now: Stamp,
    has: impl Fn(Source) -> bool,
) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut tell = |name: &str, value: Option<f64>| {
        figures.extend(value.filter(|value| value.is_finite()).map(|value| (name.to_owned(), value)));
    };
    if has(Source::System) && rank.state.is_alive() {
        let megabytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        tell("cpu", rank.cpu_pct.map(|pct| f64::from(pct) / f64::from(machine.cores.max(1))));
        tell("proc.cpu.threads", rank.threads.map(f64::from));
        tell("proc.memory.rssMB", rank.rss_bytes.map(megabytes));
        let share = |bytes: u64| bytes as f64 / machine.memory_bytes as f64 * 100.0;
        tell("proc.memory.percent", rank.rss_bytes.map(share));
    }
    if has(Source::System) {
        of_gpus(state, rank, now, &mut tell);
    }
    if has(Source::Job) {
        let is_zombie = |rank: &&Rank| rank.state == RankState::Zombie;
        tell("elastictop/restarts", Some(f64::from(state.restarts)));
        tell("elastictop/incarnation", Some(f64::from(rank.attempt)));
        tell("elastictop/zombies", Some(state.ranks.iter().filter(is_zombie).count() as f64));
        let alive = rank.state.is_alive();
        let age = rank.beat_at.filter(|_| alive).map(|at| now.since(at).as_secs_f64());
        tell("elastictop/heartbeat_age_s", age);
        let furthest =
            state.ranks.iter().filter(|other| other.attempt == rank.attempt).filter_map(|r| r.step).max();
        let lag =
            furthest.zip(rank.step).filter(|_| alive).map(|(most, own)| most.saturating_sub(own) as f64);
        tell("elastictop/step_lag", lag);
    }
    figures
}

/// Figures of the GPUs that a rank has; those that no rank has are told with the first rank of the node.
fn of_gpus(state: &State, rank: &Rank, now: Stamp, tell: &mut impl FnMut(&str, Option<f64>)) {
    // A driver that hangs has no news.
    let Some(known) = state.gpus.as_ref().filter(|gpus| gpus.at.is_some_and(|at| now.since(at) < FRESH))
    else {
        return;
    };
    let is_first = state.ranks.first().is_some_and(|first| first.local_rank == rank.local_rank);
    let owner =
        |index: u32| known.ranks.iter().find(|owner| owner.gpus.contains(&index)).map(|o| o.local_rank);
    for gpu in &known.gpus {
        let (index, sample) = (gpu.info.index, &gpu.sample);
        if sample.lost || owner(index).map_or(!is_first, |owner| owner != rank.local_rank) {
            continue;
        }
        let used = sample.mem_used_bytes.map(|bytes| bytes as f64);
        let share = |part: Option<f64>, all: Option<f64>| Some(part? / all.filter(|all| *all > 0.0)? * 100.0);
        let watts = |milliwatts: Option<u32>| milliwatts.map(|power| f64::from(power) / 1000.0);
        let (power, limit) = (watts(sample.power_mw), watts(sample.power_limit_mw));
        let figures = [
            ("gpu", sample.util_pct.map(f64::from)),
            ("memoryAllocated", share(used, sample.mem_total_bytes.map(|bytes| bytes as f64))),
            ("memoryAllocatedBytes", used),
            ("temp", sample.temp_c.map(f64::from)),
            ("powerWatts", power),
            ("enforcedPowerLimitWatts", limit),
            ("powerPercent", share(power, limit)),
            ("smClock", sample.sm_clock_mhz.map(f64::from)),
            ("memoryClock", sample.mem_clock_mhz.map(f64::from)),
            ("correctedMemoryErrors", sample.ecc_corrected.map(|errors| errors as f64)),
            ("uncorrectedMemoryErrors", sample.ecc_uncorrected.map(|errors| errors as f64)),
        ];
        figures.into_iter().for_each(|(name, value)| tell(&format!("gpu.{index}.{name}"), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        event::{Event, Fact},
        gpu::{
            GpuInfo, GpuSample,
            fold::{Gpu, Gpus},
            join::{JoinSource, RankGpus},
        },
        id::ProcId,
        sample::{Place, RankSample},
    };

    const MACHINE: Machine = Machine { cores: 4, memory_bytes: 1000 << 20 };

    fn state() -> State {
        let mut state = State::default();
        let mut tell = |at: u64, fact: Fact| state.apply(&Event { seq: 0, at: Stamp(at), fact });
        for local_rank in 0..2 {
            let proc = ProcId { pid: 10 + local_rank as i32, start: 1 };
            tell(
                0,
                Fact::RankStarted { proc, agent_pid: 1, local_rank, attempt: 0, place: Place::default() },
            );
        }
        for (at, cpu_ns) in [(1000, 0), (2000, 2_000_000_000)] {
            let sample = |local_rank: u32, step| RankSample {
                local_rank,
                cpu_ns: Some(cpu_ns),
                rss_bytes: Some(100 << 20),
                threads: Some(3),
                step: Some(step),
                beat_at: Some(Stamp(1500)),
                ..RankSample::default()
            };
            tell(at, Fact::Sample { ranks: vec![sample(0, 7), sample(1, 4)] });
        }
        state
    }

    #[test]
    fn figures_have_the_names_that_w_and_b_plots() {
        let state = state();
        let figures = of_rank(&state, &state.ranks[1], MACHINE, Stamp(2500), |_| true);
        let figures: Vec<_> = figures.iter().map(|(name, value)| format!("{name} {value}")).collect();
        assert_eq!(
            figures,
            [
                "cpu 50",
                "proc.cpu.threads 3",
                "proc.memory.rssMB 100",
                "proc.memory.percent 10",
                "elastictop/restarts 0",
                "elastictop/incarnation 0",
                "elastictop/zombies 0",
                "elastictop/heartbeat_age_s 1",
                "elastictop/step_lag 3",
            ]
        );
    }

    #[test]
    fn a_gpu_s_figures_go_with_its_rank_and_others_with_the_first() {
        let mut state = state();
        let gpu = |index: u32| Gpu {
            info: GpuInfo { index, ..GpuInfo::default() },
            sample: GpuSample {
                index,
                util_pct: Some(90),
                mem_used_bytes: Some(1 << 30),
                mem_total_bytes: Some(4 << 30),
                power_mw: Some(350_000),
                power_limit_mw: Some(700_000),
                ..GpuSample::default()
            },
            ..Gpu::default()
        };
        let ranks = vec![RankGpus { local_rank: 1, pid: 11, gpus: vec![0], source: JoinSource::LocalRank }];
        state.gpus =
            Some(Gpus { at: Some(Stamp(2000)), gpus: vec![gpu(0), gpu(1)], ranks, ..Gpus::default() });
        let of = |local_rank: usize, at: u64| {
            let only = |source| source == Source::System;
            let figures = of_rank(&state, &state.ranks[local_rank], MACHINE, Stamp(at), only);
            let gpus = figures.into_iter().filter(|(name, _)| name.starts_with("gpu."));
            gpus.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>()
        };
        let expected = |index: u32| {
            let figures = [
                "gpu 90",
                "memoryAllocated 25",
                "memoryAllocatedBytes 1073741824",
                "powerWatts 350",
                "enforcedPowerLimitWatts 700",
                "powerPercent 50",
            ];
            figures.map(|figure| format!("gpu.{index}.{figure}"))
        };
        assert_eq!((of(1, 2500), of(0, 2500)), (expected(0).to_vec(), expected(1).to_vec()));
        assert_eq!(of(0, 60_000), [""; 0], "the driver has not answered for long");
    }

    #[test]
    fn what_is_not_known_or_not_wanted_is_left_out() {
        let mut state = state();
        assert_eq!(of_rank(&state, &state.ranks[0], MACHINE, Stamp(2500), |_| false), []);
        state.ranks[0].state = RankState::Zombie;
        let figures = of_rank(&state, &state.ranks[0], MACHINE, Stamp(2500), |_| true);
        let names: Vec<_> = figures.iter().map(|(name, value)| format!("{name} {value}")).collect();
        assert_eq!(names, ["elastictop/restarts 0", "elastictop/incarnation 0", "elastictop/zombies 1"]);
    }
}
