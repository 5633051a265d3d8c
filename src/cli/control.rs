//! Commands that change a job.

use std::{io, path::Path, time::Instant};

use clap::Args;

use super::{
    block_on,
    nodes::{self, ReachArgs},
    out,
    reach::{Greeted, Target, carry_out},
    sync::{
        self,
        find::{AGAIN, LEAVES_WITHIN},
    },
};
use crate::{
    domain::{command::Command, exit::signal_number, id::JobId},
    error::{Error, Result},
    supervisor::{folder::JobDir, lock, place::Roots},
};

#[derive(Debug, Args)]
pub struct StopArgs {
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    /// Use SIGKILL at once
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

#[derive(Debug, Args)]
pub struct RestartArgs {
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    #[command(flatten)]
    reach: ReachArgs,
}

#[derive(Debug, Args)]
pub struct SetArgs {
    /// Id, name or start of the id (the newest running job if left out), then run_mode=MODE, rank_scope=SCOPE or both
    #[arg(required = true, value_names = ["[JOB] KEY=VALUE"])]
    words: Vec<String>,
    #[command(flatten)]
    reach: ReachArgs,
}

#[derive(Debug, Args)]
pub struct SignalArgs {
    /// Signal: TERM, SIGUSR1, 10
    signal: String,
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    /// Global rank; all ranks of the node, or of all nodes that are named, if left out
    #[arg(long, short)]
    rank: Option<u32>,
    #[command(flatten)]
    reach: ReachArgs,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    /// Ids or names
    #[arg(value_name = "JOB", required_unless_present = "ended")]
    jobs: Vec<String>,
    /// All jobs that are over
    #[arg(long, conflicts_with = "jobs")]
    ended: bool,
    /// Also metrics that never got to W&B
    #[arg(long)]
    force: bool,
}

/// `elastictop stop`.
pub fn stop(args: &StopArgs) -> Result<u8> {
    command(args.job.as_deref(), &args.reach, Command::Stop { now: args.now })
}

/// `elastictop restart`.
pub fn restart(args: &RestartArgs) -> Result<u8> {
    command(args.job.as_deref(), &args.reach, Command::Restart { attempt: None })
}

/// `elastictop set`.
pub fn set(args: &SetArgs) -> Result<u8> {
    let (job, command) = parse_set(&args.words)?;
    self::command(job, &args.reach, command)
}

/// The job and the command in the words of `set`.
fn parse_set(words: &[String]) -> Result<(Option<&str>, Command)> {
    let (mut job, mut run_mode, mut rank_scope) = (None, None, None);
    for (at, word) in words.iter().enumerate() {
        let wrong = |why: String| Error::usage(format!("{word}: {why}"));
        match word.split_once('=') {
            Some(("run_mode" | "run-mode", value)) => run_mode = Some(value.parse().map_err(wrong)?),
            Some(("rank_scope" | "rank-scope", value)) => rank_scope = Some(value.parse().map_err(wrong)?),
            Some((key, _)) => {
                return Err(Error::usage(format!("{key:?} cannot be set while a job runs"))
                    .hint("what can be set: run_mode=auto|shared|new and rank_scope=global|worker"));
            }
            None if at == 0 => job = Some(word.as_str()),
            None => {
                return Err(wrong("is no KEY=VALUE".into())
                    .hint("what can be set: run_mode=auto|shared|new and rank_scope=global|worker"));
            }
        }
    }
    if run_mode.is_none() && rank_scope.is_none() {
        return Err(Error::usage("nothing is to be set")
            .hint("elastictop set JOB run_mode=auto|shared|new rank_scope=global|worker"));
    }
    Ok((job, Command::SetWandb { run_mode, rank_scope }))
}

/// `elastictop signal`.
pub fn signal(args: &SignalArgs) -> Result<u8> {
    let signal = signal_number(&args.signal).ok_or_else(|| {
        Error::usage(format!("{:?} is no signal", args.signal))
            .hint("give a name or a number: TERM, SIGUSR1, 10")
    })?;
    command(args.job.as_deref(), &args.reach, Command::Signal { rank: args.rank, signal })
}

fn command(job: Option<&str>, reach: &ReachArgs, command: Command) -> Result<u8> {
    if let Some(hosts) = reach.hosts(job)? {
        return block_on(async {
            out::say(nodes::command(hosts, command).await?)?;
            Ok(0)
        });
    }
    let target = Target::find(job, None)?;
    block_on(async {
        let Greeted { mut link, state, .. } = target.greet(false).await?;
        if matches!(command, Command::Restart { .. }) && state.has_other_nodes() {
            out::note(
                "note: this asks one node of several: the others go on without it, or end with it if its agent holds the \
                 rendezvous; --nodes asks all",
            );
        }
        out::say(carry_out(&mut link, command).await?)?;
        Ok(0)
    })
}

/// `elastictop rm`: exit code 1 when a job stays because of what was not sent yet.
pub fn rm(args: &RmArgs) -> Result<u8> {
    let roots = Roots::find()?;
    let ids = if args.ended {
        roots.all().into_iter().filter(|job| job.ended).map(|job| job.id).collect()
    } else {
        args.jobs.iter().map(|job| removable(&roots, job)).collect::<Result<Vec<_>>>()?
    };
    let mut code = 0;
    for id in ids {
        let dir = roots.job(&id);
        if !args.force
            && let Some(why) = worth_keeping(&dir)
        {
            out::note(format_args!(
                "kept {id}: {why}\n\nhint: elastictop sync {id} sends what can be sent; --force removes all"
            ));
            code = 1;
            continue;
        }
        remove(&dir.root).map_err(|error| Error::io("cannot remove", &dir.root, &error))?;
        out::say(format_args!("removed {id}"))?;
    }
    Ok(code)
}

/// Removes a folder. The supervisor of a job that has just ended may still write a last file into it.
fn remove(folder: &Path) -> io::Result<()> {
    let until = Instant::now() + LEAVES_WITHIN;
    loop {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && Instant::now() < until => {
                std::thread::sleep(AGAIN);
            }
            done => return done,
        }
    }
}

