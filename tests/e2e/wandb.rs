//! Metrics from ranks to a W&B server: which run, which rows, and what becomes of them when things go wrong.

use std::{collections::BTreeMap, fs, process::Child, time::Duration};

use rustix::process::Signal;
use serde_json::{Map, Value};

use crate::{
    gpu::Stub,
    harness::{Job, Lab, PATIENCE, finish, kernel_state, kill, living, script, wait_until},
    wandb_server::{Fault, KEY, Run, Server, What},
};

/// Steps of the job whose supervisor is killed.
const STEPS: i64 = 2000;

/// What one run has on the server; times and what only elastictop adds are left out.
#[derive(Debug, PartialEq)]
struct Seen {
    group: Option<String>,
    /// The rows of each rank, in the order of their arrival.
    rows: BTreeMap<i64, Vec<Map<String, Value>>>,
    /// Keys of config and summary.
    config: Vec<String>,
    summary: Vec<String>,
    complete: bool,
    exit_code: Option<i64>,
}

/// All runs of a project.
fn seen(server: &Server, project: &str) -> BTreeMap<String, Seen> {
    let store = server.store();
    let runs = store.runs.values().filter(|run| run.project == project);
    runs.map(|run| (run.name.clone(), look(run))).collect()
}

fn look(run: &Run) -> Seen {
    let mut rows: BTreeMap<i64, Vec<_>> = BTreeMap::new();
    for client in run.clients.keys() {
        for mut row in run.rows(client) {
            assert!(row["_timestamp"].is_number() && row["_runtime"].is_number(), "{row:?}");
            row.retain(|key, _| !["_timestamp", "_runtime"].contains(&key.as_str()));
            rows.entry(row["rank"].as_i64().expect("a rank")).or_default().push(row);
        }
    }
    let keys = |map: &Map<String, Value>| map.keys().filter(|key| !key.starts_with('_')).cloned().collect();
    Seen {
        group: run.group.clone(),
        rows,
        config: keys(&run.config),
        summary: keys(&run.summary),
        complete: run.complete,
        exit_code: run.exit_code,
    }
}

fn wandb_args<'a>(mode: &'a str, scope: &'a str, project: &'a str, base: &'a str) -> Vec<&'a str> {
    vec!["--run-mode", mode, "--rank-scope", scope, "--wandb-project", project, "--wandb-base", base]
}

fn environment(server: &Server) -> Vec<(String, String)> {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    vec![
        set("WANDB_BASE_URL", &server.url()),
        set("WANDB_API_KEY", KEY),
        set("WANDB_ERROR_REPORTING", "false"),
        set("WANDB_SILENT", "true"),
        set("WANDB_X_DISABLE_META", "true"),
    ]
}

fn start<'a>(lab: &'a Lab, server: &Server, name: &str, args: &[&str]) -> Job<'a> {
    let env = environment(server);
    let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    lab.start_with(name, args, &env)
}

