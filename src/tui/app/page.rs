//! The page of one rank: what was asked about it, what came back, and where its cursor and tabs stand.

use std::collections::BTreeMap;

use super::{App, Cmd, LinkState};
use crate::{
    domain::{
        closeup::{CloseUp, LastWords, Process, Question, environment::Environment, history::History},
        event::{Event, Fact},
        fleet::RankId,
        id::ProcId,
        series::Resolution,
        stack::Stacks,
        state::{Rank, State},
        time::Stamp,
    },
    tui::{theme::Role, view},
    wire::message::ToSupervisor,
};

/// A question without an answer is asked again after this, in milliseconds.
const PATIENCE_MS: u128 = 5_000;
/// What a rank left behind, and its memory, are asked for anew after this while they are shown, in milliseconds.
const RENEW_MS: u128 = 5_000;

/// A tab of a rank's page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tab {
    /// Its last lines.
    #[default]
    Log,
    /// Its environment, and what is odd about it.
    Env,
    /// Where it is in its code.
    Stack,
    /// What is known of its death.
    Error,
    /// Its process groups.
    Collectives,
    /// What happened to it.
    Events,
    /// How it compares with its peers.
    Peers,
    /// Its GPU.
    Gpu,
}

impl Tab {
    pub(crate) const ALL: [Tab; 8] =
        [Tab::Log, Tab::Env, Tab::Stack, Tab::Error, Tab::Collectives, Tab::Events, Tab::Peers, Tab::Gpu];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Tab::Log => "log",
            Tab::Env => "env",
            Tab::Stack => "stack",
            Tab::Error => "error",
            Tab::Collectives => "collectives",
            Tab::Events => "events",
            Tab::Peers => "peers",
            Tab::Gpu => "gpu",
        }
    }

    /// The tab `steps` further, around the end.
    pub(super) fn step(self, steps: usize) -> Tab {
        Tab::ALL[(self as usize + steps) % Tab::ALL.len()]
    }
}

/// An answer that came, or why none did.
type Told<T> = Option<Result<T, String>>;

/// What is known of the one rank that is shown.
#[derive(Debug, Default)]
pub(crate) struct Page {
    id: Option<RankId>,
    proc: Option<ProcId>,
    /// Its figures over time, once they were told.
    pub(crate) history: Option<History>,
    pub(crate) process: Told<Process>,
    pub(crate) environment: Told<Environment>,
    pub(crate) last_words: Told<LastWords>,
    /// The last stacks of all its threads, and when they came.
    pub(crate) stacks: Option<(Stamp, Stacks)>,
    /// The command that asked for its stacks.
    pub(super) stacks_asked: Option<u64>,
    /// The time that the charts' cursor stands at; `None` is the newest. Other ranks are looked at at the same time.
    pub(crate) cursor: Option<Stamp>,
    /// How much time the charts show; `None` is what fits the job.
    pub(crate) span: Option<Resolution>,
    /// First line of the tab that is shown.
    pub(crate) first: usize,
    /// What is looked for in the environment.
    pub(crate) find: String,
    asked: BTreeMap<u64, (Question, Stamp)>,
    /// When an answer came last.
    told_at: BTreeMap<u8, Stamp>,
}

impl Page {
    /// Another rank, or another process of it: what was known of the former is forgotten.
    fn turn_to(&mut self, id: RankId, proc: ProcId) {
        if self.id != Some(id) {
            let (cursor, span, find) = (self.cursor, self.span, std::mem::take(&mut self.find));
            *self = Page { id: Some(id), proc: Some(proc), cursor, span, find, ..Page::default() };
        } else if self.proc != Some(proc) {
            self.proc = Some(proc);
            (self.process, self.environment, self.last_words, self.stacks) = (None, None, None, None);
            self.asked.retain(|_, (question, _)| *question == Question::History);
            self.told_at.retain(|question, _| *question == Question::History as u8);
        }
    }

    /// Lets the state of a node take an event in, and adds what it tells of the rank that is shown to its figures: one
    /// event after the other, as many may come together.
    pub(super) fn hear(&mut self, node: u32, event: Event, state: &mut State) {
        let (at, local) = (event.at, self.id.filter(|id| id.node == node).map(|id| id.local));
        let tells = |local: &u32| match &event.fact {
            Fact::Sample { ranks } | Fact::Progress { ranks } => {
                ranks.iter().any(|sample| sample.local_rank == *local)
            }
            _ => false,
        };
        let of_page = local.filter(tells);
        state.take(event);
        if let (Some(history), Some(rank)) = (&mut self.history, of_page.and_then(|local| state.rank(local)))
        {
            history.look(at, rank);
        }
    }

    /// Whether this has to be asked now.
    fn wants(&self, question: Question, now: Stamp, renew: bool) -> bool {
        let is_asked = self
            .asked
            .values()
            .any(|(known, at)| *known == question && now.since(*at).as_millis() < PATIENCE_MS);
        let told = self.told_at.get(&(question as u8));
        let is_due = told.is_none_or(|at| renew && now.since(*at).as_millis() >= RENEW_MS);
        !is_asked && is_due
    }

