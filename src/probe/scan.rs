//! Finds the jobs on this machine that somebody started with torchrun.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::domain::{
    id::ProcId,
    redact,
    sample::{Kernel, Sighting},
    tree::{self, AgentSign, Mode, ProcFacts},
};

use super::proc;

/// A job that somebody started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundJob {
    /// The elastic agent; `None` when it is dead and only ranks are left.
    pub agent: Option<ProcId>,
    /// What the agent was recognised by; `None` without an agent.
    pub sign: Option<AgentSign>,
    /// User id of the agent, or of the ranks without one.
    pub uid: u32,
    /// Name of that user, from `/etc/passwd`; `None` when it is not there.
    pub user: Option<String>,
    /// Host name, as the kernel gives it.
    pub node: String,
    /// Working directory of the agent, or of a rank without one; `None` when it may not be seen.
    pub cwd: Option<PathBuf>,
    /// Command line of the agent, or of a rank without one, secrets removed.
    pub command: Vec<String>,
    /// `TORCHELASTIC_RUN_ID` of the ranks, or `--rdzv-id` as given.
    pub run_id: Option<String>,
    /// How the ranks were started; `None` while there are none.
    pub mode: Option<Mode>,
    /// The ranks on this node, oldest first.
    pub ranks: Vec<Sighting>,
    /// Whether ranks live and their agent does not.
    pub orphaned: bool,
    /// Whether the ranks share the agent's store, which breaks restarts; `None` when it cannot be seen.
    pub use_agent_store: Option<bool>,
    /// Restarts that the agent may spend, from the ranks' environment or `--max-restarts`.
    pub max_restarts: Option<u32>,
    /// What was read of the agent's children, where that was all that was read.
    pub facts: Vec<Arc<ProcFacts>>,
    /// Whether the agent has children that were not read.
    pub has_more: bool,
}

/// More generations are not looked at.
const MOST_ANCESTORS: usize = 32;

/// All jobs of elastic agents on this machine, elastictop's own included: agents by pid, then orphans by run.
///
/// Reads `stat` and `cmdline` of every process and `environ` of session leaders: about 15 ms for 1400 processes.
/// For a known job, [`super::finder::Finder`] costs a hundredth of that.
pub fn scan(proc_root: &Path) -> Vec<FoundJob> {
    jobs_among(proc_root, &read_all(proc_root))
}

/// The job of an agent, from the agent, its ancestors and up to `most` of its children alone: what it costs does not
/// depend on what else runs on the machine. `None` when that is not enough to tell.
pub fn job_near(proc_root: &Path, agent: i32, most: usize) -> Option<FoundJob> {
    let mut near = vec![read_one(proc_root, agent)?];
    while let Some(last) = near.last()
        && last.ppid > 0
        && near.len() < MOST_ANCESTORS
        && let Some(parent) = read_one(proc_root, last.ppid)
    {
        near.push(parent);
    }
    let children = proc::children(proc_root, agent);
    near.extend(children.iter().take(most).filter_map(|pid| read_one(proc_root, *pid)));
    let jobs = jobs_among(proc_root, &near).into_iter();
    let mut job = jobs.into_iter().find(|job| job.agent.is_some_and(|found| found.pid == agent))?;
    job.facts = near.into_iter().filter(|facts| facts.ppid == agent).map(Arc::new).collect();
    job.has_more = children.len() > most;
    Some(job)
}

fn jobs_among(proc_root: &Path, all: &[ProcFacts]) -> Vec<FoundJob> {
    let mut agents = tree::find_agents(all);
    agents.sort_by_key(|agent| agent.proc.pid);
    let passwd = fs::read("/etc/passwd").unwrap_or_default();
    let mut jobs: Vec<FoundJob> = agents
        .iter()
        .filter_map(|found| {
            let agent = all.iter().find(|facts| facts.proc == found.proc)?;
            let ranks = tree::ranks_of(agent, all);
            let mut job = job_of(proc_root, all, agent, ranks.ranks, &passwd)?;
            (job.agent, job.sign, job.mode) = (Some(found.proc), Some(found.sign), ranks.mode);
            Some(job)
        })
        .collect();
    let mut runs: BTreeMap<Option<String>, Vec<Sighting>> = BTreeMap::new();
    for orphan in tree::orphans(all, None, &[]) {
        runs.entry(orphan.place.run_id.clone()).or_default().push(orphan);
    }
    for ranks in runs.into_values() {
        let Some(oldest) = all.iter().find(|facts| facts.proc == ranks[0].proc) else { continue };
        if let Some(mut job) = job_of(proc_root, all, oldest, ranks, &passwd) {
            (job.orphaned, job.mode) = (true, Some(Mode::Script));
            jobs.push(job);
        }
    }
    jobs
}

