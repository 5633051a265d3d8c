//! What is known about the end of one attempt, and the verdict that follows from it.

use std::time::Duration;

use super::{
    Cause,
    choose::choose,
    rank::{MAX_MARKS, Note, Rank, SLACK},
    words,
    xid::{self, XidNote},
};
use crate::domain::{
    agent_line::AgentLine,
    evidence::{Mark, Proof, Weight, cut},
    exit::Exit,
    gpu::words::is_alarming,
    time::Stamp,
};

/// How long a verdict that later evidence can change is kept back.
pub(super) const SETTLE: Duration = Duration::from_secs(1);
/// An exception of a rank that went on living this long was either caught, or it left the rank hanging.
const STALE: Duration = Duration::from_secs(30);
/// A kill by the kernel's out-of-memory killer shows in the cgroup's counter within this time.
const OOM_NEAR: Duration = Duration::from_secs(10);
/// Most entries kept of anything else that can grow.
const MAX_OTHER: usize = 64;

pub(super) const SIGABRT: i32 = 6;
pub(super) const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clue {
    /// A rank's process exists, or its global rank became known.
    Started {
        /// Position on this node.
        local_rank: u32,
        /// Global rank, if known.
        rank: Option<u32>,
        /// Its process.
        pid: i32,
    },
    /// A rank's process is dead, or how it died became known (better).
    Exited {
        /// Position on this node.
        local_rank: u32,
        /// Its process.
        pid: i32,
        /// How; `None` when nobody saw it.
        exit: Option<Exit>,
    },
    /// A line on standard error proves something.
    Mark {
        /// Position on this node of the rank that wrote it; `None` for the agent's own output.
        local_rank: Option<u32>,
        /// What it proves.
        proof: Proof,
        /// The line.
        line: String,
    },
    /// A rank told of a new step: what it wrote before did not end it.
    Stepped {
        /// Position on this node.
        local_rank: u32,
    },
    /// A rank wrote an error file.
    ErrorFile {
        /// Position on this node.
        local_rank: u32,
        /// The message in it.
        message: String,
        /// When it was written: the file's modification time.
        written: Stamp,
    },
    /// The driver told of an error of the rank's GPU. Those that follow from the end of a process are passed over.
    Xid {
        /// Position on this node.
        local_rank: u32,
        /// NVML's index.
        gpu: u32,
        /// NVIDIA's number for the kind of error.
        xid: u64,
        /// What the driver wants done with the GPU, by its number.
        recovery: Option<u32>,
        /// Whether a row of its memory waits to be replaced.
        pending: bool,
    },
    /// The agent said something. All of its lines may be given; those that prove nothing are passed over.
    Agent(AgentLine),
    /// elastictop sent a rank a signal because somebody asked for it.
    WeSignalled {
        /// Position on this node.
        local_rank: u32,
        /// Signal number.
        signal: i32,
        /// Who asked: user and viewer.
        by: String,
    },
    /// `oom_kill` of the cgroup's `memory.events`. The first look is the base; look again when a rank died.
    OomKills(u64),
    /// The agent's process is gone.
    AgentExited {
        /// How; `None` when nobody saw it.
        exit: Option<Exit>,
    },
    /// Somebody asked to stop or restart the job: whatever ends after that did so on request.
    StopRequested {
        /// Who.
        by: String,
    },
    /// All ranks are dead and the agent does not notice.
    ZombieDeadlock,
}

/// All that is known about the end of one attempt.
///
/// Give it each clue as it comes, and ask for the [`Ledger::verdict`]. Make a new one when the next attempt starts;
/// lines about processes of another attempt are told by their pid and passed over.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub(super) ranks: Vec<Rank>,
    pub(super) agent_marks: Vec<Note>,
    pub(super) agent_exit: Option<(Stamp, Option<Exit>)>,
    pub(super) death_signal: Option<(Stamp, i32)>,
    pub(super) stop: Option<(Stamp, String)>,
    pub(super) deadlock: Option<Stamp>,
    /// Global or local rank that the agent names as the root cause, with its pid.
    pub(super) agents_guess: Option<i32>,
    new_nodes: bool,
    oom: Vec<(Stamp, u64)>,
}

