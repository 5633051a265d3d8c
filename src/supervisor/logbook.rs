//! The logbook: every log file of a job, and the order in which their bytes arrived.
//!
//! The bytes stay where the ranks wrote them. The index says which file grew when, by how many bytes and lines
//! from which offset: a new supervisor goes on where the old one stopped, and no line is counted twice. A file is held open while its rank lives: torchrun deletes logs at membership changes.

mod growth;

use std::{
    collections::{HashSet, VecDeque},
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use self::growth::Growth;
use super::{
    reserve::{self, AHEAD, KEPT, Room},
    storage::{self, Appender, Health},
};
use crate::domain::{
    log::{Anchor, Answering, LogFilter, LogLine, LogPage, LogQuery, MAX_LINE, Stream},
    redact::Secrets,
    time::Stamp,
};

/// Most pieces that the index in memory holds; older lines can be read from the files of single ranks only.
const MAX_PIECES: usize = 200_000;
/// Most bytes read of one file at one look, so that one chatty rank does not hold up the others.
const READ: usize = 256 << 10;
/// A line longer than this is taken in pieces.
const LONGEST: usize = 64 << 10;

/// A file that lines come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Global rank, if known.
    pub rank: Option<u32>,
    /// Position on the node; `None` for the agent.
    pub local_rank: Option<u32>,
    /// The start of the group it belongs to.
    pub attempt: u32,
    /// Process id of the rank, 0 for the agent.
    pub pid: i32,
    /// Which stream.
    pub stream: Stream,
    /// Where the file is.
    pub path: PathBuf,
}

#[derive(Debug)]
struct Source {
    origin: Origin,
    file: Option<File>,
    /// Bytes in the file at the last look.
    size: u64,
    /// When it was written last, by the clock of its file system.
    written_at: Stamp,
    /// Bytes that are in the index.
    done: u64,
    /// Bytes that a full disk took from its beginning.
    given_up: u64,
    room: Room,
    /// Whether the writer is gone: what is left is a last line without an end.
    closed: bool,
}

/// Lines of one file that arrived together.
#[derive(Clone, Copy, Debug)]
struct Piece {
    first_line: u64,
    at: Stamp,
    source: u32,
    offset: u64,
    bytes: u32,
    lines: u32,
}

/// A line of the index.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Entry {
    Source {
        source: Origin,
    },
    /// Source, offset, bytes and lines of each piece.
    Grown {
        at: Stamp,
        grown: Vec<(u32, u64, u32, u32)>,
    },
    Placed {
        pid: i32,
        rank: u32,
    },
    /// The bytes of this source up to here are gone.
    GivenUp {
        given_up: u32,
        until: u64,
    },
}

/// The log files of a job.
#[derive(Debug)]
pub struct Logbook {
    sources: Vec<Source>,
    pieces: VecDeque<Piece>,
    next_line: u64,
    index: Option<Appender>,
    buffer: Vec<u8>,
    growth: Growth,
    looked_at: Stamp,
    secrets: Secrets,
    /// Why ranks may soon be unable to write.
    full: Option<String>,
}

/// A line that just arrived.
#[derive(Debug)]
pub struct Arrived<'a> {
    /// Its number.
    pub n: u64,
    /// Where it comes from.
    pub origin: &'a Origin,
    /// When its file was written last: right for the last line that arrived, at most one look late for the others.
    pub at: Stamp,
    /// The line without its end.
    pub text: &'a str,
}

impl Logbook {
    /// Opens the index, for reading alone or for writing on.
    ///
    /// # Errors
    /// Those of reading the index, and of opening it for writing.
    pub fn open(index: &Path, write: bool) -> io::Result<Logbook> {
        let mut book = Logbook::in_memory();
        storage::recover(index, |line| {
            if let Ok(entry) = serde_json::from_slice(line) {
                book.take_entry(entry);
            }
        })?;
        if write {
            book.index = Some(Appender::open(index.to_owned())?);
        }
        Ok(book)
    }

    /// A logbook without an index on disk, for a job that is only watched.
    pub fn in_memory() -> Logbook {
        Logbook {
            sources: Vec::new(),
            pieces: VecDeque::new(),
            next_line: 0,
            index: None,
            buffer: Vec::new(),
            growth: Growth::default(),
            looked_at: Stamp(0),
            secrets: Secrets::default(),
            full: None,
        }
    }

    /// Takes these values out of all lines from now on. The files keep what the ranks wrote.
    pub fn hide(&mut self, secrets: Secrets) {
        self.secrets = secrets;
    }

