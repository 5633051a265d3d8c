//! What viewers ask for that takes longer than the loop may wait: done on threads, told when it is done.

use super::Supervisor;
use crate::{
    domain::{
        command::{Command, Outcome},
        id::ProcId,
        stack::{Source, Stacks},
    },
    supervisor::{
        core::{Asker, Input},
        forensic,
    },
    wire::message::ToViewer,
};

/// What a thread brought back.
#[derive(Debug)]
pub(super) enum Done {
    Stacks {
        asker: Asker,
        command: Command,
        stacks: Stacks,
    },
    /// What was dumped where, or why not.
    Dump(String),
}

impl Supervisor {
    pub(super) fn take_stacks(
        &mut self,
        ranks: Vec<(u32, ProcId)>,
        by: Option<Source>,
        asker: Asker,
        command: Command,
    ) {
        // Two who ask the same ranks at the same time would take each other's answers.
        if !self.work.is_empty() {
            if let Some((viewer, id)) = asker.reply {
                let text = "others are looking at the ranks already: try again in a moment".into();
                self.hub.send(viewer, &ToViewer::Reply { id, outcome: Outcome::Refused(text) });
            }
            return;
        }
        let wanted = forensic::wanted(ranks, Some(self.beat.path()));
        self.work.spawn_blocking(move || {
            let stacks = forensic::stacks(&wanted, by);
            Done::Stacks { asker, command, stacks }
        });
    }

    /// Takes stacks and flight recorders of all living ranks into the job's folder. `before` was done already.
    pub(super) fn take_dump(&mut self, before: String) {
        let wanted = forensic::living(self.core.state(), Some(self.beat.path()), None);
        let (dir, world_size, now) = (self.dir.clone(), self.core.state().world_size, self.clock.now());
        self.work.spawn_blocking(move || {
            Done::Dump(match forensic::dump(&dir, &wanted, world_size, now) {
                Ok(dumped) => format!("{before}; {}", dumped.summary()),
                Err(error) => format!("{before}; stacks cannot be written: {error}"),
            })
        });
    }

    pub(super) fn work_done(&mut self, done: Done) {
        let (asker, command, stacks) = match done {
            Done::Stacks { asker, command, stacks } => (asker, command, stacks),
            Done::Dump(text) => return self.handle(Input::Dumped(text)),
        };
        let summary = stacks.summary();
        if let Some((viewer, id)) = asker.reply {
            self.hub.send(viewer, &ToViewer::Stacks { id, stacks });
        }
        self.handle(Input::StacksTaken { asker, command, summary });
    }
}
