//! Restarts and changes of membership, live.

use std::{net::TcpListener, time::SystemTime};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Job, Lab, PATIENCE, assert_in_order, finish, kill, kinds, living, script, seconds_between, tell,
};

#[test]
fn a_killed_rank_is_replaced() {
    let Some(lab) = Lab::with_torch() else { return };
    let (idle, go) = (script("idle.py"), lab.path("go"));
    let job = lab.start("restart", &["--nproc-per-node", "2", &idle, &go]);
    let before = living(&job.wait_for_ranks(2));
    job.wait_for_lines(&[], "of 2 waits, restart 0", 2);
    let killed = jiff::Timestamp::try_from(SystemTime::now()).expect("a time").to_string();
    kill(before[1], Signal::KILL);
    let restart = job.wait_for_event("restart", 1);
    let after = living(&job.wait_for_ranks(2));
    assert!(after.iter().all(|pid| !before.contains(pid)), "{before:?} {after:?}");
    let status = job.status();
    assert_eq!((&status["job"]["restarts"], &status["job"]["attempt"]), (&json!(1), &json!(1)));
    assert_eq!((&restart["reason"], &restart["cause"]["rank"]), (&json!("failure"), &json!(1)));
    assert_eq!(restart["cause"]["kind"], "signal");
    let events = job.events();
    assert_in_order(
        &kinds(&events),
        &["rank_exited", "cause_found", "restart", "rank_started", "rank_started"],
    );
    let exited = events.iter().find(|event| event["kind"] == "rank_exited").expect("a death");
    assert_eq!((&exited["rank"], &exited["exit"]), (&json!(1), &json!({"signal": 9})));
    let [death, anew] = [exited, &restart].map(|event| seconds_between(&json!(killed), &event["at"]));
    tell(&format!("kill -9 of a rank: in the events after {death:.3} s, new group after {anew:.3} s"));
    lab.touch("go");
    assert_eq!(job.wait_for_end()["job"]["state"], "done");
    let first = job.logs(&["--attempt", "0", "--rank", "1"]);
    assert!(first.contains("rank 1 of 2 waits, restart 0"), "{first}");
    job.wait_until_nothing_is_left();
}

#[test]
fn a_restart_can_be_asked_for() {
    let Some(lab) = Lab::with_torch() else { return };
    let (idle, go) = (script("idle.py"), lab.path("go"));
    let job = lab.start("manual", &["--nproc-per-node", "2", &idle, &go]);
    let before = living(&job.wait_for_ranks(2));
    lab.must(&["restart", &job.id]);
    let status = job.wait_for_ranks(2);
    assert!(living(&status).iter().all(|pid| !before.contains(pid)));
    assert_eq!((&status["job"]["restarts"], &status["job"]["attempt"]), (&json!(0), &json!(1)));
    assert_eq!(job.wait_for_event("restart", 1)["reason"], "manual");
    lab.touch("go");
    assert_eq!(job.wait_for_end()["job"]["state"], "done");
}

/// An agent of a job of one to three nodes, as if on a node of its own.
fn node<'a>(lab: &'a Lab, name: &str, port: u16) -> Job<'a> {
    let (endpoint, membership, go) = (format!("localhost:{port}"), script("membership.py"), lab.path("go"));
    let flags =
        ["--nnodes", "1:3", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "members"];
    let conf = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=3";
    let more = ["--rdzv-endpoint", &endpoint, "--rdzv-conf", conf, "--local-addr", "localhost"];
    lab.start(name, &[&flags[..], &more, &[&membership, &go]].concat())
}

fn wait_for_world(job: &Job, size: u32) -> Value {
    let status = job.wait_for(&format!("a world of {size}"), |status| {
        status["job"]["state"] == "running"
            && status["job"]["world_size"] == size
            && living(status).len() == 1
    });
    let attempt = status["job"]["attempt"].to_string();
    job.wait_for_lines(&["--attempt", &attempt], &format!("of {size} on node"), 1);
    status
}

