//! Facts as sentences: one wording for the screen, `--plain` and the summary at the end.

use super::{
    alert::AlertKind,
    command::{Command, Outcome},
    drill::Fault,
    event::{Event, Fact, Launcher, Reason},
    exit::signal_name,
    forward::{Mode, Settings},
    gpu::words::{is_alarming, xid},
    rank::JobState,
    resolve::{RankScope, RunMode},
    state::State,
};

/// One event as a sentence; `None` for what is no line of its own. `state` is the state after the event.
pub fn event(state: &State, event: &Event) -> Option<String> {
    Some(match &event.fact {
        Fact::JobStarted { job } => format!("job {} on {}, {}", job.id, job.node, launcher(job.launcher)),
        Fact::AgentStarted { proc } => format!("agent started, pid {proc}"),
        Fact::RankStarted { proc, local_rank, attempt, place, .. } => {
            format!("{} started, pid {proc}, attempt {attempt}", rank_tag(place.rank, *local_rank))
        }
        Fact::RankExited { local_rank, proc, rank, exit } => {
            let tag = rank_tag(*rank, *local_rank);
            match exit {
                None => format!("{tag} is gone, pid {proc}; nobody saw how it ended"),
                Some(exit) if exit.is_success() => format!("{tag} ended with exit code 0"),
                Some(exit) => format!("{tag} ended: {exit}, pid {proc}"),
            }
        }
        Fact::RankExitKnown { local_rank, pid, exit } => {
            // Its number may be another rank's by now.
            let ended = |event: &Event| match &event.fact {
                Fact::RankExited { proc, rank, .. } if proc.pid == *pid => Some(rank_tag(*rank, *local_rank)),
                _ => None,
            };
            let tag = state.recent.iter().rev().find_map(ended);
            format!("{} had ended: {exit}, pid {pid}", tag.unwrap_or_else(|| tag_of(state, *local_rank)))
        }
        Fact::GroupStarted { world_size, .. } => format!("group started{}", with_ranks(*world_size)),
        Fact::Restart { attempt, restarts, reason, cause, world_size } => {
            let asked = match reason {
                Reason::Manual => " by hand",
                Reason::Stall => " because the job stood still",
                _ => "",
            };
            let spent = spent(*restarts, state.job.as_ref().and_then(|job| job.max_restarts));
            // The cause has a line of its own, unless it became known with the restart.
            let is_it = |event: &Event| matches!(&event.fact, Fact::CauseFound { attempt: of, .. } if of + 1 == *attempt);
            let cause = cause.as_ref().filter(|_| !state.recent.iter().any(is_it));
            let cause = cause.map(|cause| format!(": {}", cause.text)).unwrap_or_default();
            format!("attempt {attempt} begins{asked}{}, restarts {spent}{cause}", with_ranks(*world_size))
        }
        Fact::MembershipChanged { attempt, from, world_size } => {
            let from = from.map_or("?".into(), |n| n.to_string());
            let to = world_size.map_or("? ranks".into(), |n| count(n as usize, "rank"));
            format!("attempt {attempt} begins: membership changed, {from} to {to}")
        }
        Fact::CauseFound { attempt, cause } => format!("attempt {attempt} failed: {}", cause.text),
        Fact::JobState { state, .. } => format!("job is {}", job_state(*state)),
        Fact::AlertRaised { alert } => alert.text.clone(),
        Fact::AlertCleared { alert_kind, local_rank } => {
            let whose = local_rank.map(|local| format!(" ({})", tag_of(state, local))).unwrap_or_default();
            format!("over: {}{whose}", alert_word(*alert_kind))
        }
        // The alert tells.
        Fact::GpuXid { seen } if is_alarming(seen.xid) => return None,
        Fact::GpuXid { seen } => {
            let gpu = seen.gpu.map_or("a GPU".into(), |gpu| format!("GPU {gpu}"));
            let meaning = xid(seen.xid).map(|words| format!(": {words}")).unwrap_or_default();
            format!("Xid {} on {gpu}{meaning}", seen.xid)
        }
        Fact::Adopted { text, .. } | Fact::Note { text } => text.clone(),
        Fact::Command { command: asked, by, outcome } => match outcome {
            Outcome::Done(text) => format!("{} by {by}: {text}", command(asked)),
            Outcome::Refused(text) => format!("{} by {by} refused: {text}", command(asked)),
        },
        Fact::AgentExited { exit } => match exit {
            None => "agent is gone; nobody saw how it ended".into(),
            Some(exit) if exit.is_success() => "agent ended with exit code 0".into(),
            Some(exit) => format!("agent ended: {exit}"),
        },
        Fact::JobEnded { state, exit_code, cause } => {
            let code = exit_code.map_or("exit code unknown".into(), |code| format!("exit code {code}"));
            let cause = cause.as_ref().map(|cause| format!(": {}", cause.text)).unwrap_or_default();
            format!("job {}, {code}{cause}", job_state(*state))
        }
        Fact::WandbPlanned { settings, pending } => wandb_planned(settings, *pending)?,
        Fact::Ordered { .. }
        | Fact::RankPlaced { .. }
        | Fact::RankGuarded { .. }
        | Fact::RankState { .. }
        | Fact::Deadline { .. }
        | Fact::Progress { .. }
        | Fact::Sample { .. }
        | Fact::Gpus { .. }
        | Fact::GpuRanks { .. }
        | Fact::GpuLeftovers { .. }
        | Fact::GpuProgress { .. }
        | Fact::GpuSample { .. }
        | Fact::WandbProgress { .. }
        | Fact::WandbSample { .. }
        | Fact::Snapshot { .. }
        | Fact::Unknown => return None,
    })
}

