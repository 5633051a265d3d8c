//! Points in time as elastictop stores and shows them.

use std::{fmt, ops, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in wall-clock time: milliseconds since the Unix epoch, UTC.
///
/// Travels as an RFC 3339 string with milliseconds, `2026-11-21T08:03:38.123Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

impl Stamp {
    /// How long after `earlier` this is; zero when the clock went backwards in between.
    pub fn since(self, earlier: Stamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// A stamp from fractional seconds since the epoch, as Python's `time.time()` gives them.
    ///
    /// `None` for what is no time at all: NaN, negative, or past the year 9999.
    pub fn from_epoch_seconds(seconds: f64) -> Option<Stamp> {
        (seconds.is_finite() && (0.0..253_402_300_800.0).contains(&seconds))
            .then_some(Stamp((seconds * 1000.0) as u64))
    }

    fn timestamp(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(i64::try_from(self.0).unwrap_or(i64::MAX))
            .unwrap_or(jiff::Timestamp::MAX)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.timestamp())
    }
}

impl ops::Add<Duration> for Stamp {
    type Output = Stamp;
    fn add(self, rhs: Duration) -> Stamp {
        Stamp(self.0.saturating_add(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at: jiff::Timestamp = text.parse().map_err(de::Error::custom)?;
        u64::try_from(at.as_millisecond()).map(Stamp).map_err(|_| de::Error::custom("a time before 1970"))
    }
}

/// A duration in the two largest units that matter: `850 ms`, `12 s`, `3m 05s`, `3h 12m`, `21d 4h`.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_millis() > 0 => format!("{} ms", duration.as_millis()),
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// How long ago something was, in whole seconds: `now`, `12 s ago`.
pub fn ago(age: Duration) -> String {
    if age.as_secs() == 0 { "now".into() } else { format!("{} ago", human(age)) }
}

/// When something will be, in whole seconds: `now`, `in 12 s`.
pub fn until(left: Duration) -> String {
    if left.as_secs() == 0 { "now".into() } else { format!("in {}", human(left)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_json_and_reads_as_rfc_3339() {
        let stamp = Stamp(1_795_167_616_837);
        let json = serde_json::to_string(&stamp).unwrap();
        assert_eq!(json, "\"2026-11-20T09:40:16.837Z\"");
        assert_eq!(serde_json::from_str::<Stamp>(&json).unwrap(), stamp);
    }

    #[test]
    fn nonsense_seconds_are_no_stamp() {
        assert_eq!(Stamp::from_epoch_seconds(1.5), Some(Stamp(1500)));
        for bad in [f64::NAN, -1.0, f64::INFINITY, 1e15] {
            assert_eq!(Stamp::from_epoch_seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_read_in_two_units() {
        let texts: Vec<_> =
            [0, 850, 12_000, 185_000, 11_520_000, 1_828_800_000].map(Duration::from_millis).map(human).into();
        assert_eq!(texts, ["0 s", "850 ms", "12 s", "3m 05s", "3h 12m", "21d 4h"]);
    }

    #[test]
    fn ages_for_people_have_whole_seconds() {
        let ms = Duration::from_millis;
        assert_eq!([ago(ms(177)), ago(ms(1999)), ago(ms(75_000))], ["now", "1 s ago", "1m 15s ago"]);
        assert_eq!([until(ms(0)), until(ms(999)), until(ms(12_400))], ["now", "now", "in 12 s"]);
    }
}
