//! What ranks tell of themselves: heartbeats, and the shim's word before the script starts.
//!
//! One datagram is one JSON object. What is missing, null or negative (a counter that never counted) is `None`.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use super::{id::ProcId, sample::Place, time::Stamp};

/// The version of the datagrams that this elastictop understands.
pub const VERSION: u32 = 1;

/// The longest datagram that is looked at, in bytes.
pub const MAX_DATAGRAM: usize = 64 << 10;

/// What a datagram says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    /// The first word of the injected Python file.
    Hello(Beat),
    /// Once a second.
    Beat(Beat),
    /// The last word, at the interpreter's exit.
    Bye(Beat),
    /// Sent by the rank shim before it becomes the script.
    Shim(Shim),
}

/// One heartbeat of one rank.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Beat {
    /// Process id, as the rank sees itself.
    pub pid: i32,
    /// When it was sent, by the rank's clock: seconds since the epoch.
    pub at: Option<f64>,
    /// Counts the beats of this process from 0.
    pub n: u64,
    /// `RANK`, or the rank of the default process group.
    #[serde(deserialize_with = "count")]
    pub rank: Option<u32>,
    /// `LOCAL_RANK`.
    #[serde(deserialize_with = "count")]
    pub local_rank: Option<u32>,
    /// Number of ranks in the whole job.
    #[serde(deserialize_with = "count")]
    pub world_size: Option<u32>,
    /// `TORCHELASTIC_RESTART_COUNT`.
    #[serde(deserialize_with = "count")]
    pub restart_count: Option<u32>,
    /// Last step.
    #[serde(deserialize_with = "count")]
    pub step: Option<u64>,
    /// When it was told or guessed, by the rank's clock: seconds since the epoch.
    pub step_at: Option<f64>,
    /// How many collectives the default group had begun by then.
    #[serde(deserialize_with = "count")]
    pub step_seq: Option<u64>,
    /// Where the step comes from: `log`, `optimizer` or the like.
    pub step_source: Option<String>,
    /// By how much the sending thread woke up later than it wanted, in seconds: something held Python's lock.
    pub late: Option<f64>,
    /// The process groups that the rank is in.
    pub groups: Vec<GroupStatus>,
    /// The newest row of metrics has a loss that is no number.
    #[serde(deserialize_with = "lenient")]
    pub nan: Option<Nan>,
    /// Where the main thread is, once nothing has moved for some seconds.
    #[serde(rename = "where", deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub whereabouts: Option<Whereabouts>,
    /// What went wrong in the injected file, which goes on regardless.
    pub error: Option<String>,
}

/// The innermost line of a thread that is the script's own, rather than a library's.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Whereabouts {
    /// Path of the file; only its end if it is long.
    pub file: String,
    /// Line of the file; 0 where it is not known.
    pub line: u32,
    /// The function.
    pub name: String,
    /// The function that was called there, unless that is one in C.
    pub calls: Option<String>,
    /// The function of torch.distributed that was called there or further in: `init_process_group`, `all_reduce`.
    pub distributed: Option<String>,
}

impl Whereabouts {
    /// `train.py:40`.
    pub fn short(&self) -> String {
        let name = self.file.rsplit('/').next().unwrap_or_default();
        format!("{name}:{}", self.line)
    }

    /// `train.py:40, in load, which called all_gather`.
    pub fn sentence(&self) -> String {
        let called = self.distributed.as_ref().or(self.calls.as_ref());
        let called = called.map(|name| format!(", which called {name}")).unwrap_or_default();
        let within = if self.name == "<module>" { String::new() } else { format!(", in {}", self.name) };
        format!("{}{within}{called}", self.short())
    }
}

impl Beat {
    /// `at` as a stamp; `None` when it is missing or no time.
    pub fn sent_at(&self) -> Option<Stamp> {
        self.at.and_then(Stamp::from_epoch_seconds)
    }

    /// `step_at` as a stamp; `None` when it is missing or no time.
    pub fn stepped_at(&self) -> Option<Stamp> {
        self.step_at.and_then(Stamp::from_epoch_seconds)
    }
}

/// A loss that is NaN or infinite.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nan {
    /// Its name.
    pub key: String,
    /// The step of the row.
    #[serde(deserialize_with = "count")]
    pub step: Option<u64>,
    /// For how many rows in a row.
    #[serde(deserialize_with = "count")]
    pub rows: Option<u32>,
}

/// The collective that a rank has been waiting in for a while, from torch's flight recorder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Op {
    /// `all_reduce`.
    pub name: String,
    /// Its number in the group.
    #[serde(deserialize_with = "count")]
    pub seq: Option<u64>,
    /// Sizes and types of what goes in, as text.
    #[serde(deserialize_with = "lenient")]
    pub shape: Option<String>,
    /// Its time limit in milliseconds.
    #[serde(deserialize_with = "count")]
    pub timeout_ms: Option<u64>,
}

/// One process group as one of its ranks sees it. Counters are numbers of collectives, from torch's flight
/// recorder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStatus {
    /// torch's name of the group.
    pub name: String,
    /// The description that the script gave it.
    pub desc: Option<String>,
    /// `nccl`, `gloo` and so on.
    pub backend: Option<String>,
    /// Ranks in the group.
    #[serde(deserialize_with = "count")]
    pub size: Option<u32>,
    /// Position of this rank in the group.
    #[serde(deserialize_with = "count")]
    pub rank: Option<u32>,
    /// Last collective that was enqueued; `None` before the first, as for the two that follow.
    #[serde(deserialize_with = "count")]
    pub enqueued: Option<u64>,
    /// Last collective that began.
    #[serde(deserialize_with = "count")]
    pub started: Option<u64>,
    /// Last collective that ended.
    #[serde(deserialize_with = "count")]
    pub completed: Option<u64>,
    /// What the rank waits in, once it has waited for some seconds.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub op: Option<Op>,
}

