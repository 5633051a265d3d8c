//! The state of the screen, and the only function that changes it.

mod dialog;
mod gpus;
mod logs;
mod runs;

use std::collections::BTreeMap;

use ratatui::crossterm::event::{KeyEvent, MouseButton, MouseEvent, MouseEventKind};

pub(crate) use dialog::{Dialog, SIGNALS, Verdict};
pub(crate) use logs::Logs;
pub(crate) use runs::{Combination, Key, Line, Runs, Tree};

use super::{
    keys::{self, Action, Scope, View},
    text::{GlyphSet, Glyphs},
    theme::{ColorDepth, Role, Theme},
    view, words,
};
use crate::{
    domain::{
        alert::AlertKind,
        command::{Command, Outcome},
        rank::JobState,
        state::{Rank, State},
        time::Stamp,
    },
    wire::message::{PROTOCOL, ToSupervisor, ToViewer},
};

/// How long a toast stays, in milliseconds.
const TOAST_MS: u64 = 8_000;

/// What can happen to the screen.
#[derive(Clone, Debug)]
pub enum Msg {
    /// A key was pressed.
    Key(KeyEvent),
    /// The mouse did something.
    Mouse(MouseEvent),
    /// The terminal has this many columns and rows.
    Resize(u16, u16),
    /// It is this late by the viewer's clock.
    Tick(Stamp),
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
    /// The job, as far as it was told.
    pub state: State,
    /// Now, by the supervisor's clock.
    pub now: Stamp,
    /// The link.
    pub link: LinkState,
    /// Why commands are refused.
    pub read_only: Option<String>,
    pub(crate) view: View,
    /// Position on the node of the selected rank.
    pub(crate) selected: u32,
    /// Whether the selected rank is shown alone.
    pub(crate) detail: bool,
    /// Number of the selected attempt; `None` is the last, whichever that is.
    pub(crate) lane: Option<u32>,
    /// Number of the selected event; `None` is the last, whichever that is.
    pub(crate) event: Option<u64>,
    pub(crate) logs: Logs,
    pub(crate) runs: Runs,
    pub(crate) dialog: Option<Dialog>,
    /// First line of the help that is shown, while it is.
    pub(crate) help: Option<usize>,
    pub(crate) toast: Option<Toast>,
    pub(crate) theme: Theme,
    pub(crate) glyphs: Glyphs,
    /// Seconds east of UTC of the viewer's time zone.
    pub(crate) offset_s: i32,
    size: (u16, u16),
    chosen_theme: Theme,
    depth: ColorDepth,
    mouse: bool,
    viewer: String,
    /// The viewer's clock, and how far the supervisor's is ahead, in milliseconds.
    local: Stamp,
    ahead: i64,
    next_id: u64,
    /// When the last question for bytes over PCIe and NVLink went out.
    traffic_at: Stamp,
    /// Commands that have no answer yet, in words.
    asked: BTreeMap<u64, String>,
}

impl App {
    /// A screen that has not heard of its job.
    pub fn new(options: &super::Options, size: (u16, u16), now: Stamp, offset_s: i32) -> App {
        App {
            state: State::default(),
            now,
            link: LinkState::Connecting,
            read_only: None,
            view: View::Overview,
            selected: 0,
            detail: false,
            lane: None,
            event: None,
            logs: Logs::default(),
            runs: Runs::default(),
            dialog: None,
            help: None,
            toast: None,
            theme: options.theme.at(options.color),
            glyphs: GlyphSet::of(options.ascii),
            offset_s,
            size,
            chosen_theme: options.theme.clone(),
            depth: options.color,
            mouse: options.mouse,
            viewer: options.viewer.clone(),
            local: now,
            ahead: 0,
            next_id: 1,
            traffic_at: Stamp(0),
            asked: BTreeMap::new(),
        }
    }

