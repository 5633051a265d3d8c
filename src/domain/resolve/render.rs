//! A plan as text to read, and as JSON.

use std::fmt::Write;

use serde::Serialize;

use super::{Facts, Plan, Rank, Run, Topology, alternatives};
use crate::domain::telling::count;

/// Ranks of a run that get a line each; more are gathered by node.
const SINGLE_LINES: usize = 8;

/// The plan as one JSON object, `"schema": 1`, null where nothing applies.
pub fn render_json(plan: &Plan) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        #[serde(flatten)]
        plan: &'a Plan,
    }
    serde_json::to_string_pretty(&Document { schema: 1, plan }).unwrap_or_default()
}

/// The plan for a person: groups, runs and ranks as a tree, the reasons, the other combinations, what to know.
pub fn render_text(plan: &Plan, facts: &Facts) -> String {
    let (mode, scope) = (plan.run_mode, plan.rank_scope);
    let mut text = format!("{mode}/{scope} on {} → {}\n", topology(&facts.topology), plan.counts());
    let named = [
        ("project", &facts.project),
        ("entity", &facts.entity),
        ("name", &facts.name),
        ("job type", &facts.job_type),
        ("sweep", &facts.sweep),
    ];
    for (what, given) in named {
        if let Some(given) = given {
            // Each run's own name ends as its id does.
            let ends = if what == "name" && plan.runs.len() > 1 { "-…" } else { "" };
            let _ = writeln!(text, "{what} {}{ends} ({})", given.value, given.from);
        }
    }
    if let Some(first) = facts.tags.first() {
        let tags: Vec<_> = facts.tags.iter().map(|tag| tag.value.as_str()).collect();
        let _ = writeln!(text, "tags {} ({})", tags.join(", "), first.from);
    }
    text.push('\n');

    // Runs of a group follow each other: both come in the order of ranks, and a node's ranks are consecutive.
    for group in &plan.groups {
        let _ = writeln!(text, "group {}{}", group.name, page(group.link.as_deref()));
        let runs: Vec<_> =
            plan.runs.iter().filter(|run| run.group.as_deref() == Some(group.name.as_str())).collect();
        for (at, run) in runs.iter().enumerate() {
            let (branch, below) =
                if at + 1 == runs.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            tree(&mut text, plan, run, branch, below);
        }
    }
    plan.runs.iter().filter(|run| run.group.is_none()).for_each(|run| tree(&mut text, plan, run, "", ""));
    let silent = spans(plan.ranks.iter().filter(|rank| !rank.logs).map(|rank| rank.rank));
    if !silent.is_empty() {
        let _ = writeln!(text, "silent: {silent}");
    }

    text.push_str("\nwhy\n");
    let mut reasons: Vec<(&str, Vec<u32>)> = Vec::new();
    let mut known = std::collections::BTreeMap::new();
    for rank in &plan.ranks {
        let at = *known.entry(rank.reason.as_str()).or_insert_with(|| {
            reasons.push((&rank.reason, Vec::new()));
            reasons.len() - 1
        });
        reasons[at].1.push(rank.rank);
    }
    for (reason, ranks) in reasons {
        let _ = writeln!(text, "  {}: {reason}", spans(ranks.into_iter()));
    }

    text.push_str("\ninstead\n");
    for other in alternatives(facts) {
        let outcome = other.outcome.unwrap_or_else(|error| format!("not possible: {}", error.text));
        let _ = writeln!(text, "  {}/{} → {outcome}", other.run_mode, other.rank_scope);
    }

    if plan.no_links.is_some() || !plan.warnings.is_empty() {
        text.push('\n');
    }
    if let Some(why) = &plan.no_links {
        let _ = writeln!(text, "links: unknown; {why}");
    }
    plan.warnings.iter().for_each(|warning| {
        let _ = writeln!(text, "warning: {warning}");
    });
    text
}

fn page(link: Option<&str>) -> String {
    link.map(|link| format!("  {link}")).unwrap_or_default()
}

/// A run and its ranks. A run of one rank is one line.
fn tree(text: &mut String, plan: &Plan, run: &Run, branch: &str, below: &str) {
    let of = |number: &u32| &plan.ranks[*number as usize];
    let link = page(run.link.as_deref());
    let shared = match (run.shared, run.primary_rank) {
        (true, Some(primary)) => format!(", shared, primary rank {primary}"),
        (true, None) => ", shared, primary is the parent".into(),
        (false, _) => String::new(),
    };
    if let [only] = run.ranks.as_slice() {
        let rank = of(only);
        let _ = writeln!(text, "{branch}run {}{shared} ← {}{}{link}", run.id, place(rank), label(rank));
        return;
    }
    let _ = writeln!(text, "{branch}run {}{shared}{link}", run.id);
    let by_node =
        |a: &u32, b: &u32| run.ranks.len() > SINGLE_LINES && of(a).worker_index == of(b).worker_index;
    let parts: Vec<_> = run.ranks.chunk_by(by_node).collect();
    for (at, part) in parts.iter().enumerate() {
        let leaf = if at + 1 == parts.len() { "└─ " } else { "├─ " };
        let (first, last) = (of(&part[0]), of(&part[part.len() - 1]));
        let line = if part.len() == 1 {
            format!("{}{}", place(first), label(first))
        } else {
            let labels = first.label.as_deref().zip(last.label.as_deref());
            let labels = labels.map(|(first, last)| format!(" as {first} … {last}")).unwrap_or_default();
            format!("{} (node {}){labels}", spans(part.iter().copied()), first.worker_index)
        };
        let _ = writeln!(text, "{below}{leaf}{line}");
    }
}

fn place(rank: &Rank) -> String {
    format!("rank {} (node {}, local {})", rank.rank, rank.worker_index, rank.local_rank)
}

fn label(rank: &Rank) -> String {
    rank.label.as_deref().map(|label| format!(" as {label}")).unwrap_or_default()
}

fn topology(topology: &Topology) -> String {
    let nodes = count(topology.ranks_per_node.len(), "node");
    let first = topology.ranks_per_node.first().copied().unwrap_or_default();
    if topology.ranks_per_node.iter().all(|&ranks| ranks == first) {
        return format!("{nodes} × {}", count(first as usize, "rank"));
    }
    let ranks: Vec<_> = topology.ranks_per_node.iter().map(u32::to_string).collect();
    format!("{nodes} with {} ranks", ranks.join(", "))
}

/// `ranks 0-3, 6`; nothing for none.
fn spans(numbers: impl Iterator<Item = u32>) -> String {
    let numbers: Vec<_> = numbers.collect();
    let parts: Vec<_> = numbers
        .chunk_by(|a, b| a + 1 == *b)
        .map(|part| match part {
            [first, .., last] => format!("{first}-{last}"),
            [only] => only.to_string(),
            [] => String::new(),
        })
        .collect();
    match numbers.len() {
        0 => String::new(),
        1 => format!("rank {}", parts[0]),
        _ => format!("ranks {}", parts.join(", ")),
    }
}