fn wait_until_sent(job: &Job<'_>) {
    job.wait_for("all is sent", |status| {
        let runs = status["wandb"]["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
        // Runs of other nodes have no rows here.
        let is_sent = |run: &Value| run["state"] == "finished" || run["state"] == "local";
        runs.iter().all(|run| is_sent(run) || run["rows_logged"].as_u64().is_none_or(|rows| rows == 0))
    });
}

/// The same script under the real SDK alone: a process for each rank, told by `elastictop plan` where to log.
fn run_sdk(lab: &Lab, server: &Server, [mode, scope]: [&str; 2], nodes: u32) {
    let nnodes = nodes.to_string();
    let mut args = vec!["plan", "--json", "--nnodes", &nnodes, "--nproc-per-node", "2"];
    args.extend(wandb_args(mode, scope, "sdk", "b"));
    let plan: Value = serde_json::from_str(&lab.must(&args)).expect("a plan");
    let python = lab.python().to_owned();
    let start = |rank: &Value| -> Option<Child> {
        let id = rank["run_id"].as_str()?;
        let number = rank["rank"].to_string();
        let mut command = lab.command(&python);
        command.args([&script("log_rows.py"), "sdk", "5", "0"]).envs(environment(server));
        command.envs([("RANK", number.as_str()), ("WANDB_RUN_ID", id), ("WANDB_PROJECT", "sdk")]);
        command.env("WANDB_DIR", lab.dir()).env("WANDB_CONSOLE", "off").env("WANDB_X_DISABLE_STATS", "true");
        if let Some(group) = rank["group"].as_str() {
            command.env("WANDB_RUN_GROUP", group);
        }
        if rank["shared"] == true {
            let primary = rank["primary"].to_string();
            command.env("WANDB_MODE", "shared").env("WANDB_X_LABEL", rank["label"].as_str()?);
            command.env("WANDB_X_PRIMARY", &primary).env("WANDB_X_UPDATE_FINISH_STATE", primary);
        }
        Some(lab.spawn(&format!("sdk-{mode}-{scope}-{nodes}-{number}"), &mut command))
    };
    let ranks: Vec<_> = plan["ranks"].as_array().into_iter().flatten().collect();
    // The primary finishes last, as no other rank could log to a run that is complete.
    let (last, first): (Vec<_>, Vec<_>) = ranks.into_iter().partition(|rank| rank["primary"] == true);
    for part in [first, last] {
        let mut children: Vec<Child> = part.into_iter().filter_map(start).collect();
        for child in &mut children {
            child.wait().expect("a child");
        }
    }
}

/// One node, or two supervisors on this host that meet through torchrun's own rendezvous.
fn run_elastictop(lab: &Lab, server: &Server, [mode, scope]: [&str; 2], nodes: u32) {
    let port = free_port().to_string();
    let endpoint = format!("127.0.0.1:{port}");
    let nnodes = nodes.to_string();
    let script = script("log_rows.py");
    let mut args = wandb_args(mode, scope, "et", "b");
    args.extend(["--nproc-per-node", "2"]);
    if nodes > 1 {
        let rdzv = ["--nnodes", nnodes.as_str(), "--rdzv-backend", "c10d", "--rdzv-id", "x"];
        args.extend(rdzv);
        args.extend(["--rdzv-endpoint", endpoint.as_str()]);
    }
    args.extend([script.as_str(), "sdk", "5", "0"]);
    let jobs: Vec<_> =
        (0..nodes).map(|node| start(lab, server, &format!("{mode}-{scope}-{nodes}-{node}"), &args)).collect();
    for job in &jobs {
        job.wait_for_end();
    }
    jobs.iter().for_each(wait_until_sent);
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Each job is one of elastictop with real torchrun, and one of the SDK alone; servers of their own keep them apart.
fn compare(mode: &str, nodes: u32) {
    let Some(lab) = Lab::with_torch() else { return };
    if !has_sdk(&lab) {
        return;
    }
    for scope in ["global", "worker"] {
        let combination = [mode, scope];
        let (ours, theirs) = (Server::start(), Server::start());
        run_sdk(&lab, &theirs, combination, nodes);
        run_elastictop(&lab, &ours, combination, nodes);
        let runs = seen(&theirs, "sdk").len();
        ours.wait_for("all runs are complete", |store| {
            store.runs.len() == runs && store.runs.values().all(|run| run.complete)
        });
        let (ours_seen, theirs_seen) = (seen(&ours, "et"), seen(&theirs, "sdk"));
        assert_eq!(ours_seen, theirs_seen, "{combination:?} on {nodes} nodes");
        assert!(!ours_seen.is_empty() && ours_seen.values().all(|run| run.complete));
        ours.assert_sound();
    }
}

fn has_sdk(lab: &Lab) -> bool {
    finish(lab.command(lab.python()).args(["-c", "import wandb"])).0 == 0
}

#[test]
fn mode_auto_on_one_node_leaves_what_the_sdk_leaves() {
    compare("auto", 1);
}

#[test]
fn mode_auto_on_two_nodes_leaves_what_the_sdk_leaves() {
    compare("auto", 2);
}

#[test]
fn mode_shared_on_one_node_leaves_what_the_sdk_leaves() {
    compare("shared", 1);
}

#[test]
fn mode_shared_on_two_nodes_leaves_what_the_sdk_leaves() {
    compare("shared", 2);
}

#[test]
fn mode_new_on_one_node_leaves_what_the_sdk_leaves() {
    compare("new", 1);
}

#[test]
fn mode_new_on_two_nodes_leaves_what_the_sdk_leaves() {
    compare("new", 2);
}

/// A job without torch whose ranks log in one of the ways.
fn local<'a>(lab: &'a Lab, server: &Server, name: &str, more: &[&str], rest: &[&str]) -> Job<'a> {
    let script = script("log_rows.py");
    let mut args = vec!["--launcher", "local", "--nproc-per-node", "2", "--max-restarts", "0"];
    args.extend(more);
    args.push(script.as_str());
    args.extend(rest);
    start(lab, server, name, &args)
}

