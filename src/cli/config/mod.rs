//! Configuration in layers: what was typed, variables, files, defaults. [`registry`] has every setting once.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

mod facts;
mod file;
mod flags;
mod layers;
mod registry;
mod screen;
mod show;

pub use facts::facts;
pub use flags::{PlanFlags, RunFlags};
pub use layers::Layers;
pub use registry::{boolean, wandb_mode};

use self::layers::{PROJECT_FILE, Places};
use super::out;
use crate::error::{Error, Result};

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every setting, its value and where that comes from
    Print {
        /// Print JSON (schema 1)
        #[arg(long)]
        json: bool,
    },
    /// Write a file in which every setting is explained and commented out
    Init {
        /// Write the project's file into the working directory instead of the user's
        #[arg(long)]
        project: bool,
    },
    /// Check files: those that are in use, or the one that is named
    Validate {
        /// The file to check
        file: Option<PathBuf>,
    },
    /// Print where the files lie
    Path,
}

/// `elastictop config`.
pub fn config(args: &ConfigArgs) -> Result<u8> {
    match &args.command {
        ConfigCommand::Print { json } => {
            let layers = Layers::find(std::collections::BTreeMap::default())?;
            out::say((if *json { show::json(&layers) } else { show::text(&layers) }).trim_end())
        }
        ConfigCommand::Init { project } => init(*project),
        ConfigCommand::Validate { file } => validate(file.as_deref()),
        ConfigCommand::Path => out::say(show::places(&places()?).trim_end()),
    }
}

fn places() -> Result<Places> {
    Places::find(
        &std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
    )
}

fn init(project: bool) -> Result<u8> {
    let path = if project { Some(PathBuf::from(PROJECT_FILE)) } else { places()?.user };
    let path = path.ok_or_else(|| {
        Error::environment("the home folder is not known")
            .hint("set ELASTICTOP_CONFIG to the path of the file")
    })?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| Error::io("cannot make the folder", folder, &error))?;
    }
    match fs::File::create_new(&path).and_then(|mut file| file.write_all(show::template().as_bytes())) {
        Ok(()) => out::say(format_args!("wrote {}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::usage(format!("{} exists already", path.display()))
                .hint("edit it; elastictop config validate checks it"))
        }
        Err(error) => Err(Error::io("cannot write", &path, &error)),
    }
}

fn validate(file: Option<&Path>) -> Result<u8> {
    let files = match file {
        Some(file) => vec![file.to_owned()],
        None => {
            let Places { project, user, .. } = places()?;
            project.into_iter().chain(user.filter(|path| path.is_file())).collect()
        }
    };
    if files.is_empty() {
        return out::say("there is no file to check; elastictop config init writes one");
    }
    let mut wrong = 0;
    for path in &files {
        let text = fs::read_to_string(path)
            .map_err(|error| Error::usage(format!("cannot read {}: {error}", path.display())))?;
        let (values, mut problems) = file::parse(&text);
        if let Some(theme) = values.get("ui.theme")
            && let Err(error) = crate::cli::screen::check_theme(&theme.text)
        {
            problems.push(file::Problem {
                at: (theme.line, 1),
                text: error.text,
                hint: error.hints.into_iter().next(),
            });
        }
        wrong += problems.len();
        for problem in &problems {
            let hint = problem.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            out::note(format_args!("{}:{problem}{hint}", path.display()));
        }
        if problems.is_empty() {
            out::say(format_args!("{} is good", path.display()))?;
        }
    }
    Ok(if wrong == 0 { 0 } else { 2 })
}

#[cfg(test)]
mod tests;
