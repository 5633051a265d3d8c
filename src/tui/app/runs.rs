//! The W&B view: which line is selected, and which combination is looked at before anybody applies it.

use std::time::Duration;

use super::App;
use crate::{
    domain::{
        command::Command,
        forward::{Mode, RunProgress, RunRow, RunState, Wandb},
        resolve::{Plan, Rank, RankScope, RunMode},
    },
    tui::theme::Role,
};

/// After this long without an answer, a run's rows do not reach the server.
const UNANSWERED: Duration = Duration::from_secs(60);
/// Ranks of a run that get a line each; more are gathered by node.
const SINGLE_LINES: usize = 8;

/// Run mode and rank scope.
pub(crate) type Combination = (RunMode, RankScope);

/// What is remembered of the view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    /// The selected line; `None` is the first.
    pub(crate) selected: Option<Key>,
    /// What is looked at, and not applied.
    pub(crate) preview: Option<Combination>,
}

/// What a line is about, whatever comes and goes around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A group, by name.
    Group(String),
    /// A run, by id.
    Run(String),
    /// Ranks, by the first of them.
    Ranks(u32),
}

/// One line of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) key: Key,
    pub(crate) depth: u16,
    /// Ranks that the line stands for.
    pub(crate) ranks: Vec<u32>,
}

/// The tree as it is.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) plan: Plan,
    pub(crate) rows: Vec<RunRow>,
    pub(crate) lines: Vec<Line>,
}

impl Tree {
    /// Groups, runs and ranks; then the ranks that are silent, those with one reason in one line.
    fn new(plan: Plan, rows: Vec<RunRow>) -> Tree {
        let mut lines = Vec::new();
        for group in &plan.groups {
            let key = Key::Group(group.name.clone());
            lines.push(Line { key, depth: 0, ranks: Vec::new() });
            let inside = rows.iter().filter(|row| row.group.as_ref() == Some(&group.name));
            inside.for_each(|row| run(&mut lines, &plan, row, 1));
        }
        rows.iter().filter(|row| row.group.is_none()).for_each(|row| run(&mut lines, &plan, row, 0));
        let silent: Vec<&Rank> = plan.ranks.iter().filter(|rank| !rank.logs).collect();
        for part in silent.chunk_by(|a, b| a.rank + 1 == b.rank && a.reason == b.reason) {
            let ranks: Vec<_> = part.iter().map(|rank| rank.rank).collect();
            lines.push(Line { key: Key::Ranks(ranks[0]), depth: 0, ranks });
        }
        Tree { plan, rows, lines }
    }

    /// The row of a run.
    pub(crate) fn row(&self, id: &str) -> Option<&RunRow> {
        self.rows.iter().find(|row| row.id == id)
    }

    /// The run that a line is about, or that its ranks write to.
    pub(crate) fn run_of(&self, line: &Line) -> Option<&RunRow> {
        match &line.key {
            Key::Group(_) => None,
            Key::Run(id) => self.row(id),
            Key::Ranks(first) => self.row(self.plan.ranks.get(*first as usize)?.run_id.as_deref()?),
        }
    }

    /// Why a line is as it is.
    pub(crate) fn reason(&self, line: &Line) -> Option<&str> {
        let first = match &line.key {
            Key::Ranks(first) => Some(first),
            _ => line.ranks.first(),
        };
        first.and_then(|rank| self.plan.ranks.get(*rank as usize)).map(|rank| rank.reason.as_str())
    }

    /// The page of what a line is about.
    pub(crate) fn link(&self, line: &Line) -> Option<&str> {
        match &line.key {
            Key::Group(name) => self
                .plan
                .groups
                .iter()
                .find(|group| &group.name == name)
                .and_then(|group| group.link.as_deref()),
            _ => self.run_of(line).and_then(|row| row.link.as_deref()),
        }
    }
}

