//! The log view: a window on lines that the supervisor keeps. Pages are asked for one at a time, on demand.

use std::collections::VecDeque;

use ratatui::crossterm::event::{Event as TerminalEvent, KeyCode, KeyEvent};
use tui_input::{Input, backend::crossterm::EventHandler};

use crate::{
    domain::{
        log::{Anchor, LogFilter, LogLine, LogPage, LogQuery, Needle, Stream},
        state::State,
        time::Stamp,
    },
    tui::theme::Role,
};

/// Lines asked for at once.
const PAGE: u32 = 400;
/// Most lines kept; the supervisor has the others.
const MAX_LINES: usize = 4000;
/// Lines between the cursor and the end of the window that make it ask for more.
const MARGIN: usize = 60;
/// A question without an answer is given up after this, in milliseconds.
const PATIENCE_MS: u64 = 5000;
/// How often the end is looked at when no sample says that it grew, in milliseconds: the agent's lines are in no
/// sample.
const POLL_MS: u64 = 1000;

/// Lines that are alike are joined when no more than so many others came between them.
const FOLD_BACK: usize = 24;
/// And when they came within this, in milliseconds.
const FOLD_MS: u128 = 10_000;

/// A row of the view: one line, or several that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Index of the first line.
    pub(crate) first: usize,
    /// Lines in it.
    pub(crate) count: usize,
}

/// What the cursor shall go to, when the window does not hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    /// The first line there is.
    Top,
    /// The last.
    Tail,
    /// The line with this number.
    Line(u64),
    /// The next match from a line on.
    Find { from: Option<u64>, backwards: bool, text: String },
    /// The first error of an attempt, from a line on.
    Error { attempt: u32, first_asked: u32, from: Option<u64> },
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Question {
    Newer,
    Older,
    Goal(Goal),
}

/// The window, its cursor, and what is asked.
#[derive(Debug)]
pub(crate) struct Logs {
    /// Only this rank, by its position on the node.
    pub(crate) local_rank: Option<u32>,
    pub(crate) lines: VecDeque<LogLine>,
    /// Index of the selected line.
    pub(crate) cursor: usize,
    /// Whether the cursor stays on the last line as more arrive.
    pub(crate) follow: bool,
    /// Lines that arrived since it does not.
    pub(crate) arrived: u64,
    pub(crate) wrap: bool,
    /// Whether lines of several ranks that are alike share a row.
    pub(crate) fold: bool,
    /// Whether the agent's event records are shown, and other lines that are there because of elastictop.
    pub(crate) records: bool,
    /// Cells that long lines are moved to the left.
    pub(crate) shift: usize,
    /// What is searched for.
    pub(crate) search: Option<String>,
    /// The line that a search has come to, when it takes more than one question.
    pub(crate) searched_to: Option<u64>,
    /// The search while it is typed.
    pub(crate) input: Option<Input>,
    /// Whether an answer has come since the view was opened.
    pub(crate) loaded: bool,
    goal: Option<Goal>,
    asked: Option<(u64, Question, Stamp)>,
    /// Oldest line that can be asked for.
    start: u64,
    /// The window is complete up to this line.
    reached: u64,
    polled_at: Stamp,
    /// Lines written by the shown ranks, as the last samples tell.
    written: u64,
    grew: bool,
}

impl Default for Logs {
    fn default() -> Logs {
        Logs {
            local_rank: None,
            lines: VecDeque::new(),
            cursor: 0,
            follow: true,
            arrived: 0,
            wrap: false,
            fold: true,
            records: false,
            shift: 0,
            search: None,
            searched_to: None,
            input: None,
            loaded: false,
            goal: Some(Goal::Tail),
            asked: None,
            start: 0,
            reached: 0,
            polled_at: Stamp(0),
            written: 0,
            grew: false,
        }
    }
}

impl Logs {
    /// Shows one rank's lines, or all, from the end on.
    pub(crate) fn open(&mut self, local_rank: Option<u32>) {
        if self.local_rank != local_rank || !self.loaded {
            *self = std::mem::take(self).anew(local_rank);
        }
    }

