//! Where the ranks are in their Python code: reading stacks, and folding those of many ranks into a few lines.
//!
//! Of each rank its main thread counts. Ranks with the same functions on it are one group, whatever their lines; what
//! wrappers of torch and Python put in between is left out. The group that differs comes first: one that is in no
//! collective while others are, else the smallest.

mod read;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

pub use self::read::{of_py_spy, of_thread, of_traceback};
use super::rank;

/// Most frames kept of one thread.
pub const MAX_FRAMES: usize = 200;
/// Most threads kept of one rank.
pub const MAX_THREADS: usize = 64;
/// Most functions that a line shows.
const SHOWN: usize = 5;

/// Who read a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// py-spy, from outside: works whatever the rank does.
    PySpy,
    /// Torch's worker server in the rank: needs Python's lock for this.
    Server,
    /// The injected thread of the rank: needs Python's lock.
    Thread,
    /// A kind that a newer elastictop wrote.
    #[serde(other)]
    Unknown,
}

impl Source {
    /// All, in the order in which they are tried.
    pub const ALL: [Source; 3] = [Source::PySpy, Source::Server, Source::Thread];

    /// The word on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Source::PySpy => "py-spy",
            Source::Server => "server",
            Source::Thread => "thread",
            Source::Unknown => "unknown",
        }
    }
}

/// A line of Python that waits for the one before it to return.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    /// Function.
    pub name: String,
    /// File.
    pub file: String,
    /// Line, from 1; 0 when not known.
    pub line: u32,
}

/// One thread of a rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its name, where the source tells.
    pub name: Option<String>,
    /// Whether it is the main thread.
    pub is_main: bool,
    /// Whether it holds Python's lock, where the source tells.
    pub holds_gil: Option<bool>,
    /// Innermost first.
    pub frames: Vec<Frame>,
}

/// What could be read of one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankStack {
    /// Global rank; the position on the node where that is not known.
    pub rank: u32,
    /// Process id.
    pub pid: i32,
    /// Who read it, and its threads; or why nobody could, and what to do.
    pub read: Result<(Source, Vec<Thread>), String>,
}

/// Ranks whose main threads are at the same place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Global ranks.
    pub ranks: Vec<u32>,
    /// The functions that tell, innermost first: `all_reduce ← backward ← train_step`.
    pub line: String,
    /// Where the script itself is: `train.py:28`; null where no frame is the script's.
    pub at: Option<String>,
    /// Whether they are in a call of torch.distributed.
    pub in_collective: bool,
    /// The whole stack of the first of these ranks, innermost first.
    pub frames: Vec<Frame>,
    /// Who read it.
    pub source: Source,
}

/// Ranks that gave no stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Global ranks.
    pub ranks: Vec<u32>,
    /// Why, and what to do.
    pub why: String,
}

/// The stacks of many ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stacks {
    /// The odd ones first.
    pub groups: Vec<Group>,
    /// Ranks that gave none.
    pub failed: Vec<Failed>,
    /// All threads of the rank that was asked for; empty when more than one was.
    #[serde(default)]
    pub threads: Vec<Thread>,
}

impl Stacks {
    /// The ranks that are somewhere else than most: those of the first group, when there are others.
    pub fn odd(&self) -> &[u32] {
        match self.groups.as_slice() {
            [first, _, ..] => &first.ranks,
            _ => &[],
        }
    }

    /// Takes in the stacks of another node, whose ranks may be at the same places.
    pub fn join(&mut self, more: Stacks) {
        let key = |group: &Group| -> Vec<(String, String)> {
            telling(&group.frames).map(|frame| (frame.name.clone(), frame.file.clone())).collect()
        };
        for group in more.groups {
            match self.groups.iter_mut().find(|known| key(known) == key(&group)) {
                Some(known) => known.ranks.extend(group.ranks),
                None => self.groups.push(group),
            }
        }
        for failed in more.failed {
            match self.failed.iter_mut().find(|known| known.why == failed.why) {
                Some(known) => known.ranks.extend(failed.ranks),
                None => self.failed.push(failed),
            }
        }
        // Threads are those of one rank alone: only one node can tell them.
        if self.threads.is_empty() {
            self.threads = more.threads;
        }
        self.sort();
    }

    /// The odd ones first.
    fn sort(&mut self) {
        let some_work = self.groups.iter().any(|group| !group.in_collective);
        self.groups.iter_mut().for_each(|group| group.ranks.sort_unstable());
        self.groups.sort_by_key(|group| {
            (group.in_collective && some_work, group.ranks.len(), group.ranks.first().copied())
        });
        self.failed.iter_mut().for_each(|failed| failed.ranks.sort_unstable());
    }

    /// One sentence: `rank 1: wait ← hang.py; ranks 0, 2: all_reduce ← hang.py`.
    pub fn summary(&self) -> String {
        const MOST: usize = 3;
        let of = |group: &Group| format!("{}: {}", rank::list(&group.ranks), group.line);
        let mut parts: Vec<_> = self.groups.iter().take(MOST).map(of).collect();
        if self.groups.len() > MOST {
            parts.push(format!("{} other places", self.groups.len() - MOST));
        }
        parts.extend(self.failed.iter().map(|failed| format!("no stack of {}", rank::list(&failed.ranks))));
        if parts.is_empty() { "no rank has a stack".into() } else { parts.join("; ") }
    }

