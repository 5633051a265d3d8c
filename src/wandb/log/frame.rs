//! Bytes of a `.wandb` file to payloads of records and back, without any file.
//!
//! A file starts with [`HEADER`] and is made of blocks of [`BLOCK`] bytes counted from its very first byte. A
//! record lies in one or more chunks, none of which crosses the end of a block: CRC (u32), length (u16), type
//! (u8), payload, all little endian. The CRC is the plain one of zlib over type and payload. Less than a
//! chunk header at the end of a block is zeros.

use std::{fmt, ops::Range};

/// First bytes of every file: `:W&B`, the number 0xBEE1 and version 0.
pub const HEADER: [u8; 7] = [0x3a, 0x57, 0x26, 0x42, 0xe1, 0xbe, 0x00];
/// Bytes of a block.
pub const BLOCK: usize = 32768;
/// Longest payload that is written, or put together when reading, in bytes.
pub const LONGEST: usize = 64 << 20;
/// Bytes of a chunk before its payload.
const CHUNK: usize = 7;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// Appends the chunks of one record to `out`, whose end lies at `at` in the file; gives the new end in the
/// file.
pub fn encode(out: &mut Vec<u8>, mut at: u64, payload: &[u8]) -> u64 {
    let mut rest = payload;
    let mut is_first = true;
    loop {
        let left = left_in_block(at);
        if left < CHUNK {
            out.resize(out.len() + left, 0);
            at += left as u64;
            continue;
        }
        let (part, after) = rest.split_at(rest.len().min(left - CHUNK));
        let kind = match (is_first, after.is_empty()) {
            (true, true) => FULL,
            (true, false) => FIRST,
            (false, false) => MIDDLE,
            (false, true) => LAST,
        };
        out.extend_from_slice(&checksum(kind, part).to_le_bytes());
        out.extend_from_slice(&(part.len() as u16).to_le_bytes());
        out.push(kind);
        out.extend_from_slice(part);
        at += (CHUNK + part.len()) as u64;
        if after.is_empty() {
            return at;
        }
        (rest, is_first) = (after, false);
    }
}

fn left_in_block(at: u64) -> usize {
    BLOCK - (at % BLOCK as u64) as usize
}

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[kind]);
    crc.update(payload);
    crc.finalize()
}

/// A stretch of a file that cannot be read. What follows it is read again as soon as it makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where in the file it begins; for a record in several chunks, where the record begins.
    pub offset: u64,
    /// What is wrong.
    pub flaw: Flaw,
}

/// What is wrong with a stretch of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The file does not begin as a `.wandb` file does.
    Header,
    /// A chunk does not match its checksum, or cannot be one.
    Checksum,
    /// A record has a beginning and no end, or the other way round.
    Fragment,
    /// A record is longer than [`LONGEST`].
    TooLong,
    /// The bytes are whole and no record.
    NotARecord,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.flaw {
            Flaw::Header => "this is not the beginning of a .wandb file",
            Flaw::Checksum => "a record does not match its checksum",
            Flaw::Fragment => "a part of a record is missing",
            Flaw::TooLong => "a record is too long",
            Flaw::NotARecord => "a record cannot be decoded",
        };
        write!(f, "at byte {}: {what}", self.offset)
    }
}

/// What a [`Decoder`] came across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A whole record; [`Decoder::payload`] has its bytes.
    Record {
        /// Where in the file its first chunk begins.
        offset: u64,
        /// Where in the file its last chunk ends: a decoder can go on from here.
        end: u64,
    },
    /// Something unreadable was left out.
    Damaged(Damage),
}

/// Takes a file in pieces of any size and gives its records.
///
/// Holds what was fed and not taken yet, and at most one unfinished record of [`LONGEST`] bytes.
#[derive(Debug)]
pub struct Decoder {
    /// Bytes that were fed; those before `start` are done with.
    buffer: Vec<u8>,
    start: usize,
    /// Where `buffer[start]` lies in the file.
    offset: u64,
    /// Bytes to leave out, whether they are here already or not.
    skip: usize,
    /// The chunks of an unfinished record, and where it begins.
    partial: Vec<u8>,
    partial_from: Option<u64>,
    /// The record that was given last.
    payload: Payload,
    /// End of the last whole record.
    end: u64,
    /// The last chunk was bad, and its length was taken as true.
    is_doubtful: bool,
    /// What belongs to a record whose beginning was lost is left out without a further word.
    is_resyncing: bool,
    longest: usize,
}

#[derive(Debug)]
enum Payload {
    Buffer(Range<usize>),
    Partial,
}

/// What begins where a chunk must begin.
enum Chunk {
    Sound {
        kind: u8,
        payload: Range<usize>,
    },
    /// Does not match its checksum, which may be due to any of its bytes.
    Bad {
        length: usize,
    },
    /// Would lead out of the block.
    Impossible,
}

impl Decoder {
    /// Starts at a place in the file: 0, or the end of a record.
    pub fn at(offset: u64) -> Decoder {
        let offset = if offset < HEADER.len() as u64 { 0 } else { offset };
        Decoder {
            buffer: Vec::new(),
            start: 0,
            offset,
            skip: 0,
            partial: Vec::new(),
            partial_from: None,
            payload: Payload::Partial,
            end: offset,
            is_doubtful: false,
            is_resyncing: false,
            longest: LONGEST,
        }
    }

