//! From records to one request: folds what lies behind the cursor, as far as it fits.

use prost::Message;

use super::{
    body::{Body, Lines},
    console,
    cursor::Cursor,
    row::{self, LONGEST_LINE, Taken},
    source::{Next, Source},
};
use crate::wandb::log::{
    Failure, json,
    record::{Exit, FilesItem, Kind, Output, Record, Stats, Timestamp},
};

/// What can be sent at once.
#[derive(Debug)]
pub(super) struct Batch {
    /// The cursor once it is sent.
    pub(super) next: Cursor,
    /// The lines.
    pub(super) body: Body,
    /// Why there is not more in it.
    pub(super) stop: Stop,
}

/// Why a batch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// There is no more so far.
    Dry,
    /// No more fits.
    Full,
    /// The run begins, or goes on in another file: it is upserted before what follows. Such a batch has no lines.
    Begins,
    /// The run ends here.
    Ends,
}

/// Folds records from the cursor on, up to about `limit` bytes of lines.
///
/// # Errors
/// A file cannot be read.
pub(super) fn gather(source: &mut Source, cursor: &Cursor, limit: usize) -> Result<Batch, Failure> {
    let mut batch = Batch { next: cursor.clone(), body: Body::default(), stop: Stop::Dry };
    let mut at = source.position(cursor);
    loop {
        match source.next(cursor)? {
            Next::End => break,
            Next::Damage => batch.next.damaged += 1,
            Next::Record => {
                let payload = source.payload();
                if batch.is_too_small_for(payload.len(), limit) {
                    batch.stop = Stop::Full;
                    break;
                }
                if let Some(stop) = batch.take(payload) {
                    batch.stop = stop;
                    if stop != Stop::Begins || batch.body.is_empty() {
                        at = source.position(cursor);
                    } else {
                        // First what came before; the record is read again.
                        batch.stop = Stop::Full;
                    }
                    break;
                }
            }
        }
        at = source.position(cursor);
    }
    (batch.next.segment, batch.next.offset) = at;
    Ok(batch)
}

impl Batch {
    fn is_too_small_for(&self, payload: usize, limit: usize) -> bool {
        // Quotes take two bytes inside of a request.
        !self.body.is_empty() && self.body.len() + payload + payload / 2 > limit
    }

    fn take(&mut self, payload: &[u8]) -> Option<Stop> {
        if self.next.about.id.is_empty() {
            return self.take_other(payload).filter(|stop| *stop == Stop::Begins);
        }
        self.decide_shift(payload);
        let next = &mut self.next;
        let is_counted = next.rows < next.known_rows;
        let is_known = is_counted || next.history < next.has.history;
        let lines = &mut self.body.history;
        match row::take(payload, next.shift, &mut next.last, lines.1.open()) {
            Taken::Row if is_known => {
                // It is folded, but not sent.
                *lines = (0, Lines::default());
                next.history += u64::from(!is_counted);
                next.rows += 1;
            }
            Taken::Row => {
                lines.1.added();
                if lines.1.count() == 1 {
                    lines.0 = next.history;
                }
                next.history += 1;
                next.rows += 1;
                next.summary_due = true;
            }
            Taken::Lost => {
                lines.1.not_added();
                next.lost += 1;
            }
            Taken::Other => {
                lines.1.not_added();
                return self.take_other(payload);
            }
        }
        None
    }

    /// The first row decides whether its step already continues that of the server.
    fn decide_shift(&mut self, payload: &[u8]) {
        if let Some(first) = self.next.first_step
            && let Some(step) = row::step_of(payload)
        {
            self.next.first_step = None;
            self.next.shift.step = (first - step).max(0);
        }
    }

