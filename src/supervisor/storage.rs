//! Files that only grow, written by a thread of their own: a slow or full disk stops nobody but itself.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::watch;

use super::reserve::Room;

/// Records that may wait for the disk before more are dropped and counted.
const QUEUE: usize = 4096;
/// Room that each file has ahead of its end, in bytes: what happens on a full disk is still kept for a while.
const AHEAD: u64 = 256 << 10;
/// How long a failed write waits before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What became of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the last write failed; `None` when it did not.
    pub error: Option<String>,
    /// Records that could not be kept.
    pub lost: u64,
}

/// Appends whole lines to one file, on a thread of its own.
#[derive(Debug)]
pub struct Appender {
    queue: Option<SyncSender<Item>>,
    thread: Option<JoinHandle<()>>,
    health: watch::Receiver<Health>,
    overflow: u64,
}

/// What the writing thread is handed.
enum Item {
    Record(Vec<u8>),
    /// Tells when all before it was written, or refused by the disk.
    Mark(SyncSender<()>),
    /// Goes on in a new file.
    Anew(Anew),
}

/// A file that has grown large enough.
struct Anew {
    /// Where it goes.
    aside: PathBuf,
    /// The first record of the new one, with its end.
    first: Vec<u8>,
    /// What is done to it there.
    then: Box<dyn FnOnce(&Path) + Send>,
}

/// Opens a file of lines: gives its whole lines to `line`, cuts off a torn last one, and says how many bytes that
/// were. A missing file is an empty one.
///
/// # Errors
/// Those of opening and reading.
pub fn recover(path: &Path, mut line: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    bytes[..whole].split(|byte| *byte == b'\n').filter(|text| !text.is_empty()).for_each(&mut line);
    Ok((bytes.len() - whole) as u64)
}

impl Appender {
    /// Starts the thread. Torn bytes at the end of the file are cut off first.
    ///
    /// # Errors
    /// Those of opening the file and starting a thread.
    pub fn open(path: PathBuf) -> io::Result<Appender> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path)?;
        let good = cut_torn_tail(&mut file)?;
        let (queue, records) = sync_channel(QUEUE);
        let (report, health) = watch::channel(Health::default());
        let thread = thread::Builder::new().name("elastictop-disk".into()).spawn(move || {
            let waiting = VecDeque::new();
            Writer { path, file, good, report, waiting, room: Room::default() }.run(&records);
        })?;
        Ok(Appender { queue: Some(queue), thread: Some(thread), health, overflow: 0 })
    }

    /// Hands one record over; its end of line is added. Never blocks: a full queue drops it and counts.
    pub fn append(&mut self, mut record: Vec<u8>) {
        record.push(b'\n');
        let Some(queue) = &self.queue else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            queue.try_send(Item::Record(record))
        {
            self.overflow += 1;
        }
    }

    /// Moves what was written so far to another path and goes on in a new file that begins with `first`. `then` is
    /// called with that path, on the writing thread. Returns whether it will be done; else ask again later.
    pub fn begin_anew(
        &mut self,
        aside: PathBuf,
        mut first: Vec<u8>,
        then: impl FnOnce(&Path) + Send + 'static,
    ) -> bool {
        first.push(b'\n');
        let anew = Item::Anew(Anew { aside, first, then: Box::new(then) });
        self.queue.as_ref().is_some_and(|queue| queue.try_send(anew).is_ok())
    }

    /// Waits until what was appended is written, but not for longer than a healthy disk needs.
    pub fn flush(&self) {
        let (mark, written) = sync_channel(1);
        if self.queue.as_ref().is_some_and(|queue| queue.try_send(Item::Mark(mark)).is_ok()) {
            // A disk that takes longer is told by `health`.
            let _ = written.recv_timeout(RETRY);
        }
    }

    /// How the writing goes.
    pub fn health(&self) -> Health {
        let mut health = self.health.borrow().clone();
        health.lost += self.overflow;
        health
    }

    /// Writes what waits and ends the thread. What the disk refuses by then is lost.
    pub fn close(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panicking writer has nothing left to tell; its records are lost like those of a full disk.
            let _ = thread.join();
        }
    }
}

fn cut_torn_tail(file: &mut File) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut good = end;
    let mut block = vec![0; 64 << 10];
    while good > 0 {
        let start = good.saturating_sub(block.len() as u64);
        let part = &mut block[..(good - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        match part.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => {
                good = start + last as u64 + 1;
                break;
            }
            None => good = start,
        }
    }
    if good < end {
        file.set_len(good)?;
    }
    Ok(good)
}

