//! Whether calls under the same number are the same call.

use std::collections::BTreeMap;

use super::{Call, Entry, FindingKind, GroupName};
use crate::domain::{
    flight::{Progress, Tensors},
    rank,
};

/// A difference between the calls of one number.
pub(super) struct Difference {
    pub(super) kind: FindingKind,
    /// The ranks in the minority; none where there is no majority.
    pub(super) odd: Vec<u32>,
    /// What each side has, the most frequent first.
    sides: Vec<(String, Vec<u32>)>,
}

impl Difference {
    pub(super) fn sentence(&self, calls: &[Call], seq: u64, group: &GroupName) -> String {
        let op = &calls[0].1.op;
        let has = |(what, ranks): &(String, Vec<u32>)| {
            let verb = match (self.kind, ranks.len()) {
                (FindingKind::OpMismatch, 1) => "calls",
                (FindingKind::OpMismatch, _) => "call",
                (_, 1) => "brings",
                _ => "bring",
            };
            format!("{} {verb} {what}", rank::list(ranks))
        };
        let place = match self.kind {
            FindingKind::OpMismatch => format!("as #{seq} of {group}"),
            _ => format!("to {op} #{seq} of {group}"),
        };
        let (first, rest) = self.sides.split_first().expect("a difference has two sides");
        match rest {
            // The odd one is the news, so it comes first.
            [odd] if !self.odd.is_empty() => format!("{} {place}, where {}", has(odd), has(first)),
            _ => {
                let all: Vec<_> = self.sides.iter().map(has).collect();
                format!("{}, {place}", all.join("; "))
            }
        }
    }
}

/// The first difference between calls of one number: in what was called, then in the type, then in the size of data.
pub(super) fn difference(calls: &[Call]) -> Option<Difference> {
    by(FindingKind::OpMismatch, calls, |entry| Some(entry.op.clone()))
        .or_else(|| by(FindingKind::DtypeMismatch, calls, |entry| dtypes(compared(entry)?)))
        .or_else(|| by(FindingKind::SizeMismatch, calls, |entry| elements(compared(entry)?)))
}

fn by(kind: FindingKind, calls: &[Call], key: impl Fn(&Entry) -> Option<String>) -> Option<Difference> {
    let mut sides: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (rank, entry) in calls {
        if let Some(key) = key(entry) {
            sides.entry(key).or_default().push(*rank);
        }
    }
    if sides.len() < 2 {
        return None;
    }
    let mut sides: Vec<_> = sides.into_iter().collect();
    sides.sort_by_key(|(_, ranks)| (std::cmp::Reverse(ranks.len()), ranks[0]));
    let has_majority = sides[0].1.len() > sides[1].1.len();
    let odd =
        if has_majority { sides[1..].iter().flat_map(|side| side.1.clone()).collect() } else { Vec::new() };
    Some(Difference { kind, odd, sides })
}

fn dtypes(tensors: &Tensors) -> Option<String> {
    let mut types = tensors.dtypes.clone();
    types.sort_unstable();
    types.dedup();
    (!types.is_empty()).then(|| types.join(" and "))
}

/// Shapes may differ where the number of elements is the same.
fn elements(tensors: &Tensors) -> Option<String> {
    let count = tensors.elements();
    (!tensors.sizes.is_empty()).then(|| format!("{count} element{}", if count == 1 { "" } else { "s" }))
}

/// The side of a call that must be equal on all ranks; `None` for calls in which ranks may differ.
fn compared(entry: &Entry) -> Option<&Tensors> {
    let op = entry.op.trim_start_matches('_').to_ascii_lowercase();
    let has = |word| op.contains(word);
    if has("all_to_all") || has("alltoall") || has("coalesced") || has("barrier") {
        None
    } else if has("reduce_scatter") {
        Some(&entry.input)
    } else if has("all_gather") || has("allgather") || has("scatter") {
        Some(&entry.output)
    } else if ["all_reduce", "allreduce", "reduce", "broadcast", "gather"].iter().any(|known| has(known)) {
        Some(&entry.input)
    } else {
        None
    }
}

/// Whether nobody can be over with it before everybody has come.
pub(super) fn needs_all(op: &str) -> bool {
    let op = op.to_ascii_lowercase();
    [
        "all_reduce",
        "allreduce",
        "all_gather",
        "allgather",
        "reduce_scatter",
        "all_to_all",
        "alltoall",
        "barrier",
    ]
    .iter()
    .any(|known| op.contains(known))
}

/// A call for an evidence line.
pub(super) fn describe(entry: &Entry) -> String {
    let side = compared(entry).unwrap_or(&entry.input);
    let types = dtypes(side).map(|types| format!(" {types}")).unwrap_or_default();
    let shapes: Vec<_> = side.sizes.iter().take(3).map(|shape| format!("{shape:?}")).collect();
    let more = if side.sizes.len() > 3 { ", …" } else { "" };
    let shapes = if shapes.is_empty() { String::new() } else { format!(" {}{more}", shapes.join(", ")) };
    let state = match entry.progress {
        Progress::Scheduled => "not over",
        Progress::Started => "running on the device",
        Progress::Finished => "over",
    };
    let place = call_site(entry).map(|place| format!(", called at {place}")).unwrap_or_default();
    format!("{} #{}{types}{shapes}, {state}{place}", entry.op, entry.seq)
}

/// Where the script made the call: the innermost frame outside of torch.distributed.
fn call_site(entry: &Entry) -> Option<String> {
    let own = entry.frames.iter().find(|frame| !frame.file.contains("/torch/distributed/"))?;
    let file = own.file.rsplit('/').next().unwrap_or(&own.file);
    Some(format!("{file}:{} in {}", own.line, own.name))
}
