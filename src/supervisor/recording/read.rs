//! Reading a recording, whoever wrote it: bounded in memory, in the length of its lines and in what it unpacks to.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

use crate::{
    domain::{
        event::{Event, Fact},
        log::LogLine,
        replay::{FORMAT, Header},
    },
    error::{Error, Result},
    supervisor::journal,
};

/// Longest line: a state of 4096 ranks has about 10 MB.
const LONGEST: usize = 64 << 20;
/// Most bytes that a recording may unpack to.
pub const MOST: u64 = 2 << 30;
/// Positions of ranks on a node from here on are nonsense.
const MOST_RANKS: u32 = 1 << 16;

/// A line of a recording.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// Something happened.
    Event(Event),
    /// Somebody wrote a line.
    Log(LogLine),
}

#[derive(Deserialize)]
struct LogRecord {
    log: LogLine,
}

/// What could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Lines that are no events.
    pub unreadable: u64,
    /// Events of kinds that this version does not know.
    pub unknown: u64,
    /// Why reading ended before the end of the file.
    pub ended: Option<String>,
}

impl Trouble {
    /// The same, one sentence each.
    pub fn sentences(&self) -> Vec<String> {
        let mut told: Vec<String> = self.ended.iter().cloned().collect();
        if self.unreadable > 0 {
            told.push(format!("{} lines cannot be read and are left out", self.unreadable));
        }
        if self.unknown > 0 {
            told.push(format!("{} events are of kinds that only a newer elastictop knows", self.unknown));
        }
        told
    }
}

/// Gives the lines of a recording in order.
pub struct Reader {
    source: Box<dyn BufRead + Send>,
    header: Option<Header>,
    trouble: Trouble,
    /// The first line, when it was no header.
    first: Option<Vec<u8>>,
    line: Vec<u8>,
    longest: usize,
    left: u64,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("header", &self.header)
            .field("trouble", &self.trouble)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens a file and reads its header, if it has one.
    ///
    /// # Errors
    /// It cannot be read, is empty, or was written by a newer elastictop.
    pub fn open(path: &Path) -> Result<Reader> {
        // To open a pipe would wait for somebody who writes.
        if path.metadata().is_ok_and(|meta| !meta.is_file()) {
            return Err(Error::usage(format!("{} is no regular file, and no recording", path.display())));
        }
        let file = File::open(path).map_err(|error| Error::io("cannot open", path, &error))?;
        Reader::new(Box::new(file), LONGEST, MOST)
            .map_err(|error| Error { text: format!("{}: {}", path.display(), error.text), ..error })
    }

    /// Reads from anywhere, lines of up to `longest` bytes, and `most` bytes in all.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn new(raw: Box<dyn Read + Send>, longest: usize, most: u64) -> Result<Reader> {
        let mut raw = BufReader::with_capacity(64 << 10, raw);
        let told = |error: &io::Error| Error::environment(format!("cannot be read: {error}"));
        let start = raw.fill_buf().map_err(|error| told(&error))?;
        if start.is_empty() {
            return Err(Error::environment("the file is empty: nothing was recorded"));
        }
        let source: Box<dyn BufRead + Send> = if start.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::with_capacity(64 << 10, MultiGzDecoder::new(raw)))
        } else {
            Box::new(raw)
        };
        let (line, trouble) = (Vec::new(), Trouble::default());
        let mut reader = Reader { source, header: None, trouble, first: None, line, longest, left: most };
        if reader.read_line() {
            let line = std::mem::take(&mut reader.line);
            match serde_json::from_slice::<Header>(&line) {
                Ok(header) if header.recording > FORMAT => {
                    let Header { recording, version, .. } = header;
                    let text = format!(
                        "this recording is of format {recording}, written by elastictop {version}; this is {} and \
                         reads up to format {FORMAT}",
                        env!("CARGO_PKG_VERSION")
                    );
                    return Err(Error::environment(text).hint("open it with that version or a newer one"));
                }
                Ok(header) => reader.header = Some(header),
                Err(_) => reader.first = Some(line),
            }
        }
        Ok(reader)
    }

    /// What the recording says of itself; a journal says nothing.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// What could not be read so far.
    pub fn trouble(&self) -> &Trouble {
        &self.trouble
    }

    /// The next line that has a meaning.
    pub fn read(&mut self) -> Option<Entry> {
        loop {
            if let Some(first) = self.first.take() {
                self.line = first;
            } else if !self.read_line() {
                return None;
            }
            if self.line.is_empty() {
                continue;
            }
            match parse(&self.line) {
                Some(Entry::Event(Event { fact: Fact::Unknown, .. })) => self.trouble.unknown += 1,
                Some(entry) => return Some(entry),
                None => self.trouble.unreadable += 1,
            }
        }
    }

    /// Reads a whole line, too long ones left out; false at the end.
    fn read_line(&mut self) -> bool {
        self.line.clear();
        let mut too_long = false;
        loop {
            let bytes = match self.source.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.end(&error),
            };
            if bytes.is_empty() {
                // A journal or segment that was cut off, or is being written.
                if !self.line.is_empty() || too_long {
                    self.end_with("the end is cut off in the middle of a line".into());
                }
                return false;
            }
            let (take, ended) = match bytes.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (bytes.len(), false),
            };
            if take as u64 > self.left {
                let text = "it unpacks to more than elastictop reads of a recording; the rest is left out";
                return self.end_with(text.into());
            }
            self.left -= take as u64;
            if self.line.len() + take > self.longest {
                too_long = true;
                self.line = Vec::new();
            }
            if !too_long {
                self.line.extend_from_slice(&bytes[..take - usize::from(ended)]);
            }
            self.source.consume(take);
            if ended && too_long {
                self.trouble.unreadable += 1;
                too_long = false;
                self.line.clear();
            } else if ended {
                return true;
            }
        }
    }

    fn end(&mut self, error: &io::Error) -> bool {
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "the file is cut off".to_owned(),
            _ => format!("the file is damaged ({error})"),
        };
        self.end_with(format!("{why}: what comes before is all there is"))
    }

    fn end_with(&mut self, text: String) -> bool {
        self.trouble.ended.get_or_insert(text);
        self.left = 0;
        self.line.clear();
        self.source = Box::new(io::empty());
        false
    }
}

/// The meaning of a line; `None` for none.
pub fn parse(line: &[u8]) -> Option<Entry> {
    if line.starts_with(b"{\"log\":") {
        return serde_json::from_slice::<LogRecord>(line).ok().map(|record| Entry::Log(record.log));
    }
    journal::parse(line).filter(|event| is_sane(&event.fact)).map(Entry::Event)
}

/// Whether a state can be made of it without a rank for every number that somebody made up.
fn is_sane(fact: &Fact) -> bool {
    match fact {
        Fact::RankStarted { local_rank, .. } => *local_rank < MOST_RANKS,
        Fact::AlertRaised { alert } => alert.local_rank.is_none_or(|local| local < MOST_RANKS),
        Fact::Snapshot { state } => {
            state.ranks.iter().map(|rank| rank.local_rank).is_sorted()
                && state.ranks.len() < MOST_RANKS as usize
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests;
