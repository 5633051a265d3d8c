//! All nodes as one job: a state in which everything that belongs to the whole job is told once.
//!
//! Times are those of the reader's clock. Ranks and GPUs stay with their nodes: their positions mean nothing elsewhere.

mod attempts;
mod blame;

use std::{cmp::Reverse, collections::BTreeMap};

use super::clock::shift;
use crate::domain::{
    alert::Alert,
    cause::Cause,
    forward::{RunProgress, RunState, Wandb},
    rank::JobState,
    state::{Attempt, State},
    time::Stamp,
};

/// What is known of one node.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The host's name, as alerts are to name it.
    pub host: &'a str,
    /// What its supervisor told.
    pub state: &'a State,
    /// How far its clock is ahead of the reader's, in milliseconds.
    pub ahead_ms: i64,
}

impl Member<'_> {
    fn at(&self, at: Stamp) -> Stamp {
        shift(at, self.ahead_ms)
    }

    /// Whether the node's part of the job is over.
    fn is_over(&self) -> bool {
        self.state.state.is_over()
    }

    /// The lowest global rank: torchrun counts through a node's positions.
    fn first_rank(&self) -> u32 {
        self.state.ranks.iter().find_map(|rank| rank.place.rank).unwrap_or(u32::MAX)
    }
}

/// The job. Members that have told nothing yet do not count.
///
/// The node that leads is that of the lowest rank: it was there from the start, or as long as any. A node that left an
/// elastic job is over while others go on; the job is over when all of them are.
pub fn whole(members: &[Member]) -> State {
    let known: Vec<&Member> = members.iter().filter(|member| member.state.job.is_some()).collect();
    let running: Vec<&Member> = known.iter().copied().filter(|member| !member.is_over()).collect();
    // Among those that are over only those that ended last: others may have left long before.
    let telling = if running.is_empty() { last_to_end(&known) } else { running };
    let Some(lead) = telling.iter().min_by_key(|member| (member.first_rank(), member.host)).copied() else {
        return State::default();
    };
    let gravest = telling.iter().copied().min_by_key(|member| order_of_gravity(member)).unwrap_or(lead);
    let over = gravest.is_over();
    let restarts = telling.iter().map(|member| member.state.restarts).max().unwrap_or(0);
    let mut attempts = attempts::attempts(&known);
    if let Some(last) = attempts.last_mut() {
        // Some nodes may have left since, others have not told of it yet.
        last.restarts = restarts;
    }
    State {
        job: lead.state.job.clone(),
        state: gravest.state.state,
        state_since: gravest.at(gravest.state.state_since),
        deadline: telling.iter().filter_map(|member| member.state.deadline.map(|at| member.at(at))).min(),
        started_at: known.iter().filter_map(|member| member.state.started_at.map(|at| member.at(at))).min(),
        ended_at: telling
            .iter()
            .filter(|_| over)
            .filter_map(|member| member.state.ended_at.map(|at| member.at(at)))
            .max(),
        exit_code: gravest.state.exit_code.filter(|_| over),
        cause: cause(&telling, &known, &attempts),
        agent: lead.state.agent.clone(),
        restarts,
        world_size: telling.iter().filter_map(|member| member.state.world_size).max(),
        attempts: attempts.into(),
        wandb: wandb(&known, lead),
        alerts: alerts(&known),
        seq: known.iter().map(|member| member.state.seq).max().unwrap_or(0),
        at: known.iter().map(|member| member.at(member.state.at)).max().unwrap_or_default(),
        ..State::default()
    }
}

/// The nodes of the last group: they end within seconds of each other, and no group began after that.
fn last_to_end<'a>(known: &[&'a Member<'a>]) -> Vec<&'a Member<'a>> {
    const TOGETHER_MS: u64 = 60_000;
    let ended = |member: &Member| member.state.ended_at.map_or(u64::MAX, |at| member.at(at).0);
    let began = |member: &Member| member.state.attempts.back().map(|attempt| member.at(attempt.started_at).0);
    let last = known.iter().map(|member| ended(member)).max().unwrap_or(0);
    let anew = known.iter().filter_map(|member| began(member)).max().unwrap_or(0);
    let counts = |at: u64| at.saturating_add(TOGETHER_MS) >= last && at >= anew;
    known.iter().copied().filter(|member| counts(ended(member))).collect()
}