#[test]
fn nodes_come_and_go_without_a_restart() {
    let Some(lab) = Lab::with_torch() else { return };
    let port =
        TcpListener::bind("localhost:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let n1 = node(&lab, "n1", port);
    wait_for_world(&n1, 1);
    let n2 = node(&lab, "n2", port);
    for job in [&n1, &n2] {
        wait_for_world(job, 2);
    }
    let n3 = node(&lab, "n3", port);
    for job in [&n1, &n2, &n3] {
        wait_for_world(job, 3);
    }
    let sizes = n1.world_sizes();
    assert!(sizes.is_sorted() && sizes.contains(&2) && sizes.last() == Some(&3), "{sizes:?}");
    let status = n1.status();
    let changes = json!(sizes.len() - 1);
    assert_eq!((&status["job"]["restarts"], &status["job"]["attempt"]), (&json!(0), &changes), "{sizes:?}");
    assert!(n1.events_of("restart").is_empty() && n1.events_of("cause_found").is_empty(), "nothing failed");
    // torchrun wiped what the first world wrote; elastictop has it.
    let first = n1.logs(&["--attempt", "0"]);
    assert!(first.contains("rank 0 of 1 on node 0, restart 0"), "{first}");
    let states: Vec<_> = n1.events_of("job_state").iter().map(|event| event["state"].clone()).collect();
    assert!(!states.contains(&json!("restarting")), "{states:?}");

    // One leaves: the others go on until one of them fails, and then form a smaller world.
    n3.stop();
    assert_eq!(n3.wait_for_end()["job"]["state"], "stopped");
    kill(living(&n2.status())[0], Signal::KILL);
    for job in [&n1, &n2] {
        wait_for_world(job, 2);
    }
    assert_eq!(n2.status()["job"]["restarts"], 1, "its own rank failed");
    assert_eq!(n1.status()["job"]["restarts"], 0, "it only followed");
    let sizes = n1.world_sizes();
    assert_eq!((sizes.contains(&3), sizes.last()), (true, Some(&2)), "{sizes:?}");
    lab.touch("go");
    for job in [&n1, &n2] {
        assert_eq!(job.wait_for_end()["job"]["state"], "done");
    }
}

#[test]
fn restarts_with_gloo_recover() {
    let Some(lab) = Lab::with_torch() else { return };
    let mut command = lab.command(lab.python());
    command.arg(script("../recover.py")).args(["--runs", "3", "--elastictop"]);
    command.arg(env!("CARGO_BIN_EXE_elastictop"));
    let (code, out, err) = finish(&mut command);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.ends_with("3 of 3 runs recovered\n"), "{out}");
}

#[test]
fn a_collective_timeout_ends_a_hang() {
    let Some(lab) = Lab::with_torch() else { return };
    let hang = script("hang.py");
    let flags = ["--nproc-per-node", "2", "--max-restarts", "0", "--nccl-collective-timeout", "3"];
    let job = lab.start("hang", &[&flags[..], &[&hang, "--step", "2"]].concat());
    let status = job.wait_for_end();
    assert_eq!(status["job"]["state"], "failed", "{status:#}");
    let cause = &status["job"]["cause"];
    assert_eq!(cause["kind"], "collective_timeout", "{cause:#}");
    let events = job.events();
    let exited = events.iter().find(|event| event["kind"] == "rank_exited").expect("a death");
    assert_eq!(exited["rank"], 0, "the one that waited");
    let started = events.iter().find(|event| event["kind"] == "rank_started").expect("a start");
    let lived = seconds_between(&started["at"], &exited["at"]);
    tell(&format!("a hang with a collective timeout of 3 s ended {lived:.1} s after the ranks' start"));
    assert!(lived >= 3.0 && PATIENCE.as_secs_f64() > lived, "{lived}");
    job.wait_until_nothing_is_left();
}
