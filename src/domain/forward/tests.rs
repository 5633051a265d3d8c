use super::*;
use crate::domain::resolve::{Base, Given};

fn settings(ranks_per_node: &[u32], range: Option<(u32, u32)>) -> Settings {
    let run = Some(Given::new("--run-name", "exp"));
    Settings {
        mode: Mode::Online,
        why_not_online: None,
        writer: Writer::Elastictop,
        sources: Sources::default(),
        stop_button: true,
        facts: Facts {
            run_mode: RunMode::New,
            rank_scope: RankScope::Worker,
            topology: Topology { ranks_per_node: ranks_per_node.to_vec(), range },
            base: Base::Names { run, action: None },
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
        },
    }
}

fn place(rank: u32, local: u32, node: u32, world: u32, on_node: u32) -> Place {
    Place {
        rank: Some(rank),
        local_rank: Some(local),
        group_rank: Some(node),
        world_size: Some(world),
        local_world_size: Some(on_node),
        ..Place::default()
    }
}

#[test]
fn the_topology_is_that_of_the_group_that_runs() {
    let of = |settings: &Settings, place: &Place, nodes| {
        let now = settings.at(place, nodes);
        let id = now.plan().unwrap().seat(place).and_then(|seat| seat.run_id.clone());
        (now.facts.topology.ranks_per_node, id.unwrap())
    };
    let planned = settings(&[2, 2, 2], Some((1, 3)));
    let id = |text: &str| text.to_owned();
    assert_eq!(of(&planned, &place(5, 1, 2, 6, 2), None), (vec![2, 2, 2], id("exp-a0-worker-2-rank-1")));
    assert_eq!(of(&planned, &place(3, 1, 1, 4, 2), None), (vec![2, 2], id("exp-a0-worker-1-rank-1")));
    assert_eq!(of(&planned, &place(1, 1, 0, 2, 2), None), (vec![2], id("exp-a0-rank-1")));
    assert_eq!(planned.at(&place(3, 1, 1, 4, 2), None).facts.topology.range, Some((1, 3)));

    // Known to be unequal: kept.
    let unequal = settings(&[4, 4, 2], None);
    assert_eq!(of(&unequal, &place(9, 1, 2, 10, 2), Some(3)), (vec![4, 4, 2], id("exp-a0-worker-2-rank-1")));
    // Not known: this rank's own node is right.
    let (nodes, own) = of(&settings(&[1], None), &place(9, 1, 2, 10, 2), Some(3));
    assert_eq!((nodes.iter().sum::<u32>(), nodes[2], own), (10, 2, id("exp-a0-worker-2-rank-1")));
}

#[test]
fn a_rank_that_tells_nothing_leaves_the_plan_as_it_is() {
    let planned = settings(&[2, 2], None);
    for told in [Place::default(), Place { world_size: Some(0), ..Place::default() }] {
        assert_eq!(planned.at(&told, None), planned);
    }
    // More ranks than anybody can have: no memory is spent on them.
    let absurd = Place { world_size: Some(u32::MAX), local_world_size: Some(1), ..Place::default() };
    assert_eq!(planned.at(&absurd, Some(u32::MAX)), planned);
}

#[test]
fn sources_are_words() {
    assert_eq!("all".parse::<Sources>().unwrap(), Sources::default());
    assert_eq!("lines, sdk".parse::<Sources>().unwrap().to_string(), "lines,sdk");
    assert!(!"none".parse::<Sources>().unwrap().has(Source::Log));
    let error = "lines,files".parse::<Sources>().unwrap_err();
    assert!(error.contains("\"files\"") && error.contains("lines, log, sdk, system and job"), "{error}");
    assert!(",".parse::<Sources>().is_err());
}

