//! How a process ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The end of a process: by itself with a code, or by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It called `exit`; 0 to 255.
    Code(i32),
    /// A signal ended it; the signal's number.
    Signal(i32),
}

impl Exit {
    /// From a wait status: `waitpid`, or field 52 of `/proc/PID/stat`.
    pub fn from_wait_status(status: i32) -> Exit {
        match status & 0x7f {
            0 => Exit::Code((status >> 8) & 0xff),
            signal => Exit::Signal(signal),
        }
    }

    /// From Python's convention, which torchrun prints: negative numbers are signals.
    pub fn from_python(code: i32) -> Exit {
        if code < 0 { Exit::Signal(-code) } else { Exit::Code(code) }
    }

    /// In Python's convention: negative numbers are signals. This is `exit` in the JSON of a rank.
    pub fn to_python(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => -signal,
        }
    }

    /// As a shell reports it: 128 + signal. This is what `elastictop run --wait` exits with.
    pub fn to_shell(self) -> u8 {
        match self {
            Exit::Code(code) => u8::try_from(code).unwrap_or(1),
            Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(255),
        }
    }

    /// The signal that ended it, also when a shell in between turned that into a code above 128.
    pub fn signal_behind(self) -> Option<i32> {
        match self {
            Exit::Signal(signal) => Some(signal),
            Exit::Code(code @ 129..=159) => Some(code - 128),
            Exit::Code(_) => None,
        }
    }

    /// Whether it ended with code 0.
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Exit::Code(code) => match self.signal_behind().and_then(signal_name) {
                Some(name) => write!(f, "exit code {code} ({name} behind a shell)"),
                None => write!(f, "exit code {code}"),
            },
            Exit::Signal(signal) => match signal_name(signal) {
                Some(name) => f.write_str(name),
                None => write!(f, "signal {signal}"),
            },
        }
    }
}

const SIGNALS: [(i32, &str); 22] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (10, "SIGUSR1"),
    (11, "SIGSEGV"),
    (12, "SIGUSR2"),
    (13, "SIGPIPE"),
    (14, "SIGALRM"),
    (15, "SIGTERM"),
    (18, "SIGCONT"),
    (19, "SIGSTOP"),
    (20, "SIGTSTP"),
    (24, "SIGXCPU"),
    (25, "SIGXFSZ"),
    (30, "SIGPWR"),
    (31, "SIGSYS"),
];

/// The name of a Linux signal (x86-64 and arm64 numbering), `SIGTERM` for 15.
pub fn signal_name(signal: i32) -> Option<&'static str> {
    SIGNALS.iter().find(|(number, _)| *number == signal).map(|(_, name)| *name)
}

/// The number of a signal given as `15`, `TERM` or `SIGTERM`, in any case.
pub fn signal_number(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    match bare.parse() {
        Ok(number) => signal_name(number).map(|_| number),
        Err(_) => SIGNALS.iter().find(|(_, name)| name.strip_prefix("SIG") == Some(bare)).map(|(n, _)| *n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_and_python_codes_agree() {
        assert_eq!(Exit::from_wait_status(9), Exit::Signal(9));
        assert_eq!(Exit::from_wait_status(6 | 0x80), Exit::Signal(6), "with a core dump");
        assert_eq!(Exit::from_wait_status(3 << 8), Exit::Code(3));
        for code in [-11, 0, 1, 137] {
            assert_eq!(Exit::from_python(code).to_python(), code);
        }
        assert_eq!((Exit::Signal(9).to_shell(), Exit::Code(3).to_shell()), (137, 3));
    }

    #[test]
    fn a_signal_behind_a_shell_is_seen() {
        assert_eq!(Exit::Code(137).signal_behind(), Some(9));
        assert_eq!(Exit::Code(137).to_string(), "exit code 137 (SIGKILL behind a shell)");
        assert_eq!(Exit::Code(1).signal_behind(), None);
    }

    #[test]
    fn signals_are_known_by_name_and_number() {
        for text in ["9", "kill", "SIGKILL", "sigkill"] {
            assert_eq!(signal_number(text), Some(9), "{text}");
        }
        assert_eq!(signal_number("SIGNONSENSE"), None);
        assert_eq!(signal_number("99"), None);
    }
}
