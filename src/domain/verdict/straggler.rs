//! A rank that is slower than the others: they wait for it in each collective, and it waits for nobody.
//!
//! Each beat shows whether its rank waits in a collective. Beats come at odd moments, so the share of those that show
//! a wait is the share of time that the rank waits; what is left is the time that it needs for its own work.

use std::collections::{BTreeMap, VecDeque};

use super::{member::Member, standing::names};
use crate::domain::{
    alert::{Alert, AlertKind},
    beat::GroupStatus,
    time::Stamp,
};

/// Beats that a share is taken over.
const WINDOW: usize = 60;
/// Half of them are enough where the case is clear.
const CLEAR: usize = 30;
/// In per cent: the others wait at least this long, the straggler at most that long; and the same for clear cases.
const OTHERS: usize = 50;
const OWN: usize = 15;
const OTHERS_CLEAR: usize = 70;
const OWN_CLEAR: usize = 10;
/// What ends an alert: the others wait less, or the straggler waits as well.
const OTHERS_OVER: usize = 35;
const OWN_OVER: usize = 35;

/// Whether a rank waited at its latest beats.
#[derive(Clone, Debug, Default)]
pub(super) struct Waits {
    seen: VecDeque<bool>,
    counters: Vec<Option<u64>>,
}

impl Waits {
    pub(super) fn beat(&mut self, groups: &[GroupStatus]) {
        let counters: Vec<_> = groups.iter().flat_map(|g| [g.enqueued, g.completed]).collect();
        // While nothing moves, that is a stall and no question of speed.
        let moves = counters != self.counters;
        self.counters = counters;
        if !moves || groups.iter().all(|group| group.completed.is_none()) {
            return;
        }
        // On a GPU a collective is enqueued long before the device comes to it.
        let joined = |group: &GroupStatus| group.started.or(group.enqueued);
        self.seen.push_back(groups.iter().any(|group| joined(group) > group.completed));
        if self.seen.len() > WINDOW {
            self.seen.pop_front();
        }
    }

    /// Share of the latest `count` beats that showed a wait, in per cent.
    fn share(&self, count: usize) -> Option<usize> {
        let waits = self.seen.iter().rev().take(count).filter(|waits| **waits).count();
        (self.seen.len() >= count).then(|| waits * 100 / count)
    }
}

/// The rank with the smallest share, and the median of the others.
fn slowest(members: &BTreeMap<u32, Member>, count: usize) -> Option<(u32, usize, usize)> {
    let alive = members.iter().filter(|(_, member)| member.is_alive());
    let mut shares = alive
        .map(|(local, member)| Some((member.waits.share(count)?, *local)))
        .collect::<Option<Vec<_>>>()?;
    shares.sort_unstable();
    let ((own, local), others) = shares.split_first()?;
    Some((*local, *own, others.get(others.len().saturating_sub(1) / 2)?.0))
}

/// The alert that holds now; the one `told` before goes on until the ranks are even again.
pub(super) fn judge(members: &mut BTreeMap<u32, Member>, now: Stamp, told: Option<&Alert>) -> Option<Alert> {
    if let Some(told) = told {
        let still =
            slowest(members, CLEAR).is_none_or(|(_, own, others)| own <= OWN_OVER && others >= OTHERS_OVER);
        if !still {
            // What was seen then says nothing about from now on.
            members.values_mut().for_each(|member| member.waits = Waits::default());
        }
        return still.then(|| told.clone());
    }
    let clear =
        slowest(members, CLEAR).filter(|(_, own, others)| *own <= OWN_CLEAR && *others >= OTHERS_CLEAR);
    let sure = || slowest(members, WINDOW).filter(|(_, own, others)| *own <= OWN && *others >= OTHERS);
    let (local, own, others) = clear.or_else(sure)?;
    // Tenths, so that 1.6 and 4 read differently.
    let score = (100 - own) * 10 / (100 - others).max(2);
    let name = names([members.get(&local)?.number(local)]);
    Some(Alert {
        kind: AlertKind::Straggler,
        local_rank: Some(local),
        since: now,
        text: format!(
            "{name} is slow: it needs about {}.{} times as long as the others to reach each collective",
            score / 10,
            score % 10
        ),
        evidence: vec![
            format!("it waits for others {own} % of the time, they wait {others} % (median)"),
            "look at its GPU's clock and throttling, its data loader and its processor".into(),
        ],
        acts_at: None,
    })
}
