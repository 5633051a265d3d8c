//! The starts of the job's group over all nodes. Each node counts its own: one that joined late has fewer, and torchrun
//! lets chance decide which agents count a restart and which only follow the others into the next rendezvous.

use std::cmp::Reverse;

use super::{
    Member,
    blame::{Blame, blame, with_hang},
    named,
};
use crate::domain::{
    alert::Alert,
    event::Reason,
    rank::JobState,
    state::{Attempt, Hang, MAX_ATTEMPTS},
    time::Stamp,
};

/// How far apart the starts of one group may be seen on its nodes, in milliseconds. A rendezvous lets all ranks go at
/// once; clocks and busy supervisors do the rest.
const TOGETHER_MS: u64 = 10_000;
/// By how much the nodes may differ in when they saw the end of one group begin, in milliseconds.
const SEEN_WITHIN_MS: u64 = 1_000;

/// One start of the job's group, as each of its nodes saw it.
struct Group<'a> {
    parts: Vec<(&'a Member<'a>, &'a Attempt)>,
    world_size: Option<u32>,
    started_at: Stamp,
    /// When the first of its nodes saw it end.
    closed_at: Option<Stamp>,
}

impl<'a> Group<'a> {
    fn of(member: &'a Member<'a>, attempt: &'a Attempt) -> Group<'a> {
        let started_at = member.at(attempt.started_at);
        let mut group = Group { parts: Vec::new(), world_size: None, started_at, closed_at: None };
        group.add(member, attempt);
        group
    }

    fn add(&mut self, member: &'a Member<'a>, attempt: &'a Attempt) {
        let closed = attempt.stopped_at.or(attempt.ended_at).map(|at| member.at(at));
        self.closed_at = [self.closed_at, closed].into_iter().flatten().min();
        self.world_size = self.world_size.or(attempt.world_size);
        self.parts.push((member, attempt));
    }

    /// Whether a node's attempt is a part of it. Who comes later was seen late, unless the group ended about then.
    fn takes(&self, member: &Member, attempt: &Attempt) -> bool {
        let at = member.at(attempt.started_at).0;
        let is_same_world = self.world_size.zip(attempt.world_size).is_none_or(|(one, other)| one == other);
        let is_open = || self.closed_at.is_none_or(|closed| closed.0 > at + TOGETHER_MS);
        is_same_world && (at <= self.started_at.0 + TOGETHER_MS || is_open())
    }

    fn has(&self, member: &Member) -> bool {
        self.parts.iter().any(|(part, _)| std::ptr::eq(*part, member))
    }

    fn says(&self, reason: Reason) -> bool {
        self.parts.iter().any(|(_, attempt)| attempt.reason == reason)
    }

    /// Whether a node of the group before is not of this one. The world says so before the node does.
    fn lacks_one_of(&self, former: &Group) -> bool {
        let shrank = former.world_size.zip(self.world_size).is_some_and(|(before, now)| now < before);
        shrank || former.parts.iter().any(|(member, _)| member.is_over() && !self.has(member))
    }

    /// Whether a node is of this one that was not of the group before.
    fn has_more_than(&self, former: &Group) -> bool {
        let grew = former.world_size.zip(self.world_size).is_some_and(|(before, now)| now > before);
        grew || self.parts.iter().any(|(member, _)| !former.has(member))
    }

    /// Whether it ended so that a newcomer could be taken in: an agent ended its ranks for that, none of which failed, and
    /// no other node saw the end before that. Ranks of the agents that hear of it later may lose their peers meanwhile.
    fn ended_for_a_newcomer(&self, next: Option<&Group>) -> bool {
        let Some(next) = next.filter(|next| next.has_more_than(self)) else { return false };
        let follows = |member: &Member| {
            let mut then = next.parts.iter().filter(|(other, _)| std::ptr::eq(*other, member));
            then.any(|(_, attempt)| attempt.reason == Reason::Membership)
        };
        self.parts.iter().any(|(member, attempt)| follows(member) && self.was_first_to_end(member, attempt))
    }

    /// Whether a node told of no failure, and no other saw the end before it.
    fn was_first_to_end(&self, member: &Member, attempt: &Attempt) -> bool {
        let stopped = attempt.stopped_at.or(attempt.ended_at).map(|at| member.at(at));
        let is_first = |at: Stamp| self.closed_at.is_none_or(|closed| at.0 <= closed.0 + SEEN_WITHIN_MS);
        attempt.cause.is_none() && stopped.is_some_and(is_first)
    }

    /// Whether somebody restarted a node that told of no failure, and no other node saw the end before that: what others
    /// tell follows from it.
    fn was_ended_by_hand(&self, next: Option<&Group>) -> bool {
        let is_anew = |member: &Member| {
            let then = next.into_iter().flat_map(|next| &next.parts);
            let mut then = then.filter(|(other, _)| std::ptr::eq(*other, member));
            then.any(|(_, attempt)| matches!(attempt.reason, Reason::Manual | Reason::Stall))
        };
        // Its agent may wait for the others for half a minute.
        let is_about_to = |member: &Member, attempt: &Attempt| {
            let is_last = member.state.attempts.back().is_some_and(|last| last.n == attempt.n);
            is_last && member.state.state == JobState::Restarting
        };
        self.parts.iter().any(|(member, attempt)| {
            (is_anew(member) || is_about_to(member, attempt)) && self.was_first_to_end(member, attempt)
        })
    }

    /// Why it was started. What one agent counts as a failure is to the next a change of the membership, and so is what
    /// ranks die of whose peers left: what ended the group before tells.
    fn reason(&self, former: &Group, blame: Option<&Blame>) -> Reason {
        let failed = blame.is_some_and(|blame| blame.is_failure);
        let changed = self.lacks_one_of(former) || former.ended_for_a_newcomer(Some(self));
        let failed = failed || self.says(Reason::Failure) && !changed;
        match () {
            () if self.says(Reason::Manual) => Reason::Manual,
            () if self.says(Reason::Stall) => Reason::Stall,
            () if failed => Reason::Failure,
            () if self.parts.iter().all(|(_, attempt)| attempt.reason == Reason::Unknown) => Reason::Unknown,
            () => Reason::Membership,
        }
    }

    /// What kept it from moving on: one that names a rank rather than one that waits for another node.
    fn hang(&self) -> Option<Box<Hang>> {
        let told =
            self.parts.iter().filter_map(|(member, attempt)| Some((*member, attempt.hang.as_deref()?)));
        let (member, Hang { alert, over_at }) = told.min_by_key(|(_, hang)| {
            (hang.over_at.is_some(), hang.alert.local_rank.is_none(), hang.alert.since)
        })?;
        let text = named(self.parts.len() > 1, member.host, &alert.text);
        let alert = Alert { since: member.at(alert.since), text, ..alert.clone() };
        Some(Box::new(Hang { alert, over_at: over_at.map(|at| member.at(at)) }))
    }

    /// What all nodes tell of it together.
    fn join(&self, n: u32, reason: Reason, end: Option<Stamp>, blame: Option<Blame>) -> Attempt {
        let each = || self.parts.iter().map(|(member, attempt)| (*member, *attempt));
        let last = each()
            .filter_map(|(member, attempt)| {
                Some((attempt.last_step?, Reverse(attempt.last_step_at.map(|at| member.at(at)))))
            })
            .max();
        let first =
            each().filter_map(|(member, attempt)| attempt.first_step.map(|(step, at)| (member.at(at), step)));
        let ended: Option<Vec<Stamp>> =
            each().map(|(member, attempt)| Some(member.at(attempt.ended_at?))).collect();
        Attempt {
            n,
            reason,
            started_at: self.started_at,
            ended_at: end.or_else(|| ended?.into_iter().max()),
            world_size: self.world_size,
            restarts: each().map(|(_, attempt)| attempt.restarts).max().unwrap_or(0),
            cause: blame.map(|blame| blame.cause),
            last_step: last.map(|(step, _)| step),
            last_step_at: last.and_then(|(_, Reverse(at))| at),
            first_step: first.min().map(|(at, step)| (step, at)),
            stopped_at: each().filter_map(|(member, attempt)| Some(member.at(attempt.stopped_at?))).min(),
            hang: self.hang(),
        }
    }
}

/// The attempts of the job, oldest first. Their numbers follow each other, and none is below that of a node.
pub(super) fn attempts(known: &[&Member]) -> Vec<Attempt> {
    let groups = groups(known);
    let ahead = |(at, group): (usize, &Group)| {
        let highest = group.parts.iter().map(|(_, attempt)| attempt.n).max().unwrap_or(0);
        highest.saturating_sub(at as u32)
    };
    let first = groups.iter().enumerate().map(ahead).max().unwrap_or(0);
    let mut attempts: Vec<Attempt> = Vec::with_capacity(groups.len());
    let mut before: Option<(&Group, Option<Blame>)> = None;
    for (at, group) in groups.iter().enumerate() {
        let next = groups.get(at + 1);
        let stayed = |member: &Member| next.is_some_and(|next| next.has(member));
        let (by_hand, grew) = (group.was_ended_by_hand(next), group.ended_for_a_newcomer(next));
        let own = blame(&group.parts, known, next.is_some(), stayed)
            .filter(|blame| !(by_hand && blame.is_consequence() || grew && blame.is_lost_peer()));
        let own = own.map(|Blame { cause, is_failure }| {
            let cause = with_hang(cause, group.parts.iter().copied(), known.len() > 1);
            Blame { cause, is_failure }
        });
        let reason = match &before {
            Some((former, blame)) => group.reason(former, blame.as_ref()),
            None => group
                .parts
                .iter()
                .map(|(_, attempt)| attempt.reason)
                .min_by_key(|reason| rarity(*reason))
                .unwrap_or(Reason::First),
        };
        let end = next.map(|next| next.started_at);
        attempts.push(group.join(first + at as u32, reason, end, own.clone()));
        before = Some((group, own));
    }
    let too_many = attempts.len().saturating_sub(MAX_ATTEMPTS);
    attempts.split_off(too_many)
}

/// Of the oldest attempts that nodes remember: which reason tells most.
fn rarity(reason: Reason) -> u8 {
    match reason {
        Reason::Manual => 0,
        Reason::Stall => 1,
        Reason::Failure => 2,
        Reason::Membership => 3,
        Reason::First => 4,
        Reason::Unknown => 5,
    }
}

/// Which attempts of the nodes are one start of the group.
fn groups<'a>(known: &[&'a Member<'a>]) -> Vec<Group<'a>> {
    let each = |(number, member): (usize, &&'a Member<'a>)| {
        let member = *member;
        member.state.attempts.iter().map(move |attempt| (number, member, attempt))
    };
    let mut all: Vec<_> = known.iter().enumerate().flat_map(each).collect();
    all.sort_by_key(|(_, member, attempt)| (member.at(attempt.started_at), member.host, attempt.n));
    let mut groups: Vec<Group> = Vec::new();
    // The first group that a node's next attempt may be of.
    let mut next = vec![0; known.len()];
    for (number, member, attempt) in all {
        let found = (next[number]..groups.len()).find(|at| groups[*at].takes(member, attempt));
        match found {
            Some(at) => groups[at].add(member, attempt),
            None => groups.push(Group::of(member, attempt)),
        }
        next[number] = found.unwrap_or(groups.len() - 1) + 1;
    }
    groups
}
