//! What the ranks write: which streams go to files, the folders these lie in, and the copy to the console.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    str::FromStr,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

/// Which streams of which ranks: torchrun's `0`, `1` (stdout), `2` (stderr), `3` (both), or `0:3,1:1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    all: u8,
    of: BTreeMap<u32, u8>,
}

impl Streams {
    /// Whether `stream` (1 stdout, 2 stderr) of this rank is meant.
    pub fn has(&self, local_rank: u32, stream: u8) -> bool {
        self.of.get(&local_rank).unwrap_or(&self.all) & stream != 0
    }
}

impl FromStr for Streams {
    type Err = String;

    fn from_str(text: &str) -> Result<Streams, String> {
        let bits = |text: &str| match text {
            "0" => Ok(0),
            "1" => Ok(1),
            "2" => Ok(2),
            "3" => Ok(3),
            _ => Err(format!("{text:?} is not 0, 1, 2 or 3")),
        };
        if !text.contains(':') {
            return Ok(Streams { all: bits(text)?, of: BTreeMap::new() });
        }
        let mut of = BTreeMap::new();
        for part in text.split(',') {
            let (rank, value) =
                part.split_once(':').ok_or_else(|| format!("{part:?} is not LOCAL_RANK:N"))?;
            let rank = rank.parse().map_err(|_| format!("{rank:?} is not a local rank"))?;
            of.insert(rank, bits(value)?);
        }
        Ok(Streams { all: 0, of })
    }
}

/// The folder of one run: `LOG_DIR/RUN_ID_xxxxxxxx/attempt_N/LOCAL_RANK/`.
#[derive(Debug)]
pub struct Folders {
    run: PathBuf,
}

impl Folders {
    /// Makes the run's own folder in `log_dir`, or in the temporary folder.
    pub fn make(log_dir: Option<&Path>, run_id: &str) -> io::Result<Folders> {
        let top = match log_dir {
            Some(dir) => {
                let dir = std::path::absolute(dir)?;
                fs::create_dir_all(&dir)?;
                dir
            }
            None => tempfile::Builder::new().prefix("elastictop_").tempdir()?.keep(),
        };
        let prefix = format!("{}_", run_id.replace('/', "_"));
        let run = tempfile::Builder::new().prefix(&prefix).rand_bytes(8).tempdir_in(top)?.keep();
        Ok(Folders { run })
    }

    /// Makes the folder of a rank in one attempt.
    pub fn rank(&self, attempt: u32, local_rank: u32) -> io::Result<PathBuf> {
        let folder = self.run.join(format!("attempt_{attempt}")).join(local_rank.to_string());
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

/// A file whose growth is copied to the console.
#[derive(Debug)]
pub struct Source {
    /// What the rank writes.
    pub path: PathBuf,
    /// Put before each line.
    pub prefix: String,
    /// To stderr instead of stdout.
    pub to_stderr: bool,
}

enum Order {
    Follow(Source),
    /// Copy the rest and forget all sources.
    Flush,
}

/// The copy of `--tee`, on a thread of its own: a console that takes nothing must not hold up the launcher.
#[derive(Debug)]
pub struct Tee {
    orders: Sender<Order>,
    done: Receiver<()>,
}

impl Tee {
    /// Looks every `interval`.
    pub fn start(interval: Duration) -> io::Result<Tee> {
        let (orders, inbox) = channel();
        let (finished, done) = channel();
        thread::Builder::new().name("tee".into()).spawn(move || {
            copy(&inbox, interval.max(Duration::from_millis(10)));
            drop(finished);
        })?;
        Ok(Tee { orders, done })
    }

    /// Starts copying a file.
    pub fn follow(&self, source: Source) {
        let _ = self.orders.send(Order::Follow(source));
    }

    /// The ranks are gone: copy what is left of them.
    pub fn flush(&self) {
        let _ = self.orders.send(Order::Flush);
    }

    /// Copies the rest and ends, unless the console takes nothing for 5 seconds.
    pub fn finish(self) {
        self.flush();
        drop(self.orders);
        let _ = self.done.recv_timeout(Duration::from_secs(5));
    }
}

struct Tail {
    source: Source,
    file: Option<File>,
    /// Read and not yet written: the start of a line.
    rest: Vec<u8>,
}

fn copy(inbox: &Receiver<Order>, interval: Duration) {
    let mut tails: Vec<Tail> = Vec::new();
    loop {
        let order = if tails.is_empty() {
            inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            inbox.recv_timeout(interval)
        };
        if let Ok(Order::Follow(source)) = order {
            tails.push(Tail { source, file: None, rest: Vec::new() });
            continue;
        }
        let last = order.is_ok();
        for tail in &mut tails {
            // What cannot be read or shown is lost to the console only; the file has it.
            let _ = tail.advance(last);
        }
        match order {
            Ok(_) => tails.clear(),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Tail {
    fn advance(&mut self, last: bool) -> io::Result<()> {
        /// A line longer than this is shown in pieces.
        const LONGEST: usize = 64 * 1024;
        let mut file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.source.path)?,
        };
        let mut chunk = [0; 16 * 1024];
        loop {
            let read = file.read(&mut chunk)?;
            self.rest.extend(&chunk[..read]);
            let whole = match self.rest.iter().rposition(|byte| *byte == b'\n') {
                _ if self.rest.len() > LONGEST || (last && read == 0) => self.rest.len(),
                Some(newline) => newline + 1,
                None => 0,
            };
            let rest = self.rest.split_off(whole);
            let lines = prefixed(&self.source.prefix, &std::mem::replace(&mut self.rest, rest));
            if self.source.to_stderr {
                io::stderr().write_all(&lines)?;
            } else {
                let mut out = io::stdout().lock();
                out.write_all(&lines)?;
                out.flush()?;
            }
            if read == 0 {
                break;
            }
        }
        self.file = Some(file);
        Ok(())
    }
}

/// Each line behind `prefix` and ended.
fn prefixed(prefix: &str, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + prefix.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        out.extend(prefix.bytes());
        out.extend(line.strip_suffix(b"\n").unwrap_or(line));
        out.push(b'\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_read_as_torchrun_writes_them() {
        let streams: Streams = "0:3,1:1".parse().unwrap();
        assert_eq!(
            [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)].map(|(r, s)| streams.has(r, s)),
            [true, true, true, false, false]
        );
        let both: Streams = "3".parse().unwrap();
        assert!(both.has(9, 1) && both.has(9, 2));
        for bad in ["", "4", "a:1", "0:9", "0:1,", "1,2"] {
            assert!(bad.parse::<Streams>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_get_their_prefix_and_an_end() {
        assert_eq!(prefixed("[a0]:", b"x\n\ny"), b"[a0]:x\n[a0]:\n[a0]:y\n");
        assert_eq!(prefixed("p", b""), b"");
    }

    #[test]
    fn a_run_id_that_looks_like_a_path_stays_in_the_folder() {
        let top = tempfile::tempdir().unwrap();
        let folders = Folders::make(Some(top.path()), "../up").unwrap();
        assert_eq!(folders.run.parent(), Some(top.path()));
        let name = folders.run.file_name().unwrap().to_str().unwrap();
        assert_eq!((&name[..6], name.len()), (".._up_", 14));
    }
}