fn steps_of(rows: &[Map<String, Value>]) -> Vec<i64> {
    rows.iter().map(|row| row["nested"]["x"].as_i64().expect("a step")).collect()
}

fn run_named<T>(server: &Server, name: &str, look: impl FnOnce(&Run) -> T) -> T {
    let store = server.store();
    look(store.runs.values().find(|run| run.name == name).unwrap_or_else(|| panic!("no run {name}")))
}

#[test]
fn rows_of_every_source_arrive_with_the_job_s_exit_code() {
    let (lab, server) = (Lab::new(), Server::start());
    for (way, code) in [("lines", "0"), ("log", "7")] {
        let args = wandb_args("shared", "global", "p", way);
        let job = local(&lab, &server, way, &args, &[way, "50", code]);
        job.wait_for_end();
        wait_until_sent(&job);
        // The status may be older than the first word about the run.
        server.wait_for("the end of the run", |store| {
            store.runs.values().any(|run| run.name == way && run.complete)
        });
        let seen = run_named(&server, way, look);
        assert_eq!(seen.rows.len(), 2, "{seen:?}");
        for rows in seen.rows.values() {
            assert_eq!(steps_of(rows), (0..50).collect::<Vec<_>>());
            assert!(rows.iter().all(|row| row["_step"] == row["nested"]["x"]));
        }
        assert_eq!(seen.exit_code, code.parse().ok());
        let console: Vec<_> = run_named(&server, way, |run| {
            run.clients.values().flat_map(|client| client.console.lines.clone()).collect()
        });
        for rank in 0..2 {
            let line = console.iter().find(|line| line.contains(&format!("rank {rank} begins")));
            let line = line.unwrap_or_else(|| panic!("{console:?}"));
            assert!(line.contains(&format!("\"label\":\"rank-{rank}\"")), "{line}");
        }
        assert!(console.iter().all(|line| !line.contains("loss")), "{console:?}");
        // All of it is at the server: nothing is lost with the job.
        lab.must(&["rm", &job.id]);
    }
    server.assert_sound();
}

/// As with the SDK alone, where neither flag nor variable names anything.
#[test]
fn names_that_a_script_has_in_its_source_are_the_run_s() {
    let Some(lab) = Lab::with_torch() else { return };
    if !has_sdk(&lab) {
        return;
    }
    let server = Server::start();
    let named =
        r#"{"0": {"project": "llm", "name": "first", "tags": ["a"], "notes": "n", "job_type": "train"}}"#;
    let env: Vec<_> =
        environment(&server).into_iter().chain([("HARD_CODED".to_owned(), named.to_owned())]).collect();
    let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let script = script("wandb_init.py");
    let args = ["--launcher", "local", "--nproc-per-node", "1", "--wandb-base", "b", &script];
    let job = lab.start_with("named", &args, &env);
    job.wait_for_end();
    server.wait_for("the end of the run", |store| store.runs.values().any(|run| run.complete));
    run_named(&server, "b", |run| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let told = [run.project.clone(), text(&run.display_name), text(&run.notes), text(&run.job_type)];
        assert_eq!(told, ["llm", "first", "n", "train"]);
        assert_eq!((run.tags.as_slice(), run.config.contains_key("lr")), (["a".to_owned()].as_slice(), true));
    });
    assert_eq!(server.store().runs.len(), 1, "none was begun in another project before");
    server.assert_sound();
}

