//! Of all that is held against ranks, what names the first cause.

use std::time::Duration;

use super::ledger::{Finding, SETTLE, Standing};
use crate::domain::time::Stamp;

/// A rank that ended without a word needs this head start over one that told what went wrong.
const BARE_PENALTY: Duration = Duration::from_secs(2);

/// The finding that names the first cause.
pub(super) fn choose<'a>(findings: &[Finding<'a>]) -> Option<Finding<'a>> {
    let earliest = |standings: &[Standing]| {
        let fits = findings.iter().filter(|found| standings.contains(&found.standing));
        fits.min_by_key(|found| (found.weighed(), found.rank.local)).copied()
    };
    let failed = earliest(&[Standing::Primary, Standing::Timeout, Standing::Bare]);
    if let Some(found) = failed.filter(|found| found.standing != Standing::Timeout) {
        return Some(found);
    }
    // What is left are waits that took too long and broken connections: somebody else made them.
    let suffered = failed.or_else(|| earliest(&[Standing::Secondary]));
    if let Some(suffered) = suffered {
        // A connection that broke after a rank was told to end from outside.
        let ended = earliest(&[Standing::Terminated])
            .filter(|found| suffered.standing == Standing::Secondary && found.at <= suffered.at);
        if ended.is_some() {
            return ended;
        }
        let stale = earliest(&[Standing::Stale]);
        let early = earliest(&[Standing::Early]).filter(|found| found.at <= suffered.at + SETTLE);
        return stale.or(early).or(Some(suffered));
    }
    earliest(&[Standing::Stale])
        .or_else(|| earliest(&[Standing::Terminated]))
        .or_else(|| earliest(&[Standing::Unseen]))
}

impl Finding<'_> {
    fn weighed(&self) -> Stamp {
        if self.standing == Standing::Bare { self.at + BARE_PENALTY } else { self.at }
    }
}
