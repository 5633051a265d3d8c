//! Where the script writes: an unmodified `wandb.init()` of the real SDK on every rank lands in the planned run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Child,
};

use crate::wandb_server::{ENTITY, KEY, Options, Server};
use elastictop::domain::{
    forward::{Mode, Settings, Sources, Writer},
    resolve::{Base, Facts, Given, Plan, RankScope, RunMode, Topology},
};
use serde_json::Value;

use crate::harness::{Lab, script, wait_until};

const PROJECT: &str = "llm";

fn settings(server: &Server, mode: RunMode, scope: RankScope) -> Settings {
    let given = |value: &str| Some(Given::new("a test", value));
    Settings {
        mode: Mode::Online,
        why_not_online: None,
        writer: Writer::Script,
        sources: Sources::default(),
        stop_button: true,
        facts: Facts {
            run_mode: mode,
            rank_scope: scope,
            topology: Topology::equal(2, 2).unwrap(),
            base: Base::Whole(Given::new("a test", format!("exp-{mode}-{scope}"))),
            parent_run: None,
            run_id: None,
            group: None,
            name: None,
            tags: vec![Given::new("a test", "nightly")],
            notes: None,
            job_type: None,
            sweep: None,
            project: given(PROJECT),
            entity: given(ENTITY),
            base_url: given(&server.url()),
            app_url: None,
        },
    }
}

/// Starts one rank of two nodes with two each, through the shim, as its launcher would.
fn start_rank(lab: &Lab, job: &str, rank: u32) -> Child {
    let (node, local) = (rank / 2, rank % 2);
    let mut command = lab.elastictop();
    command.arg("__rank").arg("--").arg(lab.python()).arg(script("wandb_init.py"));
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/src/supervisor/inject");
    command.env("PYTHONPATH", python).env("ELASTICTOP_JOB_DIR", lab.path(job)).env("WANDB_API_KEY", KEY);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let place = [
        ("RANK", rank),
        ("LOCAL_RANK", local),
        ("GROUP_RANK", node),
        ("WORLD_SIZE", 4),
        ("LOCAL_WORLD_SIZE", 2),
        ("GROUP_WORLD_SIZE", 2),
    ];
    command.envs(place.map(|(name, number)| (name, number.to_string())));
    lab.spawn(&format!("{job}-{rank}"), &mut command)
}

/// Runs a job of four ranks to its end.
fn run_job(lab: &Lab, server: &Server, mode: RunMode, scope: RankScope) -> Plan {
    let (settings, job) = (settings(server, mode, scope), format!("{mode}-{scope}"));
    let folder = lab.dir().join(&job).join("wandb");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("settings.json"), serde_json::to_vec(&settings).unwrap()).unwrap();
    let mut ranks: Vec<_> = (0..4).map(|rank| start_rank(lab, &job, rank)).collect();
    for (rank, child) in ranks.iter_mut().enumerate() {
        let ended = wait_until("a rank's end", crate::harness::PATIENCE, || child.try_wait().unwrap());
        assert!(ended.success(), "rank {rank}: {ended}: {}", lab.read(&format!("{job}-{rank}.out")));
    }
    settings.plan().unwrap()
}

#[test]
fn every_rank_of_every_combination_lands_in_its_run() {
    let Some(lab) = Lab::with_torch() else { return };
    let server = Server::with(Options { late_clients: true, ..Options::default() });
    for mode in RunMode::ALL {
        for scope in RankScope::ALL {
            let plan = run_job(&lab, &server, mode, scope);
            let store = server.store();
            let prefix = format!("{ENTITY}/{PROJECT}/exp-{mode}-{scope}");
            let found: BTreeSet<_> =
                store.runs.keys().filter(|id| id.starts_with(&prefix)).cloned().collect();
            let wanted: BTreeSet<_> =
                plan.runs.iter().map(|run| format!("{ENTITY}/{PROJECT}/{}", run.id)).collect();
            assert_eq!(found, wanted, "{mode}/{scope}");
            for planned in &plan.runs {
                let run = &store.runs[&format!("{ENTITY}/{PROJECT}/{}", planned.id)];
                assert_eq!(run.group, planned.group, "{}", planned.id);
                assert_eq!(run.tags, ["nightly"], "{}", planned.id);
                assert_eq!(run.exit_code, Some(0), "{} has an end", planned.id);
                // Of a shared run a rank that comes late opens it again: only what ranks wait for orders them.
                assert!(run.complete || planned.shared, "{} is not finished", planned.id);
                let losses: BTreeSet<u64> = run
                    .clients
                    .values()
                    .flat_map(|client| &client.history.lines)
                    .map(|row| serde_json::from_str::<Value>(row).unwrap()["loss"].as_u64().unwrap())
                    .collect();
                let wanted: BTreeSet<u64> = planned
                    .ranks
                    .iter()
                    .flat_map(|rank| (0..3).map(move |step| u64::from(*rank) * 10 + step))
                    .collect();
                assert_eq!(losses, wanted, "rows of {}", planned.id);
            }
            drop(store);
            let told: BTreeMap<u32, String> = (0..4)
                .map(|rank| {
                    let out = lab.read(&format!("{mode}-{scope}-{rank}.out"));
                    let line = out.lines().find_map(|line| line.strip_prefix(&format!("get_run {rank} ")));
                    (rank, line.unwrap_or_else(|| panic!("rank {rank}: {out}")).to_owned())
                })
                .collect();
            for rank in &plan.ranks {
                let wanted = rank.run_id.clone().unwrap_or_else(|| "None".into());
                assert_eq!(told[&rank.rank], wanted, "get_run of rank {} in {mode}/{scope}", rank.rank);
            }
        }
    }
    assert_eq!(server.store().violations, Vec::<String>::new());
}

#[test]
fn a_job_whose_script_names_a_run_of_its_own_is_told_of() {
    let Some(lab) = Lab::with_torch() else { return };
    let server = Server::start();
    let url = server.url();
    let hard = r#"{"0": {"id": "mine"}, "1": {"mode": "offline"}}"#;
    let env = [("WANDB_API_KEY", KEY), ("HARD_CODED", hard), ("WANDB_BASE_URL", url.as_str())];
    let flags = [
        "--launcher",
        "local",
        "--nproc-per-node",
        "2",
        "--wandb-writer",
        "script",
        "--wandb-project",
        "llm",
    ];
    let file = script("wandb_init.py");
    let args: Vec<_> = flags.into_iter().chain(["--run-name", "exp", file.as_str()]).collect();
    let job = lab.start_with("hard", &args, &env);
    job.wait_for_end();
    let notes: Vec<_> = job.events_of("note").iter().map(|note| note["text"].to_string()).collect();
    let has = |what: &[&str]| notes.iter().any(|note| what.iter().all(|part| note.contains(part)));
    assert!(has(&["rank 0", "mine", "exp-a0"]), "{notes:?}");
    assert!(has(&["rank 1", "silent"]), "{notes:?}");
    // The entity was asked for.
    let status = job.status();
    let wandb = &status["wandb"];
    assert_eq!((&wandb["writer"], &wandb["entity"]), (&Value::from("script"), &Value::from(ENTITY)));
    assert_eq!(wandb["runs"][0]["link"], format!("{url}/{ENTITY}/llm/runs/exp-a0"));
}
