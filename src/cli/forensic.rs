//! Commands that find out what is wrong: stacks, diagnose, bundle.

mod bundle;

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

pub use self::bundle::{BundleArgs, bundle};
use super::{
    block_on, out,
    reach::{Target, carry_out_with},
};
use crate::{
    domain::{
        command::Command,
        flight::{
            Dump,
            analyse::analyse,
            tell::{self, Report, Unreadable},
        },
        report::SCHEMA,
        stack::{Source, Stacks},
        state::State,
    },
    error::{Error, Kind, Result},
    probe::{flight::read_file, ras},
    supervisor::{
        aside::{self, Observer},
        clock,
        folder::{JobDir, Manifest},
        forensic, journal,
        place::Roots,
    },
    wire::message::ToViewer,
};

/// Exit code of `diagnose` when something is wrong.
const FOUND: u8 = 1;
/// Exit code of `diagnose` when it cannot tell.
const CANNOT_TELL: u8 = 2;

#[derive(Debug, Args)]
pub struct StacksArgs {
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    /// A torchrun agent that elastictop did not start; needs py-spy
    #[arg(long, conflicts_with = "job")]
    pid: Option<i32>,
    /// Global rank, with all its threads; all ranks of this node if left out
    #[arg(long, short)]
    rank: Option<u32>,
    /// Read them only this way [default: the first that works]
    #[arg(long, value_name = "WAY")]
    by: Option<Way>,
    /// Print JSON (schema 1)
    #[arg(long)]
    json: bool,
}

/// A way to read stacks.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    /// From outside, whatever the rank does; needs py-spy and the right to trace
    PySpy,
    /// Torch's worker server in the rank; needs Python's lock
    Server,
    /// elastictop's thread in the rank; needs Python's lock
    Thread,
}

impl From<Way> for Source {
    fn from(way: Way) -> Source {
        match way {
            Way::PySpy => Source::PySpy,
            Way::Server => Source::Server,
            Way::Thread => Source::Thread,
        }
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 nothing is wrong between the ranks, 1 something is, 2 a file cannot be read \
                        or no rank left a dump, 3 no such job."
)]
pub struct DiagnoseArgs {
    /// Dump files of all ranks, pickle or JSON, the rank at the end of the name; or one job. The newest job if left out
    #[arg(value_name = "FILE|JOB")]
    what: Vec<String>,
    /// Ranks in the whole job, to notice those that left no dump
    #[arg(long, value_name = "N")]
    world_size: Option<u32>,
    /// Print JSON (schema 1)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct RasArgs {
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    /// Ask this address, not the job's
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "job")]
    addr: Option<String>,
    /// Print JSON (schema 1)
    #[arg(long)]
    json: bool,
}

/// `elastictop stacks`.
pub fn stacks(args: &StacksArgs) -> Result<u8> {
    let target = Target::find(args.job.as_deref(), args.pid)?;
    let by = args.by.map(Source::from);
    let stacks = match &target {
        Target::Foreign(pid) => {
            let observer = Observer::new(&aside::find_foreign(*pid)?);
            let wanted = forensic::living(observer.state(), None, args.rank);
            if wanted.is_empty() {
                return Err(Error::job("no such rank lives"));
            }
            forensic::stacks(&wanted, by)
        }
        Target::Own { .. } => block_on(ask(&target, args.rank, by))?,
    };
    if args.json {
        #[derive(serde::Serialize)]
        struct Told<'a> {
            schema: u32,
            #[serde(flatten)]
            stacks: &'a Stacks,
        }
        print_json(&Told { schema: SCHEMA, stacks: &stacks })?;
    } else {
        out::say(stacks.text())?;
    }
    Ok(0)
}

async fn ask(target: &Target, rank: Option<u32>, by: Option<Source>) -> Result<Stacks> {
    let mut link = target.greet(false).await?.link;
    let mut stacks = None;
    carry_out_with(&mut link, Command::Stacks { rank, by }, |message| {
        if let ToViewer::Stacks { stacks: told, .. } = message {
            stacks = Some(told);
        }
    })
    .await?;
    stacks.ok_or_else(|| {
        Error::environment("the supervisor sent no stacks").hint("its elastictop may be older than this one")
    })
}

/// `elastictop diagnose`.
pub fn diagnose(args: &DiagnoseArgs) -> Result<u8> {
    // 1 means that something was found, and nothing else.
    diagnose_or_fail(args).map_err(|error| match error.kind {
        Kind::Environment => Error { kind: Kind::Usage, ..error },
        _ => error,
    })
}

fn diagnose_or_fail(args: &DiagnoseArgs) -> Result<u8> {
    let files: Vec<&Path> = args.what.iter().map(Path::new).collect();
    let are_files = !files.is_empty() && (files.len() > 1 || files[0].exists());
    let mut found = if are_files {
        Found::of_files(&files)
    } else {
        Found::of_job(args.what.first().map(String::as_str))?
    };
    if let Some(world_size) = args.world_size {
        found.dumps.iter_mut().for_each(|dump| dump.world_size = Some(world_size));
    }
    let analysis = analyse(&found.dumps);
    if args.json {
        print_json(&Report::new(found.job.as_deref(), &analysis, &found.unreadable, &found.notes))?;
    } else {
        out::say(tell::text(&analysis, &found.unreadable, &found.notes))?;
    }
    Ok(
        match (
            analysis.findings.is_empty(),
            analysis.dumped.is_empty() || (are_files && !found.unreadable.is_empty()),
        ) {
            (false, _) => FOUND,
            (true, true) => CANNOT_TELL,
            (true, false) => 0,
        },
    )
}

