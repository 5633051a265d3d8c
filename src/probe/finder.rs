//! Follows one elastic agent and its ranks, cheaply enough for ten looks a second.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::domain::{
    id::ProcId,
    sample::{Kernel, Sighting},
    tree::{self, Mode, ProcFacts, Role},
};

use super::{
    deaths::{Bell, Deaths},
    proc::{self, Look, Watch},
    scan,
};

/// After how many looks a child that still looks like its agent stops asking for quick looks. It is looked at
/// further on: a slow exec ends at some time, a child that never calls exec does not.
const QUICK_LOOKS: u32 = 20;
/// Up to so many ranks are looked at whole each time.
const ALL_WHOLE: usize = 16;
/// One whole look in so many where there are more; one that stops using the CPU is looked at at once all the same.
const WHOLE_IN: u32 = 5;
/// The same on a crowded node.
const WHOLE_IN_CROWD: u32 = 20;
/// A node with more ranks than this is crowded: machines have fewer GPUs.
const CROWD: usize = 128;
/// With more of them, an agent whose ranks all live is asked for new children at each of so many looks.
const CALM_LOOKS: u32 = 5;

/// One look at an agent and its ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeLook {
    /// The agent; `None` when it is gone.
    pub agent: Option<Look>,
    /// What the agent's main thread waits for in the kernel, when that can be seen; asked only beside a dead rank.
    pub agent_wchan: Option<String>,
    /// The ranks that are alive or zombies, oldest first.
    pub ranks: Vec<RankLook>,
    /// Ranks that the last look showed and that are gone now.
    pub gone: Vec<ProcId>,
    /// Whether a child of the agent could not be told yet: look again soon.
    pub undecided: bool,
    /// Whether children were left unread for the next look, see [`Finder::in_portions`]: look again at once.
    pub unread: bool,
}

/// One look at one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankLook {
    /// Which rank.
    pub sighting: Arc<Sighting>,
    /// What it does.
    pub look: Look,
    /// Whether this is the first look that shows it.
    pub fresh: bool,
}

/// Follows one agent. Each child is classified once; what is known is only sampled.
///
/// The ranks stay followed after the agent's death, until they are gone themselves.
#[derive(Debug)]
pub struct Finder {
    root: PathBuf,
    agent: ProcId,
    agent_watch: Option<Watch>,
    agent_facts: Option<ProcFacts>,
    /// What somebody read of children just now, so that it need not be read again.
    handed: HashMap<i32, Arc<ProcFacts>>,
    children: HashMap<i32, Child>,
    /// The agent's children at the last look, when there was nothing to be told of any of them.
    settled: Vec<i32>,
    /// Up to so many new children are read in one look.
    portion: usize,
    /// Looks since the agent was asked for its children, while nobody died.
    calm: u32,
    ranks: Vec<Tracked>,
    /// Counts what was learned of ranks.
    learned: u64,
    /// Tells of deaths, for ranks of this machine's own `/proc`.
    deaths: Option<Deaths>,
    mode: Option<Mode>,
    /// Place and restart count of all ranks that were ever seen.
    seen: HashSet<(Option<u32>, Option<u32>)>,
    orphans_sought: bool,
}

#[derive(Debug)]
struct Child {
    facts: Arc<ProcFacts>,
    role: Role,
    looks: u32,
}

/// What a look at the agent's children leaves open.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    /// Whether a child could not be told yet.
    undecided: bool,
    /// Whether children were not read.
    unread: bool,
}

#[derive(Debug)]
struct Tracked {
    sighting: Arc<Sighting>,
    facts: Option<Arc<ProcFacts>>,
    watch: Watch,
    fresh: bool,
}

impl Finder {
    /// Follows `agent`, which may have ended already.
    pub fn new(proc_root: impl Into<PathBuf>, agent: ProcId) -> Finder {
        let root = proc_root.into();
        Finder {
            agent_watch: Watch::open(&root, agent).ok(),
            // Without it, looks find the deaths.
            deaths: if root == Path::new(proc::ROOT) { Deaths::new().ok() } else { None },
            root,
            agent,
            agent_facts: None,
            handed: HashMap::new(),
            children: HashMap::new(),
            settled: Vec::new(),
            portion: usize::MAX,
            calm: 0,
            ranks: Vec::new(),
            learned: 0,
            mode: None,
            seen: HashSet::new(),
            orphans_sought: false,
        }
    }

    /// Reads up to so many new children in one look, for those who cannot wait for all of them.
    pub fn in_portions(&mut self, most: usize) {
        self.portion = most;
    }

    /// Follows a rank that is known from elsewhere, such as the journal of a supervisor that died: it needs no
    /// living agent. One that is gone is left out.
    pub fn follow(&mut self, rank: Sighting) {
        if self.ranks.iter().all(|known| known.sighting.proc != rank.proc) {
            let facts = proc::read_facts(&self.root, rank.proc.pid).filter(|facts| facts.proc == rank.proc);
            self.track(rank, facts.map(Arc::new));
        }
    }

