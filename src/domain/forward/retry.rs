//! When to send what again, and how fast: backoff, what a status means, rate limits. Pure.
//!
//! Times are durations since some start that the caller chose; random numbers are arguments.

use std::time::Duration;

use crate::domain::time::Stamp;

/// Least time between two requests of a run's file stream: W&B's default limit is two a second.
pub const LEAST_GAP: Duration = Duration::from_millis(500);
/// Time between two requests while little is waiting: more rows travel together.
pub const CADENCE: Duration = Duration::from_millis(1500);
/// Silence after which a heartbeat is sent. The server takes a run for crashed after five minutes.
pub const HEARTBEAT: Duration = Duration::from_secs(30);

/// Waits that grow, with some chance in them so that many clients do not come back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait, without chance.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { min: Duration::from_secs(2), max: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// The wait after so many failures in a row, from 1 on; `random` lies in 0..1.
    pub fn wait(self, failures: u32, random: f64) -> Duration {
        let factor =
            2_f64.powi(failures.saturating_sub(1).min(32) as i32) * (1.0 + random.clamp(0.0, 1.0) / 4.0);
        // `min` of floats first: the product may be more than a duration holds.
        Duration::from_secs_f64((self.min.as_secs_f64() * factor).min(self.max.as_secs_f64()))
    }
}

/// What a header `Retry-After` asks for: seconds, also fractional, or a date. `None` for what is neither.
pub fn retry_after(text: &str, now: Stamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        // More than a duration holds, and NaN, is nothing that can be waited for.
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Stamp(u64::try_from(at.as_millisecond()).ok()?).since(now))
}

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Creating or changing a run.
    Upsert,
    /// Any other GraphQL document.
    Query,
    /// Rows and lines.
    FileStream,
    /// A file to a storage address.
    Storage,
}

/// What a status means for what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Done,
    /// To be tried again.
    Again,
    /// Never to be tried again.
    Refused,
}

/// What a status means.
pub fn judge(call: Call, status: u16) -> Verdict {
    match status {
        200..=299 => Verdict::Done,
        // Another client is changing the run at this moment.
        409 if call == Call::Upsert => Verdict::Again,
        // Redirects are followed before; one that arrives here leads nowhere.
        300..=404 | 409 | 410 | 413 | 422 | 501 => Verdict::Refused,
        _ => Verdict::Again,
    }
}

/// What the server says about its limit, in headers of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// `RateLimit-Remaining`: units left in the window.
    pub remaining: f64,
    /// `RateLimit-Reset`: seconds until the window ends.
    pub reset: f64,
}

/// How much of a new rate goes into the average.
const SMOOTHING: f64 = 0.2;
/// Requests before the average counts.
const WINDOW: u32 = 5;
/// Slowest and fastest rate that an average may ask for, in requests a second.
const RATES: (f64, f64) = (0.1, 65536.0);

/// When the next request of a file stream may and should go.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    backoff: Backoff,
    last: Option<Duration>,
    failures: u32,
    retry_at: Option<Duration>,
    /// Requests a second that the server allows, averaged.
    rate: Option<f64>,
    /// What one request costs in the server's units, averaged.
    cost: Option<f64>,
    limit: Option<RateLimit>,
    answers: u32,
}

/// What there is to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing.
    #[default]
    Nothing,
    /// Something.
    Some,
    /// So much that it fills a request, or the end of the run.
    Much,
}

impl Pace {
    /// One with its own backoff.
    pub fn new(backoff: Backoff) -> Pace {
        Pace { backoff, ..Pace::default() }
    }

    /// A request goes.
    pub fn sent(&mut self, now: Duration) {
        self.last = Some(now);
    }

    /// The request was taken.
    pub fn done(&mut self, limit: Option<RateLimit>) {
        self.failures = 0;
        self.retry_at = None;
        if let Some(limit) = limit {
            self.learn(limit);
        }
    }

    /// The request failed; gives when it is tried again. What the server asks for holds exactly.
    pub fn failed(&mut self, now: Duration, asked: Option<Duration>, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let wait = asked.unwrap_or_else(|| self.backoff.wait(self.failures, random));
        let at = now.saturating_add(wait);
        self.retry_at = Some(at);
        at
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When the next request is due. It is never more than the server allows.
    pub fn due(&self, waiting: Waiting) -> Duration {
        if let Some(at) = self.retry_at {
            return at;
        }
        let Some(last) = self.last else {
            // The first rows are seen at once; a run that has nothing to say need not hurry.
            return if waiting == Waiting::Nothing { HEARTBEAT } else { Duration::ZERO };
        };
        let gap = match waiting {
            Waiting::Nothing => HEARTBEAT,
            Waiting::Some => CADENCE,
            Waiting::Much => LEAST_GAP,
        };
        last.saturating_add(gap.max(self.allowed_gap()))
    }

    fn allowed_gap(&self) -> Duration {
        match self.rate {
            Some(rate) if self.answers >= WINDOW => {
                Duration::from_secs_f64(1.0 / rate.clamp(RATES.0, RATES.1))
            }
            _ => Duration::ZERO,
        }
    }

    /// The units that are left are spread over the time that is left. A window that is about to end tells nothing.
    fn learn(&mut self, limit: RateLimit) {
        if !(limit.reset > 1.0 && limit.reset.is_finite() && limit.remaining >= 0.0) {
            return;
        }
        self.answers = self.answers.saturating_add(1);
        let spent = self.limit.map(|before| before.remaining - limit.remaining).filter(|spent| *spent > 0.0);
        self.limit = Some(limit);
        let smooth = |old: Option<f64>, new: f64| Some(old.map_or(new, |old| old + SMOOTHING * (new - old)));
        if let Some(spent) = spent {
            self.cost = smooth(self.cost, spent);
        }
        let units = limit.remaining / limit.reset;
        self.rate = smooth(self.rate, units / self.cost.unwrap_or(1.0).max(1e-3))
            .map(|rate| rate.clamp(RATES.0, RATES.1));
    }
}

#[cfg(test)]
mod tests;
