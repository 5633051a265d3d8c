//! The log lines of a recording, as they were at the time that is shown: those of a job's own files, or of an export.

use crate::{
    domain::{
        log::{self, Anchor, LogLine, LogPage, LogQuery},
        time::Stamp,
    },
    supervisor::logbook::Logbook,
};

/// Most bytes of lines of an export that are held.
const MOST: usize = 256 << 20;

/// Where lines come from.
#[derive(Debug)]
pub enum Lines {
    /// The files of a job.
    Book(Box<Logbook>),
    /// Lines that were read from an export, in the order of their numbers.
    Held {
        /// The lines.
        lines: Vec<LogLine>,
        /// Bytes of their texts.
        bytes: usize,
    },
}

impl Default for Lines {
    fn default() -> Lines {
        Lines::Held { lines: Vec::new(), bytes: 0 }
    }
}

impl Lines {
    /// Takes one more line; false when there is no room for it, or it is out of order.
    pub fn push(&mut self, line: LogLine) -> bool {
        let Lines::Held { lines, bytes } = self else { return false };
        let is_next = lines.last().is_none_or(|last| last.n < line.n);
        *bytes += line.text.len() + size_of::<LogLine>();
        let taken = is_next && *bytes <= MOST;
        if taken {
            lines.push(line);
        }
        taken
    }

    /// Answers a question as it would have been answered at this time.
    pub fn answer(&self, query: &LogQuery, until: Stamp) -> LogPage {
        match self {
            Lines::Book(book) => {
                let end = book.first_after(until);
                let mut page = book.answer(&bounded(query, end));
                page.lines.retain(|line| line.n < end);
                page.found = page.found.filter(|n| *n < end);
                page.next = page.next.filter(|n| *n < end);
                page.end = end;
                page
            }
            Lines::Held { lines, .. } => {
                let end = lines.partition_point(|line| line.at <= until);
                log::answer(&lines[..end], query)
            }
        }
    }
}

/// The question, with its end where the time that is shown has it.
fn bounded(query: &LogQuery, end: u64) -> LogQuery {
    let mut query = query.clone();
    match &mut query {
        LogQuery::Page { anchor: anchor @ Anchor::Tail, .. } => *anchor = Anchor::Before(end),
        LogQuery::Page { anchor: Anchor::Before(before), .. } => *before = end.min(*before),
        LogQuery::Find { from, backwards: true, .. } => {
            let last = end.saturating_sub(1);
            *from = Some(from.map_or(last, |from| from.min(last)));
        }
        LogQuery::Page { .. } | LogQuery::Find { .. } => {}
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::log::{LogFilter, Needle, Stream};

    fn held() -> Lines {
        let mut lines = Lines::default();
        for n in 0..10 {
            let text = if n == 6 { "ValueError: bad".into() } else { format!("line {n}") };
            let local = (n % 2) as u32;
            assert!(lines.push(LogLine {
                n: n + 100,
                at: Stamp(n * 1000),
                rank: Some(local),
                local_rank: Some(local),
                attempt: 0,
                stream: Stream::Out,
                text,
            }));
        }
        lines
    }

    #[test]
    fn lines_end_at_the_time_that_is_shown() {
        let lines = held();
        let page = |anchor, at| {
            let query = LogQuery::Page { filter: LogFilter::default(), anchor, max: 3 };
            let page = lines.answer(&query, Stamp(at));
            (page.lines.iter().map(|line| line.n).collect::<Vec<_>>(), page.start, page.end)
        };
        assert_eq!(page(Anchor::Tail, 4500), (vec![102, 103, 104], 100, 105));
        assert_eq!(page(Anchor::From(104), 4500), (vec![104], 100, 105));
        assert_eq!(page(Anchor::Before(102), 4500), (vec![100, 101], 100, 105));
        assert_eq!(page(Anchor::Tail, 60_000), (vec![107, 108, 109], 100, 110));
        let find = |at| {
            let needle = Needle::Error;
            let query = LogQuery::Find { filter: LogFilter::default(), from: None, backwards: false, needle };
            lines.answer(&query, Stamp(at)).found
        };
        assert_eq!((find(5000), find(6000)), (None, Some(106)), "an error that has not happened yet");
    }

    #[test]
    fn one_ranks_lines_and_those_out_of_order() {
        let mut lines = held();
        let filter = LogFilter { local_rank: Some(1), attempt: None };
        let query = LogQuery::Page { filter, anchor: Anchor::Tail, max: 2 };
        let found: Vec<u64> = lines.answer(&query, Stamp(9000)).lines.iter().map(|line| line.n).collect();
        assert_eq!(found, [107, 109]);
        let first = lines.answer(&query, Stamp(9000)).lines[0].clone();
        assert!(!lines.push(first), "a number that was there already");
    }
}
