//! Messages. JSON inside of frames: an old viewer skips what it does not know.

use std::{fmt, io};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{Map, Value};

use super::frame;
use crate::domain::{
    closeup::{CloseUp, Question},
    cluster::{Answer, NodeStatus},
    command::{Command, Outcome},
    event::Event,
    log::{LogPage, LogQuery},
    replay::{Control, Mark},
    stack::Stacks,
    state::State,
    time::Stamp,
};

/// Raised only when an old viewer could not understand a new supervisor at all.
pub const PROTOCOL: u32 = 1;

/// From a viewer to a supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "m", rename_all = "snake_case")]
pub enum ToSupervisor {
    /// First message. Answered by [`ToViewer::Welcome`] and a [`ToViewer::Snapshot`].
    Hello {
        /// [`PROTOCOL`] of the viewer.
        protocol: u32,
        /// Version of the viewer's elastictop.
        version: String,
        /// Who looks, for the timeline: `user on tty`.
        viewer: String,
        /// Whether events shall follow the snapshot.
        watch: bool,
    },
    /// Do something. Answered by [`ToViewer::Reply`] with the same id, after the effect.
    Do {
        /// Chosen by the viewer.
        id: u64,
        /// What to do.
        command: Command,
        /// Refuse it once the supervisor's clock is past this: who asked has given up by then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Stamp>,
    },
    /// Answered by [`ToViewer::Logs`] with the same id.
    Logs {
        /// Chosen by the viewer.
        id: u64,
        /// Which lines.
        query: LogQuery,
    },
    /// Somebody looks at one rank. Answered by [`ToViewer::CloseUp`] with the same id.
    LookAt {
        /// Chosen by the viewer.
        id: u64,
        /// Position of the rank on the node.
        local_rank: u32,
        /// What to tell of it.
        question: Question,
    },
    /// Say this to the supervisor of one node, through whoever holds the links to several. A [`ToSupervisor::Do`]
    /// without it goes to all nodes.
    To {
        /// The node, counted from 0 in the order of [`ToViewer::Nodes`].
        node: u32,
        /// What to say.
        message: Box<ToSupervisor>,
    },
    /// Do something on some nodes. Answered by [`ToViewer::Answers`] with the same id, after the last of them answered.
    DoOn {
        /// Chosen by the viewer.
        id: u64,
        /// What to do.
        command: Command,
        /// The nodes, as in [`ToSupervisor::To`].
        nodes: Vec<u32>,
        /// As in [`ToSupervisor::Do`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Stamp>,
    },
    /// Answered by [`ToViewer::Clock`] with the same id, at once.
    Clock {
        /// Chosen by the viewer.
        id: u64,
    },
    /// Play a recording as the viewer wants it. Has no answer but [`ToViewer::Position`].
    Replay {
        /// What.
        control: Control,
    },
    /// Somebody looks at bytes over PCIe and NVLink: count them for the next seconds. Has no answer.
    Traffic,
    /// A kind that a newer viewer sent.
    #[serde(other)]
    Unknown,
}

/// From a supervisor to a viewer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "m", rename_all = "snake_case")]
pub enum ToViewer {
    /// The supervisor will talk to this viewer.
    Welcome {
        /// [`PROTOCOL`] of the supervisor.
        protocol: u32,
        /// Version of the supervisor's elastictop.
        version: String,
        /// The supervisor's clock, to tell ages with another clock on the viewer's side.
        now: Stamp,
        /// Why commands will be refused; `None` when they are allowed.
        read_only: Option<String>,
    },
    /// The whole state; replaces what the viewer had.
    Snapshot {
        /// All of it.
        state: Box<State>,
        /// Events that this viewer missed because it was slow.
        lost: u64,
    },
    /// What happened since.
    Events {
        /// Oldest first.
        events: Vec<Event>,
    },
    /// The end of a command.
    Reply {
        /// Of the command.
        id: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// The end of a [`ToSupervisor::DoOn`].
    Answers {
        /// Of the command.
        id: u64,
        /// What each node made of it.
        answers: Vec<(u32, Answer)>,
    },
    /// Log lines.
    Logs {
        /// Of the query.
        id: u64,
        /// The answer.
        page: LogPage,
    },
    /// What [`Command::Stacks`] found; its [`ToViewer::Reply`] follows.
    Stacks {
        /// Of the command.
        id: u64,
        /// The stacks, folded.
        stacks: Stacks,
    },
    /// What was asked about one rank.
    CloseUp {
        /// Of the question.
        id: u64,
        /// The answer.
        close_up: Box<CloseUp>,
    },
    /// How the links to the nodes of the job are, from whoever holds several. All of them, whenever one changed.
    Nodes {
        /// In the order in which they were named.
        nodes: Vec<NodeStatus>,
    },
    /// What the supervisor of one node says.
    From {
        /// The node, as in [`ToSupervisor::To`].
        node: u32,
        /// What it says.
        message: Box<ToViewer>,
    },
    /// Several messages, to be taken in one after the other: snapshots of many nodes.
    Together {
        /// Oldest first.
        messages: Vec<ToViewer>,
    },
    /// What the clock says: to tell how far it is ahead.
    Clock {
        /// Of the question.
        id: u64,
        /// Now.
        now: Stamp,
    },
    /// What is seen is a recording. Comes after the first snapshot.
    Recording {
        /// When its first event happened.
        begin: Stamp,
        /// When its last one did.
        end: Stamp,
        /// Places worth going to, in order.
        marks: Vec<Mark>,
        /// What is missing, one sentence each.
        missing: Vec<String>,
        /// Whether words, names and lines were taken out.
        redacted: bool,
    },
    /// Where in the recording the viewer is; the state is as of then.
    Position {
        /// The time that is shown.
        at: Stamp,
        /// Whether time goes on.
        playing: bool,
        /// How fast it goes.
        speed: u32,
        /// Something to tell the viewer, in a sentence.
        #[serde(default)]
        told: Option<String>,
    },
    /// Nothing more will come.
    Bye {
        /// Why.
        text: String,
    },
    /// A kind that a newer supervisor sent.
    #[serde(other)]
    Unknown,
}

/// Frames of a [`ToViewer::Together`] are ended at so many bytes.
const PART: usize = 8 << 20;

impl ToViewer {
    /// The frames of this message: one, or of several messages together as many as it takes. What is too long for one
    /// frame is then each single message at most, and not all of many nodes.
    ///
    /// # Errors
    /// A single message that is longer than [`frame::MAX_FRAME`].
    pub fn frames(&self) -> io::Result<Vec<Vec<u8>>> {
        self.frames_of(PART)
    }