/// The file that takes the place of the one at `path`, until it does.
pub fn next_of(path: &Path) -> PathBuf {
    path.with_extension("next")
}

struct Writer {
    path: PathBuf,
    file: File,
    /// Length of the file up to the last whole record.
    good: u64,
    report: watch::Sender<Health>,
    waiting: VecDeque<Vec<u8>>,
    room: Room,
}

impl Writer {
    fn run(mut self, items: &Receiver<Item>) {
        loop {
            let next = if self.waiting.is_empty() {
                items.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                items.recv_timeout(RETRY)
            };
            match next {
                Ok(item) => {
                    self.take(item);
                    while let Ok(item) = items.try_recv() {
                        self.take(item);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.write_waiting();
                    self.room.release(&self.file, self.good);
                    return;
                }
            }
            self.write_waiting();
        }
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Record(record) => self.push(record),
            Item::Mark(mark) => {
                self.write_waiting();
                // Whoever asked may have given up.
                let _ = mark.try_send(());
            }
            Item::Anew(anew) => {
                if let Err(error) = self.begin_anew(anew) {
                    tracing::warn!(%error, "cannot move a file aside that has grown large");
                }
            }
        }
    }

    fn begin_anew(&mut self, anew: Anew) -> io::Result<()> {
        self.write_waiting();
        if !self.waiting.is_empty() {
            // A disk that takes nothing takes no new file either.
            return Ok(());
        }
        let next = next_of(&self.path);
        fs::write(&next, &anew.first)?;
        self.room.release(&self.file, self.good);
        fs::rename(&self.path, &anew.aside)?;
        match fs::rename(&next, &self.path) {
            // A reader that found no file has put it there already.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                fs::rename(&anew.aside, &self.path)?;
                return Err(error);
            }
            _ => {}
        }
        self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        (self.good, self.room) = (anew.first.len() as u64, Room::default());
        (anew.then)(&anew.aside);
        Ok(())
    }

    fn push(&mut self, record: Vec<u8>) {
        if self.waiting.len() >= QUEUE {
            self.waiting.pop_front();
            self.report.send_modify(|health| health.lost += 1);
        }
        self.waiting.push_back(record);
    }

    fn write_waiting(&mut self) {
        // A disk that is full is told when it refuses a record.
        let _ = self.room.keep(&self.file, self.good, AHEAD);
        while let Some(record) = self.waiting.front() {
            match self.file.write_all(record) {
                Ok(()) => {
                    self.good += record.len() as u64;
                    self.waiting.pop_front();
                }
                Err(error) => {
                    // Half a record must not stay before the next try; failing that, its end is cut at the next open.
                    let _ = self.file.set_len(self.good);
                    self.report.send_if_modified(|health| {
                        let text = Some(error.to_string());
                        let new = health.error != text;
                        health.error = text;
                        new
                    });
                    return;
                }
            }
        }
        self.report.send_if_modified(|health| health.error.take().is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> (Vec<String>, u64) {
        let mut lines = Vec::new();
        let torn = recover(path, |line| lines.push(String::from_utf8_lossy(line).into_owned())).unwrap();
        (lines, torn)
    }

    #[test]
    fn a_file_cut_at_any_byte_loses_at_most_its_last_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let whole = "one\ntwo\nthree\n";
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let kept = whole[..cut].matches('\n').count();
            let (before, torn) = lines(&path);
            assert_eq!(before.len(), kept, "cut at {cut}");
            assert_eq!(torn == 0, cut == 0 || whole[..cut].ends_with('\n'), "cut at {cut}");
            let mut appender = Appender::open(path.clone()).unwrap();
            appender.append(b"next".to_vec());
            appender.close();
            let (after, torn) = lines(&path);
            assert_eq!((after.len(), after.last().map(String::as_str), torn), (kept + 1, Some("next"), 0));
        }
    }

    #[test]
    fn a_full_disk_is_told_and_stops_nobody() {
        let mut appender = Appender::open(PathBuf::from("/dev/full")).unwrap();
        appender.append(b"record".to_vec());
        let mut health = appender.health.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(health.wait_for(|health| health.error.is_some())).unwrap();
        assert!(appender.health().error.unwrap().contains("No space left"));
        appender.close();
    }
}
