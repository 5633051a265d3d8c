//! One error type: what failed, on what, why, what to do next, and the exit code that follows.

use std::{fmt, io, path::Path};

use serde::{Deserialize, Serialize};

/// What kind of failure, which decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The request cannot be carried out as it was typed or configured: exit code 2, nothing was started.
    Usage,
    /// There is no such job, or it is in the wrong state for this: exit code 3.
    Job,
    /// The world refused: files, processes, network. Exit code 1.
    Environment,
}

/// An error for a person to read.
#[derive(Debug)]
pub struct Error {
    /// What kind of failure.
    pub kind: Kind,
    /// What failed, on what and why: one sentence without a full stop.
    pub text: String,
    /// What to do next, one hint each.
    pub hints: Vec<String>,
}

/// The result of what a person asked for.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The request is wrong; nothing was started.
    pub fn usage(text: impl Into<String>) -> Error {
        Error { kind: Kind::Usage, text: text.into(), hints: Vec::new() }
    }

    /// There is no such job, or it is in the wrong state.
    pub fn job(text: impl Into<String>) -> Error {
        Error { kind: Kind::Job, text: text.into(), hints: Vec::new() }
    }

    /// The world refused.
    pub fn environment(text: impl Into<String>) -> Error {
        Error { kind: Kind::Environment, text: text.into(), hints: Vec::new() }
    }

    /// `verb` failed on `path`: `Error::io("cannot read", path, &error)`.
    pub fn io(verb: &str, path: &Path, error: &io::Error) -> Error {
        // The tempfile crate adds the path of a file in between, of which nobody knows.
        let why = error.to_string();
        let why = why.split(" at path ").next().unwrap_or_default();
        Error::environment(format!("{verb} {}: {why}", path.display()))
    }

    /// With one more thing to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hints.push(hint.into());
        self
    }

    /// The exit code of the program.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Environment => 1,
            Kind::Usage => 2,
            Kind::Job => 3,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.text)?;
        self.hints.iter().try_for_each(|hint| write!(f, "\n\nhint: {hint}"))
    }
}

impl std::error::Error for Error {}
