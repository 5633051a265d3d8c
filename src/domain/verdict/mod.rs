//! The verdict: whether the job moves on, and if not, which rank keeps it from that, and what that rank does.
//!
//! One machine for the ranks of this node. It is fed with beats, looks, steps and what closer looks at suspects show,
//! and asked once a second for its judgement. Each kind of trouble has a file of its own, which says what holds now;
//! what differs from what was told is told. No text holds an age: views count from [`Alert::since`].

mod alone;
mod crash;
pub mod doing;
mod drift;
mod guard;
mod hang;
mod life;
mod marks;
mod member;
mod memory;
mod pace;
mod policy;
mod ras;
pub mod standing;
mod straggler;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use self::{crash::Crashes, hang::Case, member::Member, pace::Pace, ras::Watch};
pub use self::{
    crash::LOOP,
    doing::Doing,
    guard::{Guard, GuardedBy},
    policy::{HANG_AFTER, HEARTBEAT_TIMEOUT, OnStall, Policy},
    standing::{Role, Standing},
};
use super::{
    alert::{Alert, AlertKind},
    beat::Beat,
    cause::{Cause, CauseKind},
    evidence::Proof,
    ras::Ras,
    sample::Kernel,
    time::Stamp,
};

/// Judgements further apart than this do not belong together: the machine slept, or was stopped.
const MAX_GAP: Duration = Duration::from_secs(5);
/// Ranks are looked at closely once nothing has moved for this long.
const SUSPICIOUS: Duration = Duration::from_secs(2);
/// Who waits or lags for a shorter time than this is in the middle of a step.
const SETTLE: Duration = Duration::from_secs(3);
/// Rows in a row with a loss that is no number, before that is told: a step that the script throws away is one.
const NAN_ROWS: u32 = 2;

/// What the machine learns.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A group of ranks is being started: what was known of the ranks before does not count.
    Begin,
    /// A rank exists, or its global rank became known.
    Rank {
        /// Position on this node.
        local_rank: u32,
        /// Global rank, if known.
        rank: Option<u32>,
    },
    /// A rank's process is dead.
    Ended {
        /// Position on this node.
        local_rank: u32,
        /// Whether with exit code 0.
        well: bool,
    },
    /// A rank's process is out of the process table.
    Gone {
        /// Position on this node.
        local_rank: u32,
    },
    /// A heartbeat.
    Beat {
        /// Position on this node.
        local_rank: u32,
        /// What it says.
        beat: &'a Beat,
    },
    /// A look at a rank's process.
    Look {
        /// Position on this node.
        local_rank: u32,
        /// What the kernel says.
        kernel: Kernel,
        /// CPU time of all threads in nanoseconds.
        cpu_ns: Option<u64>,
        /// Resident memory in bytes.
        rss_bytes: Option<u64>,
    },
    /// A rank wrote lines.
    Wrote {
        /// Position on this node.
        local_rank: u32,
        /// The step in the last JSON line among them, and when that was written.
        step: Option<(u64, Stamp)>,
        /// The last loss among them: its name, and for how many rows in a row it has been no number; 0 for a number.
        loss: Option<(&'a str, u32)>,
    },
    /// A line of a rank proves something.
    Mark {
        /// Position on this node.
        local_rank: u32,
        /// What.
        proof: &'a Proof,
    },
    /// What a closer look showed, which [`Output::Examine`] asked for.
    Examined {
        /// Position on this node.
        local_rank: u32,
        /// What was seen.
        doing: &'a Doing,
    },
    /// What [`Output::AskRas`] asked for.
    Ras {
        /// The answer; `None` when nobody answers, or in text only.
        ras: Option<&'a Ras>,
        /// The numbers of this node's living ranks, by their process ids.
        ours: &'a BTreeMap<i64, u32>,
    },
    /// A look at the agent; `None` when there is none.
    Agent(Option<Kernel>),
    /// The job's state changed.
    Phase {
        /// Whether the ranks work: no start, no end, no restart.
        runs: bool,
        /// When ranks that are being ended were told to, and when force will be used.
        ending: Option<(Stamp, Stamp)>,
    },
    /// The running group failed, at this step as far as known.
    Failed {
        /// Why.
        cause: &'a Cause,
        /// Highest step of any rank.
        step: Option<u64>,
    },
    /// Somebody does something to a rank on purpose: the pause that follows is not the job's own.
    Meddled,
    /// A second has passed, and all that happened in it has been told.
    Judge,
}