    /// Starts at a block, where a record that began earlier may go on: that one is left out.
    pub fn at_block(number: u64) -> Decoder {
        Decoder { is_resyncing: true, ..Decoder::at(number * BLOCK as u64) }
    }

    /// Takes the bytes that follow in the file, from [`Decoder::fed`] on. Take the records out before feeding
    /// more.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.payload = Payload::Partial;
        self.buffer.extend_from_slice(bytes);
    }

    /// Where in the file the bytes end that were fed.
    pub fn fed(&self) -> u64 {
        self.offset + self.available() as u64
    }

    /// Where in the file the last whole record ends; where it started, as long as there was none.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The bytes of the record that [`Decoder::advance`] gave last, until it is called again.
    pub fn payload(&self) -> &[u8] {
        match &self.payload {
            Payload::Buffer(range) => &self.buffer[range.clone()],
            Payload::Partial => &self.partial,
        }
    }

    /// The next record, or what is in its place; `None` when more bytes are needed.
    pub fn advance(&mut self) -> Option<Step> {
        if self.partial_from.is_none() {
            self.partial.clear();
        }
        loop {
            let skipped = self.skip.min(self.available());
            self.consume(skipped);
            self.skip -= skipped;
            if self.skip > 0 {
                return None;
            }
            if self.offset == 0 {
                if self.header()? {
                    continue;
                }
                return Some(Step::Damaged(Damage { offset: 0, flaw: Flaw::Header }));
            }
            let left = left_in_block(self.offset);
            if left < CHUNK {
                self.skip = left;
                continue;
            }
            let step = match self.chunk(left)? {
                Chunk::Sound { kind, payload } => self.sound(kind, payload),
                Chunk::Bad { length } if !self.is_doubtful => Some(self.bad(length)),
                Chunk::Bad { .. } | Chunk::Impossible => self.bad_block(left),
            };
            if step.is_some() {
                return step;
            }
        }
    }

    fn available(&self) -> usize {
        self.buffer.len() - self.start
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        self.offset += bytes as u64;
    }

    /// Whether the file begins as it must; its records are looked for either way.
    fn header(&mut self) -> Option<bool> {
        let is_good = *self.buffer.get(self.start..self.start + HEADER.len())? == HEADER;
        self.consume(HEADER.len());
        self.end = self.offset;
        Some(is_good)
    }

    fn chunk(&self, left: usize) -> Option<Chunk> {
        let head = self.buffer.get(self.start..self.start + CHUNK)?;
        let crc = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let length = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let kind = head[6];
        if CHUNK + length > left {
            return Some(Chunk::Impossible);
        }
        let payload = self.start + CHUNK..self.start + CHUNK + length;
        let bytes = self.buffer.get(payload.clone())?;
        let is_sound = (FULL..=LAST).contains(&kind) && checksum(kind, bytes) == crc;
        Some(if is_sound { Chunk::Sound { kind, payload } } else { Chunk::Bad { length } })
    }

    fn sound(&mut self, kind: u8, payload: Range<usize>) -> Option<Step> {
        self.is_doubtful = false;
        if matches!(kind, FULL | FIRST) {
            self.is_resyncing = false;
            if let Some(offset) = self.partial_from {
                // The chunk is looked at again after this was told.
                self.partial_from = None;
                self.partial.clear();
                return Some(Step::Damaged(Damage { offset, flaw: Flaw::Fragment }));
            }
        }
        let at = self.offset;
        self.consume(CHUNK + payload.len());
        if kind == FULL {
            self.payload = Payload::Buffer(payload);
            return Some(self.whole(at));
        }
        if kind == FIRST {
            self.partial_from = Some(at);
        }
        let Some(from) = self.partial_from else {
            let is_news = !std::mem::replace(&mut self.is_resyncing, true);
            return is_news.then_some(Step::Damaged(Damage { offset: at, flaw: Flaw::Fragment }));
        };
        if self.partial.len() + payload.len() > self.longest {
            self.drop_partial();
            return Some(Step::Damaged(Damage { offset: from, flaw: Flaw::TooLong }));
        }
        self.partial.extend_from_slice(&self.buffer[payload]);
        if kind != LAST {
            return None;
        }
        self.partial_from = None;
        self.payload = Payload::Partial;
        Some(self.whole(from))
    }

    fn whole(&mut self, offset: u64) -> Step {
        self.end = self.offset;
        Step::Record { offset, end: self.end }
    }

    /// A bad chunk costs only itself if its length is right, which shows in the chunk that follows.
    fn bad(&mut self, length: usize) -> Step {
        let offset = self.partial_from.unwrap_or(self.offset);
        self.drop_partial();
        self.is_doubtful = true;
        self.consume(CHUNK + length);
        Step::Damaged(Damage { offset, flaw: Flaw::Checksum })
    }

    /// Nothing tells where the next chunk of this block begins. Told, unless that was done for the chunk
    /// before.
    fn bad_block(&mut self, left: usize) -> Option<Step> {
        let offset = self.partial_from.unwrap_or(self.offset);
        self.drop_partial();
        self.skip = left;
        let is_news = !std::mem::replace(&mut self.is_doubtful, false);
        is_news.then_some(Step::Damaged(Damage { offset, flaw: Flaw::Checksum }))
    }

    fn drop_partial(&mut self) {
        self.partial_from = None;
        self.partial = Vec::new();
        self.is_resyncing = true;
    }
}

#[cfg(test)]
mod tests;
