//! A recording in memory: packed blocks of events, and packed states between them, from which any moment is folded.

use std::{
    io::{Read, Write},
    path::Path,
};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};

use super::{
    job::JobReader,
    lines::Lines,
    read::{Entry, Reader},
};
use crate::{
    domain::{
        event::Event,
        replay::{Course, Header, Mark},
        state::State,
        time::Stamp,
    },
    error::{Error, Result},
    supervisor::{archive, folder::JobDir, journal},
};

/// Bytes of events in a block before it is packed.
const BLOCK: usize = 512 << 10;
/// Most states that are held.
const FRAMES: usize = 128;
/// Marks further apart than the screen can tell are of no use to anybody.
const MARKS: usize = 10_000;

/// Events that follow each other.
#[derive(Debug)]
struct Block {
    /// When the last of them happened.
    last: Stamp,
    packed: Vec<u8>,
    /// The state before the first of them.
    frame: Option<Vec<u8>>,
}

/// A recording that can be looked at from any moment.
#[derive(Debug, Default)]
pub struct Tape {
    blocks: Vec<Block>,
    /// Blocks between two states.
    every: usize,
    course: Course,
    /// Log lines.
    pub lines: Lines,
    /// What is missing, one sentence each.
    pub missing: Vec<String>,
    /// Whether it was redacted.
    pub redacted: bool,
    // While it is filled:
    state: State,
    filling: Vec<u8>,
    before: Option<Vec<u8>>,
    last: Stamp,
}

impl Tape {
    /// Reads a recording, or a journal, from a file.
    ///
    /// # Errors
    /// It cannot be read, or holds no event.
    pub fn read(path: &Path) -> Result<Tape> {
        Tape::from(Reader::open(path)?)
            .map_err(|error| Error { text: format!("{}: {}", path.display(), error.text), ..error })
    }

    /// Reads all that a reader gives.
    ///
    /// # Errors
    /// That is no event.
    pub fn from(mut reader: Reader) -> Result<Tape> {
        let mut tape = Tape::default();
        let mut dropped = 0_u64;
        while let Some(entry) = reader.read() {
            match entry {
                Entry::Event(event) => tape.push(event),
                Entry::Log(line) => dropped += u64::from(!tape.lines.push(line)),
            }
        }
        if let Some(Header { redacted, missing, .. }) = reader.header() {
            tape.redacted = *redacted;
            tape.missing.clone_from(missing);
        }
        tape.missing.extend(reader.trouble().sentences());
        if dropped > 0 {
            tape.missing.push(format!("{dropped} log lines have no room, or are out of order"));
        }
        tape.finish()
    }

    /// Reads the files of a job.
    ///
    /// # Errors
    /// They cannot be read, or hold no event.
    pub fn of_job(dir: &JobDir) -> Result<Tape> {
        let mut tape = Tape { lines: Lines::Book(Box::new(archive::open_logs(dir)?)), ..Tape::default() };
        let mut reader = JobReader::open(dir)?;
        while let Some(event) = reader.read() {
            tape.push(event);
        }
        tape.missing.extend(reader.trouble().sentences());
        tape.finish()
    }

    fn push(&mut self, mut event: Event) {
        // Time does not go back in a recording, whatever a clock or a flipped bit says.
        event.at = event.at.max(self.last);
        self.last = event.at;
        if self.filling.is_empty() {
            self.every = self.every.max(1);
            self.before = self.blocks.len().is_multiple_of(self.every).then(|| pack_state(&self.state));
        }
        self.filling.extend(journal::line(&event));
        self.filling.push(b'\n');
        self.state.apply(&event);
        self.course.passes(event.at);
        if self.course.marks.len() < MARKS
            && let Some(mark) = Mark::of(&self.state, &event)
        {
            self.course.marks.push(mark);
        }
        if self.filling.len() >= BLOCK {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        let packed = pack(&self.filling);
        self.filling.clear();
        self.blocks.push(Block { last: self.last, packed, frame: self.before.take() });
        if self.blocks.len().div_ceil(self.every) > FRAMES {
            self.every *= 2;
            let every = self.every;
            let odd = self.blocks.iter_mut().enumerate().filter(|(at, _)| !at.is_multiple_of(every));
            odd.for_each(|(_, block)| block.frame = None);
        }
    }

    fn finish(mut self) -> Result<Tape> {
        if !self.filling.is_empty() {
            self.close_block();
        }
        self.state = State::default();
        if self.blocks.is_empty() {
            let why = self.missing.first().map(|why| format!(": {why}")).unwrap_or_default();
            return Err(Error::environment(format!("there is no event in it that can be read{why}"))
                .hint("elastictop export JOB writes a recording"));
        }
        Ok(self)
    }

    /// Times and marks.
    pub fn course(&self) -> &Course {
        &self.course
    }

    /// The state after all events up to this time.
    pub fn state_at(&self, at: Stamp) -> State {
        // The first block whose events are not all past.
        let target = self.blocks.partition_point(|block| block.last <= at);
        let from =
            (0..=target.min(self.blocks.len() - 1)).rev().find(|block| self.blocks[*block].frame.is_some());
        let from = from.unwrap_or(0);
        let frame = self.blocks[from].frame.as_deref();
        let mut state = frame.map(unpack_state).unwrap_or_default();
        for block in &self.blocks[from..(target + 1).min(self.blocks.len())] {
            let events = events(block);
            events.iter().take_while(|event| event.at <= at).for_each(|event| state.apply(event));
        }
        state
    }

    /// The events after `after`, up to and with `until`, oldest first; `None` when there are more than `most`.
    pub fn between(&self, after: Stamp, until: Stamp, most: usize) -> Option<Vec<Event>> {
        let first = self.blocks.partition_point(|block| block.last <= after);
        let mut found = Vec::new();
        for block in &self.blocks[first..] {
            let events = events(block);
            let is_last = block.last > until;
            found.extend(events.into_iter().filter(|event| event.at > after && event.at <= until));
            if found.len() > most {
                return None;
            }
            if is_last {
                break;
            }
        }
        Some(found)
    }

    /// Gives every event in order.
    pub fn each(&self, mut each: impl FnMut(&Event)) {
        self.blocks.iter().for_each(|block| events(block).iter().for_each(&mut each));
    }
}

fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
    // Writing into memory does not fail.
    let _ = packed.write_all(bytes);
    packed.finish().unwrap_or_default()
}

fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was packed here can be unpacked.
    let _ = DeflateDecoder::new(packed).read_to_end(&mut bytes);
    bytes
}

fn pack_state(state: &State) -> Vec<u8> {
    pack(&serde_json::to_vec(state).unwrap_or_default())
}

fn unpack_state(packed: &[u8]) -> State {
    serde_json::from_slice(&unpack(packed)).unwrap_or_default()
}

fn events(block: &Block) -> Vec<Event> {
    unpack(&block.packed).split(|byte| *byte == b'\n').filter_map(journal::parse).collect()
}

#[cfg(test)]
mod tests;
