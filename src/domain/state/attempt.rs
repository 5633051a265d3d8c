//! One start of the group of ranks, and what became of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{
    alert::{Alert, AlertKind},
    cause::Cause,
    event::Reason,
    time::Stamp,
};

/// One start of the group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counts starts from 0.
    pub n: u32,
    /// Why it was started.
    pub reason: Reason,
    /// When.
    pub started_at: Stamp,
    /// When it ended; `None` while it runs.
    pub ended_at: Option<Stamp>,
    /// Ranks in the whole job.
    pub world_size: Option<u32>,
    /// Restarts spent when it began.
    pub restarts: u32,
    /// Why it failed.
    pub cause: Option<Cause>,
    /// Highest step that any rank of this node told of.
    pub last_step: Option<u64>,
    /// When that step was told first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_step_at: Option<Stamp>,
    /// The first step that any rank of this node told of, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_step: Option<(u64, Stamp)>,
    /// When the group was first seen to be ending: a failure, a membership change or somebody's wish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<Stamp>,
    /// What kept it from moving on last; one that names a rank rather than one that does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hang: Option<Box<Hang>>,
}

/// What kept a group of ranks from moving on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hang {
    /// What was told of it.
    pub alert: Alert,
    /// Since when that does not hold any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_at: Option<Stamp>,
}

/// Python needs some seconds from an exception in the thread that waited to the end of its process.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

impl Attempt {
    /// Something keeps it from moving on. One that names a rank is kept rather than one that does not.
    pub(super) fn note_hang(&mut self, alert: &Alert) {
        let is_better = |known: &Hang| {
            known.over_at.is_none() && known.alert.local_rank.is_some() && alert.local_rank.is_none()
        };
        if alert.kind.is_about_waiting() && !self.hang.as_deref().is_some_and(is_better) {
            self.hang = Some(Box::new(Hang { alert: alert.clone(), over_at: None }));
        }
    }

    /// It went on, or what waited begins to end.
    pub(super) fn hang_is_over(&mut self, at: Stamp, key: (AlertKind, Option<u32>)) {
        if let Some(hang) = self.hang.as_mut().filter(|hang| hang.alert.key() == key) {
            hang.over_at.get_or_insert(at);
        }
    }

    /// The hang that it was in at this time, or had been in moments before: it may be about to end for it.
    pub fn hang_at(&self, at: Stamp) -> Option<&Alert> {
        let hang = self.hang.as_deref()?;
        hang.over_at.is_none_or(|over| at.since(over) <= ENDS_WITHIN).then_some(&hang.alert)
    }

    /// The hang that it ended in.
    pub fn ended_in(&self) -> Option<&Alert> {
        self.hang_at(self.over_at()?)
    }

    /// When it made its last step at the latest: when it was ended or failed, however long the next one took to come.
    pub fn over_at(&self) -> Option<Stamp> {
        self.stopped_at.or(self.ended_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        event::{Event, Fact},
        rank::JobState,
        state::State,
    };

    fn alert(kind: AlertKind, local_rank: Option<u32>, since: u64) -> Fact {
        let (since, text) = (Stamp(since), format!("{kind:?} of {local_rank:?}"));
        Fact::AlertRaised { alert: Alert { kind, local_rank, since, text, evidence: vec![], acts_at: None } }
    }

    fn attempt(facts: Vec<(u64, Fact)>) -> Attempt {
        let mut state = State::default();
        let begin = (0, Fact::GroupStarted { attempt: 0, world_size: Some(2) });
        for (at, fact) in std::iter::once(begin).chain(facts) {
            state.apply(&Event { seq: 1, at: Stamp(at), fact });
        }
        state.attempts.pop_back().unwrap()
    }

    #[test]
    fn the_hang_that_a_group_ended_in_is_known() {
        let hang = |at| (at, alert(AlertKind::Hang, Some(1), at));
        let over = |at| (at, Fact::AlertCleared { alert_kind: AlertKind::Hang, local_rank: Some(1) });
        let failing = |at| (at, Fact::JobState { state: JobState::TearingDown, deadline: None });
        let ended_in = |facts| attempt(facts).ended_in().map(|alert| alert.since.0);
        assert_eq!(ended_in(vec![hang(5_000)]), None, "it goes on");
        assert_eq!(ended_in(vec![hang(5_000), failing(60_000)]), Some(5_000));
        assert_eq!(ended_in(vec![hang(5_000), over(59_000), failing(60_000)]), Some(5_000), "moments before");
        assert_eq!(ended_in(vec![hang(5_000), over(9_000), failing(60_000)]), None, "it had gone on");
        let again = vec![hang(5_000), over(9_000), hang(50_000), failing(60_000)];
        assert_eq!(ended_in(again), Some(50_000));
        // One that names nobody does not take the place of one that does; others are no hangs.
        let vague = (6_000, alert(AlertKind::CollectiveMismatch, None, 6_000));
        let leak = (7_000, alert(AlertKind::MemoryLeak, Some(0), 7_000));
        assert_eq!(ended_in(vec![hang(5_000), vague.clone(), leak, failing(60_000)]), Some(5_000));
        assert_eq!(ended_in(vec![vague, hang(8_000), failing(60_000)]), Some(8_000));
        let running = attempt(vec![hang(5_000), over(9_000)]);
        assert!(running.hang_at(Stamp(20_000)).is_some() && running.hang_at(Stamp(60_000)).is_none());
    }
}
