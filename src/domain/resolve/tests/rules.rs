//! What goes beyond the table, each with its reason.

use insta::assert_snapshot;

use super::*;

#[test]
fn an_id_that_was_asked_for_is_the_base_and_never_on_all_ranks_of_new() {
    let mut facts = facts(RunMode::New, RankScope::Global, &[2]);
    facts.run_id = Some(given("WANDB_RUN_ID", "abc"));
    let plan = plan(&facts);
    assert_eq!(plan.base, "abc");
    assert_snapshot!(lines(&plan), @"
    0 0.0 abc-rank-0 abc - -
    1 0.1 abc-rank-1 abc - -
    ");
    assert_snapshot!(plan.ranks[1].reason, @"new: each rank has a run of its own, grouped by job; WANDB_RUN_ID=abc is the base, as one id for all ranks would mix their rows");
    assert_eq!(plan.warnings, ["--wandb-base base is not used: WANDB_RUN_ID=abc takes its place"]);
}

#[test]
fn auto_by_worker_gets_a_group_only_when_one_is_asked_for() {
    let mut facts = facts(RunMode::Auto, RankScope::Worker, &[2, 2]);
    assert_eq!(plan(&facts).groups, []);
    facts.group = Some(Group::Base("--wandb-group".into()));
    assert_snapshot!(lines(&plan(&facts)), @"
    0 0.0 base-worker-0 base - -
    1 0.1 - - - -
    2 1.0 base-worker-1 base - -
    3 1.1 - - - -
    ");
    assert_snapshot!(plan(&facts).ranks[2].reason, @"auto by worker: the first rank of each node logs for it; the group comes from --wandb-group");
    facts.group = Some(Group::Named(given("WANDB_RUN_GROUP", "mine")));
    assert_eq!(plan(&facts).counts(), "2 runs, 1 group");
    assert_eq!(plan(&facts).runs[1].group.as_deref(), Some("mine"));
}

#[test]
fn a_group_that_was_asked_for_is_that_of_every_run() {
    for (mode, scope) in combinations() {
        for nodes in [&[1][..], &[3], &[2, 2]] {
            let mut facts = facts(mode, scope, nodes);
            facts.group = Some(Group::Named(given("--wandb-group", "g")));
            let plan = plan(&facts);
            assert!(plan.runs.iter().all(|run| run.group.as_deref() == Some("g")), "{mode}/{scope}");
            assert_eq!(plan.groups.len(), 1);
        }
    }
}

#[test]
fn a_parent_is_not_used_with_more_than_one_rank_and_every_reason_says_so() {
    for (mode, scope) in combinations() {
        let mut facts = facts(mode, scope, &[2, 2]);
        let without = plan(&facts);
        facts.parent_run = Some(given("--parent-run", "p/1"));
        let with = plan(&facts);
        assert_eq!((&with.runs, &with.groups), (&without.runs, &without.groups));
        let says = |rank: &Rank| {
            rank.reason.ends_with(
                "; --parent-run p/1 is not used: only a single rank joins its parent's run, and there are 4",
            )
        };
        assert!(with.ranks.iter().all(says), "{with:?}");
    }
}

#[test]
fn a_single_rank_and_its_parent() {
    let with = |mode, id: Option<&str>, group: bool| {
        let mut facts = facts(mode, RankScope::Global, &[1]);
        facts.parent_run = Some(given("--parent-run", "p"));
        facts.run_id = id.map(|id| given("--wandb-run-id", id));
        facts.base =
            Base::Names { run: Some(given("RUN_NAME", "r")), action: Some(given("ACTION_NAME", "eval")) };
        facts.group = group.then(|| Group::Named(given("--wandb-group", "g")));
        let plan = plan(&facts);
        format!("{mode}: {}\n  {}", lines(&plan), plan.ranks[0].reason)
    };
    let text = [
        with(RunMode::Auto, None, false),
        with(RunMode::Auto, None, true),
        with(RunMode::Shared, None, false),
        with(RunMode::New, None, true),
        with(RunMode::Auto, Some("mine"), false),
        with(RunMode::Shared, Some("mine"), false),
        with(RunMode::Shared, Some("p"), false),
        with(RunMode::New, Some("mine"), false),
    ];
    assert_snapshot!(text.join("\n"), @"
    auto: 0 0.0 p - eval shared
      auto with one rank: it joins --parent-run p; in shared mode, as the parent writes there too; the parent is primary
    auto: 0 0.0 p - eval shared
      auto with one rank: it joins --parent-run p; in shared mode, as the parent writes there too; the parent is primary; the parent's run keeps its own group
    shared: 0 0.0 p - eval shared
      shared with one rank: it joins --parent-run p; in shared mode, as the parent writes there too; the parent is primary
    new: 0 0.0 r-eval g - -
      new with one rank: a run of its own, with the base as its id; --parent-run p is not used: new never joins a run; the group comes from --wandb-group
    auto: 0 0.0 mine - - -
      auto with one rank: the run is --wandb-run-id mine; --parent-run p is not used: --wandb-run-id says where to log
    shared: 0 0.0 mine - rank-0 primary
      shared with one rank: the run is --wandb-run-id mine; --parent-run p is not used: --wandb-run-id says where to log
    shared: 0 0.0 p - eval shared
      shared with one rank: it joins --parent-run p; in shared mode, as the parent writes there too; the parent is primary
    new: 0 0.0 mine - - -
      new with one rank: the run is --wandb-run-id mine; --parent-run p is not used: new never joins a run
    ");
}

#[test]
fn the_base_is_made_of_names() {
    let name = |from: &'static str, value: Option<&str>| value.map(|value| given(from, value));
    let base = |run: Option<&str>, action: Option<&str>| {
        let mut facts = facts(RunMode::Auto, RankScope::Global, &[2]);
        facts.base = Base::Names { run: name("--run-name", run), action: name("--action-name", action) };
        let plan = plan(&facts);
        (plan.base, plan.warnings)
    };
    assert_eq!(base(Some("llama"), Some("train")), ("llama-train".into(), vec![]));
    assert_eq!(base(Some("llama"), None), ("llama-a0".into(), vec![]));
    assert_eq!(base(None, Some("train")), ("train-train".into(), vec![]));
    let (stand_in, warnings) = base(None, None);
    assert_eq!((stand_in.as_str(), warnings.len()), ("run-a0", 1));
    assert_snapshot!(warnings[0], @"no run is named, so that run-a0 stands in for the base: give --run-name or --wandb-base");
}

#[test]
fn more_clients_than_were_tested_are_warned_of() {
    let warnings =
        |mode, nodes: u32| plan(&facts(mode, RankScope::Worker, &vec![4; nodes as usize])).warnings;
    assert_eq!(warnings(RunMode::Shared, 75), [""; 0]);
    assert_eq!(
        warnings(RunMode::Shared, 76),
        ["304 ranks write in shared mode; W&B has tested it with at most 300 clients at once"]
    );
    assert_eq!(warnings(RunMode::New, 200), [""; 0]);
}

#[test]
fn a_range_is_planned_for_a_stated_number_of_nodes() {
    let warnings = |mode, scope, nodes: &[u32], range| {
        let mut facts = facts(mode, scope, nodes);
        facts.topology.range = Some(range);
        plan(&facts).warnings.join("\n")
    };
    let text = [
        warnings(RunMode::New, RankScope::Worker, &[2, 2, 2], (1, 3)),
        warnings(RunMode::Auto, RankScope::Global, &[2, 2, 2], (1, 3)),
        warnings(RunMode::New, RankScope::Global, &[1, 1], (1, 4)),
        warnings(RunMode::Shared, RankScope::Worker, &[3, 1], (2, 3)),
        warnings(RunMode::Auto, RankScope::Worker, &[1], (1, u32::MAX)),
    ];
    assert_snapshot!(text.join("\n"), @"
    this is the plan for 3 nodes of 1:3; with 1 node: 2 runs, 1 group
    this is the plan for 3 nodes of 1:3; with 1 node: the same runs
    this is the plan for 2 nodes of 1:4; with 1 node: 1 run, no group; with 4 nodes: 4 runs, 1 group
    this is the plan for 2 nodes of 2:3; with 3 nodes: 3 runs, no group
    this is the plan for 1 node of 1:4294967295; with 4294967295 nodes: the job has more than 100000 ranks, which is more than a plan takes
    ");
    assert_eq!(warnings(RunMode::New, RankScope::Global, &[2, 2], (2, 2)), "");
}

#[test]
fn the_other_five_combinations() {
    let mut facts = facts(RunMode::New, RankScope::Worker, &[4, 4]);
    let show = |facts: &Facts| {
        let line = |other: &Alternative| match &other.outcome {
            Ok(counts) => format!("{}/{} → {counts}", other.run_mode, other.rank_scope),
            Err(error) => format!("{}/{}: {}", other.run_mode, other.rank_scope, error.text),
        };
        alternatives(facts).iter().map(line).collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(show(&facts), @"
    auto/global → 1 run, no group
    auto/worker → 2 runs, no group
    shared/global → 1 run, no group
    shared/worker → 2 runs, no group
    new/global → 8 runs, 1 group
    ");
    // A group that only new/worker would make too long.
    facts.run_mode = RunMode::Auto;
    facts.base = Base::Whole(given("--wandb-base", &"x".repeat(125)));
    assert!(show(&facts).contains("new/worker: the group xxx"), "{}", show(&facts));
}

/// What torch puts into the environment of a rank.
fn place(rank: u32, node: Option<u32>, local: u32, on_node: u32, world: u32) -> Place {
    Place {
        rank: Some(rank),
        local_rank: Some(local),
        group_rank: node,
        world_size: Some(world),
        local_world_size: Some(on_node),
        ..Place::default()
    }
}

#[test]
fn virtual_local_ranks_and_a_missing_node_number_do_not_collide() {
    for (mode, scope) in combinations() {
        for ranks_per_node in [&[4, 4][..], &[2, 1, 3]] {
            let plan = plan(&facts(mode, scope, ranks_per_node));
            let world = plan.ranks.len() as u32;
            for rank in &plan.ranks {
                let on_node = ranks_per_node[rank.worker_index as usize];
                let virtual_local = place(rank.rank, Some(rank.worker_index), 0, on_node, world);
                let no_node = place(rank.rank, None, rank.local_rank, on_node, world);
                assert_eq!(plan.seat(&virtual_local), Some(rank));
                assert_eq!(plan.seat(&no_node), Some(rank));
                if ranks_per_node == [4, 4] {
                    // RANK − GROUP_RANK × LOCAL_WORLD_SIZE, as the rest of elastictop counts.
                    assert_eq!(virtual_local.slot(), Some(rank.local_rank));
                }
            }
        }
    }
}

#[test]
fn a_plan_for_another_number_of_ranks_has_no_seat() {
    let plan = plan(&facts(RunMode::New, RankScope::Global, &[2, 2]));
    assert_eq!(plan.seat(&place(1, Some(0), 1, 2, 2)), None);
    assert_eq!(plan.seat(&place(4, Some(0), 1, 2, 4)), None);
    assert_eq!(plan.seat(&Place::default()), None);
}

#[test]
fn the_order_of_runs_and_groups_is_that_of_ranks() {
    let plan = plan(&facts(RunMode::New, RankScope::Worker, &[1, 2, 10]));
    assert_eq!(
        plan.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(),
        ["base-worker-0", "base-worker-1", "base-worker-2"]
    );
    assert_eq!(plan.runs.last().map(|run| run.id.as_str()), Some("base-worker-2-rank-9"));
    assert_eq!(plan.run_of(&plan.ranks[1]).map(|run| run.ranks.as_slice()), Some(&[1][..]));
}

#[test]
fn a_run_that_was_shared_stays_so_for_whoever_goes_on_with_it() {
    for nodes in [&[2][..], &[2, 2]] {
        let before = plan(&facts(RunMode::Shared, RankScope::Global, nodes));
        let mut after = plan(&facts(RunMode::Auto, RankScope::Global, nodes));
        after.keep_shared(|run| run == "base");
        let first = |plan: &Plan| lines(plan).lines().next().map(str::to_owned);
        let second = &after.ranks[1];
        assert_eq!(first(&after), first(&before), "the writer has its label and part");
        assert_eq!((after.runs[0].shared, after.runs[0].primary_rank), (true, Some(0)));
        assert!(!second.logs && !second.shared && second.label.is_none(), "{second:?}");
    }
    let mut other = plan(&facts(RunMode::New, RankScope::Global, &[2]));
    let untouched = other.clone();
    other.keep_shared(|run| run == "base");
    assert_eq!(other, untouched);
}
