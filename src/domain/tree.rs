//! Which processes are elastic agents, which are their ranks, and which only look like it.
//!
//! Everything here works on facts that were read elsewhere, so that the rules can be tested on trees that no
//! machine has at hand. The traps they avoid: children of a rank (data loaders, `wandb-core`) carry the rank's
//! variables; a rank between fork and exec still looks like its agent; zombies have neither command line nor
//! environment.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
};

use super::{
    id::ProcId,
    sample::{Kernel, Place, Sighting},
};

/// What one look at a process shows that bears on its part in a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcFacts {
    /// The process.
    pub proc: ProcId,
    /// Parent: field 4 of `/proc/PID/stat`.
    pub ppid: i32,
    /// Process group: field 5.
    pub pgid: i32,
    /// Session: field 6.
    pub sid: i32,
    /// Name of the main thread, at most 15 bytes, bad bytes replaced: field 2.
    pub comm: String,
    /// Command line; empty for zombies, kernel threads and in the middle of an exec.
    pub cmdline: Vec<String>,
    /// What the kernel says it does: field 3.
    pub kernel: Kernel,
    /// What its environment says; `None` when it may not be read (another user's) or was not asked for.
    pub env: Option<EnvFacts>,
}

/// What `/proc/PID/environ` says: the environment at the last exec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvFacts {
    /// The variables that torchrun gives to ranks.
    pub place: Place,
    /// Whether `LOCAL_RANK` is there, be its value a number or not.
    pub has_local_rank: bool,
    /// `TORCHELASTIC_USE_AGENT_STORE`: the ranks share the agent's store, which breaks restarts.
    pub use_agent_store: Option<bool>,
    /// `TORCHELASTIC_ERROR_FILE` as written; a relative path starts at the agent's working directory.
    pub error_file: Option<String>,
    /// `CUDA_VISIBLE_DEVICES` as written.
    pub cuda_visible_devices: Option<String>,
    /// Length of the whole environment in bytes; 0 for zombies and in the middle of an exec.
    pub bytes: usize,
}

/// How a job's ranks were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Each rank is a program of its own and leads its own session.
    Script,
    /// Each rank is a Python function in a process that `multiprocessing` spawned.
    Function,
}

/// What an agent was recognised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentSign {
    /// The name that torchrun gives itself.
    Comm,
    /// Its command line.
    Cmdline,
    /// It is elastictop's own launcher.
    Embedded,
    /// It is the parent of a rank.
    ParentOfRank,
}

/// An agent among other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentFound {
    /// Its process.
    pub proc: ProcId,
    /// What it was recognised by.
    pub sign: AgentSign,
}

/// What a child of an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A rank.
    Rank(Mode),
    /// A zombie that was never seen alive; whether it was a rank depends on its siblings.
    Corpse,
    /// Anything else; it stays so.
    Other,
    /// Not to be told yet: look again.
    Undecided,
}

/// The children of an agent, sorted out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranks {
    /// How they were started; `None` while there are none.
    pub mode: Option<Mode>,
    /// The ranks, oldest first.
    pub ranks: Vec<Sighting>,
    /// Children that have to be looked at again.
    pub undecided: Vec<ProcId>,
}

/// The name of the process that holds a rank's W&B run. It leads a session and carries the rank's variables.
const WANDB_CORE: &str = "wandb-core";

/// Parents that adopt orphans, and so are no agents although ranks are their children.
const REAPERS: [&str; 10] = [
    "systemd",
    "init",
    "tini",
    "dumb-init",
    "docker-init",
    "catatonit",
    "conmon",
    "containerd-shim",
    "s6-svscan",
    "slurmstepd",
];

impl ProcFacts {
    fn is_leader(&self) -> bool {
        self.proc.pid == self.sid
    }

    fn is_dead(&self) -> bool {
        self.kernel == Kernel::Dead
    }

    /// Whether Python's `multiprocessing` spawned it, as torch does with the ranks of function mode.
    pub fn is_multiprocessing_fork(&self) -> bool {
        self.cmdline.iter().any(|word| word == "--multiprocessing-fork")
    }

    /// Whether it is one of `multiprocessing`'s own helpers.
    fn is_multiprocessing_helper(&self) -> bool {
        self.cmdline.get(1..).is_some_and(|words| {
            words.iter().any(|word| {
                word.starts_with("from multiprocessing.resource_tracker")
                    || word.starts_with("from multiprocessing.forkserver")
            })
        })
    }

    fn is_wandb_core(&self) -> bool {
        self.comm == WANDB_CORE
            || self.cmdline.first().is_some_and(|program| file_name(program) == WANDB_CORE)
    }

    /// Whether all that can be seen of it alone is what a rank of script mode shows.
    fn looks_like_rank(&self) -> bool {
        self.is_leader()
            && !self.is_wandb_core()
            && self.env.as_ref().is_some_and(|env| env.has_local_rank && env.place.run_id.is_some())
    }

    fn place(&self) -> Place {
        self.env.as_ref().map(|env| env.place.clone()).unwrap_or_default()
    }

