//! Command lines and environments in, plans and errors out.

use clap::Parser;
use insta::assert_snapshot;
use serde_json::Value;

use super::*;
use crate::domain::resolve::{Base, Group, RankScope, RunMode};

#[derive(Parser)]
#[command(name = "plan")]
struct Cli {
    #[command(flatten)]
    plan: PlanArgs,
}

fn parse(line: &str) -> Result<PlanArgs, clap::Error> {
    Cli::try_parse_from(std::iter::once("plan").chain(line.split_whitespace())).map(|cli| cli.plan)
}

fn layers(args: &PlanArgs, env: &[(&str, &str)]) -> Layers {
    let env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    Layers { typed: args.wandb.0.clone(), env, ..Layers::default() }
}

fn shown(line: &str, env: &[(&str, &str)]) -> Result<String> {
    let args = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    args.show(&layers(&args, env))
}

fn text(line: &str, env: &[(&str, &str)]) -> String {
    shown(line, env).unwrap_or_else(|error| panic!("{line}: {error:?}"))
}

fn json(line: &str, env: &[(&str, &str)]) -> Value {
    serde_json::from_str(&text(&format!("{line} --json"), env)).unwrap()
}

fn refused(line: &str, env: &[(&str, &str)]) -> String {
    if let Err(error) = parse(line) {
        assert_eq!(error.exit_code(), 2, "{line}");
        return error.to_string();
    }
    let error = shown(line, env).expect_err(line);
    assert_eq!(error.exit_code(), 2, "{line}");
    error.to_string()
}

const TWO_BY_FOUR: &str = "--nnodes 2 --nproc-per-node 4 --run-mode new --rank-scope worker --run-name llama";

#[test]
fn the_tree_of_two_by_four() {
    let env = [("WANDB_PROJECT", "llm"), ("WANDB_ENTITY", "team")];
    assert_snapshot!("two_by_four", text(TWO_BY_FOUR, &env));
}

#[test]
fn the_trees_of_other_shapes() {
    let lines = [
        "--wandb-base b",
        "--wandb-base b --parent-run p",
        "--wandb-base b --nproc-per-node 4,2 --nnodes 2 --rank-scope worker",
        "--wandb-base b --nproc-per-node 4 --run-mode shared",
        "--wandb-base b --nnodes 3 --nproc-per-node 8 --run-mode shared --wandb-name n --wandb-tags x,y",
        "--nnodes 1:2 --nproc-per-node 2 --run-mode new --wandb-entity e",
    ];
    let texts: Vec<_> = lines.iter().map(|line| format!("$ plan {line}\n{}", text(line, &[]))).collect();
    assert_snapshot!("other_shapes", texts.join("\n"));
}

#[test]
fn the_json_is_whole_and_null_where_nothing_applies() {
    assert_snapshot!("auto_json", text("--nproc-per-node 2 --wandb-base b --json", &[]));
    let plan = json(TWO_BY_FOUR, &[("WANDB_PROJECT", "llm"), ("WANDB_ENTITY", "team")]);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&plan), "base distributed groups rank_scope ranks run_mode runs schema warnings");
    assert_eq!(keys(&plan["runs"][0]), "group id link primary_rank ranks shared");
    assert_eq!(
        keys(&plan["ranks"][0]),
        "group label local_rank logs primary rank reason run_id shared worker_index"
    );
    assert_eq!(plan["groups"], serde_json::json!(["llama-a0-worker-0", "llama-a0-worker-1"]));
    assert_eq!(plan["ranks"][5]["run_id"], "llama-a0-worker-1-rank-1");
    assert_eq!(plan["runs"][5]["link"], "https://wandb.ai/team/llm/runs/llama-a0-worker-1-rank-1");
}