    /// Takes one thing in.
    pub fn update(&mut self, msg: Msg) -> Vec<Cmd> {
        let mut cmds = Vec::new();
        match msg {
            Msg::Key(event) => self.key(&event, &mut cmds),
            Msg::Mouse(event) => self.mouse_event(event, &mut cmds),
            Msg::Resize(columns, rows) => self.size = (columns, rows),
            Msg::Tick(local) => {
                self.local = local;
                self.now = Stamp(local.0.saturating_add_signed(self.ahead));
                self.toast.take_if(|toast| toast.until <= local);
            }
            Msg::Linked => {
                self.logs.forget_question();
                cmds.push(Cmd::Send(ToSupervisor::Hello {
                    protocol: PROTOCOL,
                    version: env!("CARGO_PKG_VERSION").into(),
                    viewer: self.viewer.clone(),
                    watch: true,
                }));
            }
            Msg::Heard(message) => self.heard(*message),
            Msg::Unlinked(text) => self.unlinked(text),
            Msg::GaveUp(text) => {
                self.unlinked(text.clone());
                self.link = LinkState::Gone(text);
            }
        }
        if self.detail && self.link == LinkState::Live {
            self.ask_for_traffic(&mut cmds);
        }
        if self.shows_log() && self.link == LinkState::Live {
            let id = self.next_id;
            if let Some(query) = self.logs.question(id, self.local) {
                self.next_id += 1;
                cmds.push(Cmd::Send(ToSupervisor::Logs { id, query }));
            }
        }
        cmds
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
                if lost > 0 {
                    self.say(
                        Role::Warn,
                        format!("this screen was slow and missed {lost} events; it shows all of the present"),
                    );
                }
                self.logs.count(&self.state);
                self.keep_selection();
            }
            ToViewer::Events { events } => {
                for event in &events {
                    self.state.apply(event);
                }
                self.logs.count(&self.state);
                self.keep_selection();
            }
            ToViewer::Reply { id, outcome } => {
                let what = self.asked.remove(&id).unwrap_or_default();
                match outcome {
                    Outcome::Done(text) => self.say(Role::Ok, format!("{what}: {text}")),
                    Outcome::Refused(text) => self.say(Role::Crit, format!("{what} refused: {text}")),
                }
            }
            ToViewer::Logs { id, page } => {
                if let Some((role, text)) = self.logs.answer(id, page) {
                    self.say(role, text);
                }
            }
            ToViewer::Bye { text } => self.say(Role::Info, text),
            ToViewer::Unknown => {}
        }
    }

    fn unlinked(&mut self, text: String) {
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

    fn keep_selection(&mut self) {
        if self.state.rank(self.selected).is_none() {
            self.selected = self.state.ranks.first().map_or(0, |rank| rank.local_rank);
            self.detail &= !self.state.ranks.is_empty();
        }
    }

    /// Whether log lines are on screen.
    fn shows_log(&self) -> bool {
        self.view == View::Logs || self.detail
    }

    pub(crate) fn rank(&self) -> Option<&Rank> {
        self.state.rank(self.selected)
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
            View::Timeline | View::Events => Scope::Everywhere,
        }
    }

    fn say(&mut self, role: Role, text: impl Into<String>) {
        self.toast = Some(Toast {
            text: text.into(),
            role,
            until: self.local + std::time::Duration::from_millis(TOAST_MS),
        });
    }

    fn key(&mut self, event: &KeyEvent, cmds: &mut Vec<Cmd>) {
        if let Some(mut dialog) = self.dialog.take() {
            match dialog.key(event) {
                Verdict::Open => self.dialog = Some(dialog),
                Verdict::Closed => {}
                Verdict::Do(command) => self.order_checked(&dialog, command, cmds),
            }
            return;
        }
        if self.view == View::Logs && !self.detail && self.logs.key(event) {
            return;
        }
        if let Some(action) = keys::lookup(event, self.scope()) {
            self.act(action, cmds);
        }
    }

    /// Moves in the help, which covers everything else.
    fn act_on_help(&mut self, action: Action, first: usize) -> bool {
        let page = usize::from(self.size.1.saturating_sub(4)).max(1);
        self.help = match action {
            Action::Down => Some(first + 1),
            Action::Up => Some(first.saturating_sub(1)),
            Action::PageDown | Action::HalfDown => Some(first + page),
            Action::PageUp | Action::HalfUp => Some(first.saturating_sub(page)),
            Action::First => Some(0),
            Action::Last => Some(usize::MAX),
            Action::Detach | Action::Redraw | Action::Theme | Action::Mouse => return false,
            _ => None,
        };
        self.help = self.help.map(|first| first.min(view::help_end(self, self.size)));
        true
    }

    fn act(&mut self, action: Action, cmds: &mut Vec<Cmd>) {
        if self.help.is_some_and(|first| self.act_on_help(action, first)) {
            return;
        }
        let page = i64::from(self.size.1.saturating_sub(6)).max(1);
        match action {
            Action::Up => self.step(-1),
            Action::Down => self.step(1),
            Action::PageUp => self.step(-page),
            Action::PageDown => self.step(page),
            Action::HalfUp => self.step(-(page / 2).max(1)),
            Action::HalfDown => self.step((page / 2).max(1)),
            Action::First => self.step(i64::MIN),
            Action::Last => self.step(i64::MAX),
            Action::Left => self.logs.shift_by(-8),
            Action::Right => self.logs.shift_by(8),
            Action::Enter if self.view == View::Runs => {
                if !self.apply_combination(cmds) {
                    self.say(Role::Info, "m and s look at another run mode and rank scope");
                }
            }
            Action::Enter => self.enter(),
            Action::NextRunMode => self.step_combination(false),
            Action::NextRankScope => self.step_combination(true),
            Action::Back => self.back(),
            Action::View(view) => self.go(view),
            Action::NextView => self.go(self.view.step(1)),
            Action::PreviousView => self.go(self.view.step(View::ALL.len() - 1)),
            Action::RankLog => match self.rank().map(|rank| rank.local_rank) {
                Some(local) => {
                    self.logs.open(Some(local));
                    self.logs.count(&self.state);
                    self.go(View::Logs);
                }
                None => self.say(Role::Info, "no rank yet"),
            },
            Action::MergedLog => {
                self.logs.open(None);
                self.logs.count(&self.state);
                self.go(View::Logs);
            }
            Action::Follow => self.logs.toggle_follow(),
            Action::Search => self.logs.start_search(),
            Action::NextMatch | Action::PreviousMatch => {
                if !self.logs.find_next(action == Action::PreviousMatch) {
                    self.say(Role::Info, "nothing to search for yet: press /");
                }
            }
            Action::FirstError => self.logs.find_error(self.state.attempt()),
            Action::Wrap => self.logs.wrap = !self.logs.wrap,
            Action::Detach => cmds.push(Cmd::Leave),
            Action::Stop | Action::Restart | Action::Signal | Action::KeepZombies | Action::Leftovers => {
                self.order(action, cmds);
            }
            Action::Mouse => {
                self.mouse = !self.mouse;
                cmds.push(Cmd::Mouse(self.mouse));
                self.say(
                    Role::Info,
                    if self.mouse { "mouse on; M gives it back to the terminal" } else { "mouse off" },
                );
            }
            Action::Theme => {
                self.chosen_theme = self.chosen_theme.next();
                self.theme = self.chosen_theme.at(self.depth);
                self.say(Role::Info, format!("theme {}", self.theme.name));
            }
            Action::Redraw => cmds.push(Cmd::Redraw),
            Action::Yank => match self.line_to_yank() {
                Some(line) => {
                    self.say(Role::Info, "copied, where the terminal lets programs do that (OSC 52)");
                    cmds.push(Cmd::Yank(line));
                }
                None => self.say(Role::Info, "nothing to copy here"),
            },
            Action::Help => self.help = Some(0),
            Action::Interrupt => {
                self.say(Role::Info, "q detaches, the job goes on; Q stops the job");
            }
        }
    }

    fn go(&mut self, view: View) {
        self.detail = false;
        self.view = view;
    }

    fn enter(&mut self) {
        if self.view == View::Overview && self.rank().is_some() {
            self.detail = true;
            self.logs.open(Some(self.selected));
            self.logs.count(&self.state);
        }
    }

    fn back(&mut self) {
        if self.detail {
            self.detail = false;
        } else if self.view == View::Runs && self.runs.preview.take().is_some() {
        } else if self.view == View::Logs && self.logs.end_search() {
        } else {
            self.view = View::Overview;
        }
    }

    /// Moves what is selected; `i64::MIN` and `MAX` mean the ends.
    fn step(&mut self, by: i64) {
        match self.view {
            View::Overview => {
                let ranks = &self.state.ranks;
                let at = ranks.iter().position(|rank| rank.local_rank == self.selected).unwrap_or(0);
                if let Some(rank) = ranks.get(moved(at, by, ranks.len())) {
                    self.selected = rank.local_rank;
                }
                if self.detail {
                    self.logs.open(Some(self.selected));
                    self.logs.count(&self.state);
                }
            }
            View::Logs => self.logs.step(by),
            View::Runs => self.step_runs(by),
            View::Timeline => {
                let lanes = &self.state.attempts;
                let last = lanes.len().saturating_sub(1);
                let at = self.lane.and_then(|n| lanes.iter().position(|lane| lane.n == n)).unwrap_or(last);
                let to = moved(at, by, lanes.len());
                self.lane = lanes.get(to).filter(|_| to < last).map(|lane| lane.n);
            }
            View::Events => {
                let (lines, at) = self.event_lines();
                let to = moved(at, by, lines.len());
                self.event = lines.get(to).filter(|_| to + 1 < lines.len()).map(|line| line.seq);
            }
        }
    }

    /// The lines of the events view, and which one is selected.
    pub(crate) fn event_lines(&self) -> (Vec<words::EventLine>, usize) {
        let lines = words::event_lines(&self.state, self.glyphs);
        let last = lines.len().saturating_sub(1);
        let at = self.event.map_or(last, |seq| lines.partition_point(|line| line.seq < seq).min(last));
        (lines, at)
    }

    fn line_to_yank(&self) -> Option<String> {
        let line = match self.view {
            View::Overview if self.detail => self.logs.selected().map(|line| line.text.clone()),
            View::Overview => self.rank().and_then(|rank| rank.last_line.clone()),
            View::Logs => self.logs.selected().map(|line| line.text.clone()),
            View::Runs => self.link_to_yank(),
            View::Timeline => {
                let lanes = &self.state.attempts;
                let lane = self.lane.and_then(|n| lanes.iter().find(|lane| lane.n == n)).or(lanes.back());
                lane.and_then(|lane| lane.cause.as_ref()).map(|cause| cause.text.clone())
            }
            View::Events => {
                let (lines, at) = self.event_lines();
                lines.into_iter().nth(at).map(|line| line.text)
            }
        }?;
        (!line.is_empty()).then_some(line)
    }

    /// Why nothing can be changed now, if so.
    fn cannot_change(&self) -> Option<String> {
        match (&self.link, &self.read_only) {
            (LinkState::Live, None) if self.state.state.is_over() => Some("the job is over".into()),
            (LinkState::Live, None) => None,
            (LinkState::Live, Some(why)) => Some(format!("read-only: {why}")),
            _ if self.state.state.is_over() => Some("the job is over".into()),
            _ => Some("no link to the supervisor now; the job goes on without it".into()),
        }
    }

    fn order(&mut self, action: Action, cmds: &mut Vec<Cmd>) {
        if let Some(why) = self.cannot_change() {
            return self.say(Role::Warn, why);
        }
        match action {
            Action::Stop => {
                let now = self.state.state == JobState::TearingDown;
                self.dialog = Some(Dialog::stop(self.state.ranks.len(), now));
            }
            Action::Restart => self.dialog = Some(Dialog::Restart),
            Action::Signal => match self.rank() {
                Some(rank) if rank.state.is_alive() => self.dialog = Some(Dialog::signal(rank)),
                Some(_) => self.say(Role::Info, "this rank's process is gone: nothing to signal"),
                None => self.say(Role::Info, "no rank yet"),
            },
            Action::Leftovers => self.list_leftovers(),
            Action::KeepZombies => {
                if self.state.alerts.iter().any(|alert| alert.kind == AlertKind::ZombieDeadlock) {
                    self.send(Command::KeepZombies, cmds);
                } else {
                    self.say(Role::Info, "no zombie deadlock: nothing to keep");
                }
            }
            _ => {}
        }
    }

    /// Sends what a dialog asked for, unless the world changed while it was open.
    fn order_checked(&mut self, dialog: &Dialog, command: Command, cmds: &mut Vec<Cmd>) {
        if let Some(why) = self.cannot_change() {
            return self.say(Role::Warn, why);
        }
        if let Dialog::Signal { local_rank, proc, tag, .. } = dialog
            && self.state.rank(*local_rank).map(|rank| rank.proc) != Some(*proc)
        {
            return self
                .say(Role::Warn, format!("not sent: {tag} has a new process since this dialog opened"));
        }
        self.send(command, cmds);
    }

    fn send(&mut self, command: Command, cmds: &mut Vec<Cmd>) {
        let id = self.next_id;
        self.next_id += 1;
        let what = words::command(&command);
        self.say(Role::Info, format!("{what}: asked, waiting for the effect"));
        self.asked.insert(id, what);
        cmds.push(Cmd::Send(ToSupervisor::Do { id, command }));
    }

    fn mouse_event(&mut self, event: MouseEvent, cmds: &mut Vec<Cmd>) {
        if self.dialog.is_some() {
            return;
        }
        match event.kind {
            MouseEventKind::ScrollUp => (0..3).for_each(|_| self.act(Action::Up, cmds)),
            MouseEventKind::ScrollDown => (0..3).for_each(|_| self.act(Action::Down, cmds)),
            MouseEventKind::Down(MouseButton::Left) if self.help.is_none() => {
                match view::hit(self, self.size, event.column, event.row) {
                    Some(view::Hit::Rank(local)) if self.selected == local => self.enter(),
                    Some(view::Hit::Rank(local)) => self.selected = local,
                    Some(view::Hit::View(view)) => self.go(view),
                    None => {}
                }
            }
            _ => {}
        }
    }
}

fn moved(at: usize, by: i64, len: usize) -> usize {
    (at as i64).saturating_add(by).clamp(0, len.saturating_sub(1) as i64) as usize
}