    fn take_entry(&mut self, entry: Entry) {
        match entry {
            Entry::Source { source } => {
                let file = File::open(&source.path).ok();
                let room = Room::default();
                self.sources.push(Source {
                    origin: source,
                    file,
                    size: 0,
                    written_at: Stamp(0),
                    done: 0,
                    given_up: 0,
                    room,
                    closed: false,
                });
            }
            Entry::Grown { at, grown } => {
                for (source, offset, bytes, lines) in grown {
                    self.add_piece(at, source, offset, bytes, lines);
                }
            }
            Entry::Placed { pid, rank } => self.set_rank(pid, rank),
            Entry::GivenUp { given_up, until } => {
                if let Some(source) = self.sources.get_mut(given_up as usize) {
                    source.given_up = until;
                }
            }
        }
    }

    fn add_piece(&mut self, at: Stamp, source: u32, offset: u64, bytes: u32, lines: u32) {
        let Some(entry) = self.sources.get_mut(source as usize) else { return };
        entry.done = offset + u64::from(bytes);
        self.pieces.push_back(Piece { first_line: self.next_line, at, source, offset, bytes, lines });
        self.next_line += u64::from(lines);
        if self.pieces.len() > MAX_PIECES {
            self.pieces.pop_front();
        }
    }

    fn set_rank(&mut self, pid: i32, rank: u32) {
        for source in self.sources.iter_mut().filter(|source| source.origin.pid == pid) {
            source.origin.rank = Some(rank);
        }
    }

    fn write(&mut self, entry: &Entry) {
        if let (Some(index), Ok(line)) = (&mut self.index, serde_json::to_vec(entry)) {
            index.append(line);
        }
    }

    /// Adds a file, unless it is known already.
    pub fn add(&mut self, origin: Origin) {
        if self.sources.iter().any(|known| known.origin.path == origin.path) {
            return;
        }
        self.write(&Entry::Source { source: origin.clone() });
        self.take_entry(Entry::Source { source: origin });
    }

    /// The global rank of a process became known.
    pub fn place(&mut self, pid: i32, rank: u32) {
        self.write(&Entry::Placed { pid, rank });
        self.set_rank(pid, rank);
    }

    /// The writer of a rank's files is gone: after the next look they are done.
    pub fn close_rank(&mut self, pid: i32) {
        for (number, source) in self.sources.iter_mut().enumerate() {
            if source.origin.pid == pid && pid != 0 {
                source.closed = true;
                self.growth.look_again(number);
            }
        }
    }

