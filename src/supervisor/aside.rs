//! Jobs that somebody else started, served to viewers by this very process, from `/proc` alone.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    alarm::Alarm,
    clock::Clock,
    closeup::{CloseUps, Known},
    core::{Core, Input, Out},
    desk, forensic,
    gpus::{self, Devices},
    hub::{Hub, Said, ViewerId},
    logbook::Logbook,
    reading::{self, Readers},
};
use crate::{
    domain::{
        closeup::history::Histories,
        command::{Command, Outcome},
        event::{JobInfo, Launcher},
        gpu::Status,
        id::{JobId, ProcId, name_from_path},
        sample::{Kernel, Sighting},
        stack::Stacks,
        state::State,
        time::Stamp,
    },
    error::{Error, Result},
    probe::{
        files,
        finder::Finder,
        gpu::GpuProbe,
        proc::{self, ROOT},
        scan::{self, FoundJob},
    },
    wire::{
        link::Link,
        message::{ToSupervisor, ToViewer},
    },
};

/// So many ranks of a job are read before it is shown, and as many at a time later: to read hundreds takes longer than
/// anybody waits for a screen.
const PORTION: usize = 64;
/// Until the next portion is read, so that the one before is drawn and keys are heard.
const NEXT_PORTION: Duration = Duration::from_millis(2);
const LOOK: Duration = Duration::from_secs(1);
/// How long the first answer to a viewer waits for the driver.
const FIRST_FIGURES: Duration = Duration::from_millis(10);

/// Watches a job that somebody else started. Read-only: nothing is signalled, written or linked.
#[derive(Debug)]
pub struct Observer {
    core: Core,
    finder: Finder,
    logbook: Logbook,
    readers: Readers,
    clock: Clock,
    gpus: GpuProbe,
    devices: Devices,
    /// Whether the driver has told figures, or that it never will.
    knows_gpus: bool,
    histories: Histories,
    /// Whether ranks are there that were not read yet.
    has_more: bool,
    /// Ranks whose files are looked for with the next look.
    unopened: Vec<Arc<Sighting>>,
}

impl Observer {
    /// Begins with a first look.
    pub fn new(found: &FoundJob) -> Observer {
        files::allow_many();
        // The driver is asked while processes are looked at.
        let gpus = GpuProbe::start();
        let mut clock = Clock::new(Stamp(0));
        let nobody = ProcId { pid: 0, start: 0 };
        let mut finder = Finder::new(ROOT, found.agent.unwrap_or(nobody));
        if found.agent.is_some() && !found.facts.is_empty() {
            finder.know(found.facts.clone());
            if found.has_more {
                finder.in_portions(PORTION);
            }
        } else {
            found.ranks.iter().cloned().for_each(|rank| finder.follow(rank));
        }
        let mut out = Out::default();
        let stale_store =
            found.use_agent_store == Some(true) && found.max_restarts.is_some_and(|max| max > 0);
        let now = clock.now();
        let procs = (found.agent, found.ranks.first().map(|rank| rank.proc));
        let core = Core::observe((proc::boot(), now), describe(found), procs, stale_store, &mut out);
        let mut observer = Observer {
            core,
            finder,
            logbook: Logbook::in_memory(),
            readers: Readers::default(),
            clock,
            gpus,
            devices: Devices::default(),
            knows_gpus: false,
            histories: Histories::default(),
            has_more: false,
            unopened: Vec::new(),
        };
        observer.look();
        observer
    }

    /// What is known.
    pub fn state(&self) -> &State {
        self.core.state()
    }

