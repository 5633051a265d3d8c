//! Deaths: of the agent, of ranks, of orphans that were handed to this process.

use std::{path::Path, sync::Arc};

use super::Supervisor;
use crate::domain::exit::Exit;
use crate::domain::id::ProcId;
use crate::probe::{proc, signal as kill};
use crate::supervisor::{child, core::Input};

impl Supervisor {
    pub(super) fn watch(&mut self, proc: ProcId) {
        match kill::open_pidfd(proc) {
            Ok(pidfd) => {
                let pidfd = Arc::new(pidfd);
                self.pidfds.insert(proc, Arc::clone(&pidfd));
                self.deaths.spawn(async move {
                    // Without a descriptor to watch, the next look finds the death.
                    let _ = kill::exited(&pidfd).await;
                    proc
                });
            }
            Err(error) if proc::is_gone(&error) => {
                self.deaths.spawn(async move { proc });
            }
            Err(error) => tracing::warn!(%error, pid = proc.pid, "cannot watch a process"),
        }
    }

    pub(super) fn process_died(&mut self, proc: ProcId) {
        self.hear_ranks();
        if Some(proc) == self.manifest.agent {
            // A child's exit comes by `reap`; an adopted agent's was nobody's to see.
            self.reap();
            self.catch_up();
            self.read_logs();
            // Its end may have been told by `reap` already, and a new agent been started.
            self.handle(Input::AgentGone { proc, exit: None });
            return;
        }
        // What the driver told of its GPU may be why.
        self.look_at_gpus(false);
        let exit = self.exit_of(proc);
        self.pidfds.remove(&proc);
        self.rank_died(proc, exit);
    }

    /// How a rank ended, while it is a zombie or where the kernel remembers it.
    pub(super) fn exit_of(&self, proc: ProcId) -> Option<Exit> {
        let zombie = proc::exit_of_zombie(Path::new(proc::ROOT), proc);
        zombie.or_else(|| kill::exit_of_reaped(self.pidfds.get(&proc)?))
    }

    /// Tells of ranks that are dead already, before a new group takes their place.
    pub(super) fn collect_deaths(&mut self) {
        let living =
            self.core.state().ranks.iter().filter(|rank| rank.state.is_alive()).map(|rank| rank.proc);
        for proc in living.collect::<Vec<_>>() {
            if let Some(exit) = self.exit_of(proc) {
                self.handle(Input::Died { proc, exit: Some(exit) });
            }
        }
    }

    pub(super) fn rank_died(&mut self, proc: ProcId, exit: Option<Exit>) {
        // Why the agent ended it, if it did, was written before.
        self.read_logs();
        self.count_oom_kills();
        self.handle(Input::Died { proc, exit });
    }

    /// Takes what ranks said before something else is concluded without it.
    pub(super) fn hear_ranks(&mut self) {
        while let Some(message) = self.beat.try_next() {
            self.rank_said(message);
        }
    }

    pub(super) fn reap(&mut self) {
        self.hear_ranks();
        while let Some((pid, exit)) = child::reap() {
            match self.manifest.agent.filter(|agent| agent.pid == pid) {
                Some(proc) => {
                    self.catch_up();
                    self.read_logs();
                    self.handle(Input::AgentGone { proc, exit: Some(exit) });
                }
                // An orphaned rank that was handed to this process.
                None => {
                    if let Some(rank) = self.core.state().ranks.iter().find(|rank| rank.proc.pid == pid) {
                        let proc = rank.proc;
                        self.rank_died(proc, Some(exit));
                    }
                }
            }
        }
    }
}
