//! Comparing the dumps of all ranks: where they part first, and who.
//!
//! For each group the numbers are walked upwards. Under one number all members must have called the same, with data
//! of the same type and size; a member whose last number is smaller has not come yet. A member whose ring has
//! forgotten the number says nothing about it. After the first difference a group is left: what follows is its
//! consequence. A rank that does not come because it waits in another group is not to blame; the one at the end of
//! that chain is.

mod compare;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Dump, Entry, GroupName, Progress};
use crate::domain::rank;

/// Calls that have been waited for less than this are on their way in a healthy job.
const PATIENCE_NS: u64 = 5_000_000_000;

/// What is wrong between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Ranks called different collectives under the same number.
    OpMismatch,
    /// Ranks brought data of different types.
    DtypeMismatch,
    /// Ranks brought data of different sizes.
    SizeMismatch,
    /// Ranks wait for others that have not called the collective.
    MissingRanks,
    /// Ranks wait, and the ones that are not seen to wait left no dump.
    NoDump,
    /// Some ranks went on, and others are still in the collective.
    StateMismatch,
    /// All called the same, and it does not end.
    Stuck,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// In which group.
    pub group: GroupName,
    /// Number of the collective in the group.
    pub seq: u64,
    /// What the others called.
    pub op: String,
    /// Global ranks to look at; empty where no side is in the minority.
    pub ranks: Vec<u32>,
    /// Global ranks that wait because of it.
    pub waiting: Vec<u32>,
    /// Whether this only follows from another finding: the ranks to look at wait elsewhere themselves.
    pub follows: bool,
    /// One sentence.
    pub text: String,
    /// What each rank did, ranks that did the same together.
    pub evidence: Vec<String>,
    /// When the first rank made the call, in nanoseconds since 1970.
    pub at_ns: Option<u64>,
}

/// A group as the dumps show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Name.
    pub group: GroupName,
    /// Global ranks of its members, as far as they are known.
    pub ranks: Vec<u32>,
    /// Collectives compared: numbers that two ranks or more still have.
    pub compared: u64,
}

/// What all dumps together show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Analysis {
    /// Ranks of the whole job, if known.
    pub world_size: Option<u32>,
    /// Global ranks that left a dump.
    pub dumped: Vec<u32>,
    /// Global ranks that are known and left none.
    pub without: Vec<u32>,
    /// Groups with collectives in them.
    pub groups: Vec<Group>,
    /// What is wrong: the first to look at comes first.
    pub findings: Vec<Finding>,
}

/// Compares dumps. Several of one rank, as of two recorders, count as one.
pub fn analyse(dumps: &[Dump]) -> Analysis {
    let ranks: BTreeSet<u32> = dumps.iter().map(|dump| dump.rank).collect();
    let world_size = dumps.iter().filter_map(|dump| dump.world_size).max();
    let members = members(dumps, world_size);
    let mut analysis =
        Analysis { world_size, dumped: ranks.iter().copied().collect(), ..Analysis::default() };
    for (group, members) in &members {
        let table = Table::new(group, members, dumps);
        analysis.groups.push(Group {
            group: (*group).clone(),
            ranks: members.iter().copied().collect(),
            compared: table.compared(),
        });
        analysis.findings.extend(table.first_difference());
    }
    let known: BTreeSet<u32> = members.values().flatten().copied().collect();
    analysis.without = known.difference(&ranks).copied().collect();
    order(&mut analysis.findings, dumps);
    analysis
}

/// The members of each group that has collectives: as the dumps tell, else all ranks for the default group, else
/// whoever took part.
fn members(dumps: &[Dump], world_size: Option<u32>) -> BTreeMap<&GroupName, BTreeSet<u32>> {
    let mut members: BTreeMap<&GroupName, BTreeSet<u32>> = BTreeMap::new();
    for dump in dumps {
        for entry in dump.entries.iter().filter(|entry| !entry.is_p2p) {
            members.entry(&entry.group).or_default().insert(dump.rank);
        }
    }
    let told = dumps.iter().flat_map(|dump| &dump.groups);
    for (group, ranks) in told {
        // Some versions leave the description out in one of the two places.
        let same = |known: &&GroupName| known.name == group.name;
        if let Some(known) = members.keys().find(|known| same(known)).copied() {
            members.entry(known).or_default().extend(ranks);
        }
    }
    for (group, ranks) in &mut members {
        if group.is_default() {
            ranks.extend(dumps.iter().map(|dump| dump.rank));
            // A lie about the size of the job must not cost memory.
            ranks.extend(0..world_size.unwrap_or(0).min(1 << 16));
        }
    }
    members
}