    /// Looks once more. Returns what changed.
    pub fn look(&mut self) -> Out {
        let now = self.clock.now();
        let mut out = Out::default();
        let look = self.finder.look();
        // Figures need time between two looks, and log files are for later: somebody waits for the screen.
        let is_hurried = std::mem::replace(&mut self.has_more, look.unread);
        let is_first = self.core.state().ranks.is_empty();
        let agent_gone =
            // A zombie, when whoever started it does not collect it, is as good as gone.
            look.agent.is_none_or(|agent| agent.kernel == Kernel::Dead);
        let mut inputs = Vec::new();
        if !is_hurried {
            self.open_logs();
        }
        reading::read_logs(&mut self.logbook, &mut self.readers, now, &mut inputs);
        let fresh = look.ranks.iter().filter(|rank| rank.fresh);
        self.unopened.extend(fresh.map(|rank| Arc::clone(&rank.sighting)));
        // A rank that comes later may be gone at the next look.
        if !is_first && !is_hurried {
            self.open_logs();
        }
        inputs.push(Input::Looked { look, sample: !is_hurried });
        if let Some(agent) = self.core.state().agent.as_ref().filter(|agent| agent_gone && agent.alive) {
            inputs.push(Input::AgentGone { proc: agent.proc, exit: None });
        }
        inputs.into_iter().for_each(|input| self.core.handle(now, input, &mut out));
        self.look_at_gpus(&mut out);
        if out.effects.contains(&super::core::Effect::Drain) {
            self.core.handle(now, Input::Drained, &mut out);
        }
        out.events.iter().for_each(|event| self.histories.take(self.core.state(), event));
        out
    }

    fn open_logs(&mut self) {
        let fresh = std::mem::take(&mut self.unopened);
        if fresh.is_empty() {
            return;
        }
        // Without redirection all ranks write where the agent does: nobody can tell whose line it is.
        let shared = <[_; 2]>::from(proc::log_paths(Path::new(ROOT), self.finder.agent().pid));
        for rank in fresh {
            let own = <[_; 2]>::from(proc::log_paths(Path::new(ROOT), rank.proc.pid));
            let own = own.map(|path| path.filter(|path| !shared.contains(&Some(path.clone()))));
            let local_rank = rank.place.slot().unwrap_or(0);
            reading::add_rank(&mut self.logbook, own, &rank, local_rank, 0);
        }
        shared.into_iter().flatten().for_each(|path| reading::add_shared(&mut self.logbook, path));
    }

    fn look_at_gpus(&mut self, out: &mut Out) {
        let look = self.devices.look(&self.gpus, self.core.state(), Some(&self.finder), true);
        self.knows_gpus = look.reading.round > 0 || matches!(look.reading.status, Status::Absent(_));
        self.core.handle(self.clock.now(), Input::Gpus(look), out);
    }

    /// Waits a moment for the driver's first figures, so that the first thing that is seen shows them.
    async fn await_gpus(&mut self) {
        let patience = sleep(FIRST_FIGURES);
        tokio::pin!(patience);
        while !self.knows_gpus {
            tokio::select! {
                () = self.gpus.changed() => self.look_at_gpus(&mut Out::default()),
                () = &mut patience => return,
            }
        }
    }

