//! The journal: one event per line, as `elastictop events --json` prints it. It is also a recording.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use serde::{Deserialize, Serialize};

use super::{
    folder::Manifest,
    storage::{self, Appender, Health},
};
use crate::domain::{
    closeup::history::Histories,
    event::{Event, Fact},
    rank::JobState,
    report::SCHEMA,
    state::State,
};

/// Bytes after which a journal is moved aside.
const LARGE: u64 = 64 << 20;
/// Most files that were moved aside; of more the oldest go. Packed, each has a tenth of its size.
const ASIDE: usize = 8;

/// Bytes at the end of a journal in which the end of its job is looked for.
const TAIL: u64 = 256 << 10;

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

/// The files of a journal, oldest first: what was moved aside as it grew, and the one that is written.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter_map(|path| Some((number(&path)?, path))).collect();
    // A whole one before the same packed: it was not packed to its end.
    files.sort();
    files.dedup_by_key(|(number, _)| *number);
    put_next_in_place(path);
    files.into_iter().map(|(_, file)| file).chain([path.to_owned()]).collect()
}

/// The number of a file that was moved aside: `journal.0007.jsonl`, or the same packed.
fn number(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?.strip_prefix("journal.")?;
    name.strip_suffix(".jsonl").or_else(|| name.strip_suffix(".jsonl.gz"))?.parse().ok()
}

/// After a death between moving a journal aside and putting the new one in its place.
fn put_next_in_place(path: &Path) {
    let next = storage::next_of(path);
    if !path.exists() && next.exists() {
        // Somebody else may be faster.
        let _ = fs::rename(next, path);
    }
}

/// Packs a file that was moved aside, and removes those that are too many.
fn pack(path: &Path) {
    let packed = (|| -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        let mut gzip = GzEncoder::new(&mut file, Compression::fast());
        io::copy(&mut File::open(path)?, &mut gzip)?;
        gzip.finish()?;
        file.persist(path.with_extension("jsonl.gz"))?;
        fs::remove_file(path)?;
        let aside = files(&folder.join("journal.jsonl"));
        let old = aside.len().saturating_sub(ASIDE + 1);
        aside[..old].iter().try_for_each(fs::remove_file)
    })();
    if let Err(error) = packed {
        tracing::warn!(%error, "cannot pack the older part of the journal");
    }
}

/// Reads a journal and folds it; `each` sees every event in order.
///
/// # Errors
/// Those of reading; a missing journal is an empty one.
pub fn read(path: &Path, mut each: impl FnMut(&Event)) -> io::Result<Past> {
    put_next_in_place(path);
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

/// How the job ended, as the end of its journal says; `None` for one that goes on, or whose end is lost.
pub fn end(path: &Path) -> Option<JobState> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    bytes.split(|byte| *byte == b'\n').rev().filter_map(parse).find_map(|event| match event.fact {
        Fact::JobEnded { state, .. } => Some(state),
        _ => None,
    })
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
    path: PathBuf,
    /// Bytes of the file.
    bytes: u64,
    /// Number of the last file that was moved aside.
    aside: u32,
}

impl Journal {
    /// Opens it for writing after its last whole record.
    ///
    /// # Errors
    /// Those of opening.
    pub fn open(path: &Path) -> io::Result<Journal> {
        put_next_in_place(path);
        let appender = Appender::open(path.to_owned())?;
        let bytes = fs::metadata(path).map_or(0, |meta| meta.len());
        let aside = files(path).iter().filter_map(|path| number(path)).max().unwrap_or(0);
        Ok(Journal { appender, path: path.to_owned(), bytes, aside })
    }

    /// Keeps an event, if it is of the lasting kind.
    pub fn keep(&mut self, event: &Event) {
        if event.fact.is_lasting() {
            let line = line(event);
            self.bytes += line.len() as u64 + 1;
            self.appender.append(line);
        }
    }

    /// Moves the journal aside once it is large. The new one begins with the state, so that a supervisor that takes
    /// over reads no more than that and what came after.
    pub fn keep_short(&mut self, state: &State) {
        if self.bytes < LARGE {
            return;
        }
        let aside = self.path.with_extension(format!("{:04}.jsonl", self.aside + 1));
        let fact = Fact::Snapshot { state: Box::new(state.clone()) };
        let first = line(&Event { seq: state.seq, at: state.at, fact });
        let bytes = first.len() as u64 + 1;
        if self.appender.begin_anew(aside, first, pack) {
            self.bytes = bytes;
            self.aside += 1;
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
    fn a_large_journal_is_moved_aside_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        let mut state = State::default();
        let note = |journal: &mut Journal, state: &mut State| {
            let event =
                Event { seq: state.seq + 1, at: Stamp(state.seq + 1), fact: Fact::Note { text: "n".into() } };
            state.apply(&event);
            journal.keep(&event);
        };
        for _ in 0..12 {
            (0..5).for_each(|_| note(&mut journal, &mut state));
            journal.bytes += LARGE;
            journal.keep_short(&state);
            note(&mut journal, &mut state);
        }
        journal.close();
        let past = read(&path, |_| {}).unwrap();
        assert_eq!((past.state, past.seq, past.unreadable), (state.clone(), 72, 0));
        let files = files(&path);
        assert_eq!(files.len(), ASIDE + 1, "{files:?}");
        // All files one after the other give the same, and count without a gap.
        let mut seen = Vec::new();
        let mut whole = State::default();
        for file in &files {
            let mut reader = crate::supervisor::recording::Reader::open(file).unwrap();
            while let Some(crate::supervisor::recording::Entry::Event(event)) = reader.read() {
                whole.apply(&event);
                if event.fact.is_lasting() {
                    seen.push(event.seq);
                }
            }
        }
        assert_eq!(whole, state);
        assert!(seen.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{seen:?}");
        assert_eq!(seen.last(), Some(&72));
        // A death before the new file is in its place.
        fs::rename(&path, storage::next_of(&path)).unwrap();
        assert_eq!(read(&path, |_| {}).unwrap().seq, 72);
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
