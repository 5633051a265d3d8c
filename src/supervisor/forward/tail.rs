//! A file that a rank writes to, read line by line from a position of its own.

use std::{fs::File, io, os::unix::fs::FileExt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::domain::forward::row::LONGEST;

/// Bytes read at once.
const READ: usize = 256 << 10;

/// How far a file was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Bytes that are done with.
    #[serde(rename = "d")]
    pub done: u64,
    /// Whether they end within a line that is too long to be kept.
    #[serde(rename = "s", default, skip_serializing_if = "std::ops::Not::not")]
    pub in_long_line: bool,
}

/// What to do after a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read on.
    On,
    /// Stop, and give the same line again the next time.
    Again,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Whether there is more to read now.
    pub more: bool,
    /// Lines that were too long and may have been rows.
    pub too_long: u64,
}

/// The file.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    file: Option<File>,
    /// How far it was read.
    pub position: Position,
    /// Whether the writer is gone: a last line without an end is whole.
    pub is_closed: bool,
}

impl Tail {
    /// A file that may not exist yet.
    pub fn new(path: PathBuf, position: Position) -> Tail {
        Tail { path, file: None, position, is_closed: false }
    }

    /// Lets go of the file; it is opened again when it is read again.
    pub fn rest(&mut self) {
        self.file = None;
    }

    /// Reads the next lines, at most about 256 KiB of them unless one is longer, and gives each to `each` without its
    /// end.
    ///
    /// # Errors
    /// Those of reading; a file that does not exist is an empty one.
    pub fn read(&mut self, buffer: &mut Vec<u8>, mut each: impl FnMut(&[u8]) -> Next) -> io::Result<Found> {
        let mut found = Found::default();
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
                Err(error) => return Err(error),
            }
        }
        let Some(file) = &self.file else { return Ok(found) };
        let mut filled = 0;
        loop {
            buffer.resize(filled + READ, 0);
            let read = file.read_at(&mut buffer[filled..], self.position.done + filled as u64)?;
            filled += read;
            let is_end = read < READ;
            let Some(last) = buffer[filled - read..filled].iter().rposition(|byte| *byte == b'\n') else {
                if is_end && !(self.is_closed && filled > 0) {
                    return Ok(found);
                }
                if !is_end && !self.position.in_long_line && filled <= LONGEST {
                    // A long line: its end may be in the bytes that follow.
                    continue;
                }
                found.more = !is_end;
                self.unended(&buffer[..filled], is_end, &mut found, each);
                return Ok(found);
            };
            let whole = filled - read + last + 1;
            // A closed file's last line without an end comes with the next call.
            found.more = !is_end || self.is_closed && whole < filled;
            self.lines(&buffer[..whole], &mut found, &mut each);
            return Ok(found);
        }
    }

    /// Bytes without an end of line: the last line of a file, or a part of one that is too long.
    fn unended(
        &mut self,
        bytes: &[u8],
        is_end: bool,
        found: &mut Found,
        mut each: impl FnMut(&[u8]) -> Next,
    ) {
        let is_long = self.position.in_long_line || bytes.len() > LONGEST;
        if is_long {
            found.too_long += u64::from(!self.position.in_long_line && is_rowlike(bytes));
            self.position = Position { done: self.position.done + bytes.len() as u64, in_long_line: !is_end };
        } else if each(bytes) == Next::On {
            self.position.done += bytes.len() as u64;
        } else {
            found.more = false;
        }
    }

    fn lines(&mut self, whole: &[u8], found: &mut Found, each: &mut impl FnMut(&[u8]) -> Next) {
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            let text = &line[..line.len() - 1];
            if std::mem::take(&mut self.position.in_long_line) {
                // The end of a line whose beginning was counted.
            } else if text.len() > LONGEST {
                found.too_long += u64::from(is_rowlike(text));
            } else if each(text) == Next::Again {
                found.more = false;
                return;
            }
            self.position.done += line.len() as u64;
        }
    }
}

