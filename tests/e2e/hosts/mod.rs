//! A job of several hosts, each in network and name of its own: nodes come, leave, and are cut off, and a viewer on
//! another machine sees them as one job.
//!
//! `ELASTICTOP_TEST_NETNS=0` runs the stories on one host, as where namespaces are not allowed.

mod cluster;
mod network;
mod relay;
mod ssh;

use serde_json::{Value, json};

use self::cluster::{Cluster, HOSTS, wait_for_world};
use crate::{
    harness::{Job, Lab, PATIENCE, living, script, wait_until},
    terminal::Terminal,
};

/// Global ranks that live, with their nodes.
fn places(status: &Value) -> Vec<(u64, &str)> {
    let ranks = status["ranks"].as_array().into_iter().flatten().filter(|rank| rank["state"] != "exited");
    ranks.filter_map(|rank| Some((rank["rank"].as_u64()?, rank["node"].as_str()?))).collect()
}

/// One field of each node.
fn of_nodes<'a>(status: &'a Value, field: &str) -> Vec<&'a Value> {
    status["nodes"].as_array().into_iter().flatten().map(|node| &node[field]).collect()
}

fn wait_for_step(job: &Job) {
    job.wait_for("a step", |status| status["ranks"][0]["step"].as_u64() > Some(0));
}

fn title(screen: &Terminal) -> String {
    screen.text().lines().next().unwrap_or_default().to_owned()
}

/// Waits until the process of each rank is on the screen.
fn wait_for_all(screen: &Terminal, jobs: &[&Job]) {
    for job in jobs {
        wait_until("the rank is on the screen", PATIENCE, || {
            let pid = living(&job.status()).first()?.to_string();
            screen.text().contains(&pid).then_some(())
        });
    }
}

/// Waits until so many starts of the group are on the timeline, none of them for a failure.
fn wait_for_lanes(screen: &Terminal, count: usize) {
    let lanes = wait_until("the timeline", PATIENCE, || {
        let text = screen.text();
        let lanes: Vec<String> = text.lines().filter(|line| line.contains('├')).map(str::to_owned).collect();
        (lanes.len() == count).then_some(lanes)
    });
    let is_change = |lane: &String| lane.contains("membership") && !lane.contains("lost the connection");
    assert!(lanes.iter().skip(1).all(is_change), "{lanes:#?}");
}

#[test]
fn nodes_join_and_leave() {
    let Some(lab) = Lab::with_torch() else { return };
    let cluster = Cluster::around(lab, 5);
    let (train, go) = (script("train_gloo.py"), cluster.login.path("go"));
    let program = [train.as_str(), "--until", &go, "--step-ms", "50"];
    let start = |host| cluster.start(host, &[], &program);
    let n1 = start(1);
    wait_for_world(&n1, 1);
    // Those that are not there yet are shown, and come by themselves.
    let mut screen = cluster.attach();
    wait_for_all(&screen, &[&n1]);
    let n2 = start(2);
    for job in [&n1, &n2] {
        wait_for_world(job, 2);
    }
    let n3 = start(3);
    let all = [&n1, &n2, &n3];
    for job in all {
        wait_for_world(job, 3);
        // They reach each other: a step needs all of them.
        wait_for_step(job);
    }
    // Whose agent hears of a newcomer last may see its rank lose the others first, and counts a failure: torchrun leaves
    // that to chance. For the job it is a node that joined.
    screen.press("3");
    wait_for_lanes(&screen, 3);
    screen.press("1");
    if cluster.has_network() {
        let name = |job: &&Job| job.status()["ranks"][0]["node"].clone();
        assert_eq!(all.iter().map(name).collect::<Vec<_>>(), ["n01", "n02", "n03"], "hosts of their own");
    }

    // One job, from another machine.
    wait_for_all(&screen, &all);
    let (code, status) = cluster.status();
    assert_eq!((code, &status["job"]["world_size"]), (0, &json!(3)), "{status:#}");
    let mut places = places(&status);
    assert_eq!(places.iter().map(|(rank, _)| *rank).collect::<Vec<_>>(), [0, 1, 2], "{status:#}");
    places.sort_unstable_by_key(|(_, node)| *node);
    assert_eq!(places.iter().map(|(_, node)| *node).collect::<Vec<_>>(), ["n01", "n02", "n03"]);
    assert_eq!(of_nodes(&status, "link"), ["live"; 3], "{status:#}");
    for node in status["nodes"].as_array().expect("nodes") {
        // All hosts have the clock of this machine.
        let within = node["clock_within_ms"].as_i64().expect("a measured clock");
        assert!(node["clock_ahead_ms"].as_i64().is_some_and(|ahead| ahead.abs() <= within), "{node:#}");
    }

    // One leaves. The others lose their connection to it, and go on without.
    n2.stop();
    assert_eq!(n2.wait_for_end()["job"]["state"], "stopped");
    for job in [&n1, &n3] {
        wait_for_world(job, 2);
        wait_for_step(job);
    }
    let status = cluster.wait_for("a world of 2", |status| status["job"]["world_size"] == 2);
    assert_eq!(status["job"]["state"], "running", "{status:#}");
    assert_eq!(self::places(&status).len(), 2, "{status:#}");
    assert_eq!(of_nodes(&status, "state"), ["running", "stopped", "running"], "{status:#}");
    wait_for_all(&screen, &[&n1, &n3]);
    // Whichever of their agents count a failure: for the job it is a node that left.
    screen.press("3");
    wait_for_lanes(&screen, 4);
    assert!(screen.text().contains("n02: the node left: the job was stopped there"), "{}", screen.text());
    screen.press("1");

    // It is started anew, and the same screen meets it.
    let n2 = start(2);
    for job in [&n1, &n2, &n3] {
        wait_for_world(job, 3);
    }
    wait_for_all(&screen, &[&n1, &n2, &n3]);
    let status = cluster.wait_for("a world of 3", |status| status["job"]["world_size"] == 3);
    assert_eq!(of_nodes(&status, "state"), ["running"; 3], "{status:#}");
    cluster.login.touch("go");
    for job in [&n1, &n2, &n3] {
        assert_eq!(job.wait_for_end()["job"]["state"], "done");
    }
    // That it had left before does not decide how the job ended.
    wait_until("the job is done", PATIENCE, || title(&screen).contains("done").then_some(()));
    assert_eq!(cluster.status().1["job"]["state"], "done");
}

