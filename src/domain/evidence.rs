//! What a line on a rank's standard error, or its error file, proves.
//!
//! [`read_line`] runs on every line of every rank, and nearly all lines prove nothing: one pass of a literal search
//! over the line and a look at its first word come before anything else.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{log::strip_rank_prefix, time::Stamp};

mod traceback;

pub use traceback::{Proof, Tracebacks};

/// Longest text kept of a line or a message, in bytes.
pub const MAX_TEXT: usize = 400;
/// Only this much of a line is looked at, in bytes: a line may be megabytes long.
const MAX_LOOK: usize = 8 * 1024;

/// What one line proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mark", rename_all = "snake_case")]
pub enum Mark {
    /// NCCL's watchdog found a collective older than its time limit.
    NcclTimeout {
        /// Name of the collective, `ALLREDUCE`, if told.
        op: Option<String>,
        /// Its sequence number in its group.
        seq: Option<u64>,
        /// The limit in milliseconds.
        timeout_ms: Option<u64>,
    },
    /// A call into gloo ran into its time limit.
    GlooTimeout {
        /// The limit in milliseconds.
        timeout_ms: Option<u64>,
    },
    /// Another rank ran into a time limit and told this one.
    PeerTimeout,
    /// NCCL's watchdog thread itself made no progress.
    WatchdogStuck {
        /// For how long, in seconds.
        seconds: Option<u64>,
    },
    /// Something held Python's lock when NCCL wanted to report.
    GilHeld,
    /// A peer closed its connection or reset it: always the consequence of something else.
    PeerGone {
        /// The peer's address, if told.
        peer: Option<String>,
    },
    /// The ranks could not connect to each other, or to the store.
    Rendezvous,
    /// A port was taken.
    PortInUse {
        /// Which one, if told.
        port: Option<u16>,
    },
    /// An NCCL error that is not a peer's.
    NcclError,
    /// CUDA ran out of memory.
    OomGpu {
        /// What was asked for, `2.00 GiB`, if told.
        size: Option<String>,
    },
    /// A CUDA error other than memory.
    CudaError {
        /// What CUDA said.
        what: String,
    },
    /// The host's memory could not be had; the process saw it itself.
    HostMemory,
    /// A data-loader worker was killed or died.
    LoaderDied {
        /// The signal's name, if told.
        signal: Option<String>,
    },
    /// Shared memory, `/dev/shm`, is full.
    ShmFull,
    /// A file system is full.
    DiskFull,
    /// A Python module is missing.
    ModuleMissing {
        /// Its name.
        module: String,
    },
    /// Ranks called different collectives.
    Mismatch {
        /// The rank that the text names.
        rank: Option<u32>,
    },
    /// A Python exception.
    Exception {
        /// Its class as printed, `torch.distributed.DistBackendError`.
        class: String,
        /// Its message, at most [`MAX_TEXT`] bytes.
        message: String,
        /// The exception that it came of: `from KeyError: 'lr'`, `while handling …`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
    /// Python's fault handler: the interpreter died.
    Fatal {
        /// `Segmentation fault`, `Aborted`…
        what: String,
    },
    /// A C++ exception that nobody caught.
    Terminate {
        /// Its class, if told.
        class: Option<String>,
    },
    /// NCCL's watchdog ends the process. The reason stands in other lines.
    TakenDown,
    /// A Rust panic.
    Panic,
}

/// The class of what is in an error file and names none.
pub const UNNAMED: &str = "an error";

/// How much a mark says about who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Goes with other marks and proves nothing alone.
    Context,
    /// The consequence of a failure elsewhere.
    Secondary,
    /// A failure of this rank.
    Primary,
}

impl Mark {
    /// How much it says about who is to blame.
    pub fn weight(&self) -> Weight {
        match self {
            Mark::GilHeld | Mark::TakenDown => Weight::Context,
            Mark::PeerGone { .. } | Mark::PeerTimeout => Weight::Secondary,
            // The agent's own words for failures of others, and an exit code in disguise.
            Mark::Exception { class, .. }
                if ["SystemExit", "ChildFailedError", "SignalException"]
                    .contains(&class.rsplit('.').next().unwrap_or_default()) =>
            {
                Weight::Context
            }
            _ => Weight::Primary,
        }
    }

