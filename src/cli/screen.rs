//! Opening the screen on a job.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, IsTerminal, stdin, stdout},
    path::PathBuf,
};

use clap::Args;

use super::{
    config::Layers,
    out, plain,
    reach::{Target, viewer_name},
};
use crate::{
    cluster::{self, Host},
    domain::{rank::JobState, state::State, telling},
    error::{Error, Result},
    probe::host,
    supervisor::place::Roots,
    tui::{self, ColorDepth, Ending, Layout, LinksWanted, Options, Themes, wants_ascii},
};

// How the screen looks. Holds for all commands.
#[derive(Debug, Args)]
pub struct ScreenArgs {
    /// Colour theme, such as default-light, okabe-ito or nord; a wrong name lists all; C on the screen goes through them
    #[arg(long, global = true, env = "ELASTICTOP_THEME", value_name = "NAME", help_heading = "Screen")]
    theme: Option<String>,
    /// Colours: auto, never, 16, 256, truecolor
    #[arg(long, global = true, default_value = "auto", value_name = "DEPTH", help_heading = "Screen")]
    color: Depth,
    /// Draw with ASCII characters only
    #[arg(long, global = true, help_heading = "Screen")]
    ascii: bool,
    /// Hold the screen's output under this many bytes per second, such as 2k: fewer frames, then fewer colours
    #[arg(
        long,
        global = true,
        env = "ELASTICTOP_BUDGET",
        value_name = "BYTES",
        value_parser = tui::parse_budget,
        help_heading = "Screen"
    )]
    budget: Option<u32>,
    /// Hyperlinks (OSC 8): auto (terminals known to have them, and not without colours), always, never
    #[arg(
        long,
        global = true,
        env = "ELASTICTOP_LINKS",
        default_value = "auto",
        value_name = "WHEN",
        help_heading = "Screen"
    )]
    links: LinksWanted,
    /// Do not capture the mouse
    #[arg(long, global = true, help_heading = "Screen")]
    no_mouse: bool,
}

/// What `--color` asks for; `None` leaves it to the terminal.
#[derive(Clone, Copy, Debug)]
struct Depth(Option<ColorDepth>);

impl std::str::FromStr for Depth {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Depth, String> {
        if text == "auto" { Ok(Depth(None)) } else { text.parse().map(|depth| Depth(Some(depth))) }
    }
}

impl ScreenArgs {
    /// What these arguments and the environment want.
    ///
    /// # Errors
    /// No such theme, or a file that says something wrong.
    pub fn options(&self) -> Result<Options> {
        let get = |name: &str| env::var(name).ok();
        let color = ColorDepth::detect(&get, self.color.0);
        let fallback = match color {
            ColorDepth::None => "mono",
            ColorDepth::Ansi16 => "ansi16",
            _ => "default-dark",
        };
        let layers = Layers::find(BTreeMap::new())?;
        let own = layers.screen();
        let themes = own_themes(&get, own.theme)?;
        let layout_file = Roots::find().ok().and_then(|roots| Some(roots.jobs.parent()?.join("screen.toml")));
        let layout = layout_file.as_deref().map(Layout::load).unwrap_or_default();
        // A remembered theme that is gone since is no reason to refuse a screen.
        let remembered = layout.theme.as_deref().filter(|_| fallback == "default-dark");
        let theme = match (self.theme(&layers), remembered.and_then(|name| themes.load(name).ok())) {
            (Some((name, origin)), _) => {
                themes.load(&name).map_err(|error| error.hint(format!("{origin} asks for it")))?
            }
            (None, Some(theme)) => theme,
            (None, None) => themes.load(fallback)?,
        };
        Ok(Options {
            offset_s: host::utc_offset_s(),
            theme,
            budget: self.budget,
            layout,
            layout_file,
            themes,
            keys: own.keys,
            from_list: false,
            links: self.links.settle(&get, color == ColorDepth::None),
            ascii: self.ascii || wants_ascii(&get),
            color,
            viewer: viewer_name(),
            mouse: !self.no_mouse,
        })
    }
}

/// Whether there is a theme of this name, built in or the user's.
///
/// # Errors
/// There is none, or its file is wrong.
pub fn check_theme(name: &str) -> Result<()> {
    own_themes(&|name| env::var(name).ok(), None)?.load(name).map(drop)
}

/// The built-in themes and those in the user's `themes` folder. A file that cannot be read is told of only when it is
/// asked for by name.
fn own_themes(env: &dyn Fn(&str) -> Option<String>, over: Option<String>) -> Result<Themes> {
    let Some(folder) = config_folder(env).map(|folder| folder.join("themes")) else {
        return Ok(Themes::new(Vec::new(), over));
    };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Themes::new(Vec::new(), over)),
        Err(error) => return Err(Error::environment(format!("cannot read {}: {error}", folder.display()))),
    };
    let mut own = Vec::new();
    for path in
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension() == Some("toml".as_ref()))
    {
        if let (Some(name), Ok(text)) =
            (path.file_stem().and_then(|name| name.to_str()), fs::read_to_string(&path))
        {
            own.push((name.to_owned(), text));
        }
    }
    own.sort();
    Ok(Themes::new(own, over))
}

/// `$XDG_CONFIG_HOME/elastictop`, or the same below `~/.config`.
fn config_folder(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    base.or_else(|| Some(set("HOME")?.join(".config"))).map(|base| base.join("elastictop"))
}

impl ScreenArgs {
    /// The theme that somebody wants: typed, exported, or in a file.
    fn theme(&self, layers: &Layers) -> Option<(String, String)> {
        let typed = self.theme.clone().map(|name| (name, "--theme or ELASTICTOP_THEME".to_owned()));
        typed.or_else(|| layers.get("ui.theme").map(|found| (found.value, found.origin)))
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
    let foreign = matches!(target, Target::Foreign(_));
    farewell(ending, &state, foreign)
}

/// Shows a job over links to several nodes until the user leaves it.
///
/// # Errors
/// The terminal cannot be used.
pub async fn watch_nodes(hosts: Vec<Host>, options: &Options) -> Result<u8> {
    let mut hosts = Some(hosts);
    let viewer = options.viewer.clone();
    // What holds the links lives in this process: it never needs to be reached again.
    let connector: tui::Connector = Box::new(move || {
        let hosts = hosts.take();
        let viewer = viewer.clone();
        Box::pin(async move {
            let hosts = hosts.ok_or_else(|| Error::job("the links to the nodes ended"))?;
            Ok(cluster::serve(hosts, &viewer))
        })
    });
    watch_over(connector, options).await
}

/// Shows a job over links of any kind until the user leaves it.
///
/// # Errors
/// The first link cannot be made, or the terminal not be used.
pub async fn watch_over(connector: tui::Connector, options: &Options) -> Result<u8> {
    let (ending, state) = tui::watch(connector, options).await?;
    farewell(ending, &state, false)
}

/// Says what becomes of the job; its exit code when it is over.
fn farewell(ending: Ending, state: &State, foreign: bool) -> Result<u8> {
    let id = state.job.as_ref().map_or("the job", |job| job.id.0.as_str()).to_owned();
    match ending {
        Ending::Detached if foreign => out::say(format_args!("left {id}")),
        Ending::Detached => out::say(format_args!(
            "detached from {id}, which goes on; come back with: elastictop attach {id}"
        )),
        Ending::Lost(why) => {
            out::note(format_args!(
                "lost {id}: {why}\n\nhint: elastictop status {id} says whether it still runs"
            ));
            Ok(0)
        }
        Ending::Over => {
            out::say(summary(&id, state))?;
            Ok(plain::exit_code(state))
        }
    }
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
