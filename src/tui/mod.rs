//! The screen: a function of the app state.
//!
//! [`App::update`] is the only thing that changes that state; it takes [`Msg`]s (keys, the supervisor's messages,
//! the time) and says what to do as [`Cmd`]s. [`draw`] reads it. The loop in `run` carries both to the terminal and
//! to the [`Link`], and is the only part with a clock.

mod app;
mod budget;
mod canvas;
mod encode;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod fixture_page;
#[cfg(test)]
mod fixture_runs;
mod input;
mod jobs;
mod keys;
mod layout;
mod links;
mod picture;
mod run;
mod said;
mod screen;
#[cfg(test)]
mod tests;
mod text;
mod theme;
mod view;
mod words;

use std::{future::Future, path::PathBuf, pin::Pin, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};

pub use self::{
    app::{App, Cmd, LinkState, Msg, Node},
    budget::{Thrift, parse as parse_budget},
    encode::{Turn, encode},
    jobs::JobRow,
    keys::KeyOverrides,
    layout::Layout,
    links::LinksWanted,
    picture::Picture,
    theme::{ColorDepth, Role, Theme, Themes, wants_ascii},
    view::draw,
};
use self::{
    input::Keyboard,
    jobs::Jobs,
    run::{Pace, Surroundings},
    screen::{Guard, Screen, Writer},
};
use crate::{
    domain::{state::State, time::Stamp},
    error::Result,
    wire::link::Link,
};

/// How a viewer gets (back) to the job it shows. Called at the start and after a lost link; an error of kind
/// [`Job`](crate::error::Kind::Job) means that it will never come back.
pub type Connector = Box<dyn FnMut() -> Pin<Box<dyn Future<Output = Result<Link>> + Send>> + Send>;

/// What the user and the terminal want of the screen.
#[derive(Clone, Debug)]
pub struct Options {
    /// Roles and their colours.
    pub theme: Theme,
    /// Whether to draw with ASCII only.
    pub ascii: bool,
    /// How many colours the terminal shows.
    pub color: ColorDepth,
    /// Whether the terminal gets hyperlinks (OSC 8).
    pub links: bool,
    /// Seconds that the times on screen are ahead of UTC.
    pub offset_s: i32,
    /// Who looks, for the timeline: `user on tty`.
    pub viewer: String,
    /// Whether to capture the mouse; then the terminal cannot select text.
    pub mouse: bool,
    /// The themes that a key and the palette go through.
    pub themes: Themes,
    /// The user's own keys, checked with [`wrong_keys`].
    pub keys: KeyOverrides,
    /// Whether leaving leads back to a list of jobs.
    pub from_list: bool,
    /// Bytes per second that the screen may cost; `None` for no limit.
    pub budget: Option<u32>,
    /// What was chosen before.
    pub layout: Layout,
    /// Where choices are remembered, if they are.
    pub layout_file: Option<PathBuf>,
}

/// What is wrong with the user's own keys, each in a sentence.
pub fn wrong_keys(keys: &KeyOverrides) -> Vec<String> {
    keys::Keymap::new(keys).err().unwrap_or_default()
}

/// How a look at a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The user left, or the terminal did; the job goes on.
    Detached,
    /// There was no link when the user left: why. Whether the job goes on is not known.
    Lost(String),
    /// The job is over.
    Over,
}

/// Shows a job until the user leaves, and gives back what was known of it last.
///
/// The first link is made before the screen is taken, so that what makes it may ask for a password.
///
/// # Errors
/// When the first link cannot be made, or the terminal not be used.
pub async fn watch(mut connector: Connector, options: &Options) -> Result<(Ending, State)> {
    let link = connector().await?;
    let size = size()?;
    let mut app = App::new(options, size, now(), options.offset_s);
    let _guard = Guard::take(app.mouse()).map_err(|error| run::terminal(&error))?;
    let keyboard = Keyboard::open().map_err(|error| run::terminal(&error))?;
    let writer = Writer::new().map_err(|error| run::terminal(&error))?;
    let mut screen = Screen::new(Box::new(writer), size).erasing_plainly(is_gnu_screen());
    let around = Surroundings {
        input: keyboard,
        clock: now,
        hung_up: input::hung_up,
        stop: told_to_end(),
        pace: Pace { budget: options.budget, ..Pace::default() },
    };
    let ending = run::run(&mut app, &mut screen, link, connector, around).await?;
    let layout = app.layout();
    if let Some(file) = options.layout_file.as_ref().filter(|_| layout != options.layout) {
        // Nothing hangs on it, and nobody is there to be told.
        let _ = layout.save(file);
    }
    Ok((ending, app.state))
}

/// Shows the jobs of this machine until one is chosen: its key. `refresh` makes the list, on a thread of its own.
///
/// # Errors
/// When the terminal cannot be used.
pub async fn choose(
    refresh: Arc<dyn Fn() -> Vec<JobRow> + Send + Sync>,
    options: &Options,
    selected: Option<String>,
) -> Result<Option<String>> {
    let size = size()?;
    let mut jobs = Jobs::new(options, now());
    jobs.point_at(selected);
    let _guard = Guard::take(false).map_err(|error| run::terminal(&error))?;
    let keyboard = Keyboard::open().map_err(|error| run::terminal(&error))?;
    let writer = Writer::new().map_err(|error| run::terminal(&error))?;
    let mut screen = Screen::new(Box::new(writer), size).erasing_plainly(is_gnu_screen());
    let around = Surroundings {
        input: keyboard,
        clock: now,
        hung_up: input::hung_up,
        stop: told_to_end(),
        pace: Pace::default(),
    };
    jobs::run(&mut jobs, &mut screen, refresh, around).await
}

/// GNU Screen is the one that does not fill what it erases with colour, unless it is told to.
fn is_gnu_screen() -> bool {
    std::env::var_os("STY").is_some() && std::env::var_os("TMUX").is_none()
}

fn size() -> Result<(u16, u16)> {
    input::size().map_err(|error| run::terminal(&error))
}

fn now() -> Stamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Stamp(since.as_millis() as u64)
}

/// Resolves when the program is told to end, or its terminal goes away.
async fn told_to_end() {
    let (Ok(mut terminate), Ok(mut hang_up)) =
        (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
}
