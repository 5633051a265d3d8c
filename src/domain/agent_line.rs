//! What the elastic agent tells on its standard error: event lines in JSON, its own log lines, the failure block.
//!
//! Only the texts count, never the source path before them: elastictop's own launcher writes the same texts.
//! Lines of ranks may be mixed in, so everything that does not fit is passed over in silence.

use serde_json::Value;

use super::exit::{Exit, signal_number};

/// How an event that torchrun prints with `--event-log-handler console` begins.
const EVENT: &str = "{\"name\": \"torchelastic.worker.status.";
/// Longest message kept of a failure entry, in bytes.
const MAX_MESSAGE: usize = 500;

/// Whether a line is one of the agent's event records: a line of JSON for each rank that starts or ends.
pub fn is_record(line: &str) -> bool {
    line.contains(EVENT)
}

/// One thing that the agent told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentLine {
    /// A rank's process exists.
    Started(Started),
    /// A rank has ended for good. Told only once, when the whole job ends, never for an attempt that is restarted.
    Ended(Ended),
    /// The nodes have met.
    Rendezvous {
        /// Restarts spent so far.
        restart_count: Option<u32>,
    },
    /// Ranks have been numbered.
    Assigned {
        /// Restarts spent so far.
        restart_count: Option<u32>,
    },
    /// The agent's main loop has returned. Says nothing about the ranks' success.
    LoopEnded {
        /// `SUCCEEDED`, `FAILED` or another word of the agent.
        state: String,
    },
    /// The agent sends a rank a signal to make it end.
    ClosingSignal {
        /// The rank's process.
        pid: i32,
        /// Signal number.
        signal: i32,
    },
    /// The rank did not end in time; the agent sends it SIGKILL.
    CannotShutdown {
        /// The rank's process.
        pid: i32,
    },
    /// A rank ended badly: the first one that the agent noticed, which need not be the first that failed.
    Failed {
        /// How it ended.
        exit: Exit,
        /// Its `LOCAL_RANK`.
        local_rank: u32,
        /// Its process.
        pid: i32,
    },
    /// The agent itself got a signal and ends all ranks.
    DeathSignal {
        /// Signal number.
        signal: i32,
    },
    /// Other nodes wait to join; the group is being started anew without spending a restart.
    NewNodes {
        /// How many.
        count: u32,
        /// Index of this node.
        group_rank: u32,
    },
    /// The group failed and is started anew.
    AttemptsLeft {
        /// Restarts that remain, this one included.
        left: u32,
        /// Restarts allowed.
        max: u32,
    },
    /// The numbers that came out of a rendezvous; only with `LOGLEVEL=INFO`, and only from [`AgentReader`].
    World(World),
    /// One entry of the failure block at the end; only from [`AgentReader`].
    Failure(FailureEntry),
}

/// A rank's process exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// Its process id; 0 when the agent did not tell.
    pub pid: i32,
    /// Global rank.
    pub global_rank: Option<u32>,
    /// `LOCAL_RANK`.
    pub local_rank: Option<u32>,
    /// Index of the node.
    pub group_rank: Option<u32>,
    /// Restarts spent so far.
    pub restart_count: Option<u32>,
    /// Ranks in the whole job; torchrun has one role, so it is the role's number.
    pub world_size: Option<u32>,
    /// Nodes in the job.
    pub group_world_size: Option<u32>,
}

/// Which end the agent saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndState {
    /// Exit code 0.
    Succeeded,
    /// It failed by itself.
    Failed,
    /// The agent ended it.
    Terminated,
}

/// A rank has ended for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which end.
    pub state: EndState,
    /// Its process id.
    pub pid: Option<i32>,
    /// Global rank.
    pub global_rank: Option<u32>,
    /// `LOCAL_RANK`.
    pub local_rank: Option<u32>,
    /// How it ended, if told.
    pub exit: Option<Exit>,
    /// The content of its error file, or a text of the agent.
    pub raw_error: Option<String>,
}

