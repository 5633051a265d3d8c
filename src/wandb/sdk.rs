//! What a rank's own `wandb` SDK logs: its `.wandb` file, read while it grows, in the words of whoever
//! forwards it.
//!
//! The SDK is told to stay offline, to write below the rank's folder and to flush every second. [`files`]
//! finds what it writes there, one file for each `wandb.init()`, and [`Sdk`] reads one:
//!
//! * a row comes as the JSON object that the script logged, with `_step`, `_timestamp` and `_runtime` in it;
//! * values of the summary and the configuration come whole, under their first key. The SDK writes the summary
//!   for each row too, *before* that row, and as `define_metric` has it: whoever takes it must not make one of
//!   the rows;
//! * the console is that of the rank's own output, once more: it is for those who have no other source of it;
//! * files stay where they are. Values that need one are taken out of rows and summary, and counted.

mod media;

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    log::{
        Entry, Failure, Tail,
        record::{Changes, FilesItem, History, Kind, Metric, Output, Run},
    },
    tree::Tree,
};
use crate::domain::time::Stamp;

/// Keys of the summary that the SDK keeps for itself.
const OWN: [&str; 4] = ["_wandb", "_step", "_timestamp", "_runtime"];
/// Types of artifacts that the SDK makes of other things: they are no work of the script's.
const INNER: [&str; 3] = ["run_table", "job", "wandb-history"];
/// Longest line of the console before it is given in pieces, in bytes.
const LONGEST_LINE: usize = 64 << 10;

