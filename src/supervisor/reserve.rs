//! Room on the disk that is a file's own before it is needed: when the disk is full, ranks can still print.
//!
//! A rank whose standard output is on a full disk gets an error from `print`, and most scripts end with it. So
//! blocks are allocated behind the end of each file that grows, where nobody else can take them. When that fails,
//! the oldest lines of the job give up theirs. What is left as a limit: a rank that writes more than [`AHEAD`]
//! between two looks on a full disk, a file system that cannot allocate ahead (NFS before 4.2), a new start of the
//! group on a disk without a free block, and the newest [`KEPT`] of each file, which are never given up.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
};

use rustix::{
    fs::{FallocateFlags, fallocate, fstatvfs},
    io::Errno,
};

/// Bytes that a file of a rank has ahead of its end.
pub const AHEAD: u64 = 1 << 20;
/// Newest bytes of a file that are not given up.
pub const KEPT: u64 = 256 << 10;
/// Holes are made of whole blocks of this size.
const BLOCK: u64 = 4096;

/// The room that one file has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// Where its blocks end; `None` when the file system cannot do that.
    until: Option<u64>,
    asked: bool,
}

impl Room {
    /// Whether less than half of `ahead` is free behind `end`.
    pub fn is_short(&self, end: u64, ahead: u64) -> bool {
        !self.asked || self.until.is_some_and(|until| until < end + ahead / 2)
    }

    /// Whether there is something to be given back.
    pub fn is_held(&self) -> bool {
        self.until.is_some()
    }

    /// Sees to it that at least half of `ahead` is free behind `end`. Costs nothing while it is.
    ///
    /// # Errors
    /// The disk is full.
    pub fn keep(&mut self, file: &File, end: u64, ahead: u64) -> io::Result<()> {
        if !self.is_short(end, ahead) {
            return Ok(());
        }
        match fallocate(file, FallocateFlags::KEEP_SIZE, end, ahead) {
            Ok(()) => (self.asked, self.until) = (true, Some(end + ahead)),
            Err(error) if is_full(error) => return Err(error.into()),
            // A file system that cannot do it, or no regular file: asked once.
            Err(_) => (self.asked, self.until) = (true, None),
        }
        Ok(())
    }

    /// Gives back what is behind the end of a file that nobody writes to any more.
    pub fn release(&mut self, file: &File, end: u64) {
        if self.until.take().is_some() {
            // Room that stays taken does no harm but to the room.
            let _ = file.set_len(end);
        }
    }
}

/// The same file, to be written to, even if it was deleted.
///
/// # Errors
/// Those of opening.
pub fn writable(file: &File) -> io::Result<File> {
    OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Gives up the blocks of a file between `from` and `to`; returns where the hole ends.
///
/// # Errors
/// The file system cannot do that.
pub fn give_up(file: &File, from: u64, to: u64) -> io::Result<u64> {
    let to = to / BLOCK * BLOCK;
    if to <= from {
        return Ok(from);
    }
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, to - from)?;
    Ok(to)
}

/// Whether the disk that a file is on has less than [`AHEAD`] left for its user.
pub fn is_full_behind(file: &File) -> bool {
    fstatvfs(file).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < AHEAD)
}

fn is_full(error: Errno) -> bool {
    matches!(error, Errno::NOSPC | Errno::DQUOT)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn room_is_taken_ahead_and_given_back_and_old_blocks_too() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&b"x".repeat(20_000)).unwrap();
        file.sync_all().unwrap();
        let blocks = || file.metadata().unwrap().blocks() * 512;
        let mut room = Room::default();
        room.keep(&file, 20_000, AHEAD).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 20_000, "the end stays");
        if room.until.is_some() {
            assert!(blocks() >= AHEAD, "{}", blocks());
            room.release(&file, 20_000);
            assert!(blocks() < AHEAD / 2, "{}", blocks());
        }
        let before = blocks();
        if let Ok(hole) = give_up(&writable(&file).unwrap(), 0, 10_000) {
            assert_eq!(hole, 8192);
            assert!(blocks() < before);
        }
        assert_eq!(file.metadata().unwrap().len(), 20_000);
    }

    #[test]
    fn what_is_no_file_on_a_disk_is_left_alone() {
        let null = OpenOptions::new().write(true).open("/dev/null").unwrap();
        let mut room = Room::default();
        room.keep(&null, 0, AHEAD).unwrap();
        assert!(room.asked && room.until.is_none());
    }
}