    /// Serves one viewer until it leaves.
    pub fn serve(mut self) -> Link {
        let (mut hub, mut said, link) = Hub::for_one();
        tokio::spawn(async move {
            self.await_gpus().await;
            let mut alarm = Alarm::unset();
            let mut next_look = Instant::now() + if self.has_more { NEXT_PORTION } else { LOOK };
            let mut bell = self.finder.bell();
            let mut close_ups = CloseUps::default();
            let mut taking = JoinSet::new();
            while !hub.is_empty() {
                tokio::select! {
                    () = alarm.until(next_look) => {
                        let out = self.look();
                        next_look = Instant::now() + if self.has_more { NEXT_PORTION } else { LOOK };
                        hub.tell(&out.events);
                        hub.flush(self.core.state());
                    }
                    () = async { bell.as_mut().expect("guarded").rings().await }, if bell.is_some() => {
                        next_look = Instant::now();
                    }
                    () = self.gpus.changed(), if !self.knows_gpus => {
                        let mut out = Out::default();
                        self.look_at_gpus(&mut out);
                        hub.tell(&out.events);
                        hub.flush(self.core.state());
                    }
                    (to, answer) = close_ups.next() => hub.send(to, &answer),
                    Some(Ok((to, id, stacks))) = taking.join_next() => tell_stacks(&mut hub, to, id, stacks),
                    Some((from, said)) = said.recv() => {
                        if let Said::Message(message) = &said {
                            let (logbook, histories) = (&self.logbook, &self.histories);
                            let known = Known { state: self.core.state(), logbook, histories, dir: None };
                            close_ups.hear(&mut hub, from, message, known);
                        }
                        match said {
                            Said::Message(ToSupervisor::Traffic) => self.gpus.count_traffic(gpus::TRAFFIC),
                            // To look is all that can be done here.
                            Said::Message(ToSupervisor::Do { id, command: Command::Stacks { rank, by }, .. }) => {
                                let wanted = forensic::living(self.core.state(), None, rank);
                                if wanted.is_empty() {
                                    let outcome = Outcome::Refused("no such rank lives".into());
                                    hub.send(from, &ToViewer::Reply { id, outcome });
                                } else {
                                    taking.spawn_blocking(move || (from, id, forensic::stacks(&wanted, by)));
                                }
                                continue;
                            }
                            _ => {}
                        }
                        let now = self.clock.now();
                        let known = (self.core.state(), &self.logbook);
                        let no = self.core.read_only().unwrap_or_else(|| "read-only".into());
                        desk::hear_reader(&mut hub, from, said, known, now, &no);
                    }
                }
            }
        });
        link
    }
}

fn describe(found: &FoundJob) -> JobInfo {
    let pid = found.agent.map(|agent| agent.pid).or_else(|| found.ranks.first().map(|rank| rank.proc.pid));
    let script = found.command.iter().find(|word| word.ends_with(".py") && !word.contains("torchrun"));
    let place = found.ranks.first().map(|rank| rank.place.clone()).unwrap_or_default();
    JobInfo {
        id: JobId(format!("pid-{}", pid.unwrap_or_default())),
        name: script.map_or_else(|| "torchrun".into(), |script| name_from_path(script)),
        launcher: Launcher::Foreign,
        node: found.node.clone(),
        command: found.command.clone(),
        cwd: found.cwd.as_ref().map(|cwd| cwd.display().to_string()).unwrap_or_default(),
        max_restarts: found.max_restarts,
        local_world_size: place.local_world_size,
        nodes: (1, 1),
        rdzv_id: place.run_id,
        uid: found.uid,
    }
}

/// The foreign job that an agent, or a rank without one, belongs to.
///
/// # Errors
/// There is no such job.
pub fn find_foreign(pid: i32) -> Result<FoundJob> {
    find(pid, usize::MAX)
}

/// The same with the first of its ranks, for a screen that is to be there at once: an [`Observer`] finds the others while
/// it serves.
///
/// # Errors
/// There is no such job.
pub fn meet_foreign(pid: i32) -> Result<FoundJob> {
    find(pid, PORTION)
}

fn find(pid: i32, most: usize) -> Result<FoundJob> {
    let fits = |job: &FoundJob| match job.agent {
        Some(agent) => agent.pid == pid,
        None => job.ranks.iter().any(|rank| rank.proc.pid == pid),
    };
    let root = Path::new(ROOT);
    let found = scan::job_near(root, pid, most).or_else(|| scan::scan(root).into_iter().find(fits));
    found.or_else(|| scan::job_of_agent(root, pid)).ok_or_else(|| {
        Error::job(format!("process {pid} is no torchrun agent that can be seen from here"))
            .hint("elastictop ps --all lists the agents of this machine")
    })
}

fn tell_stacks(hub: &mut Hub, to: ViewerId, id: u64, stacks: Stacks) {
    let outcome = Outcome::Done(stacks.summary());
    hub.send(to, &ToViewer::Stacks { id, stacks });
    hub.send(to, &ToViewer::Reply { id, outcome });
}
