//! Lines of ranks that prove that NCCL ends a rank.

use std::time::Duration;

use super::{Verdict, standing};
use crate::domain::{
    alert::{Alert, AlertKind},
    evidence::{Mark, Proof},
    time::{Stamp, human},
};

impl Verdict {
    pub(super) fn mark(&mut self, now: Stamp, local_rank: u32, proof: &Proof) {
        let Some(member) = self.members.get_mut(&local_rank) else { return };
        if let Some(raised) = proof.raised() {
            member.printed(now, raised);
        }
        let name = standing::names([member.number(local_rank)]);
        let limit = |ms: &Option<u64>| {
            ms.map(|ms| format!(" of {}", human(Duration::from_millis(ms)))).unwrap_or_default()
        };
        let (text, fact) = match &proof.mark {
            Mark::NcclTimeout { op, seq, timeout_ms } => {
                let what = op.as_deref().unwrap_or("a collective").to_lowercase();
                let seq = seq.map(|seq| format!(" #{seq}")).unwrap_or_default();
                let text = format!(
                    "{name} waited in {what}{seq} until NCCL's time limit{} was over: its watchdog ends it",
                    limit(timeout_ms)
                );
                (text, "NCCL's watchdog: collective operation timeout")
            }
            Mark::WatchdogStuck { seconds } => {
                let time =
                    seconds.map(|s| format!(" for {}", human(Duration::from_secs(s)))).unwrap_or_default();
                (
                    format!("NCCL's watchdog in {name} is stuck{time}: its monitor ends the rank"),
                    "NCCL's heartbeat monitor: no progress",
                )
            }
            _ => return,
        };
        self.keep(Alert {
            kind: AlertKind::NcclTimeout,
            local_rank: Some(local_rank),
            since: now,
            text,
            evidence: vec![
                fact.into(),
                "who waited is not who is to blame: look for the rank that did not join".into(),
            ],
            acts_at: None,
        });
    }
}