fn wandb_planned(settings: &Settings, pending: Option<(RunMode, RankScope)>) -> Option<String> {
    if settings.mode == Mode::Disabled {
        return settings.why_not_online.clone();
    }
    let combination = |mode: RunMode, scope: RankScope| match settings.plan_with(mode, scope) {
        Ok(plan) => format!("{mode}/{scope}, {}", plan.counts()),
        Err(error) => format!("{mode}/{scope}: {}", error.text),
    };
    Some(match (pending, &settings.why_not_online) {
        (Some((mode, scope)), _) => format!("W&B from the next restart on: {}", combination(mode, scope)),
        (None, why) => {
            let now = combination(settings.facts.run_mode, settings.facts.rank_scope);
            let why = why.as_ref().map(|why| format!("; {}: {why}", settings.mode)).unwrap_or_default();
            format!("W&B: {now}{why}")
        }
    })
}

/// A job's state in one or two words.
pub fn job_state(state: JobState) -> &'static str {
    match state {
        JobState::Starting => "starting",
        JobState::Running => "running",
        JobState::Restarting => "restarting",
        JobState::MembershipChange => "membership change",
        JobState::TearingDown => "tearing down",
        JobState::ZombieDeadlock => "zombie deadlock",
        JobState::Orphaned => "orphaned",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Stopped => "stopped",
        JobState::Unknown => "unknown",
    }
}

/// What started the ranks.
pub fn launcher(launcher: Launcher) -> &'static str {
    match launcher {
        Launcher::Torchrun => "torchrun",
        Launcher::Local => "local",
        Launcher::Foreign => "not started by elastictop",
    }
}

/// `r3` where the global rank is known, `L3` where only the position on the node is.
pub fn rank_tag(rank: Option<u32>, local_rank: u32) -> String {
    match rank {
        Some(rank) => format!("r{rank}"),
        None => format!("L{local_rank}"),
    }
}

/// The tag of the rank at this position.
pub fn tag_of(state: &State, local_rank: u32) -> String {
    rank_tag(state.rank(local_rank).and_then(|rank| rank.place.rank), local_rank)
}

fn with_ranks(world_size: Option<u32>) -> String {
    world_size.map(|ranks| format!(" with {}", count(ranks as usize, "rank"))).unwrap_or_default()
}

/// `1 rank`, `2 ranks`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `SIGKILL`, or the number of a signal that has no name.
pub fn signal_word(signal: i32) -> String {
    signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// A command in one or two words.
pub fn command(command: &Command) -> String {
    match command {
        Command::Stop { now: false } => "stop".into(),
        Command::Stop { now: true } => "stop now".into(),
        Command::Restart { .. } => "restart".into(),
        Command::Signal { rank, signal } => {
            let whom = rank.map_or("all ranks".into(), |rank| format!("r{rank}"));
            format!("{} to {whom}", signal_word(*signal))
        }
        Command::Drill { rank, fault, seconds } => format!("drill {fault} on r{rank} for {seconds} s"),
        Command::KeepZombies => "keep zombies".into(),
        Command::Stacks { rank: None, .. } => "stacks".into(),
        Command::Stacks { rank: Some(rank), .. } => format!("stacks of r{rank}"),
        Command::SetWandb { run_mode, rank_scope } => {
            let mode = run_mode.map(|mode| format!("run_mode={mode}"));
            let scope = rank_scope.map(|scope| format!("rank_scope={scope}"));
            format!("set {}", mode.into_iter().chain(scope).collect::<Vec<_>>().join(" "))
        }
        Command::EndLeftover { proc } => format!("end leftover {proc}"),
        Command::Unknown => "unknown command".into(),
    }
}

/// What a drill will do to a rank.
pub fn drill(fault: Fault, rank: u32) -> String {
    let what = match fault {
        Fault::Hang => "will sleep",
        Fault::Busy => "will spin",
        Fault::Gil => "will hold Python's lock in C code",
        Fault::Read => "will read from a pipe that gives nothing",
        Fault::Oom => "will raise MemoryError",
        Fault::Stop => "will be stopped by SIGSTOP",
        Fault::Kill => "will be ended by SIGKILL",
        Fault::Zombie | Fault::Unknown => "will end with all others",
    };
    format!("rank {rank} {what}")
}

/// An alert's kind in words.
pub fn alert_word(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::Stopped => "rank stopped",
        AlertKind::BlockedIo => "rank blocked in the kernel",
        AlertKind::Orphan => "orphaned ranks",
        AlertKind::ZombieDeadlock => "zombie deadlock",
        AlertKind::StaleStore => "stale store",
        AlertKind::CrashLoop => "crash loop",
        AlertKind::Oom => "out of memory",
        AlertKind::SlowTeardown => "slow teardown",
        AlertKind::AgentStuck => "agent stuck",
        AlertKind::Hang => "hang",
        AlertKind::Straggler => "straggler",
        AlertKind::CollectiveMismatch => "collective mismatch",
        AlertKind::StepDrift => "step drift",
        AlertKind::GilStuck => "Python lock held",
        AlertKind::SlowStart => "slow start",
        AlertKind::NcclTimeout => "NCCL timeout",
        AlertKind::NanLoss => "loss is not a number",
        AlertKind::MemoryLeak => "memory leak",
        AlertKind::GpuLeftover => "GPU memory of another job",
        AlertKind::Thermal => "GPU throttled",
        AlertKind::Xid => "GPU error",
        AlertKind::IdleGpu => "idle GPU",
        AlertKind::Storage => "storage trouble",
        AlertKind::Unknown => "alert",
    }
}

/// `1/3` restarts, or `1` when the budget is not known.
pub fn spent(restarts: u32, max_restarts: Option<u32>) -> String {
    match max_restarts {
        Some(max) => format!("{restarts}/{max}"),
        None => restarts.to_string(),
    }
}
