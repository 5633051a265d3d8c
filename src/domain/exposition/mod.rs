//! What Prometheus is told of a job: the state as figures with names, units and labels.
//!
//! Labels are bounded: ranks and GPUs of this node, runs of the job, and words of fixed lists. A process id is none, as
//! every restart would make new series. What is not known is left out, never 0.

mod page;

use serde::Serialize;

pub use self::page::Format;
use self::page::{Labels, Page};
use super::{
    alert::AlertKind,
    forward::{RunProgress, RunState},
    gpu::{fold::Gpu, words},
    rank::{JobState, RankState},
    state::{Rank, State},
    time::Stamp,
    verdict::Role,
};

const JOB_STATES: [JobState; 10] = [
    JobState::Starting,
    JobState::Running,
    JobState::Restarting,
    JobState::MembershipChange,
    JobState::TearingDown,
    JobState::ZombieDeadlock,
    JobState::Orphaned,
    JobState::Done,
    JobState::Failed,
    JobState::Stopped,
];

const RANK_STATES: [RankState; 11] = [
    RankState::Starting,
    RankState::Init,
    RankState::Running,
    RankState::Waiting,
    RankState::Lagging,
    RankState::Stopped,
    RankState::Blocked,
    RankState::GilStuck,
    RankState::Zombie,
    RankState::Orphan,
    RankState::Exited,
];

const ALERTS: [AlertKind; 23] = [
    AlertKind::Stopped,
    AlertKind::BlockedIo,
    AlertKind::Orphan,
    AlertKind::ZombieDeadlock,
    AlertKind::StaleStore,
    AlertKind::CrashLoop,
    AlertKind::Oom,
    AlertKind::SlowTeardown,
    AlertKind::AgentStuck,
    AlertKind::Hang,
    AlertKind::Straggler,
    AlertKind::CollectiveMismatch,
    AlertKind::StepDrift,
    AlertKind::GilStuck,
    AlertKind::SlowStart,
    AlertKind::NcclTimeout,
    AlertKind::NanLoss,
    AlertKind::MemoryLeak,
    AlertKind::GpuLeftover,
    AlertKind::Thermal,
    AlertKind::Xid,
    AlertKind::IdleGpu,
    AlertKind::Storage,
];

const RUN_STATES: [RunState; 7] = [
    RunState::Waiting,
    RunState::Local,
    RunState::Sending,
    RunState::Retrying,
    RunState::Finishing,
    RunState::Finished,
    RunState::Refused,
];

/// A process of elastictop itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Own {
    /// `supervisor` or `server`.
    pub process: &'static str,
    /// CPU time of all its threads since it began.
    pub cpu_ns: Option<u64>,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
}

/// All figures of a job as of `now`.
pub fn write(state: &State, own: &[Own], now: Stamp, format: Format) -> String {
    let job = state.job.as_ref();
    let common = [
        ("job", job.map(|job| job.id.0.clone()).unwrap_or_default()),
        ("node", job.map(|job| job.node.clone()).unwrap_or_default()),
    ];
    let mut page = Page::new(format, &common);
    write_job(&mut page, state);
    write_ranks(&mut page, state, now);
    write_gpus(&mut page, state, now);
    write_alerts(&mut page, state);
    write_runs(&mut page, state, now);
    write_own(&mut page, own);
    page.end()
}

fn write_job(page: &mut Page, state: &State) {
    let one = |figure: Option<f64>| [(Labels::new(), figure)];
    if let Some(job) = &state.job {
        let labels = vec![("name", job.name.clone()), ("launcher", word(&job.launcher))];
        page.gauge("job_info", "What the job is; always 1.", [(labels, Some(1.0))]);
    }
    page.gauge("job_state", "1 for the state that the job is in, 0 for the others.", {
        JOB_STATES.map(|known| (vec![("state", word(&known))], Some(yes(state.state == known))))
    });
    let began = state.started_at.map(seconds_of);
    page.gauge("job_start_time_seconds", "When the job began, since 1970.", one(began));
    page.counter(
        "job_restarts",
        "Restarts spent, as the agent counts them.",
        one(Some(state.restarts.into())),
    );
    let most = state.job.as_ref().and_then(|job| job.max_restarts);
    page.gauge("job_max_restarts", "Restarts that may be spent.", one(most.map(f64::from)));
    page.gauge("job_attempt", "Start of the group, from 0.", one(Some(state.attempt().into())));
    page.gauge("job_world_size", "Ranks in the whole job.", one(state.world_size.map(f64::from)));
    page.gauge(
        "job_exit_code",
        "The agent's exit code, once it is known.",
        one(state.exit_code.map(f64::from)),
    );
    page.counter("job_events", "Events in the job's journal.", one(Some(state.seq as f64)));
    let agent = state.agent.as_ref().map(|agent| yes(agent.alive));
    page.gauge("agent_up", "Whether the elastic agent of this node lives.", one(agent));
}