/// The job of a process that somebody says is an agent: one that shows nothing of torchrun itself, as a script that
/// calls `elastic_launch`, which may have children that only look like ranks. `None` when it has none that do.
pub fn job_of_agent(proc_root: &Path, pid: i32) -> Option<FoundJob> {
    let all = read_all(proc_root);
    // Everybody's orphans are children of init.
    let agent = all.iter().find(|facts| facts.proc.pid == pid && pid > 1)?;
    let found = tree::ranks_of(agent, &all);
    let mode = found.mode?;
    let passwd = fs::read("/etc/passwd").unwrap_or_default();
    let job = job_of(proc_root, &all, agent, found.ranks, &passwd)?;
    Some(FoundJob { agent: Some(agent.proc), mode: Some(mode), ..job })
}

/// What agent and ranks tell; `None` when `main`, the agent or the oldest orphan, is gone by now.
fn job_of(
    proc_root: &Path,
    all: &[ProcFacts],
    main: &ProcFacts,
    ranks: Vec<Sighting>,
    passwd: &[u8],
) -> Option<FoundJob> {
    let pid = main.proc.pid;
    let uid = proc::uid(proc_root, pid)?;
    let procs: HashSet<ProcId> = ranks.iter().map(|rank| rank.proc).collect();
    let mut envs =
        all.iter().filter(|facts| procs.contains(&facts.proc)).filter_map(|facts| facts.env.as_ref());
    Some(FoundJob {
        agent: None,
        sign: None,
        uid,
        user: user_name(passwd, uid),
        node: node_name(),
        cwd: proc::cwd(proc_root, pid),
        command: redact::command(&main.cmdline),
        run_id: ranks
            .iter()
            .find_map(|rank| rank.place.run_id.clone())
            .or_else(|| main.option("rdzv-id").map(str::to_owned)),
        mode: None,
        orphaned: false,
        use_agent_store: envs.find_map(|env| env.use_agent_store),
        max_restarts: ranks
            .iter()
            .find_map(|rank| rank.place.max_restarts)
            .or_else(|| main.option("max-restarts")?.parse().ok()),
        ranks,
        facts: Vec::new(),
        has_more: false,
    })
}

/// What is to be known of all processes but the kernel's own; the environment only of session leaders that
/// live, which all ranks of script mode are.
pub(super) fn read_all(proc_root: &Path) -> Vec<ProcFacts> {
    proc::pids(proc_root).into_iter().filter_map(|pid| read_one(proc_root, pid)).collect()
}

fn read_one(proc_root: &Path, pid: i32) -> Option<ProcFacts> {
    proc::with_stat(proc_root, pid, |stat| {
        if stat.is_kernel_thread {
            return None;
        }
        let is_dead = stat.kernel == Kernel::Dead;
        let cmdline = if is_dead { Vec::new() } else { proc::read_cmdline(proc_root, pid) };
        let is_candidate = !is_dead && stat.sid == pid;
        let env = is_candidate.then(|| proc::read_env(proc_root, pid)).flatten();
        Some(proc::facts_of(stat, cmdline, env))
    })
    .flatten()
}

/// The host name, as the kernel gives it.
pub fn node_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of a user, or the number of one that `/etc/passwd` does not know.
pub fn user_of(uid: u32) -> String {
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    user_name(&passwd, uid).unwrap_or_else(|| uid.to_string())
}

/// The name of a user in the text of `/etc/passwd`.
fn user_name(passwd: &[u8], uid: u32) -> Option<String> {
    passwd.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = str::from_utf8(line).ok()?.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}
