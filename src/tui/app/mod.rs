//! The state of the screen, and the only function that changes it.

mod act;
mod dialog;
mod gpus;
mod hang;
mod happened;
mod hearing;
mod labels;
mod logs;
mod navigate;
mod nodes;
mod order;
mod overview;
mod page;
mod prompt;
mod remember;
mod replay;
mod runs;
mod stacks;

use std::{collections::BTreeMap, time::Duration};

use ratatui::crossterm::event::{KeyEvent, MouseEvent};

pub(crate) use dialog::{Dialog, SIGNALS, Verdict};
pub(crate) use logs::{Logs, Shown};
pub use nodes::Node;
pub(crate) use overview::{Overview, Zoom};
pub(crate) use page::{Page, Tab};
pub(crate) use prompt::{Candidate, Prompt, PromptKind};
pub(crate) use replay::Replay;
pub(crate) use runs::{Combination, Key, Line, Runs, Tree};

use super::{
    budget::Thrift,
    keys::{Keymap, Scope, View},
    layout::Layout,
    text::{GlyphSet, Glyphs},
    theme::{ColorDepth, Role, Theme, Themes},
};
use crate::{
    domain::{
        command::Outcome,
        state::{Rank, State},
        time::Stamp,
    },
    wire::message::{PROTOCOL, ToSupervisor, ToViewer},
};

/// How long a toast stays, in milliseconds, and how long it does whatever is pressed.
const TOAST_MS: u64 = 8_000;
const READ_MS: u64 = 1_500;

/// What can happen to the screen.
#[derive(Clone, Debug)]
pub enum Msg {
    /// A key was pressed.
    Key(KeyEvent),
    /// Text was pasted.
    Pasted(String),
    /// The mouse did something.
    Mouse(MouseEvent),
    /// The terminal has this many columns and rows.
    Resize(u16, u16),
    /// It is this late by the viewer's clock.
    Tick(Stamp),
    /// The same, and something that was heard comes next: ranks are looked at then.
    Clock(Stamp),
    /// The line is thin: so plain the screen has to be.
    Thrift(Thrift),
    /// There is a link.
    Linked,
    /// The supervisor says something.
    Heard(Box<ToViewer>),
    /// The link is gone, or could not be made: why.
    Unlinked(String),
    /// The link will not come back: why.
    GaveUp(String),
}

/// What the loop around the screen shall do.
#[derive(Clone, Debug, PartialEq)]
pub enum Cmd {
    /// Say this to the supervisor.
    Send(ToSupervisor),
    /// Leave the screen.
    Leave,
    /// Capture the mouse, or do not.
    Mouse(bool),
    /// Put this on the terminal's clipboard.
    Yank(String),
    /// Forget what is on the terminal and draw all of it.
    Redraw,
}

/// The link as the user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Not made yet, or made and not answered.
    Connecting,
    /// Works.
    Live,
    /// There, but nothing comes over it.
    Silent {
        /// When something came last, by the viewer's clock.
        since: Stamp,
    },
    /// Gone; made anew in the background.
    Lost {
        /// Attempts to make it anew.
        tries: u32,
        /// Why the last one failed.
        text: String,
    },
    /// Gone for good.
    Gone(String),
}

/// A line that goes away by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toast {
    pub(crate) text: String,
    pub(crate) role: Role,
    until: Stamp,
}

/// All that the screen shows.
#[derive(Debug)]
pub struct App {
    /// The job, as far as it was told: by its supervisor, or by those of all its nodes.
    pub state: State,
    /// Now, by the supervisor's clock.
    pub now: Stamp,
    /// The link.
    pub link: LinkState,
    /// Why commands are refused.
    pub read_only: Option<String>,
    /// The nodes of a job that is watched over several links; none when it is watched over one.
    pub nodes: Vec<Node>,
    pub(crate) view: View,
    /// The node of the selected rank.
    pub(crate) node: u32,
    /// The node whose log is shown.
    pub(crate) log_node: u32,
    /// Position on its node of the selected rank.
    pub(crate) selected: u32,
    /// How far the overview is gone into.
    pub(crate) zoom: Zoom,
    /// Tab of the rank's page.
    pub(crate) tab: Tab,
    pub(crate) page: Page,
    /// Whether the log was opened from a rank's page, where leaving it leads back to.
    from_page: bool,
    pub(crate) overview: Overview,
    happened: happened::Happened,
    /// Number of the selected attempt; `None` is the last, whichever that is.
    pub(crate) lane: Option<u32>,
    /// Number of the selected event; `None` is the last, whichever that is.
    pub(crate) event: Option<u64>,
    /// What events must say to be shown in their view.
    pub(crate) event_find: String,
    pub(crate) logs: Logs,
    pub(crate) runs: Runs,
    /// The recording that is played, if this is no live job.
    pub(crate) replay: Option<Replay>,
    pub(crate) dialog: Option<Dialog>,
    /// A command or filter while it is typed.
    pub(crate) prompt: Option<Prompt>,
    /// First line of the help that is shown, while it is.
    pub(crate) help: Option<usize>,
    pub(crate) stacks: stacks::Taken,
    /// First line of the hang view that is shown.
    pub(crate) hang_first: usize,
    pub(crate) toast: Option<Toast>,
    pub(crate) theme: Theme,
    pub(crate) glyphs: Glyphs,
    pub(crate) keymap: Keymap,
    /// Seconds east of UTC of the viewer's time zone.
    pub(crate) offset_s: i32,
    size: (u16, u16),
    chosen_theme: Theme,
    themes: Themes,
    /// Whether leaving leads back to a list of jobs.
    from_list: bool,
    depth: ColorDepth,
    /// Whether the terminal gets hyperlinks.
    pub(crate) links: bool,
    mouse: bool,
    /// How plain the screen is because the line is thin.
    pub(crate) thrift: Thrift,
    layout: Layout,
    theme_was_chosen: bool,
    mouse_was_chosen: bool,
    viewer: String,
    /// The viewer's clock, and how far the supervisor's is ahead, in milliseconds.
    local: Stamp,
    ahead: i64,
    next_id: u64,
    /// When the last question for bytes over PCIe and NVLink went out.
    traffic_at: Stamp,
    /// Commands that have no answer yet, in words.
    asked: BTreeMap<u64, String>,
    hearing: hearing::Hearing,
}