fn write_ranks(page: &mut Page, state: &State, now: Stamp) {
    let ranks = &state.ranks;
    let each = |figure: &dyn Fn(&Rank) -> Option<f64>| {
        ranks.iter().map(|rank| (of_rank(rank), figure(rank))).collect::<Vec<_>>()
    };
    page.gauge(
        "rank_up",
        "Whether the rank's process lives.",
        each(&|rank| Some(yes(rank.state.is_alive()))),
    );
    let states = ranks.iter().flat_map(|rank| {
        RANK_STATES.map(|known| (with(of_rank(rank), "state", word(&known)), Some(yes(rank.state == known))))
    });
    page.gauge("rank_state", "1 for the state that the rank is in, 0 for the others.", states);
    page.gauge("rank_step", "Last step that the rank told of.", each(&|rank| rank.step.map(|n| n as f64)));
    page.gauge(
        "rank_heartbeat_age_seconds",
        "Time since the rank's last heartbeat.",
        each(&|rank| rank.beat_at.filter(|_| rank.state.is_alive()).map(|at| now.since(at).as_secs_f64())),
    );
    page.counter(
        "rank_cpu_seconds",
        "CPU time of the rank's process, all threads.",
        each(&|rank| rank.cpu_at.map(|(_, ns)| ns as f64 / 1e9)),
    );
    let alive = |rank: &Rank| rank.state.is_alive();
    page.gauge(
        "rank_resident_memory_bytes",
        "Resident memory of the rank's process.",
        each(&|rank| rank.rss_bytes.filter(|_| alive(rank)).map(|bytes| bytes as f64)),
    );
    page.gauge(
        "rank_threads",
        "Threads of the rank's process.",
        each(&|rank| rank.threads.filter(|_| alive(rank)).map(f64::from)),
    );
    page.counter("rank_log_lines", "Lines that the rank wrote.", each(&|rank| Some(rank.lines as f64)));
    page.gauge(
        "rank_collective_lag",
        "Collectives by which the rank is behind the first of its group.",
        each(&|rank| {
            let lags = rank.standing.as_ref().filter(|standing| standing.role == Role::Lagging);
            // Before it has told of a group nothing is known.
            let knows = !rank.groups.is_empty() && alive(rank);
            knows.then(|| lags.map_or(0.0, |standing| standing.behind as f64))
        }),
    );
    page.gauge(
        "rank_exit_code",
        "How the rank ended; negative numbers are signals.",
        each(&|rank| rank.exit.map(|exit| exit.to_python().into())),
    );
}

