//! What keys and the mouse do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

use super::{App, Cmd, Prompt, Tab, Verdict};
use crate::{
    domain::{
        fleet::{Metric, Order},
        replay::Control,
        state::State,
    },
    tui::{
        keys::{Action, View},
        theme::{Role, Theme},
        view,
    },
};

impl App {
    pub(super) fn key(&mut self, event: &KeyEvent, cmds: &mut Vec<Cmd>) {
        self.put_away_toast();
        if let Some(mut dialog) = self.dialog.take() {
            match dialog.key(event) {
                Verdict::Open => self.dialog = Some(dialog),
                Verdict::Closed => {}
                Verdict::Do(command) => self.order_checked(&dialog, command, cmds),
            }
            return;
        }
        if self.prompt.is_some() {
            return self.prompt_key(event, cmds);
        }
        if self.view == View::Logs && self.logs.key(event) {
            return;
        }
        if let Some(action) = self.meaning(event) {
            self.act(action, cmds);
        }
    }

    /// Pasted text goes where text is typed, its first line alone. Anywhere else it would be orders that nobody gave.
    pub(super) fn pasted(&mut self, text: &str, cmds: &mut Vec<Cmd>) {
        let is_typing = self.prompt.is_some() || self.view == View::Logs && self.logs.input.is_some();
        if self.dialog.is_some() || !is_typing {
            self.say(Role::Warn, "pasted text is not taken for keys");
            return;
        }
        for c in text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()) {
            self.key(&KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE), cmds);
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

    pub(super) fn act(&mut self, action: Action, cmds: &mut Vec<Cmd>) {
        if self.help.is_some_and(|first| self.act_on_help(action, first)) {
            return;
        }
        let page = i64::from(self.size.1.saturating_sub(6)).max(1);
        match action {
            Action::PageUp
            | Action::PageDown
            | Action::HalfUp
            | Action::HalfDown
            | Action::First
            | Action::Last
                if self.detail() && self.view == View::Overview =>
            {
                self.scroll_page(action);
            }
            Action::Up => self.step(-1),
            Action::Down => self.step(1),
            Action::PageUp => self.step(-page),
            Action::PageDown => self.step(page),
            Action::HalfUp => self.step(-(page / 2).max(1)),
            Action::HalfDown => self.step((page / 2).max(1)),
            Action::First => self.step(i64::MIN),
            Action::Last => self.step(i64::MAX),
            Action::Left => self.sideways(-1),
            Action::Right => self.sideways(1),
            Action::Enter if self.view == View::Runs => {
                if !self.apply_combination(cmds) {
                    self.say(Role::Info, "m and s look at another run mode and rank scope");
                }
            }
            Action::Enter if self.view == View::Hang => self.enter_odd_rank(),
            Action::Enter => self.enter(),
            Action::NextRunMode => self.step_combination(false),
            Action::NextRankScope => self.step_combination(true),
            Action::Back => {
                if !self.back() && self.from_list {
                    cmds.push(Cmd::Leave);
                }
            }
            Action::View(view) => self.go(view),
            Action::NextView => self.go(self.view.step(1)),
            Action::PreviousView => self.go(self.view.step(View::ALL.len() - 1)),
            Action::RankLog => match self.rank().map(|rank| rank.local_rank) {
                Some(local) => {
                    let from_page = self.detail() && self.view == View::Overview;
                    self.open_log(Some(local));
                    self.go(View::Logs);
                    self.from_page = from_page;
                }
                None => self.say(Role::Info, "no rank yet"),
            },
            Action::MergedLog => {
                self.open_log(None);
                self.go(View::Logs);
            }
            Action::NextNodeLog => self.turn_log(1),
            Action::PreviousNodeLog => self.turn_log(self.nodes.len().saturating_sub(1)),
            Action::Follow => self.logs.toggle_follow(),
            Action::Search => self.logs.start_search(),
            Action::NextMatch | Action::PreviousMatch => {
                if !self.logs.find_next(action == Action::PreviousMatch) {
                    self.say(Role::Info, "nothing to search for yet: press /");
                }
            }
            Action::FirstError => {
                // Each node counts its attempts itself.
                let running = self.state_of(self.log_node).map_or(0, State::attempt);
                self.logs.find_error(running);
            }
            Action::Wrap => self.logs.wrap = !self.logs.wrap,
            Action::Fold => self.logs.toggle_fold(),
            Action::AgentRecords => self.logs.toggle_records(),
            Action::Sort | Action::Metric if self.detail() => {
                self.say(Role::Info, "that is of the overview: Esc leads back to it");
            }
            Action::Sort => {
                let orders = Order::ALL;
                let at = orders.iter().position(|order| *order == self.overview.order).unwrap_or(0);
                self.sort(orders[(at + 1) % orders.len()]);
            }
            Action::Metric => {
                let at = Metric::ALL.iter().position(|metric| *metric == self.overview.metric).unwrap_or(0);
                let next = (1..=Metric::ALL.len()).map(|step| Metric::ALL[(at + step) % Metric::ALL.len()]);
                let known = next.into_iter().find(|metric| self.overview.fleet.knows(*metric));
                self.measure(known.unwrap_or_default());
            }
            Action::NextTab => self.turn_tab(1),
            Action::PreviousTab => self.turn_tab(Tab::ALL.len() - 1),
            Action::Span => self.next_span(),
            Action::YankWho => match self.rank().map(|rank| self.who_is(rank)) {
                Some(line) => self.yank(line, cmds),
                None => self.say(Role::Info, "no rank yet"),
            },
            Action::Hang => self.show_hang(),
            Action::Filter if self.view == View::Events => self.prompt = Some(Prompt::find(&self.event_find)),
            Action::Filter if self.detail() => self.find_on_page(cmds),
            Action::Filter => self.prompt = Some(Prompt::filter(self.overview.filter.text())),
            Action::Palette => self.prompt = Some(Prompt::palette()),
            Action::Detach => cmds.push(Cmd::Leave),
            Action::Stop | Action::Restart | Action::Signal | Action::KeepZombies | Action::Leftovers => {
                self.order(action, cmds);
            }
            Action::Stacks => self.ask_for_stacks(cmds),
            Action::Mouse => {
                (self.mouse, self.mouse_was_chosen) = (!self.mouse, true);
                cmds.push(Cmd::Mouse(self.mouse));
                self.say(
                    Role::Info,
                    if self.mouse { "mouse on; M gives it back to the terminal" } else { "mouse off" },
                );
            }
            Action::Theme => {
                let next = self.themes.after(&self.chosen_theme.name);
                self.wear(next);
            }
            Action::Redraw => cmds.push(Cmd::Redraw),
            Action::Yank => match self.line_to_yank() {
                Some(line) => self.yank(line, cmds),
                None => self.say(Role::Info, "nothing to copy here"),
            },
            Action::Play
            | Action::StepForward
            | Action::StepBack
            | Action::Faster
            | Action::Slower
            | Action::Ahead
            | Action::Behind
            | Action::NextAlert
            | Action::PreviousAlert => self.play(action, cmds),
            Action::Help => self.help = Some(0),
            Action::Interrupt => {
                let text = if self.replay.is_some() {
                    "q leaves the recording"
                } else {
                    "q detaches, the job goes on; Q stops the job"
                };
                self.say(Role::Info, text);
            }
        }
    }

