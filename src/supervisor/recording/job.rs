//! A job of this machine as a recording: its journal, with the samples of its black box among the events.

use std::path::Path;

use super::{
    read::{Entry, Reader, Trouble},
    segments::{self, Segment},
};
use crate::{
    domain::{event::Event, time::Stamp},
    error::Result,
    supervisor::{folder::JobDir, journal},
};

/// Gives the events of a job in order.
#[derive(Debug)]
pub struct JobReader {
    journal: Vec<Reader>,
    next_lasting: Option<Event>,
    segments: Vec<Segment>,
    segment: Option<Reader>,
    next_sample: Option<Event>,
    trouble: Trouble,
}

impl JobReader {
    /// Opens the files of a job.
    ///
    /// # Errors
    /// There is no journal that can be read.
    pub fn open(dir: &JobDir) -> Result<JobReader> {
        JobReader::since(dir, Stamp(0))
    }

    /// The same without files of samples that end before `from`; those of the journal are all there.
    ///
    /// # Errors
    /// As [`JobReader::open`].
    pub fn since(dir: &JobDir, from: Stamp) -> Result<JobReader> {
        JobReader::of(journal::files(&dir.journal()), &dir.root, from)
    }

    pub(super) fn of(files: Vec<std::path::PathBuf>, root: &Path, from: Stamp) -> Result<JobReader> {
        let (mut journal, mut why) = (Vec::new(), None);
        for path in files {
            match Reader::open(&path) {
                Ok(reader) => journal.push(reader),
                Err(error) => why = Some(error),
            }
        }
        if let Some(why) = why.filter(|_| journal.is_empty()) {
            return Err(why);
        }
        journal.reverse();
        let mut segments = segments::list(&root.join(segments::BOX));
        // The last one that begins before may hold what comes after.
        let first = segments.iter().rposition(|segment| segment.from <= from).unwrap_or(0);
        let mut segments = segments.split_off(first);
        segments.reverse();
        let trouble = Trouble::default();
        let (next_lasting, next_sample) = (None, None);
        let mut reader = JobReader { journal, next_lasting, segments, segment: None, next_sample, trouble };
        reader.next_lasting = reader.lasting();
        reader.next_sample = reader.sample();
        Ok(reader)
    }

    /// The next event.
    pub fn read(&mut self) -> Option<Event> {
        let at = |event: &Option<Event>| event.as_ref().map(|event| event.at);
        match (at(&self.next_lasting), at(&self.next_sample)) {
            (None, None) => None,
            (Some(lasting), Some(sample)) if lasting > sample => self.take_sample(),
            (None, Some(_)) => self.take_sample(),
            _ => {
                let next = self.lasting();
                std::mem::replace(&mut self.next_lasting, next)
            }
        }
    }

    /// What of the journal could not be read.
    pub fn trouble(&self) -> &Trouble {
        &self.trouble
    }

    fn take_sample(&mut self) -> Option<Event> {
        let next = self.sample();
        std::mem::replace(&mut self.next_sample, next)
    }

    fn lasting(&mut self) -> Option<Event> {
        loop {
            let reader = self.journal.last_mut()?;
            match reader.read() {
                Some(Entry::Event(event)) => return Some(event),
                Some(Entry::Log(_)) => {}
                None => {
                    let trouble = reader.trouble();
                    self.trouble.unreadable += trouble.unreadable;
                    self.trouble.unknown += trouble.unknown;
                    if self.trouble.ended.is_none() {
                        self.trouble.ended = trouble.ended.clone();
                    }
                    self.journal.pop();
                }
            }
        }
    }

    /// The next sample. A file that breaks off was cut by a death, or is being written.
    fn sample(&mut self) -> Option<Event> {
        loop {
            if let Some(Entry::Event(event)) = self.segment.as_mut().and_then(Reader::read) {
                return Some(event);
            }
            self.segment = None;
            // One that was thinned or removed meanwhile is no loss worth an error.
            self.segment = Reader::open(&self.segments.pop()?.path()).ok();
        }
    }
}

/// A time that no event is after.
pub(super) const EVER: Stamp = Stamp(u64::MAX);
