//! A row that may still grow: what a script logs of one step in several pieces is one row, as with W&B's SDK.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    router::Stamped,
    row::{Item, Row},
};
use crate::domain::{id::ProcId, time::Stamp};

/// Rows longer than this are not kept waiting, in bytes: what waits is written down with each batch.
const MOST: usize = 256 << 10;
/// A row whose step goes on for longer is written as it is: the last one of a job that hangs is to be seen.
const LONGEST: Duration = Duration::from_secs(300);

/// The row of the step that a writer is in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Who logs it.
    #[serde(flatten)]
    proc: ProcId,
    /// When it was read.
    at: Stamp,
    /// The step that the script gave it.
    told: u64,
    step: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    own_step: Option<String>,
    timestamp: f64,
    runtime: f64,
    items: Vec<(String, String)>,
}

impl Held {
    /// Keeps a row, unless it is too long.
    pub(super) fn new(
        (proc, at): (ProcId, Stamp),
        told: u64,
        row: &Row<'_>,
        stamped: &Stamped<'_>,
    ) -> Option<Held> {
        let held = Held {
            proc,
            at,
            told,
            step: stamped.step,
            own_step: stamped.own_step.map(str::to_owned),
            timestamp: stamped.timestamp,
            runtime: stamped.runtime,
            items: row.items.iter().map(|item| (item.key.to_string(), item.value.to_owned())).collect(),
        };
        (held.bytes() <= MOST).then_some(held)
    }

    /// Whose it is.
    pub fn proc(&self) -> ProcId {
        self.proc
    }

    /// Whether it has waited long enough.
    pub fn is_due(&self, now: Stamp) -> bool {
        now.since(self.at) >= LONGEST
    }

    /// Whether a row of this process and step belongs to it.
    pub(super) fn is_of(&self, proc: ProcId, told: u64) -> bool {
        self.proc == proc && self.told == told && self.bytes() <= MOST
    }

    /// Adds what another row of the same step has: of a key that both have the newer value.
    pub(super) fn join(&mut self, row: &Row<'_>, (timestamp, runtime): (f64, f64)) {
        for item in &row.items {
            match self.items.iter_mut().find(|(key, _)| *key == item.key) {
                Some((_, value)) => *value = merged(value, item.value),
                None => self.items.push((item.key.to_string(), item.value.to_owned())),
            }
        }
        (self.timestamp, self.runtime) = (timestamp, runtime);
    }

    /// As it is written.
    pub fn row(&self) -> (Row<'_>, Stamped<'_>) {
        let items = self.items.iter().map(|(key, value)| Item { key: Cow::Borrowed(key), value });
        let stamped = Stamped {
            step: self.step,
            own_step: self.own_step.as_deref(),
            timestamp: self.timestamp,
            runtime: self.runtime,
        };
        (Row { items: items.collect() }, stamped)
    }

    fn bytes(&self) -> usize {
        self.items.iter().map(|(key, value)| key.len() + value.len()).sum()
    }
}

/// Objects are joined key by key, as W&B's SDK does; of anything else the newer holds.
fn merged(old: &str, new: &str) -> String {
    let (Some(before), Some(after)) = (Row::parse(old.as_bytes()), Row::parse(new.as_bytes())) else {
        return new.to_owned();
    };
    let mut all: Vec<(String, String)> = Vec::new();
    for item in before.items.iter().chain(&after.items) {
        match all.iter_mut().find(|(key, _)| *key == item.key) {
            Some((_, value)) => *value = merged(value, item.value),
            None => all.push((item.key.to_string(), item.value.to_owned())),
        }
    }
    let member =
        |(key, value): &(String, String)| format!("{}:{value}", serde_json::Value::from(key.as_str()));
    format!("{{{}}}", all.iter().map(member).collect::<Vec<_>>().join(","))
}
