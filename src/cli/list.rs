//! Lists of jobs, and going to one of them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use serde::Serialize;

use super::{
    block_on,
    nodes::ReachArgs,
    out, plain,
    reach::Target,
    screen::{self, ScreenArgs},
};
use crate::{
    domain::{
        rank::JobState,
        report::SCHEMA,
        sample::Sighting,
        telling,
        time::{Stamp, ago, human},
    },
    error::{Error, Result},
    probe::{
        proc::{self, ROOT},
        scan::{self, FoundJob},
    },
    supervisor::{clock, folder::Manifest, journal, lock, place::Roots},
    tui::{self, JobRow},
};

#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    /// A torchrun agent that elastictop did not start; read-only
    #[arg(long, conflicts_with_all = ["job", "relay"])]
    pid: Option<i32>,
    /// Print one line per event instead of opening the screen
    #[arg(long, conflicts_with_all = ["nodes", "relay"])]
    plain: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

#[derive(Debug, Args)]
pub struct PsArgs {
    /// Jobs that are over, too
    #[arg(long, short)]
    all: bool,
    /// Print JSON (schema 1)
    #[arg(long)]
    json: bool,
}

/// `elastictop attach`.
pub fn attach(args: &AttachArgs, screen: &ScreenArgs) -> Result<u8> {
    let options = screen.options()?;
    if let Some(mut hosts) = args.reach.hosts(args.job.as_deref())? {
        if !screen::is_possible() {
            return Err(Error::usage("several nodes are watched on a screen, and this is no terminal")
                .hint("elastictop status --nodes … prints their state once"));
        }
        return match hosts.pop() {
            Some(only) if hosts.is_empty() && args.reach.is_relay() => {
                block_on(screen::watch_over(only.connect, &options))
            }
            last => block_on(screen::watch_nodes(hosts.into_iter().chain(last).collect(), &options)),
        };
    }
    let target = Target::find(args.job.as_deref(), args.pid)?;
    if args.plain || !screen::is_possible() {
        return block_on(plain::follow(&target, false, false));
    }
    block_on(screen::watch(&target, &options))
}

/// `elastictop` alone.
pub fn choose(screen: &ScreenArgs) -> Result<u8> {
    if !screen::is_possible() {
        return ps(&PsArgs { all: false, json: false });
    }
    let options = tui::Options { from_list: true, ..screen.options()? };
    let roots = Roots::find()?;
    block_on(async {
        let mut last = None;
        loop {
            let roots = roots.clone();
            let refresh = Arc::new(move || rows(&roots, true).into_iter().map(Row::into_screen).collect());
            let Some(key) = tui::choose(refresh, &options, last).await? else { return Ok(0) };
            let target = Target::find(Some(&key), None)?;
            if let Err(error) = screen::watch(&target, &options).await {
                out::note(&error);
                return Ok(error.exit_code());
            }
            last = Some(key);
        }
    })
}

/// `elastictop ps`.
pub fn ps(args: &PsArgs) -> Result<u8> {
    let roots = Roots::find()?;
    let rows = rows(&roots, args.all);
    if args.json {
        let text = serde_json::to_string_pretty(&List { schema: SCHEMA, jobs: &rows })
            .map_err(|error| Error::environment(format!("cannot write JSON: {error}")))?;
        out::say(text)?;
        return Ok(0);
    }
    for (id, why) in roots.damaged() {
        out::note(format_args!(
            "elastictop: the folder of {id} is damaged: {why}; elastictop rm {id} removes it"
        ));
    }
    if rows.is_empty() {
        out::say("no job runs here; start one: elastictop run train.py, or elastictop demo")?;
        return Ok(0);
    }
    let now = clock::wall();
    let width = rows.iter().map(|row| row.id.len()).max().unwrap_or(0).max(3);
    out::say(format_args!(
        "{:<width$}  {:<17}  {:>5}  {:>8}  {:<8}  NOTE",
        "JOB", "STATE", "RANKS", "AGENT", "RAN"
    ))?;
    for row in rows {
        out::say(format_args!(
            "{:<width$}  {:<17}  {:>5}  {:>8}  {:<8}  {}",
            row.id,
            row.state.map_or("n/a", telling::job_state),
            row.world_size.map_or("n/a".into(), |ranks| ranks.to_string()),
            row.pid.map_or("n/a".into(), |pid| pid.to_string()),
            row.started_at.map_or("n/a".into(), |at| human(row.ended_at.unwrap_or(now).since(at))),
            row.note,
        ))?;
    }
    Ok(0)
}

#[derive(Serialize)]
struct List<'a> {
    schema: u32,
    jobs: &'a [Row],
}

/// A job in a list.
#[derive(Debug, Serialize)]
struct Row {
    /// What `attach` takes.
    id: String,
    /// Null when it cannot be known.
    state: Option<JobState>,
    node: String,
    /// The agent's process id.
    pid: Option<i32>,
    world_size: Option<u32>,
    started_at: Option<Stamp>,
    /// Null while it runs.
    ended_at: Option<Stamp>,
    owner: String,
    /// Whether somebody else than elastictop started it.
    foreign: bool,
    /// In words, what else there is to know.
    note: String,
}

