//! The loop: inputs from processes, files and viewers go into the core one by one; what comes out is carried out.

mod closing;
mod deaths;
mod gpus;
mod metrics;
mod orders;
mod script;
mod serving;
mod suspects;
mod upkeep;
mod work;

use std::{
    collections::{HashMap, VecDeque},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UnixListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use self::work::Done;
use super::{
    alarm::Alarm,
    child::Spec,
    clock::Clock,
    closeup::CloseUps,
    core::{Core, Effect, Input, Out},
    door,
    folder::{JobDir, Manifest},
    forward::Told,
    gpus::Devices,
    hub::{Hub, Said, ViewerId},
    journal::{self, Journal},
    lock::Lock,
    logbook::Logbook,
    place::Roots,
    reading::{self, Readers},
    recording::BlackBox,
};
use crate::{
    domain::{
        beat::Message, closeup::history::Histories, ending::Target, id::ProcId, sample::Sighting, time::Stamp,
    },
    error::{Error, Result},
    probe::{beat::BeatSocket, cgroup, finder::Finder, gpu::GpuProbe, proc, signal as kill},
    wire::message::ToViewer,
};

/// How often processes are looked at while nothing changes.
const CALM: Duration = Duration::from_secs(1);
/// How often while ranks come and go.
const CLOSE: Duration = Duration::from_millis(100);
/// How often while somebody reads logs.
const READING: Duration = Duration::from_millis(250);
/// For how long a question about logs counts as reading.
const INTEREST: Duration = Duration::from_secs(2);
/// How often files and sockets of the supervisor itself are looked after.
const UPKEEP: Duration = Duration::from_secs(10);
/// Most ranks remembered for that; those of the first starts are forgotten first.
const MAX_LEADERS: usize = 4096;

const SIGTERM: i32 = 15;

/// What belongs to one running job.
#[derive(Debug)]
pub struct Supervisor {
    dir: JobDir,
    manifest: Manifest,
    /// How the agent is started again; `None` when an adopted agent was gone already.
    spec: Option<Spec>,
    core: Core,
    clock: Clock,
    journal: Journal,
    blackbox: BlackBox,
    logbook: Logbook,
    readers: Readers,
    hub: Hub,
    said: mpsc::Receiver<(ViewerId, Said)>,
    listener: UnixListener,
    beat: BeatSocket,
    finder: Option<Finder>,
    deaths: JoinSet<ProcId>,
    /// What was asked for and takes longer than the loop may wait, each on a thread of its own.
    work: JoinSet<Done>,
    close_ups: CloseUps,
    /// Figures of the ranks over time, for those who look at one.
    histories: Histories,
    pidfds: HashMap<ProcId, Arc<OwnedFd>>,
    children: Signal,
    last_sample: Stamp,
    asked_for_logs: Option<Instant>,
    gpus: GpuProbe,
    devices: Devices,
    /// Whether the driver has told figures, or that it never will.
    knows_gpus: bool,
    /// An agent that waits for GPU memory.
    waiting: Option<gpus::Waiting>,
    /// Every rank that was seen: each led a session, in which its data loaders may outlive it.
    leaders: VecDeque<ProcId>,
    /// Until when what ranks left behind may end by itself.
    sweep: Option<Instant>,
    /// Whether somebody removed the job's folder while it runs.
    folder_is_gone: bool,
    lock: Option<Lock>,
    metrics: metrics::Metrics,
    script: script::Script,
    ras: suspects::RasAnswer,
    finished: bool,
}

impl Supervisor {
    /// Opens all that a supervisor needs. The caller holds the job's lock.
    ///
    /// # Errors
    /// A socket, journal or log index that cannot be opened.
    pub fn open(
        roots: &Roots,
        manifest: Manifest,
        spec: Option<Spec>,
        start: impl FnOnce(&mut Clock, &mut Out) -> Core,
    ) -> Result<Supervisor> {
        let dir = roots.job(&manifest.id);
        let at = |path: PathBuf| move |error: std::io::Error| Error::io("cannot open", &path, &error);
        let histories = journal::histories(&dir.journal());
        let journal = Journal::open(&dir.journal()).map_err(at(dir.journal()))?;
        let blackbox = BlackBox::open(&dir.root, manifest.rules.record).map_err(at(dir.root.clone()))?;
        let mut logbook = Logbook::open(&dir.log_index(), true).map_err(at(dir.log_index()))?;
        let secrets = spec.as_ref().map(Spec::secrets).unwrap_or_default();
        logbook.hide(secrets.clone());
        // A supervisor that finds no agent any more knows none.
        if spec.is_some()
            && let Err(error) = dir.write_secret_marks(&secrets)
        {
            tracing::warn!(%error, "secrets cannot be taken out of the logs once the job is over");
        }
        reading::add_agent(&mut logbook, &dir);
        let listener = door::listen(&manifest.socket)?;
        let beat_path = roots.beat(&manifest.id);
        let beat = BeatSocket::bind(&beat_path).map_err(at(beat_path))?;
        let children = signal(SignalKind::child())
            .map_err(|error| Error::environment(format!("cannot wait for child processes: {error}")))?;
        let (hub, said) = Hub::new();
        let gpus = GpuProbe::start();
        let mut clock = Clock::new(manifest.seen_at);
        let mut out = Out::default();
        let core = start(&mut clock, &mut out);
        let mut supervisor = Supervisor {
            dir,
            manifest,
            spec,
            core,
            clock,
            journal,
            blackbox,
            logbook,
            readers: Readers::default(),
            hub,
            said,
            listener,
            beat,
            finder: None,
            deaths: JoinSet::new(),
            work: JoinSet::new(),
            close_ups: CloseUps::default(),
            histories,
            pidfds: HashMap::new(),
            children,
            last_sample: Stamp(0),
            asked_for_logs: None,
            gpus,
            devices: Devices::default(),
            knows_gpus: false,
            waiting: None,
            leaders: VecDeque::new(),
            sweep: None,
            folder_is_gone: false,
            lock: None,
            metrics: metrics::Metrics::default(),
            script: script::Script::default(),
            ras: suspects::RasAnswer::default(),
            finished: false,
        };
        supervisor.start_forward(secrets);
        supervisor.ask_for_entity();
        if let Some(agent) = supervisor.manifest.agent {
            supervisor.follow(agent);
            supervisor.watch(agent);
        }
        supervisor.carry_out(out);
        // Who is told that the supervisor is ready may read the journal next.
        supervisor.journal.flush();
        Ok(supervisor)
    }

    /// Ranks that a former supervisor knew, to be followed though their agent may be dead, and what those left that
    /// nobody knew.
    pub fn take_over_ranks(&mut self, ranks: Vec<Sighting>) {
        // All deaths at once, and before the agent's own and what it wrote about them: else ranks that ended before
        // their agent look like orphans, and how they ended is told of ranks that still seem to live.
        let root = Path::new(proc::ROOT);
        let (lives, gone): (Vec<_>, Vec<_>) =
            ranks.into_iter().partition(|rank| proc::identify(root, rank.proc.pid) == Some(rank.proc));
        let (now, mut out) = (self.clock.now(), Out::default());
        for rank in gone {
            self.core.handle(now, Input::Died { proc: rank.proc, exit: None }, &mut out);
        }
        // What the agent wrote is read with the effects: all that it writes about must be known by then.
        self.feed_missed(&mut out);
        self.carry_out(out);
        if let Some(finder) = &mut self.finder {
            lives.into_iter().for_each(|rank| finder.follow(rank));
        }
        // Whoever asked for this supervisor shall see how things are, not how they were.
        // A zombie whose new parent has not collected it is as dead as one that is gone.
        let is_dead = |agent: &ProcId| {
            proc::identify(root, agent.pid) != Some(*agent) || proc::exit_of_zombie(root, *agent).is_some()
        };
        if let Some(agent) = self.manifest.agent.filter(is_dead) {
            self.process_died(agent);
        }
        // Ranks that the former supervisor did not live to write down.
        self.look();
        self.journal.flush();
    }

    /// Tells of ranks that came and went between two looks, or while no supervisor ran.
    fn catch_up(&mut self) {
        let mut out = Out::default();
        self.feed_missed(&mut out);
        self.carry_out(out);
    }

    fn feed_missed(&mut self, out: &mut Out) {
        let now = self.clock.now();
        for rank in self.missed_ranks() {
            let proc = rank.proc;
            self.core.handle(now, Input::Seen(rank), out);
            self.core.handle(now, Input::Died { proc, exit: None }, out);
        }
    }

    /// Ranks that the shim noted and nobody saw. Those of function mode leave no trace.
    fn missed_ranks(&self) -> Vec<Sighting> {
        let known = &self.core.state().ranks;
        let newest = known.iter().map(|rank| rank.proc.start).max().unwrap_or(0);
        let is_new = |rank: &Sighting| {
            self.manifest.agent.is_some_and(|agent| agent.pid == rank.agent_pid)
                && rank.proc.start >= newest
                && known.iter().all(|known| known.proc != rank.proc)
        };
        let is_gone =
            |rank: &Sighting| proc::identify(Path::new(proc::ROOT), rank.proc.pid) != Some(rank.proc);
        let noted = reading::ranks_on_disk(&self.dir).into_iter();
        noted.filter(|rank| is_new(rank) && is_gone(rank)).collect()
    }

    /// Runs until the job is over and nobody looks any more.
    ///
    /// # Errors
    /// Signals that cannot be listened for.
    pub async fn run(mut self, lock: Lock) -> Result<()> {
        self.lock = Some(lock);
        let told = |error| Error::environment(format!("cannot listen for signals: {error}"));
        let mut term = signal(SignalKind::terminate()).map_err(told)?;
        let mut int = signal(SignalKind::interrupt()).map_err(told)?;
        let mut hup = signal(SignalKind::hangup()).map_err(told)?;
        let mut upkeep = interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut alarm = Alarm::unset();
        let mut next_look = Instant::now();
        while !self.finished {
            let deadline = self.until_deadline().min(next_look);
            tokio::select! {
                _ = self.children.recv() => self.reap(),
                Some(died) = self.deaths.join_next(), if !self.deaths.is_empty() => {
                    if let Ok(proc) = died {
                        self.process_died(proc);
                    }
                }
                Some(done) = self.work.join_next(), if !self.work.is_empty() => {
                    if let Ok(done) = done {
                        self.work_done(done);
                    }
                }
                (to, answer) = self.close_ups.next() => self.hub.send(to, &answer),
                Ok(message) = self.beat.next() => self.rank_said(message),
                Ok((stream, _)) = self.listener.accept() => self.hub.accept(stream),
                Some((from, said)) = self.said.recv() => self.viewer_said(from, said),
                _ = term.recv() => self.stop_by_signal("SIGTERM"),
                _ = int.recv() => self.stop_by_signal("SIGINT"),
                _ = hup.recv() => {}
                _ = upkeep.tick() => self.look_after_files(),
                told = self.metrics.next() => self.forward_told(told),
                entity = self.script.entity() => self.handle(Input::Forward(Told::Entity(entity))),
                ras = self.ras.next() => self.handle(Input::Ras(ras)),
                () = self.gpus.changed(), if !self.knows_gpus || self.waiting.is_some() => {
                    self.look_at_gpus(false);
                }
                () = alarm.until(deadline) => {
                    if Instant::now() >= next_look {
                        let more = self.look();
                        next_look = Instant::now() + self.pause(more);
                    } else {
                        self.handle(Input::Tick);
                    }
                }
            }
            self.go_on_waiting();
            self.sweep();
            // What happened in this turn is one message.
            self.hub.flush(self.core.state());
            if self.metrics.has_lingered() && !self.finished {
                self.stop_lingering();
            }
            if self.core.is_in_transition() || self.sweep.is_some() {
                next_look = next_look.min(Instant::now() + CLOSE);
            }
        }
        self.serve_the_past().await;
        Ok(())
    }

    fn pause(&self, more_to_read: bool) -> Duration {
        if self.core.is_in_transition() || more_to_read {
            CLOSE
        } else if self.asked_for_logs.is_some_and(|at| at.elapsed() < INTEREST) {
            READING
        } else {
            CALM
        }
    }

    fn until_deadline(&mut self) -> Instant {
        let now = self.clock.now();
        let far = Instant::now() + UPKEEP;
        // Not at once: a deadline that a machine keeps in the past must not make the loop spin.
        let soonest = Duration::from_millis(20);
        self.core.deadline().map_or(far, |due| Instant::now() + due.since(now).max(soonest))
    }

    fn handle(&mut self, input: Input) {
        let now = self.clock.now();
        let mut out = Out::default();
        self.core.handle(now, input, &mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, out: Out) {
        for event in &out.events {
            self.journal.keep(event);
            self.histories.take(self.core.state(), event);
        }
        self.blackbox.keep(&out.events);
        self.hub.tell(&out.events);
        if self.core.state().state != self.manifest.state && !self.finished {
            self.write_manifest();
        }
        for effect in out.effects {
            self.carry_out_one(effect);
        }
        // After the effects: those tell the forwarder of the ranks that the events are about.
        self.forward_events(&out.events);
    }

    fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::SpawnAgent => self.spawn_when_free(),
            Effect::KeepWandb(settings) => {
                if let Err(error) = self.dir.write_wandb_settings(&settings) {
                    tracing::warn!(%error, "cannot keep the settings for W&B");
                }
                self.forward_plan(settings);
            }
            Effect::Signal { target, signal } => {
                let sent = match target {
                    Target::Agent => self.manifest.agent.map_or(Ok(()), |agent| kill::signal(agent, signal)),
                    Target::Rank(proc) => kill::signal(proc, signal),
                    Target::RankGroup(proc) => kill::signal_group(proc, signal),
                };
                // Who is gone already needs no signal.
                if let Err(error) =
                    sent.or_else(|error| if proc::is_gone(&error) { Ok(()) } else { Err(error) })
                {
                    tracing::warn!(?target, signal, %error, "cannot send a signal");
                }
            }
            Effect::SignalRanks { ranks, signal, asker, command } => {
                let mut sent = Vec::new();
                let mut failed = None;
                for (local_rank, proc) in ranks {
                    match kill::signal(proc, signal) {
                        Ok(()) => sent.push(local_rank),
                        Err(error) => failed = Some(error.to_string()),
                    }
                }
                self.handle(Input::Signalled { asker, command, sent, error: failed });
            }
            Effect::TakeStacks { ranks, by, asker, command } => self.take_stacks(ranks, by, asker, command),
            Effect::SignalLeftover { proc, signal, asker } => {
                let error = kill::signal(proc, signal).err().map(|error| error.to_string());
                self.handle(Input::LeftoverSignalled { asker, proc, signal, error });
            }
            Effect::Reply { to: (viewer, id), outcome } => {
                self.hub.send(viewer, &ToViewer::Reply { id, outcome });
            }
            Effect::Watch(proc) => {
                self.leaders.push_back(proc);
                if self.leaders.len() > MAX_LEADERS {
                    self.leaders.pop_front();
                }
                self.watch(proc);
            }
            Effect::KeepLogs { sighting, local_rank, attempt } => {
                let paths = reading::keep_logs(&self.dir, &sighting);
                self.forward_rank(&sighting, local_rank, &paths);
                reading::add_rank(&mut self.logbook, paths, &sighting, local_rank, attempt);
            }
            Effect::Placed { pid, rank } => self.logbook.place(pid, rank),
            Effect::Examine { procs, whole } => self.examine(&procs, whole),
            Effect::AskRas { ranks } => self.ask_ras(ranks),
            Effect::Dump { text } => self.dump(&text),
            Effect::Drill { rank, order, asker, command } => self.drill(rank, &order, asker, command),
            Effect::ReadLastWords(proc) => self.read_last_words(proc),
            Effect::Drain => {
                if !self.end_leftovers(SIGTERM) {
                    self.drain();
                }
            }
            Effect::Finish => self.linger(),
        }
    }

    fn spawn_agent(&mut self) {
        let spawned = match &self.spec {
            Some(spec) => match self.core.restarts_left() {
                Some(left) => spec.with_restarts(left).spawn(&self.dir),
                None => spec.spawn(&self.dir),
            },
            None => Err("its command line died with the agent; start the job again".into()),
        };
        if let Ok(agent) = spawned {
            self.manifest.agent = Some(agent);
            self.write_manifest();
            self.readers = Readers::default();
            self.follow(agent);
            self.watch(agent);
        }
        self.handle(Input::Spawned(spawned));
        self.count_oom_kills();
    }

    fn follow(&mut self, agent: ProcId) {
        self.finder = Some(Finder::new(proc::ROOT, agent));
    }

    fn look(&mut self) -> bool {
        let more = self.read_logs();
        let now = self.clock.now();
        let sample = now.since(self.last_sample) + Duration::from_millis(50) >= CALM;
        if sample {
            self.last_sample = now;
            // What is open is still written, and nobody will ever find it.
            self.folder_is_gone = !self.dir.journal().exists();
            reading::unfinished_lines(&self.logbook).into_iter().for_each(|input| self.handle(input));
            self.forward_figures(now);
            self.look_for_runs();
            self.look_at_gpus(true);
        }
        // A rank that died within milliseconds shows nothing any more, but its shim spoke before.
        self.hear_ranks();
        if let Some(look) = self.finder.as_mut().map(Finder::look) {
            self.handle(Input::Looked { look, sample });
        }
        let (journal, logbook) = (self.journal.health(), self.logbook.health());
        let blackbox = self.blackbox.health();
        self.handle(Input::Storage {
            error: journal
                .error
                .map(|error| format!("elastictop cannot keep its journal: {error}"))
                .or(logbook.error)
                .or(blackbox.error)
                .or_else(|| self.folder_is_gone.then(|| upkeep::removed(&self.dir))),
            lost: journal.lost + logbook.lost + blackbox.lost,
        });
        more
    }

    fn read_logs(&mut self) -> bool {
        let now = self.clock.now();
        let mut inputs = Vec::new();
        let more = reading::read_logs(&mut self.logbook, &mut self.readers, now, &mut inputs);
        inputs.into_iter().for_each(|input| self.handle(input));
        more
    }

    fn read_last_words(&mut self, proc: ProcId) {
        let seen = self.finder.as_ref().and_then(|finder| {
            let env = finder.facts(proc)?.env.as_ref()?;
            proc::error_file(env, &proc::cwd(Path::new(proc::ROOT), finder.agent().pid)?)
        });
        let words = reading::last_words(&self.dir, proc, seen);
        self.logbook.close_rank(proc.pid);
        self.read_logs();
        if let Some(input) = words {
            self.handle(input);
        }
    }

    fn count_oom_kills(&mut self) {
        let of = self.manifest.agent.map_or_else(|| std::process::id() as i32, |agent| agent.pid);
        let root = Path::new(proc::ROOT);
        let count =
            cgroup::oom_kills(root, of).or_else(|| cgroup::oom_kills(root, std::process::id() as i32));
        if let Some(count) = count {
            self.handle(Input::OomKills(count));
        }
    }

    fn rank_said(&mut self, message: Message) {
        match message {
            Message::Hello(beat) | Message::Beat(beat) | Message::Bye(beat) => self.handle(Input::Beat(beat)),
            Message::Shim(shim) => {
                let sighting = Sighting { proc: shim.proc(), agent_pid: shim.agent_pid, place: shim.place };
                let ours = self.manifest.agent.is_some_and(|agent| agent.pid == sighting.agent_pid);
                if ours {
                    if let Some(finder) = &mut self.finder {
                        finder.follow(sighting.clone());
                    }
                    if self.core.starts_group(&sighting) {
                        // The last chance to learn how and why the group before it ended.
                        self.read_logs();
                        self.collect_deaths();
                    }
                    self.handle(Input::Seen(sighting));
                }
            }
        }
    }
}
