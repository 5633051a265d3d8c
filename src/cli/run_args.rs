//! `elastictop run`: torchrun's flags and elastictop's own.

use std::{collections::BTreeMap, ffi::OsString, sync::LazyLock, time::Duration};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueEnum, builder::BoolishValueParser,
};

use super::config::RunFlags;
use crate::domain::{
    launch::{self, FLAGS, Flag, Orphans, Request},
    replay::Keep,
    verdict::OnStall,
};

/// Start an elastic job and watch it; takes the place of torchrun
///
/// What works behind `torchrun` works behind `elastictop run`, `PET_*` variables too. All flags come before SCRIPT;
/// what follows it goes to the script untouched. Of a flag given twice the last one counts. What elastictop adds,
/// and why, is shown by --dry-run; what you set, by flag or by variable, wins.
#[derive(Clone, Debug, Args)]
#[command(args_override_self = true, override_usage = "elastictop run [OPTIONS] <SCRIPT> [ARGS]...")]
pub struct RunArgs {
    /// Name of the job [default: the script's]
    #[arg(long, value_name = "NAME", help_heading = OWN)]
    pub name: Option<String>,

    /// Python that runs torchrun and the ranks [default: the active virtual environment's, then python3]
    #[arg(long, value_name = "PATH", help_heading = OWN)]
    pub python: Option<String>,

    /// Who runs the ranks: torchrun, or the built-in launcher, which needs no torch and has one node
    #[arg(long, value_name = "NAME", default_value = "torchrun", help_heading = OWN)]
    pub launcher: LauncherArg,

    /// End a rank whose NCCL watchdog is stuck this long: 90, 90s, 5m, 1h [default: 300]
    #[arg(long, alias = "nccl_heartbeat_timeout", value_name = "SEC", value_parser = launch::parse_span, help_heading = OWN)]
    pub nccl_heartbeat_timeout: Option<Duration>,

    /// Default timeout of collectives, set before the script runs: 90, 90s, 5m, 1h [default: torch's]
    #[arg(long, alias = "nccl_collective_timeout", value_name = "SEC", value_parser = launch::parse_span, help_heading = OWN)]
    pub nccl_collective_timeout: Option<Duration>,

    /// Whether NCCL errors end the rank [default: torchrun's, true]
    #[arg(long, alias = "nccl_async_error_handling", value_name = "BOOL", value_parser = BoolishValueParser::new(), action = ArgAction::Set, help_heading = OWN)]
    pub nccl_async_error_handling: Option<bool>,

    /// Whether a stuck NCCL watchdog ends its rank; else it is only logged [default: true]
    #[arg(long, alias = "nccl_enable_monitoring", value_name = "BOOL", value_parser = BoolishValueParser::new(), action = ArgAction::Set, help_heading = OWN)]
    pub nccl_enable_monitoring: Option<bool>,

    /// Time between SIGTERM and SIGKILL when the job is stopped: 90, 90s, 5m, 1h [default: 30]
    #[arg(long, alias = "stop_grace", value_name = "SEC", value_parser = launch::parse_span, help_heading = OWN)]
    pub stop_grace: Option<Duration>,

    /// How long to wait for GPU memory that dead jobs still hold, before ranks start: 90, 90s, 5m [default: 30]
    #[arg(long, alias = "gpu_wait", value_name = "SEC", value_parser = launch::parse_span, help_heading = OWN)]
    pub gpu_wait: Option<Duration>,

    /// What ranks do when their agent dies: go on, or end [default: keep]
    #[arg(long, value_name = "WHAT", help_heading = OWN)]
    pub orphans: Option<OrphansArg>,

    /// Call it a hang when nothing has moved on this long, or five learned step times: 90, 90s, 5m [default: 30]
    #[arg(long, alias = "hang_after", value_name = "SEC", value_parser = launch::parse_span, help_heading = OWN)]
    pub hang_after: Option<Duration>,

    /// Act as --on-stall says when nothing has moved on this long: 90, 90s, 5m, 1h [default: 300]
    #[arg(long, alias = "heartbeat_timeout", value_name = "SEC", value_parser = launch::parse_span, help_heading = OWN)]
    pub heartbeat_timeout: Option<Duration>,

    /// What to do about a job that does not move on [default: warn]
    #[arg(long, alias = "on_stall", value_name = "WHAT", help_heading = OWN)]
    pub on_stall: Option<OnStallArg>,

    /// Start the job and return at once
    #[arg(long, conflicts_with_all = ["wait", "plain"], help_heading = OWN)]
    pub detach: bool,