/// The numbers that came out of a rendezvous.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Restarts spent so far.
    pub restart_count: Option<u32>,
    /// Index of this node.
    pub group_rank: Option<u32>,
    /// Nodes in the job.
    pub group_world_size: Option<u32>,
    /// Port of the store that ranks meet at.
    pub master_port: Option<u16>,
    /// Global ranks of this node.
    pub global_ranks: Vec<u32>,
    /// Ranks in the whole job.
    pub world_size: Option<u32>,
}

/// One entry of the failure block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureEntry {
    /// Global rank.
    pub rank: Option<u32>,
    /// `LOCAL_RANK`.
    pub local_rank: Option<u32>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Its process.
    pub pid: Option<i32>,
    /// Path of its error file; `None` where it has none.
    pub error_file: Option<String>,
    /// Host name as the agent knows it.
    pub host: Option<String>,
    /// Local time of that host without a zone, `2026-11-20_09:31:09`: for people, not for ordering.
    pub time: Option<String>,
    /// The last line of the traceback or message.
    pub message: Option<String>,
    /// Whether the agent takes this one for the root cause.
    pub root_cause: bool,
}

/// Reads one line alone. What spans several lines needs an [`AgentReader`].
pub fn parse(line: &str) -> Option<AgentLine> {
    if let Some(start) = line.find(EVENT) {
        return parse_event(&line[start..]);
    }
    parse_message(glog_message(line)?)
}

/// The message of a log line such as `W1120 09:31:09.123000 25783 torch/x.py:12] text`.
pub fn glog_message(line: &str) -> Option<&str> {
    let bytes = line.as_bytes();
    let is_glog = matches!(bytes.first(), Some(b'W' | b'E' | b'I' | b'F'))
        && bytes.get(1..5).is_some_and(|date| date.iter().all(u8::is_ascii_digit))
        && bytes.get(5) == Some(&b' ');
    let (head, message) = if is_glog { line.split_once("] ")? } else { return None };
    let mut words = head.split(' ');
    words.nth(1).filter(|time| time.starts_with(|c: char| c.is_ascii_digit()))?;
    let source = words.next_back()?;
    let (_, number) = source.rsplit_once(':')?;
    number.bytes().all(|b| b.is_ascii_digit()).then_some(message)
}

fn parse_message(message: &str) -> Option<AgentLine> {
    if let Some(rest) = after(message, "Sending process ") {
        let (pid, rest) = number(rest)?;
        let name = word(after(rest, "closing signal ")?);
        return Some(AgentLine::ClosingSignal { pid, signal: signal_number(name)? });
    }
    if let Some(rest) = after(message, "Unable to shutdown process ") {
        return Some(AgentLine::CannotShutdown { pid: number(rest)?.0 });
    }
    if let Some(rest) = after(message, "failed (exitcode: ") {
        let (code, rest) = number(rest)?;
        let (local_rank, rest) = number(after(rest, "local_rank: ")?)?;
        let (pid, _) = number(after(rest, "(pid: ")?)?;
        return Some(AgentLine::Failed { exit: Exit::from_python(code), local_rank, pid });
    }
    if let Some((before, _)) = message.split_once(" death signal, shutting down workers") {
        let said = word(after(before, "Received ")?).rsplit('.').next()?;
        return Some(AgentLine::DeathSignal { signal: said.parse().ok().or_else(|| signal_number(said))? });
    }
    if let Some(rest) = after(message, "Detected ") {
        let (count, rest) = number(rest)?;
        let (group_rank, rest) = number(after(rest, "new nodes from group_rank=")?)?;
        return after(rest, "will restart worker group").map(|_| AgentLine::NewNodes { count, group_rank });
    }
    if let Some(rest) = after(message, "Worker group ") {
        let (left, rest) = number(after(rest, ". ")?)?;
        let (max, rest) = number(rest.strip_prefix('/')?)?;
        return after(rest, "attempts left").map(|_| AgentLine::AttemptsLeft { left, max });
    }
    None
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark).map(|(_, rest)| rest)
}

