//! What a rank is doing, from the kernel's state of its process and from its heartbeat.
//!
//! One machine per incarnation. Waiting and lagging need the collectives of all ranks: the verdict tells them.

use std::time::Duration;

use super::{
    alert::{Alert, AlertKind},
    rank::RankState,
    sample::Kernel,
    time::{Stamp, human},
    verdict::{Role, Standing},
};

/// A rank that never beats counts as running after this time.
const START_PLAIN: Duration = Duration::from_secs(2);
/// A rank that should beat and does not counts as running after this time.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// Uninterruptible sleep for this long, on two looks or more, is a state of its own.
const BLOCKED_AFTER: Duration = Duration::from_secs(2);
/// … and for this long, an alarm: a checkpoint on a network file system sleeps like that for a moment.
const BLOCKED_ALARM: Duration = Duration::from_secs(5);
/// No heartbeat for this long although the process computes: something holds Python's lock.
const SILENT_AFTER: Duration = Duration::from_secs(10);
/// Share of one core, in per mille, that counts as computing.
const BUSY_PER_MILLE: u64 = 300;
/// Looks further apart than this do not belong together.
const MAX_GAP: Duration = Duration::from_secs(3);

/// What the machine learns about its rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A look at the process.
    Look {
        /// What the kernel says of it.
        state: Kernel,
        /// CPU time of all threads since the start of the process, in nanoseconds.
        cpu_ns: Option<u64>,
    },
    /// A heartbeat arrived.
    Beat {
        /// The last step told.
        step: Option<u64>,
        /// Process groups that exist in the rank; `None` when it cannot tell.
        groups: Option<u32>,
    },
    /// A step became known without a heartbeat, from a log line.
    Step,
    /// The global rank became known.
    Rank(u32),
    /// How it stands to its peers in their collectives.
    Standing(Option<Standing>),
    /// Its agent died.
    Orphaned,
    /// Whether the group is starting up or being ended: no alarms then.
    Quiet(bool),
}

/// What the machine tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The rank is doing something else, or the same in other words.
    State {
        /// What.
        state: RankState,
        /// More about it.
        detail: Option<String>,
    },
    /// Something is wrong.
    Raise(Alert),
    /// It is not any more.
    Clear(AlertKind),
}

/// Watches one incarnation of one rank.
#[derive(Debug)]
pub struct Health {
    local_rank: u32,
    rank: Option<u32>,
    started: Stamp,
    expects_beats: bool,
    told: (RankState, Option<String>),
    alarm: Option<AlertKind>,
    kernel: Kernel,
    /// Since when the kernel says so, over an unbroken row of looks; and the last look.
    kernel_since: Stamp,
    looked: Option<Stamp>,
    looks: u32,
    beat: Option<Stamp>,
    is_working: bool,
    orphaned: bool,
    standing: Option<Standing>,
    /// What was told is a former supervisor's word: nothing was seen of the rank yet.
    is_hearsay: bool,
    quiet: bool,
    /// Where the measurement of CPU use since the last beat began.
    silent_from: Option<(Stamp, u64)>,
    computes: bool,
}

impl Health {
    /// A rank that was started at `now`. `expects_beats` says whether the injected Python file should run in it.
    pub fn new(now: Stamp, local_rank: u32, rank: Option<u32>, expects_beats: bool) -> Health {
        Health {
            local_rank,
            rank,
            started: now,
            expects_beats,
            told: (RankState::Starting, None),
            alarm: None,
            kernel: Kernel::Alive,
            kernel_since: now,
            looked: None,
            looks: 0,
            beat: None,
            is_working: false,
            orphaned: false,
            standing: None,
            is_hearsay: false,
            quiet: false,
            silent_from: None,
            computes: false,
        }
    }

    /// The same for a rank that a former supervisor knew: when it started, what was told of it, and when it beat last.
    pub fn resumed(self, started: Stamp, told: (RankState, Option<String>), beat: Option<Stamp>) -> Health {
        Health { started, is_working: told.0 == RankState::Running, told, beat, is_hearsay: true, ..self }
    }

