//! Memory that only grows.

use std::{collections::VecDeque, time::Duration};

use super::standing::names;
use crate::domain::{
    alert::{Alert, AlertKind},
    time::{Stamp, human},
};

/// Stretches of time in each of which the least memory must be more than in the one before.
const STRETCHES: usize = 12;
/// The first stretches after a start are those of loading.
const SKIPPED: u32 = 2;
/// Growth of less than this over all stretches, in bytes, is nobody's trouble.
const LEAST_GROWTH: u64 = 64 << 20;

/// The least resident memory of a rank in each of the latest stretches.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    stretch: Option<(Stamp, u64)>,
    skipped: u32,
    least: VecDeque<(Stamp, u64)>,
}

impl Memory {
    pub(super) fn look(&mut self, now: Stamp, rss_bytes: u64, stretch: Duration) {
        let (from, least) = self.stretch.get_or_insert((now, rss_bytes));
        *least = (*least).min(rss_bytes);
        if now.since(*from) < stretch {
            return;
        }
        let ended = (*from, *least);
        self.stretch = Some((now, rss_bytes));
        if self.skipped < SKIPPED {
            self.skipped += 1;
            return;
        }
        self.least.push_back(ended);
        if self.least.len() > STRETCHES {
            self.least.pop_front();
        }
    }

    /// Growth over all stretches in bytes, and since when, if it never stopped and does not slow down.
    fn growth(&self) -> Option<(Stamp, u64, u64)> {
        let of = |n: usize| self.least.get(n).map(|(_, bytes)| *bytes);
        if self.least.len() < STRETCHES {
            return None;
        }
        let (since, first) = *self.least.front()?;
        let last = of(STRETCHES - 1)?;
        // A little more than nothing each time: noise of an allocator goes both ways.
        let grows = (1..STRETCHES).all(|n| of(n).zip(of(n - 1)).is_some_and(|(b, a)| b > a + a / 1000));
        let middle = of(STRETCHES / 2)?;
        let steady = last.saturating_sub(middle) * 2 >= middle.saturating_sub(first);
        let growth = last.saturating_sub(first);
        (grows && steady && growth >= LEAST_GROWTH && growth >= first / 10).then_some((since, first, last))
    }

    pub(super) fn judge(
        &self,
        now: Stamp,
        (local_rank, number): (u32, u32),
        told: Option<&Alert>,
    ) -> Option<Alert> {
        if let Some(told) = told {
            // Two stretches without growth end it.
            let n = self.least.len();
            let of = |n: usize| self.least.get(n).map(|(_, bytes)| *bytes);
            let over = n >= 3 && of(n - 1) <= of(n - 2) && of(n - 2) <= of(n - 3);
            return (!over).then(|| told.clone());
        }
        let (since, first, last) = self.growth()?;
        let time = now.since(since).max(Duration::from_secs(1));
        let per_minute = (last - first).saturating_mul(60) / time.as_secs().max(1);
        Some(Alert {
            kind: AlertKind::MemoryLeak,
            local_rank: Some(local_rank),
            since,
            text: format!(
                "{} takes ever more memory: {} MiB more each minute",
                names([number]),
                per_minute >> 20
            ),
            evidence: vec![
                format!(
                    "{} MiB, then {} MiB after {}, without a pause",
                    first >> 20,
                    last >> 20,
                    human(time)
                ),
                "at every look in between it had grown".into(),
            ],
            acts_at: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRETCH: Duration = Duration::from_secs(30);

    fn judged(rss: impl Fn(u64) -> u64, minutes: u64) -> Option<Alert> {
        let mut memory = Memory::default();
        let mut told = None;
        for second in 0..minutes * 60 {
            let now = Stamp(second * 1000);
            memory.look(now, rss(second), STRETCH);
            told = memory.judge(now, (1, 1), told.as_ref());
        }
        told
    }

    #[test]
    fn memory_that_only_grows_is_told_with_its_rate() {
        let alert = judged(|second| (1 << 30) + second * (2 << 20), 8).unwrap();
        assert!(alert.text.starts_with("rank 1 takes ever more memory: 11"), "{}", alert.text);
    }

    #[test]
    fn healthy_memory_is_not() {
        assert_eq!(judged(|_| 4 << 30, 20), None, "flat");
        assert_eq!(judged(|second| (4 << 30) + (second % 45) * (8 << 20), 20), None, "goes up and down");
        let filling = |second: u64| (8 << 30) - (8 << 30) / (second / 20 + 1);
        assert_eq!(judged(filling, 20), None, "a cache that fills");
        assert_eq!(judged(|second| (4 << 30) + second * 1024, 60), None, "too little to matter");
        assert_eq!(judged(|second| (1 << 30) + second.min(240) * (8 << 20), 20), None, "loading, then flat");
    }

    #[test]
    fn it_is_over_when_it_stops() {
        assert_eq!(judged(|second| (1 << 30) + second.min(600) * (2 << 20), 20), None);
    }
}
