//! Writing: records into batches, batches into a file.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, symlink},
    path::{Path, PathBuf},
};

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::{
    Failure,
    frame::{self, Decoder, HEADER},
    record::{Kind, Record},
};
use crate::domain::time::Stamp;

/// Field numbers of what [`Batch::row`] encodes by itself.
mod tag {
    pub const NUM: u32 = 1;
    pub const HISTORY: u32 = 2;
    pub const ITEM: u32 = 1;
    pub const NESTED_KEY: u32 = 2;
    pub const VALUE_JSON: u32 = 16;
}

/// Records that are written together, encoded already. May be written again when the disk refused it.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each record ends in `bytes`.
    ends: Vec<usize>,
}

/// A record is longer than [`frame::LONGEST`]: readers would refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// Its length in bytes.
    pub bytes: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a record of {} bytes is longer than {}", self.bytes, frame::LONGEST)
    }
}

impl std::error::Error for TooLong {}

impl Batch {
    /// An empty one.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds a record.
    ///
    /// # Errors
    /// It is too long; the batch is as before.
    pub fn push(&mut self, kind: &Kind) -> Result<(), TooLong> {
        let bytes = kind.encoded_len();
        if bytes > LONGEST_BODY {
            return Err(TooLong { bytes });
        }
        kind.encode(&mut self.bytes);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// Adds a row of history from keys and values as JSON text; a key stands for itself, dots do not nest.
    ///
    /// The same bytes as [`Batch::push`] of a [`super::record::History`], without building one.
    ///
    /// # Errors
    /// It is too long; the batch is as before.
    pub fn row<'a, I>(&mut self, items: I) -> Result<(), TooLong>
    where
        I: IntoIterator<Item = (&'a str, &'a str)>,
        I::IntoIter: Clone,
    {
        let items = items.into_iter();
        let length: usize = items.clone().map(|(key, json)| field_len(tag::ITEM, item_len(key, json))).sum();
        let bytes = field_len(tag::HISTORY, length);
        if bytes > LONGEST_BODY {
            return Err(TooLong { bytes });
        }
        let out = &mut self.bytes;
        open(out, tag::HISTORY, length);
        for (key, json) in items {
            open(out, tag::ITEM, item_len(key, json));
            put(out, tag::NESTED_KEY, key);
            if !json.is_empty() {
                put(out, tag::VALUE_JSON, json);
            }
        }
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// Puts another record in the place of the one with this position, which must be there.
    ///
    /// # Errors
    /// It is too long; the batch is as before.
    pub fn replace(&mut self, position: usize, kind: &Kind) -> Result<(), TooLong> {
        let mut other = Batch::new();
        other.push(kind)?;
        let start = position.checked_sub(1).map_or(0, |before| self.ends[before]);
        let end = self.ends[position];
        self.bytes.splice(start..end, other.bytes.iter().copied());
        for known in &mut self.ends[position..] {
            *known = *known - (end - start) + other.bytes.len();
        }
        Ok(())
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no record in it.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all records.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Takes all records out.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn records(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }
}

/// Longest record without its number.
const LONGEST_BODY: usize = frame::LONGEST - 16;

fn field_len(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

fn item_len(key: &str, json: &str) -> usize {
    let value = if json.is_empty() { 0 } else { field_len(tag::VALUE_JSON, json.len()) };
    field_len(tag::NESTED_KEY, key.len()) + value
}

fn open(out: &mut Vec<u8>, tag: u32, length: usize) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn put(out: &mut Vec<u8>, tag: u32, text: &str) {
    open(out, tag, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Appends to one `.wandb` file. There must be no other writer of it.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    /// Length of the file up to its last whole record.
    len: u64,
    /// Number of the last record.
    num: i64,
    /// Whether bytes of a failed write may still follow `len`.
    is_torn: bool,
    out: Vec<u8>,
    record: Vec<u8>,
}

impl Writer {
    /// Starts a run's file, `DIR/wandb/offline-run-YYYYmmdd_HHMMSS-ID/run-ID.wandb`, with `files/` beside it.
    /// The time is shown in the zone of the machine, as the SDK does; a folder that is taken gets `-1`, `-2`
    /// and so on.
    ///
    /// # Errors
    /// The id cannot be a part of a file's name, or folder or file cannot be made.
    pub fn create(dir: &Path, id: &str, at: Stamp) -> Result<Writer, Failure> {
        let wandb = dir.join("wandb");
        if id.is_empty() || id.contains(['/', '\0']) {
            let error = io::Error::new(io::ErrorKind::InvalidInput, format!("a run id cannot be {id:?}"));
            return Err(Failure::new("cannot make a run in", &wandb, error, 0));
        }
        let failed = |error| Failure::new("cannot make a run in", &wandb, error, 0);
        fs::create_dir_all(&wandb).map_err(failed)?;
        let folder = new_folder(&wandb, &folder_name(local(at), id)).map_err(failed)?;
        // Whoever tries again until the disk has room must not leave a folder each time.
        Writer::begin(&folder, id).inspect_err(|_| _ = fs::remove_dir_all(&folder))
    }

    fn begin(folder: &Path, id: &str) -> Result<Writer, Failure> {
        let path = folder.join(format!("run-{id}.wandb"));
        let file = fs::create_dir(folder.join("files"))
            .and_then(|()| OpenOptions::new().read(true).write(true).create_new(true).open(&path));
        let file = file.map_err(|error| Failure::new("cannot make", &path, error, 0))?;
        Writer::with_header(path, file)
    }

    /// Goes on with a file after a crash: what follows `committed_len` is cut off, or what follows the last
    /// whole record before it. Give `u64::MAX` to keep all whole records. [`Writer::len`] says where it goes
    /// on.
    ///
    /// # Errors
    /// The file cannot be opened, read or cut.
    pub fn reopen(path: &Path, committed_len: u64) -> Result<Writer, Failure> {
        let failed = |error| Failure::new("cannot go on with", path, error, 0);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len().min(committed_len);
        let (len, num) = last_record(&file, length).map_err(failed)?;
        file.set_len(len).map_err(failed)?;
        if len == 0 {
            return Writer::with_header(path.to_owned(), file);
        }
        Ok(Writer {
            path: path.to_owned(),
            file,
            len,
            num,
            is_torn: false,
            out: Vec::new(),
            record: Vec::new(),
        })
    }

    fn with_header(path: PathBuf, file: File) -> Result<Writer, Failure> {
        let len = HEADER.len() as u64;
        match file.write_all_at(&HEADER, 0) {
            Ok(()) => {
                Ok(Writer { path, file, len, num: 0, is_torn: false, out: Vec::new(), record: Vec::new() })
            }
            Err(error) => Err(Failure::new("cannot write", &path, error, 0)),
        }
    }

    /// Appends all records of a batch, or none; gives the new length of the file. One `write` as long as the
    /// disk takes it whole.
    ///
    /// # Errors
    /// The disk refuses: full, over quota, broken. The file is valid up to [`Failure::valid`], and the batch
    /// can be tried again.
    pub fn append(&mut self, batch: &Batch) -> Result<u64, Failure> {
        if self.is_torn {
            self.cut().map_err(|error| self.failed(error))?;
        }
        let (mut at, mut num) = (self.len, self.num);
        self.out.clear();
        for body in batch.records() {
            num += 1;
            self.record.clear();
            encode_key(tag::NUM, WireType::Varint, &mut self.record);
            encode_varint(num as u64, &mut self.record);
            self.record.extend_from_slice(body);
            at = frame::encode(&mut self.out, at, &self.record);
        }
        if let Err(error) = self.file.write_all_at(&self.out, self.len) {
            self.is_torn = true;
            // Tried again before the next batch, and at the next `reopen`.
            let _ = self.cut();
            return Err(self.failed(error));
        }
        (self.len, self.num) = (at, num);
        Ok(at)
    }

    /// Waits until the disk has everything, so that it outlives a loss of power.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&self) -> Result<(), Failure> {
        self.file.sync_data().map_err(|error| self.failed(error))
    }

    /// Makes `wandb/latest-run` point here, which `wandb leet` looks for. No moment without a link.
    ///
    /// # Errors
    /// The file system refuses; the run's file is none the worse.
    pub fn link_latest(&self) -> Result<(), Failure> {
        let folder = self.folder();
        let (Some(wandb), Some(name)) = (folder.parent(), folder.file_name()) else { return Ok(()) };
        let new = wandb.join(format!(".latest-run-{}", name.to_string_lossy()));
        let link = symlink(name, &new).or_else(|error| match error.kind() {
            // Left by a crash between the two steps.
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        });
        link.and_then(|()| fs::rename(&new, wandb.join("latest-run")))
            .map_err(|error| Failure::new("cannot link", &wandb.join("latest-run"), error, self.len))
    }

    /// Length of the file up to its last whole record: what is committed.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no record in the file.
    pub fn is_empty(&self) -> bool {
        self.num == 0
    }

    /// Number of the last record; 0 before the first.
    pub fn last_num(&self) -> i64 {
        self.num
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// The folder for files that belong to the run.
    pub fn files(&self) -> PathBuf {
        self.folder().join("files")
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.is_torn = false;
        Ok(())
    }

    fn failed(&self, error: io::Error) -> Failure {
        Failure::new("cannot write", &self.path, error, self.len)
    }
}

/// End and number of the last whole record that ends at `length` or before; 0 and 0 for a file without a
/// header.
fn last_record(file: &File, length: u64) -> io::Result<(u64, i64)> {
    let header = HEADER.len() as u64;
    let mut first = [0; HEADER.len()];
    if length < header || file.read_exact_at(&mut first, 0).is_err() || first != HEADER {
        return Ok((0, 0));
    }
    // A block without the beginning of a record lies inside of one.
    for block in (0..=length / frame::BLOCK as u64).rev() {
        let start = block * frame::BLOCK as u64;
        let mut bytes = vec![0; (length - start) as usize];
        file.read_exact_at(&mut bytes, start)?;
        let mut decoder = Decoder::at_block(block);
        decoder.feed(&bytes);
        let mut last = None;
        while let Some(step) = decoder.advance() {
            if let frame::Step::Record { end, .. } = step
                && let Ok(record) = <Record as prost::Message>::decode(decoder.payload())
            {
                last = Some((end, record.num));
            }
        }
        if let Some(last) = last {
            return Ok(last);
        }
    }
    Ok((header, 0))
}

fn local(at: Stamp) -> jiff::civil::DateTime {
    let at = jiff::Timestamp::from_millisecond(at.0 as i64).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.to_zoned(jiff::tz::TimeZone::system()).datetime()
}

fn folder_name(at: jiff::civil::DateTime, id: &str) -> String {
    format!("offline-run-{}-{id}", at.strftime("%Y%m%d_%H%M%S"))
}

fn new_folder(wandb: &Path, name: &str) -> io::Result<PathBuf> {
    let mut folder = wandb.join(name);
    for suffix in 1.. {
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                folder = wandb.join(format!("{name}-{suffix}"));
            }
            other => return other.map(|()| folder),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests;
