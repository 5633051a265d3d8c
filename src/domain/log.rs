//! Log lines as viewers ask for them. The supervisor keeps them in files and knows the order of their arrival.

use serde::{Deserialize, Serialize};

use super::{agent_line, time::Stamp};

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output of a rank.
    Out,
    /// Standard error of a rank.
    Err,
    /// Standard output or error of the elastic agent.
    Agent,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Number of the line in the order of arrival over all sources, from 0.
    pub n: u64,
    /// When the supervisor read it.
    pub at: Stamp,
    /// Global rank, if known and not the agent's.
    pub rank: Option<u32>,
    /// Position on the node; `None` for the agent.
    pub local_rank: Option<u32>,
    /// The start of the group it belongs to.
    pub attempt: u32,
    /// Where it was written.
    pub stream: Stream,
    /// The line without its end, cut to [`MAX_LINE`] bytes, control characters replaced.
    pub text: String,
}

impl LogLine {
    /// Whether it is there because of elastictop and tells a reader nothing: the agent's event records, and the word of
    /// torch's server in each rank.
    pub fn is_bookkeeping(&self) -> bool {
        match self.stream {
            Stream::Agent => agent_line::is_record(&self.text),
            _ => is_server_word(&self.text),
        }
    }
}

/// What torch prints when the server begins that elastictop starts in a rank, at a socket named after the rank's process.
pub fn is_server_word(line: &str) -> bool {
    // Of every line this is asked, and few begin so.
    line.starts_with('[')
        && line
            .split_once(" WorkerServer.cpp:")
            .and_then(|(_, rest)| rest.split_once("Server listening to UNIX "))
            .is_some_and(|(_, path)| path.contains(".beat.srv."))
}

/// Longest line that is sent to a viewer, in bytes.
pub const MAX_LINE: usize = 8 * 1024;
/// Most lines in one page.
pub const MAX_PAGE: u32 = 1000;
/// A page with so many bytes of text gets no further line: long lines must not keep a supervisor busy.
pub const MAX_PAGE_BYTES: usize = 256 << 10;
/// About so many bytes are looked through for one [`LogQuery::Find`]; whoever asked asks again for the rest.
pub const MAX_SEARCH: usize = 4 << 20;

/// Which lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFilter {
    /// Only this rank, by its position on the node; `None` means all and the agent.
    #[serde(default)]
    pub local_rank: Option<u32>,
    /// Only this start of the group.
    #[serde(default)]
    pub attempt: Option<u32>,
}

impl LogFilter {
    /// Whether the line is one of them.
    pub fn lets(&self, line: &LogLine) -> bool {
        self.local_rank.is_none_or(|local| line.local_rank == Some(local))
            && self.attempt.is_none_or(|attempt| line.attempt == attempt)
    }
}

/// Where a page begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// The last lines.
    Tail,
    /// The lines before this one, this one not included.
    Before(u64),
    /// The lines from this one on, this one included.
    From(u64),
}

/// What to look for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Needle {
    /// Text, upper and lower case alike.
    Text(String),
    /// A line that tells of an error.
    Error,
}

impl Needle {
    /// Whether `line` is such a line.
    pub fn matches(&self, line: &str) -> bool {
        match self {
            Needle::Text(text) => line.to_lowercase().contains(&text.to_lowercase()),
            Needle::Error => is_error(line),
        }
    }
}

/// A question about log lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum LogQuery {
    /// Some lines in order.
    Page {
        /// Which lines.
        filter: LogFilter,
        /// Where.
        anchor: Anchor,
        /// How many at most; more than [`MAX_PAGE`] counts as that.
        max: u32,
    },
    /// The number of the next line that matches.
    Find {
        /// Which lines.
        filter: LogFilter,
        /// First line to look at; `None` means the first there is, or the last when backwards.
        from: Option<u64>,
        /// Towards older lines.
        backwards: bool,
        /// What to look for.
        needle: Needle,
    },
}

/// The answer to a [`LogQuery`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPage {
    /// The lines, oldest first; empty for [`LogQuery::Find`].
    pub lines: Vec<LogLine>,
    /// The line found by [`LogQuery::Find`].
    pub found: Option<u64>,
    /// Number that the next line to arrive will get.
    pub end: u64,
    /// Oldest line that can still be asked for.
    pub start: u64,
    /// Where to go on, when there is more than one answer holds: for a page the line after its last one (backwards: its
    /// first one), for a search the next line to look at. `None`: nothing is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// An answer while it is made of the lines in question, in the order of the question.
#[derive(Debug)]
pub struct Answering<'a> {
    query: &'a LogQuery,
    page: LogPage,
    /// Bytes of text that may still be taken or looked at.
    room: usize,
}

