//! The decisions: from facts to a plan.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{
    Base, Facts, Given, Group, Plan, Rank, RankScope, Run, RunGroup, RunMode, TESTED_CLIENTS, Topology,
    check, link::Links,
};
use crate::domain::{launch::PlanError, telling::count};

/// The name of an action that nobody named: the root one.
const ROOT_ACTION: &str = "a0";
/// Stands for a run that nobody named.
const NO_NAME: &str = "run";

/// The plan that follows from the facts.
///
/// # Errors
/// A name breaks W&B's rules, an address is none, or there are no ranks or too many. Nothing else fails.
pub fn resolve(facts: &Facts) -> Result<Plan, PlanError> {
    let mut plan = at(facts)?;
    plan.warnings.extend(range_warning(facts, &plan));
    Ok(plan)
}

/// What another combination of run mode and rank scope would give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// Its run mode.
    pub run_mode: RunMode,
    /// Its rank scope.
    pub rank_scope: RankScope,
    /// Its runs and groups, counted in words, or why it cannot be.
    pub outcome: Result<String, PlanError>,
}

/// What the other five combinations would give.
pub fn alternatives(facts: &Facts) -> Vec<Alternative> {
    let all = RunMode::ALL.into_iter().flat_map(|mode| RankScope::ALL.map(|scope| (mode, scope)));
    all.filter(|&combination| combination != (facts.run_mode, facts.rank_scope))
        .map(|(run_mode, rank_scope)| Alternative {
            run_mode,
            rank_scope,
            outcome: at(&Facts { run_mode, rank_scope, ..facts.clone() }).map(|plan| plan.counts()),
        })
        .collect()
}

/// The plan for the stated number of nodes.
fn at(facts: &Facts) -> Result<Plan, PlanError> {
    facts.topology.check()?;
    check::names(facts)?;
    let links = Links::new(facts)?;
    let mut warnings = Vec::new();
    let base = base(facts, &mut warnings)?;
    let ranks = match facts.topology.world_size() {
        1 => vec![lone(facts, &base)?],
        _ => Job { facts, base: &base, nodes: facts.topology.nodes() }.ranks(),
    };
    let (runs, groups) = collect(&ranks, &links);
    for group in &groups {
        check::made_group(&group.name)?;
    }
    warnings.extend(runs.iter().find_map(|run| check::odd(&run.id)));
    let clients = ranks.iter().filter(|rank| rank.shared).count();
    if clients > TESTED_CLIENTS {
        warnings.push(format!(
            "{clients} ranks write in shared mode; W&B has tested it with at most {TESTED_CLIENTS} clients at once"
        ));
    }
    Ok(Plan {
        base,
        run_mode: facts.run_mode,
        rank_scope: facts.rank_scope,
        distributed: ranks.len() > 1,
        runs,
        groups,
        ranks,
        warnings,
        no_links: links.into_unknown(),
    })
}

/// The checked base: the id that was asked for, else the base that was given or made of names.
fn base(facts: &Facts, warnings: &mut Vec<String>) -> Result<String, PlanError> {
    if let Some(id) = &facts.run_id {
        check::id(id)?;
        let unused: Vec<&Given> = match &facts.base {
            Base::Whole(given) => vec![given],
            Base::Names { run, action } => run.iter().chain(action).collect(),
        };
        let typed = unused.into_iter().filter(|given| given.is_typed());
        warnings.extend(typed.map(|given| format!("{given} is not used: {id} takes its place")));
        return Ok(id.value.clone());
    }
    check::base(&facts.base)?;
    Ok(match &facts.base {
        Base::Whole(given) => given.value.clone(),
        Base::Names { run: None, action: None } => {
            warnings.push(format!(
                "no run is named, so that {NO_NAME}-{ROOT_ACTION} stands in for the base: give --run-name or --wandb-base"
            ));
            format!("{NO_NAME}-{ROOT_ACTION}")
        }
        Base::Names { run, action } => {
            let action = action.as_ref().map_or(ROOT_ACTION, |action| &action.value);
            format!("{}-{action}", run.as_ref().map_or(action, |run| &run.value))
        }
    })
}

/// The group that was asked for, and by what.
fn asked_group<'a>(facts: &'a Facts, base: &'a str) -> Option<(&'a str, &'a str)> {
    facts.group.as_ref().map(|group| match group {
        Group::Base(from) => (base, from.as_str()),
        Group::Named(given) => (given.value.as_str(), given.from.as_str()),
    })
}

/// More than one rank.
struct Job<'a> {
    facts: &'a Facts,
    base: &'a str,
    nodes: u32,
}

/// Where a rank stands.
#[derive(Clone, Copy)]
struct Seat {
    rank: u32,
    local: u32,
    node: u32,
    /// The first rank of its node.
    first: u32,
}

