//! Recordings: what they are, where their marks are, and the machine that plays them.
//!
//! A recording is the events of a job in order, and lines of its logs. A job's journal is one; with the samples of its
//! black box it is a fine-grained one. [`Player`] says where in it the viewer stands; who has the events folds them.

mod player;
mod redact;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    player::{Control, Moved, Player, SPEEDS},
    redact::{Redaction, WHAT as REDACTED},
};
use super::{
    alert::AlertKind,
    event::{Event, Fact},
    rank::JobState,
    state::State,
    telling,
    time::Stamp,
};

/// Milliseconds of a day.
const DAY: u64 = 86_400_000;
/// Version of the file format. Raised only when an older elastictop would show something wrong.
pub const FORMAT: u32 = 1;
/// What the first line of every recording says of it.
pub const WHAT: &str = "elastictop recording: JSON lines, the events of a job and its log lines; open with: elastictop replay FILE";

/// The first line of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`] of whoever wrote it.
    pub recording: u32,
    /// Version of the JSON of its events.
    pub schema: u32,
    /// Version of the elastictop that wrote it.
    pub version: String,
    /// [`WHAT`], for whoever looks into the file.
    #[serde(default)]
    pub what: String,
    /// From when on it holds events; `None` means from the beginning of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Stamp>,
    /// Up to when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Stamp>,
    /// Whether commands, names, paths and texts were taken out.
    #[serde(default)]
    pub redacted: bool,
    /// What is not in it though it could be, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

impl Header {
    /// Of a recording that this version writes.
    pub fn new(schema: u32) -> Header {
        Header {
            recording: FORMAT,
            schema,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            what: WHAT.to_owned(),
            from: None,
            to: None,
            redacted: false,
            missing: Vec::new(),
        }
    }
}

/// How much of a job's figures is kept second by second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// Milliseconds before each failure and alert that outlive the limits of size and age.
    pub before_ms: u64,
    /// Most bytes on disk; 0 keeps none.
    pub bytes: u64,
}

impl Default for Keep {
    fn default() -> Keep {
        Keep { before_ms: 15 * 60_000, bytes: 256 << 20 }
    }
}

/// Bytes in words: `256M`, `1G`, `64k`, `0`.
///
/// # Errors
/// The end of a sentence.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
    let unit = match &text[number.len()..] {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return Err("is no number of bytes, such as 256M or 1G".into()),
    };
    let number: u64 = number.parse().map_err(|_| "is no number of bytes, such as 256M or 1G".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "is too large".to_owned())
}

/// What kind of place in a recording is worth going to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    /// The group was started anew.
    Restart,
    /// Something was wrong.
    Alert,
    /// A group, or the job, failed.
    Failure,
    /// A kind that a newer elastictop sends.
    #[serde(other)]
    Unknown,
}

/// A place in a recording that is worth going to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When.
    pub at: Stamp,
    /// What kind.
    pub kind: MarkKind,
    /// What happened, in a sentence.
    pub text: String,
}

impl Mark {
    /// The mark that an event makes, if it does. `state` is the state after it.
    pub fn of(state: &State, event: &Event) -> Option<Mark> {
        let kind = match &event.fact {
            Fact::AlertRaised { alert } if alert.kind != AlertKind::SlowStart => MarkKind::Alert,
            Fact::CauseFound { .. } | Fact::JobEnded { state: JobState::Failed, .. } => MarkKind::Failure,
            Fact::Restart { .. } | Fact::MembershipChanged { .. } => MarkKind::Restart,
            _ => return None,
        };
        Some(Mark { at: event.at, kind, text: telling::event(state, event)? })
    }

    /// Whether the keys for alerts stop here.
    pub fn is_trouble(&self) -> bool {
        matches!(self.kind, MarkKind::Alert | MarkKind::Failure)
    }
}

