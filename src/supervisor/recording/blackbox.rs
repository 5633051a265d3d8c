//! The black box: every sample of a job for a while, and those of the minutes before each failure for good.
//!
//! A thread of its own writes gzipped files of five minutes each. Files without a failure get coarser after an hour and
//! go after a day, as the journal has a figure for each minute; those with one stay. The limit of size takes files
//! without a failure first, oldest first; then those with one get coarser; only what is coarsest already is removed.

use std::{
    fs::{DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use flate2::write::GzEncoder;
use tokio::sync::watch;

use super::segments::{self, GRAINS, Segment};
use crate::{
    domain::{
        event::Event,
        replay::{self, Keep},
        time::Stamp,
    },
    supervisor::storage::Health,
};

/// Batches that may wait for the disk before more are dropped and counted.
const QUEUE: usize = 16;
/// How long samples are gathered before they are written.
const GATHER: Duration = Duration::from_secs(5);
/// How much time one file holds.
const LENGTH: Duration = Duration::from_secs(300);
/// Most bytes of one file before they are packed.
const MAX_RAW: u64 = 32 << 20;
/// A file stays whole for this long; after that one sample in ten seconds is left.
const WHOLE: Duration = Duration::from_secs(3600);
/// A file without a failure is kept for this long.
const COARSE: Duration = Duration::from_secs(24 * 3600);
/// How long after a failure the figures are kept as those before it.
const AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Batch {
    events: Vec<Event>,
    /// Failures among what happened since the batch before.
    failures: Vec<Stamp>,
}

/// The supervisor's end: takes samples, never waits.
#[derive(Debug)]
pub struct BlackBox {
    queue: Option<SyncSender<Batch>>,
    thread: Option<JoinHandle<()>>,
    health: watch::Receiver<Health>,
    overflow: u64,
    batch: Batch,
}

impl BlackBox {
    /// Starts the thread, for a box in this folder of a job. With no bytes to keep it does nothing.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn open(job: &Path, keep: Keep) -> io::Result<BlackBox> {
        let (report, health) = watch::channel(Health::default());
        let mut opened = BlackBox { queue: None, thread: None, health, overflow: 0, batch: Batch::default() };
        if keep.bytes > 0 {
            let (queue, batches) = sync_channel(QUEUE);
            let folder = job.join(segments::BOX);
            let run = move || Writer::new(folder, keep, report).run(&batches);
            opened.thread = Some(thread::Builder::new().name("elastictop-box".into()).spawn(run)?);
            opened.queue = Some(queue);
        }
        Ok(opened)
    }

    /// Takes the samples among these events, and notes failures.
    pub fn keep(&mut self, events: &[Event]) {
        if self.queue.is_none() {
            return;
        }
        for event in events {
            if event.fact.is_sample() {
                self.batch.events.push(event.clone());
            } else if replay::is_worth_keeping(&event.fact) {
                self.batch.failures.push(event.at);
            }
        }
        let oldest = self.batch.events.first().map(|event| event.at);
        let is_due = oldest.zip(events.last()).is_some_and(|(oldest, last)| last.at.since(oldest) >= GATHER);
        if is_due || !self.batch.failures.is_empty() {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let is_empty = self.batch.events.is_empty() && self.batch.failures.is_empty();
        let Some(queue) = self.queue.as_ref().filter(|_| !is_empty) else { return };
        let batch = std::mem::take(&mut self.batch);
        if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) = queue.try_send(batch) {
            self.overflow += batch.events.len() as u64;
            // Which minutes are to be kept must not get lost with them.
            self.batch.failures = batch.failures;
        }
    }

    /// How the writing goes.
    pub fn health(&self) -> Health {
        let mut health = self.health.borrow().clone();
        health.lost += self.overflow;
        health.error = health.error.map(|error| format!("elastictop cannot keep its black box: {error}"));
        health
    }

    /// Writes what waits and ends the thread.
    pub fn close(&mut self) {
        self.hand_over();
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has nothing left to tell.
            let _ = thread.join();
        }
    }
}

struct Open {
    segment: Segment,
    packed: GzEncoder<File>,
    raw: u64,
}

struct Writer {
    folder: PathBuf,
    keep: Keep,
    report: watch::Sender<Health>,
    open: Option<Open>,
    /// All files but the open one, oldest first.
    done: Vec<Segment>,
    /// Files that begin before this are kept.
    keep_until: Stamp,
    now: Stamp,
}

impl Writer {
    fn new(folder: PathBuf, keep: Keep, report: watch::Sender<Health>) -> Writer {
        let done = segments::list(&folder);
        Writer { folder, keep, report, open: None, done, keep_until: Stamp(0), now: Stamp(0) }
    }

