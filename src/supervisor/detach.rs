//! Starting a supervisor that outlives the terminal, and being one.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};
use tracing::Level;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::{
    child::Spec,
    clock,
    core::{Core, Out, Rules},
    folder::{JobDir, Manifest},
    inject, journal,
    lock::{Lock, myself, other_supervisor},
    place::Roots,
    run::Supervisor,
    serve::{Asked, Door},
};
use crate::{
    domain::{
        event::{Fact, JobInfo},
        forward::Settings,
        id::JobId,
        rank::{JobState, RankState},
        sample::Sighting,
        state::State,
    },
    error::{Error, Kind, Result},
    probe::files,
};

/// What a supervisor is to do. Travels through a pipe: it may hold secrets.
#[derive(Debug, Serialize, Deserialize)]
enum Task {
    Start { job: Box<JobInfo>, rules: Rules, spec: Spec, wandb: Option<Box<Settings>>, serve: Option<Asked> },
    Adopt { id: JobId },
}

/// The first line that a supervisor writes.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// What else there is to tell about the job that was taken over.
    Ready {
        told: Option<String>,
    },
    Failed {
        kind: Kind,
        text: String,
        hints: Vec<String>,
    },
}

/// Starts a job under a supervisor of its own, and returns when the supervisor is ready. Without `wandb` metrics stay
/// the script's own affair; without `serve` facts are not served.
///
/// # Errors
/// What the supervisor could not do; then nothing runs.
pub fn start(
    job: JobInfo,
    rules: Rules,
    spec: Spec,
    wandb: Option<Settings>,
    serve: Option<Asked>,
) -> Result<()> {
    launch(&Task::Start { job: Box::new(job), rules, spec, wandb: wandb.map(Box::new), serve }).map(drop)
}

/// Starts a supervisor for a job whose supervisor died, and returns when it is ready: with what the job lost, in
/// words, if it lost anything.
///
/// # Errors
/// What the supervisor could not do; [`Kind::Job`] when the job is over or has a supervisor.
pub fn adopt(id: JobId) -> Result<Option<String>> {
    launch(&Task::Adopt { id })
}

fn launch(task: &Task) -> Result<Option<String>> {
    let told = |error: io::Error| Error::environment(format!("cannot start the supervisor: {error}"));
    let program = std::env::current_exe().map_err(told)?;
    let mut child = Command::new(program)
        .arg("__supervise")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(told)?;
    if let Some(mut stdin) = child.stdin.take() {
        let sent =
            serde_json::to_vec(task).map_err(io::Error::from).and_then(|bytes| stdin.write_all(&bytes));
        sent.map_err(told)?;
    }
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(told)?;
    }
    match serde_json::from_str(&line) {
        Ok(Report::Ready { told }) => Ok(told),
        Ok(Report::Failed { kind, text, hints }) => Err(Error { kind, text, hints }),
        Err(_) => {
            let mut said = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                // Whatever it says is better than nothing.
                let _ = stderr.read_to_string(&mut said);
            }
            Err(Error::environment(format!("the supervisor ended before it was ready: {}", said.trim())))
        }
    }
}

/// The supervisor process: `elastictop __supervise`, its task on standard input.
pub fn main() -> std::process::ExitCode {
    // Fails only for a process that leads a group already, which then is out of the terminal's reach too.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"elastictop-sup");
    match supervise() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            report(&Report::Failed { kind: error.kind, text: error.text.clone(), hints: error.hints });
            tracing::error!("{}", error.text);
            std::process::ExitCode::from(1)
        }
    }
}

fn report(report: &Report) {
    let mut line = serde_json::to_vec(report).unwrap_or_default();
    line.push(b'\n');
    // After the report was read, nobody is there; then it is in the log.
    let _ = io::stdout().write_all(&line);
}

fn supervise() -> Result<()> {
    let mut bytes = Vec::new();
    let told = |what: &'static str| move |error: io::Error| Error::environment(format!("{what}: {error}"));
    io::stdin().read_to_end(&mut bytes).map_err(told("cannot read the task"))?;
    let task: Task = serde_json::from_slice(&bytes)
        .map_err(|error| Error::environment(format!("cannot understand the task: {error}")))?;
    files::allow_many();
    let roots = Roots::find()?;
    // Without it, orphans go to init: they can still be watched and signalled, only not collected.
    let _ = rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(told("cannot start the event loop"))?;
    let id = match &task {
        Task::Start { job, .. } => job.id.clone(),
        Task::Adopt { id } => id.clone(),
    };
    let lock = Lock::take(&roots, &id)?;
    runtime.block_on(async {
        let (supervisor, told) = match task {
            Task::Start { job, rules, spec, wandb, serve } => {
                (begin(&roots, *job, rules, spec, (wandb.map(|wandb| *wandb), serve))?, None)
            }
            Task::Adopt { id } => take_over(&roots, &id)?,
        };
        report(&Report::Ready { told });
        leave_terminal(&roots, &id);
        Box::pin(supervisor.run(lock)).await
    })
}

fn begin(
    roots: &Roots,
    job: JobInfo,
    rules: Rules,
    spec: Spec,
    wanted: (Option<Settings>, Option<Asked>),
) -> Result<Supervisor> {
    let dir = roots.job(&job.id);
    dir.create().map_err(|error| Error::io("cannot make the folder", &dir.root, &error))?;
    let begun = begin_in(roots, &dir, job, rules, spec, wanted);
    if begun.is_err() {
        // Nothing was started: a folder that stays would look like a job.
        let _ = std::fs::remove_dir_all(&dir.root);
    }
    begun
}

