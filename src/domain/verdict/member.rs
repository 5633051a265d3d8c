//! What the verdicts remember of one rank.

use std::{collections::VecDeque, time::Duration};

use super::{doing::Activity, doing::Doing, drift::Drift, memory::Memory, standing, straggler::Waits};
use crate::domain::{
    beat::{Beat, GroupStatus, Whereabouts},
    sample::Kernel,
    time::Stamp,
};

/// Beats of a rank that never missed one come every second; after this time without one, something holds it up.
pub(super) const SILENT: Duration = Duration::from_secs(4);
/// The longest time between two beats of a healthy rank.
const LONGEST_BEAT: Duration = Duration::from_secs(2);
/// So many beats show that a rank can beat at all.
const BEATS_TO_TRUST: u32 = 3;
/// Reading or writing this much between two looks is work.
const IO_THAT_COUNTS: u64 = 1 << 20;
/// Looks at CPU time over which a share is taken, and how far apart the first and last may be.
const CPU_LOOKS: usize = 4;
const CPU_SPAN: Duration = Duration::from_secs(5);

/// A process group as a rank told of it last.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) status: GroupStatus,
    /// Since when its counters stand.
    pub(super) since: Stamp,
}

/// One rank.
#[derive(Clone, Debug, Default)]
pub(super) struct Member {
    pub(super) rank: Option<u32>,
    /// Whether its process ended, and whether well.
    pub(super) ended: Option<bool>,
    pub(super) kernel: Option<Kernel>,
    pub(super) kernel_since: Stamp,
    pub(super) beat_at: Option<Stamp>,
    pub(super) beats: u32,
    pub(super) step: Option<(u64, Stamp)>,
    pub(super) step_source: Option<String>,
    pub(super) groups: Vec<Seen>,
    /// When it wrote lines, read or wrote files: weak signs of life.
    pub(super) wrote_at: Option<Stamp>,
    pub(super) io_at: Option<Stamp>,
    pub(super) doing: Option<Doing>,
    /// The exception that it printed last, and when.
    raised: Option<(Stamp, String)>,
    /// Where its main thread is, by the last beat.
    pub(super) whereabouts: Option<Whereabouts>,
    /// Whether that has changed since nothing moves: it is not the place that it hangs at.
    wanders: bool,
    /// When it was looked at closely, and CPU time of its main thread then.
    main_cpu: VecDeque<(Stamp, u64)>,
    cpu: VecDeque<(Stamp, u64)>,
    /// Rows in a row with a loss that is no number: its name, the last step, how many.
    pub(super) nan: Option<(String, Option<u64>, u32)>,
    pub(super) nan_is_of_beats: bool,
    pub(super) waits: Waits,
    pub(super) drift: Drift,
    pub(super) memory: Memory,
}

/// What a beat showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Any counter of a collective changed.
    pub(super) collectives: bool,
    /// Steps made, and in which time.
    pub(super) steps: Option<(u64, Duration)>,
}

impl Member {
    pub(super) fn is_alive(&self) -> bool {
        self.ended.is_none()
    }

    /// The number to show.
    pub(super) fn number(&self, local_rank: u32) -> u32 {
        self.rank.unwrap_or(local_rank)
    }

    pub(super) fn beat(&mut self, now: Stamp, beat: &Beat) -> Moved {
        self.rank = beat.rank.or(self.rank);
        self.beat_at = Some(now);
        self.beats = self.beats.saturating_add(1);
        let is_other = self.whereabouts.is_some() && self.whereabouts != beat.whereabouts;
        self.wanders = beat.whereabouts.is_some() && (self.wanders || is_other);
        self.whereabouts.clone_from(&beat.whereabouts);
        let mut moved = Moved::default();
        if let Some(step) = beat.step {
            if self.step_source != beat.step_source {
                // Another way of counting: what is known does not go with it.
                self.step = None;
                self.step_source.clone_from(&beat.step_source);
            }
            moved.steps = self.stepped(beat.stepped_at().unwrap_or(now).min(now), step);
        }
        moved.collectives = self.take_groups(now, &beat.groups);
        // A beat may tell of what moved before the exception.
        if (moved.collectives || moved.steps.is_some())
            && self.raised.as_ref().is_some_and(|(at, _)| now.since(*at) >= LONGEST_BEAT)
        {
            self.raised = None;
        }
        self.waits.beat(&beat.groups);
        self.drift.beat(beat);
        match &beat.nan {
            Some(nan) => {
                self.nan = Some((nan.key.clone(), nan.step, nan.rows.unwrap_or(1)));
                self.nan_is_of_beats = true;
            }
            None if self.nan_is_of_beats => self.nan = None,
            None => {}
        }
        moved
    }