    fn run(mut self, batches: &Receiver<Batch>) {
        while let Ok(batch) = batches.recv() {
            let count = batch.events.len() as u64;
            let mut written = self.take(&batch);
            if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull)
                && self.give_up_one()
            {
                written = self.take(&batch);
            }
            self.tell(written.err().map(|error| error.to_string()), count);
        }
        if let Err(error) = self.finish() {
            self.tell(Some(error.to_string()), 0);
        }
    }

    fn tell(&self, error: Option<String>, lost: u64) {
        self.report.send_if_modified(|health| {
            let is_new = health.error != error || error.is_some();
            health.lost += if error.is_some() { lost } else { 0 };
            health.error = error;
            is_new
        });
    }

    fn take(&mut self, batch: &Batch) -> io::Result<()> {
        let written = self.write(&batch.events);
        if written.is_err() {
            // What was written of it can be read up to where it breaks off.
            self.open = None;
            self.done = segments::list(&self.folder);
        }
        batch.failures.iter().try_for_each(|at| self.pin(*at))?;
        written?;
        self.limit()
    }

    fn write(&mut self, events: &[Event]) -> io::Result<()> {
        for event in events {
            self.now = self.now.max(event.at);
            let is_full = |open: &Open| {
                event.at.since(open.segment.from) >= LENGTH
                    || open.raw >= MAX_RAW
                    || open.segment.bytes >= (self.keep.bytes / 8).max(64 << 10)
            };
            if self.open.as_ref().is_some_and(is_full) {
                self.finish()?;
                self.grow_old();
            }
            let line = segments::event_line(event);
            let open = match &mut self.open {
                Some(open) => open,
                None => {
                    let open = self.begin(event.at)?;
                    self.open.insert(open)
                }
            };
            open.packed.write_all(&line)?;
            open.raw += line.len() as u64;
        }
        if let Some(open) = self.open.as_mut().filter(|_| !events.is_empty()) {
            open.packed.flush()?;
            open.segment.bytes = open.packed.get_ref().metadata()?.len();
        }
        Ok(())
    }

    fn begin(&self, at: Stamp) -> io::Result<Open> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Two files must not have the same name, and their order is that of their names.
        let last = self.done.last().map_or(Stamp(0), |last| last.from + Duration::from_millis(1));
        let segment = Segment::new(&self.folder, at.max(last), at <= self.keep_until);
        let packed = segments::create(&segment)?;
        Ok(Open { segment, packed, raw: 0 })
    }

    fn finish(&mut self) -> io::Result<()> {
        let Some(Open { mut segment, packed, .. }) = self.open.take() else { return Ok(()) };
        segment.bytes = packed.finish()?.metadata()?.len();
        self.done.push(segment);
        Ok(())
    }

    /// Keeps the files with the minutes before this time, and what comes right after it.
    fn pin(&mut self, at: Stamp) -> io::Result<()> {
        self.keep_until = self.keep_until.max(at + AFTER);
        let from = Stamp(at.0.saturating_sub(self.keep.before_ms));
        let ends: Vec<Stamp> = self.done.iter().skip(1).map(|next| next.from).collect();
        for (number, segment) in self.done.iter_mut().enumerate() {
            let end = ends.get(number).copied().unwrap_or(at);
            if end >= from && segment.from <= at && !segment.kept {
                segment.keep()?;
            }
        }
        match &mut self.open {
            Some(open) if !open.segment.kept => open.segment.keep(),
            _ => Ok(()),
        }
    }

    /// Makes files coarser that have no failure, and removes the oldest of them.
    fn grow_old(&mut self) {
        let now = self.now;
        let mut left = Vec::with_capacity(self.done.len());
        for segment in std::mem::take(&mut self.done) {
            let age = now.since(segment.from);
            // What cannot be thinned or removed is tried again after five minutes.
            if !segment.kept && age > COARSE && segment.remove().is_ok() {
                continue;
            }
            let thinner = (!segment.kept && age > WHOLE && segment.grain == GRAINS[0])
                .then(|| segment.thin().ok().flatten())
                .flatten();
            left.push(thinner.unwrap_or(segment));
        }
        self.done = left;
    }

    fn bytes(&self) -> u64 {
        let open = self.open.as_ref().map_or(0, |open| open.segment.bytes);
        self.done.iter().map(|segment| segment.bytes).sum::<u64>() + open
    }

    /// Keeps to the limit of size.
    fn limit(&mut self) -> io::Result<()> {
        while self.bytes() > self.keep.bytes {
            if self.give_up_one() {
                continue;
            }
            let coarsest = GRAINS[GRAINS.len() - 1];
            let finest = self.done.iter().map(|segment| segment.grain).min().unwrap_or(coarsest);
            let Some(at) = self.done.iter().position(|segment| segment.grain == finest) else {
                return Ok(());
            };
            match self.done[at].thin()? {
                Some(thinner) => self.done[at] = thinner,
                None => self.done.remove(at).remove()?,
            }
        }
        Ok(())
    }

    /// Removes the oldest file without a failure; false when there is none.
    fn give_up_one(&mut self) -> bool {
        let Some(at) = self.done.iter().position(|segment| !segment.kept) else { return false };
        self.done.remove(at).remove().is_ok()
    }
}

#[cfg(test)]
mod tests;