    /// Reads what the files grew by and gives each new line to `each`. Returns whether a file has more to read.
    pub fn look(&mut self, now: Stamp, mut each: impl FnMut(Arrived<'_>)) -> bool {
        let (mut grown, mut more) = (Vec::new(), false);
        let mut buffer = std::mem::take(&mut self.buffer);
        // Of lines that arrived together, those of ranks come first: the agent speaks of what ranks did before.
        let mut due = self.growth.due(self.sources.len());
        due.sort_by_key(|number| self.sources[*number].origin.stream == Stream::Agent);
        for number in due {
            let source = &mut self.sources[number];
            match source.open() {
                Some(file) => self.growth.watch(number, file),
                None => self.growth.look_again(number),
            }
            let Some(bytes) = source.read_new(&mut buffer) else { continue };
            // One look reads so much and no more.
            self.growth.look_again(number);
            more |= bytes.len() >= LONGEST;
            // Another machine's clock may be wrong: it was since the last look.
            let at = source.written_at.max(self.looked_at).min(now);
            let first = self.next_line;
            let mut lines = 0;
            for line in split(bytes) {
                let text = self.secrets.hide(clean(line));
                each(Arrived { n: first + u64::from(lines), origin: &source.origin, at, text: &text });
                lines += 1;
            }
            let (number, offset, bytes) = (number as u32, source.done, bytes.len() as u32);
            self.add_piece(now, number, offset, bytes, lines);
            grown.push((number, offset, bytes, lines));
        }
        self.buffer = buffer;
        self.looked_at = now;
        if !grown.is_empty() {
            self.write(&Entry::Grown { at: now, grown });
        }
        if self.index.is_some() {
            self.keep_room();
        }
        more
    }

    /// Sees to it that the ranks can go on writing when the disk is full, at the cost of old lines.
    fn keep_room(&mut self) {
        let on_disk = self.sources.iter().find_map(|source| source.file.as_ref());
        self.full = on_disk
            .is_some_and(reserve::is_full_behind)
            .then(|| "the disk is full: ranks have a little room left for their logs".into());
        for number in 0..self.sources.len() {
            let mut kept = self.sources[number].keep_room();
            if kept.is_err() && self.give_up(AHEAD) {
                self.full = Some("the disk is full: the oldest log lines are given up for new ones".into());
                kept = self.sources[number].keep_room();
            }
            if let Err(error) = kept {
                self.full = Some(format!("a rank may soon be unable to write its log: {error}"));
            }
        }
    }

    /// Gives up old bytes, oldest files first; returns whether there were any.
    fn give_up(&mut self, bytes: u64) -> bool {
        let mut freed = 0;
        for number in 0..self.sources.len() {
            let source = &mut self.sources[number];
            let from = source.given_up;
            let until = source.done.saturating_sub(KEPT).min(from + bytes - freed);
            let Some(file) = source.file.as_ref().filter(|_| until > from) else { continue };
            let hole = reserve::writable(file).and_then(|file| reserve::give_up(&file, from, until));
            let Ok(until) = hole.map(|until| until.max(from)) else { continue };
            if until == from {
                continue;
            }
            source.given_up = until;
            freed += until - from;
            self.write(&Entry::GivenUp { given_up: number as u32, until });
            if freed >= bytes {
                break;
            }
        }
        freed > 0
    }

    /// The unfinished last lines of ranks, where progress bars live: the newest of each, by process id.
    pub fn unfinished(&self) -> Vec<(i32, String)> {
        let open = self.sources.iter().rev().filter(|source| !source.closed);
        let mut told = HashSet::new();
        let texts = open.filter_map(|source| Some((source.origin.pid, source.unfinished()?)));
        texts.filter(|(pid, _)| told.insert(*pid)).map(|(pid, text)| (pid, self.secrets.hide(text))).collect()
    }

    /// How the writing of the index goes.
    pub fn health(&self) -> Health {
        let mut health = self.index.as_ref().map_or_else(Health::default, Appender::health);
        health.error = health.error.map(|error| format!("elastictop cannot keep its log index: {error}"));
        health.error = health.error.or_else(|| self.full.clone());
        health
    }

    /// Writes what waits.
    pub fn close(&mut self) {
        if let Some(index) = &mut self.index {
            index.close();
        }
    }

    /// Whether a file is known.
    pub fn knows(&self, path: &Path) -> bool {
        self.sources.iter().any(|source| source.origin.path == path)
    }

    /// Answers a question about lines, or its first part.
    pub fn answer(&self, query: &LogQuery) -> LogPage {
        let mut answer = Answering::new(query, self.start(), self.next_line);
        match query {
            LogQuery::Page { filter, anchor, .. } => match *anchor {
                Anchor::From(from) => self.forwards(filter, from, |line| answer.take(line)),
                Anchor::Tail => self.backwards(filter, self.next_line, |line| answer.take(line)),
                Anchor::Before(before) => self.backwards(filter, before, |line| answer.take(line)),
            },
            LogQuery::Find { filter, from, backwards: true, .. } => {
                let before = from.map_or(self.next_line, |from| from.saturating_add(1));
                self.backwards(filter, before, |line| answer.take(line));
            }
            LogQuery::Find { filter, from, .. } => {
                self.forwards(filter, from.unwrap_or(0), |line| answer.take(line));
            }
        }
        answer.end()
    }

    /// Number of the first line that arrived after this time.
    pub fn first_after(&self, at: Stamp) -> u64 {
        let piece = self.pieces.partition_point(|piece| piece.at <= at);
        self.pieces.get(piece).map_or(self.next_line, |piece| piece.first_line)
    }

    /// Number of the first line that arrived from this time on, or a later one so that the lines up to `until` have
    /// about so many bytes; and whether it is a later one.
    pub fn first_from(&self, at: Stamp, until: Stamp, bytes: u64) -> (u64, bool) {
        let mut sum = 0;
        for piece in self.pieces.iter().rev().skip_while(|piece| piece.at > until) {
            if piece.at < at {
                return (piece.first_line + u64::from(piece.lines), false);
            }
            sum += u64::from(piece.bytes);
            if sum > bytes {
                return (piece.first_line + u64::from(piece.lines), true);
            }
        }
        (self.start(), self.start() > 0)
    }

    fn start(&self) -> u64 {
        self.pieces.front().map_or(self.next_line, |piece| piece.first_line)
    }

    fn forwards(&self, filter: &LogFilter, from: u64, mut each: impl FnMut(LogLine) -> bool) {
        let first = self.pieces.partition_point(|piece| piece.first_line + u64::from(piece.lines) <= from);
        for piece in self.pieces.iter().skip(first) {
            let bytes = self.bytes_of(piece, filter);
            let skip = from.saturating_sub(piece.first_line) as usize;
            let mut lines = bytes.iter().flat_map(|bytes| split(bytes)).zip(piece.first_line..).skip(skip);
            if !lines.all(|(line, n)| each(self.line(piece, n, line))) {
                return;
            }
        }
    }

    fn backwards(&self, filter: &LogFilter, before: u64, mut each: impl FnMut(LogLine) -> bool) {
        let end = self.pieces.partition_point(|piece| piece.first_line < before);
        for piece in self.pieces.iter().take(end).rev() {
            let bytes = self.bytes_of(piece, filter);
            let take = before.saturating_sub(piece.first_line) as usize;
            // A page may need few of many lines: only those that are wanted are made readable.
            let lines: Vec<_> =
                bytes.iter().flat_map(|bytes| split(bytes)).zip(piece.first_line..).take(take).collect();
            if !lines.into_iter().rev().all(|(line, n)| each(self.line(piece, n, line))) {
                return;
            }
        }
    }

    /// The bytes of a piece that the filter lets through.
    fn bytes_of(&self, piece: &Piece, filter: &LogFilter) -> Option<Vec<u8>> {
        let source = &self.sources[piece.source as usize];
        let origin = &source.origin;
        let wanted = filter.local_rank.is_none_or(|local| origin.local_rank == Some(local))
            && filter.attempt.is_none_or(|attempt| origin.attempt == attempt);
        let file = source.file.as_ref().filter(|_| wanted)?;
        let mut bytes = vec![0; piece.bytes as usize];
        Some(match file.read_exact_at(&mut bytes, piece.offset) {
            Ok(()) if piece.offset >= source.given_up => bytes,
            // The numbers of lines must not shift when bytes were given up, or a file cut behind our back.
            _ => b"[these bytes are gone from the file]\n".repeat(piece.lines as usize),
        })
    }

    fn line(&self, piece: &Piece, n: u64, line: &[u8]) -> LogLine {
        let origin = &self.sources[piece.source as usize].origin;
        LogLine {
            n,
            at: piece.at,
            rank: origin.rank,
            local_rank: origin.local_rank,
            attempt: origin.attempt,
            stream: origin.stream,
            text: self.secrets.hide(clean(line)),
        }
    }
}

impl Source {
    fn open(&mut self) -> Option<&File> {
        if self.file.is_none() {
            self.file = File::open(&self.origin.path).ok();
        }
        self.file.as_ref()
    }