fn word(text: &str) -> &str {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).next().unwrap_or("")
}

/// A number at the start of `text` that fits its type, and what comes after it.
fn number<T: std::str::FromStr>(text: &str) -> Option<(T, &str)> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let end =
        digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len()) + (text.len() - digits.len());
    text[..end].parse().ok().map(|number| (number, &text[end..]))
}

fn parse_event(text: &str) -> Option<AgentLine> {
    // Other output may follow on the same line: only the first JSON value counts.
    let event = serde_json::Deserializer::from_str(text).into_iter::<Value>().next()?.ok()?;
    let state = event["name"].as_str()?.rsplit('.').next()?;
    let about = &event["metadata"];
    let more: Value =
        about["metadata"].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let restart_count = small(&about["agent_restarts"]);
    if event["source"].as_str() != Some("WORKER") {
        return Some(match state {
            "RENDEZVOUS" => AgentLine::Rendezvous { restart_count },
            "ASSIGN_WORKER_RANKS" => AgentLine::Assigned { restart_count },
            _ => AgentLine::LoopEnded { state: state.to_owned() },
        });
    }
    let (global_rank, local_rank) = (small(&about["global_rank"]), small(&more["local_rank"]));
    let pid = |key: &str| integer(&about[key]).and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let end = match state {
        "START" => {
            return Some(AgentLine::Started(Started {
                pid: pid("worker_id").unwrap_or(0),
                global_rank,
                local_rank,
                group_rank: small(&about["group_rank"]),
                restart_count,
                world_size: small(&more["role_world_size"]),
                group_world_size: small(&more["group_world_size"]),
            }));
        }
        "SUCCEEDED" => EndState::Succeeded,
        "FAILED" => EndState::Failed,
        "TERMINATED" => EndState::Terminated,
        _ => return None,
    };
    let code = integer(&about["exit_code"]).and_then(|code| i32::try_from(code).ok());
    Some(AgentLine::Ended(Ended {
        state: end,
        pid: pid("worker_pid").or_else(|| pid("worker_id")),
        global_rank,
        local_rank,
        exit: code.map(Exit::from_python).or((end == EndState::Succeeded).then_some(Exit::Code(0))),
        raw_error: match &about["raw_error"] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        },
    }))
}

/// An integer that may be written as a number, a string, or a list of one of them.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Array(list) if list.len() == 1 => match &list[0] {
            Value::Array(_) => None,
            one => integer(one),
        },
        _ => None,
    }
}

fn small(value: &Value) -> Option<u32> {
    integer(value).and_then(|number| u32::try_from(number).ok())
}

/// Reads the agent's standard error line by line, blocks of lines included.
#[derive(Debug, Default)]
pub struct AgentReader {
    block: Block,
}

#[derive(Debug, Default)]
enum Block {
    #[default]
    None,
    World(World),
    /// Inside the failure block, between entries.
    Failures {
        root_cause: bool,
    },
    /// Inside an entry; `told` once its traceback has begun.
    Entry {
        entry: FailureEntry,
        told: bool,
    },
}

impl AgentReader {
    /// Takes the next line, without its end.
    pub fn line(&mut self, line: &str) -> Vec<AgentLine> {
        let mut out = Vec::new();
        let bare = glog_message(line).unwrap_or(line);
        self.block = match std::mem::take(&mut self.block) {
            Block::World(world) => read_world(world, bare, &mut out),
            Block::Failures { root_cause } => Block::Failures { root_cause }.read(bare, &mut out),
            entry @ Block::Entry { .. } => entry.read(bare, &mut out),
            Block::None => Block::None,
        };
        if matches!(self.block, Block::None) {
            if bare.ends_with("Rendezvous complete for workers. Result:") {
                self.block = Block::World(World::default());
            } else if bare.trim_end() == "Failures:" {
                self.block = Block::Failures { root_cause: false };
            }
        }
        out.extend(parse(line));
        out
    }

