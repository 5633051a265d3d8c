//! Whether the supervisor still talks. One that is stopped, or behind a line that hangs, keeps its link open and says
//! nothing: that must not look like a job at which nothing happens.

use std::time::Duration;

use super::{App, Cmd, LinkState};
use crate::{domain::time::Stamp, tui::theme::Role, wire::message::ToSupervisor};

/// A supervisor that has said nothing for this long is asked for its clock. One that runs tells samples each second.
const QUIET: Duration = Duration::from_secs(2);
/// One that does not answer for this long is silent.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// An order is good for this long: one that lay before a stopped supervisor is not to be carried out once it wakes.
const ORDER_HOLDS: Duration = Duration::from_secs(15);

/// What was heard, by the viewer's clock.
#[derive(Debug)]
pub(super) struct Hearing {
    last: Stamp,
    /// When it was asked, if it has said nothing since. Time alone proves nothing: a viewer that slept heard nothing.
    asked: Option<Stamp>,
    /// Whether there is a link to be heard over. Until the supervisor says something over it, it counts as lost.
    has_link: bool,
}

impl Hearing {
    pub(super) fn new(now: Stamp) -> Hearing {
        Hearing { last: now, asked: None, has_link: true }
    }
}

impl App {
    /// The supervisor said something, or there is a new link to it.
    pub(super) fn hears(&mut self) {
        self.hearing = Hearing::new(self.local);
        if let LinkState::Silent { .. } = self.link {
            let is_known = self.state.job.is_some() || !self.nodes.is_empty();
            self.link = if is_known { LinkState::Live } else { LinkState::Connecting };
        }
    }

    /// The link is gone.
    pub(super) fn hears_no_more(&mut self) {
        self.hearing.has_link = false;
    }

    /// Time went by: asks who is quiet, and calls silent who does not answer.
    pub(super) fn listen(&mut self, cmds: &mut Vec<Cmd>) {
        let may_be_silent =
            matches!(self.link, LinkState::Live | LinkState::Connecting | LinkState::Lost { .. });
        if !self.hearing.has_link || !may_be_silent || self.replay.is_some() || self.state.state.is_over() {
            return;
        }
        match self.hearing.asked {
            Some(asked) if self.local.since(asked) >= ANSWERS_WITHIN => {
                self.link = LinkState::Silent { since: self.hearing.last };
                if let Some(what) = self.asked.values().next_back() {
                    let seconds = ORDER_HOLDS.as_secs();
                    let text = format!("{what}: no answer; it is not carried out after {seconds} s");
                    self.say(Role::Crit, text);
                }
            }
            None if self.local.since(self.hearing.last) >= QUIET => {
                self.hearing.asked = Some(self.local);
                cmds.push(Cmd::Send(ToSupervisor::Clock { id: self.next_id }));
                self.next_id += 1;
            }
            Some(_) | None => {}
        }
    }

    /// For how long nothing has been heard of a supervisor that should talk.
    pub(crate) fn silence(&self) -> Option<Duration> {
        match self.link {
            LinkState::Silent { since } => Some(self.local.since(since)),
            _ => None,
        }
    }

    /// What a supervisor tells did not happen later than now: its clock may have been set forward since it said hello.
    pub(super) fn set_clock(&mut self, told: Stamp) {
        if self.replay.is_none() && told > self.now {
            self.ahead = told.0 as i64 - self.local.0 as i64;
            self.now = told;
        }
    }

    /// Until when an order that is given now holds, by the supervisor's clock.
    pub(super) fn order_holds(&self) -> Stamp {
        self.now + ORDER_HOLDS
    }
}
