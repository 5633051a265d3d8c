//! How far a run is sent: the place in its files, and all that the next request needs to know of what lies before.
//!
//! Kept in a file that is replaced as a whole after each answer, so that it is valid whenever the process dies. It may
//! lag behind what the server has by one request, which is then sent again as it was.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    config::About,
    console::Open,
    row::{Last, Shift},
    tree::Tree,
};
use crate::wandb::client::RunPath;

/// The version of the file.
const VERSION: u32 = 1;

/// How far a run is sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cursor {
    v: u32,
    /// Number of the file that comes next, among the run's files.
    pub(super) segment: usize,
    /// Place in that file: the end of the last record that is sent.
    pub(super) offset: u64,
    /// This client's id in a shared run.
    pub(super) client: String,
    pub(super) about: About,
    /// Where the run is; `None` before the server was asked.
    pub(super) place: Option<RunPath>,
    /// The server's id of the run.
    pub(super) bucket: String,
    /// Whether the server takes console lines as objects.
    pub(super) structured: bool,
    /// Whether the run has to be upserted before more is sent: it is new, or goes on after its end.
    pub(super) begins: bool,
    pub(super) config_due: bool,
    pub(super) summary: Tree,
    pub(super) summary_due: bool,
    pub(super) shift: Shift,
    /// The step that the server continues with; steps below it are shifted. `None` once that is decided.
    pub(super) first_step: Option<i64>,
    pub(super) last: Last,
    /// Offsets of the next line of each file.
    pub(super) history: u64,
    pub(super) events: u64,
    pub(super) console: u64,
    pub(super) open: Open,
    /// Lines of these files that the server was found to have, although no cursor says so.
    pub(super) has: Has,
    /// Rows of these files that are on the server after rows of others: all up to the last of them is there.
    pub(super) known_rows: u64,
    /// Rows of these files that are sent.
    pub(super) rows: u64,
    /// Rows that are too long or unreadable.
    pub(super) lost: u64,
    /// Records of these files that are not rows and cannot be read.
    pub(super) damaged: u64,
    /// What is not sent, by kind.
    pub(super) left_out: BTreeMap<String, u64>,
    /// Names of files that are stored and not yet told.
    pub(super) stored: Vec<String>,
    /// Whether the files of the run are stored.
    pub(super) has_files: bool,
    /// The exit code, once the files hold an end.
    pub(super) exit_code: Option<i32>,
    /// Whether that is said to the server.
    pub(super) complete: bool,
}

/// How many lines of each file the server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Has {
    pub(super) history: u64,
    pub(super) events: u64,
    pub(super) console: u64,
}

impl Cursor {
    /// The cursor of a run of which nothing is sent.
    fn new() -> Cursor {
        Cursor { v: VERSION, client: uuid::Uuid::now_v7().to_string(), begins: true, ..Cursor::default() }
    }

    /// Reads a cursor, or begins one. A file that is none is as good as missing: the server is asked what it has.
    ///
    /// # Errors
    /// The file is there and cannot be read, or is of a newer elastictop.
    pub(super) fn read(path: &Path) -> io::Result<Cursor> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Cursor::new()),
            other => other?,
        };
        match serde_json::from_slice::<Cursor>(&bytes) {
            Ok(cursor) if cursor.v == VERSION && !cursor.client.is_empty() => Ok(cursor),
            Ok(cursor) if cursor.v > VERSION => Err(io::Error::other("it is of a newer elastictop")),
            _ => Ok(Cursor::new()),
        }
    }

    /// Keeps it: a reader sees this one or the one before.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn keep(&self, path: &Path) -> io::Result<()> {
        let mut beside = path.to_owned();
        beside.as_mut_os_string().push(".new");
        fs::write(&beside, serde_json::to_vec(self)?)?;
        fs::rename(&beside, path)
    }

    /// Rows that the server has, by the cursor in a file; `None` if there is none.
    pub fn rows_acked(path: &Path) -> Option<u64> {
        Some(Cursor::read(path).ok()?.rows).filter(|_| path.exists())
    }

    /// What is not sent, in words: `2 media files`.
    pub(super) fn not_forwarded(&self) -> Vec<String> {
        let plural = |n: u64| if n == 1 { "" } else { "s" };
        let mut all: Vec<_> =
            self.left_out.iter().map(|(kind, n)| format!("{n} {kind}{}", plural(*n))).collect();
        if self.damaged > 0 {
            all.push(format!("{} unreadable record{}", self.damaged, plural(self.damaged)));
        }
        all
    }

    /// The whole summary as one line.
    pub(super) fn summary_line(&self) -> String {
        let mut summary = self.summary.clone();
        let mut set = |key: &[&str], value: &str| {
            let path: Vec<_> = key.iter().map(|part| (*part).to_owned()).collect();
            if !value.is_empty() {
                summary.set(&path, value);
            }
        };
        let seconds = self.last.runtime.parse::<f64>().map(|seconds| (seconds as i64).to_string());
        let seconds = seconds.unwrap_or_default();
        set(&["_step"], &self.last.step);
        set(&["_timestamp"], &self.last.timestamp);
        set(&["_runtime"], &seconds);
        set(&["_wandb", "runtime"], &seconds);
        summary.json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_and_a_broken_one_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sent");
        let mut cursor = Cursor::read(&path).unwrap();
        assert!(cursor.begins && cursor.rows == 0);
        cursor.rows = 12;
        cursor.last.step = "11".into();
        cursor.summary.set(&["a".into(), "b".into()], "NaN");
        cursor.keep(&path).unwrap();
        assert_eq!(Cursor::read(&path).unwrap(), cursor);
        assert_eq!(Cursor::rows_acked(&path), Some(12));
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let again = Cursor::read(&path).unwrap();
            assert_eq!((again.rows, again.begins), (0, true), "cut at {length}");
        }
        fs::write(&path, r#"{"v":2,"client":"x"}"#).unwrap();
        assert!(Cursor::read(&path).is_err());
    }
}