    /// Whether it tells of a wait that took too long: the rank that reports it waited for another.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Mark::NcclTimeout { .. } | Mark::GlooTimeout { .. } | Mark::WatchdogStuck { .. })
    }

    /// Whether it is an exception that only passes another one on, which is printed after it.
    pub fn passes_on(&self) -> bool {
        const WORKERS: [&str; 2] = ["in DataLoader worker", "in pin memory thread"];
        matches!(self, Mark::Exception { message, .. }
            if message.starts_with("Caught ") && WORKERS.iter().any(|place| message.contains(place)))
    }

    /// Whether it is another exception with more of its message.
    pub fn is_more_of(&self, before: &Mark) -> bool {
        match (self, before) {
            (Mark::Exception { class, message, .. }, Mark::Exception { class: same, message: begin, .. }) => {
                class == same && message.len() > begin.len() && message.starts_with(begin.as_str())
            }
            _ => false,
        }
    }

    /// Whether both are of one class, and one message begins as the other.
    pub fn is_same_exception(&self, other: &Mark) -> bool {
        match (self, other) {
            (Mark::Exception { class, message, .. }, Mark::Exception { class: same, message: text, .. }) => {
                // A class of an odd name is not told from the message in an error file.
                let text = text
                    .strip_prefix(class.as_str())
                    .and_then(|rest| rest.strip_prefix(": "))
                    .unwrap_or(text);
                (class == same || same == UNNAMED)
                    && (message.starts_with(text) || text.starts_with(message.as_str()))
            }
            _ => false,
        }
    }

    /// Whether it was raised from another exception.
    pub fn was_raised_from(&self, before: &Mark) -> bool {
        matches!((self, before), (Mark::Exception { from: Some(from), .. }, Mark::Exception { class, .. })
            if from.contains(class.as_str()))
    }

    /// How special it is: of marks that belong together, the highest tells most.
    pub fn detail(&self) -> u8 {
        match self {
            Mark::GilHeld | Mark::TakenDown => 0,
            Mark::Terminate { .. } => 1,
            Mark::Exception { .. } | Mark::Fatal { .. } | Mark::Panic => 2,
            Mark::NcclError | Mark::PeerTimeout | Mark::PeerGone { .. } | Mark::WatchdogStuck { .. } => 3,
            Mark::Rendezvous | Mark::CudaError { .. } | Mark::LoaderDied { .. } => 4,
            _ => 5,
        }
    }

    /// What a message of several lines proves: the most telling of its lines.
    pub fn of_message(message: &str) -> Option<Mark> {
        let marks = message.lines().take(200).filter_map(read_line);
        // The first of equals: what follows an exception's first line belongs to it.
        marks.reduce(|best, mark| if mark.detail() > best.detail() { mark } else { best })
    }
}

