//! Carries out what the [`Group`] wants: makes processes, signals them, waits for them, prints.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    future,
    net::TcpListener,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Pid, Signal};
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

use super::{
    Args, Sink,
    gpu::{self, GpuWait},
    group::{Config, Effect, Group, Input, Outcome, Rank},
    logs::{Folders, Source, Tee},
    report::{self, ErrorFile, Events},
};
use crate::{
    domain::exit::{Exit, signal_name},
    error::{Error, Result},
};

/// The signals that end the launcher, and what the ranks are told of it in `TORCHELASTIC_SIGNALS_TO_HANDLE`.
const ENDING: [i32; 4] = [15, 2, 1, 3];
const ENDING_NAMES: &str = "SIGTERM,SIGINT,SIGHUP,SIGQUIT";

/// Runs a job to its end.
///
/// # Errors
/// What kept the job from starting at all. What happens later is an [`Outcome`].
pub async fn run(args: Args) -> Result<Outcome> {
    let mut signals = Signals::listen()
        .map_err(|error| Error::environment(format!("cannot listen for signals: {error}")))?;
    let folders = Folders::make(args.log_dir.as_deref(), &args.run_id).map_err(|error| {
        let place = args.log_dir.clone().unwrap_or_else(std::env::temp_dir);
        Error::io("cannot make a log folder in", &place, &error)
    })?;
    let tee = Tee::start(args.monitor_interval)
        .map_err(|error| Error::environment(format!("cannot start a thread: {error}")))?;
    let mut effects = Vec::new();
    let config = Config { ranks: args.nproc_per_node, max_restarts: args.max_restarts, grace: args.grace };
    let mut group = Group::new(config, &mut effects);
    let mut runner = Runner::new(args, folders, tee);
    let mut waiting: Option<GpuWait> = None;

    loop {
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Start { restart } if restart > 0 && !runner.args.gpu_wait.is_zero() => {
                        waiting = Some(GpuWait::new(restart, runner.args.gpu_wait));
                    }
                    Effect::Start { restart } => runner.start(restart, &mut group, &mut effects),
                    Effect::Finish(outcome) => {
                        runner.finish(&group, outcome);
                        return Ok(outcome);
                    }
                    other => runner.perform(&other),
                }
            }
        }
        if let Some(ready) = waiting.take_if(GpuWait::is_over) {
            runner.start(ready.restart, &mut group, &mut effects);
            continue;
        }
        let deadline = group.deadline().map(|at| runner.began + at);
        let input = tokio::select! {
            received = signals.next() => match received {
                Received::Child if runner.args.deadlock => None,
                Received::Child => runner.reap(),
                Received::Ending(number) => {
                    report::log('W', &format!("Received {number} death signal, shutting down workers"));
                    Some(Input::Signal(number))
                }
            },
            () = tokio::time::sleep(gpu::LOOK), if waiting.is_some() => None,
            () = until(deadline) => {
                group.on_deadline(runner.began.elapsed(), &mut effects);
                None
            }
        };
        if let Some(input) = input {
            let is_signal = matches!(input, Input::Signal(_));
            group.handle(runner.began.elapsed(), input, &mut effects);
            if is_signal && std::mem::take(&mut runner.args.deadlock) {
                // A real agent's lock is interrupted by the signal, too.
                let ends = runner.reap();
                ends.into_iter().for_each(|ends| group.handle(runner.began.elapsed(), ends, &mut effects));
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => future::pending().await,
    }
}

struct Signals {
    child: Listener,
    ending: [Listener; 4],
}

enum Received {
    Child,
    Ending(i32),
}

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        let on = |number| signal(SignalKind::from_raw(number));
        let [a, b, c, d] = ENDING;
        Ok(Signals { child: signal(SignalKind::child())?, ending: [on(a)?, on(b)?, on(c)?, on(d)?] })
    }

    async fn next(&mut self) -> Received {
        let [a, b, c, d] = &mut self.ending;
        tokio::select! {
            _ = self.child.recv() => Received::Child,
            _ = a.recv() => Received::Ending(ENDING[0]),
            _ = b.recv() => Received::Ending(ENDING[1]),
            _ = c.recv() => Received::Ending(ENDING[2]),
            _ = d.recv() => Received::Ending(ENDING[3]),
        }
    }
}

/// A rank's process and where its `error.json` would be.
struct Process {
    /// `None` once it was waited for.
    child: Option<Child>,
    ended_at: i64,
    error_file: PathBuf,
}

