//! The `.wandb` transaction log: the durable queue of all that is logged, and the file that `wandb sync` and
//! `wandb leet` read.
//!
//! [`frame`] and [`json`] are pure: bytes and text. [`record`] is what the bytes say. [`Writer`], [`Reader`]
//! and [`Tail`] are a thin layer over a file.
//!
//! ```
//! use elastictop::{
//!     domain::time::Stamp,
//!     wandb::log::{Batch, Entry, Reader, Writer, json, record::{Exit, Kind, Run}},
//! };
//!
//! let dir = tempfile::tempdir()?;
//! let start = Stamp(1_795_167_616_000);
//! let mut writer = Writer::create(dir.path(), "ab12cd34", start)?;
//! let mut batch = Batch::new();
//! batch.push(&Kind::Run(Box::new(Run {
//!     run_id: "ab12cd34".into(),
//!     project: "demo".into(),
//!     start_time: Some(start.into()),
//!     ..Run::default()
//! })))?;
//! // Values are JSON text and stay as they are.
//! let times = [("_timestamp", "1795167616.5"), ("_runtime", "0.5")];
//! batch.row([("loss", "0.25"), ("grad", "NaN"), ("_step", "0")].into_iter().chain(times))?;
//! batch.push(&Kind::Exit(Exit { exit_code: 0, runtime: 1 }))?;
//! let committed = writer.append(&batch)?;
//!
//! let mut reader = Reader::open(writer.path(), 0)?;
//! let mut rows = Vec::new();
//! while let Some(entry) = reader.next_before(committed)? {
//!     if let Entry::Record(found) = entry && let Some(Kind::History(row)) = found.record.kind {
//!         rows.push(row.json());
//!     }
//! }
//! assert_eq!(rows, [r#"{"loss":0.25,"grad":NaN,"_step":0,"_timestamp":1795167616.5,"_runtime":0.5}"#]);
//! assert_eq!(reader.end(), committed);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! After a crash [`Writer::reopen`] goes on at the length that was committed, and a reader at the end of the
//! last record that it had dealt with.

pub mod frame;
pub mod json;
mod reader;
pub mod record;
mod writer;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

pub use reader::{Entry, Found, Look, Reader, Tail};
pub use writer::{Batch, TooLong, Writer};

use crate::error::Error;

/// A file that cannot be made, written or read.
#[derive(Debug)]
pub struct Failure {
    what: &'static str,
    path: PathBuf,
    /// Why.
    pub cause: io::Error,
    /// Up to where the file holds whole records all the same.
    pub valid: u64,
}

impl Failure {
    fn new(what: &'static str, path: &Path, cause: io::Error, valid: u64) -> Failure {
        Failure { what, path: path.to_owned(), cause, valid }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.what, self.path.display(), self.cause)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::io(failure.what, &failure.path, &failure.cause)
    }
}
