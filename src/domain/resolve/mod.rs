//! Who writes where: from run mode, rank scope and topology to a W&B run, group and label for every rank.
//!
//! [`resolve`] is pure and total: the same facts give the same plan, on every node and after every restart. Ranks
//! are told apart by their global number and the topology alone, so that neither `--virtual-local-rank`, which
//! puts 0 into every `LOCAL_RANK`, nor a missing `GROUP_RANK` makes two ranks one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};

use super::{launch::PlanError, sample::Place, telling::count};

mod check;
mod decide;
mod link;
mod render;

pub use decide::{Alternative, alternatives, resolve};
pub use link::run_link;
pub use render::{render_json, render_text};

/// Most ranks that a plan is made for.
pub const MAX_RANKS: u32 = 100_000;
/// Most clients in shared mode that W&B has tested at once.
pub const TESTED_CLIENTS: usize = 300;

/// How ranks and runs belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunMode {
    /// One rank logs for all ranks in scope; a single rank joins its parent's run.
    #[default]
    Auto,
    /// All ranks in scope write to one run.
    Shared,
    /// A run for each rank.
    New,
}

impl RunMode {
    /// All modes.
    pub const ALL: [RunMode; 3] = [RunMode::Auto, RunMode::Shared, RunMode::New];

    /// The word on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            RunMode::Auto => "auto",
            RunMode::Shared => "shared",
            RunMode::New => "new",
        }
    }
}

impl fmt::Display for RunMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RunMode {
    type Err = String;

    fn from_str(text: &str) -> Result<RunMode, String> {
        let found = RunMode::ALL.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| "is none of auto, shared and new".into())
    }
}

/// What a run mode is applied to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankScope {
    /// The whole job.
    #[default]
    Global,
    /// Each node.
    Worker,
}

impl RankScope {
    /// All scopes.
    pub const ALL: [RankScope; 2] = [RankScope::Global, RankScope::Worker];

    /// The word on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            RankScope::Global => "global",
            RankScope::Worker => "worker",
        }
    }
}

impl fmt::Display for RankScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RankScope {
    type Err = String;

    fn from_str(text: &str) -> Result<RankScope, String> {
        let found = RankScope::ALL.into_iter().find(|scope| scope.name() == text);
        found.ok_or_else(|| "is neither global nor worker".into())
    }
}

/// A value, and the flag or variable that it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The value.
    pub value: String,
    /// `--wandb-run-id` or `WANDB_RUN_ID`.
    pub from: String,
}

impl Given {
    /// Where an entity comes from that nobody gave: the server says whom the key belongs to.
    pub const OF_KEY: &str = "W&B, for this key";

    /// A value from a flag or variable.
    pub fn new(from: impl Into<String>, value: impl Into<String>) -> Given {
        Given { value: value.into(), from: from.into() }
    }

    /// Whether it was typed, and not found in the environment.
    pub fn is_typed(&self) -> bool {
        self.from.starts_with("--")
    }

    /// The error that says why this value cannot be used.
    pub fn wrong(&self, why: impl fmt::Display) -> PlanError {
        PlanError::new(format!("{self}: {why}"))
    }
}

impl fmt::Display for Given {
    /// As it was typed or exported; what would move the cursor is escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let equals = if self.is_typed() { ' ' } else { '=' };
        write!(f, "{}{equals}", self.from)?;
        self.value.chars().try_for_each(|c| match c {
            c if c.is_control() => write!(f, "{}", c.escape_debug()),
            c => write!(f, "{c}"),
        })
    }
}

/// Nodes and the ranks on them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Ranks of each node, in the order of `GROUP_RANK`.
    pub ranks_per_node: Vec<u32>,
    /// Smallest and largest number of nodes of an elastic job, which the plan takes one number of.
    pub range: Option<(u32, u32)>,
}

impl Topology {
    /// As many ranks on each node.
    ///
    /// # Errors
    /// There is no rank, or there are more than [`MAX_RANKS`].
    pub fn equal(nodes: u32, ranks: u32) -> Result<Topology, PlanError> {
        if u64::from(nodes) * u64::from(ranks.max(1)) > u64::from(MAX_RANKS) {
            return Err(too_many());
        }
        let topology = Topology { ranks_per_node: vec![ranks; nodes as usize], range: None };
        topology.check()?;
        Ok(topology)
    }

    /// Number of nodes.
    pub fn nodes(&self) -> u32 {
        self.ranks_per_node.len() as u32
    }

    /// Number of ranks.
    pub fn world_size(&self) -> u64 {
        self.ranks_per_node.iter().map(|&ranks| u64::from(ranks)).sum()
    }

