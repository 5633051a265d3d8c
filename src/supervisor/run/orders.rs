//! What viewers and signals want of the job.

use tokio::time::Instant;

use super::Supervisor;
use crate::{
    domain::command::{Command, Outcome},
    supervisor::{
        closeup::Known,
        core::{Asker, Input},
        desk,
        gpus::TRAFFIC,
        hub::{Said, ViewerId},
    },
    wire::message::{ToSupervisor, ToViewer},
};

impl Supervisor {
    pub(super) fn viewer_said(&mut self, from: ViewerId, said: Said) {
        let Said::Message(message) = said else {
            self.hub.remove(from);
            return;
        };
        match &message {
            ToSupervisor::Logs { .. } => self.asked_for_logs = Some(Instant::now()),
            ToSupervisor::Traffic => self.gpus.count_traffic(TRAFFIC),
            _ => {}
        }
        let known = Known {
            state: self.core.state(),
            logbook: &self.logbook,
            histories: &self.histories,
            dir: Some(&self.dir),
        };
        self.close_ups.hear(&mut self.hub, from, &message, known);
        let now = self.clock.now();
        let known = (self.core.state(), &self.logbook);
        let Some((id, command)) = desk::answer(&mut self.hub, from, message, known, now, None) else {
            return;
        };
        // Before anything is ended for it.
        if matches!(command, Command::Restart { .. })
            && let Err(text) = self.can_start_anew()
        {
            self.hub.send(from, &ToViewer::Reply { id, outcome: Outcome::Refused(text) });
            return;
        }
        let asker = Asker { reply: Some((from, id)), by: self.hub.name(from) };
        self.handle(Input::Asked(asker, command));
    }

    fn can_start_anew(&self) -> Result<(), String> {
        let spec = self.spec.as_ref().ok_or("how the agent was started died with it: start the job again")?;
        spec.check(&self.dir)
            .map_err(|why| format!("the group could not be started again: {why}; it goes on"))
    }

    pub(super) fn stop_by_signal(&mut self, name: &str) {
        if self.metrics.is_lingering() {
            return self.stop_lingering();
        }
        let asker = Asker { reply: None, by: format!("{name} to the supervisor") };
        self.handle(Input::Asked(asker, Command::Stop { now: false }));
    }
}
