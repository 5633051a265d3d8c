//! Asking a rank itself: torch's worker server on its unix socket, and the injected thread by a file.
//!
//! Both lie beside the socket that ranks beat to, with the rank's process id in their names. All calls block, up to
//! their time limit: run them on a thread.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::{fs::OpenOptionsExt, io::AsRawFd, net::UnixStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags};

use super::proc::{self, ROOT};
use crate::domain::id::ProcId;

/// Longest answer of a rank, in bytes.
pub const MAX_ANSWER: usize = 64 << 20;
/// Pause between two looks for an answer.
const AGAIN: Duration = Duration::from_millis(20);
/// Most bytes of an HTTP head.
const MAX_HEAD: usize = 16 << 10;

/// What the injected thread can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The stacks of all threads.
    Stacks,
    /// The flight recorders.
    Flight,
}

/// A rank of this machine that elastictop started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rank {
    /// Its process.
    pub proc: ProcId,
    /// The socket that it beats to.
    pub beat: PathBuf,
}

impl Rank {
    fn beside(&self, what: &str) -> PathBuf {
        let mut path = self.beat.clone().into_os_string();
        path.push(format!(".{what}.{}", self.proc.pid));
        path.into()
    }

    /// Posts to a handler of torch's worker server, and gives the body of the answer.
    ///
    /// # Errors
    /// No server, no answer in time, a longer one than [`MAX_ANSWER`], or one that is not `200 OK`.
    pub fn post(&self, handler: &str, within: Duration) -> io::Result<Vec<u8>> {
        let until = Instant::now() + within;
        let path = self.beside("srv");
        if !path.exists() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it has no worker server"));
        }
        self.check_listens(&path)?;
        let mut stream = connect(&path)?;
        let request = format!(
            "POST /handler/{handler} HTTP/1.1\r\nHost: rank\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.set_write_timeout(Some(within))?;
        stream.write_all(request.as_bytes())?;
        let answer = read_all(&mut stream, until)?;
        body(&answer)
    }

    /// Whether the rank itself still has the listening socket. A script that closes all its descriptors takes it away
    /// from the server's thread, and the next connection would end the process.
    fn check_listens(&self, path: &Path) -> io::Result<()> {
        let refused = |text| Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
        if proc::identify(Path::new(ROOT), self.proc.pid) != Some(self.proc) {
            return refused("the process is gone");
        }
        let sockets = fs::read_to_string(format!("{ROOT}/{}/net/unix", self.proc.pid))?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // `Num RefCount Protocol Flags Type St Inode Path`; the path is the short one that was bound, which others may
        // have in another folder.
        let inodes: Vec<String> = sockets
            .lines()
            .filter(|line| line.ends_with(name))
            .filter_map(|line| Some(format!("socket:[{}]", line.split_ascii_whitespace().nth(6)?)))
            .collect();
        if inodes.is_empty() {
            return refused("nobody listens");
        }
        let held = fs::read_dir(format!("{ROOT}/{}/fd", self.proc.pid))?
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str()));
        if held { Ok(()) } else { refused("the script closed the server's socket") }
    }

    /// Asks the injected thread, and gives its answer.
    ///
    /// # Errors
    /// No answer in time: the rank does not beat, holds Python's lock, or is stopped.
    pub fn ask(&self, question: Question, within: Duration) -> io::Result<Vec<u8>> {
        let until = Instant::now() + within;
        let answer = self.beside(&format!("answer-{:x}", fastrand::u64(..)));
        let word = match question {
            Question::Stacks => "stacks",
            Question::Flight => "flight",
        };
        let asked = self.beside("ask");
        write_private(&asked, format!("{word}\n{}\n", answer.display()).as_bytes())?;
        let found = loop {
            match fs::File::open(&answer) {
                Ok(file) => break Ok(file),
                Err(error) if error.kind() != io::ErrorKind::NotFound => break Err(error),
                Err(_) if Instant::now() >= until => {
                    break Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
                }
                Err(_) => thread::sleep(AGAIN),
            }
        };
        // Whoever wakes up later shall not find an old question.
        let _ = fs::remove_file(&asked);
        let _ = fs::remove_file(&answer);
        let mut bytes = Vec::new();
        found?.take(MAX_ANSWER as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > MAX_ANSWER {
            return Err(too_long());
        }
        Ok(bytes)
    }
}

/// Removes what ranks left beside the socket that they beat to.
pub fn clean_up(beat: &Path) {
    let (Some(folder), Some(name)) = (beat.parent(), beat.file_name().and_then(|name| name.to_str())) else {
        return;
    };
    let ours = ["srv.", "ask.", "answer-"].map(|what| format!("{name}.{what}"));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours =
            entry.file_name().to_str().is_some_and(|name| ours.iter().any(|ours| name.starts_with(ours)));
        if is_ours {
            // Another supervisor may be as tidy.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    fs::rename(&beside, path)
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("its answer is longer than {} MiB", MAX_ANSWER >> 20))
}