/// The gravest first; of several that are as grave, the first that came to that.
fn order_of_gravity<'a>(member: &Member<'a>) -> (Reverse<u8>, Stamp, &'a str) {
    (Reverse(gravity(member.state.state)), member.at(member.state.state_since), member.host)
}

fn gravity(state: JobState) -> u8 {
    match state {
        JobState::Unknown | JobState::Done => 0,
        JobState::Running | JobState::Stopped => 1,
        JobState::Starting => 2,
        JobState::MembershipChange => 3,
        JobState::Restarting => 4,
        JobState::TearingDown => 5,
        JobState::Orphaned => 6,
        JobState::ZombieDeadlock => 7,
        JobState::Failed => 8,
    }
}

/// Why the last attempt that failed did, or the job.
fn cause(telling: &[&Member], known: &[&Member], attempts: &[Attempt]) -> Option<Cause> {
    if telling.iter().any(|member| !member.is_over()) {
        return attempts.iter().rev().find_map(|attempt| attempt.cause.clone());
    }
    let last = telling.iter().filter_map(|member| Some((*member, member.state.attempts.back()?)));
    blame::of_the_end(telling, known).map(|cause| blame::with_hang(cause, last, known.len() > 1))
}

fn named(several: bool, host: &str, text: &str) -> String {
    if several { format!("{host}: {text}") } else { text.to_owned() }
}

/// What is wrong on any node. Where one node names the rank, others that only wait for `a rank of another node` need
/// not say so.
fn alerts(members: &[&Member]) -> Vec<Alert> {
    let several = members.len() > 1;
    let all =
        || members.iter().flat_map(|member| member.state.alerts.iter().map(move |alert| (member, alert)));
    let named_elsewhere =
        |alert: &Alert| all().any(|(_, other)| other.kind == alert.kind && other.local_rank.is_some());
    let mut alerts: Vec<Alert> = all()
        .filter(|(_, alert)| alert.local_rank.is_some() || !named_elsewhere(alert))
        .map(|(member, alert)| Alert {
            since: member.at(alert.since),
            text: named(several, member.host, &alert.text),
            acts_at: alert.acts_at.map(|at| member.at(at)),
            ..alert.clone()
        })
        .collect();
    alerts.sort_by_key(|alert| (Reverse(alert.local_rank.is_some()), alert.since));
    alerts
}

/// The plan is the same on all nodes; each tells how far its own part of the runs has come.
fn wandb(members: &[&Member], lead: &Member) -> Option<Wandb> {
    let first = lead.state.wandb.as_ref()?;
    let mut runs: BTreeMap<String, RunProgress> = BTreeMap::new();
    let mut ranks = Vec::new();
    for member in members {
        let Some(told) = &member.state.wandb else { continue };
        ranks.extend(told.ranks.iter().cloned());
        for (id, progress) in &told.runs {
            let progress = RunProgress {
                last_ack_at: progress.last_ack_at.map(|at| member.at(at)),
                retry_at: progress.retry_at.map(|at| member.at(at)),
                last_error: progress
                    .last_error
                    .as_ref()
                    .map(|text| named(members.len() > 1, member.host, text)),
                ..progress.clone()
            };
            match runs.get_mut(id) {
                Some(known) => join(known, progress),
                None => drop(runs.insert(id.clone(), progress)),
            }
        }
    }
    ranks.sort_by_key(|rank| rank.rank);
    Some(Wandb { settings: first.settings.clone(), pending: first.pending, runs, ranks })
}

/// A run to which several nodes write.
fn join(known: &mut RunProgress, more: RunProgress) {
    if trouble(more.state) > trouble(known.state) {
        (known.state, known.file) = (more.state, more.file);
    }
    known.rows_logged += more.rows_logged;
    known.rows_acked += more.rows_acked;
    known.rows_lost += more.rows_lost;
    known.last_ack_at = known.last_ack_at.max(more.last_ack_at);
    known.retry_at = [known.retry_at, more.retry_at].into_iter().flatten().min();
    known.last_error = known.last_error.take().or(more.last_error);
    known.link = known.link.take().or(more.link);
    known.not_forwarded.extend(more.not_forwarded);
}

fn trouble(state: RunState) -> u8 {
    match state {
        RunState::Unknown | RunState::Waiting => 0,
        RunState::Finished => 1,
        RunState::Finishing => 2,
        RunState::Local => 3,
        RunState::Sending => 4,
        RunState::Retrying => 5,
        RunState::Refused => 6,
    }
}

#[cfg(test)]
mod tests;