    /// All of it, for a terminal.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        for group in &self.groups {
            let at = group.at.as_ref().map(|at| format!("  ({at})")).unwrap_or_default();
            lines.push(format!(
                "{:>4} × {}{at}    {}",
                group.ranks.len(),
                group.line,
                rank::list(&group.ranks)
            ));
        }
        for failed in &self.failed {
            lines.push(format!("no stack of {}: {}", rank::list(&failed.ranks), failed.why));
        }
        for thread in &self.threads {
            let name = thread
                .name
                .clone()
                .unwrap_or_else(|| if thread.is_main { "MainThread" } else { "thread" }.into());
            let gil = if thread.holds_gil == Some(true) { ", holds Python's lock" } else { "" };
            lines.push(format!("\n{name}{gil}"));
            lines.extend(
                thread.frames.iter().map(|frame| format!("  {} ({}:{})", frame.name, frame.file, frame.line)),
            );
        }
        if let Some(group) = self.groups.first().filter(|_| self.threads.is_empty()) {
            lines.push(format!("\nrank {}, by {}:", group.ranks[0], group.source.name()));
            lines.extend(
                group.frames.iter().map(|frame| format!("  {} ({}:{})", frame.name, frame.file, frame.line)),
            );
        }
        if lines.is_empty() { "no rank has a stack".into() } else { lines.join("\n") }
    }
}

/// Folds the stacks of all ranks.
pub fn fold(stacks: &[RankStack]) -> Stacks {
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<Vec<(&str, &str)>, usize> = HashMap::new();
    let mut failed: Vec<Failed> = Vec::new();
    for stack in stacks {
        let (source, threads) = match &stack.read {
            Ok((source, threads)) => (*source, threads),
            Err(why) => {
                match failed.iter_mut().find(|failed| failed.why == *why) {
                    Some(failed) => failed.ranks.push(stack.rank),
                    None => failed.push(Failed { ranks: vec![stack.rank], why: why.clone() }),
                }
                continue;
            }
        };
        let frames = main_thread(threads);
        let key: Vec<_> = telling(frames).map(|frame| (frame.name.as_str(), frame.file.as_str())).collect();
        match known.get(&key) {
            Some(at) => groups[*at].ranks.push(stack.rank),
            None => {
                known.insert(key, groups.len());
                groups.push(group(stack.rank, source, frames));
            }
        }
    }
    let threads = match stacks {
        [RankStack { read: Ok((_, threads)), .. }] => threads.clone(),
        _ => Vec::new(),
    };
    let mut folded = Stacks { groups, failed, threads };
    folded.sort();
    folded
}

/// The thread that runs the script; without one that is known to, the one that came last, as the main thread does in
/// Python's own lists.
fn main_thread(threads: &[Thread]) -> &[Frame] {
    let main = threads.iter().find(|thread| thread.is_main).or(threads.last());
    main.map_or(&[], |thread| &thread.frames)
}

fn group(rank: u32, source: Source, frames: &[Frame]) -> Group {
    let shown: Vec<_> = telling(frames).take(SHOWN).map(short).collect();
    let line = if shown.is_empty() { "no Python code".into() } else { shown.join(" ← ") };
    let own = frames.iter().find(|frame| is_script(frame));
    Group {
        ranks: vec![rank],
        line,
        at: own.map(|frame| format!("{}:{}", base(&frame.file), frame.line)),
        in_collective: frames.iter().take(8).any(is_collective),
        frames: frames.to_vec(),
        source,
    }
}

/// The frames that say something: without what wraps functions and runs scripts.
fn telling(frames: &[Frame]) -> impl Iterator<Item = &Frame> {
    const WRAPPERS: [&str; 6] = [
        "c10d_logger.py",
        "torch/utils/_contextlib.py",
        "runpy",
        "threading.py",
        "contextlib.py",
        "importlib._bootstrap",
    ];
    frames.iter().filter(|frame| {
        let is_wrapper = WRAPPERS.iter().any(|file| frame.file.contains(file));
        let is_call = frame.file.ends_with("torch/nn/modules/module.py") && frame.name.contains("_call_impl");
        !is_wrapper && !is_call
    })
}

/// A whole module is its file.
fn short(frame: &Frame) -> String {
    if frame.name == "<module>" { base(&frame.file).to_owned() } else { frame.name.clone() }
}

fn base(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

/// Whether a frame is neither Python's own nor of an installed package.
fn is_script(frame: &Frame) -> bool {
    const NOT: [&str; 4] = ["/site-packages/", "/dist-packages/", "/lib/python", "<frozen"];
    !NOT.iter().any(|part| frame.file.contains(part))
}

fn is_collective(frame: &Frame) -> bool {
    const FILES: [&str; 3] =
        ["distributed_c10d.py", "_functional_collectives.py", "torch/distributed/tensor"];
    frame.file.contains("torch/distributed/") && FILES.iter().any(|file| frame.file.contains(file))
}

#[cfg(test)]
mod tests;