    /// The value of a long option on its command line: `--max-restarts 3`, `--max_restarts=3`.
    ///
    /// `name` is written with `-`; the last one counts, as it does for torchrun.
    pub fn option(&self, name: &str) -> Option<&str> {
        let mut found = None;
        for (i, word) in self.cmdline.iter().enumerate() {
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (word.as_str(), self.cmdline.get(i + 1).map(String::as_str)),
            };
            if key.strip_prefix("--").is_some_and(|key| key.replace('_', "-") == name) {
                found = value;
            }
        }
        found
    }
}

/// Whether a process is an elastic agent, by what it shows itself.
///
/// An agent that shows neither torchrun's name nor its command line can only be told by its children:
/// [`find_agents`] does.
pub fn is_agent(facts: &ProcFacts) -> Option<AgentSign> {
    if facts.is_dead() {
        return None;
    }
    if facts.comm == "pt_elastic" {
        return Some(AgentSign::Comm);
    }
    let (program, rest) = facts.cmdline.split_first()?;
    match file_name(program) {
        "torchrun" => Some(AgentSign::Cmdline),
        "elastictop" if rest.iter().any(|word| word == "__agent") => Some(AgentSign::Embedded),
        name if name.starts_with("python") => runs_torchrun(rest).then_some(AgentSign::Cmdline),
        _ => None,
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether these arguments make Python run torchrun. Only what Python itself would run counts: a script whose
/// own arguments mention torchrun, an editor or a shell are no agents.
fn runs_torchrun(arguments: &[String]) -> bool {
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if word.starts_with("--") {
            continue;
        }
        let Some(flags) = word.strip_prefix('-') else { return file_name(word) == "torchrun" };
        // Short flags can be joined; c, m, W and X take the rest of the word or the next one.
        let Some(at) = flags.find(['c', 'm', 'W', 'X']) else { continue };
        let (taker, inline) = flags[at..].split_at(1);
        let value = if inline.is_empty() { words.next().unwrap_or_default() } else { inline };
        match taker {
            "m" => return matches!(value, "torch.distributed.run" | "torch.distributed.launch"),
            "c" => return false,
            _ => {}
        }
    }
    false
}

/// All elastic agents among `facts`, in the order given.
///
/// By name, else by command line, else as the parent of a process that looks like a rank. What a rank started
/// is no rank, and who adopts orphans is no agent.
pub fn find_agents(facts: &[ProcFacts]) -> Vec<AgentFound> {
    let by_pid: HashMap<i32, &ProcFacts> = facts.iter().map(|facts| (facts.proc.pid, facts)).collect();
    let parents: HashSet<i32> = facts
        .iter()
        .filter(|facts| facts.looks_like_rank())
        .map(|rank| rank.ppid)
        .filter(|ppid| {
            by_pid.get(ppid).is_some_and(|parent| {
                can_be_agent(parent) && by_pid.get(&parent.ppid).is_none_or(|agent| is_agent(agent).is_none())
            })
        })
        .collect();
    facts
        .iter()
        .filter_map(|facts| {
            let sign = is_agent(facts)
                .or_else(|| parents.contains(&facts.proc.pid).then_some(AgentSign::ParentOfRank))?;
            // A child that has not come to its exec yet, or never will, is a copy of the agent.
            let copy = by_pid.get(&facts.ppid).is_some_and(|parent| {
                is_agent(parent).is_some() && parent.comm == facts.comm && parent.cmdline == facts.cmdline
            });
            (!copy).then_some(AgentFound { proc: facts.proc, sign })
        })
        .collect()
}

fn can_be_agent(parent: &ProcFacts) -> bool {
    let program = parent.cmdline.first().map_or("", |program| file_name(program));
    parent.proc.pid > 1
        && !parent.is_dead()
        && !parent.looks_like_rank()
        // A rank of function mode puts its place into the environment of what it starts.
        && !parent.is_multiprocessing_fork()
        && program != "elastictop"
        && !REAPERS.iter().any(|reaper| parent.comm.starts_with(reaper))
}

/// What `child` is to `agent`, by what can be seen of the two.
pub fn role(agent: &ProcFacts, child: &ProcFacts) -> Role {
    if child.ppid != agent.proc.pid || child.is_wandb_core() || child.is_multiprocessing_helper() {
        return Role::Other;
    }
    if child.is_dead() {
        // Only ranks of script mode are made session leaders; all else needs a look at the siblings.
        return if child.is_leader() { Role::Rank(Mode::Script) } else { Role::Corpse };
    }
    if child.is_multiprocessing_fork() {
        return Role::Rank(Mode::Function);
    }
    if is_before_exec(agent, child) {
        return Role::Undecided;
    }
    match &child.env {
        Some(env) if child.is_leader() && env.has_local_rank => Role::Rank(Mode::Script),
        // A launcher may leave it to the new program to make itself a session leader.
        Some(env) if env.has_local_rank => Role::Undecided,
        None if child.is_leader() => Role::Rank(Mode::Script),
        _ => Role::Other,
    }
}

/// Whether a living child has not finished the exec that makes it what it will be: it has nothing yet, or
/// still the command line of its parent. Its environment tells nothing then: it can be read half, when the
/// exec takes it away in between.
fn is_before_exec(agent: &ProcFacts, child: &ProcFacts) -> bool {
    child.cmdline.is_empty()
        || child.env.as_ref().is_some_and(|env| env.bytes == 0)
        || child.cmdline == agent.cmdline
}

/// The ranks among `facts` that `agent` started.
///
/// In function mode, and for ranks that were dead before anybody saw their environment, the position on the
/// node is the order of start, which is how torch starts them; it is left out where a known one contradicts.
pub fn ranks_of<F: Borrow<ProcFacts>>(agent: &ProcFacts, facts: &[F]) -> Ranks {
    let children: Vec<(&ProcFacts, Role)> = facts
        .iter()
        .map(Borrow::borrow)
        .filter(|facts| facts.ppid == agent.proc.pid && facts.proc != agent.proc)
        .map(|facts| (facts, role(agent, facts)))
        .collect();
    let has = |wanted| children.iter().any(|(_, role)| *role == Role::Rank(wanted));
    let helped = children.iter().any(|(child, _)| child.is_multiprocessing_helper());
    let mode = if has(Mode::Script) {
        Some(Mode::Script)
    } else if has(Mode::Function) || (helped && children.iter().any(|(_, role)| *role == Role::Corpse)) {
        Some(Mode::Function)
    } else {
        None
    };
    let mut ranks: Vec<&ProcFacts> = children
        .iter()
        .filter(|(_, role)| match role {
            Role::Rank(of) => Some(*of) == mode,
            Role::Corpse => mode == Some(Mode::Function),
            Role::Other | Role::Undecided => false,
        })
        .map(|(child, _)| *child)
        .collect();
    ranks.sort_by_key(|rank| (rank.proc.start, rank.proc.pid));
    let mut ranks: Vec<Sighting> = ranks
        .into_iter()
        .map(|rank| {
            // What function mode inherits says where the agent stands, not where the rank does.
            let place = if mode == Some(Mode::Script) { rank.place() } else { Place::default() };
            Sighting { proc: rank.proc, agent_pid: agent.proc.pid, place }
        })
        .collect();
    number_by_order(&mut ranks);
    let undecided =
        children.iter().filter(|(_, role)| *role == Role::Undecided).map(|(child, _)| child.proc).collect();
    Ranks { mode, ranks, undecided }
}

fn number_by_order(ranks: &mut [Sighting]) {
    let slots = || 0u32..;
    let agrees =
        ranks.iter().zip(slots()).all(|(rank, order)| rank.place.slot().is_none_or(|slot| slot == order));
    if agrees {
        for (rank, order) in ranks.iter_mut().zip(slots()) {
            rank.place.local_rank.get_or_insert(order);
        }
    }
}

/// The ranks among `facts` whose agent is dead, oldest first.
///
/// * `run_id`: only ranks of this run; `None` takes those of every run.
/// * `known`: processes that were seen as ranks while the agent lived. When there are any, only these can be
///   orphans: after a rank's death its own daemons look just like one.
///
/// The `agent_pid` of the answers is the process that adopted them. Of several with the same place, which can
/// only be a rank and what it left behind, the oldest is the rank.
pub fn orphans(facts: &[ProcFacts], run_id: Option<&str>, known: &[ProcId]) -> Vec<Sighting> {
    let agents: HashSet<i32> = find_agents(facts).iter().map(|agent| agent.proc.pid).collect();
    let ranks: HashSet<i32> = facts
        .iter()
        .filter(|facts| {
            facts.looks_like_rank() || facts.is_multiprocessing_fork() || agents.contains(&facts.ppid)
        })
        .map(|facts| facts.proc.pid)
        .collect();
    let was_rank = |pid: i32| ranks.contains(&pid) || known.iter().any(|proc| proc.pid == pid);
    let mut found: Vec<&ProcFacts> = facts
        .iter()
        .filter(|facts| facts.looks_like_rank() && !facts.is_dead())
        .filter(|facts| !agents.contains(&facts.ppid) && !agents.contains(&facts.proc.pid))
        .filter(|facts| !was_rank(facts.ppid))
        .filter(|facts| known.is_empty() || known.contains(&facts.proc))
        .filter(|facts| run_id.is_none_or(|run_id| facts.place().run_id.as_deref() == Some(run_id)))
        .collect();
    found.sort_by_key(|facts| (facts.proc.start, facts.proc.pid));
    let mut places = HashSet::new();
    found
        .into_iter()
        .map(|facts| Sighting { proc: facts.proc, agent_pid: facts.ppid, place: facts.place() })
        .filter(|rank| {
            let Place { rank: global, group_rank, run_id, .. } = &rank.place;
            places.insert((run_id.clone(), *group_rank, *global, rank.place.slot()))
        })
        .collect()
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