struct Runner {
    args: Args,
    folders: Folders,
    tee: Tee,
    events: Events,
    verbose: bool,
    began: Instant,
    processes: Vec<Process>,
}

impl Runner {
    fn new(args: Args, folders: Folders, tee: Tee) -> Runner {
        let program = Path::new(&args.command[0]);
        let events = Events {
            run_id: args.run_id.clone(),
            role: args.role.clone(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            entry_point: program.file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned(),
            world_size: args.nproc_per_node,
        };
        let verbose = std::env::var("LOGLEVEL").is_ok_and(|level| level == "INFO" || level == "DEBUG");
        Runner { args, folders, tee, events, verbose, began: Instant::now(), processes: Vec::new() }
    }

    fn start(&mut self, restart: u32, group: &mut Group, out: &mut Vec<Effect>) {
        self.processes.clear();
        let now = self.began.elapsed();
        let port = free_port().map_err(|error| format!("no free port for MASTER_PORT: {error}"));
        for rank in 0..self.args.nproc_per_node {
            match port.clone().and_then(|port| self.spawn(rank, restart, port)) {
                Ok((process, pid)) => {
                    self.processes.push(process);
                    report::say(&self.events.start(rank, pid, restart));
                    group.handle(now, Input::Spawned { rank, pid }, out);
                }
                Err(error) => {
                    report::log('E', &format!("cannot start local_rank: {rank}: {error}"));
                    group.handle(now, Input::NotSpawned { rank }, out);
                    return;
                }
            }
        }
    }

    fn spawn(&self, rank: u32, restart: u32, port: u16) -> Result<(Process, i32), String> {
        let folder = self
            .folders
            .rank(restart, rank)
            .map_err(|error| format!("cannot make its log folder: {error}"))?;
        let error_file = folder.join("error.json");
        // Through /proc the launcher finds itself even after its file was replaced by an upgrade.
        let shim = self.args.shim.as_deref().unwrap_or(Path::new("/proc/self/exe"));
        let mut command = Command::new(shim);
        command.arg0("elastictop").args(["__rank", "--setsid", "--"]).args(&self.args.command);
        for (name, value) in self.environment(rank, restart, port) {
            command.env(name, value);
        }
        command.env("TORCHELASTIC_ERROR_FILE", &error_file);
        command.stdout(self.output(rank, 1, &folder.join("stdout.log"))?);
        command.stderr(self.output(rank, 2, &folder.join("stderr.log"))?);
        let child = command.spawn().map_err(|error| format!("cannot run {}: {error}", shim.display()))?;
        let pid = child.id() as i32;
        Ok((Process { child: Some(child), ended_at: 0, error_file }, pid))
    }

    /// What torchrun tells its ranks.
    fn environment(&self, rank: u32, restart: u32, port: u16) -> Vec<(&'static str, String)> {
        let args = &self.args;
        let (rank_text, world) = (rank.to_string(), args.nproc_per_node.to_string());
        let local_rank = if args.virtual_local_rank { "0".into() } else { rank_text.clone() };
        let mut env = vec![
            ("RANK", rank_text.clone()),
            ("LOCAL_RANK", local_rank),
            ("WORLD_SIZE", world.clone()),
            ("LOCAL_WORLD_SIZE", world.clone()),
            ("GROUP_RANK", "0".into()),
            ("GROUP_WORLD_SIZE", "1".into()),
            ("ROLE_NAME", args.role.clone()),
            ("ROLE_RANK", rank_text.clone()),
            ("ROLE_WORLD_SIZE", world),
            ("MASTER_ADDR", "localhost".into()),
            ("MASTER_PORT", port.to_string()),
            ("TORCHELASTIC_RUN_ID", args.run_id.clone()),
            ("TORCHELASTIC_RESTART_COUNT", restart.to_string()),
            ("TORCHELASTIC_MAX_RESTARTS", args.max_restarts.to_string()),
            ("TORCHELASTIC_USE_AGENT_STORE", "False".into()),
            ("TORCHELASTIC_SIGNALS_TO_HANDLE", ENDING_NAMES.into()),
        ];
        if std::env::var_os("TORCH_NCCL_ASYNC_ERROR_HANDLING").is_none() {
            env.push(("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1".into()));
        }
        if args.nproc_per_node > 1 && std::env::var_os("OMP_NUM_THREADS").is_none() {
            env.push(("OMP_NUM_THREADS", "1".into()));
        }
        if args.virtual_local_rank {
            let given = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
            let mine = given.split(',').nth(rank as usize).map(str::trim).filter(|device| !device.is_empty());
            env.push(("CUDA_VISIBLE_DEVICES", mine.map_or(rank_text, str::to_owned)));
        }
        env
    }

    fn output(&self, rank: u32, stream: u8, path: &Path) -> Result<Stdio, String> {
        let sink = self.args.sink(rank, stream);
        let Sink::File { tee } = sink else { return Ok(sink.stdio()) };
        let file: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        if tee {
            let prefix = format!("[{}{rank}]:", self.args.role);
            self.tee.follow(Source { path: path.to_owned(), prefix, to_stderr: stream == 2 });
        }
        Ok(file.into())
    }

    fn perform(&self, effect: &Effect) {
        match *effect {
            Effect::Failed { rank, pid, exit } => {
                let program = self.args.command[0].display();
                let code = exit.to_python();
                report::log(
                    'E',
                    &format!(
                        "failed (exitcode: {code}) local_rank: {rank} (pid: {pid}) of binary: {program}"
                    ),
                );
            }
            Effect::Close { pid, signal } => {
                let name = signal_name(signal).unwrap_or("unknown signal");
                report::log('W', &format!("Sending process {pid} closing signal {name}"));
                signal_group(pid, signal);
                signal_group(pid, Signal::CONT.as_raw());
            }
            Effect::Kill { pid, after } => {
                let name = signal_name(after).unwrap_or("unknown signal");
                report::log(
                    'W',
                    &format!("Unable to shutdown process {pid} via {name}, forcefully exiting via SIGKILL"),
                );
                signal_group(pid, Signal::KILL.as_raw());
            }
            Effect::Restarting { left } => {
                self.tee.flush();
                if self.verbose {
                    let (role, all) = (&self.args.role, self.args.max_restarts);
                    let text = "attempts left; will restart worker group";
                    report::log('I', &format!("[{role}] Worker group FAILED. {left}/{all} {text}"));
                }
            }
            Effect::Start { .. } | Effect::Finish(_) => {}
        }
    }

    /// Waits for all that have ended. Of several, those with the older `error.json` come first.
    fn reap(&mut self) -> Option<Input> {
        let mut ends = Vec::new();
        for (rank, process) in (0..).zip(&mut self.processes) {
            let Some(child) = &mut process.child else { continue };
            match child.try_wait() {
                Ok(Some(status)) => {
                    let written = process.error_file.metadata().and_then(|meta| meta.modified()).ok();
                    process.child = None;
                    process.ended_at = epoch_seconds();
                    ends.push((written.is_none(), written, rank, Exit::from_wait_status(status.into_raw())));
                }
                Ok(None) => {}
                Err(error) => report::log('E', &format!("cannot wait for local_rank: {rank}: {error}")),
            }
        }
        ends.sort_by_key(|(none, written, ..)| (*none, *written));
        let ends: Vec<_> = ends.into_iter().map(|(_, _, rank, exit)| (rank, exit)).collect();
        (!ends.is_empty()).then_some(Input::Exited(ends))
    }

    /// Prints how it all ended.
    fn finish(self, group: &Group, outcome: Outcome) {
        self.tee.finish();
        let error = |rank: u32| ErrorFile::read(&self.processes[rank as usize].error_file);
        let seconds = self.began.elapsed().as_secs();
        for (rank, known) in (0..).zip(group.ranks()) {
            if let Rank::Ended { pid, exit, .. } = *known {
                let raw = if exit.is_success() { None } else { error(rank).map(|error| error.raw) };
                report::say(&self.events.end(rank, pid, group.restart(), seconds, exit, raw));
            }
        }
        match outcome {
            Outcome::Succeeded => {}
            Outcome::Failed => {
                let at = |rank: u32| self.processes[rank as usize].ended_at;
                let failures = report::failures(group.ranks(), at, error);
                let Events { entry_point, hostname, .. } = &self.events;
                report::say(&report::failure_block(entry_point, hostname, &failures));
            }
            Outcome::Signalled(signal) => {
                let name = signal_name(signal).unwrap_or("a signal");
                report::say(&format!("elastictop: the launcher was ended by {name}"));
            }
        }
    }
}

/// To the rank's process group; to the rank alone while its shim has not made the group yet.
fn signal_group(pid: i32, signal: i32) {
    let (Some(pid), Some(signal)) = (Pid::from_raw(pid), Signal::from_named_raw(signal)) else { return };
    if rustix::process::kill_process_group(pid, signal) == Err(rustix::io::Errno::SRCH) {
        // The rank is not waited for yet, so the pid is still its own.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// A port that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn epoch_seconds() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs() as i64
}