/// Dumps, and what there is to say about where they come from.
#[derive(Default)]
struct Found {
    job: Option<String>,
    dumps: Vec<Dump>,
    unreadable: Vec<Unreadable>,
    notes: Vec<String>,
}

impl Found {
    fn of_files(files: &[&Path]) -> Found {
        let mut found = Found::default();
        for (at, path) in files.iter().enumerate() {
            found.read(path, Some(at as u32));
        }
        found
    }

    fn read(&mut self, path: &Path, otherwise: Option<u32>) {
        match read_file(path, otherwise) {
            Ok(dump) => self.dumps.push(dump),
            Err(why) => self.unreadable.push(Unreadable { what: path.display().to_string(), why }),
        }
    }

    /// What the living ranks of a job tell now; of a job that is over, what it left.
    fn of_job(wanted: Option<&str>) -> Result<Found> {
        let target = Target::find(wanted, None)?;
        let Target::Own { roots, manifest } = &target else {
            return Err(Error::job(
                "flight recorders of a job that elastictop did not start cannot be asked for",
            )
            .hint("give the dump files that its ranks left"));
        };
        let state = block_on(target.greet(false))?.state;
        let mut found = Found { job: Some(manifest.id.0.clone()), ..Found::default() };
        if !state.state.is_over() {
            found.ask_ranks(roots, manifest, &state)?;
        }
        if found.dumps.is_empty() {
            found.read_left(&roots.job(&manifest.id));
        }
        Ok(found)
    }

    fn ask_ranks(&mut self, roots: &Roots, manifest: &Manifest, state: &State) -> Result<()> {
        let folder = tempfile::tempdir().map_err(|error| {
            Error::environment(format!("cannot make a folder for dumps: {error}")).hint("set TMPDIR")
        })?;
        let ranks = forensic::living(state, Some(&roots.beat(&manifest.id)), None);
        let (files, silent) = forensic::take_flight(folder.path(), &ranks, state.world_size, clock::wall())
            .map_err(|error| Error::io("cannot write a dump to", folder.path(), &error))?;
        self.unreadable.extend(silent);
        files.iter().for_each(|file| self.read(file, None));
        self.notes.push("asked the living ranks just now".into());
        Ok(())
    }

    /// The newest folder of dumps that were taken when the job hung, or else what torch left itself in the last attempt.
    fn read_left(&mut self, dir: &JobDir) {
        let taken = forensic::newest_dump(dir);
        let (files, note) = match taken {
            Some(folder) => {
                let note = format!("read what was taken of the ranks in {}", folder.display());
                (dump_files(&folder, None), note)
            }
            None => {
                let note = format!("read what torch left in {}", dir.flight().display());
                (dump_files(&dir.flight(), last_start(dir)), note)
            }
        };
        if !files.is_empty() {
            self.notes.push(note);
        }
        files.iter().for_each(|file| self.read(file, None));
    }
}

/// The dumps in a folder, written since `since`: a file of an earlier attempt says nothing about the last one.
fn dump_files(folder: &Path, since: Option<std::time::SystemTime>) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_dump = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("rank_") && !name.ends_with(".new")
    };
    let is_new = |path: &PathBuf| {
        let written = || fs::metadata(path).and_then(|meta| meta.modified()).ok();
        since.is_none_or(|since| written().is_some_and(|written| written >= since))
    };
    let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(is_dump).filter(is_new).collect();
    files.sort();
    files
}

/// When the last group started.
fn last_start(dir: &JobDir) -> Option<std::time::SystemTime> {
    // A journal that cannot be read only means that older dumps are not left out. One that was moved aside as it grew
    // goes on with the state, which knows of starts before that.
    let past = journal::read(&dir.journal(), |_| {}).ok()?;
    let at = past.state.attempts.back().map(|attempt| attempt.started_at);
    Some(std::time::UNIX_EPOCH + std::time::Duration::from_millis(at?.0))
}

/// `elastictop ras`.
pub fn ras(args: &RasArgs) -> Result<u8> {
    let answer = match &args.addr {
        Some(addr) => ask_ras(addr)?,
        None => {
            let addr = ras_addr(args.job.as_deref())?;
            ask_ras(&addr.ok_or_else(|| {
                Error::job("no living rank of the job tells an NCCL RAS address")
                    .hint("give --addr HOST:PORT")
            })?)?
        }
    };
    if args.json {
        print_json(&answer.report())?;
    } else {
        out::say(answer.text())?;
    }
    Ok(0)
}

/// Where the RAS of a job of this machine listens, if a living rank of it tells.
///
/// # Errors
/// There is no such job, or it cannot be reached.
pub fn ras_addr(job: Option<&str>) -> Result<Option<String>> {
    let target = Target::find(job, None)?;
    let state = block_on(target.greet(false))?.state;
    Ok(forensic::ras_addr(&state))
}

/// Asks the RAS behind an address.
///
/// # Errors
/// Nobody answers, or what answers is not RAS.
pub fn ask_ras(addr: &str) -> Result<ras::Answer> {
    ras::ask(addr).map_err(|error: std::io::Error| {
        Error::environment(format!("cannot ask NCCL RAS at {addr}: {error}"))
            .hint("it exists once a rank made an NCCL communicator (NCCL 2.24 or newer), and not with gloo")
    })
}

fn print_json<T: serde::Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::environment(format!("cannot write JSON: {error}")))?;
    out::say(text)?;
    Ok(())
}