    /// The bytes of whole lines that came since the last time; all there is when the writer is gone.
    fn read_new<'a>(&mut self, buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let file = self.file.as_ref()?;
        let metadata = file.metadata().ok()?;
        self.size = metadata.len();
        let written = metadata.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.written_at = Stamp(written.as_millis() as u64);
        let new = usize::try_from(self.size.saturating_sub(self.done)).ok()?.min(READ);
        if new == 0 {
            return None;
        }
        buffer.resize(new, 0);
        let read = file.read_at(buffer, self.done).ok()?;
        let bytes = &buffer[..read];
        let whole = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            None if self.closed || read >= LONGEST => read,
            None => 0,
        };
        (whole > 0).then(|| &bytes[..whole])
    }

    fn keep_room(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let size = self.size;
        // Asking costs an open: only when it is needed.
        if self.closed {
            if size == self.done && self.room.is_held() {
                self.room.release(&reserve::writable(file)?, size);
            }
        } else if self.room.is_short(size, AHEAD) {
            self.room.keep(&reserve::writable(file)?, size, AHEAD)?;
        }
        Ok(())
    }

    fn unfinished(&self) -> Option<String> {
        let file = self.file.as_ref()?;
        let left = self.size.saturating_sub(self.done);
        if left == 0 {
            return None;
        }
        let take = left.min(MAX_LINE as u64);
        let mut bytes = vec![0; take as usize];
        file.read_exact_at(&mut bytes, self.done + left - take).ok()?;
        let text = clean(&bytes);
        (!text.trim().is_empty()).then_some(text)
    }
}

/// The lines of whole lines: as many as there are ends, and one more for a last one without an end.
fn split(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n')
}

/// A line as it may be shown: what a carriage return overwrote is left out, escapes and control characters too.
pub(super) fn clean(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let visible = line.rsplit(|byte| *byte == b'\r').find(|part| !part.is_empty()).unwrap_or_default();
    let text = String::from_utf8_lossy(&visible[..visible.len().min(MAX_LINE)]);
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.into_owned();
    }
    let mut shown = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\t' => shown.push_str("    "),
            '\u{1b}' if chars.peek() == Some(&'[') => {
                chars.next();
                // A control sequence ends with a letter or one of `@` to `~`.
                for c in chars.by_ref() {
                    if ('@'..='~').contains(&c) {
                        break;
                    }
                }
            }
            '\u{1b}' if chars.peek() == Some(&']') => {
                // A command to the terminal, such as its title: to BEL, or to ESC and a backslash.
                while let Some(c) = chars.next() {
                    if c == '\u{7}' || c == '\u{1b}' && chars.next_if_eq(&'\\').is_some() {
                        break;
                    }
                }
            }
            c if c.is_control() => {}
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests;