    /// Without lines, and what was asked of them; how they are shown stays as it is.
    pub(crate) fn anew(self, local_rank: Option<u32>) -> Logs {
        let Logs { wrap, fold, records, search, .. } = self;
        Logs { local_rank, wrap, fold, records, search, ..Logs::default() }
    }

    pub(crate) fn selected(&self) -> Option<&LogLine> {
        self.lines.get(self.cursor)
    }

    /// The rows of the view, in the order of their first lines, and the index of the one with the cursor.
    pub(crate) fn rows(&self) -> (Vec<Shown>, usize) {
        let mut rows: Vec<Shown> = Vec::with_capacity(self.lines.len());
        let mut cursor = 0;
        for (at, line) in self.lines.iter().enumerate() {
            let hidden = !self.records && line.is_bookkeeping();
            if hidden && at != self.cursor {
                continue;
            }
            let joined = if self.fold && self.local_rank.is_none() { self.alike(&rows, line) } else { None };
            match joined {
                Some(row) => rows[row].count += 1,
                None if hidden && self.follow => continue,
                None => rows.push(Shown { first: at, count: 1 }),
            }
            if at <= self.cursor {
                cursor = joined.unwrap_or(rows.len() - 1);
            }
        }
        (rows, cursor)
    }

    /// The row that a line joins, among the last ones.
    fn alike(&self, rows: &[Shown], line: &LogLine) -> Option<usize> {
        if line.stream == Stream::Agent || line.text.is_empty() {
            return None;
        }
        rows.iter().enumerate().rev().take(FOLD_BACK).find_map(|(row, shown)| {
            let first = &self.lines[shown.first];
            let same =
                first.text == line.text && first.attempt == line.attempt && first.stream == line.stream;
            (same && line.at.since(first.at).as_millis() <= FOLD_MS).then_some(row)
        })
    }

    pub(crate) fn toggle_fold(&mut self) {
        self.fold = !self.fold;
    }

    pub(crate) fn toggle_records(&mut self) {
        self.records = !self.records;
    }

    /// Learns from the state how many lines were written.
    pub(crate) fn count(&mut self, state: &State) {
        let shown =
            state.ranks.iter().filter(|rank| self.local_rank.is_none_or(|local| local == rank.local_rank));
        let written = shown.fold(0_u64, |sum, rank| sum.saturating_add(rank.lines));
        if written == self.written {
            return;
        }
        // A new incarnation counts from 0.
        let more = written.checked_sub(self.written).unwrap_or(written);
        if !self.follow && self.loaded {
            self.arrived = self.arrived.saturating_add(more);
        }
        (self.written, self.grew) = (written, true);
    }

    /// The link is new: what was asked over the former one will not be answered.
    pub(crate) fn forget_question(&mut self) {
        self.searched_to = None;
        if let Some((_, Question::Goal(goal), _)) = self.asked.take() {
            self.goal.get_or_insert(goal);
        }
    }

    fn filter(&self) -> LogFilter {
        LogFilter { local_rank: self.local_rank, attempt: None }
    }