/// The collectives of one group: a column for each member that left a dump.
struct Table<'a> {
    group: &'a GroupName,
    columns: BTreeMap<u32, BTreeMap<u64, &'a Entry>>,
    /// Members that left no dump.
    unseen: Vec<u32>,
    taken: BTreeMap<u32, Option<u64>>,
}

/// A call under one number.
type Call<'a> = (u32, &'a Entry);

impl<'a> Table<'a> {
    fn new(group: &'a GroupName, members: &BTreeSet<u32>, dumps: &'a [Dump]) -> Table<'a> {
        let mut table = Table { group, columns: BTreeMap::new(), unseen: Vec::new(), taken: BTreeMap::new() };
        for rank in members {
            let mut of_rank = dumps.iter().filter(|dump| dump.rank == *rank).peekable();
            if of_rank.peek().is_none() {
                table.unseen.push(*rank);
                continue;
            }
            let column = table.columns.entry(*rank).or_default();
            for dump in of_rank {
                table.taken.insert(*rank, dump.taken_ns);
                for entry in dump.entries.iter().filter(|entry| entry.group == *group && !entry.is_p2p) {
                    // The script made the group anew: its numbers begin again.
                    if column.last_key_value().is_some_and(|(last, _)| entry.seq < *last) {
                        column.clear();
                    }
                    column.insert(entry.seq, entry);
                }
            }
        }
        table
    }

    fn numbers(&self) -> BTreeSet<u64> {
        self.columns.values().flat_map(|column| column.keys().copied()).collect()
    }

    fn calls(&self, seq: u64) -> Vec<Call<'a>> {
        self.columns.iter().filter_map(|(rank, column)| Some((*rank, *column.get(&seq)?))).collect()
    }

    fn compared(&self) -> u64 {
        self.numbers().into_iter().filter(|seq| self.calls(*seq).len() > 1).count() as u64
    }

    /// Members that called less than `seq` collectives. Who has no entry at all never called one.
    fn behind(&self, seq: u64) -> Vec<u32> {
        let is_behind =
            |column: &BTreeMap<u64, _>| column.last_key_value().is_none_or(|(last, _)| *last < seq);
        self.columns.iter().filter(|(_, column)| is_behind(column)).map(|(rank, _)| *rank).collect()
    }

    /// Whether a call hangs: it is not over, and was made long enough before the dump was taken.
    fn hangs(&self, (rank, entry): &Call) -> bool {
        let waited = self.taken.get(rank).copied().flatten().zip(entry.created_ns);
        entry.progress != Progress::Finished
            && waited.is_none_or(|(taken, created)| taken.saturating_sub(created) >= PATIENCE_NS)
    }

    fn first_difference(&self) -> Option<Finding> {
        self.numbers().into_iter().find_map(|seq| {
            let calls = self.calls(seq);
            self.mismatch(seq, &calls).or_else(|| self.hang(seq, &calls))
        })
    }

    /// Ranks that differ from the others in what they called.
    fn mismatch(&self, seq: u64, calls: &[Call]) -> Option<Finding> {
        let difference = compare::difference(calls)?;
        let text = difference.sentence(calls, seq, self.group);
        let waiting = calls.iter().map(|call| call.0).filter(|rank| !difference.odd.contains(rank)).collect();
        Some(self.finding(difference.kind, seq, calls, (difference.odd, waiting), text))
    }

    /// A call that some are in for ever.
    fn hang(&self, seq: u64, calls: &[Call]) -> Option<Finding> {
        let hanging: Vec<u32> = calls.iter().filter(|call| self.hangs(call)).map(|call| call.0).collect();
        let op = calls.first().map(|(_, entry)| entry.op.clone())?;
        let needs_all = compare::needs_all(&op);
        let over = calls.iter().any(|(_, entry)| entry.progress == Progress::Finished);
        if hanging.is_empty() {
            return None;
        }
        let behind = self.behind(seq);
        // Who finished what needs everybody has met the ranks that lag in an older dump.
        let all_came = over && needs_all;
        if !behind.is_empty() && !all_came {
            let verb = if behind.len() == 1 { "has" } else { "have" };
            let wait = if hanging.len() == 1 { "waits" } else { "wait" };
            let (late, waiters) = (rank::list(&behind), rank::list(&hanging));
            let text =
                format!("{late} {verb} not called {op} #{seq} of {}; {waiters} {wait} in it", self.group);
            return Some(self.finding(FindingKind::MissingRanks, seq, calls, (behind, hanging), text));
        }
        if over {
            return self.left_behind(seq, &op, calls, hanging);
        }
        if !self.unseen.is_empty() {
            let verb = if hanging.len() == 1 { "waits" } else { "wait" };
            let text = format!(
                "{} {verb} in {op} #{seq} of {}; {} left no dump and may be the cause",
                rank::list(&hanging),
                self.group,
                rank::list(&self.unseen)
            );
            return Some(self.finding(FindingKind::NoDump, seq, calls, (self.unseen.clone(), hanging), text));
        }
        let everybody = calls.len() == self.columns.len() && hanging.len() == calls.len();
        (everybody && calls.len() > 1).then(|| {
            let text = format!(
                "all {} ranks of {} are in {op} #{seq} with the same data, and it does not end: the fault is below the \
                 script, in transport or device",
                calls.len(),
                self.group
            );
            self.finding(FindingKind::Stuck, seq, calls, (Vec::new(), hanging), text)
        })
    }

    /// Some went on to later collectives while these are still in this one.
    fn left_behind(&self, seq: u64, op: &str, calls: &[Call], hanging: Vec<u32>) -> Option<Finding> {
        let went_on: Vec<u32> = calls
            .iter()
            .filter(|(rank, entry)| {
                entry.progress == Progress::Finished
                    && self.columns[rank].last_key_value().is_some_and(|(last, _)| *last > seq)
            })
            .map(|call| call.0)
            .collect();
        if went_on.is_empty() {
            return None;
        }
        let (still, others) = (rank::list(&hanging), rank::list(&went_on));
        let text = format!(
            "{op} #{seq} of {} is not over on {still}, while {others} finished it and went on",
            self.group
        );
        Some(self.finding(FindingKind::StateMismatch, seq, calls, (hanging, went_on), text))
    }

    fn finding(
        &self,
        kind: FindingKind,
        seq: u64,
        calls: &[Call],
        (ranks, waiting): (Vec<u32>, Vec<u32>),
        text: String,
    ) -> Finding {
        let mut said: Vec<(String, Vec<u32>)> = Vec::new();
        let mut say = |rank: u32, text: String| match said.iter_mut().find(|(same, _)| *same == text) {
            Some((_, ranks)) => ranks.push(rank),
            None => said.push((text, vec![rank])),
        };
        for rank in &ranks {
            if !calls.iter().any(|call| call.0 == *rank) {
                let last = self.columns.get(rank).map(|column| column.last_key_value());
                say(
                    *rank,
                    match last {
                        Some(Some((_, entry))) => format!("last called {}", compare::describe(entry)),
                        Some(None) => "called nothing in this group".into(),
                        None => "left no dump".into(),
                    },
                );
            }
        }
        for (rank, entry) in calls {
            say(*rank, compare::describe(entry));
        }
        Finding {
            kind,
            group: self.group.clone(),
            seq,
            op: calls.first().map(|(_, entry)| entry.op.clone()).unwrap_or_default(),
            ranks,
            waiting,
            follows: false,
            text,
            evidence: said
                .into_iter()
                .map(|(text, ranks)| format!("{}: {text}", rank::list(&ranks)))
                .collect(),
            at_ns: calls.iter().filter_map(|(_, entry)| entry.created_ns).min(),
        }
    }
}