fn write_gpus(page: &mut Page, state: &State, now: Stamp) {
    let Some(gpus) = &state.gpus else { return };
    let age = gpus.at.map(|at| now.since(at).as_secs_f64());
    let help = "Time since the driver told figures; more than some seconds means that it does not answer.";
    page.gauge("gpu_figures_age_seconds", help, [(Labels::new(), age)]);
    let each = |figure: &dyn Fn(&Gpu) -> Option<f64>| {
        gpus.gpus.iter().map(|gpu| (of_gpu(gpu), figure(gpu))).collect::<Vec<_>>()
    };
    let megahertz = |clock: Option<u32>| clock.map(|mhz| f64::from(mhz) * 1e6);
    let watts = |power: Option<u32>| power.map(|milliwatts| f64::from(milliwatts) / 1e3);
    page.gauge("gpu_lost", "Whether the GPU has fallen off the bus or needs a reset.", {
        each(&|gpu| gpus.at.map(|_| yes(gpu.sample.lost)))
    });
    page.gauge("gpu_utilization_ratio", "Share of time in which a kernel ran.", {
        each(&|gpu| gpu.sample.util_pct.map(|percent| f64::from(percent) / 100.0))
    });
    page.gauge("gpu_memory_used_bytes", "Memory in use.", {
        each(&|gpu| gpu.sample.mem_used_bytes.map(|bytes| bytes as f64))
    });
    page.gauge("gpu_memory_total_bytes", "Memory of the GPU.", {
        each(&|gpu| gpu.sample.mem_total_bytes.map(|bytes| bytes as f64))
    });
    page.gauge("gpu_temperature_celsius", "Temperature of the chip.", {
        each(&|gpu| gpu.sample.temp_c.map(f64::from))
    });
    page.gauge("gpu_power_watts", "Power draw of the board.", each(&|gpu| watts(gpu.sample.power_mw)));
    page.gauge("gpu_power_limit_watts", "The power limit that is enforced.", {
        each(&|gpu| watts(gpu.sample.power_limit_mw))
    });
    page.gauge("gpu_sm_clock_hertz", "Clock of the multiprocessors.", {
        each(&|gpu| megahertz(gpu.sample.sm_clock_mhz))
    });
    page.gauge("gpu_memory_clock_hertz", "Clock of the memory.", {
        each(&|gpu| megahertz(gpu.sample.mem_clock_mhz))
    });
    let throttled = gpus.gpus.iter().flat_map(|gpu| {
        words::REASONS.map(|(bit, reason)| {
            let holds = gpu.sample.throttle.map(|bits| yes(bits & bit != 0));
            (with(of_gpu(gpu), "reason", reason.to_owned()), holds)
        })
    });
    page.gauge("gpu_throttled", "1 for each reason why clocks are not higher.", throttled);
    let errors = gpus.gpus.iter().flat_map(|gpu| {
        let kinds = [("corrected", gpu.sample.ecc_corrected), ("uncorrected", gpu.sample.ecc_uncorrected)];
        kinds.map(|(kind, count)| (with(of_gpu(gpu), "kind", kind.to_owned()), count.map(|n| n as f64)))
    });
    page.counter("gpu_ecc_errors", "Memory errors since the driver was loaded.", errors);
    let remapped = gpus.gpus.iter().flat_map(|gpu| {
        let rows = gpu.sample.remapped;
        let kinds = [
            ("correctable", rows.map(|rows| rows.correctable)),
            ("uncorrectable", rows.map(|rows| rows.uncorrectable)),
        ];
        kinds.map(|(kind, count)| (with(of_gpu(gpu), "kind", kind.to_owned()), count.map(f64::from)))
    });
    page.gauge(
        "gpu_remapped_rows",
        "Rows of memory that were replaced, by the errors that led to it.",
        remapped,
    );
    let joined: Vec<_> = state
        .ranks
        .iter()
        .flat_map(|rank| {
            let own = gpus.ranks.iter().filter(|joined| joined.local_rank == rank.local_rank);
            own.flat_map(|joined| &joined.gpus).filter_map(move |index| Some((rank, gpus.get(*index)?)))
        })
        .collect();
    let both = |(rank, gpu): &(&Rank, &Gpu)| [of_rank(rank), of_gpu(gpu)].concat();
    page.gauge("rank_gpu_info", "Which rank has which GPU; always 1.", {
        joined.iter().map(|pair| (both(pair), Some(1.0)))
    });
    page.gauge("rank_gpu_memory_bytes", "Memory of the GPU that the rank's process holds.", {
        joined.iter().map(|pair| (both(pair), pair.1.held_by(pair.0.proc.pid).map(|bytes| bytes as f64)))
    });
}

fn write_alerts(page: &mut Page, state: &State) {
    let count = |kind: AlertKind| state.alerts.iter().filter(|alert| alert.kind == kind).count() as f64;
    let newer = state.alerts.iter().map(|alert| alert.kind).find(|kind| !ALERTS.contains(kind));
    let kinds = ALERTS.into_iter().chain(newer);
    page.gauge("alerts", "Alerts that hold now, by kind.", {
        kinds.map(|kind| (vec![("kind", word(&kind))], Some(count(kind))))
    });
    let mut seen = Vec::new();
    let since = state.alerts.iter().filter_map(|alert| {
        let rank = alert.local_rank.and_then(|local| state.rank(local));
        let number = rank.map(|rank| rank.number().to_string()).unwrap_or_default();
        let labels = vec![("kind", word(&alert.kind)), ("rank", number)];
        // Kinds of a newer elastictop are one kind here.
        let is_new = !seen.contains(&labels);
        seen.push(labels.clone());
        is_new.then(|| (labels, Some(seconds_of(alert.since))))
    });
    let since: Vec<_> = since.collect();
    page.gauge("alert_start_time_seconds", "Since when each alert holds, since 1970.", since);
}