impl<'a> Answering<'a> {
    /// Nothing taken yet; of lines with these numbers (`end` not included).
    pub fn new(query: &'a LogQuery, start: u64, end: u64) -> Answering<'a> {
        let room = if matches!(query, LogQuery::Page { .. }) { MAX_PAGE_BYTES } else { MAX_SEARCH };
        Answering { query, page: LogPage { end, start, ..LogPage::default() }, room }
    }

    /// Takes the next line; whether another one is wanted.
    pub fn take(&mut self, line: LogLine) -> bool {
        let n = line.n;
        self.room = self.room.saturating_sub(line.text.len().max(1));
        let (is_full, next) = match self.query {
            LogQuery::Page { anchor, max, .. } => {
                self.page.lines.push(line);
                let is_full = self.page.lines.len() >= (*max).min(MAX_PAGE) as usize;
                (is_full, if matches!(anchor, Anchor::From(_)) { n.checked_add(1) } else { Some(n) })
            }
            LogQuery::Find { needle, backwards, .. } => {
                self.page.found = needle.matches(&line.text).then_some(n);
                (false, if *backwards { n.checked_sub(1) } else { n.checked_add(1) })
            }
        };
        let goes_on = !is_full && self.room > 0 && self.page.found.is_none();
        if !goes_on {
            self.page.next = next.filter(|_| self.page.found.is_none());
        }
        goes_on
    }

    /// The answer.
    pub fn end(mut self) -> LogPage {
        if matches!(self.query, LogQuery::Page { anchor: Anchor::Tail | Anchor::Before(_), .. }) {
            self.page.lines.reverse();
        }
        self.page
    }
}

/// Answers a question from lines that are all there, in the order of their numbers.
pub fn answer(lines: &[LogLine], query: &LogQuery) -> LogPage {
    let start = lines.first().map_or(0, |line| line.n);
    let end = lines.last().map_or(0, |line| line.n + 1);
    let mut answering = Answering::new(query, start, end);
    let at = |n: u64| lines.partition_point(|line| line.n < n);
    let (LogQuery::Page { filter, .. } | LogQuery::Find { filter, .. }) = query;
    let (range, backwards) = match query {
        LogQuery::Page { anchor: Anchor::From(n), .. } => (at(*n)..lines.len(), false),
        LogQuery::Page { anchor: Anchor::Before(n), .. } => (0..at(*n), true),
        LogQuery::Page { anchor: Anchor::Tail, .. } => (0..lines.len(), true),
        LogQuery::Find { from, backwards: true, .. } => {
            (0..from.map_or(lines.len(), |n| at(n.saturating_add(1))), true)
        }
        LogQuery::Find { from, .. } => (from.map_or(0, at)..lines.len(), false),
    };
    let fitting = lines[range].iter().filter(|line| filter.lets(line)).cloned();
    if backwards {
        fitting.rev().all(|line| answering.take(line));
    } else {
        fitting.into_iter().all(|line| answering.take(line));
    }
    answering.end()
}

/// Whether a line tells of an error: tracebacks, exceptions, C++ errors of torch, CUDA, NCCL and gloo.
pub fn is_error(line: &str) -> bool {
    const MARKS: [&str; 12] = [
        "Traceback (most recent call last)",
        "CUDA error",
        "CUDA out of memory",
        "NCCL error",
        "NCCL WARN",
        "Watchdog caught collective operation timeout",
        "terminate called after",
        "Segmentation fault",
        "Fatal Python error",
        "Out of memory",
        "panicked at",
        "Killed",
    ];
    MARKS.iter().any(|mark| line.contains(mark)) || is_exception(line) || is_cpp_error(line)
}

/// `ValueError: …`, `torch.OutOfMemoryError: …`, with or without `[rank0]: ` before it.
fn is_exception(line: &str) -> bool {
    let line = strip_rank_prefix(line);
    let Some((name, _)) = line.split_once(':') else { return false };
    let last = name.rsplit('.').next().unwrap_or(name);
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_')
        && ["Error", "Exception", "Interrupt"].iter().any(|end| last.ends_with(end))
}

/// glog style: `[E1120 09:31:09.123 file.cpp:12]` or `E1120 09:31:09…`.
fn is_cpp_error(line: &str) -> bool {
    let line = strip_rank_prefix(line);
    let line = line.strip_prefix('[').unwrap_or(line);
    let mut chars = line.chars();
    matches!(chars.next(), Some('E' | 'F'))
        && line.get(1..4).is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

/// The line without the `[rank3]: ` that torch puts before messages.
pub fn strip_rank_prefix(line: &str) -> &str {
    line.strip_prefix("[rank")
        .and_then(|rest| rest.split_once(']'))
        .filter(|(digits, _)| digits.bytes().all(|b| b.is_ascii_digit()))
        .map_or(line, |(_, rest)| rest.trim_start_matches([':', ' ']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_our_server_is_bookkeeping_and_that_of_others_is_not() {
        let word = "[rank0]:[W1128 20:38:51.790267746 WorkerServer.cpp:128] [c10d] Server listening to UNIX ";
        assert!(is_server_word(&format!("{word}/run/user/0/elastictop/run/train-7mr9.beat.srv.16891")));
        assert!(is_server_word(&format!("{word}/proc/self/fd/7/train-7mr9.beat.srv.1")));
        assert!(!is_server_word(&format!("{word}/tmp/debug.sock")));
        assert!(!is_server_word("see train-7mr9.beat.srv.1"));
    }

    #[test]
    fn errors_are_told_from_words_about_errors() {
        for line in [
            "Traceback (most recent call last):",
            "ValueError: bad batch",
            "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            "[rank0]:[E1120 09:31:09.120 ProcessGroupNCCL.cpp:632] boom",
            "E1120 09:31:09.120000 25783 torch/distributed/elastic/x.py:1] failed",
        ] {
            assert!(is_error(line), "{line}");
        }
        for line in ["loss 2.3 error 0.1", "Errors so far: 0", "step 3: ValueErrorRate 0", "EPOCH 3", "E12"] {
            assert!(!is_error(line), "{line}");
        }
    }
}