/// How a rank stands in the question who failed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It failed by itself.
    Primary,
    /// It waited too long for others.
    Timeout,
    /// It ended badly without a word.
    Bare,
    /// It went wrong long before the end, and lived on.
    Stale,
    /// It left with code 0 while others went on.
    Early,
    /// It failed because another one had.
    Secondary,
    /// SIGTERM and no sender known.
    Terminated,
    /// Dead, and nobody saw how.
    Unseen,
}

/// What is held against one rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finding<'a> {
    pub(super) rank: &'a Rank,
    pub(super) standing: Standing,
    pub(super) at: Stamp,
    /// The most telling mark.
    pub(super) note: Option<&'a Note>,
    /// The exit says more than the mark.
    pub(super) exit_counts: bool,
    /// The error of its GPU that explains it all.
    pub(super) xid: Option<&'a XidNote>,
}

/// Who is to blame.
pub(super) enum Blame<'a> {
    Rank(Finding<'a>),
    Stop,
    Agent,
}

impl Ledger {
    /// The ledger of the attempt that follows: empty but for the out-of-memory counter, which goes on counting.
    #[must_use]
    pub fn next(&self) -> Ledger {
        Ledger { oom: self.oom.last().copied().into_iter().collect(), ..Ledger::default() }
    }

    /// Takes one piece of evidence that became known at `at`.
    pub fn note(&mut self, at: Stamp, clue: Clue) {
        match clue {
            Clue::Started { local_rank, rank, pid } => {
                let entry = self.rank_mut(local_rank);
                entry.global = rank.or(entry.global);
                entry.pid = Some(pid);
            }
            Clue::Exited { local_rank, pid, exit } => {
                let entry = self.rank_mut(local_rank);
                if *entry.pid.get_or_insert(pid) == pid {
                    entry.exited.get_or_insert(at);
                    entry.exit = exit.or(entry.exit);
                }
            }
            Clue::Mark { local_rank, proof, line } => {
                let line = cut(line.trim(), crate::domain::evidence::MAX_TEXT).to_owned();
                let note = Note { at, proof, line, from_file: false };
                match local_rank.or_else(|| self.rank_of_prefix(&note.line)) {
                    Some(local_rank) => self.rank_mut(local_rank).take(note),
                    None => push(&mut self.agent_marks, note, MAX_MARKS),
                }
            }
            // Only exceptions can be survived; the rest ends the process sooner or later, step or no step.
            Clue::Stepped { local_rank } => {
                let entry = self.rank_mut(local_rank);
                if !entry.notes.is_empty() && entry.exited.is_none() {
                    entry.notes.retain(|note| {
                        !matches!(note.mark(), Mark::Exception { .. } | Mark::PeerGone { .. })
                    });
                }
            }
            Clue::ErrorFile { local_rank, message, written } => {
                let mark = Mark::of_message(&message).unwrap_or_else(|| Mark::Exception {
                    class: crate::domain::evidence::UNNAMED.into(),
                    message: cut(&message, crate::domain::evidence::MAX_TEXT).to_owned(),
                    from: None,
                });
                let line = message.lines().next().unwrap_or_default();
                let line = cut(line, crate::domain::evidence::MAX_TEXT).to_owned();
                let proof = Proof { mark, at: None };
                self.rank_mut(local_rank).take(Note { at: written, proof, line, from_file: true });
            }
            Clue::Xid { local_rank, gpu, xid, recovery, pending } => {
                if is_alarming(xid) {
                    let note = XidNote { at, gpu, xid, recovery, pending };
                    push(&mut self.rank_mut(local_rank).xids, note, MAX_MARKS);
                }
            }
            Clue::Agent(line) => self.agent_said(at, line),
            Clue::WeSignalled { local_rank, signal, by } => {
                push(&mut self.rank_mut(local_rank).by_us, (at, signal, by), MAX_OTHER);
            }
            Clue::OomKills(count) => {
                if let [.., before, last] = self.oom.as_mut_slice()
                    && before.1 == count
                    && last.1 == count
                {
                    last.0 = at;
                } else {
                    push(&mut self.oom, (at, count), MAX_OTHER);
                }
            }
            Clue::AgentExited { exit } => {
                let first = self.agent_exit.map_or(at, |(first, _)| first);
                self.agent_exit = Some((first, exit.or(self.agent_exit.and_then(|(_, known)| known))));
            }
            Clue::StopRequested { by } => {
                self.stop.get_or_insert((at, by));
            }
            Clue::ZombieDeadlock => {
                self.deadlock.get_or_insert(at);
            }
        }
    }