/// A container ends with the process that it was started for.
#[test]
fn who_waits_for_a_job_waits_for_its_rows_too() {
    let lab = Lab::new();
    let server = Server::start();
    let rows = "i=0; while [ $i -lt 300 ]; do echo '{\"step\": '$i', \"loss\": 1.5}'; i=$((i+1)); done; \
                echo '{\"level\": \"info\", \"ts\": 1.5, \"msg\": \"done\"}'";
    let mut command = lab.elastictop();
    command.args([
        "run",
        "--wait",
        "--name",
        "waited",
        "--launcher",
        "local",
        "--wandb-project",
        "p",
        "--no-python",
    ]);
    // As `wandb agent` starts it.
    command.envs([("WANDB_SWEEP_ID", "sweep1"), ("WANDB_NOTES", "a trial"), ("WANDB_JOB_TYPE", "train")]);
    let (code, out, err) = finish(command.args(["sh", "-c", rows]).envs(environment(&server)));
    assert_eq!(code, 0, "{out}{err}");
    let store = server.store();
    let run = store.runs.values().next().expect("a run");
    let sent: usize = run.clients.keys().map(|client| run.rows(client).len()).sum();
    assert_eq!((sent, run.complete), (300, true), "a message of a structured log is no row");
    assert!(out.contains(&format!("300 rows {}/", server.url())), "{out}");
    let told = [&run.sweep, &run.notes, &run.job_type].map(|told| told.as_deref().unwrap_or("-"));
    assert_eq!(told, ["sweep1", "a trial", "train"]);
}

#[test]
fn a_supervisor_that_is_killed_at_random_moments_loses_and_doubles_no_row() {
    let (lab, server) = (Lab::new(), Server::start());
    for (on, times, chance, what) in [
        ("file_stream", 0, 0.2, What::Status { status: 503, retry_after: None }),
        ("file_stream", 0, 0.1, What::DropAfter),
        ("file_stream", 3, 1.0, What::Status { status: 429, retry_after: Some("0.2".into()) }),
        ("graphql", 0, 0.2, What::DropBefore),
    ] {
        server.fail(Fault { on: on.into(), times, chance, what });
    }
    let script = lab.path("slow.py");
    let text = format!(
        "import json, os, time, elastictop\nrank = int(os.environ['RANK'])\nfor step in range({STEPS}):\n    \
         row = {{'rank': rank, 'nested': {{'x': step}}}}\n    if rank: elastictop.log(row, step=step)\n    \
         else: print(json.dumps({{'_step': step, **row}}), flush=True)\n    time.sleep(0.015)\n"
    );
    fs::write(&script, text).expect("a script");
    let mut args = vec!["--launcher", "local", "--nproc-per-node", "2"];
    args.extend(wandb_args("new", "global", "p", "b"));
    args.push(&script);
    let job = start(&lab, &server, "killed", &args);
    let mut random = 0x2545_f491_u64;
    for _ in 0..20 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_millis(random % 900));
        let supervisor = job.supervisor();
        kill(supervisor, Signal::KILL);
        wait_until("it is dead", PATIENCE, || {
            kernel_state(supervisor).is_none_or(|state| state == 'Z').then_some(())
        });
        // Whatever asks for the job's status takes it over; nobody there has a key, but the job has.
        job.status();
    }
    server.heal();
    job.wait_for_end();
    wait_until_sent(&job);
    for rank in 0..2 {
        let seen = run_named(&server, &format!("b-rank-{rank}"), look);
        assert_eq!(steps_of(&seen.rows[&rank]), (0..STEPS).collect::<Vec<_>>(), "rank {rank}");
        assert!(seen.complete);
    }
    server.assert_sound();
}

