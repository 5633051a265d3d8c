//! Who the processes are that hold GPU memory.
//!
//! Read on the thread that asks the driver: `/proc` of a process that hangs in the kernel can hang as well.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    domain::{
        gpu::{GpuProc, Holder},
        redact,
        tree::{self, ProcFacts},
    },
    probe::proc::{self, ROOT},
};

/// Parents change when parents die; that often it is looked after.
const AGAIN: Duration = Duration::from_secs(5);
/// More generations are not looked at.
const MOST_ANCESTORS: usize = 32;
/// Longest command that is kept, in characters.
const MOST_COMMAND: usize = 100;
/// What a supervisor calls itself.
const SUPERVISOR: &str = "elastictop-sup";

/// Remembers who was looked up.
#[derive(Debug, Default)]
pub struct Who {
    known: HashMap<i32, (Instant, Holder)>,
}

impl Who {
    /// Who these are. Each is looked up when it is new and every few seconds.
    pub fn look<'a>(&mut self, procs: impl Iterator<Item = &'a GpuProc>, now: Instant) -> Vec<Holder> {
        let pids: HashSet<i32> = procs.map(|proc| proc.pid).collect();
        self.known.retain(|pid, (at, _)| pids.contains(pid) && now.duration_since(*at) < AGAIN);
        let mut holders: Vec<Holder> = pids
            .into_iter()
            .map(|pid| self.known.entry(pid).or_insert_with(|| (now, look_up(pid))).1.clone())
            .collect();
        holders.sort_by_key(|holder| holder.pid);
        holders
    }
}

fn look_up(pid: i32) -> Holder {
    let root = Path::new(ROOT);
    let Some(facts) = (pid > 0).then(|| proc::read_facts(root, pid)).flatten() else {
        return Holder { pid, ..Holder::default() };
    };
    let mut chain: Vec<ProcFacts> = vec![facts];
    while let Some(last) = chain.last()
        && last.ppid > 1
        && chain.len() < MOST_ANCESTORS
        && let Some(parent) = proc::read_facts(root, last.ppid)
    {
        chain.push(parent);
    }
    let ancestors: Vec<i32> = chain[1..].iter().map(|facts| facts.proc.pid).collect();
    let me = std::process::id() as i32;
    // The supervisor of another job looks after ranks whose agent died: they are no leftovers.
    let is_watched =
        |facts: &ProcFacts| facts.comm == SUPERVISOR && facts.proc.pid != me && !is_parent(facts.proc.pid);
    let has_agent = !tree::find_agents(&chain).is_empty() || chain[1..].iter().any(is_watched);
    let facts = &chain[0];
    let command = redact::command(&facts.cmdline).join(" ");
    let command = if command.is_empty() { format!("[{}]", facts.comm) } else { command };
    Holder {
        pid,
        proc: Some(facts.proc),
        uid: proc::uid(root, pid),
        command: command.chars().take(MOST_COMMAND).collect(),
        ancestors,
        env: facts.env.clone(),
        has_agent,
    }
}

/// Whether this process was started by that one: the embedded launcher by its supervisor.
fn is_parent(pid: i32) -> bool {
    rustix::process::getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == pid)
}
