//! Unix sockets at paths of any length: an address holds 107 bytes, a folder below a scratch file system may need
//! more. The folder is opened, and the socket reached through its descriptor.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

/// Longest path that fits into an address, in bytes.
const LONGEST: usize = 107;

/// Listens at `path`.
///
/// # Errors
/// Those of `open` and `bind`.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let (short, _folder) = shorten(path)?;
    UnixListener::bind(short)
}

/// Connects to `path`.
///
/// # Errors
/// Those of `open` and `connect`.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (short, _folder) = shorten(path)?;
    UnixStream::connect(short).await
}

/// A path that fits, and what must stay open while it is used.
fn shorten(path: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket needs a folder and a name"));
    };
    if path.as_os_str().len() <= LONGEST {
        return Ok((path.to_owned(), None));
    }
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((short, Some(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_can_be_listened_on_and_connected_to() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let listener = listen(&deep.join("s")).unwrap();
            let path = deep.join("s");
            let (near, far) = tokio::join!(connect(&path), listener.accept());
            assert!(near.is_ok() && far.is_ok());
            assert!(connect(&deep.join("none")).await.is_err());
        });
    }
}