    /// Stay without a screen until the job ends, and exit with its code
    #[arg(long, help_heading = OWN)]
    pub wait: bool,

    /// One line for each event instead of a screen
    #[arg(long, help_heading = OWN)]
    pub plain: bool,

    /// Show what would be started, and why, without starting it
    #[arg(long, alias = "dry_run", conflicts_with_all = ["detach", "wait", "plain"], help_heading = OWN)]
    pub dry_run: bool,

    /// With --dry-run: one JSON object
    #[arg(long, requires = "dry_run", help_heading = OWN)]
    pub json: bool,

    /// Where metrics go, and where facts are served
    #[command(flatten)]
    pub made: RunFlags,

    /// Flags of torchrun
    #[command(flatten)]
    pub torchrun: TorchrunArgs,

    /// The Python file (module with -m, program with --no-python) and its arguments
    #[arg(value_names = ["SCRIPT", "ARGS"], num_args = 1.., trailing_var_arg = true, required_unless_present = "print-completion")]
    pub command: Vec<String>,
}

/// The other spelling of each flag that has one; here because clap wants names that live for ever.
static UNDERSCORED: LazyLock<BTreeMap<&str, String>> = LazyLock::new(|| {
    let two_words = FLAGS.iter().filter(|flag| flag.name.contains('-'));
    two_words.map(|flag| (flag.name, flag.underscored())).collect()
});

const OWN: &str = "Options of elastictop";

/// Who runs the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LauncherArg {
    /// `python -m torch.distributed.run`
    Torchrun,
    /// The built-in launcher
    Local,
}

/// What ranks do when their agent dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OrphansArg {
    /// Go on
    Keep,
    /// Get SIGTERM
    End,
}

/// What to do about a job that does not move on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnStallArg {
    /// Tell
    Warn,
    /// Tell, and write down what the ranks do
    Dump,
    /// The same, then restart the group, as often as --max-restarts allows
    Restart,
}

/// torchrun's flags by name, switches with an empty value: built from [`FLAGS`], so that the two cannot differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TorchrunArgs(pub BTreeMap<String, String>);

impl Args for TorchrunArgs {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, flag| command.arg(arg(flag)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn arg(flag: &'static Flag) -> Arg {
    let arg = Arg::new(flag.name).long(flag.name).help(flag.help).help_heading("Options of torchrun");
    let arg = match UNDERSCORED.get(flag.name) {
        Some(alias) => arg.alias(alias.as_str()),
        None => arg,
    };
    let arg = match flag.short {
        Some(short) => arg.short(short),
        None => arg,
    };
    let arg = arg.hide(flag.name == "print-completion");
    match flag.value {
        Some(value) => arg.action(ArgAction::Set).value_name(value).allow_negative_numbers(true),
        None => arg.action(ArgAction::SetTrue),
    }
}

impl FromArgMatches for TorchrunArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let read = |flag: &Flag| {
            let value = match flag.value {
                Some(_) => matches.get_one::<String>(flag.name).cloned(),
                None => matches.get_flag(flag.name).then(String::new),
            };
            Some((flag.name.to_owned(), value?))
        };
        Ok(TorchrunArgs(FLAGS.iter().filter_map(read).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

impl RunArgs {
    /// The request that these arguments make in this environment, which is `std::env::vars_os()`.
    ///
    /// Variables that are not UTF-8 are left out: no decision looks at one, and the agent inherits them all the same.
    pub fn request(&self, env: impl IntoIterator<Item = (OsString, OsString)>) -> Request {
        let mut words = self.command.iter().cloned();
        Request {
            name: self.name.clone(),
            local: self.launcher == LauncherArg::Local,
            flags: self.torchrun.0.clone(),
            heartbeat_timeout: self.nccl_heartbeat_timeout,
            collective_timeout: self.nccl_collective_timeout,
            async_error_handling: self.nccl_async_error_handling,
            enable_monitoring: self.nccl_enable_monitoring,
            stop_grace: self.stop_grace,
            gpu_wait: self.gpu_wait,
            orphans: self.orphans.map(|orphans| match orphans {
                OrphansArg::Keep => Orphans::Keep,
                OrphansArg::End => Orphans::End,
            }),
            hang_after: self.hang_after,
            stall_after: self.heartbeat_timeout,
            on_stall: self.on_stall.map(|what| match what {
                OnStallArg::Warn => OnStall::Warn,
                OnStallArg::Dump => OnStall::Dump,
                OnStallArg::Restart => OnStall::Restart,
            }),
            record: Keep::default(),
            script: words.next().unwrap_or_default(),
            args: words.collect(),
            env: env
                .into_iter()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