    /// What a rank's variables tell of the nodes. `nodes` is `GROUP_WORLD_SIZE`, if known. Ranks are numbered node by
    /// node; of unequal nodes only the rank's own is known, the ranks of the others are spread evenly.
    pub(super) fn around(place: &Place, nodes: Option<u32>) -> Option<Topology> {
        let world = place.world_size.filter(|world| (1..=MAX_RANKS).contains(world))?;
        let own = place.local_world_size.filter(|own| (1..=world).contains(own)).unwrap_or(world);
        let equal = world.is_multiple_of(own) && nodes.is_none_or(|nodes| nodes == world / own);
        if equal {
            return Some(Topology { ranks_per_node: vec![own; (world / own) as usize], range: None });
        }
        let (at, local) = (place.group_rank?, place.local_rank?);
        let nodes = nodes.unwrap_or(world.div_ceil(own)).clamp(at.checked_add(1)?, world.max(at + 1));
        let before = place.rank?.checked_sub(local)?;
        let after = world.checked_sub(before + own)?;
        let mut ranks_per_node = spread(before, at)?;
        ranks_per_node.push(own);
        ranks_per_node.extend(spread(after, nodes - at - 1)?);
        Some(Topology { ranks_per_node, range: None })
    }

    /// Whether a rank with this place sits in this topology as it does in `found`.
    pub(super) fn fits(&self, found: &Topology, place: &Place) -> bool {
        if self.ranks_per_node == found.ranks_per_node {
            return true;
        }
        let own = place.group_rank.and_then(|node| self.ranks_per_node.get(node as usize));
        let equal = |nodes: &[u32]| nodes.iter().all(|ranks| *ranks == nodes[0]);
        self.world_size() == found.world_size()
            && own.copied() == place.local_world_size
            && !equal(&self.ranks_per_node)
    }

    fn check(&self) -> Result<(), PlanError> {
        if self.ranks_per_node.is_empty() {
            return Err(PlanError::new("at least one node is needed"));
        }
        if let Some(node) = self.ranks_per_node.iter().position(|&ranks| ranks == 0) {
            return Err(PlanError::new(format!("node {node} has no rank; at least one is needed")));
        }
        if self.world_size() > u64::from(MAX_RANKS) {
            return Err(too_many());
        }
        match self.range {
            Some((min, max)) if !(min..=max).contains(&self.nodes()) => Err(PlanError::new(format!(
                "a plan for {} is not within {min}:{max} nodes",
                count(self.nodes() as usize, "node")
            ))),
            _ => Ok(()),
        }
    }
}

/// That many ranks on that many nodes, as evenly as it goes; `None` where a node would have none.
fn spread(ranks: u32, nodes: u32) -> Option<Vec<u32>> {
    match nodes {
        0 => (ranks == 0).then(Vec::new),
        _ if ranks < nodes => None,
        _ => Some((0..nodes).map(|node| ranks / nodes + u32::from(node < ranks % nodes)).collect()),
    }
}

fn too_many() -> PlanError {
    PlanError::new(format!("the job has more than {MAX_RANKS} ranks, which is more than a plan takes"))
}

/// What the ids of runs begin with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// Given as it is.
    Whole(Given),
    /// `{run}-{action}`. Without a run the action stands for both; without an action it is the root one, `a0`.
    Names {
        /// Name of the run.
        run: Option<Given>,
        /// Name of the action.
        action: Option<Given>,
    },
}

/// A group that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The base.
    Base(
        /// `--wandb-group`, without a value.
        String,
    ),
    /// By name.
    Named(Given),
}

/// All that a plan follows from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// How ranks and runs belong together.
    pub run_mode: RunMode,
    /// What that is applied to.
    pub rank_scope: RankScope,
    /// Nodes and ranks.
    pub topology: Topology,
    /// What the ids begin with, if `run_id` does not say.
    pub base: Base,
    /// The run of the job that started this one.
    pub parent_run: Option<Given>,
    /// An id that was asked for: with one rank the run's, else the base.
    pub run_id: Option<Given>,
    /// The group that was asked for.
    pub group: Option<Group>,
    /// Display name of the runs.
    pub name: Option<Given>,
    /// Tags of the runs.
    pub tags: Vec<Given>,
    /// Notes on the runs.
    #[serde(default)]
    pub notes: Option<Given>,
    /// Job type of the runs.
    #[serde(default)]
    pub job_type: Option<Given>,
    /// Sweep that the runs are of.
    #[serde(default)]
    pub sweep: Option<Given>,
    /// W&B project.
    pub project: Option<Given>,
    /// W&B entity: a user or team.
    pub entity: Option<Given>,
    /// Address of the W&B server's API.
    pub base_url: Option<Given>,
    /// Address of its pages, where that does not follow from `base_url`.
    pub app_url: Option<Given>,
}

