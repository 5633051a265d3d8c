//! A rank that left a collective out: its peers' next collective meets its own next one, so that the numbers of both
//! stay equal and nothing hangs, while their steps drift apart and the sums are wrong.
//!
//! The collectives begun when a step is told, less those that so many steps have, is a number that stays the same
//! while all is well, or changes on all ranks alike: an evaluation has collectives and no steps. When it falls behind
//! on one rank, that rank left one out.

use std::collections::{BTreeMap, VecDeque};

use super::{member::Member, standing::names};
use crate::domain::{
    alert::{Alert, AlertKind},
    beat::Beat,
    time::Stamp,
};

/// Steps that are compared.
const WINDOW: usize = 5;
/// For how many judgements in a row it must hold.
const ROW: u32 = 4;

/// The steps that a rank told last, each with the collectives that its default group had begun by then.
#[derive(Clone, Debug, Default)]
pub(super) struct Drift {
    seen: VecDeque<(u64, u64)>,
    source: Option<String>,
    /// Collectives for each step, and the rest, as they were at first.
    base: Option<(u64, i64)>,
    /// How many it left out, and at how many judgements in a row.
    row: (i64, u32),
}

impl Drift {
    pub(super) fn beat(&mut self, beat: &Beat) {
        let Some((step, count)) = beat.step.zip(beat.step_seq) else { return };
        let again = self.seen.back().is_some_and(|(known, before)| step < *known || count < *before);
        if again || self.source != beat.step_source {
            *self = Drift { source: beat.step_source.clone(), ..Drift::default() };
        }
        if self.seen.back().is_none_or(|(known, _)| step > *known) {
            self.seen.push_back((step, count));
            if self.seen.len() > WINDOW {
                self.seen.pop_front();
            }
        }
    }

    /// Collectives for each step and the rest, where those are the same for all of the latest steps.
    fn rest(&self) -> Option<(u64, i64)> {
        let ((first, before), (last, after)) = (*self.seen.front()?, *self.seen.back()?);
        if self.seen.len() < WINDOW {
            return None;
        }
        let each = (after - before) / (last - first);
        let rest = |(step, count): &(u64, u64)| count.cast_signed() - (each * step).cast_signed();
        let same = self.seen.iter().all(|seen| rest(seen) == rest(&(last, after)));
        (each > 0 && same).then(|| (each, rest(&(last, after))))
    }
}

/// The rank that is behind what it had at first by more collectives than the others are.
pub(super) fn judge(members: &mut BTreeMap<u32, Member>, now: Stamp) -> Option<Alert> {
    let mut shifts: Vec<(u32, i64, u64)> = Vec::new();
    for (local, member) in members.iter_mut().filter(|(_, member)| member.is_alive()) {
        let (each, rest) = member.drift.rest()?;
        let (before, base) = *member.drift.base.get_or_insert((each, rest));
        if before != each || shifts.last().is_some_and(|(.., other)| *other != each) {
            return None;
        }
        shifts.push((*local, rest - base, each));
    }
    let most = shifts.iter().map(|(_, shift, _)| *shift).max()?;
    let mut found = None;
    for (local, shift, each) in shifts {
        let left_out = most - shift;
        let row = &mut members.get_mut(&local)?.drift.row;
        *row = if left_out > 0 && row.0 == left_out { (left_out, row.1 + 1) } else { (left_out, 1) };
        if left_out > 0 && row.1 >= ROW && found.is_none() {
            found = Some((local, left_out.cast_unsigned(), each));
        }
    }
    let (local, left_out, each) = found?;
    let name = names([members.get(&local)?.number(local)]);
    let many = if left_out == 1 { "a collective".to_owned() } else { format!("{left_out} collectives") };
    let kind = if left_out < 2 * each { AlertKind::CollectiveMismatch } else { AlertKind::StepDrift };
    Some(Alert {
        kind,
        local_rank: Some(local),
        since: now,
        text: format!("{name} left out {many} that the others joined: results are wrong from there on"),
        evidence: vec![
            "the ranks' collectives have equal numbers, their steps have drifted apart".into(),
            format!("each step has {each} collectives; {name} has made {left_out} fewer for the same steps"),
        ],
        acts_at: None,
    })
}