impl Job<'_> {
    fn ranks(&self) -> Vec<Rank> {
        let notes = self.notes();
        let mut first = 0;
        let mut ranks = Vec::with_capacity(self.facts.topology.world_size() as usize);
        for (node, &on_node) in (0..).zip(&self.facts.topology.ranks_per_node) {
            ranks.extend((0..on_node).map(|local| {
                let mut rank = self.rank(Seat { rank: first + local, local, node, first });
                for (_, note) in notes.iter().filter(|(for_silent, _)| rank.logs || *for_silent) {
                    rank.reason.push_str("; ");
                    rank.reason.push_str(note);
                }
                rank
            }));
            first += on_node;
        }
        ranks
    }

    /// Worker scope makes a difference: there is more than one node.
    fn by_node(&self) -> bool {
        self.facts.rank_scope == RankScope::Worker && self.nodes > 1
    }

    fn rank(&self, seat: Seat) -> Rank {
        let Seat { rank, local, node, first } = seat;
        let base = self.base;
        let is_first = if self.by_node() { local == 0 } else { rank == 0 };
        let of_scope = || if self.by_node() { format!("{base}-worker-{node}") } else { base.to_owned() };
        let (logs, id, own_group, reason) = match (self.facts.run_mode, self.by_node()) {
            (RunMode::Auto, false) if is_first => {
                (true, of_scope(), None, "auto: rank 0 logs for the whole job".into())
            }
            (RunMode::Auto, true) if is_first => {
                (true, of_scope(), None, "auto by worker: the first rank of each node logs for it".into())
            }
            (RunMode::Auto, false) => {
                (false, String::new(), None, "auto: silent, as rank 0 logs for the whole job".into())
            }
            (RunMode::Auto, true) => (
                false,
                String::new(),
                None,
                format!("auto by worker: silent, as rank {first} logs for node {node}"),
            ),
            (RunMode::Shared, false) => {
                (true, of_scope(), None, shared_reason("shared: all ranks write to one run", is_first, 0))
            }
            (RunMode::Shared, true) => {
                let what = "shared by worker: the ranks of a node write to one run";
                (true, of_scope(), None, shared_reason(what, is_first, first))
            }
            (RunMode::New, false) => (
                true,
                format!("{base}-rank-{rank}"),
                Some(of_scope()),
                "new: each rank has a run of its own, grouped by job".into(),
            ),
            (RunMode::New, true) => (
                true,
                format!("{base}-worker-{node}-rank-{local}"),
                Some(of_scope()),
                "new by worker: each rank has a run of its own, numbered and grouped by node".into(),
            ),
        };
        let shared = self.facts.run_mode == RunMode::Shared;
        let asked = asked_group(self.facts, base).map(|(group, _)| group.to_owned());
        Rank {
            rank,
            local_rank: local,
            worker_index: node,
            logs,
            run_id: logs.then_some(id),
            group: asked.or(own_group).filter(|_| logs),
            shared,
            primary: shared.then_some(is_first),
            label: shared.then(|| writer_label(self.nodes as usize, (rank, node, local))),
            reason,
        }
    }

    /// What is true of all ranks, or of those that log.
    fn notes(&self) -> Vec<(bool, String)> {
        let facts = self.facts;
        let mut notes = Vec::new();
        if facts.rank_scope == RankScope::Worker && self.nodes == 1 {
            notes.push((true, "with one node, worker scope is global scope".into()));
        }
        match asked_group(facts, self.base) {
            Some((_, from)) => notes.push((false, format!("the group comes from {from}"))),
            None if facts.run_mode == RunMode::Auto && self.by_node() => {
                notes.push((false, "no group, as --wandb-group asks for none".into()));
            }
            None => {}
        }
        if let Some(id) = &facts.run_id {
            let why = match facts.run_mode {
                RunMode::New => "the base, as one id for all ranks would mix their rows",
                RunMode::Auto | RunMode::Shared => "the base",
            };
            notes.push((false, format!("{id} is {why}")));
        }
        if let Some(parent) = &facts.parent_run {
            let ranks = facts.topology.world_size();
            notes.push((
                true,
                format!(
                    "{parent} is not used: only a single rank joins its parent's run, and there are {ranks}"
                ),
            ));
        }
        notes
    }
}

fn shared_reason(what: &str, is_primary: bool, primary: u32) -> String {
    if is_primary {
        format!("{what}; this one is primary: it writes the config and finishes the run")
    } else {
        format!("{what}; rank {primary} is primary")
    }
}

