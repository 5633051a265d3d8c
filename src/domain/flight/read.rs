//! From the bytes of a dump to a [`Dump`]: pickles and JSON, of torch 2.4's format (2.4) and newer.
//!
//! A dump is untrusted: whatever is missing or of another kind is left out, and nothing panics. JSON differs from the
//! pickle in small things: times that are unknown are 0, the group is a list, numbers may be text.

use std::fmt;

use serde_json::Value;

use super::{Dump, Entry, Frame, GroupName, Progress, Tensors, pickle};

/// Most stack frames kept of one collective.
const MAX_FRAMES: usize = 32;
/// Longest name, file or type that is kept, in bytes.
const MAX_TEXT: usize = 512;
/// Most ranks that a job can have: a larger number in a dump is no rank.
const MAX_RANK: u64 = 1 << 20;

/// Why a file is no dump.
#[derive(Debug)]
pub enum ReadError {
    /// Not a pickle of plain data.
    Pickle(pickle::PickleError),
    /// Not JSON either.
    Json(serde_json::Error),
    /// Data, but not of a flight recorder.
    NotADump,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Pickle(error) => write!(f, "it is no readable pickle: {error}"),
            ReadError::Json(error) => write!(f, "it is neither a pickle nor JSON: {error}"),
            ReadError::NotADump => {
                write!(f, "it holds data, but no flight recorder's: neither entries nor pg_config")
            }
        }
    }
}

impl std::error::Error for ReadError {}

/// Reads a dump. `rank` is the global rank that its name tells; one that the dump itself tells goes before it, and
/// without both it is 0.
///
/// # Errors
/// Bytes that are no dump.
pub fn read(bytes: &[u8], rank: Option<u32>) -> Result<Dump, ReadError> {
    let value = if pickle::is_pickle(bytes) {
        pickle::read(bytes).map_err(ReadError::Pickle)?
    } else {
        serde_json::from_slice(bytes).map_err(ReadError::Json)?
    };
    from_value(&value, rank)
}

/// The global rank that the name of a dump tells: torch puts it at the end, `comm_lib_trace_rank_3`; endings such as
/// `.json` do not matter.
pub fn rank_of_name(name: &str) -> Option<u32> {
    let stem = name.split('.').next().unwrap_or(name);
    let digits = stem.len() - stem.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    stem[stem.len() - digits..].parse().ok().filter(|rank| u64::from(*rank) < MAX_RANK)
}

fn from_value(value: &Value, rank: Option<u32>) -> Result<Dump, ReadError> {
    if value.get("entries").is_none() && value.get("pg_config").is_none() {
        return Err(ReadError::NotADump);
    }
    let own_rank = value.get("rank").and_then(number).filter(|rank| *rank < MAX_RANK).map(|rank| rank as u32);
    let world = value.get("world_size").and_then(number).filter(|world| *world <= MAX_RANK);
    let mut entries: Vec<_> = list(value.get("entries")).iter().filter_map(entry).collect();
    // The ring is written out from its oldest, but nothing promises it. Stable: same numbers keep their order.
    entries.sort_by_key(|entry| entry.created_ns);
    Ok(Dump {
        rank: own_rank.or(rank).unwrap_or(0),
        version: text(value.get("version")),
        world_size: world.map(|world| world as u32),
        taken_ns: value.get("taken_ns").and_then(number),
        groups: groups(value.get("pg_config")),
        entries,
    })
}

/// Gloo has one entry without a name for all its groups, which says nothing about any of them.
fn groups(config: Option<&Value>) -> Vec<(GroupName, Vec<u32>)> {
    let Some(Value::Object(config)) = config else { return Vec::new() };
    let group = |(key, value): (&String, &Value)| {
        let name = value.get("name").map_or_else(|| key.clone(), |name| text(Some(name)));
        let ranks = ranks(value.get("ranks"));
        let group = GroupName { name, desc: text(value.get("desc")) };
        (!group.name.is_empty() && !ranks.is_empty()).then_some((group, ranks))
    };
    config.iter().filter_map(group).collect()
}

/// `"[0, 1]"`, or a list of numbers.
fn ranks(value: Option<&Value>) -> Vec<u32> {
    let mut ranks: Vec<u32> = match value {
        Some(Value::String(text)) => {
            text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
        }
        other => list(other).iter().filter_map(|rank| Some(number(rank)? as u32)).collect(),
    };
    ranks.retain(|rank| u64::from(*rank) < MAX_RANK);
    ranks.sort_unstable();
    ranks.dedup();
    ranks
}