    pub(super) fn printed(&mut self, now: Stamp, raised: String) {
        self.raised = Some((now, raised));
    }

    /// The exception that it printed since it moved last: `raised ValueError: bad batch`.
    pub(super) fn raised(&self) -> Option<&str> {
        self.raised.as_ref().map(|(_, raised)| raised.as_str())
    }

    /// A step was told. Gives how many steps were made since the one before, and in which time.
    pub(super) fn stepped(&mut self, at: Stamp, step: u64) -> Option<(u64, Duration)> {
        let before = self.step.replace((step, at));
        let (known, when) = before?;
        if step <= known {
            // Told again, or counted anew: an epoch, a resumed run.
            self.step = Some((step, if step == known { when } else { at }));
            return None;
        }
        Some((step - known, at.since(when)))
    }

    fn take_groups(&mut self, now: Stamp, groups: &[GroupStatus]) -> bool {
        let mut moved = false;
        let mut next = Vec::with_capacity(groups.len());
        for status in groups {
            let known = self.groups.iter().find(|seen| standing::key(&seen.status) == standing::key(status));
            let counters = |group: &GroupStatus| (group.enqueued, group.started, group.completed);
            let same = known.filter(|seen| counters(&seen.status) == counters(status));
            moved |= same.is_none() && status.enqueued.is_some();
            next.push(Seen { status: status.clone(), since: same.map_or(now, |seen| seen.since) });
        }
        self.groups = next;
        moved
    }

    pub(super) fn look(&mut self, now: Stamp, kernel: Kernel, cpu_ns: Option<u64>) {
        if self.kernel != Some(kernel) {
            (self.kernel, self.kernel_since) = (Some(kernel), now);
        }
        if let Some(cpu_ns) = cpu_ns {
            push(&mut self.cpu, (now, cpu_ns));
        }
    }

    pub(super) fn examined(&mut self, now: Stamp, doing: Doing) {
        if let Some(cpu_ns) = doing.main_cpu_ns {
            push(&mut self.main_cpu, (now, cpu_ns));
        }
        let before = self.doing.as_ref().and_then(|doing| doing.io_bytes);
        if before.zip(doing.io_bytes).is_some_and(|(before, after)| after >= before + IO_THAT_COUNTS) {
            self.io_at = Some(now);
        }
        self.doing = Some(doing);
    }

    /// Share of a core in per mille that the main thread used lately; of the whole process where the thread's is not
    /// known.
    pub(super) fn share(&self) -> Option<u64> {
        share(&self.main_cpu).or_else(|| share(&self.cpu))
    }

    pub(super) fn activity(&self) -> Option<Activity> {
        let share = self.share();
        match &self.doing {
            Some(doing) => Some(doing.activity(share)),
            None => share.filter(|share| *share >= 500).map(|_| Activity::Busy),
        }
    }

    /// Where it is in the script; `None` where that may be out of date.
    pub(super) fn spot(&self, now: Stamp) -> Option<&Whereabouts> {
        self.whereabouts.as_ref().filter(|_| self.silence(now).is_none())
    }

    /// Where it has been all the time since nothing moves.
    pub(super) fn stays_at(&self, now: Stamp) -> Option<&Whereabouts> {
        self.spot(now).filter(|_| !self.wanders)
    }

    /// For how long it has been silent though it used to beat; `None` while all is well.
    pub(super) fn silence(&self, now: Stamp) -> Option<Duration> {
        let silent = now.since(self.beat_at?);
        (self.beats >= BEATS_TO_TRUST && silent >= SILENT && self.kernel == Some(Kernel::Alive))
            .then_some(silent)
    }

    /// The last weak sign of life.
    pub(super) fn sign_at(&self) -> Option<Stamp> {
        self.wrote_at.max(self.io_at)
    }
}

fn push(list: &mut VecDeque<(Stamp, u64)>, item: (Stamp, u64)) {
    list.push_back(item);
    while list.len() > CPU_LOOKS || list.front().is_some_and(|(at, _)| item.0.since(*at) > CPU_SPAN) {
        list.pop_front();
    }
}

fn share(looks: &VecDeque<(Stamp, u64)>) -> Option<u64> {
    let ((from, before), (to, after)) = (looks.front()?, looks.back()?);
    let passed = to.since(*from).as_micros() as u64;
    (passed >= 500_000).then(|| after.saturating_sub(*before) / (passed / 1000).max(1) / 1000)
}