impl App {
    /// A screen that has not heard of its job.
    pub fn new(options: &super::Options, size: (u16, u16), now: Stamp, offset_s: i32) -> App {
        let mut app = App {
            state: State::default(),
            now,
            link: LinkState::Connecting,
            read_only: None,
            nodes: Vec::new(),
            view: View::Overview,
            node: 0,
            log_node: 0,
            selected: 0,
            zoom: Zoom::Fleet,
            tab: Tab::default(),
            page: Page::default(),
            from_page: false,
            overview: Overview::default(),
            happened: happened::Happened::default(),
            lane: None,
            event: None,
            event_find: String::new(),
            logs: Logs::default(),
            runs: Runs::default(),
            replay: None,
            dialog: None,
            prompt: None,
            help: None,
            stacks: stacks::Taken::default(),
            hang_first: 0,
            toast: None,
            theme: options.theme.at(options.color),
            glyphs: GlyphSet::of(options.ascii),
            // What cannot be read was told before the screen was taken.
            keymap: Keymap::new(&options.keys).unwrap_or_default(),
            offset_s,
            size,
            chosen_theme: options.theme.clone(),
            themes: options.themes.clone(),
            from_list: options.from_list,
            depth: options.color,
            links: options.links,
            mouse: options.mouse && options.layout.mouse.unwrap_or(true),
            thrift: Thrift::None,
            layout: options.layout.clone(),
            theme_was_chosen: false,
            mouse_was_chosen: false,
            viewer: options.viewer.clone(),
            local: now,
            ahead: 0,
            next_id: 1,
            traffic_at: Stamp(0),
            asked: BTreeMap::new(),
            hearing: hearing::Hearing::new(now),
        };
        app.take_layout();
        app
    }

    /// Takes one thing in.
    pub fn update(&mut self, msg: Msg) -> Vec<Cmd> {
        let mut cmds = Vec::new();
        match msg {
            Msg::Key(event) => self.key(&event, &mut cmds),
            Msg::Pasted(text) => self.pasted(&text, &mut cmds),
            Msg::Mouse(event) => self.mouse_event(event, &mut cmds),
            Msg::Resize(columns, rows) => self.size = (columns, rows),
            Msg::Tick(local) => {
                self.pass_time(local);
                self.listen(&mut cmds);
                self.look_at_ranks();
            }
            Msg::Clock(local) => {
                self.pass_time(local);
                self.overview.is_behind = true;
            }
            Msg::Thrift(thrift) => self.save(thrift),
            Msg::Linked => {
                self.hears();
                self.logs.forget_question();
                self.forget_page_questions();
                cmds.push(Cmd::Send(ToSupervisor::Hello {
                    protocol: PROTOCOL,
                    version: env!("CARGO_PKG_VERSION").into(),
                    viewer: self.viewer.clone(),
                    watch: true,
                }));
            }
            Msg::Heard(message) => {
                self.hears();
                self.heard(*message);
            }
            Msg::Unlinked(text) => self.unlinked(text),
            Msg::GaveUp(text) => {
                self.unlinked(text.clone());
                self.link = LinkState::Gone(text);
            }
        }
        if self.detail() && self.link == LinkState::Live {
            self.ask_for_traffic(&mut cmds);
        }
        if self.detail() {
            self.ask_about_rank(&mut cmds);
        }
        if self.shows_log() && self.link == LinkState::Live {
            let id = self.next_id;
            if let Some(query) = self.logs.question(id, self.local) {
                self.next_id += 1;
                cmds.push(self.to_node(self.log_node, ToSupervisor::Logs { id, query }));
            }
        }
        cmds
    }

