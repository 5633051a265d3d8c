//! Who the processes are that hold GPU memory.
//!
//! Read on the thread that asks the driver: `/proc` of a process that hangs in the kernel can hang as well.

use std::{
    collections::HashSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    domain::{
        gpu::{GpuProc, Holder},
        id::{PidMap, ProcId},
        redact,
        tree::{self, ProcFacts},
    },
    probe::proc::{self, ROOT},
};

/// Parents change when parents die; that often it is looked whether they live.
const AGAIN: Duration = Duration::from_secs(5);
/// After this long it is looked whether each is still the same process, when it is looked whether parents live: a driver may
/// list who is gone. Anew it need not be read: who holds memory of a GPU has come to its last exec.
const ANEW: Duration = Duration::from_secs(30);
/// More generations are not looked at.
const MOST_ANCESTORS: usize = 32;
/// Longest command that is kept, in characters.
const MOST_COMMAND: usize = 100;
/// What a supervisor calls itself.
const SUPERVISOR: &str = "elastictop-sup";

/// Remembers who was looked up.
#[derive(Debug, Default)]
pub struct Who {
    known: PidMap<Known>,
    /// For whom it was asked last, as the driver lists them.
    asked: Vec<i32>,
    /// What was told last: the same for as long as nothing changes.
    told: Arc<[Holder]>,
    checked_at: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    at: Instant,
    holder: Holder,
    ancestors: Vec<ProcId>,
}

impl Known {
    /// Whether it is the same process as before; then it is not asked again for a while.
    fn stays(&mut self, now: Instant) -> bool {
        self.at = now;
        self.holder.proc.is_some() && proc::identify(Path::new(ROOT), self.holder.pid) == self.holder.proc
    }
}

impl Who {
    /// Who these are. Each is looked up when it is new, when it or an ancestor of it died, and when its pid is another's.
    pub fn look<'a>(&mut self, procs: impl Iterator<Item = &'a GpuProc>, now: Instant) -> Arc<[Holder]> {
        let asked: Vec<i32> = procs.map(|proc| proc.pid).collect();
        let is_due = self.checked_at.is_none_or(|at| now.duration_since(at) >= AGAIN);
        if asked == self.asked && !is_due {
            return Arc::clone(&self.told);
        }
        let pids: HashSet<i32> = asked.iter().copied().collect();
        self.asked = asked;
        let before = self.known.len();
        self.known.retain(|pid, known| {
            pids.contains(pid) && (now.duration_since(known.at) < ANEW || known.stays(now))
        });
        if is_due {
            self.checked_at = Some(now);
            self.forget_orphans();
        }
        let new: Vec<i32> = pids.into_iter().filter(|pid| !self.known.contains_key(pid)).collect();
        if new.is_empty() && self.known.len() == before {
            return Arc::clone(&self.told);
        }
        // Of many ranks most ancestors are the same.
        let mut read = PidMap::default();
        self.known.extend(new.into_iter().map(|pid| (pid, look_up(pid, now, &mut read))));
        let mut holders: Vec<Holder> = self.known.values().map(|known| known.holder.clone()).collect();
        holders.sort_by_key(|holder| holder.pid);
        self.told = holders.into();
        Arc::clone(&self.told)
    }

    /// Those of whom an ancestor is gone: they have other ancestors now, or are gone as well.
    fn forget_orphans(&mut self) {
        let ancestors: HashSet<ProcId> =
            self.known.values().flat_map(|known| known.ancestors.iter().copied()).collect();
        let is_gone = |proc: &ProcId| proc::identify(Path::new(ROOT), proc.pid) != Some(*proc);
        let gone: HashSet<ProcId> = ancestors.into_iter().filter(is_gone).collect();
        self.known.retain(|_, known| !known.ancestors.iter().any(|proc| gone.contains(proc)));
    }
}

/// `read` keeps what was read of ancestors.
fn look_up(pid: i32, now: Instant, read: &mut PidMap<Option<ProcFacts>>) -> Known {
    let root = Path::new(ROOT);
    let Some(facts) = (pid > 0).then(|| proc::read_facts(root, pid)).flatten() else {
        return Known { at: now, holder: Holder { pid, ..Holder::default() }, ancestors: Vec::new() };
    };
    let mut chain: Vec<ProcFacts> = vec![facts];
    while let Some(last) = chain.last()
        && last.ppid > 1
        && chain.len() < MOST_ANCESTORS
    {
        let parent = read.entry(last.ppid).or_insert_with_key(|pid| proc::read_facts(root, *pid));
        let Some(parent) = parent.clone() else { break };
        chain.push(parent);
    }
    let ancestors: Vec<ProcId> = chain[1..].iter().map(|facts| facts.proc).collect();
    let me = std::process::id() as i32;
    // The supervisor of another job looks after ranks whose agent died: they are no leftovers.
    let is_watched =
        |facts: &ProcFacts| facts.comm == SUPERVISOR && facts.proc.pid != me && !is_parent(facts.proc.pid);
    let has_agent = !tree::find_agents(&chain).is_empty() || chain[1..].iter().any(is_watched);
    let facts = &chain[0];
    let command = redact::command(&facts.cmdline).join(" ");
    let command = if command.is_empty() { format!("[{}]", facts.comm) } else { command };
    let holder = Holder {
        pid,
        proc: Some(facts.proc),
        uid: proc::uid(root, pid),
        command: command.chars().take(MOST_COMMAND).collect(),
        ancestors: ancestors.iter().map(|proc| proc.pid).collect(),
        env: facts.env.clone(),
        has_agent,
    };
    Known { at: now, holder, ancestors }
}

/// Whether this process was started by that one: the embedded launcher by its supervisor.
fn is_parent(pid: i32) -> bool {
    rustix::process::getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == pid)
}
