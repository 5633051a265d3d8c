//! A budget of bytes for thin lines: how long a frame must wait, and when the screen has to become plainer.
//!
//! Bytes are earned with time and spent with frames. A frame that costs more than is there is drawn all the same, and
//! the next one waits until the debt is paid: over any longer time the budget holds.

use std::time::Duration;

/// How plain the screen is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thrift {
    /// As the terminal can.
    #[default]
    None,
    /// 256 colours at most, no charts that move.
    Plain,
    /// No colours.
    Plainest,
}

/// Keys are answered at once until the debt is worth this long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Frames that wait longer than this, one after the other, make the screen plainer.
const SLOW: Duration = Duration::from_millis(1500);
/// So many of them.
const SLOW_FRAMES: u8 = 3;

/// The account.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// Bytes that a second earns.
    per_s: u32,
    /// What is there, negative for a debt; at most what a second earns.
    bytes: f64,
    /// Until when that was counted.
    at: Duration,
    slow: u8,
    thrift: Thrift,
}

impl Budget {
    pub(crate) fn new(per_s: u32) -> Budget {
        Budget { per_s: per_s.max(1), bytes: 0.0, at: Duration::ZERO, slow: 0, thrift: Thrift::None }
    }

    fn earn(&mut self, now: Duration) {
        let earned = now.saturating_sub(self.at).as_secs_f64() * f64::from(self.per_s);
        self.bytes = (self.bytes + earned).min(f64::from(self.per_s));
        self.at = self.at.max(now);
    }

    /// How long the next frame has to wait. One that answers a key waits less.
    pub(crate) fn wait(&mut self, now: Duration, for_key: bool) -> Duration {
        self.earn(now);
        let debt = Duration::from_secs_f64((-self.bytes).max(0.0) / f64::from(self.per_s));
        if for_key { debt.saturating_sub(PATIENCE) } else { debt }
    }

    /// Takes note of a frame that was sent.
    pub(crate) fn spend(&mut self, now: Duration, bytes: usize) {
        self.earn(now);
        self.bytes -= bytes as f64;
        // The first frame draws all of the screen: that says nothing about those that follow.
        let wait = Duration::from_secs_f64((-self.bytes).max(0.0) / f64::from(self.per_s));
        self.slow = if wait > SLOW { self.slow + 1 } else { 0 };
        if self.slow >= SLOW_FRAMES {
            self.slow = 0;
            self.thrift = match self.thrift {
                Thrift::None => Thrift::Plain,
                Thrift::Plain | Thrift::Plainest => Thrift::Plainest,
            };
        }
    }

    /// How plain the screen should be. It never becomes richer again by itself: that would flicker, and cost a whole
    /// frame each time.
    pub(crate) fn thrift(&self) -> Thrift {
        self.thrift
    }
}

/// Reads `2k`, `500` or `1M`: bytes in a second.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<u32, String> {
    let (digits, factor) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1_000),
        Some((at, 'm' | 'M')) => (&text[..at], 1_000_000),
        _ => (text, 1),
    };
    let number: Option<u32> = digits.parse().ok().and_then(|number: u32| number.checked_mul(factor));
    match number {
        Some(number @ 200..) => Ok(number),
        Some(number) => Err(format!("a budget of {number} bytes/s is too small for a screen: at least 200")),
        None => Err(format!("{text:?} is no number of bytes per second, such as 2k")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_debt_is_paid_before_the_next_frame() {
        let mut budget = Budget::new(2000);
        budget.spend(ms(0), 5000);
        assert_eq!(budget.wait(ms(500), false), ms(2000));
        assert_eq!(budget.wait(ms(500), true), ms(1000), "a key waits a second less");
        assert_eq!(budget.wait(ms(2500), false), ms(0));
        assert_eq!(budget.wait(ms(60_000), false), ms(0));
        budget.spend(ms(60_000), 2000);
        assert_eq!(budget.wait(ms(60_000), false), ms(0), "a second's worth is saved, no more");
        budget.spend(ms(60_000), 1000);
        assert_eq!(budget.wait(ms(60_000), false), ms(500));
    }

    #[test]
    fn frames_that_always_cost_too_much_make_the_screen_plainer() {
        let mut budget = Budget::new(2000);
        let mut now = ms(0);
        let mut seen = Vec::new();
        for _ in 0..7 {
            budget.spend(now, 6000);
            now += budget.wait(now, false);
            seen.push(budget.thrift());
        }
        let (none, plain, plainest) = (Thrift::None, Thrift::Plain, Thrift::Plainest);
        assert_eq!(seen, [none, none, plain, plain, plain, plainest, plainest]);
    }

    #[test]
    fn budgets_are_read() {
        assert_eq!([parse("2k"), parse("500"), parse("1M")], [Ok(2000), Ok(500), Ok(1_000_000)]);
        for bad in ["", "k", "-1", "2kb", "99999999999", "9999999M"] {
            assert!(parse(bad).unwrap_err().contains("no number"), "{bad}");
        }
        assert!(parse("100").unwrap_err().contains("too small"));
    }

    proptest! {
        #[test]
        fn over_time_the_budget_holds(frames in proptest::collection::vec(1..20_000_usize, 2..60), per_s in 200..9000_u32) {
            let mut budget = Budget::new(per_s);
            let (mut now, mut sent, mut largest) = (ms(0), 0, 0);
            for frame in frames {
                now += budget.wait(now, false);
                budget.spend(now, frame);
                sent += frame;
                largest = largest.max(frame);
            }
            let allowed = f64::from(per_s) * (now.as_secs_f64() + 1.0) + largest as f64 + 1.0;
            prop_assert!(sent as f64 <= allowed, "{sent} bytes in {now:?} at {per_s}");
        }
    }
}