/// Puts first what the rest follows from: the earliest difference whose ranks do not wait elsewhere themselves.
fn order(findings: &mut [Finding], dumps: &[Dump]) {
    let waits: BTreeMap<u32, &Entry> = dumps
        .iter()
        .filter_map(|dump| {
            let last = dump.entries.iter().rev().find(|entry| !entry.is_p2p)?;
            (last.progress != Progress::Finished).then_some((dump.rank, last))
        })
        .collect();
    for finding in findings.iter_mut().filter(|finding| finding.kind == FindingKind::MissingRanks) {
        let elsewhere = |rank: &u32| waits.get(rank).filter(|entry| entry.group != finding.group);
        let held: Vec<_> = finding.ranks.iter().filter_map(|rank| Some((*rank, elsewhere(rank)?))).collect();
        finding.follows = held.len() == finding.ranks.len();
        let told: Vec<_> = held
            .iter()
            .map(|(rank, entry)| {
                format!("rank {rank} itself waits in {} #{} of {}", entry.op, entry.seq, entry.group)
            })
            .collect();
        finding.evidence.extend(told);
    }
    if !findings.is_empty() && findings.iter().all(|finding| finding.follows) {
        for finding in findings.iter_mut() {
            finding.follows = false;
            finding
                .evidence
                .push("the groups wait for each other: their collectives are called in another order".into());
        }
    }
    findings.sort_by_key(|finding| (finding.follows, finding.at_ns.unwrap_or(u64::MAX), finding.kind));
}

#[cfg(test)]
mod tests;