    /// Takes over what somebody read of the agent's children just now: the next look need not read it.
    pub fn know(&mut self, facts: Vec<Arc<ProcFacts>>) {
        self.handed.extend(facts.into_iter().map(|facts| (facts.proc.pid, facts)));
    }

    /// The agent that is followed.
    pub fn agent(&self) -> ProcId {
        self.agent
    }

    /// How the ranks were started; `None` until one was seen.
    pub fn mode(&self) -> Option<Mode> {
        self.mode
    }

    /// What was seen of a rank when it was classified: command line, environment, error file.
    ///
    /// `None` for what is not followed (any more) and for a rank that was dead when it was seen first.
    pub fn facts(&self, rank: ProcId) -> Option<&ProcFacts> {
        self.ranks.iter().find(|known| known.sighting.proc == rank)?.facts.as_deref()
    }

    /// Grows whenever there is something new in [`Finder::facts`].
    pub fn learned(&self) -> u64 {
        self.learned
    }

    /// The same of all ranks that have it.
    pub fn all_facts(&self) -> impl Iterator<Item = (ProcId, &ProcFacts)> {
        self.ranks.iter().filter_map(|known| Some((known.sighting.proc, known.facts.as_deref()?)))
    }

    /// Looks at the agent, its children and all known ranks.
    pub fn look(&mut self) -> TreeLook {
        let agent = self.agent_watch.as_mut().and_then(|watch| watch.sample().ok());
        if agent.is_none() {
            self.agent_watch = None;
        }
        // First, so that the number of a rank that is gone is free for its successor.
        let (mut looks, gone) = self.sample_ranks();
        let mut open = Open::default();
        match agent {
            Some(look) if look.kernel != Kernel::Dead => open = self.look_at_children(),
            _ => self.seek_orphans(),
        }
        for rank in self.ranks.iter_mut().filter(|rank| rank.fresh) {
            rank.fresh = false;
            // The look that was taken when it was found, a moment ago.
            if let Some(look) = rank.watch.last() {
                looks.push(RankLook { sighting: rank.sighting.clone(), look, fresh: true });
            }
        }
        self.complete_facts();
        // Only the dead make it matter.
        let any_dead = looks.iter().any(|rank| rank.look.kernel == Kernel::Dead);
        let agent_wchan = agent.filter(|_| any_dead).and_then(|_| proc::wchan(&self.root, self.agent.pid));
        let Open { undecided, unread } = open;
        TreeLook { agent, agent_wchan, ranks: looks, gone, undecided, unread }
    }

    /// Reads again what was read in the middle of an exec, when a process has no environment: a rank's shim is met
    /// right before its.
    fn complete_facts(&mut self) {
        let is_whole = |facts: &ProcFacts| facts.env.as_ref().is_none_or(|env| env.bytes > 0);
        for rank in self.ranks.iter_mut().filter(|rank| !rank.facts.as_deref().is_some_and(is_whole)) {
            let proc = rank.sighting.proc;
            let facts = proc::read_facts(&self.root, proc.pid);
            let facts = facts.filter(|facts| facts.proc == proc && facts.kernel != Kernel::Dead);
            self.learned += u64::from(facts.is_some());
            rank.facts = facts.map(Arc::new).or(rank.facts.take());
        }
    }

    fn sample_ranks(&mut self) -> (Vec<RankLook>, Vec<ProcId>) {
        let (mut looks, mut gone) = (Vec::with_capacity(self.ranks.len()), Vec::new());
        let all_whole = self.ranks.len() <= ALL_WHOLE;
        let every = if self.ranks.len() > CROWD { WHOLE_IN_CROWD } else { WHOLE_IN };
        let died = self.deaths.as_mut().map(Deaths::take).unwrap_or_default();
        if !died.is_empty() {
            self.settled.clear();
        }
        let deaths = &self.deaths;
        let look = |watch: &mut Watch| {
            let pid = watch.proc().pid;
            // Whose death is not told is looked at.
            let is_told = deaths.as_ref().is_some_and(|deaths| deaths.watches(pid));
            if is_told && !all_whole { watch.glance(every) } else { watch.sample() }
        };
        self.ranks.retain_mut(|rank| match look(&mut rank.watch) {
            Ok(_) if rank.fresh => true,
            Ok(look) => {
                looks.push(RankLook { sighting: rank.sighting.clone(), look, fresh: false });
                true
            }
            Err(_) => {
                gone.push(rank.sighting.proc);
                false
            }
        });
        for proc in &gone {
            self.children.remove(&proc.pid);
            self.settled.clear();
            self.forget_death(proc.pid);
        }
        (looks, gone)
    }

    fn forget_death(&mut self, pid: i32) {
        if let Some(deaths) = &mut self.deaths {
            deaths.forget(pid);
        }
    }

