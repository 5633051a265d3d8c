//! The zombie deadlock: all ranks are dead, and the agent sleeps on a lock that only they could open.
//!
//! Ranks that die together are ordinary zombies until the agent looks, so neither one sample nor a moment is enough,
//! and an agent that does anything at all is left alone.

use std::time::Duration;

use super::{id::ProcId, sample::Kernel, time::Stamp};

/// All ranks must be dead at least this long.
pub const WINDOW: Duration = Duration::from_secs(2);
/// A user has this long to keep the job before the agent is ended.
pub const COUNTDOWN: Duration = Duration::from_secs(3);
/// The agent has this long to end after SIGTERM.
pub const TERM_GRACE: Duration = Duration::from_secs(5);
/// Samples further apart than this do not belong together: nobody knows what happened in between.
pub const MAX_GAP: Duration = Duration::from_secs(3);
/// CPU time that an agent may use per second and still count as stuck: its helper threads wake up now and then.
const IDLE_NS_PER_S: u64 = 20_000_000;
/// The kernel counts CPU time in ticks of this length.
const TICK_NS: u64 = 10_000_000;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// One look at the agent and its ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The ranks that are children of the agent, and nothing else that is.
    pub ranks: Vec<(ProcId, Kernel)>,
    /// The agent's own state.
    pub agent: Kernel,
    /// CPU time of the agent since its start, in nanoseconds, from its CPU clock or `stat`.
    pub agent_cpu_ns: Option<u64>,
    /// Whether the agent's main thread waits for a lock: `futex` in its `wchan`.
    pub agent_in_futex: bool,
}

/// What the watchdog learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A look at the agent and its ranks.
    Look(Look),
    /// A user wants the agent to live: do nothing until these zombies are gone.
    Keep,
}

/// What the watchdog wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// All ranks have been dead since `since`. Comes again when `acts_at` changes.
    Suspect {
        /// When they were first seen dead.
        since: Stamp,
        /// When the agent will be ended; `None` once a user said to keep it.
        acts_at: Option<Stamp>,
    },
    /// Not any more.
    Cleared,
    /// End the agent with this signal.
    EndAgent {
        /// SIGTERM, later SIGKILL.
        signal: i32,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing wrong, or not for long enough.
    #[default]
    Quiet,
    Suspect {
        acts_at: Stamp,
    },
    Kept,
    Ending {
        kills_at: Stamp,
    },
    Killed,
}

/// Watches for the zombie deadlock.
#[derive(Debug)]
pub struct Zombies {
    window: Duration,
    countdown: Duration,
    phase: Phase,
    /// The first and the last look of an unbroken row that shows the same dead ranks.
    row: Option<Row>,
}

#[derive(Debug)]
struct Row {
    ranks: Vec<ProcId>,
    since: Stamp,
    last: Stamp,
    cpu_ns: Option<u64>,
}

impl Zombies {
    /// A watchdog for an agent that looks after its ranks every `monitor_interval`.
    pub fn new(monitor_interval: Duration) -> Zombies {
        Zombies {
            window: WINDOW.max(monitor_interval.saturating_mul(2)),
            countdown: COUNTDOWN,
            phase: Phase::Quiet,
            row: None,
        }
    }

    /// The same with another time for the user to say no.
    pub fn with_countdown(self, countdown: Duration) -> Zombies {
        Zombies { countdown, ..self }
    }

    /// Takes one input in.
    pub fn handle(&mut self, now: Stamp, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Look(look) => self.look(now, look, out),
            Input::Keep => {
                if let (Phase::Suspect { .. }, Some(row)) = (self.phase, &self.row) {
                    self.phase = Phase::Kept;
                    out.push(Output::Suspect { since: row.since, acts_at: None });
                }
            }
        }
    }

    fn look(&mut self, now: Stamp, look: Look, out: &mut Vec<Output>) {
        let all_dead = !look.ranks.is_empty() && look.ranks.iter().all(|(_, state)| *state == Kernel::Dead);
        let ranks: Vec<_> = look.ranks.iter().map(|(proc, _)| *proc).collect();
        let same = self.row.as_ref().is_some_and(|row| row.ranks == ranks);
        if !all_dead || look.agent == Kernel::Dead || (self.row.is_some() && !same) {
            self.clear(out);
        }
        // A stopped agent is no deadlock, and would not take the signal.
        if !all_dead || look.agent != Kernel::Alive {
            if matches!(self.phase, Phase::Quiet | Phase::Suspect { .. }) {
                self.clear(out);
            }
            return;
        }
        // After SIGTERM the agent may well be busy: only the end of the zombies counts then.
        let watching = matches!(self.phase, Phase::Quiet | Phase::Suspect { .. });
        if let Some(row) = &self.row
            && watching
            && (row.is_torn(now) || !row.is_idle(now, &look))
        {
            self.clear(out);
        }
        let row = self.row.get_or_insert(Row { ranks, since: now, last: now, cpu_ns: look.agent_cpu_ns });
        (row.last, row.cpu_ns) = (now, look.agent_cpu_ns.or(row.cpu_ns));
        if self.phase == Phase::Quiet && now > row.since && now.since(row.since) >= self.window {
            let acts_at = row.since + self.window + self.countdown;
            let acts_at = acts_at.max(now + self.countdown.min(Duration::from_secs(1)));
            self.phase = Phase::Suspect { acts_at };
            out.push(Output::Suspect { since: row.since, acts_at: Some(acts_at) });
        }
    }

    fn clear(&mut self, out: &mut Vec<Output>) {
        self.row = None;
        if std::mem::take(&mut self.phase) != Phase::Quiet {
            out.push(Output::Cleared);
        }
    }

    /// When [`Zombies::on_deadline`] has something to do.
    pub fn deadline(&self) -> Option<Stamp> {
        match self.phase {
            Phase::Suspect { acts_at } => Some(acts_at),
            Phase::Ending { kills_at } => Some(kills_at),
            _ => None,
        }
    }

    /// Does what is due at `now`.
    pub fn on_deadline(&mut self, now: Stamp, out: &mut Vec<Output>) {
        if self.deadline().is_none_or(|due| now < due) {
            return;
        }
        // Without a fresh look nobody knows whether it still holds: start over.
        if self.row.as_ref().is_none_or(|row| row.is_torn(now)) {
            return self.clear(out);
        }
        let (phase, signal) = if matches!(self.phase, Phase::Suspect { .. }) {
            (Phase::Ending { kills_at: now + TERM_GRACE }, SIGTERM)
        } else {
            (Phase::Killed, SIGKILL)
        };
        self.phase = phase;
        out.push(Output::EndAgent { signal });
    }

    /// Since when all ranks are dead, once that is suspicious.
    pub fn suspect_since(&self) -> Option<Stamp> {
        (self.phase != Phase::Quiet).then_some(self.row.as_ref()?.since)
    }
}

impl Row {
    fn is_torn(&self, now: Stamp) -> bool {
        now.since(self.last) > MAX_GAP || now < self.last
    }

    /// Whether the agent did nothing since the last look. Not knowing counts as doing something.
    fn is_idle(&self, now: Stamp, look: &Look) -> bool {
        if look.agent_in_futex {
            return true;
        }
        let (Some(before), Some(after)) = (self.cpu_ns, look.agent_cpu_ns) else { return false };
        let allowed = now.since(self.last).as_millis() as u64 * (IDLE_NS_PER_S / 1000);
        after.saturating_sub(before) <= allowed.max(TICK_NS)
    }
}

#[cfg(test)]
mod tests;
