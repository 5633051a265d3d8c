//! How fast the job goes: the time of a step, and the pauses that it makes and survives.

use std::{collections::VecDeque, time::Duration};

use super::policy::Policy;
use crate::domain::time::Stamp;

/// Step times remembered.
const STEPS: usize = 64;
/// Pauses remembered: those of the latest checkpoints and evaluations.
const PAUSES: usize = 8;
/// Shorter gaps are no pauses: beats come once a second.
const SHORTEST_PAUSE: Duration = Duration::from_secs(3);
/// A job has begun when it was seen to move on this many steps …
const STEPS_TO_BEGIN: u64 = 3;
/// … or, where nobody tells steps, in this many different seconds.
const MOVES_TO_BEGIN: u32 = 10;

/// What has been learned of the job's pace since its group was started.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Milliseconds for one step, latest last.
    step_ms: VecDeque<u64>,
    pauses: VecDeque<Duration>,
    moved_at: Option<Stamp>,
    moves: u32,
    steps: u64,
    /// What was seen in the running gap says nothing about the job's own pauses.
    spoiled: bool,
}

impl Pace {
    /// Something moved on: a step, or a collective.
    pub fn moved(&mut self, now: Stamp) {
        let gap = self.moved_at.map_or(Duration::ZERO, |at| now.since(at));
        if gap > Duration::ZERO {
            self.moves += 1;
        }
        let is_pause = gap >= SHORTEST_PAUSE && gap >= self.step().saturating_mul(3);
        if is_pause && self.has_begun() && !self.spoiled {
            push(&mut self.pauses, gap, PAUSES);
        }
        self.spoiled = false;
        self.moved_at = self.moved_at.max(Some(now));
    }

    /// A rank was seen to make `steps` steps in `time`.
    pub fn stepped(&mut self, steps: u64, time: Duration) {
        self.steps = self.steps.saturating_add(steps);
        push(&mut self.step_ms, time.as_millis() as u64 / steps.max(1), STEPS);
    }

    /// The gap that is open now is no pause of the job's own: somebody stopped a rank, or nobody looked.
    pub fn spoil(&mut self) {
        self.spoiled = true;
    }

    /// Nobody looked for a while: what happened then is unknown, and the clock of the gap begins anew.
    pub fn torn(&mut self, now: Stamp) {
        self.spoiled = true;
        if self.moved_at.is_some() {
            self.moved_at = Some(now);
        }
    }

    /// When anything moved last.
    pub fn moved_at(&self) -> Option<Stamp> {
        self.moved_at
    }

    /// Whether the job is past its start: only then can it hang.
    pub fn has_begun(&self) -> bool {
        self.steps >= STEPS_TO_BEGIN || self.moves >= MOVES_TO_BEGIN
    }

    /// The usual time of a step: the median of the latest.
    pub fn step(&self) -> Duration {
        let mut times: Vec<_> = self.step_ms.iter().copied().collect();
        times.sort_unstable();
        Duration::from_millis(times.get(times.len() / 2).copied().unwrap_or(0))
    }

    /// The longest of the latest pauses.
    pub fn longest_pause(&self) -> Option<Duration> {
        self.pauses.iter().max().copied()
    }

    /// How long the job may stand still before that is a hang.
    pub fn patience(&self, policy: &Policy) -> Duration {
        let pause = self.longest_pause().unwrap_or_default();
        policy.hang_after().max(self.step().saturating_mul(5)).max(pause + pause / 2)
    }
}

fn push<T>(list: &mut VecDeque<T>, item: T, most: usize) {
    list.push_back(item);
    if list.len() > most {
        list.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Stamp {
        Stamp((seconds * 1000.0) as u64)
    }

    fn steady(pace: &mut Pace, from: u64, to: u64) {
        for second in from..=to {
            pace.moved(at(second as f64));
            pace.stepped(10, Duration::from_secs(1));
        }
    }

    #[test]
    fn the_step_is_the_median_and_patience_is_five_of_it_at_least_the_minimum() {
        let mut pace = Pace::default();
        assert!(!pace.has_begun());
        steady(&mut pace, 1, 5);
        pace.stepped(1, Duration::from_secs(40));
        assert!(pace.has_begun());
        assert_eq!(pace.step(), Duration::from_millis(100));
        assert_eq!(pace.patience(&Policy::default()), Duration::from_secs(30));
        let mut slow = Pace::default();
        (0..4).for_each(|_| slow.stepped(1, Duration::from_secs(20)));
        assert_eq!(slow.patience(&Policy::default()), Duration::from_secs(100));
    }

    #[test]
    fn a_pause_that_was_survived_is_learned_and_forgotten_again() {
        let mut pace = Pace::default();
        steady(&mut pace, 1, 5);
        pace.moved(at(65.0));
        assert_eq!(pace.longest_pause(), Some(Duration::from_secs(60)));
        assert_eq!(pace.patience(&Policy::default()), Duration::from_secs(90));
        for n in 0..8 {
            pace.moved(at(70.0 + 4.0 * f64::from(n)));
        }
        assert_eq!(pace.longest_pause(), Some(Duration::from_secs(5)), "only the latest count");
    }

    #[test]
    fn what_somebody_did_to_the_job_is_not_learned() {
        let mut pace = Pace::default();
        steady(&mut pace, 1, 5);
        pace.spoil();
        pace.moved(at(65.0));
        assert_eq!(pace.longest_pause(), None);
        pace.torn(at(900.0));
        pace.moved(at(901.0));
        assert_eq!((pace.longest_pause(), pace.moved_at()), (None, Some(at(901.0))));
    }

    #[test]
    fn the_first_steps_are_no_pauses() {
        let mut pace = Pace::default();
        for second in [1.0, 60.0, 61.0] {
            pace.moved(at(second));
            pace.stepped(1, Duration::from_secs(1));
        }
        assert_eq!(pace.longest_pause(), None, "compiling, warming up");
    }
}
