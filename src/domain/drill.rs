//! Faults that a user can put into a healthy rank, to see how soon and how well they are told.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The file in a rank's folder that orders a fault.
pub const ORDER: &str = "drill.json";
/// What the rank calls the file once the fault begins.
pub const TAKEN: &str = "drill.taken.json";
/// … and once it has refused it.
pub const REFUSED: &str = "drill.refused.json";
/// An order that a rank has not taken after this many seconds is void.
pub const FRESH_S: u64 = 10;

/// What a rank is to do, or what is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Its main thread sleeps.
    Hang,
    /// Its main thread spins.
    Busy,
    /// Its main thread sleeps in C code and holds Python's lock.
    Gil,
    /// Its main thread reads from a pipe that nobody writes to.
    Read,
    /// It runs out of memory, by the error alone: none is used up.
    Oom,
    /// It gets SIGSTOP, and SIGCONT afterwards.
    Stop,
    /// It gets SIGKILL.
    Kill,
    /// All ranks die at once and their agent does not notice; in a job of the drill's own alone.
    Zombie,
    /// A fault that a newer elastictop knows.
    #[serde(other)]
    Unknown,
}

impl Fault {
    /// All that can be asked for.
    pub const ALL: [Fault; 8] = [
        Fault::Hang,
        Fault::Busy,
        Fault::Gil,
        Fault::Read,
        Fault::Oom,
        Fault::Stop,
        Fault::Kill,
        Fault::Zombie,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Hang => "hang",
            Fault::Busy => "busy",
            Fault::Gil => "gil",
            Fault::Read => "read",
            Fault::Oom => "oom",
            Fault::Stop => "stop",
            Fault::Kill => "kill",
            Fault::Zombie => "zombie",
            Fault::Unknown => "unknown",
        }
    }

    /// Whether the rank makes it itself, on an order in its folder; else a signal does it.
    pub fn needs_cooperation(self) -> bool {
        matches!(self, Fault::Hang | Fault::Busy | Fault::Gil | Fault::Read | Fault::Oom)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        Fault::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| {
            let names: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
            format!("{text:?} is no fault: {}", names.join(", "))
        })
    }
}

/// What lies in [`ORDER`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// What to do.
    pub fault: Fault,
    /// For how long, in seconds.
    pub seconds: u64,
    /// The process that is meant, so that no successor takes the order.
    pub pid: i32,
    /// When it was given: seconds since the epoch.
    pub at: f64,
}
