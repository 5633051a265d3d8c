//! How far the clock of another node is ahead, from questions with a time in the answer.

use serde::{Deserialize, Serialize};

use crate::domain::time::Stamp;

/// A reading that is older than this gives way to a newer one that is less sure: clocks drift.
const OLD_MS: u64 = 300_000;

/// How far a clock is ahead, and how sure that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offset {
    /// Milliseconds ahead; negative when it is behind.
    pub ahead_ms: i64,
    /// The true value is at most this far away, in milliseconds: half of the time that the question took.
    pub within_ms: u64,
}

impl Offset {
    /// How far a clock is ahead that is this far ahead of one which is itself ahead.
    pub fn beyond(self, nearer: Offset) -> Offset {
        Offset { ahead_ms: self.ahead_ms + nearer.ahead_ms, within_ms: self.within_ms + nearer.within_ms }
    }

    /// Whether somebody who knows `other` need not be told: stamps are whole milliseconds, and readings tremble.
    pub fn is_about(self, other: Offset) -> bool {
        self.ahead_ms.abs_diff(other.ahead_ms) <= 1 && self.within_ms.abs_diff(other.within_ms) <= 1
    }
}

/// The best reading of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    best: Option<(Offset, Stamp)>,
}

impl Reading {
    /// A question went out at `asked`, its answer with the other clock's `told` came at `answered`.
    pub fn take(&mut self, asked: Stamp, told: Stamp, answered: Stamp) {
        let took = answered.0.saturating_sub(asked.0);
        let middle = asked.0 + took / 2;
        // The stamps themselves are whole milliseconds.
        let offset = Offset { ahead_ms: told.0 as i64 - middle as i64, within_ms: took / 2 + 1 };
        let is_better = self.best.is_none_or(|(best, at)| {
            offset.within_ms <= best.within_ms || answered.0.saturating_sub(at.0) > OLD_MS
        });
        if is_better {
            self.best = Some((offset, answered));
        }
    }

    /// The best that is known.
    pub fn offset(&self) -> Option<Offset> {
        self.best.map(|(offset, _)| offset)
    }
}

/// A time by a clock that is `ahead_ms` ahead, by the clock that it is ahead of.
pub fn shift(at: Stamp, ahead_ms: i64) -> Stamp {
    // What never happened stays that.
    if at == Stamp(0) { at } else { Stamp(at.0.saturating_add_signed(ahead_ms.saturating_neg())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_quickest_answer_counts_until_it_is_old() {
        let mut reading = Reading::default();
        assert_eq!(reading.offset(), None);
        // The first answer took two seconds, as ssh was still connecting.
        reading.take(Stamp(10_000), Stamp(13_500), Stamp(12_000));
        assert_eq!(reading.offset(), Some(Offset { ahead_ms: 2_500, within_ms: 1_001 }));
        reading.take(Stamp(20_000), Stamp(23_010), Stamp(20_020));
        assert_eq!(reading.offset(), Some(Offset { ahead_ms: 3_000, within_ms: 11 }));
        reading.take(Stamp(30_000), Stamp(33_900), Stamp(31_000));
        assert_eq!(reading.offset().unwrap().ahead_ms, 3_000, "less sure");
        reading.take(Stamp(400_000), Stamp(403_600), Stamp(401_000));
        assert_eq!(reading.offset(), Some(Offset { ahead_ms: 3_100, within_ms: 501 }), "clocks drift");
    }

    proptest! {
        #[test]
        fn the_truth_lies_within(ahead in -100_000_i64..100_000, out in 0_u64..5_000, back in 0_u64..5_000) {
            let asked = Stamp(1_000_000);
            let told = Stamp((asked.0 + out).saturating_add_signed(ahead));
            let mut reading = Reading::default();
            reading.take(asked, told, Stamp(asked.0 + out + back));
            let offset = reading.offset().unwrap();
            prop_assert!((offset.ahead_ms - ahead).unsigned_abs() <= offset.within_ms);
            prop_assert_eq!(shift(told, ahead).0, asked.0 + out);
        }
    }
}