/// What the rank shim knows when it starts: its first datagram, and the `rank.json` that it leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shim {
    /// Process id: it stays that of the script.
    pub pid: i32,
    /// Field 22 of `/proc/self/stat`.
    pub start: u64,
    /// Process id of the parent: the elastic agent.
    pub agent_pid: i32,
    /// What the environment says.
    #[serde(default)]
    pub place: Place,
    /// Where standard output can be read: a hard link, or the original where no link could be made; `None` when it
    /// is no regular file.
    #[serde(default)]
    pub out: Option<PathBuf>,
    /// The same for standard error.
    #[serde(default)]
    pub err: Option<PathBuf>,
    /// Where the rank would write its `error.json`, absolute.
    #[serde(default)]
    pub error_file: Option<PathBuf>,
}

impl Shim {
    /// The rank's process.
    pub fn proc(&self) -> ProcId {
        ProcId { pid: self.pid, start: self.start }
    }
}

impl Message {
    /// Reads a datagram. `None` for all that is not a whole message of a known kind and version.
    pub fn parse(datagram: &[u8]) -> Option<Message> {
        #[derive(Deserialize)]
        struct Versioned {
            v: u32,
            #[serde(flatten)]
            message: Message,
        }
        if datagram.len() > MAX_DATAGRAM {
            return None;
        }
        serde_json::from_slice(datagram)
            .ok()
            .filter(|Versioned { v, message }| *v == VERSION && message.pid() > 0)
            .map(|versioned| versioned.message)
    }

    /// As a datagram.
    pub fn to_datagram(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Versioned<'a> {
            v: u32,
            #[serde(flatten)]
            message: &'a Message,
        }
        // Nothing in it can fail: no map has keys other than strings.
        serde_json::to_vec(&Versioned { v: VERSION, message: self }).unwrap_or_default()
    }

    /// The process that sent it, as it sees itself.
    pub fn pid(&self) -> i32 {
        match self {
            Message::Hello(beat) | Message::Beat(beat) | Message::Bye(beat) => beat.pid,
            Message::Shim(shim) => shim.pid,
        }
    }
}

/// A number that counts. What is null, negative, too large or no number at all is `None`: one odd field is no
/// reason to lose a beat.
fn count<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_u64().and_then(|number| T::try_from(number).ok()))
}

/// What does not read as what it should be is `None`, for the same reason.
fn lenient<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(serde_json::Value::deserialize(deserializer)?).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_beat_of_the_injected_file_is_read() {
        let text = br#"{"v":1,"kind":"beat","pid":7,"at":1795167616.8,"n":3,"rank":1,"local_rank":1,"world_size":2,
            "restart_count":0,"step":40,"step_at":1795167616.5,"step_source":"log","late":0.001,"groups":[{"name":"0",
            "desc":"default_pg","backend":"gloo","size":2,"rank":1,"enqueued":12,"started":-1,"completed":null}],
            "error":null,"from_the_future":[1]}"#;
        let Some(Message::Beat(beat)) = Message::parse(text) else { panic!("not read") };
        assert_eq!((beat.pid, beat.rank, beat.step, beat.restart_count), (7, Some(1), Some(40), Some(0)));
        assert_eq!(beat.sent_at(), Some(Stamp(1_795_167_616_800)));
        let group = &beat.groups[0];
        assert_eq!((group.enqueued, group.started, group.completed), (Some(12), None, None));
    }

    #[test]
    fn hello_and_bye_may_be_short() {
        assert!(matches!(Message::parse(br#"{"v":1,"kind":"hello","pid":7}"#), Some(Message::Hello(_))));
        assert!(matches!(
            Message::parse(br#"{"v":1,"kind":"bye","pid":7,"rank":null}"#),
            Some(Message::Bye(_))
        ));
    }

    #[test]
    fn a_shims_word_survives_the_way() {
        let shim = Message::Shim(Shim {
            pid: 7,
            start: 99,
            agent_pid: 5,
            place: Place { rank: Some(3), run_id: Some("r".into()), ..Place::default() },
            out: Some("/x/stdout.log".into()),
            err: None,
            error_file: Some("/x/error.json".into()),
        });
        assert_eq!(Message::parse(&shim.to_datagram()), Some(shim));
    }

    #[test]
    fn junk_is_nothing() {
        let long = format!(r#"{{"v":1,"kind":"beat","pid":7,"error":"{}"}}"#, "x".repeat(MAX_DATAGRAM));
        let bad: [&[u8]; 9] = [
            b"",
            b"{}",
            b"\xff\xfe",
            br#"{"kind":"beat","pid":7}"#,
            br#"{"v":2,"kind":"beat","pid":7}"#,
            br#"{"v":1,"kind":"metric","pid":7}"#,
            br#"{"v":1,"kind":"beat","pid":0}"#,
            br#"{"v":1,"kind":"beat","pid":"x"}"#,
            long.as_bytes(),
        ];
        for datagram in bad {
            assert_eq!(Message::parse(datagram), None, "{}", String::from_utf8_lossy(datagram));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = Message::parse(&bytes);
        }

        #[test]
        fn any_change_of_a_good_datagram_is_survived(at: prop::sample::Index, byte: u8) {
            let mut good = br#"{"v":1,"kind":"beat","pid":7,"step":40,"groups":[{"name":"0","enqueued":-1}]}"#.to_vec();
            let at = at.index(good.len());
            good[at] = byte;
            let _ = Message::parse(&good);
        }
    }
}