/// The only rank of a job.
fn lone(facts: &Facts, base: &str) -> Result<Rank, PlanError> {
    let mode = facts.run_mode;
    // An id that was asked for says where to log; it may be the parent's.
    let parent = facts.parent_run.as_ref().filter(|_| mode != RunMode::New);
    let joined = parent.filter(|parent| facts.run_id.as_ref().is_none_or(|id| id.value == parent.value));
    let asked = asked_group(facts, base);
    let mut clauses: Vec<Cow<str>> = Vec::new();
    let (shared, primary, label) = if let Some(parent) = joined {
        check::id(parent)?;
        clauses.push(format!("{mode} with one rank: it joins {parent}").into());
        clauses.push("in shared mode, as the parent writes there too; the parent is primary".into());
        if asked.is_some() {
            clauses.push("the parent's run keeps its own group".into());
        }
        (true, false, lone_label(facts, base).to_owned())
    } else {
        match (mode, &facts.run_id) {
            (_, Some(id)) => clauses.push(format!("{mode} with one rank: the run is {id}").into()),
            (RunMode::New, None) => {
                clauses.push("new with one rank: a run of its own, with the base as its id".into());
            }
            (RunMode::Auto, None) => {
                clauses.push("auto with one rank and no parent run: a run of its own".into());
            }
            (RunMode::Shared, None) => {
                clauses.push("shared with one rank and no parent run to join: the base is the run".into());
                clauses.push("this rank is primary".into());
            }
        }
        if let Some(parent) = &facts.parent_run {
            let why = match mode {
                RunMode::New => "new never joins a run".into(),
                RunMode::Auto | RunMode::Shared => {
                    format!("{} says where to log", facts.run_id.as_ref().map_or("the id", |id| &id.from))
                }
            };
            clauses.push(format!("{parent} is not used: {why}").into());
        }
        if let Some((_, from)) = asked {
            clauses.push(format!("the group comes from {from}").into());
        }
        let shared = mode == RunMode::Shared;
        (shared, true, "rank-0".to_owned())
    };
    Ok(Rank {
        rank: 0,
        local_rank: 0,
        worker_index: 0,
        logs: true,
        run_id: Some(joined.map_or(base, |parent| &parent.value).to_owned()),
        group: asked.filter(|_| joined.is_none()).map(|(group, _)| group.to_owned()),
        shared,
        primary: shared.then_some(primary),
        label: shared.then_some(label),
        reason: clauses.join("; "),
    })
}

/// What tells a rank from the others that write to a shared run, by its number, its node's, and its number there.
pub(super) fn writer_label(nodes: usize, (rank, node, local): (u32, u32, u32)) -> String {
    match nodes {
        1 => format!("rank-{rank}"),
        _ => format!("worker-{node}-rank-{local}"),
    }
}

/// What tells a rank in its parent's run from the parent's ranks: its action, else the base.
fn lone_label<'a>(facts: &'a Facts, base: &'a str) -> &'a str {
    match &facts.base {
        Base::Names { action: Some(action), .. } => &action.value,
        _ => base,
    }
}

/// Runs and groups in the order in which ranks come to them.
fn collect(ranks: &[Rank], links: &Links) -> (Vec<Run>, Vec<RunGroup>) {
    let (mut runs, mut groups) = (Vec::<Run>::new(), Vec::<RunGroup>::new());
    let (mut known_runs, mut known_groups) = (BTreeMap::<&str, usize>::new(), BTreeSet::<&str>::new());
    for rank in ranks {
        let Some(id) = rank.run_id.as_deref() else { continue };
        let at = *known_runs.entry(id).or_insert_with(|| {
            runs.push(Run {
                id: id.to_owned(),
                group: rank.group.clone(),
                shared: rank.shared,
                ranks: Vec::new(),
                primary_rank: None,
                link: links.run(id),
            });
            runs.len() - 1
        });
        runs[at].ranks.push(rank.rank);
        if rank.primary == Some(true) {
            runs[at].primary_rank = Some(rank.rank);
        }
        if let Some(group) = rank.group.as_deref()
            && known_groups.insert(group)
        {
            groups.push(RunGroup { name: group.to_owned(), link: links.group(group) });
        }
    }
    (runs, groups)
}

/// That the plan is for one number of nodes of several, and what the ends of the range would give.
fn range_warning(facts: &Facts, plan: &Plan) -> Option<String> {
    let (min, max) = facts.topology.range.filter(|(min, max)| min < max)?;
    let nodes = facts.topology.nodes();
    let mut text = format!("this is the plan for {} of {min}:{max}", count(nodes as usize, "node"));
    for end in [min, max].into_iter().filter(|&end| end != nodes) {
        let what = match at(&Facts { topology: resized(&facts.topology, end), ..facts.clone() }) {
            Ok(other) if is_same_tree(&other, plan) => "the same runs".into(),
            Ok(other) => other.counts(),
            Err(error) => error.text,
        };
        let _ = write!(text, "; with {}: {what}", count(end as usize, "node"));
    }
    Some(text)
}

/// The same runs, whoever writes to them.
fn is_same_tree(one: &Plan, other: &Plan) -> bool {
    let tree =
        |plan: &Plan| -> Vec<_> { plan.runs.iter().map(|run| (run.id.clone(), run.group.clone())).collect() };
    tree(one) == tree(other)
}

/// The topology with another number of nodes; new ones are like the last.
fn resized(topology: &Topology, nodes: u32) -> Topology {
    let mut ranks_per_node = topology.ranks_per_node.clone();
    let last = ranks_per_node.last().copied().unwrap_or(1);
    // A number that is too large is refused by its size alone, so that nothing is filled for it.
    let nodes = (nodes as usize).min(super::MAX_RANKS as usize + 1);
    ranks_per_node.resize(nodes, last);
    Topology { ranks_per_node, range: None }
}