impl Row {
    fn into_screen(self) -> JobRow {
        JobRow {
            key: self.id.clone(),
            id: self.id,
            state: self.state,
            node: self.node,
            pid: self.pid,
            world: self.world_size,
            started_at: self.started_at,
            ended_at: self.ended_at,
            owner: self.owner,
            foreign: self.foreign,
            note: self.note,
        }
    }
}

fn rows(roots: &Roots, all: bool) -> Vec<Row> {
    let own = roots.all();
    let agents: Vec<_> = own.iter().filter(|job| !job.ended).filter_map(|job| job.agent).collect();
    let mut rows: Vec<_> =
        own.iter().rev().filter(|job| all || !job.ended).map(|job| own_row(roots, job)).collect();
    let found = scan::scan(Path::new(ROOT)).into_iter();
    // Of an agent that is gone only its ranks are left, which our shim noted.
    let running: Vec<_> = own.iter().filter(|job| !job.ended).map(|job| roots.job(&job.id)).collect();
    let is_noted = |rank: &Sighting| running.iter().any(|dir| dir.rank(rank.proc).exists());
    let is_ours = |job: &FoundJob| {
        let run_id = job.run_id.as_deref();
        job.agent.is_some_and(|agent| agents.contains(&agent))
            || job.orphaned && job.ranks.iter().any(is_noted)
            || own.iter().any(|own| Some(own.id.0.as_str()) == run_id)
    };
    rows.extend(found.filter(|job| !is_ours(job)).map(foreign_row));
    rows.sort_by_key(|row| row.state.is_some_and(JobState::is_over));
    rows
}

fn own_row(roots: &Roots, job: &Manifest) -> Row {
    let (state, note) = condition(roots, job);
    let is_over = state.is_some_and(JobState::is_over);
    Row {
        id: job.id.0.clone(),
        state,
        node: job.node.clone(),
        pid: job.agent.filter(|_| !is_over).map(|agent| agent.pid),
        world_size: job.world_size,
        started_at: Some(job.created_at),
        ended_at: is_over.then_some(job.seen_at),
        owner: scan::user_of(rustix::process::getuid().as_raw()),
        foreign: false,
        note,
    }
}

/// What a job is doing, and what else there is to know.
fn condition(roots: &Roots, job: &Manifest) -> (Option<JobState>, String) {
    let ended = |state| (Some(state), format!("ended {}", ago(clock::wall().since(job.seen_at))));
    if job.ended {
        return ended(job.state);
    }
    if job.node != scan::node_name() {
        return (Some(job.state), String::new());
    }
    if !lock::is_supervised(roots, job) {
        // Where the manifest could not be written at the end, the journal has it.
        let end = journal::end(&roots.job(&job.id).journal());
        return end.map_or((None, "its supervisor died; attach takes it over".into()), ended);
    }
    let pid = job.supervisor.pid;
    let is_stopped = proc::is_stopped(Path::new(ROOT), job.supervisor);
    let note = is_stopped.then(|| format!("its supervisor is stopped; kill -CONT {pid} wakes it"));
    (Some(job.state), note.unwrap_or_default())
}

fn foreign_row(job: FoundJob) -> Row {
    let pid = job.agent.map(|agent| agent.pid);
    let key = pid.or_else(|| job.ranks.first().map(|rank| rank.proc.pid)).unwrap_or_default();
    let command = job.command.join(" ");
    let command = command.chars().take(80).collect::<String>();
    let note = match folder_of(&job) {
        Some(folder) if !folder.is_dir() => {
            format!("started by elastictop; its folder was removed: kill {key} ends it")
        }
        Some(folder) => {
            let dir = folder.ancestors().nth(2).unwrap_or(&folder);
            format!("its folder is elsewhere: ELASTICTOP_DIR={} elastictop attach", dir.display())
        }
        None => format!("not started by elastictop: {command}"),
    };
    Row {
        id: format!("pid-{key}"),
        state: Some(if job.orphaned { JobState::Orphaned } else { JobState::Running }),
        node: job.node,
        pid,
        world_size: job.ranks.iter().find_map(|rank| rank.place.world_size),
        started_at: None,
        ended_at: None,
        owner: job.user.unwrap_or_else(|| job.uid.to_string()),
        foreign: true,
        note,
    }
}

/// The folder that elastictop keeps a job in that it started, as its processes know; `None` for a job of others.
fn folder_of(job: &FoundJob) -> Option<PathBuf> {
    let proc = job.ranks.first().map(|rank| rank.proc).or(job.agent)?;
    let env = proc::whole_env(Path::new(ROOT), proc.pid)?;
    let (_, folder) = env.into_iter().find(|(name, _)| name == "ELASTICTOP_JOB_DIR")?;
    Some(PathBuf::from(folder))
}