fn write_runs(page: &mut Page, state: &State, now: Stamp) {
    let Some(wandb) = &state.wandb else { return };
    let labels = |id: &str| vec![("run", id.to_owned())];
    let each = |figure: &dyn Fn(&RunProgress) -> Option<f64>| {
        wandb.runs.iter().map(|(id, run)| (labels(id), figure(run))).collect::<Vec<_>>()
    };
    page.counter("wandb_rows_logged", "Rows in the run's files.", each(&|run| Some(run.rows_logged as f64)));
    page.counter("wandb_rows_acked", "Rows that the server has.", each(&|run| Some(run.rows_acked as f64)));
    page.gauge("wandb_rows_backlog", "Rows that wait to be sent.", each(&|run| Some(run.backlog() as f64)));
    page.counter("wandb_rows_lost", "Rows that could not be kept.", {
        each(&|run| Some(run.rows_lost as f64))
    });
    page.gauge("wandb_ack_age_seconds", "Time since the server last took something.", {
        each(&|run| run.last_ack_at.map(|at| now.since(at).as_secs_f64()))
    });
    let states = wandb.runs.iter().flat_map(|(id, run)| {
        RUN_STATES.map(|known| (with(labels(id), "state", word(&known)), Some(yes(run.state == known))))
    });
    page.gauge("wandb_run_state", "1 for the state that the run is in, 0 for the others.", states);
}

fn write_own(page: &mut Page, own: &[Own]) {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    page.gauge("build_info", "The elastictop that answers; always 1.", [(version, Some(1.0))]);
    let labels = |own: &Own| vec![("process", own.process.to_owned())];
    page.counter("process_cpu_seconds", "CPU time of elastictop itself.", {
        own.iter().map(|own| (labels(own), own.cpu_ns.map(|ns| ns as f64 / 1e9)))
    });
    page.gauge("process_resident_memory_bytes", "Resident memory of elastictop itself.", {
        own.iter().map(|own| (labels(own), own.rss_bytes.map(|bytes| bytes as f64)))
    });
}

/// Why a job needs somebody's attention, one reason each; none for a healthy one. A job that is over is healthy unless
/// it failed; alerts that only inform are no reason.
pub fn complaints(state: &State) -> Vec<String> {
    let serious = |kind: AlertKind| {
        !matches!(
            kind,
            AlertKind::SlowStart
                | AlertKind::SlowTeardown
                | AlertKind::Straggler
                | AlertKind::StepDrift
                | AlertKind::Thermal
                | AlertKind::IdleGpu
                | AlertKind::GpuLeftover
                | AlertKind::MemoryLeak
                | AlertKind::StaleStore
                | AlertKind::Unknown
        )
    };
    let own = match state.state {
        JobState::Failed => Some(match &state.cause {
            Some(cause) => format!("the job failed: {}", cause.text),
            None => "the job failed".into(),
        }),
        JobState::ZombieDeadlock => Some("all ranks are dead and the agent does not notice".into()),
        JobState::Orphaned => Some("the agent is dead; ranks live".into()),
        _ => None,
    };
    let alerts = state.alerts.iter().filter(|alert| serious(alert.kind));
    own.into_iter().chain(alerts.map(|alert| format!("{}: {}", word(&alert.kind), alert.text))).collect()
}

fn of_rank(rank: &Rank) -> Labels {
    vec![("rank", rank.number().to_string()), ("local_rank", rank.local_rank.to_string())]
}

fn of_gpu(gpu: &Gpu) -> Labels {
    let uuid = gpu.info.uuid.clone().unwrap_or_default();
    vec![("gpu", gpu.info.index.to_string()), ("uuid", uuid)]
}

fn with(mut labels: Labels, name: &'static str, value: String) -> Labels {
    labels.push((name, value));
    labels
}

/// The word that JSON has for it.
fn word<T: Serialize>(value: &T) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn yes(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn seconds_of(at: Stamp) -> f64 {
    at.0 as f64 / 1e3
}

#[cfg(test)]
mod tests;
