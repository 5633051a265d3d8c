//! GPUs: bytes over their links while somebody looks, and who holds memory without being a rank.

use super::{App, Cmd, Dialog};
use crate::{tui::theme::Role, wire::message::ToSupervisor};

/// Between two questions for bytes over PCIe and NVLink: the supervisor counts for ten seconds after each.
const TRAFFIC_MS: u64 = 5_000;

impl App {
    /// Bytes over PCIe and NVLink are only counted while somebody looks.
    pub(super) fn ask_for_traffic(&mut self, cmds: &mut Vec<Cmd>) {
        let has_gpus = self
            .state_of(self.node)
            .and_then(|state| state.gpus.as_ref())
            .is_some_and(|gpus| !gpus.gpus.is_empty());
        if has_gpus && self.local.since(self.traffic_at).as_millis() as u64 >= TRAFFIC_MS {
            self.traffic_at = self.local;
            cmds.push(self.to_node(self.node, ToSupervisor::Traffic));
        }
    }

    /// Opens the list of processes that hold GPU memory and belong to no rank.
    pub(super) fn list_leftovers(&mut self) {
        let gpus = self.state_of(self.node).and_then(|state| state.gpus.as_ref());
        match gpus.map(|gpus| gpus.leftovers.clone()) {
            Some(list) if !list.is_empty() => self.dialog = Some(Dialog::Leftovers { list, at: 0 }),
            None => self.say(Role::Info, "who holds GPU memory is not known: no driver answers here"),
            _ => self.say(Role::Info, "no process holds GPU memory but those of the ranks"),
        }
    }
}
