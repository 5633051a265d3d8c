//! The analysis in words and as JSON.

use serde::Serialize;

use super::analyse::{Analysis, Finding};
use crate::domain::{rank, report::SCHEMA};

/// `diagnose --json`.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The job that the dumps are of; null for files.
    pub job: Option<&'a str>,
    /// What was compared and found.
    #[serde(flatten)]
    pub analysis: &'a Analysis,
    /// Files or ranks that could not be read.
    pub unreadable: &'a [Unreadable],
    /// What else there is to know.
    pub notes: &'a [String],
}

/// A file or rank that gave no dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Path of the file, or `rank 3`.
    pub what: String,
    /// Why.
    pub why: String,
}

impl<'a> Report<'a> {
    /// All that was found.
    pub fn new(
        job: Option<&'a str>,
        analysis: &'a Analysis,
        unreadable: &'a [Unreadable],
        notes: &'a [String],
    ) -> Self {
        Report { schema: SCHEMA, job, analysis, unreadable, notes }
    }
}

/// What was found, for a person: the first difference, its evidence, what follows from it, what was looked at.
pub fn text(analysis: &Analysis, unreadable: &[Unreadable], notes: &[String]) -> String {
    let mut lines = Vec::new();
    match analysis.findings.split_first() {
        None => lines.push(nothing(analysis)),
        Some((first, rest)) => {
            lines.push(first.text.clone());
            lines.extend(first.evidence.iter().map(|line| format!("  {line}")));
            lines.extend(hint(first).map(|hint| format!("  → {hint}")));
            for finding in rest {
                let why = if finding.follows { "follows" } else { "also" };
                lines.push(format!("{why}: {}", finding.text));
            }
        }
    }
    lines.push(String::new());
    for group in &analysis.groups {
        let many = if group.compared == 1 { "" } else { "s" };
        let ranks = rank::list(&group.ranks);
        lines.push(format!("{}: {ranks}, {} collective{many} compared", group.group, group.compared));
    }
    if !analysis.without.is_empty() {
        lines.push(format!("no dump of {}", rank::list(&analysis.without)));
    }
    lines.extend(unreadable.iter().map(|file| format!("{}: {}", file.what, file.why)));
    lines.extend(notes.iter().cloned());
    lines.join("\n").trim_end().to_owned()
}

fn nothing(analysis: &Analysis) -> String {
    match (analysis.dumped.len(), analysis.groups.is_empty()) {
        (0, _) => "no dump".into(),
        (_, true) => "the dumps hold no collective: the recorder was off, or the backend has none".into(),
        (1, _) => {
            format!("only {} left a dump: there is nothing to compare it with", rank::list(&analysis.dumped))
        }
        _ => format!("nothing is wrong between {}", rank::list(&analysis.dumped)),
    }
}

/// What to do next.
fn hint(finding: &Finding) -> Option<String> {
    use super::analyse::FindingKind as Kind;
    Some(match finding.kind {
        Kind::MissingRanks | Kind::NoDump => {
            let rank = finding.ranks.first()?;
            format!("the stack of rank {rank} tells where it is: elastictop stacks JOB --rank {rank}")
        }
        Kind::OpMismatch => "a condition that is not the same on all ranks decides what is called".into(),
        Kind::DtypeMismatch | Kind::SizeMismatch => {
            "TORCH_DISTRIBUTED_DEBUG=DETAIL makes torch check each collective, with a stack".into()
        }
        Kind::StateMismatch => "look at the device and the links of the ranks that are still in it".into(),
        Kind::Stuck => "look at links and devices: elastictop stacks JOB, NCCL_DEBUG=INFO".into(),
    })
}