/// A run and its ranks. A run of one rank is one line.
fn run(lines: &mut Vec<Line>, plan: &Plan, row: &RunRow, depth: u16) {
    lines.push(Line { key: Key::Run(row.id.clone()), depth, ranks: row.ranks.clone() });
    if row.ranks.len() < 2 {
        return;
    }
    let node = |rank: &u32| plan.ranks.get(*rank as usize).map(|rank| rank.worker_index);
    let together = |a: &u32, b: &u32| row.ranks.len() > SINGLE_LINES && a + 1 == *b && node(a) == node(b);
    for part in row.ranks.chunk_by(together) {
        lines.push(Line { key: Key::Ranks(part[0]), depth: depth + 1, ranks: part.to_vec() });
    }
}

impl App {
    /// W&B as far as it is on.
    pub(crate) fn wandb(&self) -> Option<&Wandb> {
        self.state.wandb.as_ref().filter(|wandb| wandb.settings.mode != Mode::Disabled)
    }

    /// Why rows of this job do not reach W&B: the state of the run that it is worst for. One failed try is nothing.
    pub(crate) fn wandb_trouble(&self) -> Option<RunState> {
        let wandb = self.wandb().filter(|wandb| wandb.settings.mode == Mode::Online)?;
        let is_silent = |run: &RunProgress| {
            run.last_ack_at.is_none_or(|at| self.now.since(at) >= UNANSWERED) && run.last_error.is_some()
        };
        let is_bad = |run: &&RunProgress| match run.state {
            RunState::Refused => true,
            RunState::Retrying => is_silent(run),
            RunState::Local => run.last_error.is_some(),
            _ => false,
        };
        let bad = wandb.runs.values().filter(is_bad).map(|run| run.state);
        bad.max_by_key(|state| (*state == RunState::Refused, *state == RunState::Local))
    }

    /// The tree that is.
    pub(crate) fn run_tree(&self) -> Option<Tree> {
        let wandb = self.wandb()?;
        let plan = wandb.settings.plan().ok()?;
        let rows = wandb.rows(&plan);
        Some(Tree::new(plan, rows))
    }

    /// The number of the selected line.
    pub(crate) fn run_cursor(&self, tree: &Tree) -> usize {
        let wanted = self.runs.selected.as_ref();
        wanted.and_then(|key| tree.lines.iter().position(|line| &line.key == key)).unwrap_or(0)
    }

    pub(super) fn step_runs(&mut self, by: i64) {
        let Some(tree) = self.run_tree() else { return };
        let to = super::navigate::moved(self.run_cursor(&tree), by, tree.lines.len());
        self.runs.selected = tree.lines.get(to).map(|line| line.key.clone());
    }

    /// The page of the selected line.
    pub(super) fn link_to_yank(&self) -> Option<String> {
        let tree = self.run_tree()?;
        tree.link(tree.lines.get(self.run_cursor(&tree))?).map(str::to_owned)
    }

    /// What will hold if nobody does anything more.
    fn next_combination(&self) -> Option<Combination> {
        let wandb = self.wandb()?;
        let facts = &wandb.settings.facts;
        Some(wandb.pending.unwrap_or((facts.run_mode, facts.rank_scope)))
    }

    /// Looks at the next run mode, or the next rank scope.
    pub(super) fn step_combination(&mut self, scope: bool) {
        let Some(next) = self.next_combination() else {
            return self.say(Role::Info, "W&B is off: there is no run mode to change");
        };
        let (mode, rank_scope) = self.runs.preview.unwrap_or(next);
        let other = if scope {
            (mode, after(&RankScope::ALL, rank_scope))
        } else {
            (after(&RunMode::ALL, mode), rank_scope)
        };
        self.runs.preview = (other != next).then_some(other);
    }

    /// Asks for what is looked at; false when nothing is.
    pub(super) fn apply_combination(&mut self, cmds: &mut Vec<super::Cmd>) -> bool {
        let Some((run_mode, rank_scope)) = self.runs.preview else { return false };
        if let Some(why) = self.cannot_change() {
            self.say(Role::Warn, why);
            return true;
        }
        self.runs.preview = None;
        self.send(Command::SetWandb { run_mode: Some(run_mode), rank_scope: Some(rank_scope) }, cmds);
        true
    }
}

/// The one after this, around the end.
fn after<T: Copy + PartialEq>(all: &[T], this: T) -> T {
    let at = all.iter().position(|one| *one == this).unwrap_or(0);
    all[(at + 1) % all.len()]
}
