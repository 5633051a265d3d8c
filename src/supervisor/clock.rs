//! The supervisor's clock: wall time that never goes backwards.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::domain::time::Stamp;

/// Wall and steady clock may differ by this much before the wall clock is believed to have been set.
const SET: Duration = Duration::from_secs(5);

/// Follows the steady clock, so that a time limit does not fire because somebody set the wall clock; follows the
/// wall clock forwards when they part by a lot, as after a suspend.
#[derive(Debug)]
pub struct Clock {
    wall: Stamp,
    steady: Instant,
}

impl Clock {
    /// Starts at the wall clock, or at `not_before` if that is later.
    pub fn new(not_before: Stamp) -> Clock {
        Clock { wall: wall().max(not_before), steady: Instant::now() }
    }

    /// The time.
    pub fn now(&mut self) -> Stamp {
        let steady = self.wall + self.steady.elapsed();
        if wall() > steady + SET {
            *self = Clock::new(steady);
            return self.wall;
        }
        steady
    }
}

/// The wall clock as it is.
pub fn wall() -> Stamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
