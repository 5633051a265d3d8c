//! Which processes are ranks, in jobs of elastictop's own and in those of others.

use std::process::Command;

use serde_json::Value;

use crate::harness::{Job, Lab, PATIENCE, living, pid_of, script, wait_until};

/// The ranks' own words about their children: pid lists, by rank.
fn children_told(text: &str) -> Vec<i32> {
    let told = text.lines().filter_map(|line| line.split_once("has children "));
    told.flat_map(|(_, pids)| pids.split(' ').map(|pid| pid.trim().parse().expect("a pid"))).collect()
}

#[test]
fn children_of_ranks_are_no_ranks() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = lab.start("loaders", &["--nproc-per-node", "2", &script("loaders.py"), &lab.path("go")]);
    let status = job.wait_for_ranks(2);
    let mut ranks = living(&status);
    ranks.sort_unstable();
    let children = wait_until("all children are told", PATIENCE, || {
        Some(children_told(&job.logs(&[]))).filter(|children| children.len() == 6)
    });
    // They live, and were looked at at least once by now: the ranks' figures come with the same looks.
    job.wait_for("figures of both ranks", |status| {
        status["ranks"].as_array().is_some_and(|ranks| ranks.iter().all(|rank| rank["threads"].is_number()))
    });
    let status = job.status();
    let mut still = living(&status);
    still.sort_unstable();
    assert_eq!(still, ranks, "two ranks, children {children:?}");
    lab.touch("go");
    assert_eq!(job.wait_for_end()["job"]["state"], "done");
    let mut started: Vec<_> =
        job.events_of("rank_started").iter().map(|event| pid_of(&event["pid"])).collect();
    started.sort_unstable();
    assert_eq!(started, ranks, "nothing else was ever taken for a rank");
    job.wait_until_nothing_is_left();
}

/// Starts an agent without elastictop.
fn foreign(lab: &Lab, args: &[&str]) -> i32 {
    let mut command: Command = lab.command(lab.python());
    command.args(args).env("PYTHONPATH", script(""));
    lab.spawn("foreign", &mut command).id() as i32
}

/// What `status --pid` says once it knows two ranks.
fn status_of(lab: &Lab, agent: i32) -> Value {
    let pid = agent.to_string();
    let status = wait_until("two ranks of a foreign agent", PATIENCE, || {
        let (code, out, _) = lab.run(&["status", "--pid", &pid, "--json"]);
        let status: Value = (code == 0).then(|| serde_json::from_str(&out).expect("JSON"))?;
        // CPU use is the difference of two looks: a rank that only the second one saw has none yet.
        let measured = status["ranks"].as_array()?.iter().all(|rank| rank["cpu_pct"].is_number());
        (measured && living(&status).len() == 2).then_some(status)
    });
    assert_eq!((&status["schema"], &status["job"]["launcher"]), (&1.into(), &"foreign".into()));
    assert_eq!(pid_of(&status["agent"]["pid"]), agent);
    assert_eq!(status["job"]["exit_code"], Value::Null);
    assert_eq!(status["job"]["state"], "running", "it is not at its start just because the look is");
    for rank in status["ranks"].as_array().into_iter().flatten() {
        assert_eq!(rank["heartbeat_age_s"], Value::Null, "nobody beats: unknown is null");
        assert!(rank["rss_bytes"].is_number() && rank["cpu_pct"].is_number(), "{rank:#}");
    }
    status
}

fn row_of(lab: &Lab, agent: i32) -> Option<Value> {
    let list: Value = serde_json::from_str(&lab.must(&["ps", "--json"])).expect("JSON");
    let rows = list["jobs"].as_array().cloned().unwrap_or_default();
    rows.into_iter().find(|row| row["pid"] == agent)
}

#[test]
fn a_foreign_torchrun_is_seen() {
    let Some(lab) = Lab::with_torch() else { return };
    let (loaders, go) = (script("loaders.py"), lab.path("go"));
    let run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"];
    let agent = foreign(&lab, &[&run[..], &[&loaders, &go]].concat());
    wait_until("all children live", PATIENCE, || {
        (children_told(&lab.read("foreign.out")).len() == 6).then_some(())
    });
    let status = status_of(&lab, agent);
    assert_eq!(status["job"]["world_size"], 2);
    assert_eq!(status["ranks"][1]["rank"], 1);
    assert_eq!(status["alerts"][0]["kind"], "stale_store", "restarts of plain torchrun on gloo break");
    let row = row_of(&lab, agent).expect("a row in ps");
    assert_eq!((&row["foreign"], &row["world_size"]), (&true.into(), &2.into()));
    assert_eq!(row["state"], "running");
    // Looking is all that may be done to it.
    let (code, _, error) = lab.run(&["stop", &format!("pid-{agent}")]);
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("was not started by elastictop"), "{error}");
    assert_eq!(living(&status_of(&lab, agent)), living(&status));
}

#[test]
fn ranks_of_function_mode_are_seen() {
    let Some(lab) = Lab::with_torch() else { return };
    let run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--run-path"];
    let agent = foreign(&lab, &[&run[..], &[&script("idle.py"), &lab.path("go")]].concat());
    let status = status_of(&lab, agent);
    assert_eq!(status["ranks"][1]["local_rank"], 1);
    assert_eq!(row_of(&lab, agent).expect("a row in ps")["foreign"], true);
}

#[test]
fn a_script_that_is_its_own_agent_is_seen_when_it_is_named() {
    let Some(lab) = Lab::with_torch() else { return };
    let agent = foreign(&lab, &[&script("launch_function.py"), &lab.path("go")]);
    let status = status_of(&lab, agent);
    assert_eq!(status["ranks"][1]["local_rank"], 1);
}

#[test]
fn ranks_of_function_mode_are_followed_to_their_end() {
    let Some(lab) = Lab::with_torch() else { return };
    let (idle, go, folder) = (script("idle.py"), lab.path("go"), script(""));
    let args = ["--nproc-per-node", "2", "--run-path", &idle, &go];
    let job: Job = lab.start_with("function", &args, &[("PYTHONPATH", &folder)]);
    let status = job.wait_for("both ranks told their place", |status| {
        living(status).len() == 2 && status["ranks"][1]["rank"] == 1
    });
    assert_eq!(status["job"]["world_size"], 2);
    lab.touch("go");
    let status = job.wait_for_end();
    assert_eq!((&status["job"]["state"], &status["job"]["exit_code"]), (&"done".into(), &0.into()));
    job.wait_until_nothing_is_left();
}