/// At most `max` bytes of `text`, cut between characters.
pub fn cut(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What makes a pattern of [`PATTERNS`] worth trying: one search for all of these comes first.
///
/// Each pattern holds at least one of them; a test checks it.
static TRIGGER: LazyLock<Regex> = LazyLock::new(|| {
    let literals = [
        "Watchdog caught collective",
        "atchdog got stuck for",
        "Operation timed out after",
        "Heartbeat monitor timed out",
        "NCCL operation timed out",
        "Timed out waiting ",
        "recorder dump signal from another rank",
        "dump signal due to a collective timeout",
        "Aborting process on rank",
        "Could not acquire GIL",
        "entire process down",
        "onnection closed by ",
        "onnection reset by peer",
        "emote error detected from rank",
        "remote process exited or there was",
        "ncclRemoteError",
        "failed to recv, got 0 bytes",
        "recvValue failed",
        "sendBytes failed",
        "connectFullMesh failed",
        "istStoreError",
        "istNetworkError",
        "RendezvousTimeoutError",
        "RendezvousConnectionError",
        "EADDRINUSE",
        "ddress already in use",
        "NCCL error",
        "ncclSystemError",
        "ncclUnhandledCudaError",
        "CUDA out of memory",
        "CUDA error",
        "HIP out of memory",
        "device-side assert",
        "llegal memory access",
        "annot allocate memory",
        "an't allocate memory",
        "std::bad_alloc",
        "MemoryError",
        "DataLoader worker",
        "shared memory",
        "/dev/shm",
        "o space left on device",
        "No module named",
        "mismatch between collectives",
        "Fatal Python error",
        "terminate called after",
        "terminate called without",
        "panicked at",
    ];
    let escaped: Vec<_> = literals.iter().map(|literal| regex::escape(literal)).collect();
    Regex::new(&escaped.join("|")).expect("literals make a pattern")
});

type Make = fn(&Captures) -> Option<Mark>;

/// The patterns, most telling first: the first that fits wins.
static PATTERNS: LazyLock<Vec<(Regex, Make)>> = LazyLock::new(|| {
    let rows: [(&str, Make); 31] = [
        (
            r"Watchdog caught collective operation timeout: WorkNCCL\(SeqNum=([0-9]+), OpType=([A-Za-z0-9_]+).*?Timeout\(ms\)=([0-9]+)\)",
            |c| Some(Mark::NcclTimeout { seq: int(c, 1), op: text(c, 2), timeout_ms: int(c, 3) }),
        ),
        (r"Operation timed out after ([0-9]+) ms", |c| {
            Some(Mark::NcclTimeout { seq: None, op: None, timeout_ms: int(c, 1) })
        }),
        (
            r"Watchdog caught collective operation timeout|NCCL operation timed out|Aborting process on rank [0-9]+ due to timeout",
            |_| Some(Mark::NcclTimeout { seq: None, op: None, timeout_ms: None }),
        ),
        (r"atchdog got stuck for ([0-9]+) seconds|Heartbeat monitor timed out", |c| {
            Some(Mark::WatchdogStuck { seconds: int(c, 1) })
        }),
        (r"Timed out waiting ([0-9]+)\s?ms for (?:recv|send|read|write|unbound|operation)", |c| {
            Some(Mark::GlooTimeout { timeout_ms: int(c, 1) })
        }),
        (
            r"recorder dump signal from another rank|dump signal due to a collective timeout from +rank",
            |_| Some(Mark::PeerTimeout),
        ),
        ("Could not acquire GIL", |_| Some(Mark::GilHeld)),
        ("entire process down", |_| Some(Mark::TakenDown)),
        // Before the errors of connections: a mesh that cannot be made says "Connection refused" or the like too.
        ("connectFullMesh failed", |_| Some(Mark::Rendezvous)),
        (
            r"onnection closed by (?:remote )?peer(?: \[([^\]\s]+)\](?::([0-9]+))?| ([A-Za-z0-9._-]+)<)?",
            |c| Some(Mark::PeerGone { peer: address(c) }),
        ),
        (
            r"onnection reset by peer|emote error detected from rank|remote process exited or there was|ncclRemoteError|failed to recv, got 0 bytes|(?:recvValue|sendBytes) failed",
            |_| Some(Mark::PeerGone { peer: None }),
        ),
        (r"(?:port: |:)([0-9]{1,5})\b.{0,60}?(?:EADDRINUSE|ddress already in use)", |c| {
            Some(Mark::PortInUse { port: int(c, 1).and_then(|port| u16::try_from(port).ok()) })
        }),
        ("EADDRINUSE|ddress already in use", |_| Some(Mark::PortInUse { port: None })),
        (
            r"DistStoreError|DistNetworkError|RendezvousTimeoutError|RendezvousConnectionError|Timed out waiting for clients|Timed out after [0-9]+ seconds waiting for clients",
            |_| Some(Mark::Rendezvous),
        ),
        (r"(?:CUDA|HIP) out of memory(?:.*?[Tt]ried to allocate ([0-9.]+ ?[A-Za-z]+))?", |c| {
            Some(Mark::OomGpu { size: text(c, 1) })
        }),
        ("CUDA error: out of memory", |_| Some(Mark::OomGpu { size: None })),
        (r"CUDA error: (.+)", |c| Some(Mark::CudaError { what: text(c, 1)? })),
        ("device-side assert", |_| Some(Mark::CudaError { what: "device-side assert triggered".into() })),
        ("llegal memory access", |_| {
            Some(Mark::CudaError { what: "an illegal memory access was encountered".into() })
        }),
        (r"DistBackendError: NCCL error|NCCL error(?: in)?:|ncclSystemError|ncclUnhandledCudaError", |_| {
            Some(Mark::NcclError)
        }),
        (r"DataLoader worker.*is killed by signal: ([A-Za-z ]+)", |c| {
            Some(Mark::LoaderDied { signal: text(c, 1).map(|signal| signal.trim().to_owned()) })
        }),
        (
            r"insufficient shared memory|/dev/shm.*No space left|No space left.*/dev/shm|unable to (?:open|write|resize|allocate) .*shared memory",
            |_| Some(Mark::ShmFull),
        ),
        (r"DataLoader worker.*exited unexpectedly", |_| Some(Mark::LoaderDied { signal: None })),
        ("o space left on device", |_| Some(Mark::DiskFull)),
        (
            r"annot allocate memory|an't allocate memory|std::bad_alloc|^(?:\[rank[0-9]+\]: ?)?(?:[a-z_.]*\.)?_?(?:Array)?MemoryError\b",
            |_| Some(Mark::HostMemory),
        ),
        (r"(?:ModuleNotFoundError|ImportError|^\S*python[0-9.]*): No module named '?([A-Za-z0-9_.]+)", |c| {
            Some(Mark::ModuleMissing { module: text(c, 1)? })
        }),
        (r"mismatch between collectives on ranks(?:\. Rank ([0-9]+))?", |c| {
            Some(Mark::Mismatch { rank: int(c, 1).and_then(|rank| u32::try_from(rank).ok()) })
        }),
        (r"Fatal Python error: (.+)", |c| Some(Mark::Fatal { what: text(c, 1)? })),
        (r"terminate called after throwing an instance of '([A-Za-z0-9_:<>]+)'", |c| {
            Some(Mark::Terminate { class: text(c, 1) })
        }),
        ("terminate called (?:after|without)", |_| Some(Mark::Terminate { class: None })),
        (r"^thread '.*panicked at |^thread .* panicked at ", |_| Some(Mark::Panic)),
    ];
    rows.into_iter().map(|(pattern, make)| (Regex::new(pattern).expect("a pattern of ours"), make)).collect()
});

fn text(captures: &Captures, group: usize) -> Option<String> {
    captures.get(group).map(|found| cut(found.as_str().trim(), MAX_TEXT).to_owned())
}

fn int(captures: &Captures, group: usize) -> Option<u64> {
    captures.get(group)?.as_str().parse().ok()
}

fn address(captures: &Captures) -> Option<String> {
    let host = captures.get(1).or_else(|| captures.get(3))?.as_str();
    Some(captures.get(2).map_or_else(|| host.to_owned(), |port| format!("{host}:{}", port.as_str())))
}

/// What the line proves; `None` for nearly all lines.
///
/// The whole line counts, not its start alone: C++ messages of several ranks can mix within a line.
pub fn read_line(line: &str) -> Option<Mark> {
    let line = cut(line, MAX_LOOK);
    if TRIGGER.is_match(line) {
        let mark = PATTERNS.iter().find_map(|(pattern, make)| pattern.captures(line).and_then(|c| make(&c)));
        if mark.is_some() {
            return mark;
        }
    }
    exception(line)
}

/// `ValueError: bad batch`, `torch.cuda.Thing.WorkerError`, `KeyboardInterrupt`: the last line of a traceback.
fn exception(line: &str) -> Option<Mark> {
    let line = strip_rank_prefix(line);
    let end = line
        .bytes()
        .position(|b| !(b.is_ascii_alphanumeric() || b == b'.' || b == b'_'))
        .unwrap_or(line.len());
    let (class, rest) = line.split_at(end);
    let last = class.rsplit('.').next().unwrap_or(class);
    let is_name = last.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && (["Error", "Exception", "Interrupt", "Expired"].iter().any(|suffix| last.ends_with(suffix))
            || matches!(last, "SystemExit" | "StopIteration" | "StopAsyncIteration" | "BaseExceptionGroup"));
    if !is_name {
        return None;
    }
    let message = match rest.trim_end() {
        "" => "",
        rest => rest.strip_prefix(':')?.trim(),
    };
    Some(Mark::Exception { class: class.to_owned(), message: cut(message, MAX_TEXT).to_owned(), from: None })
}

/// What a rank wrote into its `error.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorFile {
    /// What went wrong, `ValueError: bad batch`.
    pub message: String,
    /// The Python traceback, if there is one.
    pub py_callstack: Option<String>,
    /// When, by the rank's clock, to the second.
    pub timestamp: Option<Stamp>,
}

impl ErrorFile {
    /// Reads the file's content. The message may be a text, or an object that holds one.
    pub fn parse(bytes: &[u8]) -> Option<ErrorFile> {
        let whole: Value = serde_json::from_slice(bytes).ok()?;
        let outer = whole.get("message")?;
        let message = match outer {
            Value::String(text) => text.clone(),
            Value::Object(fields) => match fields.get("message")? {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            },
            _ => return None,
        };
        let more = outer.get("extraInfo");
        let timestamp = more.and_then(|more| more.get("timestamp")).or_else(|| whole.get("timestamp"));
        Some(ErrorFile {
            message: cut(message.trim(), 10 * MAX_TEXT).to_owned(),
            py_callstack: more
                .and_then(|more| more.get("py_callstack"))
                .and_then(Value::as_str)
                .filter(|stack| !stack.is_empty())
                .map(str::to_owned),
            timestamp: timestamp.and_then(|timestamp| match timestamp {
                Value::String(text) => Stamp::from_epoch_seconds(text.trim().parse().ok()?),
                other => Stamp::from_epoch_seconds(other.as_f64()?),
            }),
        })
    }
}

#[cfg(test)]
mod tests;
