//! Which run each row goes to, at which step. Pure: rows, places and plans in; runs, steps and times out.
//!
//! * A rank's seat is that of the plan that held when it started. When the user switches the plan, all seats are
//!   taken anew: rows that are routed from then on go to the new runs. A row is routed once, so that it is in one run.
//! * Steps of one writer only rise. A run has one writer; in a shared run each rank is one, as with W&B's SDK. A row
//!   whose step is not above the last one, as after a restart from a checkpoint, gets the next step and keeps its own
//!   as [`OWN_STEP`].
//! * Rows that follow each other with the same step are one row. It is [`Held`] until its rank says another step, says
//!   that the row is complete, or is gone.
//! * Times of a run count from its first start, over restarts and switches.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{held::Held, row::Row};
use crate::domain::{
    exit::Exit,
    id::ProcId,
    rank::JobState,
    resolve::Plan,
    sample::{MAX_LAST_LINE, Place},
    time::Stamp,
};

/// The step that a row had in the script, where that is not its step in the run.
pub const OWN_STEP: &str = "elastictop/step";

/// Says in a row that it is complete: no other of its step follows.
const COMPLETE: &str = "_commit";

/// The writer of a run that has only one.
const ONLY: u32 = 0;

/// What a run needs to go on after its supervisor died, and when it is switched back to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Book {
    /// When it began for the first time.
    pub began_at: Stamp,
    /// Rows of history.
    pub rows: u64,
    /// Rows that could not be kept.
    #[serde(default)]
    pub lost: u64,
    /// The step after the last one of each writer.
    pub next: BTreeMap<u32, u64>,
    /// The row of each writer that may still grow.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held: BTreeMap<u32, Held>,
}

impl Book {
    /// Takes out those rows that wait for more and shall not.
    fn complete(&mut self, shall: impl Fn(&Held) -> bool) -> Vec<Held> {
        let all = std::mem::take(&mut self.held);
        let (done, held): (BTreeMap<_, _>, _) = all.into_iter().partition(|(_, held)| shall(held));
        self.held = held;
        self.rows += done.len() as u64;
        done.into_values().collect()
    }
}

/// Where a rank's rows go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seat {
    /// What its environment says.
    pub place: Place,
    /// Position on this node.
    pub local_rank: u32,
    /// The run; `None` when it is silent, or when that is not known yet.
    pub run: Option<String>,
    /// Whether the plan has a seat for it.
    pub is_placed: bool,
    /// Whether its run is shared.
    pub shared: bool,
    /// What tells it from other ranks of a shared run.
    pub label: Option<String>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Whether its process is gone.
    pub is_gone: bool,
    /// Rows it has logged in the time of this supervisor.
    #[serde(skip)]
    pub rows: u64,
    /// The last of them, cut short.
    #[serde(skip)]
    pub last: String,
}

/// Where a row goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Route<'a> {
    /// To a run.
    Run(Stamped<'a>),
    /// To a run, with what follows of its step.
    Held,
    /// Nowhere: the plan makes its rank silent.
    Silent,
    /// It has to wait: it is not known yet which rank this is.
    Unplaced,
}

/// What a row gets on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Stamped<'a> {
    /// Its step in the run.
    pub step: u64,
    /// The step that the script gave it, as text, if that is not its step in the run.
    pub own_step: Option<&'a str>,
    /// When it was logged, in seconds since the epoch.
    pub timestamp: f64,
    /// The same, in seconds since the run began.
    pub runtime: f64,
}

/// Which rank logs to which run.
#[derive(Clone, Debug, Default)]
pub struct Router {
    plan: Option<Plan>,
    /// The number of this node in the job, as its newest rank told it.
    node: Option<u32>,
    books: BTreeMap<String, Book>,
    seats: BTreeMap<ProcId, Seat>,
}

impl Router {
    /// One that goes on with these runs.
    pub fn new(books: BTreeMap<String, Book>) -> Router {
        Router { books, ..Router::default() }
    }