/// Whether the minutes before this fact are worth keeping, whatever the limits.
pub fn is_worth_keeping(fact: &Fact) -> bool {
    match fact {
        Fact::AlertRaised { alert } => {
            !matches!(alert.kind, AlertKind::SlowStart | AlertKind::StaleStore | AlertKind::Storage)
        }
        Fact::CauseFound { .. } | Fact::Restart { .. } => true,
        Fact::RankExited { exit, .. } => exit.is_some_and(|exit| !exit.is_success()),
        Fact::JobEnded { state, .. } => *state == JobState::Failed,
        _ => false,
    }
}

/// All times and marks of a recording, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Course {
    /// Every time at which something happened, once each.
    pub times: Vec<Stamp>,
    /// The marks.
    pub marks: Vec<Mark>,
}

impl Course {
    /// Takes in the time of one more event, which is not before those taken in so far.
    pub fn passes(&mut self, at: Stamp) {
        if self.times.last() != Some(&at) {
            self.times.push(at);
        }
    }

    /// When it begins.
    pub fn begin(&self) -> Stamp {
        self.times.first().copied().unwrap_or_default()
    }

    /// When it ends.
    pub fn end(&self) -> Stamp {
        self.times.last().copied().unwrap_or_default()
    }

    /// How long it is.
    pub fn length(&self) -> Duration {
        self.end().since(self.begin())
    }

    /// The first time after `at`.
    pub fn after(&self, at: Stamp) -> Option<Stamp> {
        self.times.get(self.times.partition_point(|time| *time <= at)).copied()
    }

    /// The last time before `at`.
    pub fn before(&self, at: Stamp) -> Option<Stamp> {
        self.times[..self.times.partition_point(|time| *time < at)].last().copied()
    }

    /// The next mark of trouble, or the one before.
    pub fn trouble(&self, from: Stamp, backwards: bool) -> Option<&Mark> {
        let mut marks = self.marks.iter().filter(|mark| mark.is_trouble());
        if backwards { marks.rfind(|mark| mark.at < from) } else { marks.find(|mark| mark.at > from) }
    }
}

/// Where in a recording of this course a wish such as `40%`, `+5m`, `-30s`, `12:34`, `12:34:56` or a whole time is.
/// Clock times are of the day, `offset_s` seconds east of UTC, that follows the beginning soonest.
///
/// # Errors
/// Why it is none: the end of a sentence.
pub fn parse_place(text: &str, begin: Stamp, end: Stamp, now: Stamp, offset_s: i32) -> Result<Stamp, String> {
    const NONE: &str = "is no place in a recording: 40%, +5m, -30s, 12:34:56 or 2026-11-21T08:03:38Z";
    let text = text.trim();
    let none = || NONE.to_owned();
    if let Some(number) = text.strip_suffix('%') {
        let share: f64 = number.trim().parse().map_err(|_| none())?;
        if !(0.0..=100.0).contains(&share) {
            return Err("lies outside of the recording: 0% to 100%".into());
        }
        return Ok(
            begin + Duration::from_millis((end.since(begin).as_millis() as f64 * share / 100.0) as u64)
        );
    }
    if let Some(span) = text.strip_prefix('+') {
        return Ok(now + super::launch::parse_span(span).map_err(|_| none())?);
    }
    if let Some(span) = text.strip_prefix('-') {
        let span = super::launch::parse_span(span).map_err(|_| none())?;
        return Ok(Stamp(now.0.saturating_sub(span.as_millis() as u64)));
    }
    if let Ok(stamp) = serde_json::from_value::<Stamp>(text.into()) {
        return Ok(stamp);
    }
    let mut parts = text.split(':').map(|part| part.parse::<u64>().ok());
    let (Some(Some(hour)), Some(Some(minute)), second, None) =
        (parts.next(), parts.next(), parts.next().unwrap_or(Some(0)), parts.next())
    else {
        return Err(none());
    };
    let second = second.ok_or_else(none)?;
    if hour > 23 || minute > 59 || second > 59 {
        return Err(none());
    }
    let wanted = (hour * 3600 + minute * 60 + second) * 1000;
    let local = begin.0.saturating_add_signed(i64::from(offset_s) * 1000);
    let ahead = (wanted + DAY - local % DAY) % DAY;
    Ok(begin + Duration::from_millis(ahead))
}

#[cfg(test)]
mod tests;
