//! Opening the screen on a job.

use std::{
    collections::BTreeMap,
    env,
    io::{IsTerminal, stdin, stdout},
};

use clap::Args;

use super::{
    config::Layers,
    plain,
    reach::{Target, viewer_name},
};
use crate::{
    domain::{rank::JobState, state::State, telling},
    error::{Error, Result},
    tui::{self, ColorDepth, Ending, Options, Theme, wants_ascii},
};

/// How the screen looks. Holds for all commands.
#[derive(Debug, Args)]
pub struct ScreenArgs {
    /// Colour theme: default-dark, default-light, ansi16, mono, high-contrast, okabe-ito
    #[arg(long, global = true, env = "ELASTICTOP_THEME", value_name = "NAME", help_heading = "Screen")]
    theme: Option<String>,
    /// Colours: auto, never, 16, 256, truecolor
    #[arg(long, global = true, default_value = "auto", value_name = "DEPTH", help_heading = "Screen")]
    color: String,
    /// Draw with ASCII characters only
    #[arg(long, global = true, help_heading = "Screen")]
    ascii: bool,
    /// Do not capture the mouse
    #[arg(long, global = true, help_heading = "Screen")]
    no_mouse: bool,
}

impl ScreenArgs {
    /// What these arguments and the environment want.
    ///
    /// # Errors
    /// No such theme or depth.
    pub fn options(&self) -> Result<Options> {
        let get = |name: &str| env::var(name).ok();
        let asked = match self.color.as_str() {
            "auto" => None,
            depth => Some(depth.parse().map_err(Error::usage)?),
        };
        let color = ColorDepth::detect(&get, asked);
        let fallback = match color {
            ColorDepth::None => "mono",
            ColorDepth::Ansi16 => "ansi16",
            _ => "default-dark",
        };
        Ok(Options {
            theme: Theme::load(&self.theme()?.unwrap_or_else(|| fallback.to_owned()))?,
            ascii: self.ascii || wants_ascii(&get),
            color,
            viewer: viewer_name(),
            mouse: !self.no_mouse,
        })
    }
}

impl ScreenArgs {
    /// The theme that somebody wants: typed, exported, or in a file.
    fn theme(&self) -> Result<Option<String>> {
        if self.theme.is_some() {
            return Ok(self.theme.clone());
        }
        Ok(Layers::find(BTreeMap::new())?.get("ui.theme").map(|found| found.value))
    }
}

/// Whether there is a terminal that a screen can be drawn on.
pub fn is_possible() -> bool {
    stdin().is_terminal() && stdout().is_terminal() && env::var("TERM").is_ok_and(|term| term != "dumb")
}

/// Shows a job until the user leaves it; says what becomes of it. Gives the exit code of the job when it is over.
///
/// # Errors
/// The job cannot be reached, or the terminal not be used.
pub async fn watch(target: &Target, options: &Options) -> Result<u8> {
    let reached = target.clone();
    let connector: tui::Connector = Box::new(move || {
        let target = reached.clone();
        Box::pin(async move { target.link(true).await })
    });
    let (ending, state) = tui::watch(connector, options).await?;
    let id = state.job.as_ref().map_or("the job", |job| job.id.0.as_str()).to_owned();
    match ending {
        Ending::Detached if matches!(target, Target::Foreign(_)) => println!("left {id}"),
        Ending::Detached => {
            println!("detached from {id}, which goes on; come back with: elastictop attach {id}");
        }
        Ending::Lost(why) => {
            eprintln!("lost {id}: {why}\n\nhint: elastictop status {id} says whether it still runs");
        }
        Ending::Over => {
            println!("{}", summary(&id, &state));
            return Ok(plain::exit_code(&state));
        }
    }
    Ok(0)
}

/// How a job ended, in one or some lines.
pub fn summary(id: &str, state: &State) -> String {
    let mut text = format!("{id}: {}", telling::job_state(state.state));
    if let Some(cause) = state.cause.as_ref().filter(|_| state.state == JobState::Failed) {
        text += &format!(": {}", cause.text);
        text += &cause.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    }
    text + &format!("\nits logs and events stay: elastictop logs {id}, elastictop events {id}")
}