/// The variables of a rank, one a line.
fn told(settings: &Settings, place: &Place, around: Around<'_>) -> String {
    let env = rank_env(settings, place, around).unwrap();
    let set = env.set.iter().map(|(name, value)| format!("{name}={value}"));
    set.chain(env.unset.iter().map(|name| format!("-{name}"))).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_script_that_writes_is_told_its_run() {
    let mut text = String::new();
    for mode in RunMode::ALL {
        for scope in RankScope::ALL {
            let settings = Settings { writer: Writer::Script, ..settings(&[2, 2], None) }.with((mode, scope));
            for rank in [0, 3] {
                let around = Around { nodes: Some(2), folder: Some("/job/ranks/7-8"), visible_gpus: None };
                let place = place(rank, rank % 2, rank / 2, 4, 2);
                text += &format!("# {mode}/{scope} rank {rank}\n{}\n\n", told(&settings, &place, around));
            }
        }
    }
    insta::assert_snapshot!("script_environment", text);
}

#[test]
fn what_elastictop_reads_is_kept_and_not_sent() {
    let mut settings = settings(&[2], None).with((RunMode::Auto, RankScope::Global));
    settings.facts.project = Some(Given::new("--wandb-project", "llm"));
    let around = Around { folder: Some("/job/ranks/7-8"), ..Around::default() };
    for rank in [0, 1] {
        let told = told(&settings, &place(rank, rank, 0, 2, 2), around);
        let has = |text: &str| told.lines().any(|line| line == text);
        assert!(has("WANDB_MODE=offline") && has("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL=1"), "{told}");
        assert!(has("WANDB_DIR=/job/ranks/7-8") && has("-WANDB_SERVICE"), "{told}");
        assert_eq!(has("WANDB_RUN_ID=exp-a0"), rank == 0, "{told}");
    }
    settings.sources = "lines".parse().unwrap();
    assert_eq!(told(&settings, &place(0, 0, 0, 2, 2), around), "", "the SDK is the script's own affair");
    settings.mode = Mode::Disabled;
    let off = told(&settings, &place(0, 0, 0, 2, 2), around);
    assert_eq!(off, "WANDB_MODE=disabled\nELASTICTOP_RANK_WRITER=disabled");
}

#[test]
fn a_rank_has_the_number_of_its_own_gpu() {
    let settings = Settings { writer: Writer::Script, ..settings(&[4], None) };
    let ids = |local, visible_gpus| {
        let place = place(local, local, 0, 4, 4);
        let env = rank_env(&settings, &place, Around { visible_gpus, ..Around::default() }).unwrap();
        env.set.into_iter().find(|(name, _)| name == "WANDB_X_STATS_GPU_DEVICE_IDS").map(|(_, value)| value)
    };
    assert_eq!(ids(2, None).as_deref(), Some("[2]"));
    assert_eq!(ids(2, Some("4, 5,6,7")).as_deref(), Some("[6]"));
    assert_eq!(ids(2, Some("6")).as_deref(), Some("[6]"), "one device for each rank");
    assert_eq!(ids(2, Some("GPU-a,GPU-b,GPU-c")), None);
    assert_eq!(ids(2, Some("")), None);
}

#[test]
fn a_rank_without_a_place_in_the_plan_is_told_nothing() {
    let settings = settings(&[2, 2], None);
    for bad in [Place::default(), Place { rank: Some(9), ..place(0, 0, 0, 4, 2) }] {
        assert!(rank_env(&settings, &bad, Around::default()).is_err());
    }
}

#[test]
fn a_run_that_is_not_the_planned_one_is_told_of() {
    let settings = settings(&[2], None).with((RunMode::Auto, RankScope::Global));
    assert_eq!(stray(&settings, &place(0, 0, 0, 2, 2), "exp-a0"), None);
    let other = stray(&settings, &place(0, 0, 0, 2, 2), "mine").unwrap();
    assert!(other.contains("rank 0") && other.contains("mine") && other.contains("exp-a0"), "{other}");
    assert!(stray(&settings, &place(1, 1, 0, 2, 2), "x").unwrap().contains("silent"));
    assert_eq!(stray(&settings, &Place::default(), "x"), None);
}

#[test]
fn a_run_that_the_server_refused_has_no_page() {
    let settings = settings(&[2], None);
    let plan = settings.plan().unwrap();
    let id = plan.runs[0].id.clone();
    let link = |state, rows_acked| {
        let link = Some("https://wandb.example/e/p/runs/x".to_owned());
        let progress = RunProgress { state, rows_acked, link, ..RunProgress::default() };
        let runs = [(id.clone(), progress)].into();
        let wandb = Wandb { settings: settings.clone(), pending: None, runs, ranks: Vec::new() };
        wandb.rows(&plan)[0].link.is_some()
    };
    assert!(link(RunState::Sending, 0) && link(RunState::Retrying, 0));
    assert!(!link(RunState::Refused, 0), "a link to an error");
    assert!(link(RunState::Refused, 5), "what it has is still there");
}
