//! The figures of one rank over time. A supervisor keeps them of all ranks of its node, a viewer of the one it shows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{
    event::{Event, Fact},
    series::Series,
    state::{Rank, State},
    time::Stamp,
};

/// Figures over time; a restart does not end them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Share of one core in percent.
    pub cpu_pct: Series,
    /// Resident memory in MiB.
    pub rss_mib: Series,
    /// Time of one step in microseconds; nothing while no step ends.
    pub step_us: Series,
    /// The last step told, and when.
    #[serde(default)]
    last_step: Option<(u64, Stamp)>,
}

impl History {
    /// Takes in what is known of the rank after a look at it.
    pub fn look(&mut self, at: Stamp, rank: &Rank) {
        if !rank.state.is_alive() {
            self.last_step = None;
            return;
        }
        if let Some(share) = rank.cpu_pct {
            self.cpu_pct.push(at, share.round().max(0.0) as u32);
        }
        if let Some(bytes) = rank.rss_bytes {
            self.rss_mib.push(at, u32::try_from(bytes >> 20).unwrap_or(u32::MAX));
        }
        let Some((step, told_at)) = rank.step.zip(rank.step_at) else {
            self.last_step = None;
            return;
        };
        match self.last_step {
            Some((before, then)) if step > before && told_at > then => {
                let took = told_at.since(then).as_micros() / u128::from(step - before);
                self.step_us.push(told_at, u32::try_from(took).unwrap_or(u32::MAX));
            }
            Some((before, _)) if step == before => return,
            // The first step of all, or a start from a checkpoint.
            _ => {}
        }
        self.last_step = Some((step, told_at));
    }

    /// Whether nothing was ever told.
    pub fn is_empty(&self) -> bool {
        self.cpu_pct.is_empty() && self.rss_mib.is_empty() && self.step_us.is_empty()
    }
}

/// The figures of all ranks of a node, by their positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histories(BTreeMap<u32, History>);

impl Histories {
    /// Takes in an event that `state` has taken in already.
    pub fn take(&mut self, state: &State, event: &Event) {
        let (Fact::Sample { ranks } | Fact::Progress { ranks }) = &event.fact else { return };
        for sample in ranks {
            if let Some(rank) = state.rank(sample.local_rank) {
                self.0.entry(sample.local_rank).or_default().look(event.at, rank);
            }
        }
    }

    /// The figures of the rank at this position.
    pub fn of(&self, local_rank: u32) -> Option<&History> {
        self.0.get(&local_rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{id::ProcId, rank::RankState, sample::RankSample, series::Resolution};

    fn event(second: u64, step: Option<(u64, u64)>) -> Event {
        let sample = RankSample {
            local_rank: 3,
            cpu_ns: Some(second * 500_000_000),
            rss_bytes: Some(700 << 20),
            step: step.map(|(step, _)| step),
            step_at: step.map(|(_, at)| Stamp(at * 1000)),
            ..RankSample::default()
        };
        Event { seq: 0, at: Stamp(second * 1000), fact: Fact::Sample { ranks: vec![sample] } }
    }

    #[test]
    fn steps_are_timed_by_when_they_were_told_and_not_over_a_restart() {
        let (mut state, mut kept) = (State::default(), Histories::default());
        let mut take = |event: Event| {
            state.apply(&event);
            kept.take(&state, &event);
        };
        let start = |pid| Event {
            seq: 1,
            at: Stamp(0),
            fact: Fact::RankStarted {
                proc: ProcId { pid, start: 1 },
                agent_pid: 1,
                local_rank: 3,
                attempt: 0,
                place: crate::domain::sample::Place::default(),
            },
        };
        take(start(7));
        take(event(100, Some((10, 100))));
        take(event(104, Some((14, 104))));
        take(event(105, Some((14, 104))));
        take(event(110, Some((15, 110))));
        take(start(8));
        take(event(111, None));
        take(event(112, Some((3, 112))));
        take(event(113, Some((4, 113))));
        let history = kept.of(3).unwrap();
        let steps = history.step_us.window(Resolution::Second, Stamp(113_000), 14);
        let told: Vec<_> = steps.iter().flatten().copied().collect();
        // A cell holds 16 bits: large values are kept in steps.
        let ms = |us: u32| (us + 500) / 1000;
        assert_eq!(told.iter().map(|us| ms(*us)).collect::<Vec<_>>(), [1_000, 6_000, 1_000]);
        assert_eq!(
            [4, 10, 12, 13].map(|at: usize| steps[at].map(ms)),
            [Some(1_000), Some(6_000), None, Some(1_000)]
        );
        assert_eq!(history.cpu_pct.window(Resolution::Second, Stamp(104_000), 1), [Some(50)]);
        assert_eq!(history.rss_mib.window(Resolution::Second, Stamp(113_000), 1), [Some(700)]);
        assert!(kept.of(2).is_none());
        let json = serde_json::to_string(history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&json).unwrap(), *history);
    }

    #[test]
    fn a_rank_that_is_gone_adds_nothing() {
        let mut state = State::default();
        let mut history = History::default();
        state.apply(&event(5, None));
        let mut rank = {
            let fact = Fact::RankStarted {
                proc: ProcId { pid: 7, start: 1 },
                agent_pid: 1,
                local_rank: 3,
                attempt: 0,
                place: crate::domain::sample::Place::default(),
            };
            state.apply(&Event { seq: 1, at: Stamp(0), fact });
            state.apply(&event(5, None));
            state.rank(3).unwrap().clone()
        };
        rank.state = RankState::Exited;
        history.look(Stamp(6000), &rank);
        assert!(history.is_empty());
    }
}