    fn take_other(&mut self, payload: &[u8]) -> Option<Stop> {
        let next = &mut self.next;
        let Ok(record) = Record::decode(payload) else {
            next.damaged += 1;
            return None;
        };
        match record.kind? {
            Kind::Run(run) => {
                if !self.body.is_empty() {
                    return Some(Stop::Begins);
                }
                next.about.run(&run);
                run.summary.iter().flat_map(|summary| &summary.update).for_each(|item| {
                    next.summary.set(item.path(), item.json());
                });
                next.begins = true;
                return Some(Stop::Begins);
            }
            Kind::Exit(exit) => {
                self.end(exit);
                return Some(Stop::Ends);
            }
            Kind::Summary(changes) => {
                changes.update.iter().for_each(|item| next.summary.set(item.path(), item.json()));
                changes.remove.iter().for_each(|item| next.summary.remove(item.path()));
                next.summary_due = true;
            }
            Kind::Config(changes) => {
                next.about.config(&changes);
                next.config_due = true;
            }
            Kind::Metric(metric) => {
                next.about.metric(&metric);
                next.config_due = true;
            }
            Kind::Telemetry(telemetry) => next.about.telemetry(&telemetry),
            Kind::Environment(machine) => {
                next.about.environment(&machine);
                next.config_due = true;
            }
            Kind::Stats(stats) => self.event(&stats),
            Kind::Output(piece) => self.console(&piece),
            Kind::OutputLogger(logged) => {
                let line = logged.line + "\n";
                self.console(&Output { output_type: Output::STDOUT, line, ..Output::default() });
            }
            Kind::Files(files) => {
                for file in files.files {
                    match file.kind {
                        FilesItem::WANDB => {}
                        FilesItem::MEDIA => self.leave_out("media file"),
                        _ => self.leave_out("saved file"),
                    }
                }
            }
            Kind::Artifact(_) | Kind::UseArtifact(_) => self.leave_out("artifact"),
            Kind::Alert(_) => self.leave_out("alert"),
            // A row that `row::take` could not read.
            Kind::History(_) => next.lost += 1,
            Kind::Header(_) | Kind::Footer(_) | Kind::Preempting(_) => {}
        }
        None
    }

    fn leave_out(&mut self, kind: &str) {
        *self.next.left_out.entry(kind.to_owned()).or_default() += 1;
    }

    /// System metrics become a line of events.
    fn event(&mut self, stats: &Stats) {
        let at = stats.timestamp.unwrap_or_default();
        let at = at.seconds as f64 + f64::from(at.nanos) / 1e9;
        let about = &self.next.about;
        let runtime = at - about.started + about.earlier + self.next.shift.runtime;
        let mut line = format!("{{\"_wandb\":true,\"_timestamp\":{at:?},\"_runtime\":{runtime:?}");
        for item in &stats.items {
            let key = format!("system.{}", item.path().join("."));
            let value = if item.json().is_empty() { "null" } else { item.json() };
            line += &format!(",{}:{}", json::text(&key), value.replace(['\n', '\r'], " "));
        }
        line.push('}');
        if line.len() > LONGEST_LINE {
            self.next.damaged += 1;
            return;
        }
        if self.next.rows < self.next.known_rows {
            return;
        }
        if self.next.events >= self.next.has.events {
            add(&mut self.body.events, self.next.events, &line);
        }
        self.next.events += 1;
    }

    fn console(&mut self, piece: &Output) {
        let lines = console::feed(&mut self.next.open, piece);
        self.lines(&lines);
    }

    fn lines(&mut self, lines: &[console::Line]) {
        let is_known = self.next.rows < self.next.known_rows;
        for line in lines.iter().filter(|_| !is_known) {
            if self.next.console >= self.next.has.console {
                add(&mut self.body.console, self.next.console, &line.wire(self.next.structured));
            }
            self.next.console += 1;
        }
    }

    fn end(&mut self, exit: Exit) {
        let seconds = self.next.about.started as i64 + i64::from(exit.runtime);
        let lines = console::flush(&mut self.next.open, Timestamp { seconds, nanos: 0 });
        self.lines(&lines);
        self.next.exit_code = Some(exit.exit_code);
    }
}

fn add(lines: &mut (u64, Lines), offset: u64, line: &str) {
    if lines.1.count() == 0 {
        lines.0 = offset;
    }
    lines.1.push(line);
}

/// Takes what a run is said to be before its first row; `from` stays where it stands.
pub(super) fn names_before_rows(source: &mut Source, from: &mut Cursor) {
    while let Ok(next) = source.next(from) {
        let payload = match next {
            Next::End => return,
            Next::Damage => continue,
            Next::Record => source.payload(),
        };
        if row::is_row(payload) {
            return;
        }
        match Record::decode(payload).ok().and_then(|record| record.kind) {
            Some(Kind::Run(run)) => from.about.run(&run),
            Some(Kind::Exit(_)) => return,
            _ => {}
        }
    }
}

/// The row that `is_it` finds, and how many rows come up to it, itself included; `None` if there is none.
pub(super) fn rows_up_to(
    source: &mut Source,
    from: &Cursor,
    is_it: impl Fn(&str) -> bool,
) -> Option<(u64, String)> {
    let (mut seen, mut line, mut last) = (0, Vec::new(), row::Last::default());
    loop {
        match source.next(from).ok()? {
            Next::End => return None,
            Next::Damage => {}
            Next::Record => {
                line.clear();
                if row::take(source.payload(), row::Shift::default(), &mut last, &mut line) == Taken::Row {
                    seen += 1;
                    let line = serde_json::from_slice::<String>(&line).unwrap_or_default();
                    if is_it(&line) {
                        return Some((seen, line));
                    }
                }
            }
        }
    }
}