/// Connects through the folder's descriptor: an address holds 107 bytes, a path may be longer.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

fn read_all(stream: &mut UnixStream, until: Instant) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut part = vec![0; 64 << 10];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => return Ok(all),
            Ok(n) => all.extend(&part[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if all.len() > MAX_ANSWER {
            return Err(too_long());
        }
        // The server keeps the connection open for a moment whatever it is asked.
        if is_complete(&all) {
            return Ok(all);
        }
    }
}

/// Where the body begins, its length if told, and the status.
fn head(answer: &[u8]) -> Option<(usize, Option<usize>, u16)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(begins) = response.parse(&answer[..answer.len().min(MAX_HEAD)]).ok()?
    else {
        return None;
    };
    let status = response.code?;
    let length = headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    Some((
        begins,
        length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok()),
        status,
    ))
}

fn is_complete(answer: &[u8]) -> bool {
    matches!(head(answer), Some((begins, Some(length), _)) if answer.len() - begins >= length)
}

fn body(answer: &[u8]) -> io::Result<Vec<u8>> {
    let broken = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let (begins, length, status) = head(answer).ok_or_else(|| broken("its answer is no HTTP"))?;
    let body = &answer[begins..];
    let body = match length {
        Some(length) => body.get(..length).ok_or_else(|| broken("its answer is cut off"))?,
        None => body,
    };
    if status == 200 {
        return Ok(body.to_vec());
    }
    let said: String = String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(200).collect();
    Err(broken(&format!("it answers {status}: {said}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use proptest::prelude::*;

    use super::*;

    fn me(dir: &Path) -> Rank {
        let proc = proc::identify(Path::new(ROOT), std::process::id() as i32).unwrap();
        Rank { proc, beat: dir.join("job.beat") }
    }

    /// A server that gives one answer and leaves, or stays silent.
    fn serve(rank: &Rank, answer: Option<&'static [u8]>) -> thread::JoinHandle<String> {
        let listener = UnixListener::bind(rank.beside("srv")).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; 1000];
            let length = stream.read(&mut asked).unwrap();
            match answer {
                Some(answer) => stream.write_all(answer).unwrap(),
                // Until the other side has had enough.
                None => drop(stream.read(&mut asked)),
            }
            String::from_utf8_lossy(&asked[..length]).into_owned()
        })
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_server_is_asked_and_answers() {
        let dir = tempfile::tempdir().unwrap();
        let rank = me(dir.path());
        assert_eq!(rank.post("ping", PATIENCE).unwrap_err().kind(), io::ErrorKind::NotFound);
        let server = serve(&rank, Some(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong and more"));
        assert_eq!(rank.post("ping", PATIENCE).unwrap(), b"pong");
        assert!(server.join().unwrap().starts_with("POST /handler/ping HTTP/1.1\r\n"));
        // The file is still there, the listener is not.
        assert_eq!(rank.post("ping", PATIENCE).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_refusal_and_silence_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let rank = me(dir.path());
        let server = serve(&rank, Some(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"));
        assert_eq!(rank.post("x", PATIENCE).unwrap_err().to_string(), "it answers 404: no");
        server.join().unwrap();
        fs::remove_file(rank.beside("srv")).unwrap();
        let server = serve(&rank, None);
        assert_eq!(rank.post("x", Duration::from_millis(50)).unwrap_err().kind(), io::ErrorKind::TimedOut);
        server.join().unwrap();
        clean_up(&rank.beat);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_thread_is_asked_by_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let rank = me(dir.path());
        let asked = rank.beside("ask");
        let answering = thread::spawn(move || {
            loop {
                if let Ok(text) = fs::read_to_string(&asked) {
                    let (word, path) = text.trim_end().split_once('\n').unwrap();
                    fs::write(path, format!("{word}!")).unwrap();
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(rank.ask(Question::Stacks, PATIENCE).unwrap(), b"stacks!");
        answering.join().unwrap();
        let error = rank.ask(Question::Flight, Duration::from_millis(30)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing is left for a rank that wakes up later"
        );
    }

    proptest! {
        #[test]
        fn no_answer_does_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "(HTTP/1.1 200 OK\r\n|Content-Length: |[0-9]{1,20}|\r\n|x){0,12}") {
            let _ = (body(&bytes), is_complete(&bytes), body(text.as_bytes()), is_complete(text.as_bytes()));
        }
    }
}
