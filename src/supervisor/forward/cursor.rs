//! How far everything was forwarded, on disk: after a crash at any moment each row is in one `.wandb` file, once.
//!
//! `JOB/wandb/cursor.jsonl` has one record for each batch: how long each `.wandb` file was after it, up to where each
//! source was read for it, and what the router needs to go on. Files are written before the record and cut to it
//! after a crash, and sources are read again from it. A record that tells of more bytes than a file has (the machine
//! lost power) and all that follow do not count.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::tail::Position;
use crate::{
    domain::{
        forward::router::{Book, Seat},
        id::ProcId,
    },
    supervisor::storage,
};

/// The record of what holds is written anew when the file is longer than this.
const ROTATE: u64 = 1 << 20;

/// All that is committed, or what a record changes of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cursor {
    /// Ranks by `PID-START`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ranks: BTreeMap<String, RankMark>,
    /// Positions by `PID-START/SOURCE`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, Position>,
    /// Runs by id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub runs: BTreeMap<String, Book>,
    /// `.wandb` files by their path below the job's folder.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileMark>,
}

/// A rank whose files are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankMark {
    /// Its process.
    #[serde(flatten)]
    pub proc: ProcId,
    /// Where its output goes, and its errors.
    pub outputs: [Option<PathBuf>; 2],
    /// Where its rows go.
    pub seat: Seat,
}

/// A `.wandb` file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileMark {
    /// Counts the files of a job.
    pub n: u64,
    /// Its run.
    pub run: String,
    /// Bytes that are committed.
    pub len: u64,
    /// Whether it is still written to.
    pub is_open: bool,
    /// Whether its run is shared.
    pub shared: bool,
}

impl Cursor {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.ranks.is_empty() && self.sources.is_empty() && self.runs.is_empty() && self.files.is_empty()
    }

    /// Takes over what a record changes.
    pub fn take(&mut self, change: Cursor) {
        self.ranks.extend(change.ranks);
        self.sources.extend(change.sources);
        self.runs.extend(change.runs);
        self.files.extend(change.files);
    }

    fn fits(&self, root: &Path) -> bool {
        let length = |path: &String| fs::metadata(root.join(path)).map_or(0, |meta| meta.len());
        self.files.iter().all(|(path, file)| length(path) >= file.len)
    }
}

/// The file.
#[derive(Debug)]
pub struct CursorFile {
    path: PathBuf,
    file: File,
    len: u64,
    /// When it is written anew.
    limit: u64,
}

impl CursorFile {
    /// Opens the file of a job whose folder is `root`, and gives what is committed. A new one is empty.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn open(root: &Path) -> io::Result<(CursorFile, Cursor)> {
        let path = root.join("wandb/cursor.jsonl");
        let (mut whole, mut len, mut is_good) = (Cursor::default(), 0, true);
        storage::recover(&path, |line| {
            let record = serde_json::from_slice::<Cursor>(line).ok();
            is_good &= record.as_ref().is_some_and(|record| record.fits(root));
            if let Some(record) = record.filter(|_| is_good) {
                whole.take(record);
                len += line.len() as u64 + 1;
            }
        })?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        file.set_len(len)?;
        Ok((CursorFile { path, file, len, limit: ROTATE.max(len) }, whole))
    }

    /// Appends a record, or nothing when the disk refuses.
    ///
    /// # Errors
    /// The disk refuses; it can be tried again.
    pub fn append(&mut self, change: &Cursor) -> io::Result<()> {
        let mut line = serde_json::to_vec(change)?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all_at(&line, self.len) {
            // Failing this, the next record overwrites what is torn, and a reader stops there.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += line.len() as u64;
        Ok(())
    }

    /// Writes what holds in the place of all records, when there are many. A disk that refuses leaves the file as it
    /// is.
    pub fn tidy(&mut self, whole: &Cursor) {
        if self.len < self.limit {
            return;
        }
        let mut beside = self.path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let written = serde_json::to_vec(whole).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            let file = File::create(&beside)?;
            file.write_all_at(&line, 0)?;
            // Without it, a loss of power may leave an empty file under the name.
            file.sync_data()?;
            fs::rename(&beside, &self.path)?;
            Ok((file, line.len() as u64))
        });
        match written {
            Ok((file, len)) => (self.file, self.len, self.limit) = (file, len, ROTATE.max(4 * len)),
            Err(_) => self.limit = self.len + ROTATE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(run: &str, rows: u64, len: u64) -> Cursor {
        let book = Book { rows, ..Book::default() };
        let file = FileMark { n: 0, run: run.into(), len, is_open: true, shared: false };
        Cursor {
            runs: BTreeMap::from([(run.to_owned(), book)]),
            files: BTreeMap::from([("wandb/f".to_owned(), file)]),
            sources: BTreeMap::from([("1-1/out".to_owned(), Position { done: rows, in_long_line: false })]),
            ..Cursor::default()
        }
    }

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("wandb")).unwrap();
        fs::write(dir.path().join("wandb/f"), "x".repeat(100)).unwrap();
        dir
    }

    #[test]
    fn a_cut_at_any_byte_costs_the_last_record_alone() {
        let dir = folder();
        let path = dir.path().join("wandb/cursor.jsonl");
        let (mut file, whole) = CursorFile::open(dir.path()).unwrap();
        assert!(whole.is_empty());
        let mut ends = vec![0];
        for rows in 1..=3 {
            file.append(&record("a", rows, rows * 10)).unwrap();
            ends.push(file.len);
        }
        let bytes = fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let kept = ends.iter().filter(|end| **end <= cut as u64).count() as u64 - 1;
            let (mut file, mut whole) = CursorFile::open(dir.path()).unwrap();
            let expected = if kept == 0 { Cursor::default() } else { record("a", kept, kept * 10) };
            assert_eq!(whole, expected, "cut at {cut}");
            file.append(&record("b", 7, 50)).unwrap();
            whole.take(record("b", 7, 50));
            assert_eq!(CursorFile::open(dir.path()).unwrap().1, whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_record_of_bytes_that_the_disk_lost_does_not_count() {
        let dir = folder();
        let (mut file, _) = CursorFile::open(dir.path()).unwrap();
        for (rows, len) in [(1, 100), (2, 101), (3, 90)] {
            file.append(&record("a", rows, len)).unwrap();
        }
        assert_eq!(CursorFile::open(dir.path()).unwrap().1, record("a", 1, 100));
    }

    #[test]
    fn many_records_become_one() {
        let dir = folder();
        let (mut file, mut whole) = CursorFile::open(dir.path()).unwrap();
        file.limit = 1000;
        for rows in 1..100 {
            file.append(&record("a", rows, rows)).unwrap();
            whole.take(record("a", rows, rows));
            file.tidy(&whole);
            file.limit = file.limit.min(1000);
        }
        assert!(file.len < 1200, "{}", file.len);
        assert_eq!(CursorFile::open(dir.path()).unwrap().1, record("a", 99, 99));
    }
}