    /// The plan.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Routes by another plan from now on.
    pub fn set_plan(&mut self, plan: Plan) {
        for seat in self.seats.values_mut() {
            seat.sit(&plan);
        }
        self.plan = Some(plan);
    }

    /// A rank started, or told more of its place.
    pub fn seat(&mut self, proc: ProcId, local_rank: u32, place: &Place) {
        let seat = self.seats.entry(proc).or_insert_with(|| Seat { local_rank, ..Seat::default() });
        seat.place.learn(place);
        if !seat.is_placed
            && let Some(plan) = &self.plan
        {
            seat.sit(plan);
        }
        self.node = seat.place.group_rank.or(self.node);
    }

    /// A rank's process is gone; how it ended may be told later.
    pub fn gone(&mut self, proc: ProcId, exit: Option<Exit>) {
        if let Some(seat) = self.seats.get_mut(&proc) {
            seat.is_gone = true;
            seat.exit = exit.or(seat.exit);
        }
    }

    /// A rank that another supervisor knew.
    pub fn restore(&mut self, proc: ProcId, mut seat: Seat) {
        if let Some(plan) = &self.plan {
            seat.sit(plan);
        }
        self.node = seat.place.group_rank.or(self.node);
        self.seats.insert(proc, seat);
    }

    /// Gives a rank that has no seat the one of another plan: that of a group of another size, which it was in.
    pub fn seat_late(&mut self, proc: ProcId, plan: &Plan) {
        if let Some(seat) = self.seats.get_mut(&proc).filter(|seat| !seat.is_placed) {
            seat.sit(plan);
        }
    }

    /// The seat of a rank.
    pub fn seat_of(&self, proc: ProcId) -> Option<&Seat> {
        self.seats.get(&proc)
    }

    /// All seats that are remembered.
    pub fn seats(&self) -> impl Iterator<Item = (ProcId, &Seat)> {
        self.seats.iter().map(|(proc, seat)| (*proc, seat))
    }

    /// The seats of ranks that live.
    pub fn living(&self) -> impl Iterator<Item = (ProcId, &Seat)> {
        self.seats().filter(|(_, seat)| !seat.is_gone)
    }

    /// A run begins now, unless it began before.
    pub fn begin(&mut self, run: &str, now: Stamp) -> &Book {
        self.books.entry(run.to_owned()).or_insert_with(|| Book { began_at: now, ..Book::default() })
    }

    /// What is known of a run.
    pub fn book(&self, run: &str) -> Option<&Book> {
        self.books.get(run)
    }

    /// A row could not be kept.
    pub fn lose(&mut self, proc: ProcId, rows: u64) {
        let Some(seat) = self.seats.get(&proc) else { return };
        if let Some(book) = seat.run.as_ref().and_then(|run| self.books.get_mut(run)) {
            book.lost += rows;
        }
    }

    /// Runs that ranks of this node write to now.
    pub fn open_runs(&self) -> BTreeSet<String> {
        self.living().filter_map(|(_, seat)| seat.run.clone()).collect()
    }

    /// Whether a run is still one of this node's: a rank writes to it, or will after the next restart.
    pub fn keeps(&self, run: &str) -> bool {
        let is_written = self.living().any(|(_, seat)| seat.run.as_deref() == Some(run));
        let is_here = |node| self.node.is_none_or(|here| here == node);
        let is_planned = self.plan.as_ref().is_some_and(|plan| {
            plan.ranks.iter().any(|rank| is_here(rank.worker_index) && rank.run_id.as_deref() == Some(run))
        });
        is_written || is_planned
    }

    /// Whether the primary writer of a shared run is on this node: its client sends the config and completes the run.
    /// Where the parent job's is the primary, nobody here does.
    pub fn has_primary(&self, run: &str) -> bool {
        let Some(plan) = &self.plan else { return true };
        // A run that left the plan is done here.
        let Some(planned) = plan.runs.iter().find(|planned| planned.id == run && planned.shared) else {
            return true;
        };
        let node_of = |rank: u32| plan.ranks.get(rank as usize).map(|rank| rank.worker_index);
        planned
            .primary_rank
            .is_some_and(|primary| self.node.is_none_or(|here| node_of(primary) == Some(here)))
    }