/// What the machine wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Something is wrong, or differently from what was told.
    Raise(Alert),
    /// It is not any more.
    Clear(AlertKind, Option<u32>),
    /// How a rank stands to its peers; `None` when it neither waits nor lags.
    Standing {
        /// Position on this node.
        local_rank: u32,
        /// How it stands.
        standing: Option<Standing>,
    },
    /// Which process groups' backend runs in a rank, and what would end it when its heart stops.
    Guard {
        /// Position on this node.
        local_rank: u32,
        /// What guards it.
        guard: Guard,
    },
    /// Look at these ranks closely, by their positions.
    Examine(Vec<u32>),
    /// Ask NCCL's health service; answered by [`Input::Ras`], however it goes.
    AskRas,
    /// Write down what can be learned of the ranks.
    Dump {
        /// Why: the verdict.
        text: String,
    },
    /// End the agent and start it anew.
    Restart {
        /// Why: the verdict.
        text: String,
    },
    /// Restarts are of no use any more: end the job.
    GiveUp {
        /// Why.
        text: String,
    },
}

/// Judges the ranks of this node.
#[derive(Debug)]
pub struct Verdict {
    policy: Policy,
    /// Restarts for a stall that may still be spent.
    budget: u32,
    members: BTreeMap<u32, Member>,
    pace: Pace,
    crashes: Crashes,
    began: Stamp,
    judged: Option<Stamp>,
    runs: bool,
    ending: Option<(Stamp, Stamp)>,
    agent: Option<(Kernel, Stamp)>,
    /// Since when an agent lives without a rank that does.
    alone: Option<Stamp>,
    standings: BTreeMap<u32, Standing>,
    guards: BTreeMap<u32, Guard>,
    ras: Watch,
    told: BTreeMap<(AlertKind, Option<u32>), Alert>,
    /// Alerts that hold until the group that they are about is over.
    kept: Vec<Alert>,
    /// What was done about the stall that began then.
    acted: Option<Stamp>,
    /// Who seemed to keep the others waiting, and when that was judged.
    suspicion: Option<(Stamp, Alert)>,
    gave_up: bool,
}

impl Verdict {
    /// For a job that may restart its ranks `budget` times.
    pub fn new(policy: Policy, budget: u32) -> Verdict {
        Verdict {
            policy,
            budget,
            members: BTreeMap::new(),
            pace: Pace::default(),
            crashes: Crashes::default(),
            began: Stamp(0),
            judged: None,
            runs: false,
            ending: None,
            agent: None,
            alone: None,
            standings: BTreeMap::new(),
            guards: BTreeMap::new(),
            ras: Watch::default(),
            told: BTreeMap::new(),
            kept: Vec::new(),
            acted: None,
            suspicion: None,
            gave_up: false,
        }
    }

    /// From now on the job may restart its ranks as many `times`.
    pub fn may_restart(&mut self, times: u32) {
        self.budget = times;
    }

