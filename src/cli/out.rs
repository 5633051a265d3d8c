//! What commands print. A reader that has seen enough, such as `head`, is no failure.

use std::{
    fmt::Display,
    io::{self, Write},
    path::Path,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Error, Result};

/// Prints a text and ends its line; gives the exit code for "all went well".
///
/// # Errors
/// What is written to takes no more, such as a file on a full disk.
pub fn say(text: impl Display) -> Result<u8> {
    write(&format!("{}\n", harmless(text))).map(|_| 0)
}

/// Prints a text as it is, which may be nothing; whether anybody still reads.
///
/// # Errors
/// As of [`say`].
pub fn write(text: &str) -> Result<bool> {
    if text.is_empty() {
        return Ok(is_read());
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::environment(format!("cannot write to standard output: {error}"))),
    }
}

/// Whether standard output leads anywhere: not to a pipe whose reader is gone.
pub fn is_read() -> bool {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_err() || !fds[0].revents().contains(PollFlags::ERR)
}

/// Tells something beside the output, if anybody listens.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{}", harmless(text));
}

/// Whether a new file may take the place of what lies at a path.
///
/// # Errors
/// A device, a pipe, a folder or a link is there: it would be lost for all who use it.
pub fn may_replace(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(there) if !there.is_file() => {
            Err(Error::usage(format!("{} is no regular file: it is not replaced", path.display()))
                .hint("name another file with -o"))
        }
        _ => Ok(()),
    }
}

/// Without what commands a terminal: other machines and processes have their say in what is printed.
pub fn harmless(text: impl Display) -> String {
    let is_command = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    let turns_text = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.to_string().chars().filter(|c| !is_command(*c) && !turns_text(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(may_replace(&file).is_ok() && may_replace(&dir.path().join("new")).is_ok());
        for other in [dir.path(), &link, Path::new("/dev/null")] {
            assert_eq!(may_replace(other).unwrap_err().exit_code(), 2, "{}", other.display());
        }
    }

    #[test]
    fn nothing_that_is_printed_commands_the_terminal() {
        assert_eq!(
            harmless("n1: \u{1b}]0;PWN\u{7}\u{1b}[2J \u{9b}31m\u{202e}evil\n\tend"),
            "n1: ]0;PWN[2J 31mevil\n\tend"
        );
        assert_eq!(harmless("ünïcode ✔"), "ünïcode ✔");
    }
}