    fn take(&mut self, question: Question, now: Stamp, told: CloseUp) {
        self.told_at.insert(question as u8, now);
        let why = || told.why_not.clone().unwrap_or_else(|| "the supervisor does not tell".into());
        match question {
            Question::History => {
                self.history = Some(told.history.map(|history| *history).unwrap_or_default());
            }
            Question::Process => self.process = Some(told.process.ok_or_else(why)),
            Question::Environment => self.environment = Some(told.environment.ok_or_else(why)),
            Question::LastWords => self.last_words = Some(told.last_words.ok_or_else(why)),
            Question::Unknown => {}
        }
    }
}

impl App {
    /// Asks what the page of the selected rank shows and nobody told yet.
    pub(super) fn ask_about_rank(&mut self, cmds: &mut Vec<Cmd>) {
        let id = self.selected_id();
        let Some((proc, alive)) = self.rank().map(|rank| (rank.proc, rank.state.is_alive())) else { return };
        self.page.turn_to(id, proc);
        if self.link != LinkState::Live {
            return;
        }
        let over = self.state_of(id.node).is_some_and(|state| state.state.is_over());
        let questions = [
            (Question::History, true, false),
            (Question::Process, alive, alive && !over),
            (Question::Environment, self.tab == Tab::Env, false),
            (Question::LastWords, self.tab == Tab::Error, !over),
        ];
        for (question, shown, renew) in questions {
            if shown && self.page.wants(question, self.local, renew) {
                let asked = self.next_id;
                self.next_id += 1;
                self.page.asked.insert(asked, (question, self.local));
                let message = ToSupervisor::LookAt { id: asked, local_rank: id.local, question };
                cmds.push(self.to_node(id.node, message));
            }
        }
    }

    pub(super) fn told_about_rank(&mut self, id: u64, told: CloseUp) {
        let Some((question, _)) = self.page.asked.remove(&id) else { return };
        let is_this = self.page.id.is_some_and(|shown| shown.local == told.local_rank);
        // An answer about a process that was replaced meanwhile is none.
        if is_this && (question == Question::History || told.proc == self.page.proc) {
            self.page.take(question, self.local, told);
        }
    }

    /// The link is new: what was asked over the former one will not be answered.
    pub(super) fn forget_page_questions(&mut self) {
        self.page.asked.clear();
        self.page.told_at.remove(&(Question::History as u8));
    }

    pub(super) fn turn_tab(&mut self, steps: usize) {
        self.tab = self.tab.step(steps);
        self.page.first = 0;
    }

    /// Moves the cursor of the charts; behind the newest it follows the present again.
    pub(super) fn move_cursor(&mut self, by: i64) {
        let axis = view::page_axis(self);
        let cell = axis.resolution.cell_ms() as i64;
        let (end, oldest) = (axis.end.0 as i64, axis.oldest().0 as i64);
        let at = self.page.cursor.map_or(end, |at| at.0 as i64);
        let to = at.saturating_add(by.saturating_mul(cell)).max(oldest);
        self.page.cursor = (to <= end - cell).then_some(Stamp(to.max(0) as u64));
    }

    pub(super) fn next_span(&mut self) {
        let next = match view::page_axis(self).resolution {
            Resolution::Second => Resolution::TenSeconds,
            Resolution::TenSeconds => Resolution::Minute,
            Resolution::Minute => Resolution::Second,
        };
        self.page.span = Some(next);
        let span = next.cell_ms() * next.cells() as u64;
        let words = crate::domain::time::human(std::time::Duration::from_millis(span));
        self.say(Role::Info, format!("the charts show up to {words}"));
    }

    /// Scrolls the tab, or the log in it.
    pub(super) fn scroll_tab(&mut self, by: i64) {
        if self.tab == Tab::Log {
            self.logs.step(by);
        } else {
            let lines = view::tab_length(self, self.size);
            self.page.first = super::navigate::moved(self.page.first, by, lines);
        }
    }

    /// What `y` copies on a rank's page, by its tab.
    pub(super) fn page_to_yank(&self) -> Option<String> {
        if self.tab == Tab::Log {
            return self.logs.selected().map(|line| line.text.clone());
        }
        let lines = view::tab_text(self);
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// Where a rank runs and as what: `rank 3, node n01, pid 4711: python train.py`.
    pub(crate) fn who_is(&self, rank: &Rank) -> String {
        let node = self.overview.fleet.nodes.get(self.node as usize).map_or("?", |node| node.name.as_str());
        let told = self.page.process.as_ref().and_then(|told| told.as_ref().ok());
        let is_shown = self.page.id == Some(self.selected_id()) && self.page.proc == Some(rank.proc);
        let command = told.filter(|_| is_shown).map(|process| process.command.join(" "));
        let command = command.filter(|text| !text.is_empty());
        let job = || self.state.job.as_ref().map(|job| job.command.join(" ")).unwrap_or_default();
        format!("rank {}, node {node}, pid {}: {}", rank.number(), rank.proc.pid, command.unwrap_or_else(job))
    }
}
