//! Names that W&B refuses, and links.

use insta::assert_snapshot;

use super::*;

fn new_worker() -> Facts {
    facts(RunMode::New, RankScope::Worker, &[2, 2])
}

#[test]
fn a_bad_id_is_refused_with_its_character() {
    let mut errors = Vec::new();
    for bad in ["a/b", "a:b", "a;b", "a,b", "a#b", "a?b", "a'b", "", " a", "a\u{a0}", "a\nb", "a\u{1b}[2J"] {
        let base = Facts { base: Base::Whole(given("--wandb-base", bad)), ..new_worker() };
        let id = Facts { run_id: Some(given("WANDB_RUN_ID", bad)), ..new_worker() };
        let first = |facts: &Facts| error(facts).lines().next().unwrap_or_default().to_owned();
        errors.extend([first(&base), first(&id)]);
    }
    assert_snapshot!(errors.join("\n"), @r#"
    --wandb-base a/b: has '/', which W&B takes in no run id
    WANDB_RUN_ID=a/b: has '/', which W&B takes in no run id
    --wandb-base a:b: has ':', which W&B takes in no run id
    WANDB_RUN_ID=a:b: has ':', which W&B takes in no run id
    --wandb-base a;b: has ';', which W&B takes in no run id
    WANDB_RUN_ID=a;b: has ';', which W&B takes in no run id
    --wandb-base a,b: has ',', which W&B takes in no run id
    WANDB_RUN_ID=a,b: has ',', which W&B takes in no run id
    --wandb-base a#b: has '#', which W&B takes in no run id
    WANDB_RUN_ID=a#b: has '#', which W&B takes in no run id
    --wandb-base a?b: has '?', which W&B takes in no run id
    WANDB_RUN_ID=a?b: has '?', which W&B takes in no run id
    --wandb-base a'b: has '\'', which W&B takes in no run id
    WANDB_RUN_ID=a'b: has '\'', which W&B takes in no run id
    --wandb-base : is empty
    WANDB_RUN_ID=: is empty
    --wandb-base  a: starts with ' ', which W&B takes in no run id
    WANDB_RUN_ID= a: starts with ' ', which W&B takes in no run id
    --wandb-base a : ends with '\u{a0}', which W&B takes in no run id
    WANDB_RUN_ID=a : ends with '\u{a0}', which W&B takes in no run id
    --wandb-base a\nb: has '\n', which W&B takes in no run id
    WANDB_RUN_ID=a\nb: has '\n', which W&B takes in no run id
    --wandb-base a\u{1b}[2J: has '\u{1b}', which W&B takes in no run id
    WANDB_RUN_ID=a\u{1b}[2J: has '\u{1b}', which W&B takes in no run id
    "#);
    let parent = Facts {
        parent_run: Some(given("--parent-run", "a/b")),
        ..facts(RunMode::Auto, RankScope::Global, &[1])
    };
    assert_snapshot!(error(&parent), @"
    --parent-run a/b: has '/', which W&B takes in no run id
      hint: use letters, digits, '.', '_' and '-'
    ");
}

#[test]
fn of_a_base_that_is_made_of_names_the_bad_one_is_named() {
    let base = |run: Option<&str>, action: Option<&str>| Facts {
        base: Base::Names {
            run: run.map(|run| given("RUN_NAME", run)),
            action: action.map(|action| given("--action-name", action)),
        },
        ..new_worker()
    };
    let errors = [
        base(Some("r"), Some("a:1")),
        base(Some("r/x"), Some("a")),
        base(Some(" r"), None),
        base(None, Some("a ")),
    ];
    assert_snapshot!(errors.iter().map(error).collect::<Vec<_>>().join("\n"), @"
    --action-name a:1: has ':', which W&B takes in no run id
      hint: use letters, digits, '.', '_' and '-'
    RUN_NAME=r/x: has '/', which W&B takes in no run id
      hint: use letters, digits, '.', '_' and '-'
    RUN_NAME= r: starts with ' ', which W&B takes in no run id
    --action-name a : ends with ' ', which W&B takes in no run id
    ");
    // Blanks inside an id pass, and these two are inside.
    assert_eq!(plan(&base(Some("r "), Some(" a"))).base, "r - a");
}

#[test]
fn what_an_id_replaces_is_not_judged() {
    let mut facts = new_worker();
    facts.base = Base::Whole(given("--wandb-base", "a/b"));
    facts.run_id = Some(given("--wandb-run-id", "good one"));
    assert_eq!(plan(&facts).base, "good one");
}

#[test]
fn what_only_the_documentation_rules_out_is_a_warning() {
    let facts = Facts { base: Base::Whole(given("--wandb-base", "50%")), ..new_worker() };
    assert_snapshot!(plan(&facts).warnings.join("\n"), @"50%-worker-0-rank-0 has '%', which W&B's documentation rules out in a run id");
}

#[test]
fn long_and_odd_names_are_refused() {
    let good = "x".repeat(128);
    let long = "é".repeat(129);
    let named = |from: &str, value: &str| Some(given(from, value));
    let fine = Facts {
        project: named("WANDB_PROJECT", &good),
        name: named("WANDB_NAME", &good),
        group: Some(Group::Named(given("--wandb-group", &good))),
        tags: vec![given("WANDB_TAGS", &"t".repeat(64))],
        ..new_worker()
    };
    plan(&fine);
    let bad = [
        Facts { project: named("--wandb-project", &long), ..new_worker() },
        Facts { project: named("--wandb-project", "team/llm"), ..new_worker() },
        Facts { project: named("WANDB_PROJECT", "50%"), ..new_worker() },
        Facts { entity: named("WANDB_ENTITY", "team/llm"), ..new_worker() },
        Facts { entity: named("--wandb-entity", " "), ..new_worker() },
        Facts { name: named("--wandb-name", &long), ..new_worker() },
        Facts { group: Some(Group::Named(given("--wandb-group", &long))), ..new_worker() },
        Facts { group: Some(Group::Named(given("--wandb-group", "a\tb"))), ..new_worker() },
        Facts {
            tags: vec![given("--wandb-tags", "ok"), given("--wandb-tags", &"t".repeat(65))],
            ..new_worker()
        },
        Facts { base: Base::Whole(given("--wandb-base", &"x".repeat(120))), ..new_worker() },
    ];
    let errors = bad.iter().map(error).collect::<Vec<_>>().join("\n");
    let errors = errors.replace(&long, "é…").replace(&"x".repeat(120), "x…").replace(&"t".repeat(65), "t…");
    assert_snapshot!(errors, @r#"
    --wandb-project é…: has 129 characters; W&B takes at most 128
    --wandb-project team/llm: has '/', which W&B does not take in the name of a project
    WANDB_PROJECT=50%: has '%', which W&B does not take in the name of a project
    WANDB_ENTITY=team/llm: has '/', which W&B does not take in the name of an entity
      hint: the project goes into --wandb-project
    --wandb-entity  : is empty
    --wandb-name é…: has 129 characters; W&B takes at most 128
    --wandb-group é…: has 129 characters; W&B takes at most 128
    --wandb-group a\tb: has '\t'
    --wandb-tags t…: has 65 characters; W&B takes at most 64
    the group x…-worker-0 would have 129 characters; W&B takes at most 128
      hint: give a shorter --wandb-base, or a --wandb-group
    "#);
}

#[test]
fn impossible_topologies_are_refused() {
    let on = |ranks_per_node: &[u32], range| {
        let mut facts = facts(RunMode::Auto, RankScope::Global, ranks_per_node);
        facts.topology.range = range;
        error(&facts)
    };
    let errors = [
        on(&[], None),
        on(&[2, 0], None),
        on(&[u32::MAX, u32::MAX], None),
        on(&[1], Some((2, 3))),
        Topology::equal(u32::MAX, 0).unwrap_err().text,
        Topology::equal(0, 4).unwrap_err().text,
    ];
    assert_snapshot!(errors.join("\n"), @"
    at least one node is needed
    node 1 has no rank; at least one is needed
    the job has more than 100000 ranks, which is more than a plan takes
    a plan for 1 node is not within 2:3 nodes
    the job has more than 100000 ranks, which is more than a plan takes
    at least one node is needed
    ");
}

fn links(entity: Option<&str>, project: Option<&str>, base_url: Option<&str>) -> String {
    let facts = Facts {
        base: Base::Whole(given("--wandb-base", "a b%é")),
        group: Some(Group::Named(given("--wandb-group", "g/1?"))),
        entity: entity.map(|entity| given("--wandb-entity", entity)),
        project: project.map(|project| given("--wandb-project", project)),
        base_url: base_url.map(|url| given("WANDB_BASE_URL", url)),
        ..facts(RunMode::Shared, RankScope::Global, &[2])
    };
    let plan = plan(&facts);
    assert_eq!(plan.runs[0].link.is_none(), plan.no_links.is_some());
    assert_eq!(plan.groups[0].link.is_none(), plan.no_links.is_some());
    let link = |link: &Option<String>| link.clone().unwrap_or_else(|| "unknown".into());
    let why = plan.no_links.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    format!("{} {}{why}", link(&plan.runs[0].link), link(&plan.groups[0].link))
}

#[test]
fn links_are_escaped_and_unknown_rather_than_dead() {
    let text = [
        links(Some("my team"), Some("llm"), None),
        links(None, Some("llm"), None),
        links(Some("me"), None, None),
        links(None, None, None),
        links(Some(".."), Some("llm"), None),
    ];
    assert_snapshot!(text.join("\n"), @r#"
    https://wandb.ai/my%20team/llm/runs/a%20b%25%C3%A9 https://wandb.ai/my%20team/llm/groups/g%2F1%3F
    unknown unknown (no entity was given: --wandb-entity or WANDB_ENTITY)
    unknown unknown (no project was given: --wandb-project or WANDB_PROJECT)
    unknown unknown (no entity and no project were given: --wandb-entity, --wandb-project)
    unknown unknown ("." and ".." name no page)
    "#);
    let mut dots = facts(RunMode::Auto, RankScope::Global, &[2]);
    dots.base = Base::Whole(given("--wandb-base", ".."));
    (dots.entity, dots.project) = (Some(given("--wandb-entity", "e")), Some(given("--wandb-project", "p")));
    assert_eq!(plan(&dots).runs[0].link, None);
}

#[test]
fn pages_are_found_from_the_address_of_the_api() {
    let page = |url: &str| {
        let link = links(Some("e"), Some("p"), Some(url));
        link.split("/e/p/").next().unwrap_or_default().to_owned()
    };
    for (api, pages) in [
        ("https://api.wandb.ai", "https://wandb.ai"),
        ("https://API.wandb.ai/", "https://wandb.ai"),
        ("https://api.forge.coreweave.com", "https://wandb.ai"),
        ("https://api.wandb.example", "https://wandb.example"),
        ("http://api.wandb.test:9000", "http://app.wandb.test:9000"),
        ("https://api.example.com/", "https://app.example.com"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://[::1]:8080/wandb//", "http://[::1]:8080/wandb"),
        (" https://me.wandb.io ", "https://me.wandb.io"),
    ] {
        assert_eq!(page(api), pages, "{api}");
    }
    let mut facts = new_worker();
    (facts.entity, facts.project) = (Some(given("--wandb-entity", "e")), Some(given("--wandb-project", "p")));
    facts.base_url = Some(given("WANDB_BASE_URL", "http://localhost:8080"));
    facts.app_url = Some(given("WANDB_APP_URL", "https://pages/x/"));
    assert_eq!(plan(&facts).runs[0].link.as_deref(), Some("https://pages/x/e/p/runs/base-worker-0-rank-0"));
}

#[test]
fn an_address_that_is_none_is_refused_and_not_repeated() {
    let url = |url: &str| error(&Facts { base_url: Some(given("WANDB_BASE_URL", url)), ..new_worker() });
    let errors = [
        "wandb.ai",
        "ftp://x",
        "https://",
        "https://me:secret@host",
        "https://a b",
        "https://a?k=secret",
        "http://a:x",
    ]
    .map(url);
    assert!(errors.iter().all(|error| !error.contains("secret")));
    assert_snapshot!(errors.join("\n"), @"
    WANDB_BASE_URL is no http:// or https:// address
    WANDB_BASE_URL is no http:// or https:// address
    WANDB_BASE_URL has no host
    WANDB_BASE_URL has a user name or password before an '@'; the key goes into WANDB_API_KEY
    WANDB_BASE_URL has ' ', which has no place in the address of a server
    WANDB_BASE_URL has '?', which has no place in the address of a server
    WANDB_BASE_URL has no port number after its ':'
    ");
}

#[test]
fn the_names_of_several_runs_end_with_what_tells_them_apart() {
    let ends = |mode, scope, nodes: &[u32]| -> Vec<String> {
        let plan = plan(&facts(mode, scope, nodes));
        plan.runs.iter().map(|run| plan.suffix(&run.id).to_owned()).collect()
    };
    assert_eq!(ends(RunMode::Auto, RankScope::Global, &[2, 2]), [""]);
    assert_eq!(ends(RunMode::Auto, RankScope::Worker, &[2, 2]), ["-worker-0", "-worker-1"]);
    assert_eq!(ends(RunMode::New, RankScope::Global, &[2]), ["-rank-0", "-rank-1"]);
}