#[test]
fn every_value_comes_from_the_first_place_that_has_one() {
    let get = |line: &str, env: &[(&str, &str)]| {
        let args = parse(line).unwrap();
        args.facts(&layers(&args, env)).unwrap()
    };
    let all = [
        ("ELASTICTOP_RUN_MODE", "shared"),
        ("ELASTICTOP_RANK_SCOPE", "worker"),
        ("ELASTICTOP_WANDB_GROUP", "own"),
        ("WANDB_RUN_GROUP", "theirs"),
        ("WANDB_RUN_ID", "id"),
        ("ELASTICTOP_WANDB_PROJECT", ""),
        ("WANDB_PROJECT", "project"),
        ("WANDB_BASE_URL", "http://localhost:8080"),
        ("RUN_NAME", "run"),
        ("ACTION_NAME", "action"),
        ("PET_NNODES", "2"),
        ("PET_NPROC_PER_NODE", "3"),
        ("WANDB_TAGS", "a, b,,c"),
        ("ELASTICTOP_PARENT_RUN", "parent"),
    ];
    let facts = get("", &all);
    assert_eq!((facts.run_mode, facts.rank_scope), (RunMode::Shared, RankScope::Worker));
    assert_eq!(facts.topology.ranks_per_node, [3, 3]);
    assert_eq!(facts.group, Some(Group::Named(Given::new("ELASTICTOP_WANDB_GROUP", "own"))));
    assert_eq!(facts.project, Some(Given::new("WANDB_PROJECT", "project")));
    assert_eq!(facts.run_id, Some(Given::new("WANDB_RUN_ID", "id")));
    assert_eq!(facts.parent_run, Some(Given::new("ELASTICTOP_PARENT_RUN", "parent")));
    assert_eq!(facts.tags.iter().map(|tag| tag.value.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let names = |run, action| Base::Names { run: Some(run), action: Some(action) };
    assert_eq!(facts.base, names(Given::new("RUN_NAME", "run"), Given::new("ACTION_NAME", "action")));

    let typed =
        "--run-mode new --rank-scope global --wandb-group --nnodes 1 --wandb-run-id x --wandb-project p";
    let facts = get(typed, &all);
    assert_eq!((facts.run_mode, facts.rank_scope), (RunMode::New, RankScope::Global));
    assert_eq!(facts.group, Some(Group::Base("--wandb-group".into())));
    assert_eq!(facts.topology.ranks_per_node, [3]);
    assert_eq!(facts.run_id, Some(Given::new("--wandb-run-id", "x")));
    assert_eq!(facts.project, Some(Given::new("--wandb-project", "p")));

    let base = |line: &str| get(line, &[("ELASTICTOP_WANDB_BASE", "b"), ("RUN_NAME", "run")]).base;
    assert_eq!(base(""), Base::Whole(Given::new("ELASTICTOP_WANDB_BASE", "b")));
    assert_eq!(base("--wandb-base c"), Base::Whole(Given::new("--wandb-base", "c")));
    assert_eq!(
        base("--action-name a"),
        names(Given::new("RUN_NAME", "run"), Given::new("--action-name", "a"))
    );
    assert_eq!(
        base("--run-name {{.runName}} --action-name a"),
        names(Given::new("RUN_NAME", "run"), Given::new("--action-name", "a")),
        "a template that nobody filled in"
    );
}

#[test]
fn with_nothing_given_it_is_one_rank() {
    let plan = json("", &[]);
    assert_eq!((&plan["distributed"], &plan["base"]), (&Value::Bool(false), &Value::from("run-a0")));
    assert_eq!(plan["ranks"].as_array().map(Vec::len), Some(1));
    assert_eq!(plan["runs"][0]["link"], Value::Null);
}

#[test]
fn a_range_is_planned_for_its_largest_or_the_number_that_was_asked_for() {
    assert_eq!(json("--nnodes 1:3 --nproc-per-node 2", &[])["ranks"].as_array().map(Vec::len), Some(6));
    let plan = json("--nnodes 1:3 --nproc-per-node 2 --with-nodes 1 --wandb-base b", &[]);
    assert_eq!(plan["ranks"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        plan["warnings"],
        serde_json::json!(["this is the plan for 1 node of 1:3; with 3 nodes: the same runs"])
    );
}

#[test]
fn bad_command_lines_get_one_clear_error() {
    let lines = [
        "--run-mode share",
        "--rank-scope node",
        "--nnodes 0",
        "--nnodes 3:1",
        "--nnodes 1:3 --with-nodes 4",
        "--nnodes 4000000000 --nproc-per-node 4000000000",
        "--nproc-per-node 0",
        "--nproc-per-node 4,0 --nnodes 2",
        "--nproc-per-node 4,4,2 --nnodes 2",
        "--nproc-per-node gpu",
        "--nproc-per-node many",
        "--run-name r --wandb-base b",
        "--wandb-run-id a/b",
        "--wandb-base a#b",
    ];
    let errors: Vec<_> =
        lines.iter().map(|line| format!("$ plan {line}\n{}", refused(line, &[]).trim_end())).collect();
    assert_snapshot!("errors", errors.join("\n\n"));
}

#[test]
fn a_bad_variable_is_named() {
    let errors = [
        refused("", &[("ELASTICTOP_RUN_MODE", "share")]),
        refused("", &[("ELASTICTOP_RANK_SCOPE", "node")]),
        refused("", &[("PET_NNODES", "x")]),
        refused("", &[("PET_NPROC_PER_NODE", "auto")]),
        refused("", &[("WANDB_BASE_URL", "localhost")]),
    ];
    assert_snapshot!("bad_variables", errors.join("\n"));
}
