//! Trouble of one rank alone, while the job as a whole goes on: a loss that is no number, Python's lock held.

use std::time::Duration;

use super::{NAN_ROWS, Verdict, member::Member, standing};
use crate::domain::{
    alert::{Alert, AlertKind},
    time::Stamp,
};

impl Verdict {
    pub(super) fn nan(&self, now: Stamp, local: u32, member: &Member) -> Option<Alert> {
        let (key, step, rows) = member.nan.as_ref().filter(|(.., rows)| *rows >= NAN_ROWS)?;
        if let Some(told) = self.told.get(&(AlertKind::NanLoss, Some(local))) {
            return Some(told.clone());
        }
        let name = standing::names([member.number(local)]);
        let at = step.map(|step| format!(" at step {step}")).unwrap_or_default();
        Some(Alert {
            kind: AlertKind::NanLoss,
            local_rank: Some(local),
            since: now,
            text: format!("the loss of {name} is not a number{at}: what it trains now is lost"),
            evidence: vec![format!("{key} was NaN or infinite {rows} times in a row")],
            acts_at: None,
        })
    }

    /// Python's lock is held, though the job as a whole has not been still for long, or tells no steps.
    pub(super) fn silent_alone(&self, now: Stamp) -> Option<Alert> {
        let limit = self.policy.hang_after().max(Duration::from_secs(10));
        let limit = limit.max(self.pace.patience(&self.policy));
        let alive = || self.members.iter().filter(|(_, member)| member.is_alive());
        let others_beat = alive().any(|(_, member)| member.beats > 0 && member.silence(now).is_none());
        let (local, member) = alive().find(|(_, m)| m.silence(now).is_some_and(|silent| silent >= limit))?;
        if !others_beat && self.members.len() > 1 || member.groups.is_empty() && member.step.is_none() {
            return None;
        }
        let name = standing::names([member.number(*local)]);
        let does = member.activity().map_or("is".into(), |activity| activity.verb());
        Some(Alert {
            kind: AlertKind::GilStuck,
            local_rank: Some(*local),
            since: member.beat_at?,
            text: format!("{name} {does} in C code and holds Python's lock"),
            evidence: vec!["its heartbeat stays away; those of the others come".into()],
            acts_at: None,
        })
    }
}
