//! Goodput: the share of a job's time that moved training forward, and what the rest was lost to.
//!
//! All of it follows from when groups started, told steps and ended. A job whose ranks tell no step has no goodput.

use std::time::Duration;

use super::{
    state::{Attempt, State},
    time::Stamp,
};

/// What time was lost to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Loss {
    /// From the start of a group to its first step: rendezvous, imports, loading a checkpoint.
    Start,
    /// Steps that an attempt before had made already.
    Recomputed,
    /// From the last step to the moment the group was seen to end: a hang, a timeout that was waited for.
    Stall,
    /// From then to the start of the next group.
    Restart,
}

impl Loss {
    /// All, in the order of an attempt's life.
    pub const ALL: [Loss; 4] = [Loss::Start, Loss::Recomputed, Loss::Stall, Loss::Restart];

    /// Its name on screen.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Start => "start",
            Loss::Recomputed => "recomputed",
            Loss::Stall => "stalled",
            Loss::Restart => "restart",
        }
    }
}

/// Where the time of one attempt, or of a job, went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Goodput {
    /// From start to end, or to now.
    pub total: Duration,
    /// Time that made new steps.
    pub productive: Duration,
    lost: [Duration; 4],
}

impl Goodput {
    /// Time lost to one thing.
    pub fn lost(&self, to: Loss) -> Duration {
        self.lost[to as usize]
    }

    /// What was lost, the most first; nothing of what is less than a second.
    pub fn losses(&self) -> Vec<(Loss, Duration)> {
        let mut losses: Vec<_> = Loss::ALL.into_iter().map(|loss| (loss, self.lost(loss))).collect();
        losses.retain(|(_, lost)| lost.as_secs() > 0);
        losses.sort_by_key(|(_, lost)| std::cmp::Reverse(*lost));
        losses
    }

    /// Productive share of the total in %.
    pub fn percent(&self) -> f32 {
        if self.total.is_zero() {
            0.0
        } else {
            self.productive.as_secs_f32() / self.total.as_secs_f32() * 100.0
        }
    }

    fn add(&mut self, other: &Goodput) {
        self.total += other.total;
        self.productive += other.productive;
        self.lost.iter_mut().zip(other.lost).for_each(|(sum, lost)| *sum += lost);
    }
}

/// The goodput of each attempt that the state remembers, oldest first, and of all of them together. Empty for
/// a job without steps.
pub fn of(state: &State, now: Stamp) -> (Vec<Goodput>, Option<Goodput>) {
    if state.attempts.iter().all(|attempt| attempt.first_step.is_none()) {
        return (Vec::new(), None);
    }
    let now = state.ended_at.unwrap_or(now);
    let mut reached: Option<u64> = None;
    let mut each = Vec::with_capacity(state.attempts.len());
    for attempt in &state.attempts {
        each.push(of_attempt(attempt, reached, now));
        reached = reached.max(attempt.last_step);
    }
    let mut sum = Goodput::default();
    each.iter().for_each(|one| sum.add(one));
    (each, Some(sum))
}