fn is_rowlike(line: &[u8]) -> bool {
    line.trim_ascii_start().first() == Some(&b'{')
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use proptest::prelude::*;

    use super::*;

    /// All that can be read now.
    fn read(tail: &mut Tail) -> (Vec<String>, u64) {
        let (mut lines, mut too_long, mut buffer) = (Vec::new(), 0, Vec::new());
        loop {
            let found = tail.read(&mut buffer, |line| {
                lines.push(String::from_utf8_lossy(line).into_owned());
                Next::On
            });
            let found = found.unwrap();
            too_long += found.too_long;
            if !found.more {
                return (lines, too_long);
            }
        }
    }

    fn tail(dir: &tempfile::TempDir) -> (Tail, File) {
        let path = dir.path().join("f");
        let file = fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        (Tail::new(path, Position::default()), file)
    }

    #[test]
    fn whole_lines_are_read_once_and_the_last_one_when_its_writer_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (mut tail, mut file) = tail(&dir);
        assert_eq!(read(&mut tail).0, [""; 0]);
        file.write_all(b"one\n\ntw").unwrap();
        assert_eq!(read(&mut tail).0, ["one", ""]);
        assert_eq!(read(&mut tail).0, [""; 0]);
        file.write_all(b"o\nthree").unwrap();
        assert_eq!(read(&mut tail).0, ["two"]);
        tail.is_closed = true;
        tail.rest();
        assert_eq!(read(&mut tail).0, ["three"]);
        assert_eq!(read(&mut tail), (Vec::new(), 0));
        assert_eq!(
            Tail::new("/nonexistent".into(), Position::default())
                .read(&mut Vec::new(), |_| Next::On)
                .unwrap(),
            Found::default()
        );
    }

    #[test]
    fn a_line_that_has_to_wait_is_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut tail, mut file) = tail(&dir);
        file.write_all(b"one\ntwo\n").unwrap();
        let mut given = 0;
        let found = tail.read(&mut Vec::new(), |_| {
            given += 1;
            if given == 1 { Next::On } else { Next::Again }
        });
        assert_eq!((found.unwrap(), tail.position.done), (Found::default(), 4));
        assert_eq!(read(&mut tail).0, ["two"]);
    }

    #[test]
    fn lines_beyond_the_limit_are_counted_also_when_read_in_two_lives() {
        let dir = tempfile::tempdir().unwrap();
        let (mut tail, mut file) = tail(&dir);
        let long = |first: char, size: usize| format!("{first}{}", "x".repeat(size - 1));
        file.write_all(long('{', LONGEST + 1).as_bytes()).unwrap();
        file.write_all(long('y', 3 * READ).as_bytes()).unwrap();
        assert_eq!(read(&mut tail), (Vec::new(), 1));
        assert!(tail.position.in_long_line);
        file.write_all(
            format!("end\nnext\n{}\n{}\nlast\n", long('t', LONGEST + 9), long('{', LONGEST)).as_bytes(),
        )
        .unwrap();
        let mut second = Tail::new(tail.path.clone(), tail.position);
        let (lines, too_long) = read(&mut second);
        assert_eq!((lines.len(), too_long), (3, 0), "text that is too long is no lost row");
        assert_eq!((lines[0].as_str(), lines[1].len(), lines[2].as_str()), ("next", LONGEST, "last"));
    }

    proptest! {
        #[test]
        fn no_line_is_lost_or_doubled_however_it_arrives(
            parts in prop::collection::vec("[a\n]{0,8}", 0..30), rests in any::<u32>()
        ) {
            let dir = tempfile::tempdir().unwrap();
            let (mut tail, mut file) = tail(&dir);
            let mut lines = Vec::new();
            for (n, part) in parts.iter().enumerate() {
                file.write_all(part.as_bytes()).unwrap();
                lines.extend(read(&mut tail).0);
                if rests >> (n % 32) & 1 == 1 {
                    tail = Tail::new(tail.path.clone(), tail.position);
                }
            }
            tail.is_closed = true;
            lines.extend(read(&mut tail).0);
            let text = parts.concat();
            let mut expected: Vec<_> = text.split('\n').map(str::to_owned).collect();
            if expected.last().is_some_and(String::is_empty) {
                expected.pop();
            }
            prop_assert_eq!(lines, expected);
        }
    }
}
