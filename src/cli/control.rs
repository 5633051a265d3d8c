//! Commands that change a job.

use clap::Args;

use super::{
    block_on,
    reach::{Target, carry_out, greet},
};
use crate::{
    domain::{command::Command, exit::signal_number},
    error::{Error, Result},
    supervisor::{detach, place::Roots},
};

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    /// Use SIGKILL at once
    #[arg(long)]
    now: bool,
}

/// Arguments of `restart`.
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
}

/// Arguments of `signal`.
#[derive(Debug, Args)]
pub struct SignalArgs {
    /// Signal: TERM, SIGUSR1, 10
    signal: String,
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    /// Global rank; all ranks of this node if left out
    #[arg(long, short)]
    rank: Option<u32>,
}

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Ids or names
    #[arg(required_unless_present = "ended")]
    jobs: Vec<String>,
    /// All jobs that are over
    #[arg(long)]
    ended: bool,
}

/// `elastictop stop`.
pub fn stop(args: &StopArgs) -> Result<u8> {
    command(args.job.as_deref(), Command::Stop { now: args.now })
}

/// `elastictop restart`.
pub fn restart(args: &RestartArgs) -> Result<u8> {
    command(args.job.as_deref(), Command::Restart)
}

/// `elastictop signal`.
pub fn signal(args: &SignalArgs) -> Result<u8> {
    let signal = signal_number(&args.signal).ok_or_else(|| {
        Error::usage(format!("{:?} is no signal", args.signal))
            .hint("give a name or a number: TERM, SIGUSR1, 10")
    })?;
    command(args.job.as_deref(), Command::Signal { rank: args.rank, signal })
}

fn command(job: Option<&str>, command: Command) -> Result<u8> {
    let target = Target::find(job, None)?;
    block_on(async {
        let mut link = target.link(true).await?;
        greet(&mut link, false).await?;
        println!("{}", carry_out(&mut link, command).await?);
        Ok(0)
    })
}

/// `elastictop rm`.
pub fn rm(args: &RmArgs) -> Result<u8> {
    let roots = Roots::find()?;
    let jobs = if args.ended {
        roots.all().into_iter().filter(|job| job.ended).collect()
    } else {
        args.jobs.iter().map(|job| roots.find_job(Some(job))).collect::<Result<Vec<_>>>()?
    };
    for job in jobs {
        if !job.ended && (detach::is_supervised(&roots, &job.id) || job.agent.is_some_and(is_alive)) {
            return Err(Error::job(format!("job {} is running", job.id)).hint("elastictop stop ends it"));
        }
        let dir = roots.job(&job.id).root;
        std::fs::remove_dir_all(&dir).map_err(|error| Error::io("cannot remove", &dir, &error))?;
        println!("removed {}", job.id);
    }
    Ok(0)
}

fn is_alive(process: crate::domain::id::ProcId) -> bool {
    crate::probe::proc::identify(std::path::Path::new(crate::probe::proc::ROOT), process.pid) == Some(process)
}
