//! The embedded launcher, `elastictop __agent`: torchrun's rules for one node, for machines without torch and
//! for the demo. Same variables, same log folders, same lines on stderr, so that whatever watches torchrun
//! watches this as well.
//!
//! [`group`] decides, [`runner`] does, [`logs`] keeps what the ranks write, [`report`] words what is printed.
//! It knows of each end of a rank at once (SIGCHLD); `--monitor-interval` only paces the copying of `--tee`.

mod gpu;
pub mod group;
pub mod logs;
pub mod report;
pub mod runner;

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::Duration,
};

use clap::Parser;

use self::logs::Streams;

/// Starts ranks on this node and restarts them as torchrun does.
#[derive(Clone, Debug, Parser)]
#[command(name = "elastictop __agent", disable_version_flag = true)]
pub struct Args {
    /// Number of ranks.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub nproc_per_node: u32,
    /// Restarts of the whole group before the job fails.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub max_restarts: u32,
    /// Seconds between two looks at the output that is copied to the console.
    #[arg(long, value_name = "SEC", default_value = "0.1", value_parser = seconds)]
    pub monitor_interval: Duration,
    /// Name of the job, told to the ranks and part of the log folder's name.
    #[arg(long, value_name = "ID", default_value = "none")]
    pub run_id: String,
    /// Folder for logs; made if missing. A fresh one in the temporary folder when not given.
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// The elastictop binary to start ranks with, instead of this one.
    #[arg(long, value_name = "PATH")]
    pub shim: Option<PathBuf>,
    /// Seconds that ranks may take to end after a signal, before SIGKILL.
    #[arg(long, value_name = "SEC", default_value = "30", value_parser = seconds)]
    pub grace: Duration,
    /// Seconds that GPU memory of dead jobs is waited for before a restart; 0 does not look.
    #[arg(long, value_name = "SEC", default_value = "30", value_parser = seconds)]
    pub gpu_wait: Duration,
    /// Write output to files: 0 none, 1 stdout, 2 stderr, 3 both, or LOCAL_RANK:N,…
    #[arg(long, short = 'r', value_name = "SPEC", default_value = "0")]
    pub redirects: Streams,
    /// Write output to files and to the console: same syntax.
    #[arg(long, short = 't', value_name = "SPEC", default_value = "0")]
    pub tee: Streams,
    /// Name of the role that all ranks play.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub role: String,
    /// Local ranks whose output the console shows; all when not given.
    #[arg(long, value_name = "RANK,…", value_delimiter = ',')]
    pub local_ranks_filter: Vec<u32>,
    /// Give each rank one GPU and LOCAL_RANK 0.
    #[arg(long)]
    pub virtual_local_rank: bool,
    /// For drills: do not see that ranks die, as an agent in the zombie deadlock, until a signal comes.
    #[arg(long, hide = true)]
    pub deadlock: bool,
    /// What each rank runs.
    #[arg(last = true, required = true, value_name = "PROG ARGS")]
    pub command: Vec<OsString>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|_| "not a number of seconds".to_owned())
}

impl Args {
    /// Where a stream of a rank goes. `stream` is 1 for stdout, 2 for stderr.
    fn sink(&self, local_rank: u32, stream: u8) -> Sink {
        let shown = self.local_ranks_filter.is_empty() || self.local_ranks_filter.contains(&local_rank);
        let tee = self.tee.has(local_rank, stream);
        match (tee || self.redirects.has(local_rank, stream), shown) {
            (true, _) => Sink::File { tee: tee && shown },
            (false, true) => Sink::Console,
            (false, false) => Sink::Nowhere,
        }
    }
}

/// Where a stream of a rank goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    Console,
    Nowhere,
    File { tee: bool },
}

impl Sink {
    /// For a sink that is no file.
    fn stdio(self) -> Stdio {
        if self == Sink::Nowhere { Stdio::null() } else { Stdio::inherit() }
    }
}

/// Runs the launcher with the arguments after `__agent`. Exit codes as torchrun's: 0 when all ranks succeeded,
/// 1 for every failure and every signal; 2 for arguments that make no sense.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(std::iter::once("elastictop __agent".into()).chain(args)) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // What marks an elastic agent in /proc, for elastictop as for others. Only shown there: failing is harmless.
    let _ = rustix::thread::set_name(c"pt_elastic");
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            report::say(&format!("elastictop: cannot start the launcher: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(runner::run(args)) {
        Ok(group::Outcome::Succeeded) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            report::say(&format!("elastictop: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once(&"x").chain(args))
    }

    #[test]
    fn the_program_and_its_arguments_come_through_unchanged() {
        let args = parse(&["--grace", "0.5", "--", "p", "--", "", "a b", "--grace"]).unwrap();
        assert_eq!(args.grace, Duration::from_millis(500));
        assert_eq!(args.command, ["p", "--", "", "a b", "--grace"]);
        for bad in [
            &["--nproc-per-node", "0", "--", "x"][..],
            &["--grace", "-1", "--", "x"],
            &["--grace", "nan", "--", "x"],
            &["--tee", "4", "--", "x"],
            &[],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn output_goes_where_torchrun_sends_it() {
        let args = parse(&["-r", "0:1", "-t", "1:2", "--local-ranks-filter", "0,2", "--", "x"]).unwrap();
        let sinks: Vec<_> = (0..3).map(|rank| [args.sink(rank, 1), args.sink(rank, 2)]).collect();
        let kept = Sink::File { tee: false };
        assert_eq!(sinks, [[kept, Sink::Console], [Sink::Nowhere, kept], [Sink::Console, Sink::Console]]);
        let args = parse(&["-t", "3", "--", "x"]).unwrap();
        assert_eq!(args.sink(7, 2), Sink::File { tee: true });
    }
}