fn begin_in(
    roots: &Roots,
    dir: &JobDir,
    job: JobInfo,
    rules: Rules,
    spec: Spec,
    (wandb, serve): (Option<Settings>, Option<Asked>),
) -> Result<Supervisor> {
    let door = serve.map(|asked| Door::open(asked.address(roots, &job.id)?)).transpose()?;
    inject::write(&dir.python()).map_err(|error| Error::io("cannot write into", &dir.python(), &error))?;
    dir.keep_program().map_err(|error| Error::io("cannot put the program into", &dir.program(), &error))?;
    let now = clock::wall();
    let manifest = Manifest {
        v: 1,
        id: job.id.clone(),
        name: job.name.clone(),
        node: job.node.clone(),
        created_at: now,
        supervisor: myself(),
        agent: None,
        socket: roots.socket(&job.id),
        ended: false,
        state: JobState::Starting,
        world_size: None,
        rules,
        job: job.clone(),
        seen_at: now,
        wandb: wandb.clone(),
        serve: door.as_ref().map(|door| door.address.clone()),
    };
    dir.write_manifest(&manifest).map_err(|error| Error::io("cannot write into", &dir.root, &error))?;
    start_log(&dir.supervisor_log());
    let start = |clock: &mut clock::Clock, out: &mut Out| Core::new(clock.now(), job, rules, wandb, out);
    let mut supervisor = Supervisor::open(roots, manifest, Some(spec), start)?;
    if let Some(door) = door {
        supervisor.serve(roots, Ok(door));
    }
    Ok(supervisor)
}

fn take_over(roots: &Roots, id: &JobId) -> Result<(Supervisor, Option<String>)> {
    let dir = roots.job(id);
    let mut manifest =
        dir.manifest().map_err(|error| Error::io("cannot read", &dir.manifest_path(), &error))?;
    let is_over = || Error::job(format!("job {id} is over"));
    if manifest.ended {
        return Err(is_over());
    }
    // Its lock is gone with the folder of locks: two supervisors would spoil the journal for each other.
    if let Some(other) = other_supervisor(&manifest) {
        return Err(Error::job(format!("job {id} has a supervisor already, pid {}", other.pid)));
    }
    start_log(&dir.supervisor_log());
    let past = journal::read(&dir.journal(), |_| {})
        .map_err(|error| Error::io("cannot read", &dir.journal(), &error))?;
    if past.state.state.is_over() {
        // Its supervisor died, or met a full disk, after the last record of the journal.
        (manifest.ended, manifest.state) = (true, past.state.state);
        // Where nothing can be written, the journal says it each time.
        let _ = dir.write_manifest(&manifest);
        return Err(is_over());
    }
    let lost = past.lost();
    let mut state = past.filled_up(&manifest);
    let agent = state.agent.as_ref().filter(|agent| agent.alive).map(|agent| agent.proc).or(manifest.agent);
    let spec = agent.and_then(|agent| Spec::of_running(agent).ok());
    let ranks = ranks_of(&state);
    let (last_seen, rules) = (Some(manifest.seen_at), manifest.rules);
    let mut text = "a new supervisor took over; the agent's exit code will be unknown".to_owned();
    if let Some(lost) = &lost {
        text = format!("{text}; {lost}");
    }
    if let (None, Some(proc)) = (&state.agent, agent) {
        state.agent = Some(crate::domain::state::Agent { proc, alive: true, exit: None });
    }
    manifest.supervisor = myself();
    manifest.agent = agent;
    manifest.socket = roots.socket(id);
    dir.write_manifest(&manifest).map_err(|error| Error::io("cannot write into", &dir.root, &error))?;
    let serve = manifest.serve.clone();
    let told = Fact::Adopted { supervisor_pid: manifest.supervisor.pid, last_seen, text };
    let mut supervisor = Supervisor::open(roots, manifest, spec, |clock, out| {
        Core::adopt(clock.now(), state, rules, told, out)
    })?;
    if let Some(address) = serve {
        supervisor.serve(roots, Door::open(address));
    }
    supervisor.take_over_ranks(ranks);
    Ok((supervisor, lost))
}

fn ranks_of(state: &State) -> Vec<Sighting> {
    let agent_pid = state.agent.as_ref().map_or(0, |agent| agent.proc.pid);
    let alive = state.ranks.iter().filter(|rank| rank.state != RankState::Exited);
    alive.map(|rank| Sighting { proc: rank.proc, agent_pid, place: rank.place.clone() }).collect()
}

/// What is written for elastictop's own developers goes into the job's folder, never to the terminal.
fn start_log(path: &Path) {
    let Ok(file) = File::options().create(true).append(true).mode(0o600).open(path) else { return };
    let wanted = std::env::var("ELASTICTOP_LOG").ok().and_then(|words| words.parse().ok());
    let filter = wanted.unwrap_or_else(|| Targets::new().with_default(Level::INFO));
    let lines = tracing_subscriber::fmt::layer().with_writer(file).with_ansi(false);
    // A second call, as in tests, changes nothing.
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
}

/// Lets go of the pipes to the process that started this one.
fn leave_terminal(roots: &Roots, id: &JobId) {
    let path = roots.job(id).supervisor_log();
    let log = File::options().create(true).append(true).open(path);
    if let (Ok(null), Ok(log)) = (File::open("/dev/null"), log) {
        // A descriptor that stays open costs nothing but a pipe.
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&log);
        let _ = rustix::stdio::dup2_stderr(&log);
    }
}