/// One thing that the script said through its SDK.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Said<'a> {
    /// Which run it means to write: names that the script has in its source win over the environment.
    Run(&'a Run),
    /// A row, as one JSON object.
    Row(&'a str),
    /// A key of the summary and its whole value as JSON text; `None` when it was removed.
    Summary(&'a str, Option<&'a str>),
    /// A key of the configuration and its whole value as JSON text; `None` when it was removed.
    Config(&'a str, Option<&'a str>),
    /// How a metric is plotted and summed up.
    Metric(&'a Metric),
    /// A line of the console, without its end.
    Console {
        /// Whether it is one of standard error.
        is_err: bool,
        /// When its end was written.
        at: Option<Stamp>,
        /// The text, with all that was overwritten on the screen.
        text: &'a str,
    },
    /// The end of the run, with the exit code.
    Exit(i32),
}

/// A file that an SDK writes or wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Whether the SDK keeps it to itself. It sends what it writes elsewhere: that must not be sent again.
    pub is_offline: bool,
}

/// The files of all runs below a rank's folder, the value of its `WANDB_DIR`, in the order of their start.
///
/// # Errors
/// A folder cannot be read; one that is not there has no files.
pub fn files(dir: &Path) -> io::Result<Vec<Place>> {
    let mut found = Vec::new();
    for wandb in [dir.join("wandb"), dir.join(".wandb")] {
        for folder in entries(&wandb)? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let (is_offline, began) = match name.strip_prefix("offline-run-") {
                Some(began) => (true, began),
                None => (false, name.strip_prefix("run-").unwrap_or_default()),
            };
            if began.is_empty() {
                continue;
            }
            for path in entries(&folder)? {
                if path.extension().is_some_and(|extension| extension == "wandb") {
                    found.push((began.to_owned(), Place { path, is_offline }));
                }
            }
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found.into_iter().map(|(_, place)| place).collect())
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        // A folder may also go away while it is looked at, and a link may lead nowhere.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    listed.map(|entry| entry.map(|entry| entry.path())).collect()
}

/// Reads one file.
#[derive(Debug)]
pub struct Sdk {
    tail: Tail,
    /// What lies before was said in an earlier life: it is read again, for what it adds up to.
    said: u64,
    summary: Tree,
    config: Tree,
    /// Lines without an end so far: of standard error and of standard output.
    lines: [String; 2],
    left: Left,
}

/// What is not forwarded.
#[derive(Debug, Default)]
struct Left {
    files: HashSet<String>,
    media: HashSet<String>,
    artifacts: HashSet<String>,
    alerts: u64,
    unreadable: u64,
}

impl Sdk {
    /// Reads a file that need not be there yet. All before `from`, the [`Sdk::position`] of an earlier life,
    /// was said.
    pub fn new(path: PathBuf, from: u64) -> Sdk {
        Sdk {
            tail: Tail::new(path, 0),
            said: from,
            summary: Tree::default(),
            config: Tree::default(),
            lines: [String::new(), String::new()],
            left: Left::default(),
        }
    }

    /// Looks once, takes about 64 KiB, and gives to `each` what is new in them, in its order. Returns
    /// whether there is more to read now.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(&mut self, mut each: impl FnMut(Said<'_>)) -> Result<bool, Failure> {
        let look = self.tail.poll()?;
        if look.restarted {
            // Another run's file under the same name: nothing of the old one holds.
            let tail = std::mem::replace(&mut self.tail, Tail::new(PathBuf::new(), 0));
            *self = Sdk { tail, ..Sdk::new(PathBuf::new(), 0) };
        }
        for entry in look.entries {
            match entry {
                Entry::Damaged(_) => self.left.unreadable += 1,
                Entry::Record(found) => {
                    let Some(kind) = found.record.kind else { continue };
                    let is_new = found.end > self.said;
                    self.take(&kind, &mut |said| {
                        if is_new {
                            each(said);
                        }
                    });
                }
            }
        }
        Ok(look.more)
    }

    /// Where the last record ends that was read or was said in an earlier life, in bytes.
    pub fn position(&self) -> u64 {
        self.tail.end().max(self.said)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.tail.path()
    }

    /// What stays on this machine, in words: `2 media files`.
    pub fn not_forwarded(&self) -> Vec<String> {
        let left = &self.left;
        let counted = [
            (left.files.len() as u64, "saved file"),
            (left.media.len() as u64, "media file"),
            (left.artifacts.len() as u64, "artifact"),
            (left.alerts, "alert"),
            (left.unreadable, "unreadable record"),
        ];
        let words = |(count, name): (u64, &str)| match count {
            0 => None,
            1 => Some(format!("1 {name}")),
            _ => Some(format!("{count} {name}s")),
        };
        counted.into_iter().filter_map(words).collect()
    }

    fn take(&mut self, kind: &Kind, each: &mut impl FnMut(Said<'_>)) {
        match kind {
            Kind::Run(run) => {
                each(Said::Run(run));
                run.config.iter().for_each(|changes| self.config(changes, each));
                run.summary.iter().for_each(|changes| self.summary(changes, each));
            }
            Kind::History(row) => say_row(row, each),
            Kind::Summary(changes) => self.summary(changes, each),
            Kind::Config(changes) => self.config(changes, each),
            Kind::Metric(metric) => each(Said::Metric(metric)),
            Kind::Output(output) => self.console(output, each),
            Kind::Exit(exit) => {
                self.end_lines(each);
                each(Said::Exit(exit.exit_code));
            }
            Kind::Files(files) => files.files.iter().for_each(|file| self.left.file(file)),
            Kind::Artifact(artifact) if !INNER.contains(&artifact.artifact_type.as_str()) => {
                self.left.artifacts.insert(artifact.name.clone());
            }
            Kind::Alert(_) => self.left.alerts += 1,
            // Versions and machine are elastictop's own affair, as are figures of the system.
            _ => {}
        }
    }

    fn summary(&mut self, changes: &Changes, each: &mut impl FnMut(Said<'_>)) {
        for key in fold(&mut self.summary, changes) {
            if !OWN.contains(&key) {
                let value = self.summary.get(key).and_then(media::without);
                each(Said::Summary(key, value.as_deref()));
            }
        }
    }

    fn config(&mut self, changes: &Changes, each: &mut impl FnMut(Said<'_>)) {
        for key in fold(&mut self.config, changes) {
            if key != "_wandb" {
                each(Said::Config(key, self.config.get(key).as_deref()));
            }
        }
    }

    fn console(&mut self, output: &Output, each: &mut impl FnMut(Said<'_>)) {
        let is_err = output.output_type == Output::STDERR;
        let at = output.timestamp.map(Stamp::from);
        let line = &mut self.lines[usize::from(!is_err)];
        for piece in output.line.split_inclusive('\n') {
            line.push_str(piece);
            if line.ends_with('\n') || line.len() > LONGEST_LINE {
                each(Said::Console { is_err, at, text: line.trim_end_matches(['\r', '\n']) });
                line.clear();
            }
        }
    }

    /// The last lines of a console need not have an end.
    fn end_lines(&mut self, each: &mut impl FnMut(Said<'_>)) {
        for (line, is_err) in self.lines.iter_mut().zip([true, false]) {
            if !line.is_empty() {
                each(Said::Console { is_err, at: None, text: line });
                line.clear();
            }
        }
    }
}

impl Left {
    fn file(&mut self, file: &FilesItem) {
        let is_media = file.kind == FilesItem::MEDIA || file.path.starts_with("media/");
        match file.kind {
            // What the SDK makes of itself, as requirements.txt.
            FilesItem::WANDB => {}
            _ if is_media => drop(self.media.insert(file.path.clone())),
            _ => drop(self.files.insert(file.path.clone())),
        }
    }
}

fn say_row(row: &History, each: &mut impl FnMut(Said<'_>)) {
    let text = row.json();
    if !media::may_be_in(&text) {
        return each(Said::Row(&text));
    }
    if let Some(text) = media::without(text) {
        each(Said::Row(&text));
    }
}

/// Takes changes over; gives the keys at the top that they touch, each once.
fn fold<'a>(tree: &mut Tree, changes: &'a Changes) -> Vec<&'a str> {
    let mut keys: Vec<&str> = Vec::new();
    let mut seen = HashSet::new();
    let updates = changes.update.iter().map(|item| (item, true));
    for (item, is_set) in updates.chain(changes.remove.iter().map(|item| (item, false))) {
        if is_set {
            tree.set(item.path(), item.json());
        } else {
            tree.remove(item.path());
        }
        if let Some(key) = item.path().first()
            && seen.insert(key)
        {
            keys.push(key);
        }
    }
    keys
}

#[cfg(test)]
mod tests;
