//! What elastictop cannot keep on disk.

use super::{Core, Out};
use crate::domain::{
    alert::{Alert, AlertKind},
    event::Fact,
    time::Stamp,
};

impl Core {
    pub(super) fn storage(&mut self, now: Stamp, error: Option<String>, lost: u64, out: &mut Out) {
        let raised = self.state.alerts.iter().any(|alert| alert.kind == AlertKind::Storage);
        match error {
            Some(error) if !raised => {
                let alert = Alert {
                    kind: AlertKind::Storage,
                    local_rank: None,
                    since: now,
                    text: format!("{error}; the job goes on"),
                    evidence: vec!["what happens now is shown, but may be missing after the job ends".into()],
                    acts_at: None,
                };
                self.emit(now, Fact::AlertRaised { alert }, out);
            }
            None if raised => {
                self.emit(now, Fact::AlertCleared { alert_kind: AlertKind::Storage, local_rank: None }, out);
            }
            _ => {}
        }
        if lost > self.lost_told && self.state.alerts.iter().all(|alert| alert.kind != AlertKind::Storage) {
            let text = format!("{} records could not be kept on disk", lost - self.lost_told);
            self.lost_told = lost;
            self.emit(now, Fact::Note { text }, out);
        }
    }
}