    /// Whether another rank is the one to say what this one's shared run is about.
    pub fn is_secondary(&self, proc: ProcId) -> bool {
        let rank = self.seats.get(&proc).and_then(|seat| self.plan.as_ref()?.seat(&seat.place));
        rank.is_some_and(|rank| rank.shared && rank.primary == Some(false))
    }

    /// Whether other nodes write to a run as well.
    pub fn is_on_other_nodes(&self, run: &str) -> bool {
        self.plan.as_ref().is_some_and(|plan| {
            let mut nodes =
                plan.ranks.iter().filter(|r| r.run_id.as_deref() == Some(run)).map(|r| r.worker_index);
            let first = nodes.next();
            nodes.any(|node| Some(node) != first)
        })
    }

    /// The run that figures of a rank go to, and the label that tells them from those of other ranks there. `None`
    /// when no rank of this node logs.
    pub fn figures_of(&self, proc: ProcId) -> Option<(&str, Option<String>)> {
        let seat = self.seats.get(&proc).filter(|seat| seat.is_placed)?;
        // A silent rank's figures go where the first rank of its node logs, or last did.
        let logging = self.seats().filter(|(_, other)| other.run.is_some());
        let first = logging
            .min_by_key(|(proc, other)| (other.is_gone, other.local_rank, std::cmp::Reverse(proc.start)));
        let run = seat.run.as_deref().or(first.and_then(|(_, first)| first.run.as_deref()))?;
        let is_crowded = self.living().any(|(other, seat)| {
            other != proc && (seat.run.as_deref() == Some(run) || seat.run.is_none() && seat.is_placed)
        });
        let number = seat.place.rank.unwrap_or(seat.local_rank);
        let is_guest = seat.run.is_none();
        let label = seat.label.clone().or_else(|| (is_crowded || is_guest).then(|| format!("rank-{number}")));
        Some((run, label))
    }

