//! The command line: one file for each family of commands.

mod config;
mod control;
mod demo;
mod drill;
mod forensic;
pub mod hosts;
mod list;
mod nodes;
mod out;
mod plain;
mod plan;
mod proxy;
mod reach;
mod read;
mod relay;
mod replay;
mod run;
pub mod run_args;
mod screen;
mod serve;
mod sync;
mod wandb;

use std::{ffi::OsString, process::ExitCode};

use clap::{
    CommandFactory, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};

use self::run_args::RunArgs;
use crate::{
    domain::near::nearest,
    error::Result,
    supervisor::{agent, detach, shim, trainer},
};

/// Start, watch and steer elastic PyTorch training from a terminal.
///
/// Without a command: the list of jobs. Jobs outlive the terminal; `q` on the screen leaves a job running.
#[derive(Debug, Parser)]
#[command(name = "elastictop", version, arg_required_else_help = false, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    screen: screen::ScreenArgs,
}

// Deferred: the arguments of the one that runs are put together, not those of thirty. A doc comment on those would
// take the place of the one here in the command's own help.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Command {
    /// Start an elastic job in torchrun's place, and watch it
    Run(Box<RunArgs>),
    /// Watch a running job again, or look at one that is over
    Attach(list::AttachArgs),
    /// Run a small real job that needs nothing but this binary: four ranks, one crash, one recovery
    Demo(demo::DemoArgs),
    /// List jobs: those started by elastictop, and torchrun jobs of this machine
    Ps(list::PsArgs),
    /// Print, check and begin configuration files
    Config(config::ConfigArgs),
    /// Show which rank would write to which W&B run, and why
    Plan(Box<plan::PlanArgs>),
    /// Print the state of a job
    Status(read::StatusArgs),
    /// Print what happened in a job
    Events(read::EventsArgs),
    /// Print what the ranks wrote
    Logs(read::LogsArgs),
    /// Show where ranks are in their Python code, the odd ones first
    Stacks(forensic::StacksArgs),
    /// Compare the flight recorders of all ranks: who is missing, or calls something else
    Diagnose(forensic::DiagnoseArgs),
    /// Ask NCCL's own health service (RAS) about a job
    Ras(forensic::RasArgs),
    /// Put all that is known about a job into one file, without secrets
    Bundle(forensic::BundleArgs),
    /// Play a recording, or what is kept of a job, on the screen
    Replay(replay::ReplayArgs),
    /// Write a job, or a part of it, into one file that replay plays anywhere
    Export(replay::ExportArgs),
    /// End a job
    Stop(control::StopArgs),
    /// Change how a running job's metrics go to W&B
    Set(control::SetArgs),
    /// End the group of ranks and start it anew, without spending a restart
    Restart(control::RestartArgs),
    /// Send a signal to a rank
    Signal(control::SignalArgs),
    /// Send to W&B what was kept of a job, or of any run on disk, and is not sent yet
    Sync(sync::SyncArgs),
    /// Serve figures of a running job for Prometheus, and JSON, until Ctrl-C
    Serve(serve::ServeArgs),
    /// Put a fault into a healthy rank, and measure how soon it is told
    Drill(drill::DrillArgs),
    /// Remove what is kept of jobs that are over
    Rm(control::RmArgs),
    /// Speak for this node's part of a job on standard input and output, for a viewer on another node
    Proxy(proxy::ProxyArgs),
    /// Hold the links to many nodes once, for all who look
    Relay(relay::RelayArgs),
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Runs the program and gives its exit code: 0 success, 1 the world refused, 2 the request is wrong, 3 no such job;
/// `run` and `demo` give the job's own.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next();
    match args.next().as_deref().and_then(|arg| arg.to_str()) {
        Some("__rank") => return shim::main(args),
        Some("__wandb") => return shim::print_wandb_changes(args),
        Some("__agent") => return agent::main(args),
        Some("__trainer") => return trainer::main(args),
        Some("__supervise") => return detach::main(),
        _ => {}
    }
    let args: Vec<OsString> = program.into_iter().chain(std::env::args_os().skip(1)).collect();
    let cli = Cli::try_parse_from(args).unwrap_or_else(|error| meant(error).exit());
    match cli.run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            out::note(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Names the command that somebody may have meant, where clap finds none that is alike: it does not know swaps.
fn meant(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return error };
    let command = Cli::command();
    let names = command.get_subcommands().filter(|known| !known.is_hide_set()).map(clap::Command::get_name);
    if error.get(ContextKind::SuggestedSubcommand).is_none()
        && let Some(near) = nearest(word, names)
    {
        let near = ContextValue::Strings(vec![near.to_owned()]);
        error.insert(ContextKind::SuggestedSubcommand, near);
    }
    error
}

impl Cli {
    fn run(self) -> Result<u8> {
        let screen = self.screen;
        match self.command {
            None => list::choose(&screen),
            Some(Command::Run(args)) => run::run(&args, &screen),
            Some(Command::Attach(args)) => list::attach(&args, &screen),
            Some(Command::Demo(args)) => demo::demo(&args, &screen),
            Some(Command::Ps(args)) => list::ps(&args),
            Some(Command::Config(args)) => config::config(&args),
            Some(Command::Plan(args)) => plan::plan(&args),
            Some(Command::Status(args)) => read::status(&args),
            Some(Command::Events(args)) => read::events(&args),
            Some(Command::Logs(args)) => read::logs(&args),
            Some(Command::Relay(args)) => relay::relay(&args),
            Some(Command::Proxy(args)) => proxy::proxy(&args),
            Some(Command::Stacks(args)) => forensic::stacks(&args),
            Some(Command::Diagnose(args)) => forensic::diagnose(&args),
            Some(Command::Ras(args)) => forensic::ras(&args),
            Some(Command::Bundle(args)) => forensic::bundle(&args),
            Some(Command::Replay(args)) => replay::replay(&args, &screen),
            Some(Command::Export(args)) => replay::export(&args),
            Some(Command::Stop(args)) => control::stop(&args),
            Some(Command::Set(args)) => control::set(&args),
            Some(Command::Restart(args)) => control::restart(&args),
            Some(Command::Signal(args)) => control::signal(&args),
            Some(Command::Sync(args)) => sync::sync(&args),
            Some(Command::Serve(args)) => serve::serve(&args),
            Some(Command::Drill(args)) => drill::drill(&args),
            Some(Command::Rm(args)) => control::rm(&args),
            Some(Command::Completions { shell }) => {
                clap_complete::generate(shell, &mut Cli::command(), "elastictop", &mut std::io::stdout());
                Ok(0)
            }
        }
    }
}

/// The event loop of one command.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(future)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| crate::error::Error::environment(format!("cannot start the event loop: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_command_says_in_its_help_what_it_does() {
        for command in Cli::command().get_subcommands() {
            let asked = Cli::try_parse_from(["elastictop", command.get_name(), "--help"]);
            let help = asked.err().map(|help| help.to_string()).unwrap_or_default();
            let does = command.get_about().map(ToString::to_string).unwrap_or_default();
            let (first, _) = does.split_once(' ').unwrap_or((&does, ""));
            assert!(!does.is_empty() && help.starts_with(first), "{}: {help}", command.get_name());
        }
    }
}