fn of_attempt(attempt: &Attempt, reached: Option<u64>, now: Stamp) -> Goodput {
    let end = attempt.ended_at.unwrap_or(now).max(attempt.started_at);
    let within = |at: Stamp| at.clamp(attempt.started_at, end);
    let total = end.since(attempt.started_at);
    let mut lost = [Duration::ZERO; 4];
    let stopped = attempt.stopped_at.map_or(end, within);
    lost[Loss::Restart as usize] = end.since(stopped);
    let Some(((first, first_at), (last, last_at))) =
        attempt.first_step.zip(attempt.last_step.zip(attempt.last_step_at))
    else {
        lost[Loss::Start as usize] = stopped.since(attempt.started_at);
        return Goodput { total, productive: Duration::ZERO, lost };
    };
    let first_at = within(first_at).min(stopped);
    let last_at = within(last_at).min(stopped).max(first_at);
    lost[Loss::Start as usize] = first_at.since(attempt.started_at);
    let stepping = last_at.since(first_at);
    // The step that is being made in a group that goes on is no stall yet: the watchdogs tell of hangs.
    let tail = stopped.since(last_at);
    let goes_on = attempt.ended_at.is_none() && attempt.stopped_at.is_none();
    let usual = stepping / u32::try_from(last.saturating_sub(first)).unwrap_or(u32::MAX).max(1);
    let made = if goes_on && tail <= usual * 5 + Duration::from_secs(5) { tail } else { Duration::ZERO };
    lost[Loss::Stall as usize] = tail.saturating_sub(made);
    let again = reached.map_or(0, |reached| reached.min(last).saturating_sub(first));
    let share = again as f64 / last.saturating_sub(first).max(1) as f64;
    let recomputed = stepping.mul_f64(share.clamp(0.0, 1.0));
    lost[Loss::Recomputed as usize] = recomputed;
    Goodput { total, productive: stepping.saturating_sub(recomputed) + made, lost }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::event::Reason;

    const BEGIN: Stamp = Stamp(1_000_000);

    fn at(seconds: u64) -> Stamp {
        BEGIN + Duration::from_secs(seconds)
    }

    fn attempt(
        n: u32,
        span: (u64, Option<u64>),
        steps: Option<[(u64, u64); 2]>,
        stopped: Option<u64>,
    ) -> Attempt {
        Attempt {
            n,
            reason: Reason::Failure,
            started_at: at(span.0),
            ended_at: span.1.map(at),
            world_size: None,
            restarts: n,
            cause: None,
            last_step: steps.map(|steps| steps[1].0),
            last_step_at: steps.map(|steps| at(steps[1].1)),
            first_step: steps.map(|steps| (steps[0].0, at(steps[0].1))),
            stopped_at: stopped.map(at),
            hang: None,
        }
    }

    fn state(attempts: Vec<Attempt>) -> State {
        State { attempts: attempts.into(), ..State::default() }
    }

    #[test]
    fn every_second_is_productive_or_lost_to_something() {
        // 100 s of start, 1000 steps in 1000 s, 600 s of waiting for a timeout, 30 s until the next group.
        let first = attempt(0, (0, Some(1730)), Some([(0, 100), (1000, 1100)]), Some(1700));
        // It resumes at step 800, so that 200 of its 400 steps are done again.
        let second = attempt(1, (1730, None), Some([(800, 1830), (1200, 2230)]), None);
        let (each, sum) = of(&state(vec![first, second]), at(2231));
        let seconds = |one: &Goodput| {
            let lost = Loss::ALL.map(|loss| one.lost(loss).as_secs());
            (one.total.as_secs(), one.productive.as_secs(), lost)
        };
        assert_eq!(seconds(&each[0]), (1730, 1000, [100, 0, 600, 30]));
        assert_eq!(seconds(&each[1]), (501, 201, [100, 200, 0, 0]));
        let sum = sum.unwrap();
        assert_eq!(seconds(&sum), (2231, 1201, [200, 200, 600, 30]));
        assert_eq!(format!("{:.1}", sum.percent()), "53.8");
        assert_eq!(sum.losses()[0], (Loss::Stall, Duration::from_secs(600)));
    }

    #[test]
    fn a_running_group_that_makes_no_step_stalls() {
        let running = attempt(0, (0, None), Some([(0, 10), (100, 110)]), None);
        let (each, _) = of(&state(vec![running]), at(410));
        assert_eq!(each[0].lost(Loss::Stall).as_secs(), 300);
    }

    #[test]
    fn without_steps_there_is_no_goodput_and_an_attempt_without_is_all_start() {
        assert_eq!(of(&state(vec![attempt(0, (0, None), None, None)]), at(50)), (Vec::new(), None));
        let attempts = vec![
            attempt(0, (0, Some(60)), None, Some(50)),
            attempt(1, (60, None), Some([(0, 80), (10, 90)]), None),
        ];
        let (each, _) = of(&state(attempts), at(90));
        assert_eq!((each[0].lost(Loss::Start).as_secs(), each[0].lost(Loss::Restart).as_secs()), (50, 10));
    }

    proptest! {
        #[test]
        fn nothing_is_counted_twice(
            times in proptest::collection::vec(0..1000_u64, 10), steps in proptest::collection::vec(0..500_u64, 4),
            open: bool,
        ) {
            let mut times = times;
            times[0..1].sort_unstable();
            let first = attempt(0, (times[0], Some(times[1])),
                Some([(steps[0], times[2]), (steps[0] + steps[1], times[3])]), Some(times[4]));
            let second = attempt(1, (times[1], (!open).then_some(times[5])),
                Some([(steps[2], times[6]), (steps[2] + steps[3], times[7])]), None);
            let (each, _) = of(&state(vec![first, second]), at(times[9]));
            for one in each {
                let lost: Duration = Loss::ALL.into_iter().map(|loss| one.lost(loss)).sum();
                let sum = one.productive + lost;
                prop_assert!(sum <= one.total + Duration::from_millis(1), "{one:?}");
            }
        }
    }
}