    /// What to ask the supervisor now.
    pub(crate) fn question(&mut self, id: u64, now: Stamp) -> Option<LogQuery> {
        if let Some((_, _, since)) = &self.asked {
            if now.since(*since).as_millis() < u128::from(PATIENCE_MS) {
                return None;
            }
            self.forget_question();
        }
        let filter = self.filter();
        let page = |anchor| LogQuery::Page { filter: filter.clone(), anchor, max: PAGE };
        let at_end = self.cursor + MARGIN >= self.lines.len();
        let due = self.grew || now.since(self.polled_at).as_millis() >= u128::from(POLL_MS);
        let (question, query) = if let Some(goal) = self.goal.take() {
            let query = match &goal {
                Goal::Top => page(Anchor::From(0)),
                Goal::Tail => page(Anchor::Tail),
                Goal::Line(n) => page(Anchor::From(*n)),
                Goal::Find { from, backwards, text } => LogQuery::Find {
                    filter: filter.clone(),
                    from: *from,
                    backwards: *backwards,
                    needle: Needle::Text(text.clone()),
                },
                Goal::Error { attempt, from, .. } => LogQuery::Find {
                    filter: LogFilter { attempt: Some(*attempt), ..filter.clone() },
                    from: *from,
                    backwards: false,
                    needle: Needle::Error,
                },
            };
            (Question::Goal(goal), query)
        } else if self.cursor < MARGIN
            && self.lines.front().is_some_and(|line| line.n > self.start)
            && !self.follow
        {
            (Question::Older, page(Anchor::Before(self.lines[0].n)))
        } else if at_end && due {
            self.polled_at = now;
            self.grew = false;
            (Question::Newer, page(Anchor::From(self.reached)))
        } else {
            return None;
        };
        self.asked = Some((id, question, now));
        Some(query)
    }

    /// Takes an answer in; what to tell the user, if anything.
    pub(crate) fn answer(&mut self, id: u64, page: LogPage) -> Option<(Role, String)> {
        let (_, question, _) = self.asked.take_if(|(asked, ..)| *asked == id)?;
        self.loaded = true;
        self.start = page.start;
        self.searched_to = None;
        let is_full = page.next.is_some() || page.lines.len() >= PAGE as usize;
        match question {
            Question::Goal(goal @ (Goal::Find { .. } | Goal::Error { .. })) if page.next.is_some() => {
                self.search_on(goal, page.next);
            }
            Question::Goal(Goal::Find { backwards, text, .. }) => {
                let Some(n) = page.found else {
                    let (side, other) = if backwards { ("before this", "n") } else { ("after this", "N") };
                    return Some((
                        Role::Info,
                        format!("no match of {text:?} {side} line; {other} looks the other way"),
                    ));
                };
                self.go_to(n);
            }
            Question::Goal(Goal::Error { attempt, first_asked, .. }) => match page.found {
                Some(n) => {
                    self.go_to(n);
                    return Some((Role::Info, format!("first error of attempt {attempt}")));
                }
                None if attempt > 0 && attempt + 1 > first_asked => {
                    self.goal = Some(Goal::Error { attempt: attempt - 1, first_asked, from: None });
                }
                None => return Some((Role::Ok, "no error found in this attempt and the one before".into())),
            },
            Question::Goal(goal) => {
                // Fewer lines than a page from the end: the window holds all that is there.
                self.reached = match (&goal, page.lines.last()) {
                    (Goal::Tail, _) | (_, None) => page.end,
                    (_, Some(_)) if !is_full => page.end,
                    (_, Some(last)) => last.n + 1,
                };
                self.lines = page.lines.into();
                self.follow = goal == Goal::Tail;
                self.cursor = if self.follow { self.lines.len().saturating_sub(1) } else { 0 };
                if self.follow {
                    self.arrived = 0;
                }
            }
            Question::Older => {
                if page.lines.is_empty() {
                    // Nothing of this rank is older, whatever the numbers say.
                    self.start = self.lines.front().map_or(page.start, |line| line.n);
                }
                self.cursor += page.lines.len();
                page.lines.into_iter().rev().for_each(|line| self.lines.push_front(line));
                while self.lines.len() > MAX_LINES {
                    self.reached = self.lines.pop_back().map_or(self.reached, |line| line.n);
                }
            }
            Question::Newer if page.end < self.reached => self.goal = Some(Goal::Tail),
            Question::Newer => {
                if is_full && self.follow {
                    self.goal = Some(Goal::Tail);
                    return None;
                }
                self.reached = page.lines.last().filter(|_| is_full).map_or(page.end, |line| line.n + 1);
                self.lines.extend(page.lines);
                while self.lines.len() > MAX_LINES {
                    self.lines.pop_front();
                    self.cursor = self.cursor.saturating_sub(1);
                }
                if self.follow {
                    self.cursor = self.lines.len().saturating_sub(1);
                }
            }
        }
        None
    }