/// The job that is meant, when it does not run: one whose folder is damaged, too.
fn removable(roots: &Roots, job: &str) -> Result<JobId> {
    let runs = |id: &JobId| Error::job(format!("job {id} is running")).hint("elastictop stop ends it");
    if let Some((id, _)) = roots.damage(&JobId(job.to_owned())) {
        return if lock::is_held(roots, &id) { Err(runs(&id)) } else { Ok(id) };
    }
    let job = roots.find_job(Some(job))?;
    if !job.ended && (lock::is_supervised(roots, &job) || job.agent.is_some_and(is_alive)) {
        return Err(runs(&job.id));
    }
    Ok(job.id)
}

fn worth_keeping(dir: &JobDir) -> Option<String> {
    match sync::unsent(dir) {
        Ok(0) => {
            let left: Vec<_> = sync::left_out(dir).into_iter().map(|(_, what)| what).collect();
            (!left.is_empty()).then(|| format!("not sent to W&B: {}", left.join(", ")))
        }
        Ok(rows) => Some(format!("{rows} rows never got to W&B")),
        Err(error) => Some(format!("whether all rows got to W&B is not known: {error}")),
    }
}

fn is_alive(process: crate::domain::id::ProcId) -> bool {
    crate::probe::proc::identify(Path::new(crate::probe::proc::ROOT), process.pid) == Some(process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::resolve::{RankScope, RunMode};

    #[test]
    fn what_to_set_is_read_or_refused_with_what_can_be() {
        let read = |line: &str| {
            let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            match parse_set(&words) {
                Ok((job, Command::SetWandb { run_mode, rank_scope })) => {
                    Ok((job.map(str::to_owned), run_mode, rank_scope))
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err((error.exit_code(), error.to_string())),
            }
        };
        let (shared, worker) = (Some(RunMode::Shared), Some(RankScope::Worker));
        assert_eq!(read("j run_mode=shared rank_scope=worker"), Ok((Some("j".into()), shared, worker)));
        assert_eq!(read("rank-scope=worker"), Ok((None, None, worker)));
        let wrong = [
            ("j run_mode=share", "none of auto, shared and new"),
            ("j rank_scope=node", "neither global nor worker"),
            ("j project=x", "run_mode=auto|shared|new and rank_scope=global|worker"),
            ("j", "run_mode=auto|shared|new"),
            ("run_mode=new j", "is no KEY=VALUE"),
        ];
        for (line, why) in wrong {
            let (code, text) = read(line).unwrap_err();
            assert!(code == 2 && text.contains(why), "{line}: {text}");
        }
    }
}
