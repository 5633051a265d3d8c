//! `elastictop export`: a stretch of a job in one file, without secrets.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use super::job::{EVER, JobReader};
use crate::{
    domain::{
        event::{Event, Fact},
        log::{Anchor, LogFilter, LogLine, LogQuery, MAX_PAGE},
        redact::{self, Secrets},
        replay::{Header, Redaction},
        report::SCHEMA,
        state::State,
        time::Stamp,
    },
    error::{Error, Result},
    supervisor::{archive, bundle, folder::Manifest, forensic, journal, logbook::Logbook, place::Roots},
};

/// Most bytes of log lines, the newest of the stretch.
const MOST_LOG: u64 = 32 << 20;

/// What is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// From when on; `None` is from the beginning.
    pub from: Option<Stamp>,
    /// Up to when; `None` is up to the end.
    pub to: Option<Stamp>,
    /// Without words, names and lines.
    pub redact: bool,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Events.
    pub events: u64,
    /// Log lines.
    pub lines: u64,
    /// Length of the file.
    pub bytes: u64,
    /// When the first and the last of the events happened.
    pub span: Option<(Stamp, Stamp)>,
    /// What is not in it, one sentence each.
    pub missing: Vec<String>,
}

/// Writes a recording of a job that only its owner can read, all or nothing.
///
/// # Errors
/// The job's files cannot be read, hold nothing of that time, or the file cannot be written.
pub fn export(roots: &Roots, manifest: &Manifest, window: Window, path: &Path) -> Result<Exported> {
    let dir = roots.job(&manifest.id);
    let journal = dir.journal();
    let past = journal::read(&journal, |_| {}).map_err(|error| Error::io("cannot read", &journal, &error))?;
    let ranks = forensic::living(&past.state, Some(&roots.beat(&manifest.id)), None);
    if !window.redact {
        bundle::check_secrets(&dir)?;
    }
    let clean = Cleaning { secrets: bundle::secrets(&dir, manifest, &ranks) };
    let mut book = archive::open_logs(&dir)?;
    book.hide(Secrets::default());
    let (from, to) = (window.from.unwrap_or_default(), window.to.unwrap_or(EVER));
    let mut lines = if window.redact { None } else { Some(LogStretch::new(&book, from, to)) };
    let mut missing = Vec::new();
    if lines.as_ref().is_some_and(|lines| lines.is_cut) {
        missing.push("the oldest log lines are left out: there are more than a recording takes".to_owned());
    }
    let told = |error: io::Error| Error::io("cannot write", path, &error).hint("name another file with -o");
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(folder).map_err(told)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o600)).map_err(told)?;
    let mut out = Out { packed: GzEncoder::new(file, Compression::default()), clean };
    let header = Header {
        from: window.from,
        to: window.to,
        redacted: window.redact,
        missing: missing.clone(),
        ..Header::new(SCHEMA)
    };
    out.line(&serde_json::to_value(header).unwrap_or_default()).map_err(told)?;
    let mut exported = Exported { missing, ..Exported::default() };
    let mut reader = JobReader::open(&dir)?;
    let mut redaction = window.redact.then(Redaction::default);
    let mut before = State::default();
    let mut began = window.from.is_none();
    while let Some(event) = reader.read() {
        let event = match &mut redaction {
            Some(redaction) => redaction.event(event),
            None => Some(event),
        };
        let Some(event) = event.filter(|event| event.at <= to) else { continue };
        if event.at < from {
            before.apply(&event);
            continue;
        }
        if !began {
            began = true;
            out.begin(&before, from).map_err(told)?;
        }
        while let Some(line) = lines.as_mut().and_then(|lines| lines.until(event.at)) {
            out.log(&line).map_err(told)?;
            exported.lines += 1;
        }
        out.event(&event).map_err(told)?;
        exported.events += 1;
        exported.span = Some((exported.span.map_or(event.at, |(first, _)| first), event.at));
    }
    while let Some(line) = lines.as_mut().and_then(|lines| lines.until(to)) {
        out.log(&line).map_err(told)?;
        exported.lines += 1;
    }
    if exported.events == 0 {
        return Err(nothing(&past.state, window));
    }
    exported.missing.extend(reader.trouble().sentences());
    let file = out.packed.finish().map_err(told)?;
    exported.bytes = file.as_file().metadata().map_err(told)?.len();
    file.persist(path).map_err(|error| told(error.error))?;
    Ok(exported)
}

fn nothing(state: &State, window: Window) -> Error {
    let at = |at: Option<Stamp>, otherwise: &str| at.map_or(otherwise.to_owned(), |at| at.to_string());
    Error::usage(format!(
        "nothing was recorded from {} to {}",
        at(window.from, "the beginning"),
        at(window.to, "the end")
    ))
    .hint(format!("the job's events are from {} to {}", at(state.started_at, "n/a"), state.at))
}

struct Out {
    packed: GzEncoder<tempfile::NamedTempFile>,
    clean: Cleaning,
}

impl Out {
    fn begin(&mut self, before: &State, at: Stamp) -> io::Result<()> {
        let state = Box::new(State { at, ..before.clone() });
        self.event(&Event { seq: 0, at, fact: Fact::Snapshot { state } })
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        let mut value = serde_json::from_slice(&journal::line(event))?;
        self.clean.value(&mut value);
        self.line(&value)
    }

    fn log(&mut self, line: &LogLine) -> io::Result<()> {
        let mut value = json!({ "log": line });
        self.clean.value(&mut value);
        self.line(&value)
    }

    fn line(&mut self, value: &Value) -> io::Result<()> {
        serde_json::to_writer(&mut self.packed, value)?;
        self.packed.write_all(b"\n")
    }
}

/// Takes secrets out of every text, known ones and what looks like one.
struct Cleaning {
    secrets: Secrets,
}

impl Cleaning {
    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) if is_time(text) || text.len() < 8 => {}
            Value::String(text) => *text = redact::unknown(&self.secrets.hide(std::mem::take(text))),
            Value::Array(all) => all.iter_mut().for_each(|value| self.value(value)),
            Value::Object(all) => all.values_mut().for_each(|value| self.value(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

fn is_time(text: &str) -> bool {
    text.len() == 24 && text.ends_with('Z') && text.as_bytes()[10] == b'T'
}

/// The log lines of a stretch of time, a page at a time.
struct LogStretch<'a> {
    book: &'a Logbook,
    page: std::vec::IntoIter<LogLine>,
    held: Option<LogLine>,
    next: u64,
    end: u64,
    is_cut: bool,
}

impl LogStretch<'_> {
    fn new(book: &Logbook, from: Stamp, to: Stamp) -> LogStretch<'_> {
        let (next, is_cut) = book.first_from(from, to, MOST_LOG);
        LogStretch { book, page: Vec::new().into_iter(), held: None, next, end: book.first_after(to), is_cut }
    }

    /// The next line, if it arrived up to this time.
    fn until(&mut self, at: Stamp) -> Option<LogLine> {
        if self.held.is_none() {
            self.held = self.read();
        }
        self.held.take_if(|line| line.at <= at)
    }

    fn read(&mut self) -> Option<LogLine> {
        if self.page.len() == 0 && self.next < self.end {
            let anchor = Anchor::From(self.next);
            let query = LogQuery::Page { filter: LogFilter::default(), anchor, max: MAX_PAGE };
            self.page = self.book.answer(&query).lines.into_iter();
            // A page without lines: what is left is of files that are gone.
            self.next = self.page.as_slice().last().map_or(self.end, |last| last.n + 1);
        }
        self.page.next().filter(|line| line.n < self.end)
    }
}

#[cfg(test)]
mod tests;