    /// Takes one input in.
    pub fn handle(&mut self, now: Stamp, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Begin => self.begin(now, out),
            Input::Rank { local_rank, rank } => {
                let member = self.members.entry(local_rank).or_default();
                member.rank = rank.or(member.rank);
            }
            Input::Ended { local_rank, well } => self.with(local_rank, |m| m.ended = Some(well)),
            Input::Gone { local_rank } => self.with(local_rank, |member| {
                member.ended.get_or_insert(false);
                member.kernel = None;
            }),
            Input::Beat { local_rank, beat } => self.beat(now, local_rank, beat),
            Input::Look { local_rank, kernel, cpu_ns, rss_bytes } => {
                let stretch = self.policy.hang_after();
                if kernel == Kernel::Stopped {
                    self.pace.spoil();
                }
                self.with(local_rank, |member| {
                    member.look(now, kernel, cpu_ns);
                    if let Some(rss_bytes) = rss_bytes {
                        member.memory.look(now, rss_bytes, stretch);
                    }
                });
            }
            Input::Wrote { local_rank, step, loss } => self.wrote(now, local_rank, step, loss),
            Input::Mark { local_rank, proof } => self.mark(now, local_rank, proof),
            Input::Examined { local_rank, doing } => {
                self.with(local_rank, |member| member.examined(now, doing.clone()));
                self.guard(local_rank, doing, out);
            }
            Input::Ras { ras, ours } => self.ras.answered(now, ras, ours),
            Input::Agent(kernel) => {
                let same = |(known, since): (Kernel, Stamp)| {
                    kernel.map(|k| (k, if k == known { since } else { now }))
                };
                self.agent = self.agent.map_or_else(|| kernel.map(|k| (k, now)), same);
            }
            Input::Phase { runs, ending } => (self.runs, self.ending) = (runs, ending),
            Input::Failed { cause, step } => self.failed(now, cause, step),
            Input::Meddled => self.pace.spoil(),
            Input::Judge => self.judge(now, out),
        }
    }

    fn with(&mut self, local_rank: u32, change: impl FnOnce(&mut Member)) {
        if let Some(member) = self.members.get_mut(&local_rank) {
            change(member);
        }
    }

    fn begin(&mut self, now: Stamp, out: &mut Vec<Output>) {
        self.members.clear();
        self.pace = Pace::default();
        (self.began, self.acted) = (now, None);
        self.guards.clear();
        self.suspicion = None;
        for (local_rank, _) in std::mem::take(&mut self.standings) {
            out.push(Output::Standing { local_rank, standing: None });
        }
        // What ended the group before is worth knowing until the next one works.
        self.kept.retain(|alert| alert.kind == AlertKind::Oom);
        self.tell(now, Vec::new(), out);
    }

    fn beat(&mut self, now: Stamp, local_rank: u32, beat: &Beat) {
        let Some(member) = self.members.get_mut(&local_rank) else { return };
        let moved = member.beat(now, beat);
        if let Some((steps, time)) = moved.steps {
            self.pace.stepped(steps, time);
        }
        if moved.collectives || moved.steps.is_some() {
            self.pace.moved(now);
        }
        if let Some(step) = beat.step {
            self.reached(step);
        }
    }

    fn wrote(&mut self, now: Stamp, local_rank: u32, step: Option<(u64, Stamp)>, loss: Option<(&str, u32)>) {
        let Some(member) = self.members.get_mut(&local_rank) else { return };
        member.wrote_at = Some(now);
        if let Some((name, rows)) = loss {
            let known = member.nan.as_ref().map_or(0, |(.., rows)| *rows);
            member.nan_is_of_beats = false;
            let at_step = step.map(|(step, _)| step);
            member.nan = (rows > 0).then(|| (name.to_owned(), at_step, known.saturating_add(rows)));
        }
        // Steps of beats are the better ones.
        let Some((step, at)) = step else { return };
        if member.step_source.is_none() {
            let known = member.step.map(|(known, _)| known);
            if let Some((steps, time)) = member.stepped(at.min(now), step) {
                self.pace.stepped(steps, time);
            }
            if known != Some(step) {
                self.pace.moved(now);
            }
        }
        self.reached(step);
    }

    fn reached(&mut self, step: u64) {
        self.crashes.reached(step);
        if self.pace.has_begun() {
            self.kept.retain(|alert| alert.kind != AlertKind::Oom || alert.since > self.began);
        }
    }

    fn keep(&mut self, alert: Alert) {
        if self.kept.iter().all(|known| known.key() != alert.key()) {
            self.kept.push(alert);
        }
    }

    fn guard(&mut self, local_rank: u32, doing: &Doing, out: &mut Vec<Output>) {
        let Some(member) = self.members.get(&local_rank) else { return };
        let backends = member.groups.iter().filter_map(|seen| seen.status.backend.clone());
        let guard = guard::of(doing, backends.collect(), self.guards.get(&local_rank), &self.policy);
        if self.guards.get(&local_rank) != Some(&guard) {
            self.guards.insert(local_rank, guard.clone());
            out.push(Output::Guard { local_rank, guard });
        }
    }

    fn failed(&mut self, now: Stamp, cause: &Cause, step: Option<u64>) {
        self.crashes.failed(now, cause, step);
        if matches!(cause.kind, CauseKind::OomHost | CauseKind::OomGpu) {
            self.keep(Alert {
                kind: AlertKind::Oom,
                local_rank: None,
                since: now,
                text: cause.text.clone(),
                evidence: cause.evidence.clone(),
                acts_at: None,
            });
        }
    }

    fn judge(&mut self, now: Stamp, out: &mut Vec<Output>) {
        if self.judged.is_some_and(|last| now.since(last) > MAX_GAP || now < last) {
            self.pace.torn(now);
        }
        self.judged = Some(now);
        let settle = SETTLE.max(self.pace.step().saturating_mul(2));
        let standings = standing::standings(&self.members, now, settle);
        self.tell_standings(standings, out);
        self.examine(now, out);
        self.ask_ras(now, out);
        let mut alerts = self.kept.clone();
        alerts.extend(self.crashes.judge());
        alerts.extend(life::agent_stuck(self.agent, &self.members, now));
        let is_alone = self.agent.is_some_and(|(kernel, _)| kernel == Kernel::Alive)
            && self.ending.is_none()
            && !self.members.values().any(Member::is_alive);
        self.alone = is_alone.then(|| self.alone.unwrap_or(now));
        alerts.extend(life::no_group(self.alone, &self.policy, now));
        if let Some(times) = self.ending {
            alerts.extend(life::slow_teardown(&self.members, times, now));
        }
        if self.runs {
            alerts.extend(self.running_alerts(now, out));
        } else {
            self.acted = None;
        }
        if self.policy.on_stall == OnStall::Restart && self.crashes.is_stuck() && !self.gave_up {
            self.gave_up = true;
            let text = format!("the job failed {LOOP} times without getting past the same step");
            out.push(Output::GiveUp { text });
        }
        self.tell(now, alerts, out);
    }

    fn running_alerts(&mut self, now: Stamp, out: &mut Vec<Output>) -> Vec<Alert> {
        let mut alerts = Vec::new();
        alerts.extend(drift::judge(&mut self.members, now).map(|alert| self.first_told(alert)));
        let slow = self.told.values().find(|alert| alert.kind == AlertKind::Straggler);
        alerts.extend(straggler::judge(&mut self.members, now, slow));
        for (local, member) in self.members.iter().filter(|(_, member)| member.is_alive()) {
            let told = self.told.get(&(AlertKind::MemoryLeak, Some(*local)));
            alerts.extend(member.memory.judge(now, (*local, member.number(*local)), told));
            alerts.extend(self.nan(now, *local, member));
        }
        let times = (self.began, now);
        alerts.extend(life::slow_start(&self.members, &self.standings, &self.policy, times));
        let case = Case {
            members: &self.members,
            standings: &self.standings,
            pace: &self.pace,
            policy: &self.policy,
            now,
        };
        let suspicion = case.suspicion().map(|alert| (now, alert));
        self.suspicion = suspicion.or_else(|| self.suspicion.take());
        let stall = case.stall();
        match stall {
            Some((since, finding)) => {
                let acts_at = self.policy.acts_after().map(|after| since + after);
                let text = finding.alert.as_ref().map_or("a rank is stopped".into(), |a| a.text.clone());
                // A drifting rank that hangs at last has one cause.
                alerts.retain(|known| finding.alert.as_ref().is_none_or(|alert| known.key() != alert.key()));
                // Where no steps are told, each start is a slow one.
                alerts.retain(|known| known.kind != AlertKind::SlowStart);
                let will_act = acts_at.filter(|_| self.acted != Some(since));
                alerts.extend(finding.alert.map(|mut alert| {
                    alert.evidence.extend(self.ras.evidence());
                    Alert { acts_at: will_act, ..alert }
                }));
                self.act(now, since, acts_at, text, out);
            }
            None => {
                self.acted = None;
                alerts.extend(self.silent_alone(now));
            }
        }
        alerts
    }

    /// One that holds until its group is over keeps the time and words of its first telling.
    fn first_told(&mut self, alert: Alert) -> Alert {
        let known = self.told.get(&alert.key()).cloned();
        let alert = known.filter(|known| known.text == alert.text).unwrap_or(alert);
        self.kept.retain(|known| known.key() != alert.key());
        self.kept.push(alert.clone());
        alert
    }

    fn act(&mut self, now: Stamp, since: Stamp, acts_at: Option<Stamp>, text: String, out: &mut Vec<Output>) {
        if acts_at.is_none_or(|at| now < at) || self.acted == Some(since) || self.gave_up {
            return;
        }
        self.acted = Some(since);
        out.push(Output::Dump { text: text.clone() });
        if self.policy.on_stall != OnStall::Restart {
            return;
        }
        let step = self.members.values().filter_map(|member| member.step).map(|(step, _)| step).max();
        let no_use = self.crashes.stalled(step);
        if no_use || self.budget == 0 {
            self.gave_up = true;
            let why = if no_use {
                format!("the job stood still {LOOP} times without getting past the same step")
            } else {
                "the job stands still, and its restarts are spent".into()
            };
            out.push(Output::GiveUp { text: format!("{why}: {text}") });
            return;
        }
        self.budget -= 1;
        out.push(Output::Restart { text });
    }

    fn tell_standings(&mut self, standings: BTreeMap<u32, Standing>, out: &mut Vec<Output>) {
        let all: BTreeSet<u32> = standings.keys().chain(self.standings.keys()).copied().collect();
        for local_rank in all {
            let standing = standings.get(&local_rank);
            if standing != self.standings.get(&local_rank) {
                out.push(Output::Standing { local_rank, standing: standing.cloned() });
            }
        }
        self.standings = standings;
    }

    /// Asks for a closer look at all ranks while nothing moves, and at one that has just made its first group.
    fn examine(&self, now: Stamp, out: &mut Vec<Output>) {
        let suspicious = SUSPICIOUS.max(self.pace.step().saturating_mul(2));
        let still = self.pace.moved_at().is_some_and(|at| now.since(at) >= suspicious);
        let wanted = |(local, member): (&u32, &Member)| {
            let is_new = !member.groups.is_empty() && !self.guards.contains_key(local);
            let silent = member.silence(now).is_some();
            let is_late = member.whereabouts.is_some() && member.groups.is_empty() && member.step.is_none();
            (member.is_alive() && (is_new || self.runs && (still || silent || is_late))).then_some(*local)
        };
        let wanted: Vec<_> = self.members.iter().filter_map(wanted).collect();
        if !wanted.is_empty() {
            out.push(Output::Examine(wanted));
        }
    }

    fn tell(&mut self, _now: Stamp, alerts: Vec<Alert>, out: &mut Vec<Output>) {
        let mut next: BTreeMap<(AlertKind, Option<u32>), Alert> = BTreeMap::new();
        for alert in alerts {
            next.entry(alert.key()).or_insert(alert);
        }
        for key in self.told.keys().filter(|key| !next.contains_key(key)) {
            out.push(Output::Clear(key.0, key.1));
        }
        for (key, alert) in &next {
            let same = |known: &Alert| {
                (&known.text, known.since, known.acts_at) == (&alert.text, alert.since, alert.acts_at)
                    && ras::told_in(&known.evidence) == ras::told_in(&alert.evidence)
            };
            if !self.told.get(key).is_some_and(same) {
                out.push(Output::Raise(alert.clone()));
            }
        }
        self.told = next;
    }

    /// How a rank stands to its peers.
    pub fn standing(&self, local_rank: u32) -> Option<&Standing> {
        self.standings.get(&local_rank)
    }

    /// Who seemed to keep the others waiting just before, though not for long enough to raise an alarm.
    pub fn suspicion(&self, before: Stamp) -> Option<&Alert> {
        let (at, alert) = self.suspicion.as_ref()?;
        (before.since(*at) <= MAX_GAP).then_some(alert)
    }

    /// The groups that a rank told of last.
    pub fn groups(&self, local_rank: u32) -> Vec<super::beat::GroupStatus> {
        let member = self.members.get(&local_rank);
        member
            .map(|member| member.groups.iter().map(|seen| seen.status.clone()).collect())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
