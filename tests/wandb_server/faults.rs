//! Failing on command.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// What goes wrong with some requests.
#[derive(Clone, Debug, Deserialize)]
pub struct Fault {
    /// Which: `graphql`, `file_stream`, `PUT`, the name of an operation, or `any`.
    pub on: String,
    /// How often; 0 is for ever.
    #[serde(default = "once")]
    pub times: u64,
    /// With which probability, from 0 to 1.
    #[serde(default = "always")]
    pub chance: f64,
    /// What happens.
    pub what: What,
}

/// What happens to a request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Answered with a status, unprocessed.
    Status {
        status: u16,
        #[serde(default)]
        retry_after: Option<String>,
    },
    /// Processed, but the connection breaks before the answer.
    DropAfter,
    /// The connection breaks, unprocessed.
    DropBefore,
    /// Answered late.
    Slow { ms: u64 },
    /// Every connection breaks for this long, from the first request on.
    Down { ms: u64 },
    /// Processed; the answer says `stopped: true`.
    Stopped,
    /// Processed; the answer tells of a rate limit.
    RateLimit { remaining: f64, reset: f64 },
}

fn once() -> u64 {
    1
}

fn always() -> f64 {
    1.0
}

impl Fault {
    /// Once, on requests of a kind.
    pub fn once(on: &str, what: What) -> Fault {
        Fault { on: on.into(), times: 1, chance: 1.0, what }
    }

    /// So many times.
    pub fn times(self, times: u64) -> Fault {
        Fault { times, ..self }
    }

    /// For ever, with a probability.
    pub fn chance(self, chance: f64) -> Fault {
        Fault { times: 0, chance, ..self }
    }
}

/// The faults that are due.
#[derive(Debug)]
pub struct Faults {
    left: Vec<Fault>,
    down_until: Option<Instant>,
    random: fastrand::Rng,
}

impl Faults {
    pub fn new() -> Faults {
        Faults { left: Vec::new(), down_until: None, random: fastrand::Rng::with_seed(7) }
    }

    pub fn add(&mut self, fault: Fault) {
        self.left.push(fault);
    }

    pub fn clear(&mut self) {
        (self.left, self.down_until) = (Vec::new(), None);
    }

    /// What happens to a request that is both of a class and of a kind.
    pub fn draw(&mut self, class: &str, kind: &str) -> Option<What> {
        let now = Instant::now();
        if self.down_until.is_some_and(|until| now < until) {
            return Some(What::DropBefore);
        }
        let random = &mut self.random;
        let at = self.left.iter().position(|fault| {
            (fault.on == "any" || fault.on == class || fault.on == kind) && random.f64() < fault.chance
        })?;
        let what = self.left[at].what.clone();
        if self.left[at].times == 1 {
            self.left.remove(at);
        } else {
            self.left[at].times = self.left[at].times.saturating_sub(1);
        }
        if let What::Down { ms } = what {
            self.down_until = Some(now + Duration::from_millis(ms));
            return Some(What::DropBefore);
        }
        Some(what)
    }
}