    /// Finds new ranks among the agent's children.
    fn look_at_children(&mut self) -> Open {
        // An agent starts ranks at its own start and in the place of others.
        self.calm += 1;
        if self.ranks.len() > ALL_WHOLE && !self.settled.is_empty() && self.calm < CALM_LOOKS {
            return Open::default();
        }
        self.calm = 0;
        let pids = proc::children(&self.root, self.agent.pid);
        if !pids.is_empty() && pids == self.settled && self.children.len() >= pids.len() {
            return Open::default();
        }
        self.settled.clear();
        let there: HashSet<i32> = pids.iter().copied().collect();
        self.children.retain(|pid, _| there.contains(pid));
        // That a child is no rank is only believed at the second look.
        let is_open =
            |child: &Child| child.role == Role::Undecided || (child.role == Role::Other && child.looks < 2);
        let open: Vec<i32> =
            pids.iter().copied().filter(|pid| self.children.get(pid).is_none_or(is_open)).collect();
        if open.is_empty() {
            self.settled = pids;
            return Open::default();
        }
        // Read anew: when the agent was met first, it may not have come to its own exec.
        self.agent_facts =
            proc::read_facts(&self.root, self.agent.pid).filter(|facts| facts.proc == self.agent);
        let Some(agent) = &self.agent_facts else { return Open { undecided: true, unread: false } };
        let mut still = Open::default();
        let mut left = self.portion.saturating_sub(self.handed.len());
        for pid in open {
            let handed = self.handed.remove(&pid);
            if handed.is_none() && left == 0 {
                still.unread = true;
                continue;
            }
            left -= usize::from(handed.is_none());
            let Some(facts) = handed.or_else(|| proc::read_facts(&self.root, pid).map(Arc::new)) else {
                continue;
            };
            let role = tree::role(agent, &facts);
            let looks = self.children.get(&pid).map_or(0, |child| child.looks) + 1;
            still.undecided |= role == Role::Undecided && looks < QUICK_LOOKS;
            self.children.insert(pid, Child { facts, role, looks });
        }
        self.handed.clear();
        let children: Vec<&ProcFacts> = self.children.values().map(|child| &*child.facts).collect();
        let found = tree::ranks_of(agent, &children);
        self.mode = found.mode.or(self.mode);
        let known: HashSet<ProcId> = self.ranks.iter().map(|known| known.sighting.proc).collect();
        for mut rank in found.ranks {
            if known.contains(&rank.proc) {
                continue;
            }
            if found.mode == Some(Mode::Function) {
                // Siblings that were started before it may be gone: their numbers stay theirs.
                let last = self.ranks.iter().filter_map(|known| known.sighting.place.local_rank).max();
                rank.place.local_rank = Some(last.map_or(0, |last| last + 1));
            }
            let facts = self.children.get(&rank.proc.pid).map(|child| Arc::clone(&child.facts));
            self.track(rank, facts.filter(|facts| facts.kernel != Kernel::Dead));
        }
        still
    }

    /// Once after the agent's death: ranks that it started so shortly before that nobody saw them.
    fn seek_orphans(&mut self) {
        if self.orphans_sought {
            return;
        }
        let Some(run_id) = self.ranks.iter().find_map(|rank| rank.sighting.place.run_id.clone()) else {
            return;
        };
        self.orphans_sought = true;
        let all = scan::read_all(&self.root);
        for rank in tree::orphans(&all, Some(&run_id), &[]) {
            // A rank that died leaves daemons that look like it; they carry its place and restart count.
            let is_known = self.seen.contains(&(rank.place.slot(), rank.place.restart_count));
            if !is_known && self.ranks.iter().all(|known| known.sighting.proc.pid != rank.agent_pid) {
                let facts = all.iter().find(|facts| facts.proc == rank.proc).cloned();
                self.track(Sighting { agent_pid: self.agent.pid, ..rank }, facts.map(Arc::new));
            }
        }
    }

    fn track(&mut self, sighting: Sighting, facts: Option<Arc<ProcFacts>>) {
        // First, so that the start time, which is looked at next, tells whose death is waited for.
        if let Some(deaths) = &mut self.deaths {
            // One that cannot be watched is looked at more closely.
            let _ = deaths.watch(sighting.proc.pid);
        }
        // What is gone already was never shown, so nobody needs to hear of it.
        match Watch::open(&self.root, sighting.proc) {
            Ok(watch) => {
                self.seen.insert((sighting.place.slot(), sighting.place.restart_count));
                self.learned += 1;
                self.ranks.push(Tracked { sighting: Arc::new(sighting), facts, watch, fresh: true });
            }
            Err(_) => self.forget_death(sighting.proc.pid),
        }
    }

    /// Rings when a rank dies; `None` where only looks find deaths.
    pub fn bell(&self) -> Option<Bell> {
        self.deaths.as_ref()?.bell().ok()
    }

    /// The root of the tree that is read.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

#[cfg(test)]
#[path = "finder_tests.rs"]
mod tests;