    fn agent_said(&mut self, at: Stamp, line: AgentLine) {
        match line {
            AgentLine::ClosingSignal { pid, signal } => {
                if let Some(rank) = self.rank_of_pid(pid) {
                    rank.by_agent.get_or_insert((at, signal));
                }
            }
            AgentLine::CannotShutdown { pid } => {
                if let Some(rank) = self.rank_of_pid(pid) {
                    rank.by_agent.get_or_insert((at, SIGKILL));
                }
            }
            AgentLine::Failed { exit, pid, .. } => {
                if let Some(rank) = self.rank_of_pid(pid) {
                    rank.ended(at, exit);
                }
                self.agents_guess.get_or_insert(pid);
            }
            AgentLine::Ended(end) => {
                if let (Some(pid), Some(exit)) = (end.pid, end.exit)
                    && let Some(rank) = self.rank_of_pid(pid)
                {
                    rank.ended(at, exit);
                }
            }
            AgentLine::Failure(entry) => {
                let Some(pid) = entry.pid else { return };
                if entry.root_cause {
                    self.agents_guess = Some(pid);
                }
                if let (Some(rank), Some(exit)) = (self.rank_of_pid(pid), entry.exit) {
                    rank.global = rank.global.or(entry.rank);
                    rank.ended(at, exit);
                }
            }
            AgentLine::DeathSignal { signal } => {
                self.death_signal.get_or_insert((at, signal));
            }
            AgentLine::NewNodes { .. } => self.new_nodes = true,
            _ => {}
        }
    }

    /// The first cause as far as it can be told at `now`; `None` while nothing failed, or while evidence that
    /// could change the answer may still be on its way: ask again at the [`Ledger::deadline`].
    pub fn verdict(&self, now: Stamp) -> Option<Cause> {
        let (blame, ready) = self.judge()?;
        (now >= ready).then(|| words::cause(self, &blame))
    }

    /// The first cause by what is known, settled or not: for when there is no more time to wait, because the next
    /// attempt starts or the job is over. Give all lines that are still unread before that.
    pub fn best(&self) -> Option<Cause> {
        self.judge().map(|(blame, _)| words::cause(self, &blame))
    }

    /// Whether there is a deadlock, or any line or file tells of a failure that is no other's consequence.
    pub fn proves_failure(&self) -> bool {
        let notes = self.ranks.iter().flat_map(|rank| &rank.notes).chain(&self.agent_marks);
        self.deadlock.is_some() || notes.into_iter().any(|note| note.mark().weight() == Weight::Primary)
    }

    /// When the [`Ledger::verdict`] will be ready; in the past once it is.
    pub fn deadline(&self) -> Option<Stamp> {
        self.judge().map(|(_, ready)| ready)
    }