    fn frames_of(&self, most: usize) -> io::Result<Vec<Vec<u8>>> {
        const BEGIN: &[u8] = b"\0\0\0\0{\"m\":\"together\",\"messages\":[";
        let ended = |mut part: Vec<u8>| {
            part.extend(b"]}");
            frame::with_length(part)
        };
        let ToViewer::Together { messages } = self else { return Ok(vec![frame::encode(self)?]) };
        let mut frames = Vec::new();
        let mut part = BEGIN.to_vec();
        for message in messages {
            let begun = part.len();
            if begun > BEGIN.len() {
                part.push(b',');
            }
            serde_json::to_writer(&mut part, message)?;
            if part.len() > most && begun > BEGIN.len() {
                // It is the first of the next frame.
                let next = [BEGIN, &part[begun + 1..]].concat();
                part.truncate(begun);
                frames.push(ended(std::mem::replace(&mut part, next))?);
            }
        }
        frames.push(ended(part)?);
        Ok(frames)
    }
}

impl Serialize for ToViewer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ToViewer::serialize(self, serializer)
    }
}

/// As derived, but for those that may be long: they go straight into place, where serde would keep a copy of all they
/// hold until it knows which message it is.
impl<'de> Deserialize<'de> for ToViewer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ToViewer, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = ToViewer;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("a message to a viewer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ToViewer, A::Error> {
        let mut kind = String::new();
        let (mut events, mut state, mut message, mut messages) = (None, None, None, None);
        let mut rest = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            match (key.as_str(), kind.as_str()) {
                ("m", _) => kind = map.next_value()?,
                ("events", "events") => events = Some(map.next_value()?),
                ("state", "snapshot") => state = Some(map.next_value()?),
                ("message", "from") => message = Some(map.next_value()?),
                ("messages", "together") => messages = Some(map.next_value()?),
                _ => drop(rest.insert(key, map.next_value()?)),
            }
        }
        let number = |name: &str| rest.get(name).and_then(Value::as_u64);
        if let Some(messages) = messages {
            return Ok(ToViewer::Together { messages });
        }
        if let Some((message, node)) = message.zip(number("node")) {
            return Ok(ToViewer::From { node: node as u32, message });
        }
        match (events, state.zip(number("lost"))) {
            (Some(events), _) => Ok(ToViewer::Events { events }),
            (_, Some((state, lost))) => Ok(ToViewer::Snapshot { state, lost }),
            _ => {
                rest.insert("m".into(), Value::String(kind));
                ToViewer::deserialize(Value::Object(rest)).map_err(A::Error::custom)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::frame::MAX_FRAME, *};
    use crate::domain::event::Fact;

    fn read(frame: &[u8]) -> Vec<ToViewer> {
        assert_eq!(frame[..4], (frame.len() as u32 - 4).to_be_bytes());
        match serde_json::from_slice(&frame[4..]).unwrap() {
            ToViewer::Together { messages } => messages,
            other => panic!("{other:?}"),
        }
    }

    fn from(node: u32, notes: usize, length: usize) -> ToViewer {
        let mut state = State::default();
        for seq in 0..notes as u64 {
            let fact = Fact::Note { text: "n".repeat(length) };
            state.apply(&Event { seq, at: Stamp(seq), fact });
        }
        ToViewer::From { node, message: Box::new(ToViewer::Snapshot { state: Box::new(state), lost: 0 }) }
    }

    proptest! {
        #[test]
        fn messages_together_come_apart_as_they_went_in(
            lengths in prop::collection::vec(0_usize..3_000, 0..12),
            most in 1_usize..6_000,
        ) {
            let messages: Vec<_> =
                lengths.iter().zip(0..).map(|(length, node)| from(node, 1, *length)).collect();
            let frames = ToViewer::Together { messages: messages.clone() }.frames_of(most).unwrap();
            let parts: Vec<_> = frames.iter().map(|frame| read(frame)).collect();
            for (frame, part) in frames.iter().zip(&parts) {
                prop_assert!(frame.len() <= most + 2 || part.len() <= 1, "{} > {most}", frame.len());
            }
            prop_assert_eq!(parts.concat(), messages);
        }
    }

    #[test]
    fn what_512_nodes_with_long_histories_told_fits_into_frames() {
        // About as much as a state may remember: 500 events.
        let one = from(0, 500, 120);
        let messages = vec![one; 512];
        let frames = ToViewer::Together { messages }.frames().unwrap();
        let all: usize = frames.iter().map(Vec::len).sum();
        assert!(all > MAX_FRAME, "{all} bytes would fit into one");
        assert!(frames.iter().all(|frame| frame.len() <= PART + 2) && frames.len() < 32);
        assert_eq!(read(&frames[1])[0], from(0, 500, 120));
    }
}
