//! Ending a job, or what is left of one: SIGTERM, a time limit, SIGKILL, and nobody left behind.

use std::time::Duration;

use super::{id::ProcId, sample::Kernel, time::Stamp};

/// How long the agent waits for ranks after it told them to end, before it kills them: fixed in torchrun.
pub const AGENT_PATIENCE: Duration = Duration::from_secs(30);
/// After SIGKILL, what still lives is killed again this often: a rank may have been started in between.
/// The same for SIGCONT: one look may be given many times.
const AGAIN: Duration = Duration::from_secs(1);

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;

/// A rank that a look found in the process table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankLook {
    /// Position on this node.
    pub local_rank: u32,
    /// Its process.
    pub proc: ProcId,
    /// What the kernel says of it.
    pub state: Kernel,
}

/// One look at the agent and the ranks, orphans included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The agent; `None` when it is gone.
    pub agent: Option<Kernel>,
    /// All ranks that are in the process table.
    pub ranks: Vec<RankLook>,
}

/// What the machine learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// What runs. Give one before anything else, then one at each sample and at each exit.
    Look(Look),
    /// End the job. A second request can only make the time limit earlier.
    Stop {
        /// How long to wait before force is used.
        grace: Duration,
    },
    /// End the job by force at once.
    StopNow,
    /// The agent has ended; end what is left of its ranks. Without leftovers it is done at once.
    Sweep {
        /// How long to wait before force is used.
        grace: Duration,
    },
    /// The agent has begun to end its ranks by itself, after a failure or for a membership change.
    AgentTeardown,
}

/// Whom to signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The agent's process.
    Agent,
    /// One rank's process.
    Rank(ProcId),
    /// A rank's process group: the rank is its leader.
    RankGroup(ProcId),
}

/// What the machine wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a signal.
    Signal {
        /// To whom.
        target: Target,
        /// Signal number.
        signal: i32,
    },
    /// Agent and ranks are gone. Comes once, and only after a request to end them.
    Done,
}

/// What is going on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is to be ended.
    #[default]
    Idle,
    /// The agent ends its ranks by itself and will use force at the deadline.
    Teardown,
    /// All were asked to end and will be killed at the deadline.
    Asked,
    /// All were killed.
    Killed,
    /// Nothing is left.
    Done,
}

/// Ends a job. Make a new one per job; it serves all attempts.
#[derive(Debug, Default)]
pub struct Ending {
    phase: Phase,
    deadline: Option<Stamp>,
    last: Look,
    /// Whether SIGTERM went to the ranks' groups because there is no agent that would.
    orphans_asked: bool,
    /// The ranks that the agent is ending.
    group: Vec<ProcId>,
    /// Who got SIGCONT, and when last.
    woken: Vec<(Target, Stamp)>,
    forced: bool,
}

