//! Reading: a file from any record on, and files that others are writing.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use prost::Message;

use super::{
    Failure,
    frame::{Damage, Decoder, Flaw, Step},
    record::Record,
};

/// Bytes that are read at once: there may be a reader for each of many ranks.
const PIECE: u64 = 64 << 10;

/// What is found in a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A record.
    Record(Found),
    /// Something unreadable was left out.
    Damaged(Damage),
}

/// A record and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The record.
    pub record: Record,
    /// Where it begins in the file.
    pub offset: u64,
    /// Where it ends: reading can go on from here.
    pub end: u64,
}

/// Reads a file from its beginning or from the end of a record.
///
/// At the end it gives `None`, and goes on once the file has grown; use [`Tail`] when it may also be cut or
/// replaced.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    decoder: Decoder,
    piece: Vec<u8>,
}

impl Reader {
    /// Opens a file to be read from `from` on: 0, or the end of a record.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, from: u64) -> Result<Reader, Failure> {
        match File::open(path) {
            Ok(file) => Ok(Reader::of(path.to_owned(), file, from)),
            Err(error) => Err(Failure::new("cannot open", path, error, 0)),
        }
    }

    fn of(path: PathBuf, file: File, from: u64) -> Reader {
        Reader { path, file, decoder: Decoder::at(from), piece: vec![0; PIECE as usize] }
    }

    /// The next record or damage before `limit`, which is the end of a record: what the writer has committed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_before(&mut self, limit: u64) -> Result<Option<Entry>, Failure> {
        Ok(self.step(limit)?.map(|step| self.entry(step)))
    }

    /// As [`Reader::next_before`], not decoded: [`Reader::payload`] has the bytes of a record.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn step(&mut self, limit: u64) -> Result<Option<Step>, Failure> {
        loop {
            if let Some(step) = self.decoder.advance() {
                return Ok(Some(step));
            }
            if self.read(limit)? == 0 {
                return Ok(None);
            }
        }
    }

    /// The bytes of the record that [`Reader::step`] gave last.
    pub fn payload(&self) -> &[u8] {
        self.decoder.payload()
    }

    /// Where the last record ends that was given; where reading began, as long as there was none.
    pub fn end(&self) -> u64 {
        self.decoder.end()
    }

    /// Bytes that were read after the last whole record: once a file no longer grows, what was cut off.
    pub fn torn(&self) -> u64 {
        self.decoder.fed() - self.decoder.end()
    }

    fn entry(&self, step: Step) -> Entry {
        match step {
            Step::Damaged(damage) => Entry::Damaged(damage),
            Step::Record { offset, end } => match Record::decode(self.payload()) {
                Ok(record) => Entry::Record(Found { record, offset, end }),
                Err(_) => Entry::Damaged(Damage { offset, flaw: Flaw::NotARecord }),
            },
        }
    }

    fn read(&mut self, limit: u64) -> Result<usize, Failure> {
        let at = self.decoder.fed();
        let wanted = limit.saturating_sub(at).min(PIECE) as usize;
        let read = loop {
            match self.file.read_at(&mut self.piece[..wanted], at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let read =
            read.map_err(|error| Failure::new("cannot read", &self.path, error, self.decoder.end()))?;
        self.decoder.feed(&self.piece[..read]);
        Ok(read)
    }
}

/// All records and damages that lie before the end of the file; it may be asked again after that.
impl Iterator for Reader {
    type Item = Result<Entry, Failure>;

    fn next(&mut self) -> Option<Result<Entry, Failure>> {
        self.next_before(u64::MAX).transpose()
    }
}

/// Follows a file that another process writes, and that may not be there yet.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    reader: Option<Reader>,
    from: u64,
}

/// What one look at a growing file gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Whether the file is there.
    pub exists: bool,
    /// Whether the file was cut below [`Tail::end`] or replaced: what follows begins with its first record.
    pub restarted: bool,
    /// New records, and what is unreadable.
    pub entries: Vec<Entry>,
    /// Where the last whole record ends: a later tail can go on from here.
    pub end: u64,
    /// Whether there may be more to read at once.
    pub more: bool,
}

impl Tail {
    /// Follows `path` from `from` on: 0, or the [`Look::end`] of an earlier tail.
    pub fn new(path: PathBuf, from: u64) -> Tail {
        Tail { path, reader: None, from }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the last whole record ends that was given.
    pub fn end(&self) -> u64 {
        self.reader.as_ref().map_or(self.from, Reader::end)
    }

    /// Looks once, and takes at most 64 KiB, or the record that is longer and ends there.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn poll(&mut self) -> Result<Look, Failure> {
        let mut look = Look { end: self.end(), ..Look::default() };
        if self.reader.is_none() {
            self.reader = self.open(self.from)?;
        }
        let Some(reader) = &mut self.reader else { return Ok(look) };
        look.exists = true;
        look.restarted = reader.rewind_if_cut()?;
        let mut read = reader.read(u64::MAX)?;
        if read == 0
            && let Some(next) = self.replaced()?
        {
            // What the old file had is told already.
            look.restarted = true;
            read = self.reader.insert(next).read(u64::MAX)?;
        }
        if let Some(reader) = &mut self.reader {
            while let Some(step) = reader.decoder.advance() {
                look.entries.push(reader.entry(step));
            }
            look.end = reader.end();
        }
        look.more = read as u64 == PIECE;
        Ok(look)
    }

    fn open(&self, from: u64) -> Result<Option<Reader>, Failure> {
        match File::open(&self.path) {
            Ok(file) => Ok(Some(Reader::of(self.path.clone(), file, from))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::new("cannot open", &self.path, error, from)),
        }
    }

    /// The file that has taken the place of the one that is open.
    fn replaced(&self) -> Result<Option<Reader>, Failure> {
        let Some(old) = &self.reader else { return Ok(None) };
        let Some(new) = self.open(0)? else { return Ok(None) };
        let id = |reader: &Reader| {
            let metadata = reader.file.metadata();
            metadata.map(|data| (data.dev(), data.ino())).map_err(|error| reader.failed(error))
        };
        Ok((id(old)? != id(&new)?).then_some(new))
    }
}

impl Reader {
    /// Whether records that were given are no longer in the file, which then is read from its beginning.
    fn rewind_if_cut(&mut self) -> Result<bool, Failure> {
        let length = self.file.metadata().map_err(|error| self.failed(error))?.len();
        let (fed, end) = (self.decoder.fed(), self.decoder.end());
        if length >= fed {
            return Ok(false);
        }
        let is_lost = length < end;
        self.decoder = Decoder::at(if is_lost { 0 } else { end });
        Ok(is_lost)
    }

    fn failed(&self, error: io::Error) -> Failure {
        Failure::new("cannot read", &self.path, error, self.decoder.end())
    }
}

#[cfg(test)]
mod tests;
