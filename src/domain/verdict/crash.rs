//! A group that fails in the same way again and again, and one that never gets past the same step.

use std::collections::VecDeque;

use crate::domain::{
    alert::{Alert, AlertKind},
    cause::{Cause, CauseKind},
    time::Stamp,
};

/// So many failures of the same kind are a loop.
pub const LOOP: usize = 3;
/// A group that got this many steps further than it failed before is out of the loop.
const OUT_OF_IT: u64 = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    at: Stamp,
    rank: Option<u32>,
    kind: CauseKind,
    text: String,
    /// The text without what differs each time.
    sign: String,
    step: Option<u64>,
}

/// How the starts of the group ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Crashes {
    failures: VecDeque<Failure>,
    /// Steps at which the job stood still and was restarted for it.
    stalls: VecDeque<Option<u64>>,
}

impl Crashes {
    /// The running start of the group has failed, or was ended because nothing moved.
    pub(super) fn failed(&mut self, at: Stamp, cause: &Cause, step: Option<u64>) {
        self.failures.push_back(Failure {
            at,
            rank: cause.rank,
            kind: cause.kind,
            text: cause.text.clone(),
            sign: without_numbers(&cause.text),
            step,
        });
        if self.failures.len() > LOOP {
            self.failures.pop_front();
        }
    }

    /// The job stood still at this step, and is restarted. Whether that is no use any more: the same step, again.
    pub(super) fn stalled(&mut self, step: Option<u64>) -> bool {
        self.stalls.push_back(step);
        if self.stalls.len() > LOOP {
            self.stalls.pop_front();
        }
        // A later step than at the first of them is progress.
        self.stalls.len() == LOOP && self.stalls.iter().all(|step| *step <= self.stalls[0])
    }

    /// The running group has come to this step.
    pub(super) fn reached(&mut self, step: u64) {
        let failed_at = self.failures.iter().filter_map(|failure| failure.step).max();
        if failed_at.is_some_and(|at| step >= at + OUT_OF_IT) {
            self.failures.clear();
        }
    }

    /// The loop, if it is one.
    pub(super) fn judge(&self) -> Option<Alert> {
        let (first, last) = (self.failures.front()?, self.failures.back()?);
        let same =
            |other: &Failure| (other.rank, other.kind, &other.sign) == (first.rank, first.kind, &first.sign);
        if self.failures.len() < LOOP || !self.failures.iter().all(same) {
            return None;
        }
        let who = last.rank.map(|rank| format!(" of rank {rank}")).unwrap_or_default();
        let steps: Vec<_> =
            self.failures.iter().filter_map(|failure| failure.step).map(|step| step.to_string()).collect();
        let mut evidence = vec![format!("each time: {}", last.text)];
        if !steps.is_empty() {
            evidence.push(format!("at steps {}", steps.join(", ")));
        }
        Some(Alert {
            kind: AlertKind::CrashLoop,
            local_rank: None,
            since: first.at,
            text: format!("the same failure{who} {LOOP} times in a row: another restart will not cure it"),
            evidence,
            acts_at: None,
        })
    }

    /// Whether the same failure came again and again without the job getting further.
    pub(super) fn is_stuck(&self) -> bool {
        self.judge().is_some() && self.failures.iter().all(|f| f.step <= self.failures[0].step)
    }
}

/// Process ids, ports and sizes differ from one time to the next.
fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !out.ends_with('#') {
            out.push('#');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(rank: u32, text: &str) -> Cause {
        Cause {
            rank: Some(rank),
            kind: CauseKind::Exception,
            text: text.into(),
            evidence: Vec::new(),
            hint: None,
        }
    }

    #[test]
    fn three_times_the_same_is_a_loop_and_pids_do_not_hide_it() {
        let mut crashes = Crashes::default();
        for (n, pid) in [100, 231, 377].into_iter().enumerate() {
            assert_eq!(crashes.judge(), None, "after {n}");
            crashes.failed(Stamp(n as u64), &cause(1, &format!("rank 1 (pid {pid}) raised")), Some(60));
        }
        let alert = crashes.judge().unwrap();
        assert_eq!(
            alert.text,
            "the same failure of rank 1 3 times in a row: another restart will not cure it"
        );
        assert_eq!(alert.evidence[1], "at steps 60, 60, 60");
        assert!(crashes.is_stuck());
        crashes.reached(69);
        assert!(crashes.judge().is_some());
        crashes.reached(70);
        assert_eq!(crashes.judge(), None, "it got past it");
    }

    #[test]
    fn different_failures_are_none() {
        let mut crashes = Crashes::default();
        for (rank, text) in [(1, "a"), (1, "a"), (2, "a")] {
            crashes.failed(Stamp(1), &cause(rank, text), None);
        }
        assert_eq!(crashes.judge(), None);
        for (step, text) in [(10, "a"), (20, "a"), (30, "a")] {
            crashes.failed(Stamp(1), &cause(1, text), Some(step));
        }
        assert!(crashes.judge().is_some());
        assert!(!crashes.is_stuck(), "each time further");
    }

    #[test]
    fn a_stall_at_the_same_step_three_times_is_enough() {
        let mut crashes = Crashes::default();
        assert!(![Some(60), Some(80)].map(|step| crashes.stalled(step)).contains(&true));
        assert!(!crashes.stalled(Some(90)), "it gets further each time");
        let mut crashes = Crashes::default();
        assert_eq!([Some(60), Some(60), Some(55)].map(|step| crashes.stalled(step)), [false, false, true]);
    }
}