    /// Where a row goes, and the row of the same writer that is complete by that. Takes step and times out of the row. One
    /// that `may_grow` is joined with others of its step.
    pub fn route<'a>(
        &mut self,
        proc: ProcId,
        row: &mut Row<'a>,
        line: &str,
        now: Stamp,
        may_grow: bool,
    ) -> (Option<Held>, Route<'a>) {
        let Some(seat) = self.seats.get_mut(&proc) else { return (None, Route::Unplaced) };
        if !seat.is_placed {
            return (None, Route::Unplaced);
        }
        seat.rows += 1;
        seat.last.clear();
        seat.last.push_str(cut(line));
        let Some(run) = &seat.run else { return (None, Route::Silent) };
        // It was begun when the rank sat down.
        if !self.books.contains_key(run) {
            self.books.insert(run.clone(), Book { began_at: now, ..Book::default() });
        }
        let Some(book) = self.books.get_mut(run) else { return (None, Route::Unplaced) };
        let writer = if seat.shared { seat.place.rank.unwrap_or(seat.local_rank) } else { ONLY };
        let timestamp = row.number("_timestamp").unwrap_or(now.0 as f64 / 1000.0);
        // The values of a row have no place for what elastictop itself says.
        for key in ["_timestamp", "_runtime"] {
            row.take(key);
        }
        let runtime = (timestamp - book.began_at.0 as f64 / 1000.0).max(0.0);
        let is_complete = row.take(COMPLETE) == Some("true");
        let (told, text) = told_step(row);
        let grows = told.filter(|_| may_grow);
        if let Some(held) =
            book.held.get_mut(&writer).filter(|held| grows.is_some_and(|told| held.is_of(proc, told)))
        {
            held.join(row, (timestamp, runtime));
            let whole = if is_complete { book.held.remove(&writer) } else { None };
            book.rows += u64::from(whole.is_some());
            return (whole, Route::Held);
        }
        let before = book.held.remove(&writer);
        book.rows += u64::from(before.is_some());
        let next = book.next.entry(writer).or_default();
        let (step, own_step) = match told {
            Some(step) if step >= *next => (step, None),
            _ => (*next, text),
        };
        *next = step.saturating_add(1);
        let stamped = Stamped { step, own_step, timestamp, runtime };
        if let Some(held) =
            grows.filter(|_| !is_complete).and_then(|told| Held::new((proc, now), told, row, &stamped))
        {
            book.held.insert(writer, held);
            return (before, Route::Held);
        }
        book.rows += 1;
        (before, Route::Run(stamped))
    }

    /// Takes out those rows of a run that wait for more of their step and shall not.
    pub fn complete(&mut self, run: &str, shall: impl Fn(&Held) -> bool) -> Vec<Held> {
        self.books.get_mut(run).map(|book| book.complete(shall)).unwrap_or_default()
    }

    /// The exit code of a run. `job` is that of the agent, if anybody saw it.
    ///
    /// A run of one rank among many is that rank's own story. Other runs stand for the job: they succeed with it, and
    /// fail with the code of a rank of theirs, if one left with a code of its own, rather than with the launcher's.
    pub fn exit_code(&self, run: &str, state: JobState, job: Option<u8>) -> i32 {
        let job = match (state, job) {
            (JobState::Done, _) => 0,
            (_, Some(code)) if code != 0 => i32::from(code),
            _ => 1,
        };
        let mut seats: Vec<_> = self.seats().filter(|(_, seat)| seat.run.as_deref() == Some(run)).collect();
        seats.sort_by_key(|(proc, seat)| (std::cmp::Reverse(proc.start), seat.local_rank));
        let mut positions = BTreeSet::new();
        seats.retain(|(_, seat)| positions.insert(seat.local_rank));
        let is_own = self
            .plan
            .as_ref()
            .is_some_and(|plan| plan.distributed && plan.run_mode == crate::domain::resolve::RunMode::New);
        if is_own && let [(_, seat)] = seats.as_slice() {
            return seat.exit.map_or(job, |exit| i32::from(exit.to_shell()));
        }
        if job == 0 {
            return 0;
        }
        let codes = seats.iter().filter_map(|(_, seat)| match seat.exit {
            Some(Exit::Code(code)) if code != 0 && seat.exit.and_then(Exit::signal_behind).is_none() => {
                Some(code)
            }
            _ => None,
        });
        codes.min().unwrap_or(job)
    }
}

impl Seat {
    /// Which run its rows go to, and whether it shares that.
    pub fn way(&self) -> (Option<String>, bool) {
        (self.run.clone(), self.shared)
    }

    /// Takes the seat that a plan has, if it has one.
    fn sit(&mut self, plan: &Plan) {
        // A rank of a group of another size keeps its seat.
        let Some(rank) = plan.seat(&self.place) else { return };
        self.is_placed = true;
        self.run.clone_from(&rank.run_id);
        self.shared = rank.shared;
        self.label.clone_from(&rank.label);
    }
}

/// The step that the script gave a row, if it can be one, and how it wrote it.
fn told_step<'a>(row: &mut Row<'a>) -> (Option<u64>, Option<&'a str>) {
    let told = row.whole("_step");
    let text = row.take("_step");
    let (told, text) = match text {
        Some(text) => (told, Some(text)),
        None => match ["step", "global_step"].into_iter().find(|key| row.whole(key).is_some()) {
            Some(key) => (row.whole(key), row.get(key)),
            None => (None, None),
        },
    };
    // W&B counts steps with 63 bits.
    (told.filter(|step| *step < i64::MAX as u64), text)
}

fn cut(line: &str) -> &str {
    let mut end = line.len().min(MAX_LAST_LINE);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}

#[cfg(test)]
mod tests;
