//! Reading flight recorders: dump files, and those of living ranks.
//!
//! A living rank is asked over torch's worker server, which answers even while something holds Python's lock, and by
//! its injected thread, which also knows the recorders that the server does not (of the `nccl2` backend) and the
//! members of each group.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::{Map, Value};

use super::{
    rank::{Question, Rank},
    stack::Wanted,
};
use crate::domain::flight::{
    Dump,
    read::{self, rank_of_name},
};

/// Largest dump that is read, in bytes: a ring of 20000 collectives with their stacks has 30 MiB.
pub const MAX_DUMP: u64 = 64 << 20;
/// How long a rank's worker server may take.
const SERVER_WITHIN: Duration = Duration::from_secs(2);
/// How long the injected thread may take: it looks once a second.
const THREAD_WITHIN: Duration = Duration::from_millis(3500);
/// Handlers of torch's worker server that dump a recorder: gloo's, and the one of the legacy NCCL backend.
const HANDLERS: [&str; 2] = ["fr_trace_json", "dump_nccl_trace_json?includecollectives=true"];

/// Reads a dump file. Its name tells the rank, else it is `otherwise`.
///
/// # Errors
/// A file that cannot be read, is larger than [`MAX_DUMP`], or holds no dump.
pub fn read_file(path: &Path, otherwise: Option<u32>) -> Result<Dump, String> {
    let told = |error: io::Error| format!("cannot read it: {error}");
    let mut file = File::open(path).map_err(told)?;
    let meta = file.metadata().map_err(told)?;
    if !meta.is_file() {
        return Err("it is no file".into());
    }
    if meta.len() > MAX_DUMP {
        return Err(format!("it has {} MiB; no dump is larger than {}", meta.len() >> 20, MAX_DUMP >> 20));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(MAX_DUMP).read_to_end(&mut bytes).map_err(told)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // When the file was written does not matter: what torch dumps had waited long enough by then.
    read::read(&bytes, rank_of_name(name).or(otherwise)).map_err(|error| error.to_string())
}

/// The dump of a living rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// Global rank.
    pub rank: u32,
    /// One JSON text for each recorder that has collectives, as [`read_file`] reads them; or why there is none.
    pub dumps: Result<Vec<String>, String>,
}

/// Asks all these ranks at once. `now_ns` is when, in nanoseconds since 1970.
pub fn take(wanted: &[Wanted], world_size: Option<u32>, now_ns: u64) -> Vec<Live> {
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for (at, wanted) in wanted.iter().enumerate() {
            let sender = sender.clone();
            scope.spawn(move || {
                let dumps = take_one(wanted).map(|dumps| {
                    dumps.into_iter().map(|dump| sign(dump, wanted.rank, world_size, now_ns)).collect()
                });
                // The other end is in this very function.
                let _ = sender.send((at, Live { rank: wanted.rank, dumps }));
            });
        }
    });
    drop(sender);
    let mut taken: Vec<_> = receiver.iter().collect();
    taken.sort_by_key(|(at, _)| *at);
    taken.into_iter().map(|(_, live)| live).collect()
}

fn take_one(wanted: &Wanted) -> Result<Vec<Value>, String> {
    let beat = wanted.beat.clone().ok_or("the rank was not started by elastictop")?;
    let rank = Rank { proc: wanted.proc, beat };
    // The thread knows more; the server stays when the thread gets no turn.
    match of_thread(&rank) {
        Ok(dumps) => Ok(dumps),
        Err(thread) => of_server(&rank).map_err(|server| {
            if thread.kind() == io::ErrorKind::TimedOut {
                format!("no answer, as something holds Python's lock or the rank is stopped; worker server: {server}")
            } else {
                format!("{thread}; worker server: {server}")
            }
        }),
    }
}

fn of_thread(rank: &Rank) -> io::Result<Vec<Value>> {
    let answer: Value = serde_json::from_slice(&rank.ask(Question::Flight, THREAD_WITHIN)?)?;
    let groups = answer.get("groups").cloned().unwrap_or(Value::Object(Map::new()));
    let dumps = answer.get("dumps").and_then(Value::as_array).cloned().unwrap_or_default();
    let with_members = |mut dump: Value| {
        if let Some(dump) = dump.as_object_mut() {
            dump.insert("pg_config".into(), groups.clone());
        }
        dump
    };
    Ok(or_empty(dumps).into_iter().map(with_members).collect())
}

fn of_server(rank: &Rank) -> io::Result<Vec<Value>> {
    let mut dumps = Vec::new();
    let mut failed = None;
    for handler in HANDLERS {
        match rank.post(handler, SERVER_WITHIN).and_then(|body| Ok(serde_json::from_slice::<Value>(&body)?)) {
            Ok(dump) => dumps.extend(has_entries(&dump).then_some(dump)),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if dumps.is_empty() => Err(error),
        _ => Ok(or_empty(dumps)),
    }
}

/// A rank that answered and called nothing yet has a dump, too: that is what tells it from one that is silent.
fn or_empty(dumps: Vec<Value>) -> Vec<Value> {
    if dumps.is_empty() { vec![serde_json::json!({"entries": []})] } else { dumps }
}

fn has_entries(dump: &Value) -> bool {
    dump.get("entries").and_then(Value::as_array).is_some_and(|entries| !entries.is_empty())
}

/// A dump with what it does not tell itself.
fn sign(mut dump: Value, rank: u32, world_size: Option<u32>, now_ns: u64) -> String {
    if let Some(dump) = dump.as_object_mut() {
        dump.insert("rank".into(), rank.into());
        dump.insert("taken_ns".into(), now_ns.into());
        if let Some(world_size) = world_size {
            dump.insert("world_size".into(), world_size.into());
        }
    }
    dump.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_by_their_names() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flight/missing");
        let dump = read_file(&folder.join("rank_2"), None).unwrap();
        assert_eq!((dump.rank, dump.entries.len(), dump.taken_ns), (2, 4, None));
        assert!(read_file(&folder, None).unwrap_err().contains("no file"));
        assert!(read_file(&folder.join("rank_9"), None).unwrap_err().contains("No such file"));
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rank_0");
        File::create(&path).unwrap().set_len(MAX_DUMP + 1).unwrap();
        assert!(read_file(&path, None).unwrap_err().contains("no dump is larger"));
    }

    #[test]
    fn a_live_dump_tells_rank_and_time() {
        let text = sign(serde_json::json!({"entries": []}), 7, Some(8), 9);
        let dump = read::read(text.as_bytes(), Some(1)).unwrap();
        assert_eq!((dump.rank, dump.world_size, dump.taken_ns), (7, Some(8), Some(9)));
    }
}
