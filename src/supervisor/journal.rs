//! The journal: one event per line, as `elastictop events --json` prints it. It is also a recording.

use std::{io, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    place::Manifest,
    storage::{self, Appender, Health},
};
use crate::domain::{
    closeup::history::Histories,
    event::{Event, Fact},
    report::SCHEMA,
    state::State,
};

/// One line of the journal and of `elastictop events --json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record<T> {
    /// Version of all JSON that elastictop prints.
    pub schema: u32,
    /// The event.
    #[serde(flatten)]
    pub event: T,
}

/// The line of an event, without its end.
pub fn line(event: &Event) -> Vec<u8> {
    serde_json::to_vec(&Record { schema: SCHEMA, event }).unwrap_or_default()
}

/// The event of a line; `None` for what is none.
pub fn parse(line: &[u8]) -> Option<Event> {
    serde_json::from_slice::<Record<Event>>(line).ok().map(|record| record.event)
}

/// What a journal held.
#[derive(Debug, Default)]
pub struct Past {
    /// All its events, folded.
    pub state: State,
    /// The last event that was counted.
    pub seq: u64,
    /// Bytes of a last record that was cut off.
    pub torn_bytes: u64,
    /// Lines that are no events.
    pub unreadable: u64,
}

impl Past {
    /// What the journal lost, in words.
    pub fn lost(&self) -> Option<String> {
        let mut lost = Vec::new();
        if self.torn_bytes > 0 {
            lost.push(format!("the last record of the journal was cut off ({} bytes)", self.torn_bytes));
        }
        if self.unreadable > 0 {
            lost.push(format!("{} records of the journal cannot be read", self.unreadable));
        }
        if self.state.job.is_none() {
            lost.push("the journal has no beginning".into());
        }
        (!lost.is_empty()).then(|| lost.join("; "))
    }

    /// The state, with what the manifest knows in place of records that are lost.
    pub fn filled_up(self, manifest: &Manifest) -> State {
        let mut state = self.state;
        if state.job.is_none() {
            let fact = Fact::JobStarted { job: manifest.job.clone() };
            state.apply(&Event { seq: state.seq, at: manifest.created_at, fact });
        }
        if let (None, Some(settings)) = (&state.wandb, &manifest.wandb) {
            let fact = Fact::WandbPlanned { settings: Box::new(settings.clone()), pending: None };
            state.apply(&Event { seq: state.seq, at: manifest.created_at, fact });
        }
        if manifest.ended && !state.state.is_over() {
            let fact = Fact::JobEnded { state: manifest.state, exit_code: None, cause: None };
            state.apply(&Event { seq: state.seq, at: manifest.seen_at, fact });
        }
        state
    }
}

/// Reads a journal and folds it; `each` sees every event in order.
///
/// # Errors
/// Those of reading; a missing journal is an empty one.
pub fn read(path: &Path, mut each: impl FnMut(&Event)) -> io::Result<Past> {
    let mut past = Past::default();
    let (mut state, mut unreadable) = (State::default(), 0);
    past.torn_bytes = storage::recover(path, |line| match parse(line) {
        Some(event) => {
            state.apply(&event);
            each(&event);
        }
        None => unreadable += 1,
    })?;
    past.seq = state.seq;
    Ok(Past { state, unreadable, ..past })
}

/// The figures of the ranks over time, as far as a journal keeps them; none when it cannot be read.
pub fn histories(path: &Path) -> Histories {
    let (mut state, mut histories) = (State::default(), Histories::default());
    let read = storage::recover(path, |line| {
        if let Some(event) = parse(line) {
            state.apply(&event);
            histories.take(&state, &event);
        }
    });
    if let Err(error) = read {
        tracing::warn!(%error, "cannot read what is known of former figures");
    }
    histories
}

/// The journal of a running job.
#[derive(Debug)]
pub struct Journal {
    appender: Appender,
}

impl Journal {
    /// Opens it for writing after its last whole record.
    ///
    /// # Errors
    /// Those of opening.
    pub fn open(path: &Path) -> io::Result<Journal> {
        Ok(Journal { appender: Appender::open(path.to_owned())? })
    }

    /// Keeps an event, if it is of the lasting kind.
    pub fn keep(&mut self, event: &Event) {
        if event.fact.is_lasting() {
            self.appender.append(line(event));
        }
    }

    /// Waits until the events so far are on disk.
    pub fn flush(&self) {
        self.appender.flush();
    }

    /// How the writing goes.
    pub fn health(&self) -> Health {
        self.appender.health()
    }

    /// Writes what waits.
    pub fn close(&mut self) {
        self.appender.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        alert::{Alert, AlertKind},
        event::Fact,
        time::Stamp,
    };

    #[test]
    fn events_survive_the_journal_and_unknown_ones_do_no_harm() {
        let alert = Alert {
            kind: AlertKind::Orphan,
            local_rank: None,
            since: Stamp(5),
            text: "t".into(),
            evidence: vec!["e".into()],
            acts_at: None,
        };
        let event = Event { seq: 7, at: Stamp(5), fact: Fact::AlertRaised { alert } };
        let text = line(&event);
        assert_eq!(parse(&text), Some(event));
        let newer = br#"{"schema":1,"seq":9,"at":"2026-11-20T09:40:16.837Z","kind":"from_the_future","x":1}"#;
        assert_eq!(parse(newer).map(|event| (event.seq, event.fact)), Some((9, Fact::Unknown)));
        assert_eq!(parse(b"{\"schema\":1}"), None);
    }

    #[test]
    fn a_journal_cut_off_at_any_byte_opens_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut bytes = Vec::new();
        for seq in 1..=3 {
            bytes.extend(line(&Event { seq, at: Stamp(seq), fact: Fact::Note { text: format!("n{seq}") } }));
            bytes.push(b'\n');
        }
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let whole = bytes[..cut].iter().filter(|byte| **byte == b'\n').count() as u64;
            let past = read(&path, |_| {}).unwrap();
            assert_eq!((past.seq, past.unreadable), (whole, 0), "cut at {cut}");
            assert_eq!(past.torn_bytes > 0, cut > 0 && bytes[cut - 1] != b'\n', "cut at {cut}");
        }
    }
}
