//! What NCCL's health service (RAS) says while a stall is suspected: evidence beside what ranks tell, never an alarm.
//!
//! Its counts are of launches, move while a job runs, and have been seen to be wrong (NVIDIA/nccl#1730): they are told
//! only after two answers that are the same, and only with an alert that other facts have raised.

use std::{collections::BTreeMap, time::Duration};

use super::{Output, SUSPICIOUS, Verdict};
use crate::domain::{
    rank,
    ras::{Communicator, Lag, Member, Ras},
    time::Stamp,
};

/// Between two questions, at first; later a quarter of the time since the first, but not more than [`SELDOM`].
const AGAIN: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(60);
/// Answers that must be the same.
const LOOKS: u32 = 2;
/// Most communicators that are told of.
const MOST: usize = 2;
/// What its evidence begins with.
const BEGINS: &str = "RAS: ";

/// Counts of all ranks, by communicator and number in it.
type Counts = Vec<(String, u32, BTreeMap<String, u64>)>;

/// What was asked and answered during one stall.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The first question and the last.
    asked: Option<(Stamp, Stamp)>,
    is_waiting: bool,
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    counts: Counts,
    since: Stamp,
    looks: u32,
    text: String,
}

/// The evidence of RAS among an alert's.
pub(super) fn told_in(evidence: &[String]) -> Option<&String> {
    evidence.iter().find(|fact| fact.starts_with(BEGINS))
}

impl Verdict {
    /// Asks while nothing has moved for half the patience, and now and then after that.
    pub(super) fn ask_ras(&mut self, now: Stamp, out: &mut Vec<Output>) {
        let patience = self.pace.patience(&self.policy) / 2;
        let moved = self.pace.moved_at().filter(|_| self.runs && self.pace.has_begun());
        if moved.is_none_or(|at| now.since(at) < patience.max(SUSPICIOUS)) {
            self.ras.forget();
        } else if self.ras.is_due(now) {
            out.push(Output::AskRas);
        }
    }
}

impl Watch {
    fn is_due(&mut self, now: Stamp) -> bool {
        let first = match self.asked {
            _ if self.is_waiting => return false,
            Some((first, last)) if now.since(last) < (last.since(first) / 4).clamp(AGAIN, SELDOM) => {
                return false;
            }
            Some((first, _)) => first,
            None => now,
        };
        (self.asked, self.is_waiting) = (Some((first, now)), true);
        true
    }

    fn forget(&mut self) {
        // An answer that is still to come is about a time that is over.
        (self.asked, self.seen) = (None, None);
    }

    /// Takes an answer in. None changes nothing.
    pub(super) fn answered(&mut self, now: Stamp, ras: Option<&Ras>, ours: &BTreeMap<i64, u32>) {
        self.is_waiting = false;
        let Some(ras) = ras.filter(|ras| self.asked.is_some() && !ras.communicators.is_empty()) else {
            return;
        };
        let (counts, text) = (counts(ras), text(ras, ours));
        match &mut self.seen {
            Some(seen) if seen.counts == counts => (seen.looks, seen.text) = (seen.looks + 1, text),
            seen => *seen = Some(Seen { counts, since: now, looks: 1, text }),
        }
    }

    /// What it says of the stall, once that has stayed the same.
    pub(super) fn evidence(&self) -> Option<String> {
        let seen = self.seen.as_ref().filter(|seen| seen.looks >= LOOKS)?;
        Some(format!("{BEGINS}{}; counts unchanged since {}", seen.text, super::hang::clock(seen.since)))
    }
}

fn counts(ras: &Ras) -> Counts {
    let of = |of: &Communicator| {
        let one = |member: &Member| (of.hash.clone(), member.rank, member.counts.clone());
        of.ranks.iter().map(one).collect::<Counts>()
    };
    let mut all: Counts = ras.communicators.iter().flat_map(of).collect();
    all.sort();
    all
}

/// Who has launched less than the others, and who does not answer.
fn text(ras: &Ras, ours: &BTreeMap<i64, u32>) -> String {
    let host = our_host(ras, ours);
    let lag = |lag: Lag| {
        let of = ras.communicators.iter().find(|of| of.hash == lag.hash)?;
        let behind = of.ranks.iter().filter(|member| lag.behind.contains_key(&member.rank));
        let who = names(of, behind.map(|member| (member.rank, member.pid, &*member.host)), ours, host);
        let (least, most) = (lag.behind.values().min()?, lag.behind.values().max()?);
        let count = if least == most { least.to_string() } else { format!("{least} to {most}") };
        Some(format!("{who} at {} {count}, the others at {}", lag.op, lag.most))
    };
    let lags = ras.lags().into_iter().filter_map(lag);
    let missing = ras.communicators.iter().filter(|of| !of.missing.is_empty()).map(|of| {
        let silent = of.missing.iter().map(|missing| (missing.rank, missing.pid, &*missing.host));
        format!("no answer of {}", names(of, silent, ours, host))
    });
    let told: Vec<_> = lags.take(MOST).chain(missing.take(MOST)).collect();
    if told.is_empty() { "all ranks have launched the same collectives".into() } else { told.join("; ") }
}

/// The name that RAS has for this node: that of the host on which most of our processes are.
fn our_host<'a>(ras: &'a Ras, ours: &BTreeMap<i64, u32>) -> Option<&'a str> {
    let mut hosts: BTreeMap<&str, usize> = BTreeMap::new();
    for member in ras.communicators.iter().flat_map(|of| &of.ranks) {
        *hosts.entry(&member.host).or_default() += usize::from(ours.contains_key(&member.pid));
    }
    hosts.into_iter().filter(|(_, count)| *count > 0).max_by_key(|(_, count)| *count).map(|(host, _)| host)
}

/// Ranks of this node by their global numbers, those of others by what RAS has for them.
fn names<'a>(
    of: &Communicator,
    ranks: impl Iterator<Item = (u32, i64, &'a str)>,
    ours: &BTreeMap<i64, u32>,
    our_host: Option<&str>,
) -> String {
    let (mut own, mut foreign) = (Vec::new(), Vec::new());
    for (rank, pid, host) in ranks {
        match ours.get(&pid).filter(|_| Some(host) == our_host) {
            Some(number) => own.push(*number),
            None => foreign.push(format!("rank {rank} of communicator {} (pid {pid} on {host})", of.hash)),
        }
    }
    let more = foreign.len().saturating_sub(MOST);
    foreign.truncate(MOST);
    let own = (!own.is_empty()).then(|| rank::list(&own));
    let more = (more > 0).then(|| format!("{more} more"));
    own.into_iter().chain(foreign).chain(more).collect::<Vec<_>>().join(", ")
}
