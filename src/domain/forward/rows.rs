//! The runs of a job as they are shown: the plan joined with how far each run has come.

use super::{Mode, RunProgress, RunState, Settings, Wandb, Writer};
use crate::domain::{
    launch::PlanError,
    resolve::{Plan, RankScope, RunMode},
};

/// A run: of the plan, or one that left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRow {
    /// Its id.
    pub id: String,
    /// Its group; `None` for one that left the plan too.
    pub group: Option<String>,
    /// The ranks that write to it; none when it left the plan.
    pub ranks: Vec<u32>,
    /// Its page: what the server said, else what follows from the names; `None` where the server refused the run before
    /// it had a row.
    pub link: Option<String>,
    /// How far it has come here; `None` when the script writes, and for runs of other nodes.
    pub progress: Option<RunProgress>,
}

impl RunRow {
    /// Whether no rank writes to it any more.
    pub fn has_left(&self) -> bool {
        self.ranks.is_empty()
    }
}

impl Wandb {
    /// All runs: those of the plan in its order, then those that left it.
    pub fn rows(&self, plan: &Plan) -> Vec<RunRow> {
        let planned = plan.runs.iter().map(|run| {
            let progress = self.runs.get(&run.id).cloned();
            let told = progress.as_ref().and_then(|progress| progress.link.clone());
            RunRow {
                id: run.id.clone(),
                group: run.group.clone(),
                ranks: run.ranks.clone(),
                link: told
                    .or_else(|| run.link.clone())
                    .filter(|_| !progress.as_ref().is_some_and(has_no_page)),
                progress,
            }
        });
        let left = self.runs.iter().filter(|(id, _)| plan.runs.iter().all(|run| &run.id != *id));
        let left = left.map(|(id, progress)| RunRow {
            id: id.clone(),
            group: None,
            ranks: Vec::new(),
            link: progress.link.clone().filter(|_| !has_no_page(progress)),
            progress: Some(progress.clone()),
        });
        planned.chain(left).collect()
    }

    /// Rows that wait to be sent, in all runs of this node.
    pub fn backlog(&self) -> u64 {
        self.runs.values().map(RunProgress::backlog).sum()
    }
}

/// A page that the server has not made would only be a link to an error.
fn has_no_page(progress: &RunProgress) -> bool {
    progress.state == RunState::Refused && progress.rows_acked == 0
}

/// What becomes of runs when another combination holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Goes on.
    Stays,
    /// Is finished.
    Ends,
    /// Did not exist.
    Begins,
}

impl Fate {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Fate::Stays => "stays",
            Fate::Ends => "ends",
            Fate::Begins => "begins",
        }
    }
}

/// The plan under another combination.
///
/// # Errors
/// A name breaks W&B's rules there.
pub fn other_plan(settings: &Settings, wanted: (RunMode, RankScope)) -> Result<Plan, PlanError> {
    settings.plan_with(wanted.0, wanted.1)
}

/// What becomes of each run of a plan when another takes its place; `begins` says that it is the new one's runs.
pub fn fate(of: &str, other: &Plan, begins: bool) -> Fate {
    let is_there = other.runs.iter().any(|run| run.id == of);
    match (is_there, begins) {
        (true, _) => Fate::Stays,
        (false, false) => Fate::Ends,
        (false, true) => Fate::Begins,
    }
}

impl RunState {
    /// In a word or two.
    pub fn word(self) -> &'static str {
        match self {
            RunState::Waiting => "waiting",
            RunState::Local => "kept here",
            RunState::Sending => "sending",
            RunState::Retrying => "retrying",
            RunState::Finishing => "finishing",
            RunState::Finished => "finished",
            RunState::Refused => "refused",
            RunState::Unknown => "unknown",
        }
    }
}

impl Settings {
    /// How it stands, in one line: `online, elastictop writes, auto/global: 1 run, no group`.
    pub fn sentence(&self) -> String {
        if self.mode == Mode::Disabled {
            return self.why_not_online.as_ref().map_or("disabled".into(), |why| format!("disabled: {why}"));
        }
        let who = match self.writer {
            Writer::Elastictop => "elastictop writes",
            Writer::Script => "the script writes",
        };
        let runs = self.plan().map_or_else(|error| error.text, |plan| plan.counts());
        format!("{}, {who}, {}/{}: {runs}", self.mode, self.facts.run_mode, self.facts.rank_scope)
    }
}
