//! What holds whatever the facts are.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-z]{1,6}", 1 => any::<String>()]
}

fn some(from: &'static str) -> impl Strategy<Value = Option<Given>> {
    prop::option::of(text().prop_map(move |value| Given::new(from, value)))
}

fn any_facts(ranks: impl Strategy<Value = Vec<u32>>, good: bool) -> impl Strategy<Value = Facts> {
    let word = |from: &'static str| {
        let good = prop::option::of("[a-z]{1,6}".prop_map(move |value| Given::new(from, value)));
        (good, some(from))
    };
    let pick = move |(fine, wild): (Option<Given>, Option<Given>)| if good { fine } else { wild };
    let names = (
        word("--wandb-base"),
        word("--run-name"),
        word("ACTION_NAME"),
        word("--parent-run"),
        word("WANDB_RUN_ID"),
        word("--wandb-group"),
        word("--wandb-project"),
        word("WANDB_ENTITY"),
        word("WANDB_NAME"),
    );
    let choice = (prop::sample::select(RunMode::ALL.to_vec()), prop::sample::select(RankScope::ALL.to_vec()));
    (choice, ranks, names, prop::option::of(text()), prop::option::of((0_u32..5, 0_u32..5))).prop_map(
        move |((run_mode, rank_scope), ranks_per_node, names, url, range)| {
            let (base, run, action, parent, id, group, project, entity, name) = names;
            Facts {
                run_mode,
                rank_scope,
                topology: Topology { ranks_per_node, range: range.filter(|_| !good) },
                base: match pick(base) {
                    Some(base) => Base::Whole(base),
                    None => Base::Names { run: pick(run), action: pick(action) },
                },
                parent_run: pick(parent),
                run_id: pick(id),
                group: pick(group).map(Group::Named),
                name: pick(name),
                tags: Vec::new(),
                notes: None,
                job_type: None,
                sweep: None,
                project: pick(project),
                entity: pick(entity),
                base_url: url.filter(|_| !good).map(|url| Given::new("WANDB_BASE_URL", url)),
                app_url: None,
            }
        },
    )
}

fn good_facts() -> impl Strategy<Value = Facts> {
    any_facts(prop::collection::vec(1_u32..5, 1..6), true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_facts_give_a_plan_or_one_clear_error(
        facts in any_facts(prop::collection::vec(0_u32..5, 0..6), false)
    ) {
        match resolve(&facts) {
            Ok(plan) => {
                prop_assert!(!render_text(&plan, &facts).is_empty());
                let json: serde_json::Value = serde_json::from_str(&render_json(&plan)).unwrap();
                prop_assert_eq!(&json["schema"], 1);
            }
            Err(error) => {
                prop_assert!(!error.text.is_empty() && !error.text.ends_with('.'));
                prop_assert!(!error.text.chars().any(char::is_control), "{:?}", error.text);
            }
        }
    }

    #[test]
    fn good_names_always_give_a_plan(facts in good_facts()) {
        let plan = resolve(&facts).unwrap();
        prop_assert_eq!(&plan, &resolve(&facts).unwrap());
        prop_assert_eq!(plan.ranks.len() as u64, facts.topology.world_size());
        prop_assert_eq!(plan.distributed, plan.ranks.len() > 1);
        prop_assert!(plan.ranks.iter().zip(0..).all(|(rank, number)| rank.rank == number));
        prop_assert!(plan.ranks.iter().all(|rank| !rank.reason.is_empty()));
        prop_assert!(plan.ranks.iter().any(|rank| rank.logs));
        prop_assert!(plan.ranks[0].logs);
        prop_assert_eq!(alternatives(&facts).len(), 5);
    }

    #[test]
    fn runs_are_what_their_ranks_say(facts in good_facts()) {
        let plan = resolve(&facts).unwrap();
        let mut by_run: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for rank in &plan.ranks {
            prop_assert_eq!(rank.logs, rank.run_id.is_some());
            prop_assert_eq!(rank.shared, rank.label.is_some() && rank.primary.is_some());
            let Some(id) = &rank.run_id else {
                prop_assert!(rank.group.is_none() && rank.label.is_none() && rank.primary.is_none());
                continue;
            };
            by_run.entry(id).or_default().push(rank.rank);
            let run = plan.run_of(rank).expect("every rank that logs has its run listed");
            prop_assert_eq!((&run.group, run.shared), (&rank.group, rank.shared));
        }
        prop_assert_eq!(by_run.len(), plan.runs.len());
        for run in &plan.runs {
            prop_assert_eq!(&by_run[run.id.as_str()], &run.ranks);
            if !run.shared {
                prop_assert_eq!((run.ranks.len(), run.primary_rank), (1, None));
                continue;
            }
            let of = |number: &u32| &plan.ranks[*number as usize];
            let primaries: Vec<_> =
                run.ranks.iter().copied().filter(|rank| of(rank).primary == Some(true)).collect();
            let joins_parent = !plan.distributed && facts.parent_run.as_ref().is_some_and(|p| p.value == run.id);
            prop_assert_eq!(primaries.len(), usize::from(!joins_parent));
            prop_assert_eq!(run.primary_rank, primaries.first().copied());
            let labels: BTreeSet<_> = run.ranks.iter().map(|rank| of(rank).label.clone()).collect();
            prop_assert_eq!(labels.len(), run.ranks.len(), "labels tell the ranks of a run apart");
        }
        let groups: BTreeSet<_> = plan.runs.iter().filter_map(|run| run.group.as_deref()).collect();
        let listed: BTreeSet<_> = plan.groups.iter().map(|group| group.name.as_str()).collect();
        prop_assert_eq!(groups, listed);
        prop_assert_eq!(plan.groups.len(), plan.groups.iter().map(|group| &group.name).collect::<BTreeSet<_>>().len());
    }

    #[test]
    fn a_link_holds_nothing_that_needs_escaping(
        facts in any_facts(prop::collection::vec(1_u32..3, 1..3), false)
    ) {
        let Ok(plan) = resolve(&facts) else { return Ok(()) };
        let links = plan.runs.iter().filter_map(|run| run.link.as_ref());
        for link in links.chain(plan.groups.iter().filter_map(|group| group.link.as_ref())) {
            prop_assert!(link.starts_with("http") && link.chars().all(|c| c.is_ascii_graphic()), "{link}");
            prop_assert!(!link.contains(['?', '#', '"', '\'', '<', '>']), "{link}");
        }
    }
}