    fn judge(&self) -> Option<(Blame<'_>, Stamp)> {
        let agent_failed = self.agent_exit.filter(|(_, exit)| !exit.is_some_and(Exit::is_success));
        let deaths = self.ranks.iter().filter(|rank| rank.ended_badly()).filter_map(|rank| rank.exited);
        let agents = agent_failed.map(|(at, _)| at);
        let stop = self.stop.as_ref().map(|(at, _)| *at);
        let first = deaths.chain(agents).chain(stop).chain(self.deadlock).min()?;

        let mut findings: Vec<_> = self
            .ranks
            .iter()
            .filter_map(|rank| xid::weigh(rank, Self::finding(rank, first, agent_failed.is_some())))
            .collect();
        let asked = stop.into_iter().chain(self.death_signal.map(|(at, _)| at)).min();
        findings.retain(|found| asked.is_none_or(|asked| found.at <= asked));
        if asked.is_some() {
            xid::forget_the_idle(&mut findings);
        }
        // A rank that is signalled was alive; so one that the agent ended did not fail before that. Connections that
        // break after the agent began to end ranks break because of it.
        let closing = self.ranks.iter().filter_map(|rank| rank.by_agent).map(|(at, _)| at).min();
        let agent_gone = self.agent_exit.map(|(at, _)| at).filter(|_| closing.is_none());
        let was_killed = |exit: Option<Exit>| matches!(exit, Some(Exit::Signal(_)));
        let agent_killed = agent_failed.filter(|(_, exit)| was_killed(*exit)).map(|(at, _)| at);
        // What ends after its agent was ended by somebody, mostly elastictop, who cleaned up.
        let gone = agents.filter(|_| self.deadlock.is_none());
        findings.retain(|found| {
            let at = found.rank.exited.map_or(found.at, |exited| exited.min(found.at));
            gone.is_none_or(|gone| at <= gone + SLACK)
        });
        findings.retain(|found| match found.standing {
            Standing::Secondary => {
                // Without a word of a failure the agent may end the group because a node joined: connections break
                // then too, and only a rank that was dead before has its own reason.
                let dead_before = |closing| {
                    self.agents_guess.is_some() || found.rank.exited.is_some_and(|exited| exited <= closing)
                };
                closing.is_none_or(|closing| found.at <= closing + SLACK && dead_before(closing))
                    && agent_gone.is_none_or(|gone| found.at <= gone + SLACK)
                    && !self.new_nodes
            }
            // Ranks that end with their agent may be seen gone a moment before it is. An agent that a signal killed did
            // not end because of a rank.
            Standing::Unseen => agent_killed.is_none_or(|gone| found.at + SLACK < gone),
            Standing::Terminated => agent_gone.is_none_or(|gone| found.at + SLACK < gone) && !self.new_nodes,
            _ => true,
        });
        if let Some(found) = choose(&findings) {
            let sure = found.standing == Standing::Primary
                && (found.note.is_some() || found.xid.is_some() || !self.may_be_oom(&found));
            let ready = if sure || self.agent_exit.is_some() { first } else { first + SETTLE };
            return Some((Blame::Rank(found), ready));
        }
        if stop.is_some() {
            return Some((Blame::Stop, first));
        }
        (agent_failed.is_some() || self.death_signal.is_some() || self.deadlock.is_some())
            .then_some((Blame::Agent, first + SETTLE))
    }