#[test]
fn a_switch_of_the_plan_takes_effect_at_once_and_no_row_is_lost() {
    let (lab, server) = (Lab::new(), Server::start());
    let folder = lab.path("");
    let args = wandb_args("new", "global", "p", "b");
    let job = local(&lab, &server, "switched", &args, &["lines", "40", "0", &folder]);
    let logged = |id: &str, rows: u64| {
        job.wait_for(&format!("{rows} rows in {id}"), |status| {
            let runs = status["wandb"]["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
            runs.iter().any(|run| run["id"] == id && run["rows_logged"] == rows)
        })
    };
    // The last row of each may still grow, until the switch.
    (0..2).for_each(|rank| drop(logged(&format!("b-rank-{rank}"), 19)));
    let said = lab.must(&["set", &job.id, "run_mode=shared"]);
    assert!(said.contains("shared/global"), "{said}");
    lab.touch("go");
    logged("b", 38);
    lab.must(&["set", &job.id, "run_mode=new"]);
    lab.touch("end");
    job.wait_for_end();
    wait_until_sent(&job);
    for rank in 0..2 {
        let first = run_named(&server, &format!("b-rank-{rank}"), look);
        assert_eq!(steps_of(&first.rows[&rank]), (0..20).collect::<Vec<_>>());
        let second = run_named(&server, "b", look);
        assert_eq!(steps_of(&second.rows[&rank]), (20..40).collect::<Vec<_>>());
        assert!(first.complete && second.complete);
    }
    server.assert_sound();
}

#[test]
fn a_run_that_was_begun_as_shared_stays_so_when_one_rank_goes_on_alone() {
    let (lab, server) = (Lab::new(), Server::start());
    let folder = lab.path("");
    let args = wandb_args("shared", "global", "p", "b");
    let job = local(&lab, &server, "alone", &args, &["lines", "40", "0", &folder]);
    let logged = |rows: u64| {
        job.wait_for(&format!("{rows} rows"), |status| status["wandb"]["runs"][0]["rows_logged"] == rows);
    };
    // The last row of each may still grow; that of rank 0, which goes on, after the switch as well.
    logged(38);
    let said = lab.must(&["set", &job.id, "run_mode=auto"]);
    assert!(said.contains("auto/global (1 run"), "{said}");
    lab.touch("go");
    logged(59);
    lab.must(&["set", &job.id, "run_mode=shared"]);
    lab.touch("end");
    job.wait_for_end();
    wait_until_sent(&job);
    let seen = run_named(&server, "b", look);
    assert_eq!(steps_of(&seen.rows[&0]), (0..40).collect::<Vec<_>>());
    assert_eq!(steps_of(&seen.rows[&1]), (0..20).collect::<Vec<_>>());
    assert!(seen.complete);
    server.assert_sound();
}

#[test]
fn figures_of_a_rank_s_gpu_arrive_as_system_metrics() {
    let (lab, server, stub) = (Lab::new(), Server::start(), Stub::new("gpus 2\n"));
    let mut env = environment(&server);
    env.extend(stub.variables().map(|(name, path)| (name.to_owned(), path.display().to_string())));
    let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut args = vec!["--launcher", "local", "--nproc-per-node", "2", "--max-restarts", "0"];
    args.extend(wandb_args("new", "global", "p", "b"));
    let (script, folder) = (script("log_rows.py"), lab.path(""));
    args.extend([script.as_str(), "lines", "4", "0", folder.as_str()]);
    let job = lab.start_with("gpus", &args, &env);
    let pids = living(&job.wait_for_ranks(2));
    let held = format!("proc 0 {} 2048\nproc 1 {} 4096\nmem 1 4096 81920\n", pids[1], pids[0]);
    stub.set(&format!("gpus 2\n{held}util 0 33\nutil 1 77\ntemp 1 61\npower 1 400\n"));
    // Rank 0 has GPU 1: each run has the figures of its own GPU.
    for (run, figures) in [
        ("b-rank-0", &[("gpu.1.gpu", 77.0), ("gpu.1.temp", 61.0), ("gpu.1.memoryAllocated", 5.0)][..]),
        ("b-rank-1", &[("gpu.0.gpu", 33.0)]),
    ] {
        server.wait_for(&format!("figures in {run}"), |store| {
            let runs = store.runs.values().filter(|known| known.name == run);
            let mut lines = runs.flat_map(|run| run.clients.values()).flat_map(|client| &client.events.lines);
            lines.any(|line| {
                let event: Value = serde_json::from_str(line).expect("JSON");
                let has =
                    |(name, value): &(&str, f64)| event[format!("system.{name}")].as_f64() == Some(*value);
                figures.iter().all(has)
            })
        });
    }
    lab.touch("go");
    lab.touch("end");
    job.wait_for_end();
    wait_until_sent(&job);
    server.assert_sound();
}

#[test]
fn the_stop_button_stops_the_job() {
    let (lab, server) = (Lab::new(), Server::start());
    let folder = lab.path("");
    let args = wandb_args("auto", "global", "p", "b");
    let job = local(&lab, &server, "stopped", &args, &["lines", "4", "0", &folder]);
    server.wait_for("the run is there", |store| !store.runs.is_empty());
    server.fail(Fault { on: "file_stream".into(), times: 0, chance: 1.0, what: What::Stopped });
    lab.touch("go");
    job.wait_for_state("stopped");
    let notes = job.events_of("note");
    assert!(
        notes.iter().any(|note| note.to_string().contains("stop button on W&B's page of run b")),
        "{notes:?}"
    );
}

#[test]
fn what_was_written_offline_is_read_and_sent_by_the_sdk_s_own_tools() {
    let Some(lab) = Lab::with_torch() else { return };
    if !has_sdk(&lab) {
        return;
    }
    let server = Server::start();
    let mut args = wandb_args("new", "global", "p", "b");
    args.extend(["--wandb-mode", "offline"]);
    let job = local(&lab, &server, "offline", &args, &["lines", "30", "0"]);
    job.wait_for_end();
    wait_until("the files end", PATIENCE, || (runs_of(&job).len() == 2).then_some(()));
    wait_until("the supervisor ends", PATIENCE, || {
        lab.processes("").iter().all(|(_, command)| !command.contains("__supervise")).then_some(())
    });
    assert!(server.store().runs.is_empty());
    // What is nowhere else is not thrown away by the way.
    for args in [vec!["rm", job.id.as_str()], vec!["rm", "--ended"]] {
        let (code, _, err) = lab.run(&args);
        assert!(code == 1 && err.contains("60 rows never got to W&B") && job.dir().exists(), "{err}");
    }
    assert_eq!(lab.run(&["rm", "--ended", &job.id]).0, 2, "one or all, not both");
    let wandb = lab.python().with_file_name("wandb");
    for run in runs_of(&job) {
        let mut leet = lab.command(&wandb);
        let (code, out, err) = finish(leet.args(["leet", "inspect", "--json"]).arg(&run));
        assert_eq!(code, 0, "{err}");
        assert!(out.matches("nested").count() >= 30, "{out}");
        let mut sync = lab.command(&wandb);
        sync.envs(environment(&server)).env_remove("WANDB_SILENT");
        let (code, out, err) = finish(sync.arg("sync").arg(&run));
        assert_eq!(code, 0, "{out}{err}");
    }
    for rank in 0..2 {
        let seen = run_named(&server, &format!("b-rank-{rank}"), look);
        assert_eq!(steps_of(&seen.rows[&rank]), (0..30).collect::<Vec<_>>());
        assert_eq!((seen.complete, seen.exit_code), (true, Some(0)));
    }
    lab.must(&["rm", "--force", &job.id]);
    assert!(!job.dir().exists());
}

fn runs_of(job: &Job<'_>) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(job.dir().join("wandb")).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && !path.is_symlink() && !path.ends_with("local"))
        .collect()
}