    /// Looks through what comes next, unless something else is wanted by now.
    fn search_on(&mut self, mut goal: Goal, next: Option<u64>) {
        let is_wanted = match &mut goal {
            Goal::Find { from, text, .. } => {
                *from = next;
                self.search.as_ref() == Some(text)
            }
            Goal::Error { from, .. } => {
                *from = next;
                true
            }
            Goal::Top | Goal::Tail | Goal::Line(_) => false,
        };
        if is_wanted && self.goal.is_none() {
            (self.goal, self.searched_to) = (Some(goal), next);
        }
    }

    fn go_to(&mut self, n: u64) {
        self.pause();
        match self.lines.binary_search_by_key(&n, |line| line.n) {
            Ok(at) => self.cursor = at,
            Err(_) => self.goal = Some(Goal::Line(n)),
        }
    }

    fn pause(&mut self) {
        if self.follow {
            (self.follow, self.arrived) = (false, 0);
        }
    }

    pub(crate) fn step(&mut self, by: i64) {
        match by {
            i64::MAX => self.resume(),
            i64::MIN => {
                self.pause();
                self.goal = Some(Goal::Top);
            }
            _ => {
                if by < 0 {
                    self.pause();
                }
                let (rows, at) = self.rows();
                let last = rows.len().saturating_sub(1) as i64;
                let to = (at as i64).saturating_add(by).clamp(0, last) as usize;
                self.cursor = rows.get(to).map_or(0, |row| row.first);
            }
        }
    }

    fn resume(&mut self) {
        (self.follow, self.arrived, self.goal) = (true, 0, Some(Goal::Tail));
        self.cursor = self.lines.len().saturating_sub(1);
    }

    pub(crate) fn toggle_follow(&mut self) {
        if self.follow { self.pause() } else { self.resume() }
    }

    pub(crate) fn shift_by(&mut self, cells: isize) {
        self.shift = self.shift.saturating_add_signed(cells).min(crate::domain::log::MAX_LINE);
    }

    pub(crate) fn start_search(&mut self) {
        self.input = Some(Input::default());
    }

    /// Forgets the search; whether there was one.
    pub(crate) fn end_search(&mut self) -> bool {
        self.search.take().is_some()
    }

    /// Goes to the next match, or the one before; false when nothing is searched for.
    pub(crate) fn find_next(&mut self, backwards: bool) -> bool {
        let Some(text) = self.search.clone() else { return false };
        let at = self.selected().map(|line| line.n);
        let from = if backwards { at.map(|n| n.checked_sub(1)) } else { at.map(|n| n.checked_add(1)) };
        match from {
            Some(None) => {}
            from => self.goal = Some(Goal::Find { from: from.flatten(), backwards, text }),
        }
        true
    }

    /// Goes to the first error of the attempt that the selected line is of, or of the running one at the end.
    pub(crate) fn find_error(&mut self, running: u32) {
        let attempt = self.selected().filter(|_| !self.follow).map_or(running, |line| line.attempt);
        self.goal = Some(Goal::Error { attempt, first_asked: attempt, from: None });
    }

    /// Takes a key while a search is typed; whether it did.
    pub(crate) fn key(&mut self, event: &KeyEvent) -> bool {
        let Some(input) = &mut self.input else { return false };
        match event.code {
            KeyCode::Esc => self.input = None,
            KeyCode::Backspace if input.value().is_empty() => self.input = None,
            KeyCode::Enter => {
                let typed = self.input.take().map(|input| input.value().to_owned()).unwrap_or_default();
                if !typed.is_empty() {
                    self.search = Some(typed);
                }
                if let Some(text) = self.search.clone() {
                    // At the end of the log what one looks for lies before; else it lies ahead.
                    let from = self.selected().map(|line| line.n);
                    self.goal = Some(Goal::Find { from, backwards: self.follow, text });
                }
            }
            _ => {
                input.handle_event(&TerminalEvent::Key(*event));
            }
        }
        true
    }
}