fn entry(value: &Value) -> Option<Entry> {
    let group = match value.get("process_group") {
        Some(Value::Array(parts)) => GroupName { name: text(parts.first()), desc: text(parts.get(1)) },
        // Format 2.0 and older knew only the number, which is the same on all ranks where all make all groups.
        _ => GroupName { name: number(value.get("pg_id")?)?.to_string(), desc: String::new() },
    };
    let called = text(value.get("profiling_name"));
    let (backend, op) = called.split_once(':').unwrap_or(("", &called));
    let is_p2p = value.get("is_p2p").and_then(Value::as_bool).unwrap_or(false);
    let seq = if is_p2p { "p2p_seq_id" } else { "collective_seq_id" };
    let seq = value.get(seq).or_else(|| value.get("seq_id")).and_then(number)?;
    let is_over = value.get("retired").and_then(Value::as_bool).unwrap_or(false);
    let progress = match value.get("state").and_then(Value::as_str) {
        _ if is_over => Progress::Finished,
        Some("completed") => Progress::Finished,
        Some("started") => Progress::Started,
        _ => Progress::Scheduled,
    };
    let known = |name| value.get(name).and_then(number).filter(|number| *number > 0);
    Some(Entry {
        group,
        seq,
        is_p2p,
        op: op.to_owned(),
        backend: backend.to_owned(),
        input: tensors(value, "input_sizes", "input_dtypes"),
        output: tensors(value, "output_sizes", "output_dtypes"),
        progress,
        created_ns: known("time_created_ns"),
        timeout_ms: known("timeout_ms"),
        frames: list(value.get("frames")).iter().take(MAX_FRAMES).map(frame).collect(),
    })
}

fn tensors(value: &Value, sizes: &str, dtypes: &str) -> Tensors {
    let shape = |shape: &Value| list(Some(shape)).iter().filter_map(Value::as_i64).collect();
    Tensors {
        sizes: list(value.get(sizes)).iter().map(shape).collect(),
        dtypes: list(value.get(dtypes)).iter().map(|dtype| text(Some(dtype))).collect(),
    }
}

fn frame(value: &Value) -> Frame {
    Frame {
        name: text(value.get("name")),
        file: text(value.get("filename")),
        line: value.get("line").and_then(number).and_then(|line| u32::try_from(line).ok()).unwrap_or(0),
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Cleaned of control characters: it ends on a terminal.
fn text(value: Option<&Value>) -> String {
    let text = match value {
        Some(Value::String(text)) => text.as_str(),
        Some(Value::Number(number)) => return number.to_string(),
        _ => return String::new(),
    };
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn names_tell_the_rank() {
        for (name, rank) in [
            ("comm_lib_trace_rank_3", Some(3)),
            ("rank_12.json", Some(12)),
            ("rank_1.gloo.json", Some(1)),
            ("nccl_trace_rank_0", Some(0)),
            ("rank_", None),
            ("7", Some(7)),
            ("rank_99999999999", None),
            ("", None),
        ] {
            assert_eq!(rank_of_name(name), rank, "{name}");
        }
    }

    #[test]
    fn a_dump_of_nccl_is_read_as_documented() {
        let dump = json!({
            "version": "2.10",
            "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}},
            "pg_status": {"0": {"last_enqueued_collective": 2}},
            "entries": [{
                "record_id": 1, "pg_id": 0, "process_group": ["0", "default_pg"], "collective_seq_id": 2,
                "p2p_seq_id": 0, "op_id": 2, "profiling_name": "nccl:all_reduce", "time_created_ns": 5,
                "input_sizes": [[3, 4]], "input_dtypes": ["BFloat16"], "output_sizes": [[3, 4]],
                "output_dtypes": ["BFloat16"], "state": "started", "retired": false, "timeout_ms": 600_000,
                "is_p2p": false, "frames": [{"name": "step", "filename": "train.py", "line": 7}],
            }],
        });
        let dump = read(dump.to_string().as_bytes(), Some(1)).unwrap();
        assert_eq!((dump.rank, dump.groups.len(), dump.groups[0].1.as_slice()), (1, 1, &[0, 1][..]));
        let entry = &dump.entries[0];
        assert_eq!((entry.op.as_str(), entry.backend.as_str(), entry.seq), ("all_reduce", "nccl", 2));
        assert_eq!((entry.progress, entry.input.elements()), (Progress::Started, 12));
        assert_eq!(entry.frames[0], Frame { name: "step".into(), file: "train.py".into(), line: 7 });
        assert_eq!(entry.group.to_string(), "the default group");
    }

    #[test]
    fn what_is_no_dump_says_why() {
        for (bytes, why) in [
            (&b"hello"[..], "neither a pickle nor JSON"),
            (b"{\"a\": 1}", "no flight recorder's"),
            (b"\x80\x02cos\nsystem\n.", "not for plain data"),
            (b"\x80\x02}", "cut off"),
            (b"", "neither a pickle nor JSON"),
        ] {
            let error = read(bytes, None).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[0-9a-z:>\\[\\], ]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("name|desc|ranks|filename|line", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    const KEYS: &str = "pg_id|process_group|collective_seq_id|p2p_seq_id|profiling_name|time_created_ns|input_sizes|\
                        input_dtypes|output_sizes|output_dtypes|state|retired|is_p2p|frames|timeout_ms";

    proptest! {
        #[test]
        fn entries_of_any_kind_do_no_harm(
            entries in prop::collection::vec(prop::collection::hash_map(KEYS, anything(), 0..8), 0..6),
            config in anything(),
            rank in anything(),
        ) {
            let value = json!({"entries": entries, "pg_config": {"x": config}, "rank": rank, "world_size": rank});
            let dump = read(value.to_string().as_bytes(), None).unwrap();
            let analysis = super::super::analyse::analyse(&[dump.clone(), Dump { rank: dump.rank + 1, ..dump }]);
            prop_assert!(analysis.findings.iter().all(|finding| !finding.text.is_empty()));
        }
    }
}
