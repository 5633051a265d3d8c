//! What the launcher prints on stderr, in torchrun's shapes: log lines, status events, the block at the end.

use std::{
    fmt::Write as _,
    io::{self, Write},
    panic::Location,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::{
    Value,
    ser::{Formatter, Serializer},
};

use super::group::Rank;
use crate::domain::exit::{Exit, signal_name};

/// One line or block on stderr, in one piece.
pub fn say(text: &str) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// A log line with the level (`I`, `W` or `E`), time, pid and place in the source: `W1121 08:36:07.403000 15385
/// elastictop/agent/runner.rs:120] text`.
#[track_caller]
pub fn log(level: char, text: &str) {
    let place = Location::caller();
    let file = place.file().rsplit('/').next().unwrap_or_default();
    let time = jiff::Zoned::now().strftime("%m%d %H:%M:%S.%6f");
    let pid = std::process::id();
    say(&format!("{level}{time} {pid} elastictop/agent/{file}:{}] {text}", place.line()));
}

/// What all events of a job have in common.
#[derive(Clone, Debug)]
pub struct Events {
    /// Name of the job.
    pub run_id: String,
    /// Name of the role.
    pub role: String,
    /// Host name.
    pub hostname: String,
    /// File name of the program.
    pub entry_point: String,
    /// Number of ranks.
    pub world_size: u32,
}

#[derive(Serialize)]
struct Event<'a> {
    name: String,
    source: &'a str,
    timestamp: u64,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the name in the format")]
struct Metadata<'a> {
    run_id: &'a str,
    global_rank: u32,
    group_rank: u32,
    worker_id: String,
    role: &'a str,
    hostname: &'a str,
    state: &'a str,
    total_run_time: u64,
    rdzv_backend: &'a str,
    raw_error: Option<String>,
    metadata: String,
    agent_restarts: u32,
    duration_ms: Option<f64>,
}

#[derive(Serialize)]
struct Inner<'a> {
    group_world_size: u32,
    entry_point: &'a str,
    local_rank: [u32; 1],
    role_rank: [u32; 1],
    role_world_size: [u32; 1],
    exit_code: [Option<i32>; 1],
    worker_pid: [Option<i32>; 1],
}

impl Events {
    /// The line that tells of a rank's start.
    pub fn start(&self, rank: u32, pid: i32, restarts: u32) -> String {
        self.line("START", rank, pid, restarts, 0, None, None)
    }

    /// The line that tells of a rank's end, printed when the job is over; `seconds` is how long it ran.
    pub fn end(
        &self,
        rank: u32,
        pid: i32,
        restarts: u32,
        seconds: u64,
        exit: Exit,
        raw: Option<String>,
    ) -> String {
        let state = if exit.is_success() { "SUCCEEDED" } else { "FAILED" };
        self.line(state, rank, pid, restarts, seconds, Some(exit), raw)
    }

    #[expect(clippy::too_many_arguments, reason = "one flat record")]
    fn line(
        &self,
        state: &str,
        rank: u32,
        pid: i32,
        restarts: u32,
        seconds: u64,
        exit: Option<Exit>,
        raw: Option<String>,
    ) -> String {
        let inner = Inner {
            group_world_size: 1,
            entry_point: &self.entry_point,
            local_rank: [rank],
            role_rank: [rank],
            role_world_size: [self.world_size],
            exit_code: [exit.map(Exit::to_python)],
            worker_pid: [exit.map(|_| pid)],
        };
        spaced_json(&Event {
            name: format!("torchelastic.worker.status.{state}"),
            source: "WORKER",
            timestamp: 0,
            metadata: Metadata {
                run_id: &self.run_id,
                global_rank: rank,
                group_rank: 0,
                worker_id: pid.to_string(),
                role: &self.role,
                hostname: &self.hostname,
                state,
                total_run_time: seconds,
                rdzv_backend: "local",
                raw_error: raw,
                metadata: spaced_json(&inner),
                agent_restarts: restarts,
                duration_ms: None,
            },
        })
    }
}

/// JSON with a blank behind each colon and comma, as Python writes it.
fn spaced_json(value: &impl Serialize) -> String {
    struct Spaced;
    impl Formatter for Spaced {
        fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }
        fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }
        fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
            out.write_all(b": ")
        }
    }
    let mut out = Vec::new();
    let _ = value.serialize(&mut Serializer::with_formatter(&mut out, Spaced));
    String::from_utf8(out).unwrap_or_default()
}

/// How a rank that failed did so, for the block at the end.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which rank.
    pub rank: u32,
    /// Its process id.
    pub pid: i32,
    /// How it ended.
    pub exit: Exit,
    /// Position in the order of ends.
    pub order: u32,
    /// When, in seconds since the epoch.
    pub at: i64,
    /// What it left as `error.json`.
    pub error: Option<ErrorFile>,
}

/// An `error.json` that a rank left.
#[derive(Clone, Debug)]
pub struct ErrorFile {
    /// Where.
    pub path: PathBuf,
    /// All of it.
    pub raw: String,
}

impl ErrorFile {
    /// Reads the file, if the rank wrote one.
    pub fn read(path: &Path) -> Option<ErrorFile> {
        let raw = std::fs::read(path).ok()?;
        Some(ErrorFile { path: path.to_owned(), raw: String::from_utf8_lossy(&raw).into_owned() })
    }

    /// The traceback in it, or else the message.
    fn text(&self) -> Option<String> {
        let value: Value = serde_json::from_str(&self.raw).ok()?;
        let message = &value["message"];
        [&message["extraInfo"]["py_callstack"], &message["message"], message]
            .into_iter()
            .find_map(|text| text.as_str().filter(|text| !text.is_empty()))
            .map(str::to_owned)
    }