    /// Takes one input in.
    pub fn handle(&mut self, now: Stamp, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Look { state, cpu_ns } => self.look(now, state, cpu_ns),
            Input::Beat { step, groups } => {
                self.beat = Some(now);
                self.is_hearsay = false;
                self.is_working |= step.is_some() || groups.is_some_and(|groups| groups > 0);
                (self.silent_from, self.computes) = (None, false);
            }
            Input::Step => self.is_working = true,
            Input::Rank(rank) => self.rank = Some(rank),
            Input::Standing(standing) => self.standing = standing,
            Input::Orphaned => self.orphaned = true,
            Input::Quiet(quiet) => self.quiet = quiet,
        }
        self.tell(now, out);
    }

    fn look(&mut self, now: Stamp, state: Kernel, cpu_ns: Option<u64>) {
        let torn = self.looked.is_none_or(|last| now.since(last) > MAX_GAP || now < last);
        if torn || self.kernel != state {
            (self.kernel, self.kernel_since, self.looks) = (state, now, 0);
        }
        self.looks = self.looks.saturating_add(1);
        self.looked = Some(now);
        self.is_hearsay = false;
        let Some(cpu_ns) = cpu_ns.filter(|_| state == Kernel::Alive) else {
            (self.silent_from, self.computes) = (None, false);
            return;
        };
        match self.silent_from.filter(|_| !torn) {
            None => (self.silent_from, self.computes) = (Some((now, cpu_ns)), false),
            Some((from, before)) => {
                let passed = now.since(from).as_millis() as u64;
                let busy = cpu_ns.saturating_sub(before) / 1000;
                self.computes = passed >= 1000 && busy >= passed.saturating_mul(BUSY_PER_MILLE);
            }
        }
    }

    /// When the state may change by the passing of time alone.
    pub fn deadline(&self) -> Option<Stamp> {
        (self.told.0 == RankState::Starting && self.looked.is_some() && self.kernel == Kernel::Alive)
            .then(|| self.started + self.patience())
    }

    /// Does what is due at `now`.
    pub fn on_deadline(&mut self, now: Stamp, out: &mut Vec<Output>) {
        self.tell(now, out);
    }

    fn patience(&self) -> Duration {
        if self.expects_beats { START_PATIENCE } else { START_PLAIN }
    }

    /// What the rank is doing, as told last.
    pub fn state(&self) -> RankState {
        self.told.0
    }

    fn judge(&self, now: Stamp) -> (RankState, Option<String>) {
        match self.kernel {
            Kernel::Dead => return (RankState::Zombie, Some("dead, not yet collected by its agent".into())),
            Kernel::Stopped => return (RankState::Stopped, Some("stopped by a signal or a debugger".into())),
            Kernel::Blocked if self.looks >= 2 && self.kernel_for() >= BLOCKED_AFTER => {
                return (
                    RankState::Blocked,
                    Some("in uninterruptible sleep: waits for a disk, network or driver".into()),
                );
            }
            Kernel::Blocked | Kernel::Alive => {}
        }
        if self.orphaned {
            return (RankState::Orphan, Some("its agent is dead".into()));
        }
        if self.is_stuck(now) {
            return (
                RankState::GilStuck,
                Some("computes without a heartbeat: something holds Python's lock".into()),
            );
        }
        if let Some(standing) = &self.standing {
            let state = if standing.role == Role::Waiting { RankState::Waiting } else { RankState::Lagging };
            return (state, Some(standing.detail()));
        }
        if self.is_working {
            return (RankState::Running, None);
        }
        if self.beat.is_some() {
            return (RankState::Init, Some("no process group and no step yet".into()));
        }
        if self.looked.is_some() && now.since(self.started) >= self.patience() {
            return (RankState::Running, None);
        }
        (RankState::Starting, None)
    }

    fn kernel_for(&self) -> Duration {
        self.looked.map_or(Duration::ZERO, |last| last.since(self.kernel_since))
    }

    fn is_stuck(&self, now: Stamp) -> bool {
        // The row of looks must cover the silence: when nobody looked, nobody heard beats either.
        let covered = self.silent_from.zip(self.looked).is_some_and(|((from, _), last)| {
            last.since(from) + MAX_GAP >= SILENT_AFTER && now.since(last) <= MAX_GAP
        });
        self.computes && covered && self.beat.is_some_and(|beat| now.since(beat) > SILENT_AFTER)
    }

    fn tell(&mut self, now: Stamp, out: &mut Vec<Output>) {
        let next = self.judge(now);
        let was_starting = self.told.0 == RankState::Starting;
        // What a former supervisor told stands until there is something to say.
        let is_news = !self.is_hearsay || self.orphaned;
        if next != self.told && is_news {
            self.told = next.clone();
            out.push(Output::State { state: next.0, detail: next.1 });
        }
        let alarm = match next.0 {
            _ if self.quiet => None,
            RankState::Stopped => Some(AlertKind::Stopped),
            // Loading libraries from a network file system looks the same.
            RankState::Blocked if self.has_begun(was_starting) && self.kernel_for() >= BLOCKED_ALARM => {
                Some(AlertKind::BlockedIo)
            }
            _ => None,
        };
        if alarm == self.alarm {
            return;
        }
        out.extend(self.alarm.map(Output::Clear));
        self.alarm = alarm;
        out.extend(alarm.map(|kind| Output::Raise(self.alert(kind))));
    }

    fn has_begun(&self, was_starting: bool) -> bool {
        self.is_working || self.beat.is_some() || !was_starting && !self.expects_beats
    }

    fn alert(&self, kind: AlertKind) -> Alert {
        let name = match self.rank {
            Some(rank) => format!("rank {rank}"),
            None => format!("local rank {}", self.local_rank),
        };
        let (text, fact) = if kind == AlertKind::Stopped {
            (
                format!(
                    "{name} is stopped by a signal or a debugger; its peers wait for it in their next collective"
                ),
                "the kernel says T (stopped)".to_owned(),
            )
        } else {
            (
                format!(
                    "{name} hangs in uninterruptible sleep: it waits for a disk, the network or a driver"
                ),
                format!("the kernel says D on {} looks over {}", self.looks, human(self.kernel_for())),
            )
        };
        let mut evidence = vec![fact];
        if let (Some(beat), Some(looked)) = (self.beat, self.looked) {
            evidence.push(format!("last heartbeat {} before", human(looked.since(beat))));
        }
        Alert {
            kind,
            local_rank: Some(self.local_rank),
            since: self.kernel_since,
            text,
            evidence,
            acts_at: None,
        }
    }
}

#[cfg(test)]
mod tests;