    /// What is left of a block that the agent did not finish.
    pub fn end(&mut self) -> Option<AgentLine> {
        match std::mem::take(&mut self.block) {
            Block::World(world) if world != World::default() => Some(AgentLine::World(world)),
            Block::Entry { entry, .. } if entry.exit.is_some() => Some(AgentLine::Failure(entry)),
            _ => None,
        }
    }
}

fn read_world(mut world: World, line: &str, out: &mut Vec<AgentLine>) -> Block {
    let Some((key, value)) = line.strip_prefix("  ").and_then(|line| line.split_once('=')) else {
        out.push(AgentLine::World(world));
        return Block::None;
    };
    let list =
        || value.trim_matches(['[', ']', '(', ')']).split(',').filter_map(|item| item.trim().parse().ok());
    match key {
        "restart_count" => world.restart_count = value.parse().ok(),
        "group_rank" => world.group_rank = value.parse().ok(),
        "group_world_size" => world.group_world_size = value.parse().ok(),
        "master_port" => world.master_port = value.parse().ok(),
        "global_ranks" => world.global_ranks = list().collect(),
        "global_world_sizes" => {
            world.world_size = list().next();
            // The last of the numbers that matter: what follows is of no use here.
            out.push(AgentLine::World(world));
            return Block::None;
        }
        _ => {}
    }
    Block::World(world)
}

impl Block {
    fn read(self, line: &str, out: &mut Vec<AgentLine>) -> Block {
        let is_rule = line.len() >= 4 && (line.bytes().all(|b| b == b'-') || line.bytes().all(|b| b == b'='));
        let begins = line.starts_with('[')
            && line
                .trim_end()
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix("]:"))
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        let (root_cause, entry) = match self {
            Block::Entry { entry, told } => (entry.root_cause, Some((entry, told))),
            Block::Failures { root_cause } => (root_cause, None),
            other => return other,
        };
        let is_root_title = line.starts_with("Root Cause");
        if !(is_rule || begins || is_root_title) {
            return match entry {
                Some((entry, told)) => read_entry(entry, told, line),
                None => Block::Failures { root_cause },
            };
        }
        if let Some((entry, _)) = entry.filter(|(entry, _)| entry.exit.is_some()) {
            out.push(AgentLine::Failure(entry));
        }
        match (begins, is_root_title, line.starts_with('=')) {
            (true, ..) => {
                Block::Entry { entry: FailureEntry { root_cause, ..FailureEntry::default() }, told: false }
            }
            (_, true, _) => Block::Failures { root_cause: true },
            (_, _, true) => Block::None,
            _ => Block::Failures { root_cause },
        }
    }
}

fn read_entry(mut entry: FailureEntry, told: bool, line: &str) -> Block {
    let field = line.split_once(':').map(|(key, value)| (key.trim(), value.trim()));
    match field {
        Some(("traceback", value)) if !told => {
            entry.message = Some(cut(value));
            return Block::Entry { entry, told: true };
        }
        _ if told && line.trim().is_empty() => {}
        _ if told => entry.message = Some(cut(line.trim())),
        Some(("time", value)) => entry.time = Some(cut(value)),
        Some(("host", value)) => entry.host = Some(cut(value)),
        Some(("error_file", value)) => entry.error_file = (value != "<N/A>").then(|| value.to_owned()),
        Some(("rank", value)) => {
            entry.rank = number(value).map(|(rank, _)| rank);
            entry.local_rank = after(value, "local_rank: ").and_then(number).map(|(local, _)| local);
        }
        Some(("exitcode", value)) => {
            entry.exit = number(value).map(|(code, _)| Exit::from_python(code));
            entry.pid = after(value, "(pid: ").and_then(number).map(|(pid, _)| pid);
        }
        _ => {}
    }
    Block::Entry { entry, told }
}

fn cut(text: &str) -> String {
    super::evidence::cut(text, MAX_MESSAGE).to_owned()
}

#[cfg(test)]
mod tests;
