//! A job of several hosts, each in network and name of its own: nodes come, leave, and are cut off.
//!
//! `ELASTICTOP_TEST_NETNS=0` runs the stories on one host, as where namespaces are not allowed.

mod cluster;
mod network;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use self::cluster::{Cluster, HOSTS, wait_for_world};
use crate::harness::{Job, Lab, script};

/// Global ranks and the names of their nodes, as each node tells them of its own.
fn places(jobs: &[&Job]) -> BTreeSet<(u64, String)> {
    let ranks = |job: &&Job| job.status()["ranks"].as_array().cloned().unwrap_or_default();
    let place = |rank: Value| {
        (rank["rank"].as_u64().expect("a rank"), rank["node"].as_str().expect("a node").to_owned())
    };
    jobs.iter().flat_map(ranks).filter(|rank| rank["state"] != "exited").map(place).collect()
}

fn world_sizes(job: &Job) -> Vec<(Value, Value)> {
    let changes = job.events_of("membership_changed").into_iter();
    changes.map(|event| (event["from"].clone(), event["world_size"].clone())).collect()
}

#[test]
fn nodes_join_and_leave() {
    let Some(lab) = Lab::with_torch() else { return };
    let cluster = Cluster::around(lab);
    let (train, go) = (script("train_gloo.py"), cluster.login.path("go"));
    let program = [train.as_str(), "--until", &go, "--step-ms", "50"];
    let start = |host| cluster.start(host, &[], &program);
    let n1 = start(1);
    wait_for_world(&n1, 1);
    let n2 = start(2);
    for job in [&n1, &n2] {
        wait_for_world(job, 2);
    }
    let n3 = start(3);
    let all = [&n1, &n2, &n3];
    for job in all {
        wait_for_world(job, 3);
        // They reach each other: a step needs all of them.
        job.wait_for("a step", |status| status["ranks"][0]["step"].as_u64() > Some(0));
    }
    let found = places(&all);
    assert_eq!(found.iter().map(|(rank, _)| *rank).collect::<Vec<_>>(), [0, 1, 2]);
    if cluster.has_network() {
        let names: BTreeSet<_> = found.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, BTreeSet::from(["n01", "n02", "n03"]), "each is on a host of its own");
    }
    assert_eq!(world_sizes(&n1), [(json!(1), json!(2)), (json!(2), json!(3))]);
    for job in all {
        assert!(job.events_of("cause_found").is_empty(), "nothing failed: {:#?}", job.events());
    }

    // One leaves. The others lose their connection to it, and go on without.
    n2.stop();
    assert_eq!(n2.wait_for_end()["job"]["state"], "stopped");
    for job in [&n1, &n3] {
        wait_for_world(job, 2);
        job.wait_for("a step", |status| status["ranks"][0]["step"].as_u64() > Some(0));
    }
    assert_eq!(places(&[&n1, &n3]).len(), 2);
    cluster.login.touch("go");
    for job in [&n1, &n3] {
        assert_eq!(job.wait_for_end()["job"]["state"], "done");
    }
}

#[test]
fn a_host_that_is_cut_off_works_on_and_comes_back() {
    let Some(lab) = Lab::with_torch() else { return };
    let cluster = Cluster::around(lab);
    let (membership, go) = (script("membership.py"), cluster.login.path("go"));
    let jobs: Vec<_> = (1..=HOSTS).map(|host| cluster.start(host, &[], &[&membership, &go])).collect();
    for job in &jobs {
        wait_for_world(job, HOSTS);
    }
    cluster.connect(3, false);
    assert_eq!(jobs[2].status()["job"]["state"], "running");
    cluster.connect(3, true);
    cluster.login.touch("go");
    for job in &jobs {
        assert_eq!(job.wait_for_end()["job"]["state"], "done");
    }
}
