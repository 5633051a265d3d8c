//! The matrix, the rules that go beyond it, and what must be refused.

use super::*;

mod matrix;
mod names;
mod properties;
mod rules;
mod table;

fn given(from: &str, value: &str) -> Given {
    Given::new(from, value)
}

/// `base` on as many nodes as there are numbers.
fn facts(run_mode: RunMode, rank_scope: RankScope, ranks_per_node: &[u32]) -> Facts {
    Facts {
        run_mode,
        rank_scope,
        topology: Topology { ranks_per_node: ranks_per_node.to_vec(), range: None },
        base: Base::Whole(given("--wandb-base", "base")),
        parent_run: None,
        run_id: None,
        group: None,
        name: None,
        tags: Vec::new(),
        notes: None,
        job_type: None,
        sweep: None,
        project: None,
        entity: None,
        base_url: None,
        app_url: None,
    }
}

fn combinations() -> impl Iterator<Item = (RunMode, RankScope)> {
    RunMode::ALL.into_iter().flat_map(|mode| RankScope::ALL.map(|scope| (mode, scope)))
}

fn plan(facts: &Facts) -> Plan {
    resolve(facts).unwrap_or_else(|error| panic!("{facts:?}: {error:?}"))
}

fn error(facts: &Facts) -> String {
    let PlanError { text, hints } = resolve(facts).expect_err("must be refused");
    std::iter::once(text)
        .chain(hints.into_iter().map(|hint| format!("  hint: {hint}")))
        .collect::<Vec<_>>()
        .join("\n")
}

/// One line for each rank: number, node.local, run, group, label and part in a shared run.
fn lines(plan: &Plan) -> String {
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let line = |rank: &Rank| {
        let part = match (rank.shared, rank.primary) {
            (true, Some(true)) => "primary",
            (true, Some(false)) => "shared",
            (false, None) => "-",
            odd => panic!("{odd:?}"),
        };
        let place = format!("{} {}.{}", rank.rank, rank.worker_index, rank.local_rank);
        format!("{place} {} {} {} {part}", or(&rank.run_id), or(&rank.group), or(&rank.label))
    };
    plan.ranks.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The reasons, each once.
fn reasons(plan: &Plan) -> String {
    let mut reasons: Vec<_> = plan.ranks.iter().map(|rank| rank.reason.as_str()).collect();
    reasons.dedup();
    reasons.join("\n")
}