/// What each rank does, and the runs and groups that follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What the ids begin with.
    pub base: String,
    /// How ranks and runs belong together.
    pub run_mode: RunMode,
    /// What that is applied to.
    pub rank_scope: RankScope,
    /// Whether there is more than one rank.
    pub distributed: bool,
    /// The runs, in the order of their first ranks.
    pub runs: Vec<Run>,
    /// The groups, in the order of their first runs.
    pub groups: Vec<RunGroup>,
    /// The ranks, by number.
    pub ranks: Vec<Rank>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Why links are unknown, where they are.
    #[serde(skip)]
    pub no_links: Option<String>,
}

/// A run that at least one rank writes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Its group.
    pub group: Option<String>,
    /// Whether it is written in W&B's shared mode.
    pub shared: bool,
    /// The ranks that write to it.
    pub ranks: Vec<u32>,
    /// Of a shared run, the rank that writes its config and finishes it; `None` when the parent job does.
    pub primary_rank: Option<u32>,
    /// Its page; `None` when that cannot be known.
    pub link: Option<String>,
}

/// A group of runs; in JSON its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunGroup {
    /// Its name.
    pub name: String,
    /// Its page; `None` when that cannot be known.
    pub link: Option<String>,
}

impl Serialize for RunGroup {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

/// What one rank does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rank {
    /// Its number in the job.
    pub rank: u32,
    /// Its number on its node; not what `--virtual-local-rank` puts into `LOCAL_RANK`.
    pub local_rank: u32,
    /// The number of its node.
    pub worker_index: u32,
    /// Whether what it logs is sent.
    pub logs: bool,
    /// The run that it goes to.
    pub run_id: Option<String>,
    /// The group of that run.
    pub group: Option<String>,
    /// Whether that run is written in W&B's shared mode.
    pub shared: bool,
    /// Of a shared run, whether this rank writes its config and finishes it.
    pub primary: Option<bool>,
    /// What tells this rank from others of a shared run.
    pub label: Option<String>,
    /// Why all this: clauses.
    pub reason: String,
}

impl Plan {
    /// The rank that a process is, by its global number; `None` when that is unknown or the plan is for another
    /// number of ranks.
    pub fn seat(&self, place: &Place) -> Option<&Rank> {
        if place.world_size.is_some_and(|ranks| ranks as usize != self.ranks.len()) {
            return None;
        }
        self.ranks.get(place.rank? as usize)
    }

    /// The run that a rank writes to.
    pub fn run_of(&self, rank: &Rank) -> Option<&Run> {
        let id = rank.run_id.as_ref()?;
        self.runs.iter().find(|run| &run.id == id)
    }

    /// Lets runs that were written in shared mode stay so, whoever writes to them from now on: W&B counts their rows by
    /// writer, and one that is not shared has no place among these.
    pub fn keep_shared(&mut self, was_shared: impl Fn(&str) -> bool) {
        let nodes = self.ranks.iter().map(|rank| rank.worker_index as usize + 1).max().unwrap_or(1);
        for run in self.runs.iter_mut().filter(|run| !run.shared && was_shared(&run.id)) {
            (run.shared, run.primary_rank) = (true, run.ranks.first().copied());
            for rank in self.ranks.iter_mut().filter(|rank| rank.run_id.as_ref() == Some(&run.id)) {
                (rank.shared, rank.primary) = (true, Some(run.primary_rank == Some(rank.rank)));
                let place = (rank.rank, rank.worker_index, rank.local_rank);
                rank.label = Some(decide::writer_label(nodes, place));
            }
        }
    }

    /// What tells a run's name from those of the others: `-worker-1-rank-3`; nothing where there is only one run.
    pub fn suffix<'a>(&self, run: &'a str) -> &'a str {
        let is_one = self.runs.len() < 2;
        run.strip_prefix(self.base.as_str()).filter(|_| !is_one).unwrap_or_default()
    }

    /// `8 runs, 2 groups`.
    pub fn counts(&self) -> String {
        let groups = match self.groups.len() {
            0 => "no group".into(),
            groups => count(groups, "group"),
        };
        format!("{}, {groups}", count(self.runs.len(), "run"))
    }
}

#[cfg(test)]
mod tests;