impl Ending {
    /// Takes one input in.
    pub fn handle(&mut self, now: Stamp, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Look(look) => {
                self.last = look;
                self.look(now, out);
            }
            Input::Stop { grace } => self.ask(now, grace, out),
            // An agent that lives on would miss its ranks and start new ones.
            Input::Sweep { grace } if !self.agent_lives() => self.ask(now, grace, out),
            Input::Sweep { .. } => {}
            Input::StopNow => match self.phase {
                Phase::Killed | Phase::Done => {}
                _ => self.kill(now, out),
            },
            Input::AgentTeardown => {
                if self.phase == Phase::Idle {
                    self.group = self.live().map(|rank| rank.proc).collect();
                    (self.phase, self.deadline) = (Phase::Teardown, Some(now + AGENT_PATIENCE));
                    self.wake(now, out);
                }
            }
        }
    }

    fn ask(&mut self, now: Stamp, grace: Duration, out: &mut Vec<Output>) {
        let due = now + grace;
        match self.phase {
            Phase::Idle | Phase::Teardown => {
                (self.phase, self.deadline) = (Phase::Asked, Some(due));
                if self.agent_lives() {
                    out.push(Output::Signal { target: Target::Agent, signal: SIGTERM });
                }
                self.look(now, out);
            }
            Phase::Asked => self.deadline = self.deadline.map(|known| known.min(due)),
            Phase::Killed | Phase::Done => {}
        }
    }

    fn look(&mut self, now: Stamp, out: &mut Vec<Output>) {
        match self.phase {
            Phase::Idle | Phase::Done => return,
            Phase::Teardown => {
                if !self.live().any(|rank| self.group.contains(&rank.proc)) {
                    self.group.clear();
                    (self.phase, self.deadline) = (Phase::Idle, None);
                    return;
                }
            }
            Phase::Asked | Phase::Killed => {
                if !self.agent_lives() && self.live().next().is_none() {
                    (self.phase, self.deadline) = (Phase::Done, None);
                    out.push(Output::Done);
                    return;
                }
            }
        }
        if self.phase == Phase::Asked
            && !self.agent_lives()
            && !std::mem::replace(&mut self.orphans_asked, true)
        {
            out.extend(
                self.live()
                    .map(|rank| Output::Signal { target: Target::RankGroup(rank.proc), signal: SIGTERM }),
            );
        }
        // No deadline of its own: `kill` made one when it was called.
        if self.phase == Phase::Killed && self.deadline.is_none() {
            self.deadline = Some(now + AGAIN);
        }
        self.wake(now, out);
    }

    /// What is stopped cannot take a SIGTERM.
    fn wake(&mut self, now: Stamp, out: &mut Vec<Output>) {
        if !matches!(self.phase, Phase::Teardown | Phase::Asked) {
            return;
        }
        let agent =
            (self.phase == Phase::Asked && self.last.agent == Some(Kernel::Stopped)).then_some(Target::Agent);
        let ranks = self
            .live()
            .filter(|rank| rank.state == Kernel::Stopped)
            .filter(|rank| self.phase == Phase::Asked || self.group.contains(&rank.proc))
            .map(|rank| Target::RankGroup(rank.proc));
        let stopped: Vec<_> = agent.into_iter().chain(ranks).collect();
        self.woken.retain(|(target, at)| stopped.contains(target) && now.since(*at) < AGAIN);
        for target in stopped {
            if self.woken.iter().all(|(known, _)| *known != target) {
                self.woken.push((target, now));
                out.push(Output::Signal { target, signal: SIGCONT });
            }
        }
    }

    fn kill(&mut self, now: Stamp, out: &mut Vec<Output>) {
        (self.phase, self.deadline, self.forced) = (Phase::Killed, Some(now + AGAIN), true);
        out.extend(
            self.live().map(|rank| Output::Signal { target: Target::RankGroup(rank.proc), signal: SIGKILL }),
        );
        if self.agent_lives() {
            out.push(Output::Signal { target: Target::Agent, signal: SIGKILL });
        }
        self.look(now, out);
    }

    /// When force comes next: elastictop's own, or in [`Phase::Teardown`] the agent's.
    pub fn deadline(&self) -> Option<Stamp> {
        self.deadline
    }

    /// Does what is due at `now`.
    pub fn on_deadline(&mut self, now: Stamp, out: &mut Vec<Output>) {
        if self.deadline.is_none_or(|due| now < due) {
            return;
        }
        match self.phase {
            Phase::Asked | Phase::Killed => self.kill(now, out),
            // The agent's turn; there is nothing more to count down to.
            Phase::Teardown | Phase::Idle | Phase::Done => self.deadline = None,
        }
    }

    /// What is going on.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether SIGKILL was used.
    pub fn was_forced(&self) -> bool {
        self.forced
    }

    fn agent_lives(&self) -> bool {
        self.last.agent.is_some_and(|state| state != Kernel::Dead)
    }

    fn live(&self) -> impl Iterator<Item = &RankLook> {
        self.last.ranks.iter().filter(|rank| rank.state != Kernel::Dead)
    }
}

#[cfg(test)]
mod tests;
