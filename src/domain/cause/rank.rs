//! What is known of one rank, and which of its words tell of its end.

use std::time::Duration;

use super::xid::XidNote;
use crate::domain::{
    evidence::{Mark, Proof, Weight},
    exit::Exit,
    time::Stamp,
};

/// Log lines arrive this much later than they were written, at most, when all is well.
pub(super) const SLACK: Duration = Duration::from_millis(200);
/// Marks of one rank further apart than this do not belong together.
const BURST: Duration = Duration::from_secs(10);
/// Most marks kept of one rank; the oldest go first.
pub(super) const MAX_MARKS: usize = 32;

/// A mark with its line.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) at: Stamp,
    pub(super) proof: Proof,
    pub(super) line: String,
    pub(super) from_file: bool,
}

impl Note {
    pub(super) fn mark(&self) -> &Mark {
        &self.proof.mark
    }

    /// Whether it is a fault at a line of the script, which its sentence does not name by itself.
    pub(super) fn says_where(&self) -> bool {
        let is_named = matches!(self.mark(), Mark::Exception { .. });
        !is_named && !self.mark().is_timeout() && self.mark().weight() == Weight::Primary
    }
}

/// A rank of this node, with all that is held against it.
#[derive(Clone, Debug, Default)]
pub(super) struct Rank {
    pub(super) local: u32,
    /// Its global rank.
    pub(super) global: Option<u32>,
    pub(super) pid: Option<i32>,
    /// When it was seen dead.
    pub(super) exited: Option<Stamp>,
    pub(super) exit: Option<Exit>,
    pub(super) notes: Vec<Note>,
    /// The first signal by which the agent ended it.
    pub(super) by_agent: Option<(Stamp, i32)>,
    pub(super) by_us: Vec<(Stamp, i32, String)>,
    pub(super) xids: Vec<XidNote>,
}

impl Rank {
    pub(super) fn take(&mut self, mut note: Note) {
        // The error file has the same exception once more, and no line.
        if note.from_file
            && let Some(known) =
                self.notes.iter().rev().find(|known| known.mark().is_same_exception(note.mark()))
        {
            note.proof = known.proof.clone();
        }
        let is_of_it =
            |known: &&mut Note| note.at.since(known.at) <= BURST && note.mark().is_more_of(known.mark());
        if let Some(known) = self.notes.iter_mut().rev().find(is_of_it) {
            known.proof = note.proof;
            return;
        }
        let place = self.notes.partition_point(|known| known.at <= note.at);
        self.notes.insert(place, note);
        if self.notes.len() > MAX_MARKS {
            self.notes.remove(0);
        }
    }

    pub(super) fn ended(&mut self, at: Stamp, exit: Exit) {
        self.exited.get_or_insert(at);
        self.exit.get_or_insert(exit);
    }

    pub(super) fn ended_badly(&self) -> bool {
        self.exit.is_some_and(|exit| !exit.is_success())
    }

    /// Whether its end is the agent's doing: it was alive when the agent signalled it.
    pub(super) fn ended_by_agent(&self) -> bool {
        self.by_agent.is_some_and(|(at, _)| self.exited.is_none_or(|exited| exited + SLACK >= at))
    }

    /// Whether the agent's signal is how it ended: a rank can fail by itself after it got one.
    pub(super) fn was_ended_by_agent(&self) -> bool {
        self.ended_by_agent() && self.exit.is_none_or(|exit| exit.signal_behind().is_some())
    }

    /// The request of a user that explains how it ended.
    pub(super) fn sent_by_us(&self) -> Option<&(Stamp, i32, String)> {
        let (exited, signal) = (self.exited?, self.exit?.signal_behind()?);
        self.by_us.iter().rev().find(|(at, sent, _)| *sent == signal && *at <= exited + SLACK)
    }

    /// The marks that tell of its end: their first, which says whether the failure is its own, and their most telling.
    pub(super) fn burst(&self) -> Option<(&Note, &Note)> {
        let until = self.by_agent.map(|(at, _)| at + SLACK);
        let mut burst: Option<(&Note, &Note, Stamp)> = None;
        for note in self.notes.iter().filter(|note| note.mark().weight() > Weight::Context) {
            if until.is_some_and(|until| note.at > until) {
                break;
            }
            burst = Some(match burst {
                // NCCL needs a minute from its timeout to the end of the process.
                Some((first, best, last)) if first.mark().is_timeout() || note.at.since(last) <= BURST => {
                    let better = note.mark().detail() > best.mark().detail()
                        || note.mark().was_raised_from(best.mark())
                        || best.mark().passes_on() && note.mark().detail() >= best.mark().detail()
                        || (note.mark().detail() == best.mark().detail()
                            && note.from_file
                            && !best.from_file);
                    (first, if better { note } else { best }, note.at)
                }
                _ => (note, note, note.at),
            });
        }
        burst.map(|(first, best, _)| {
            (first, if first.mark().weight() == Weight::Secondary { first } else { best })
        })
    }

    /// What to call it.
    pub(super) fn name(&self) -> String {
        match self.global {
            Some(rank) => format!("rank {rank}"),
            None => format!("local rank {}", self.local),
        }
    }
}
