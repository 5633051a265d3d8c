//! Asking where the ranks are in their code, and showing the answer.

use super::{App, Cmd};
use crate::{
    domain::{command::Command, stack::Stacks, state::Rank},
    tui::{keys::View, theme::Role},
};

/// What the view of stacks shows.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Where the ranks were when somebody at this screen asked.
    pub(crate) stacks: Option<Stacks>,
    /// First line of them that is shown.
    pub(crate) first: usize,
}

impl App {
    /// Of all ranks, or of the one that is shown alone.
    pub(super) fn ask_for_stacks(&mut self, cmds: &mut Vec<Cmd>) {
        if let Some(why) = self.cannot_change() {
            return self.say(Role::Warn, why);
        }
        let rank = self.rank().filter(|_| self.detail()).map(Rank::number);
        self.send(Command::Stacks { rank, by: None }, cmds);
    }

    pub(super) fn show_stacks(&mut self, stacks: Stacks) {
        self.stacks = Taken { stacks: Some(stacks), first: 0 };
        self.go(View::Stacks);
    }
}