    fn pass_time(&mut self, local: Stamp) {
        self.local = local;
        if self.replay.is_none() {
            self.now = Stamp(local.0.saturating_add_signed(self.ahead));
        }
        self.toast.take_if(|toast| toast.until <= local);
    }

    fn heard(&mut self, message: ToViewer) {
        match message {
            ToViewer::Welcome { protocol, now, read_only, version } => {
                self.ahead = now.0 as i64 - self.local.0 as i64;
                self.now = now;
                self.read_only = read_only;
                if protocol != PROTOCOL {
                    self.say(
                        Role::Warn,
                        format!("the supervisor is elastictop {version}: some things may be missing"),
                    );
                }
            }
            ToViewer::Snapshot { state, lost } => {
                self.link = LinkState::Live;
                self.state = *state;
                self.tell_lost(lost);
                self.logs.count(&self.state);
                self.after_jump();
                if self.replay.is_some() {
                    // Another place of the recording: the figures that are shown end there.
                    self.forget_page_questions();
                }
                self.look_at_ranks();
            }
            ToViewer::Together { messages } => messages.into_iter().for_each(|message| self.heard(message)),
            ToViewer::Nodes { nodes } => self.take_status(nodes),
            ToViewer::From { node, message } => self.heard_from(node, *message),
            ToViewer::Events { events } => {
                if let Some(newest) = events.last() {
                    self.set_clock(newest.at);
                }
                events.into_iter().for_each(|event| self.page.hear(0, event, &mut self.state));
                self.logs.count(&self.state);
                self.look_at_ranks();
            }
            ToViewer::Reply { id, outcome } => {
                let what = self.asked.remove(&id).unwrap_or_default();
                match outcome {
                    // What was asked for is on the screen.
                    Outcome::Done(_) if what.starts_with("stacks") && self.shows_stacks() => {
                        self.toast = None;
                    }
                    Outcome::Done(text) => self.say(Role::Ok, format!("{what}: {text}")),
                    Outcome::Refused(text) => self.say(Role::Crit, format!("{what} refused: {text}")),
                }
            }
            ToViewer::Logs { id, page } => {
                if let Some((role, text)) = self.logs.answer(id, page) {
                    self.say(role, text);
                }
            }
            ToViewer::Stacks { id, stacks } => self.show_stacks(id, stacks),
            ToViewer::Recording { .. } | ToViewer::Position { .. } => self.heard_of_replay(message),
            ToViewer::CloseUp { id, close_up } => self.told_about_rank(id, *close_up),
            ToViewer::Bye { text } => self.say(Role::Info, text),
            ToViewer::Clock { .. } | ToViewer::Answers { .. } | ToViewer::Unknown => {}
        }
    }

    fn tell_lost(&mut self, lost: u64) {
        if lost > 0 {
            let text = format!("this screen was slow and missed {lost} events; it shows all of the present");
            self.say(Role::Warn, text);
        }
    }

    fn unlinked(&mut self, text: String) {
        self.hears_no_more();
        self.logs.forget_question();
        let unanswered = std::mem::take(&mut self.asked);
        if let Some(what) = unanswered.into_values().next_back() {
            self.say(Role::Crit, format!("{what}: the link went away before the answer came"));
        }
        let tries = match &self.link {
            LinkState::Lost { tries, .. } => tries + 1,
            LinkState::Connecting => 1,
            _ => 0,
        };
        self.link = LinkState::Lost { tries, text };
    }

    /// Whether log lines are on screen.
    fn shows_log(&self) -> bool {
        self.view == View::Logs || self.detail()
    }

    /// Whether the selected rank is shown alone.
    pub(crate) fn detail(&self) -> bool {
        self.zoom == Zoom::Rank
    }

    /// The selected rank.
    pub(crate) fn rank(&self) -> Option<&Rank> {
        self.state_of(self.node)?.rank(self.selected)
    }

    /// What a look at the job is worth: nothing new will come for a while, or ever.
    pub(crate) fn is_stale(&self) -> bool {
        !matches!(self.link, LinkState::Live) && !self.state.state.is_over()
    }

    /// Where keys go to.
    pub(crate) fn scope(&self) -> Scope {
        match self.view {
            View::Overview => Scope::Ranks,
            View::Logs => Scope::Logs,
            View::Runs => Scope::Runs,
            View::Hang => Scope::Hang,
            View::Events => Scope::Events,
            View::Timeline | View::Stacks => Scope::Everywhere,
        }
    }

    /// Who goes on has read what was said, unless it came just now.
    fn put_away_toast(&mut self) {
        let read = Duration::from_millis(TOAST_MS - READ_MS);
        self.toast.take_if(|toast| toast.until.since(self.local) < read);
    }

    fn say(&mut self, role: Role, text: impl Into<String>) {
        self.toast =
            Some(Toast { text: text.into(), role, until: self.local + Duration::from_millis(TOAST_MS) });
    }
}
