//! Errors of GPUs that the driver told of (Xids), and ranks that ended because of them.

use std::time::Duration;

use super::{
    CauseKind,
    ledger::{Finding, Ledger, Standing},
    rank::Rank,
};
use crate::domain::{
    gpu::words,
    time::{Stamp, human},
};

/// A rank whose GPU failed ends within this time, or hangs.
const NEAR: Duration = Duration::from_secs(60);
/// The driver's word comes up to this much later than what it is about.
const LATE: Duration = Duration::from_secs(3);

/// An error of a rank's GPU.
#[derive(Clone, Debug)]
pub(super) struct XidNote {
    pub(super) at: Stamp,
    pub(super) gpu: u32,
    pub(super) xid: u64,
    /// What the driver wants done with the GPU, by its number.
    pub(super) recovery: Option<u32>,
    /// Whether a row of its memory waits to be replaced.
    pub(super) pending: bool,
}

impl XidNote {
    /// Whether a process that works on the GPU cannot survive it, whatever the script does.
    fn is_fatal(&self) -> bool {
        words::is_hardware(self.xid) || self.xid == 94 || self.xid == 63 && self.pending
    }

    fn meaning(&self) -> String {
        words::xid(self.xid).map_or_else(|| "an error of the GPU".into(), str::to_owned)
    }
}

/// What is held against a rank, its GPU taken into account: the words of a rank whose GPU failed only follow from that.
/// One that lived on, or whose end was another's doing, hung because of it.
pub(super) fn weigh<'a>(rank: &'a Rank, found: Option<Finding<'a>>) -> Option<Finding<'a>> {
    let in_time = |note: &&XidNote| rank.exited.is_none_or(|exited| note.at <= exited + LATE);
    let Some(note) = rank.xids.iter().filter(in_time).find(|note| note.is_fatal()) else { return found };
    if rank.exit.is_some_and(crate::domain::exit::Exit::is_success) || rank.sent_by_us().is_some() {
        return found;
    }
    let own =
        found.filter(|found| matches!(found.standing, Standing::Primary | Standing::Bare | Standing::Unseen));
    let standing = match own {
        Some(own) if own.at.since(note.at) <= NEAR => Standing::Primary,
        // Long after it, the rank failed by itself for another reason.
        Some(_) => return found,
        None => Standing::Stale,
    };
    let at = own.map_or(note.at, |own| own.at.min(note.at));
    let words = found.and_then(|found| found.note);
    Some(Finding { rank, standing, at, note: words, exit_counts: false, xid: Some(note) })
}

/// Where somebody wanted the job to end, a GPU that failed is the cause only if its rank, or one that waited for it, had
/// failed before.
pub(super) fn forget_the_idle(findings: &mut Vec<Finding>) {
    let suffers = |found: &Finding| matches!(found.standing, Standing::Timeout | Standing::Secondary);
    if !findings.iter().any(suffers) {
        findings.retain(|found| found.xid.is_none() || found.standing != Standing::Stale);
    }
}

/// Kind, sentence without the name of the rank, hint.
pub(super) fn say(note: &XidNote) -> (CauseKind, String, Option<String>) {
    let gpu = note.gpu;
    let what = format!("failed with its GPU {gpu}: {} (Xid {})", note.meaning(), note.xid);
    let wants = note.recovery.filter(|action| *action != 0);
    let wants = wants.map(|action| format!("; the driver asks for: {}", words::recovery(action)));
    let hint = match note.xid {
        63 => format!("reset GPU {gpu} before the next start: a row of its memory waits to be replaced"),
        94 => format!(
            "the error took this process alone: a restart may go well, better after a reset of GPU {gpu}"
        ),
        _ => {
            format!("do not restart on this node before GPU {gpu} is mended: drain it and have it looked at")
        }
    };
    (CauseKind::Gpu, what, Some(hint + &wants.unwrap_or_default()))
}

/// What the driver told of the GPUs of all ranks near the failure, that of the rank in question first.
pub(super) fn facts(ledger: &Ledger, found: &Finding) -> Vec<String> {
    let near =
        |note: &XidNote| found.xid.is_some() || found.at <= note.at + NEAR && note.at <= found.at + NEAR;
    let of = |rank: &Rank| {
        let name = rank.name();
        let fact = |note: &XidNote| {
            let when = match (note.at >= found.at, note.at.since(found.at), found.at.since(note.at)) {
                _ if note.at == found.at => String::new(),
                (true, after, _) => format!(", {} later", human(after)),
                (false, _, before) => format!(", {} before", human(before)),
            };
            format!("Xid {} on GPU {} of {name}{when}: {}", note.xid, note.gpu, note.meaning())
        };
        rank.xids.iter().filter(|note| near(note)).map(fact).collect::<Vec<_>>()
    };
    let others = ledger.ranks.iter().filter(|other| other.local != found.rank.local);
    of(found.rank).into_iter().chain(others.flat_map(of)).take(3).collect()
}
