//! Commands to the supervisor: asked for, checked against what is known now, sent.

use super::{App, Cmd, Dialog, LinkState};
use crate::{
    domain::{alert::AlertKind, command::Command, event::Launcher, fleet::RankId, rank::JobState},
    tui::{
        keys::{Action, TABLE},
        theme::Role,
        words,
    },
    wire::message::ToSupervisor,
};

impl App {
    /// Why nothing can be changed now, if so.
    pub(crate) fn cannot_change(&self) -> Option<String> {
        match (&self.link, &self.read_only) {
            (LinkState::Live, None) if self.state.state.is_over() => Some("the job is over".into()),
            (LinkState::Live, None) => self.read_only_nodes().filter(|(all, _)| *all).map(|(_, why)| why),
            (LinkState::Live, Some(why)) => Some(format!("read-only: {why}")),
            _ if self.state.state.is_over() => Some("the job is over".into()),
            (LinkState::Silent { .. }, _) => {
                Some("the supervisor does not answer: nothing was sent; the job goes on without it".into())
            }
            _ => Some("no link to the supervisor now; the job goes on without it".into()),
        }
    }

    /// Why nothing can be asked of the ranks now, if so. Those of a job of others can be looked at, by this very process.
    pub(crate) fn cannot_ask(&self) -> Option<String> {
        let is_near = self.state.job.as_ref().is_some_and(|job| job.launcher == Launcher::Foreign);
        let may_look = is_near && self.link == LinkState::Live && !self.state.state.is_over();
        self.cannot_change().filter(|_| !may_look)
    }

    /// Whether none of the nodes that still run lets anything be changed, and what to say of those that do not.
    pub(crate) fn read_only_nodes(&self) -> Option<(bool, String)> {
        let running = || self.nodes.iter().filter(|node| !node.state.state.is_over());
        let refusing: Vec<_> = running()
            .filter_map(|node| Some((node.status.host.as_str(), node.status.read_only.as_deref()?)))
            .collect();
        let (host, why) = refusing.first()?;
        let who = match refusing.len() {
            1 => (*host).to_owned(),
            several => format!("{several} of {} nodes", running().count()),
        };
        Some((refusing.len() == running().count(), format!("{who} read-only: {why}")))
    }

    /// Whether an action would be taken up now: what changes the job, or is asked of it, is not on every screen.
    pub(crate) fn can_do(&self, action: Action) -> bool {
        let changes = TABLE.iter().any(|line| line.action == action && line.changes);
        match action {
            Action::Stacks => self.cannot_ask().is_none(),
            _ => !changes || self.cannot_change().is_none(),
        }
    }

    pub(super) fn order(&mut self, action: Action, cmds: &mut Vec<Cmd>) {
        if let Some(why) = self.cannot_change() {
            return self.say(Role::Warn, why);
        }
        match action {
            Action::Stop => {
                let now = self.state.state == JobState::TearingDown;
                self.dialog = Some(Dialog::stop(self.all_ranks().count(), now));
            }
            Action::Restart => self.dialog = Some(Dialog::Restart),
            Action::Signal => match self.rank() {
                Some(rank) if rank.state.is_alive() => self.dialog = Some(Dialog::signal(rank)),
                Some(_) => self.say(Role::Info, "this rank's process is gone: nothing to signal"),
                None => self.say(Role::Info, "no rank yet"),
            },
            Action::Leftovers => self.list_leftovers(),
            Action::KeepZombies => {
                if self.state.alerts.iter().any(|alert| alert.kind == AlertKind::ZombieDeadlock) {
                    self.send(Command::KeepZombies, cmds);
                } else {
                    self.say(Role::Info, "no zombie deadlock: nothing to keep");
                }
            }
            _ => {}
        }
    }

    /// Sends what a dialog asked for, unless the world changed while it was open.
    pub(super) fn order_checked(&mut self, dialog: &Dialog, command: Command, cmds: &mut Vec<Cmd>) {
        if let Some(why) = self.cannot_change() {
            return self.say(Role::Warn, why);
        }
        if let Dialog::Signal { local_rank, proc, tag, .. } = dialog
            && self.rank_at(RankId { node: self.node, local: *local_rank }).map(|rank| rank.proc)
                != Some(*proc)
        {
            return self
                .say(Role::Warn, format!("not sent: {tag} has a new process since this dialog opened"));
        }
        self.send(command, cmds);
    }

    pub(super) fn send(&mut self, command: Command, cmds: &mut Vec<Cmd>) {
        let id = self.next_id;
        self.next_id += 1;
        let what = words::command(&command);
        self.say(Role::Info, format!("{what}: asked, waiting for the effect"));
        self.asked.insert(id, what);
        let addressee = self.addressee(&command);
        let order = ToSupervisor::Do { id, command, until: Some(self.order_holds()) };
        cmds.push(match addressee {
            Some(node) => self.to_node(node, order),
            None => Cmd::Send(order),
        });
    }
}
