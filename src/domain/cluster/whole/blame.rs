//! Why a group failed, over all nodes: who was first, and who only lost a peer.

use super::{Member, named};
use crate::domain::{
    alert::Alert,
    cause::{Cause, CauseKind},
    rank::JobState,
    state::{Attempt, Rank},
    time::Stamp,
};

/// Why a group ended.
#[derive(Clone, Debug)]
pub(super) struct Blame {
    pub(super) cause: Cause,
    /// Whether something failed; else a node left, or somebody asked.
    pub(super) is_failure: bool,
}

impl Blame {
    /// Whether all that is known is that somebody lost the connection to somebody.
    pub(super) fn is_lost_peer(&self) -> bool {
        doubt(&self.cause) == LOST_PEER
    }

    /// Whether something else is likely behind it, on another node.
    pub(super) fn is_consequence(&self) -> bool {
        doubt(&self.cause) >= MAYBE
    }
}

/// With what another node knows: one whose ranks all waited for a rank elsewhere cannot name it.
pub(super) fn with_hang<'a>(
    cause: Cause,
    parts: impl Iterator<Item = (&'a Member<'a>, &'a Attempt)>,
    several: bool,
) -> Cause {
    let mut known = parts.filter_map(|(member, attempt)| Some((member, attempt.ended_in()?)));
    let Some((member, hang)) = known
        .find(|(_, hang)| hang.local_rank.is_some())
        .filter(|(_, hang)| cause.kind == CauseKind::CollectiveTimeout && !cause.text.contains(&hang.text))
    else {
        return cause;
    };
    let rank = hang.local_rank.and_then(|local| member.state.rank(local)).map(Rank::number);
    cause.of_hang(&Alert { text: named(several, member.host, &hang.text), ..hang.clone() }, rank, true)
}

/// What one node says of an end, and when that was by the reader's clock.
type Told<'a> = (&'a Member<'a>, &'a Cause, Stamp);

/// Why a group ended, `has_next` if another followed; `stayed` are the nodes of that one. Where all that is told is a lost
/// peer, or nothing, it is the node that went away then, whatever became of it.
pub(super) fn blame(
    parts: &[(&Member, &Attempt)],
    known: &[&Member],
    has_next: bool,
    stayed: impl Fn(&Member) -> bool,
) -> Option<Blame> {
    let when = |member: &Member, attempt: &Attempt| {
        let at = attempt.stopped_at.or(attempt.ended_at);
        at.map_or(Stamp(u64::MAX), |at| member.at(at))
    };
    let told = parts
        .iter()
        .filter_map(|(member, attempt)| Some((*member, attempt.cause.as_ref()?, when(member, attempt))));
    if let Some(first) = first(told) {
        return Some(explained(
            first,
            known.iter().copied().filter(|member| !stayed(member)),
            known.len() > 1,
        ));
    }
    let at = parts.iter().map(|(member, attempt)| when(member, attempt)).min()?;
    let leavers = parts.iter().map(|(member, _)| *member).filter(|member| has_next && !stayed(member));
    who_left(leavers, at).map(|gone| left(gone, None))
}

/// Why the job ended, of those whose end it was.
pub(super) fn of_the_end(telling: &[&Member], known: &[&Member]) -> Option<Cause> {
    let told = telling.iter().filter_map(|member| {
        let cause = member.state.cause.as_ref()?;
        let failed = member.state.attempts.iter().rev().find(|attempt| attempt.cause.is_some());
        let at = failed.and_then(|attempt| attempt.stopped_at.or(attempt.ended_at));
        Some((*member, cause, at.map_or(Stamp(u64::MAX), |at| member.at(at))))
    });
    first(told).map(|first| explained(first, known.iter().copied(), known.len() > 1).cause)
}

/// One that is no consequence of another node's failure, as early as any.
fn first<'a>(told: impl Iterator<Item = Told<'a>>) -> Option<Told<'a>> {
    told.min_by_key(|(member, cause, at)| (doubt(cause), *at, member.host))
}

/// With the node that is behind it, if it is one of `leavers`.
fn explained<'a>(
    (member, cause, at): Told,
    leavers: impl Iterator<Item = &'a Member<'a>>,
    several: bool,
) -> Blame {
    if doubt(cause) == LOST_PEER
        && let Some(gone) = who_left(leavers, at)
    {
        return left(gone, Some((member, cause)));
    }
    let text = named(several, member.host, &cause.text);
    Blame { cause: Cause { text, ..cause.clone() }, is_failure: is_failure(cause) }
}

/// Whether a node that says so had a failure of its own.
fn is_failure(cause: &Cause) -> bool {
    doubt(cause) < LOST_PEER && cause.kind != CauseKind::Stopped
}

/// The node whose part of the job ended when others failed, and did not end for the same reason.
fn who_left<'a>(known: impl Iterator<Item = &'a Member<'a>>, at: Stamp) -> Option<&'a Member<'a>> {
    let is_victim = |member: &Member| {
        member.state.state != JobState::Stopped
            && member.state.cause.as_ref().is_some_and(|cause| doubt(cause) == LOST_PEER)
    };
    let near = known.filter(|member| member.is_over() && !is_victim(member)).filter_map(|member| {
        let ended = member.at(member.state.ended_at?);
        // Its agent ends some time after its ranks are gone.
        (ended.0.abs_diff(at.0) <= LEFT_WITHIN_MS).then_some((ended, member))
    });
    near.min_by_key(|(ended, member)| (*ended, member.host)).map(|(_, member)| member)
}

/// What to say of an end whose cause is a node that left, and who lost the connection to it, if any did.
fn left(gone: &Member, victim: Option<(&Member, &Cause)>) -> Blame {
    let seen = victim.map(|(victim, lost)| format!("{}: {}", victim.host, lost.text));
    if let Some(own) = gone.state.cause.as_ref().filter(|own| doubt(own) < LOST_PEER) {
        let evidence = own.evidence.iter().cloned().chain(seen).collect();
        let cause = Cause { text: named(true, gone.host, &own.text), evidence, ..own.clone() };
        return Blame { is_failure: is_failure(own), cause };
    }
    let (kind, how) = match gone.state.state {
        JobState::Stopped => (CauseKind::Stopped, "was stopped there"),
        JobState::Done => (CauseKind::LeftEarly, "was done there"),
        _ => (CauseKind::Unknown, "failed there"),
    };
    let rank = gone.state.ranks.iter().filter_map(|rank| rank.place.rank).min();
    let others = seen.as_ref().map_or("", |_| ", and others lost the connection to it");
    let cause = Cause {
        rank: rank.filter(|_| gone.state.ranks.len() == 1),
        kind,
        text: format!("{}: the node left: the job {how}{others}", gone.host),
        evidence: seen.into_iter().collect(),
        hint: None,
    };
    Blame { cause, is_failure: kind == CauseKind::Unknown }
}

/// [`doubt`] of what others' ends bring about as well.
const MAYBE: u8 = 2;
/// [`doubt`] of a lost connection to a peer.
const LOST_PEER: u8 = 3;
/// How far apart the end of a node and the failure of its peers may be, in milliseconds.
const LEFT_WITHIN_MS: u64 = 60_000;

/// How likely something else is behind it, on another node.
fn doubt(cause: &Cause) -> u8 {
    match cause.kind {
        // So a lost connection to a peer is told where nothing failed before it.
        CauseKind::Unknown => LOST_PEER,
        CauseKind::CollectiveTimeout | CauseKind::Rendezvous | CauseKind::Agent => MAYBE,
        CauseKind::Stopped => 1,
        _ => 0,
    }
}