    fn yank(&mut self, text: String, cmds: &mut Vec<Cmd>) {
        let first = text.lines().next().unwrap_or_default();
        let what = crate::tui::text::cut(first, 40, self.glyphs).into_owned();
        self.say(Role::Info, format!("copied, where the terminal lets programs do that (OSC 52): {what}"));
        cmds.push(Cmd::Yank(text));
    }

    pub(super) fn mouse_event(&mut self, event: MouseEvent, cmds: &mut Vec<Cmd>) {
        if self.dialog.is_some() || self.prompt.is_some() {
            return;
        }
        match event.kind {
            MouseEventKind::ScrollUp => (0..3).for_each(|_| self.act(Action::Up, cmds)),
            MouseEventKind::ScrollDown => (0..3).for_each(|_| self.act(Action::Down, cmds)),
            MouseEventKind::Down(MouseButton::Left) if self.help.is_none() => {
                match view::hit(self, self.size, event.column, event.row) {
                    Some(view::Hit::Rank(id)) if self.selected_id() == id => self.enter(),
                    Some(view::Hit::Rank(id)) => self.select(id),
                    Some(view::Hit::View(view)) => self.go(view),
                    Some(view::Hit::Place(permille)) => self.seek(Control::Share { permille }, cmds),
                    None => {}
                }
            }
            _ => {}
        }
    }

    /// Takes a theme, in the colours that the terminal has.
    pub(super) fn wear(&mut self, theme: Theme) {
        self.theme = theme.at(self.shown_depth());
        (self.chosen_theme, self.theme_was_chosen) = (theme, true);
        self.say(Role::Info, format!("theme {}", self.theme.name));
    }

    pub(super) fn sort(&mut self, order: Order) {
        self.overview.order = order;
        self.list_ranks();
        self.say(Role::Info, format!("ordered by {}", order.name()));
    }

    pub(super) fn measure(&mut self, metric: Metric) {
        self.overview.metric = metric;
        self.look_at_ranks();
        self.say(Role::Info, format!("cells show {}", metric.name()));
    }
}