    fn finding(rank: &Rank, first: Stamp, agent_failed: bool) -> Option<Finding<'_>> {
        let exited = rank.exited;
        let alone =
            |standing, at| Some(Finding { rank, standing, at, note: None, exit_counts: true, xid: None });
        if rank.exit.is_some_and(Exit::is_success) {
            return exited.and_then(|at| alone(Standing::Early, at));
        }
        let signal = rank.exit.and_then(Exit::signal_behind);
        if let (Some(at), Some(_)) = (exited, rank.sent_by_us()) {
            return alone(Standing::Primary, at);
        }
        let ended_by_agent = rank.ended_by_agent();
        let (start, note) = match rank.burst() {
            Some(burst) => burst,
            None if ended_by_agent => return None,
            None => {
                let at = exited?;
                return match (rank.exit, signal) {
                    (Some(_), Some(SIGTERM)) => alone(Standing::Terminated, at),
                    (Some(_), Some(_)) => alone(Standing::Primary, at),
                    (Some(_), None) => alone(Standing::Bare, at),
                    (None, _) => agent_failed.then(|| alone(Standing::Unseen, at)).flatten(),
                };
            }
        };
        // Python turns an exception into exit code 1: a signal that kills at once has another reason than the
        // exception before it, unless that was about memory or the like.
        let killed = signal.is_some_and(|signal| matches!(signal, 4 | 7 | 8 | 9 | 11)) && !ended_by_agent;
        let is_vague = note.mark().detail() <= 3
            && !note.mark().is_timeout()
            && !matches!(note.mark(), Mark::Fatal { .. });
        let is_kill = signal == Some(SIGKILL);
        if let Some(at) =
            exited.filter(|_| killed && is_vague && (is_kill || start.mark().weight() == Weight::Primary))
        {
            return Some(Finding {
                rank,
                standing: Standing::Primary,
                at,
                note: Some(note),
                exit_counts: true,
                xid: None,
            });
        }
        let lived_on = exited.is_none() || ended_by_agent;
        let standing = if start.mark().is_timeout() {
            Standing::Timeout
        } else if start.mark().weight() == Weight::Secondary {
            Standing::Secondary
        } else if lived_on && start.at + STALE < first {
            Standing::Stale
        } else {
            Standing::Primary
        };
        Some(Finding { rank, standing, at: start.at, note: Some(note), exit_counts: false, xid: None })
    }

    /// Whether the out-of-memory killer's counter rose when `rank` died.
    pub(super) fn oom_rose(&self, rank: &Rank) -> Option<(u64, u64)> {
        let died = rank.exited?;
        self.oom.windows(2).find_map(|pair| {
            let [(_, before), (at, after)] = *pair else { return None };
            (after > before && at + OOM_NEAR >= died && died + OOM_NEAR >= at).then_some((before, after))
        })
    }

    /// Whether the counter was read before and after `rank` died.
    pub(super) fn oom_looked(&self, rank: &Rank) -> bool {
        self.oom.len() >= 2 && self.oom.last().zip(rank.exited).is_some_and(|((last, _), died)| *last >= died)
    }

    fn may_be_oom(&self, found: &Finding) -> bool {
        found.rank.exit.and_then(Exit::signal_behind) == Some(SIGKILL)
            && found.rank.sent_by_us().is_none()
            && !self.oom_looked(found.rank)
    }

    fn rank_mut(&mut self, local_rank: u32) -> &mut Rank {
        let place = match self.ranks.binary_search_by_key(&local_rank, |rank| rank.local) {
            Ok(found) => found,
            Err(place) => {
                self.ranks.insert(place, Rank { local: local_rank, ..Rank::default() });
                place
            }
        };
        &mut self.ranks[place]
    }

    pub(super) fn rank_of_pid(&mut self, pid: i32) -> Option<&mut Rank> {
        self.ranks.iter_mut().find(|rank| rank.pid == Some(pid))
    }

    /// The rank of this node that a line such as `[rank3]: …` in the agent's output came from.
    fn rank_of_prefix(&self, line: &str) -> Option<u32> {
        let number: u32 = line.strip_prefix("[rank")?.split_once(']')?.0.parse().ok()?;
        self.ranks.iter().find(|rank| rank.global == Some(number)).map(|rank| rank.local)
    }
}

fn push<T>(list: &mut Vec<T>, item: T, max: usize) {
    if list.len() >= max {
        list.remove(0);
    }
    list.push(item);
}

#[cfg(test)]
mod tests;
