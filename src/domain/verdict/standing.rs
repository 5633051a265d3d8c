//! How the ranks of a process group stand to each other: who waits in a collective, and for whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::member::Member;
use crate::domain::{beat::GroupStatus, time::Stamp};

/// How one rank stands to the others of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It has joined a collective that has not ended.
    Waiting,
    /// It has not joined a collective that others have joined.
    Lagging,
    /// A role that a newer elastictop wrote.
    #[serde(other)]
    Unknown,
}

/// A rank that waits in a collective, or that others wait for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Waiting or lagging.
    pub role: Role,
    /// Name of the group, for people.
    pub group: String,
    /// Sequence number of the collective.
    pub seq: u64,
    /// Its name, `all_reduce`, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// Since when.
    pub since: Stamp,
    /// Collectives by which it is behind the first of its group; 0 for one that waits.
    #[serde(default)]
    pub behind: u64,
    /// The time limit of the collective in milliseconds, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl Standing {
    /// `all_reduce #21 of group default`.
    pub fn collective(&self) -> String {
        collective(self.op.as_deref(), self.seq, &self.group)
    }

    /// `in all_reduce #21 of group default`, or what others wait for.
    pub fn detail(&self) -> String {
        match self.role {
            Role::Waiting => format!("in {}", self.collective()),
            _ => format!("has not joined {}", self.collective()),
        }
    }

    /// When the collective's own time limit ends it, and with it the rank.
    pub fn aborts_at(&self) -> Option<Stamp> {
        let timeout = self.timeout_ms.filter(|_| self.role == Role::Waiting)?;
        Some(self.since + Duration::from_millis(timeout))
    }
}

/// `all_reduce #21 of group default`.
pub fn collective(op: Option<&str>, seq: u64, group: &str) -> String {
    format!("{} #{seq} of group {group}", op.unwrap_or("collective"))
}

/// The name of a group for people: the script's description where it gave one.
pub fn group_name(group: &GroupStatus) -> String {
    match group.desc.as_deref() {
        Some("default_pg") => "default".into(),
        None | Some("" | "undefined") => group.name.clone(),
        Some(desc) => desc.to_owned(),
    }
}

/// What two ranks have in common when they speak of the same group.
pub(super) type Key = (String, Option<u32>);

pub(super) fn key(group: &GroupStatus) -> Key {
    (group.name.clone(), group.size)
}

/// One group as its ranks on this node see it.
#[derive(Debug)]
pub(super) struct Gathering<'a> {
    pub(super) name: String,
    /// Ranks in the whole group.
    pub(super) size: Option<u32>,
    /// Each rank with what it told last, and since when that stands.
    pub(super) ranks: Vec<(u32, &'a GroupStatus, Stamp)>,
}

impl Gathering<'_> {
    pub(super) fn first(&self) -> u64 {
        self.ranks.iter().filter_map(|(_, group, _)| group.enqueued).max().unwrap_or(0)
    }

    /// Whether ranks of other nodes belong to it, of which nothing is known here.
    pub(super) fn is_wider(&self) -> bool {
        self.size.is_some_and(|size| size as usize > self.ranks.len())
    }

    /// Whether no rank is behind, and all wait in a collective.
    pub(super) fn all_wait(&self) -> bool {
        self.ranks.iter().all(|(_, group, _)| waits(group) && group.enqueued == Some(self.first()))
    }
}

fn waits(group: &GroupStatus) -> bool {
    group.enqueued.is_some() && group.completed.is_some_and(|done| Some(done) < group.enqueued)
        || group.enqueued == Some(1) && group.completed.is_none()
}

/// All groups with two ranks or more of this node.
pub(super) fn gather(members: &BTreeMap<u32, Member>) -> Vec<Gathering<'_>> {
    let mut found: BTreeMap<Key, Gathering<'_>> = BTreeMap::new();
    for (local_rank, member) in members.iter().filter(|(_, member)| member.is_alive()) {
        for seen in &member.groups {
            let gathering = found.entry(key(&seen.status)).or_insert_with(|| Gathering {
                name: group_name(&seen.status),
                size: seen.status.size,
                ranks: Vec::new(),
            });
            gathering.ranks.push((*local_rank, &seen.status, seen.since));
        }
    }
    found.into_values().filter(|group| group.ranks.len() > 1 || group.is_wider()).collect()
}

/// Ranks that wait or lag since `settle` or longer. One that waits in any group does not lag in another: it is held
/// up itself.
pub(super) fn standings(
    members: &BTreeMap<u32, Member>,
    now: Stamp,
    settle: Duration,
) -> BTreeMap<u32, Standing> {
    let mut found: BTreeMap<u32, Standing> = BTreeMap::new();
    for group in gather(members) {
        let first = group.first();
        let leaders: Vec<_> = group.ranks.iter().filter(|(_, g, _)| g.enqueued == Some(first)).collect();
        let op = leaders.iter().find_map(|(_, group, _)| group.op.as_ref());
        // Others wait for a lagging rank since the first of them arrived.
        let arrived = leaders.iter().map(|(.., since)| *since).min().unwrap_or(now);
        for (local_rank, status, since) in &group.ranks {
            let behind = first.saturating_sub(status.enqueued.unwrap_or(0));
            let own = status.op.as_ref();
            let standing = |role, seq, since| Standing {
                role,
                group: group.name.clone(),
                seq,
                op: own.or(op).map(|op| op.name.clone()),
                since,
                behind,
                timeout_ms: own.or(op).and_then(|op| op.timeout_ms),
            };
            let next = if behind == 0 && waits(status) {
                let seq = status.completed.map_or(first, |done| done + 1);
                standing(Role::Waiting, seq, *since)
            } else if behind > 0 && !waits(status) {
                // Its own last move may be later than the first arrival.
                standing(Role::Lagging, status.enqueued.unwrap_or(0) + 1, arrived.max(*since))
            } else {
                continue;
            };
            let known = found.get(local_rank);
            let wins = known.is_none_or(|known| {
                (known.role, next.role) == (Role::Lagging, Role::Waiting)
                    || known.role == next.role && next.since < known.since
            });
            if now.since(next.since) >= settle && wins {
                found.insert(*local_rank, next);
            }
        }
    }
    // Who waits for nobody that lags still waits; who lags behind ranks that do not wait yet is only late.
    let any_waits = found.values().any(|standing| standing.role == Role::Waiting);
    found.retain(|_, standing| standing.role == Role::Waiting || any_waits);
    found
}

/// Ranks as a list for people: `rank 1`, `ranks 0, 2-5`.
pub fn names(ranks: impl IntoIterator<Item = u32>) -> String {
    let ranks: BTreeSet<u32> = ranks.into_iter().collect();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for rank in &ranks {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *rank => *last = *rank,
            _ => runs.push((*rank, *rank)),
        }
    }
    let texts: Vec<_> = runs
        .iter()
        .map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") })
        .collect();
    format!("rank{} {}", if ranks.len() == 1 { "" } else { "s" }, texts.join(", "))
}
