//! Receives what ranks tell of themselves, over a unix datagram socket.
//!
//! Who may send is settled by the folder that the socket lies in, which only its owner may enter, and by the
//! socket's mode. The sender's pid is taken from the datagram: the kernel's credentials would be 0 for a sender
//! in a pid namespace that cannot be seen from here.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    path::{Path, PathBuf},
};

use rustix::net::RecvFlags;
use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::UnixDatagram;

use crate::domain::beat::{MAX_DATAGRAM, Message};

/// How much the kernel keeps for a slow reader, in bytes, as far as it allows: beats of some hundred ranks.
const RECEIVE_BUFFER: usize = 1 << 20;

/// The socket that ranks send their heartbeats to. Its file goes when it is dropped.
#[derive(Debug)]
pub struct BeatSocket {
    socket: UnixDatagram,
    path: PathBuf,
    buffer: Box<[u8]>,
    skipped: u64,
}

impl BeatSocket {
    /// Makes the socket, readable and writable by its owner only, and replaces one that a dead supervisor left.
    ///
    /// The path may be longer than the 107 bytes that an address holds; its last part may not.
    ///
    /// # Errors
    /// What the kernel says; [`io::ErrorKind::AlreadyExists`] when something else than a socket is there. Must be
    /// called within a tokio runtime.
    pub fn bind(path: &Path) -> io::Result<BeatSocket> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket needs a folder and a name"));
        };
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.file_type().is_socket() => fs::remove_file(path)?,
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "what is there is no socket")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let folder =
            rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        let socket = open_socket()?;
        // The file takes the socket's own mode when it is bound, so it is never open to others.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&short)?)?;
        // A small buffer is no reason to go without beats.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
        Ok(BeatSocket {
            socket: UnixDatagram::from_std(socket.into())?,
            path: path.to_owned(),
            // One byte more than allowed, to tell what is too long.
            buffer: vec![0; MAX_DATAGRAM + 1].into_boxed_slice(),
            skipped: 0,
        })
    }

    /// The next message. What is no message is skipped and counted. May be cancelled without loss.
    ///
    /// # Errors
    /// When the socket itself fails, which leaves it of no use.
    pub async fn next(&mut self) -> io::Result<Message> {
        loop {
            let length = self.socket.recv(&mut self.buffer).await?;
            match Message::parse(&self.buffer[..length]) {
                Some(message) => return Ok(message),
                None => self.skipped += 1,
            }
        }
    }

    /// The next message that has arrived already. What is no message is skipped and counted.
    pub fn try_next(&mut self) -> Option<Message> {
        loop {
            // Asked of the kernel: tokio only knows what its last look at the socket showed.
            let buffer = &mut self.buffer[..];
            let (length, _) = rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT).ok()?;
            match Message::parse(&self.buffer[..length]) {
                Some(message) => return Some(message),
                None => self.skipped += 1,
            }
        }
    }

    /// Binds the same path anew, after somebody removed the file.
    ///
    /// # Errors
    /// As [`BeatSocket::bind`].
    pub fn rebind(&mut self) -> io::Result<()> {
        let mut fresh = BeatSocket::bind(&self.path)?;
        std::mem::swap(&mut self.socket, &mut fresh.socket);
        // The file is this one's now: the old socket must not remove it when it is dropped.
        fresh.path = PathBuf::new();
        Ok(())
    }

    /// Datagrams that were no message, since the start.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Where the socket lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BeatSocket {
    fn drop(&mut self) {
        // A file that stays is replaced by the next supervisor.
        let _ = fs::remove_file(&self.path);
    }
}

fn open_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?)
}

/// Sends one message to a supervisor's socket, without waiting: the way of the rank shim, which must not be
/// held up.
///
/// # Errors
/// What the kernel says: nobody listens, or too much is waiting there.
pub fn send(path: &Path, message: &Message) -> io::Result<()> {
    let (folder, name) = (path.parent().unwrap_or(Path::new("/")), path.file_name().unwrap_or_default());
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    let socket = open_socket()?;
    let address = SocketAddrUnix::new(&short)?;
    rustix::net::sendto(&socket, &message.to_datagram(), rustix::net::SendFlags::empty(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::domain::beat::Beat;

    fn beat(n: u64) -> Message {
        Message::Beat(Beat { pid: 7, n, ..Beat::default() })
    }

    fn on_runtime<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn beats_come_through_a_long_path_and_junk_is_counted() {
        on_runtime(async {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("x".repeat(120));
            fs::create_dir(&folder).unwrap();
            let path = folder.join("beats.sock");
            let mut socket = BeatSocket::bind(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
            let held = fs::File::open(&folder).unwrap();
            let short = format!("/proc/self/fd/{}/beats.sock", held.as_raw_fd());
            sender.send_to(b"junk", &short).unwrap();
            sender.send_to(&vec![b'x'; MAX_DATAGRAM + 9], &short).unwrap();
            send(&path, &beat(1)).unwrap();
            send(&path, &beat(2)).unwrap();
            assert_eq!(socket.next().await.unwrap(), beat(1));
            assert_eq!((socket.next().await.unwrap(), socket.skipped()), (beat(2), 2));
            assert_eq!(socket.try_next(), None);
            sender.send_to(b"junk", &short).unwrap();
            send(&path, &beat(3)).unwrap();
            assert_eq!((socket.try_next(), socket.skipped()), (Some(beat(3)), 3));
            drop(socket);
            assert!(!path.exists());
            assert!(send(&path, &beat(4)).is_err());
        });
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        on_runtime(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s");
            std::mem::forget(BeatSocket::bind(&path).unwrap());
            let mut socket = BeatSocket::bind(&path).unwrap();
            send(&path, &beat(1)).unwrap();
            assert_eq!(socket.next().await.unwrap(), beat(1));
            let file = dir.path().join("f");
            fs::write(&file, "mine").unwrap();
            assert_eq!(BeatSocket::bind(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&file).unwrap(), b"mine");
        });
    }
}
