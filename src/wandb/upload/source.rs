//! The run's files as one sequence of records, read from the cursor on.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Told, cursor::Cursor};
use crate::wandb::log::{Failure, Reader, frame::Step};

/// A reader that stands somewhere in the run's files.
#[derive(Debug, Default)]
pub(super) struct Source {
    told: Option<Told>,
    reader: Option<Reader>,
    segment: usize,
}

/// One step through the files.
pub(super) enum Next {
    /// A record; [`Source::payload`] has its bytes.
    Record,
    /// Something unreadable.
    Damage,
    /// Nothing more so far.
    End,
}

impl Source {
    /// Goes to the cursor, unless it stands there. Files may be longer than before.
    pub(super) fn seek(&mut self, told: Told, cursor: &Cursor) {
        let stands = self.segment == cursor.segment
            && self.reader.as_ref().map_or(cursor.offset == 0, |reader| reader.end() == cursor.offset);
        self.told = Some(told);
        if !stands || self.reader.is_none() {
            self.reader = None;
            self.segment = cursor.segment;
        }
    }

    /// Where it stands: number of the file and place in it.
    pub(super) fn position(&self, from: &Cursor) -> (usize, u64) {
        let offset = match &self.reader {
            Some(reader) => reader.end(),
            None if self.segment == from.segment => from.offset,
            None => 0,
        };
        (self.segment, offset)
    }

    /// The next record.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn next(&mut self, from: &Cursor) -> Result<Next, Failure> {
        let Some(told) = &self.told else { return Ok(Next::End) };
        loop {
            let Some(path) = told.segments.get(self.segment) else { return Ok(Next::End) };
            let is_last = self.segment + 1 == told.segments.len();
            let limit = if is_last { told.committed } else { u64::MAX };
            let reader = match &mut self.reader {
                Some(reader) => reader,
                None => {
                    let offset = if self.segment == from.segment { from.offset } else { 0 };
                    match Reader::open(path, offset) {
                        Ok(reader) => self.reader.insert(reader),
                        // The writer makes it in a moment.
                        Err(failure) if failure.cause.kind() == io::ErrorKind::NotFound && is_last => {
                            return Ok(Next::End);
                        }
                        Err(failure) => return Err(failure),
                    }
                }
            };
            match reader.step(limit)? {
                Some(Step::Record { .. }) => return Ok(Next::Record),
                Some(Step::Damaged(_)) => return Ok(Next::Damage),
                None if is_last => return Ok(Next::End),
                None => {
                    self.segment += 1;
                    self.reader = None;
                }
            }
        }
    }

    /// The bytes of the record that was found last.
    pub(super) fn payload(&self) -> &[u8] {
        self.reader.as_ref().map_or(&[], Reader::payload)
    }
}

/// Bytes that wait behind the cursor.
pub(super) fn behind(told: &Told, cursor: &Cursor) -> u64 {
    let length = |path: &PathBuf| fs::metadata(path).map_or(0, |data| data.len());
    let waiting = told.segments.iter().enumerate().skip(cursor.segment).map(|(n, path)| {
        let is_last = n + 1 == told.segments.len();
        let end = if is_last && told.committed != u64::MAX { told.committed } else { length(path) };
        end.saturating_sub(if n == cursor.segment { cursor.offset } else { 0 })
    });
    waiting.sum()
}

/// Rows of history in a file, up to `limit` bytes of it. What cannot be read is not counted.
pub fn rows_in(file: &Path, limit: u64) -> u64 {
    let Ok(mut reader) = Reader::open(file, 0) else { return 0 };
    let mut rows = 0;
    while let Ok(Some(step)) = reader.step(limit) {
        rows += u64::from(matches!(step, Step::Record { .. }) && super::row::is_row(reader.payload()));
    }
    rows
}
