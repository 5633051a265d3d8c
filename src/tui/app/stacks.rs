//! Asking where the ranks are in their code, and showing the answer.

use super::{App, Cmd};
use crate::{
    domain::{command::Command, stack::Stacks, state::Rank, time::Stamp},
    tui::{app::Tab, keys::View, theme::Role},
};

/// What the view of stacks shows.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Where the ranks were when somebody at this screen asked.
    pub(crate) stacks: Option<Stacks>,
    /// When they came.
    pub(crate) at: Stamp,
    /// First line of them that is shown.
    pub(crate) first: usize,
    /// The view in which they were asked for.
    pub(crate) asked_in: Option<View>,
}

impl App {
    /// Of all ranks, or of the one that is shown alone.
    pub(super) fn ask_for_stacks(&mut self, cmds: &mut Vec<Cmd>) {
        if let Some(why) = self.cannot_ask() {
            return self.say(Role::Warn, why);
        }
        let rank = self.rank().filter(|_| self.detail()).map(Rank::number);
        self.page.stacks_asked = rank.map(|_| self.next_id);
        self.stacks.asked_in = Some(self.view);
        self.send(Command::Stacks { rank, by: None }, cmds);
    }

    /// Whether the screen has a place for stacks.
    pub(super) fn shows_stacks(&self) -> bool {
        matches!(self.view, View::Stacks | View::Hang) || self.detail() && self.tab == Tab::Stack
    }

    /// Those of the rank that is shown alone belong to its page.
    pub(super) fn show_stacks(&mut self, id: u64, stacks: Stacks) {
        self.toast = None;
        if self.page.stacks_asked.take_if(|asked| *asked == id).is_some() && self.detail() {
            self.page.stacks = Some((self.now, stacks));
            (self.tab, self.page.first) = (Tab::Stack, 0);
            return;
        }
        let asked_in = self.stacks.asked_in.take();
        self.stacks = Taken { stacks: Some(stacks), at: self.now, first: 0, asked_in: None };
        if asked_in.is_some_and(|view| view != self.view) {
            // Who went on is not called back.
            self.say(Role::Info, "stacks were taken; :view-stacks shows them");
        } else if self.view != View::Hang {
            self.go(View::Stacks);
        }
    }
}