#[test]
fn a_host_that_is_cut_off_comes_back_and_commands_say_whom_they_reached() {
    let Some(lab) = Lab::with_torch() else { return };
    // Longer than the cut: this is about those who look, not about the rendezvous.
    let cluster = Cluster::around(lab, 100);
    let (membership, go) = (script("membership.py"), cluster.login.path("go"));
    let wandb = ["--run-mode", "new", "--wandb-project", "p"];
    let jobs: Vec<_> = (1..=HOSTS).map(|host| cluster.start(host, &wandb, &[&membership, &go])).collect();
    let jobs: Vec<&Job> = jobs.iter().collect();
    for job in &jobs {
        wait_for_world(job, HOSTS);
    }
    let screen = cluster.attach();
    wait_for_all(&screen, &jobs);

    cluster.connect(3, false);
    let text = screen.wait_for("n03 silent ");
    let age = text.split("n03 silent ").nth(1).and_then(|rest| rest.split(" s").next()?.parse::<u64>().ok());
    assert!(age.is_some_and(|age| age >= 5), "{text}");
    assert_eq!(jobs[2].status()["job"]["state"], "running", "it works on");
    let (code, status) = cluster.status();
    assert_eq!((code, of_nodes(&status, "link")), (1, vec![&json!("live"), &json!("live"), &json!("lost")]));
    assert!(status["nodes"][2]["silent_s"].as_f64().is_some(), "{status:#}");
    assert_eq!(places(&status).len(), 2, "{status:#}");
    let (code, _, err) = cluster.ask("set", &["run_mode=shared"]);
    assert!(code != 0 && err.contains("done on 2 of 3 nodes only; not reached: n03"), "{code} {err}");
    assert!(screen.text().contains("n03 silent"), "{}", screen.text());

    cluster.connect(3, true);
    wait_until("it is heard again", PATIENCE, || (!screen.text().contains("silent")).then_some(()));
    wait_for_all(&screen, &jobs);
    let mode = |job: &Job| job.status()["wandb"]["run_mode"].clone();
    assert_eq!(jobs.iter().map(|job| mode(job)).collect::<Vec<_>>(), ["shared", "shared", "new"]);
    let (code, out, err) = cluster.ask("set", &["run_mode=shared"]);
    assert!(code == 0 && out.contains("on all 3 nodes"), "{code} {out}{err}");
    assert_eq!(mode(jobs[2]), "shared");

    let before: Vec<_> = jobs.iter().flat_map(|job| living(&job.status())).collect();
    let (code, out, err) = cluster.ask("restart", &[]);
    assert!(code == 0 && out.contains("on all 3 nodes"), "{code} {out}{err}");
    for job in &jobs {
        let after = living(&wait_for_world(job, HOSTS));
        assert!(after.iter().all(|pid| !before.contains(pid)), "{after:?} after {before:?}");
    }
    wait_for_all(&screen, &jobs);

    let (code, out, err) = cluster.ask("stop", &[]);
    assert!(code == 0 && out.contains("on all 3 nodes"), "{code} {out}{err}");
    for job in &jobs {
        assert_eq!(job.status()["job"]["state"], "stopped");
        job.wait_until_nothing_is_left();
    }
}