    /// When it says that it happened, in seconds since the epoch.
    fn at(&self) -> Option<i64> {
        let value: Value = serde_json::from_str(&self.raw).ok()?;
        match &value["message"]["extraInfo"]["timestamp"] {
            Value::String(text) => text.parse().ok(),
            number => number.as_i64(),
        }
    }
}

/// The failures of the last start, of ranks that ended with something else than 0.
pub fn failures(
    ranks: &[Rank],
    at: impl Fn(u32) -> i64,
    error: impl Fn(u32) -> Option<ErrorFile>,
) -> Vec<Failure> {
    (0..)
        .zip(ranks)
        .filter_map(|(rank, known)| match *known {
            Rank::Ended { pid, exit, order } if !exit.is_success() => {
                Some(Failure { rank, pid, exit, order, at: at(rank), error: error(rank) })
            }
            _ => None,
        })
        .collect()
}

/// The block at the end of a job that failed: all failures, the first that was seen last.
pub fn failure_block(entry_point: &str, hostname: &str, failures: &[Failure]) -> String {
    let double = "=".repeat(60);
    let single = "-".repeat(60);
    let root = failures.iter().enumerate().min_by_key(|(_, failure)| failure.order).map(|(index, _)| index);
    let mut out =
        format!("elastictop: ChildFailedError:\n{double}\n{entry_point} FAILED\n{single}\nFailures:\n");
    if failures.len() < 2 {
        out.push_str("  <NO_OTHER_FAILURES>\n");
    }
    for (index, failure) in failures.iter().enumerate().filter(|(index, _)| Some(*index) != root) {
        out.push_str(&entry(index, hostname, failure));
    }
    let _ = writeln!(out, "{single}\nRoot Cause (first observed failure):");
    match root {
        Some(root) => out.push_str(&entry(root, hostname, &failures[root])),
        None => out.push_str("  <N/A>\n"),
    }
    out.push_str(&double);
    out
}

fn entry(index: usize, hostname: &str, failure: &Failure) -> String {
    let at = failure.error.as_ref().and_then(ErrorFile::at).unwrap_or(failure.at);
    let time = jiff::Timestamp::from_second(at).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    let signal = match failure.exit {
        Exit::Signal(signal) => Some((signal, signal_name(signal).unwrap_or("unknown signal"))),
        Exit::Code(_) => None,
    };
    let traceback = match (failure.error.as_ref().and_then(ErrorFile::text), signal) {
        (Some(text), _) => text.trim_end().replace('\n', "\n    "),
        (None, Some((signal, name))) => format!("Signal {signal} ({name}) received by PID {}", failure.pid),
        (None, None) => "<N/A>, no error file was written; see the output of the rank".into(),
    };
    let signal = signal.map(|(_, name)| format!(" ({name})")).unwrap_or_default();
    let file = failure.error.as_ref().map_or("<N/A>".into(), |error| error.path.display().to_string());
    format!(
        "[{index}]:\n  time      : {}\n  host      : {hostname}\n  rank      : {rank} (local_rank: {rank})\n  \
         exitcode  : {} (pid: {}) {signal}\n  error_file: {file}\n  traceback : {traceback}\n",
        time.strftime("%Y-%m-%d_%H:%M:%S"),
        failure.exit.to_python(),
        failure.pid,
        rank = failure.rank,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Events {
        Events {
            run_id: "r".into(),
            role: "default".into(),
            hostname: "h".into(),
            entry_point: "train.py".into(),
            world_size: 2,
        }
    }

    #[test]
    fn events_have_the_shape_of_torchruns() {
        let start = events().start(1, 42, 3);
        assert!(start.starts_with("{\"name\": \"torchelastic.worker.status.START\", \"source\": \"WORKER\""));
        let value: Value = serde_json::from_str(&start).unwrap();
        assert_eq!(value["metadata"]["worker_id"], "42");
        assert_eq!(value["metadata"]["agent_restarts"], 3);
        let inner: Value = serde_json::from_str(value["metadata"]["metadata"].as_str().unwrap()).unwrap();
        assert_eq!(inner["local_rank"], serde_json::json!([1]));
        assert_eq!(inner["exit_code"], serde_json::json!([null]));
        let end = events().end(0, 41, 3, 7, Exit::Signal(9), Some("{}".into()));
        assert!(end.contains("status.FAILED") && end.contains(r#"\"exit_code\": [-9]"#), "{end}");
        assert!(events().end(0, 41, 0, 7, Exit::Code(0), None).contains("status.SUCCEEDED"));
    }

    #[test]
    fn the_block_names_the_first_failure_as_the_cause() {
        let raw = r#"{"message":{"message":"boom","extraInfo":{"py_callstack":"Trace\n  boom\n","timestamp":"5"}}}"#;
        let error = ErrorFile { path: "/l/error.json".into(), raw: raw.into() };
        let failure = |rank, order, exit, error| Failure { rank, pid: 10, exit, order, at: 0, error };
        let block = failure_block(
            "sh",
            "h",
            &[failure(0, 1, Exit::Signal(15), None), failure(1, 0, Exit::Code(3), Some(error))],
        );
        let (others, root) = block.split_once("Root Cause (first observed failure):\n[1]:").unwrap();
        assert!(others.contains("exitcode  : -15 (pid: 10)  (SIGTERM)\n"), "{block}");
        assert!(others.contains("rank      : 0 (local_rank: 0)\n"), "{block}");
        assert!(root.contains("exitcode  : 3 (pid: 10) \n  error_file: /l/error.json"), "{block}");
        assert!(root.contains("traceback : Trace\n      boom\n"), "{block}");
        assert!(
            failure_block("sh", "h", &[failure(0, 0, Exit::Code(1), None)]).contains("<NO_OTHER_FAILURES>")
        );
    }
}
