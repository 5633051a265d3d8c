//! Files that somebody removed or damaged: nothing is lost for it that is not named, and nothing runs twice.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Lab, PATIENCE, kill, living, pid_of, wait_until};

#[test]
fn a_folder_of_sockets_that_is_removed_is_put_back_and_no_second_supervisor_comes() {
    let lab = Lab::new();
    let job = lab.start("run", &["--launcher", "local", "--no-python", "sleep", "1000"]);
    job.wait_for_ranks(1);
    let supervisor = job.supervisor();
    fs::remove_dir_all(lab.elastictop_dir().join("run")).expect("a folder of sockets");
    let listed = lab.must(&["ps"]);
    assert!(listed.contains("running") && !listed.contains("died"), "{listed}");
    // Waits until the supervisor listens again.
    assert_eq!(job.status()["job"]["state"], "running");
    assert_eq!(job.supervisor(), supervisor, "the same one");
    job.stop();
    let status = job.status();
    assert_eq!(status["job"]["state"], "stopped", "{status:#}");
    assert_eq!(status["alerts"].as_array().map(Vec::len), Some(0), "{status:#}");
}

#[test]
fn what_is_damaged_is_named_and_can_be_removed() {
    let lab = Lab::new();
    let job = lab.start("harm", &["--launcher", "local", "--no-python", "true"]);
    job.wait_for_end();
    job.wait_until_nothing_is_left();
    let (manifest, marks) = (job.dir().join("job.json"), job.dir().join("secrets.json"));
    let whole = fs::read(&manifest).expect("a manifest");

    let kept = fs::read(&marks).expect("marks of secrets");
    for damaged in [&b""[..], b"{}", &kept[..kept.len() / 2]] {
        fs::write(&marks, damaged).expect("a damaged file");
        let (code, _, error) = lab.run(&["export", &job.id, "-o", &lab.path("x.etrec")]);
        assert!(code == 1 && error.contains("which values were secret is not known"), "{code}: {error}");
        let (code, _, error) = lab.run(&["bundle", &job.id, "-o", &lab.path("x.tar.gz")]);
        assert!(code == 1 && error.contains("which values were secret is not known"), "{code}: {error}");
        let (code, _, error) = lab.run(&["logs", &job.id]);
        assert!(code == 0 && error.contains("which values were secret is not known"), "{code}: {error}");
        lab.must(&["export", &job.id, "--redact", "-o", &lab.path("y.etrec")]);
    }
    fs::write(&marks, kept).expect("marks of secrets");
    lab.must(&["export", &job.id, "-o", &lab.path("x.etrec")]);

    fs::write(&manifest, &whole[..whole.len() / 2]).expect("half a manifest");
    let (code, _, error) = lab.run(&["ps"]);
    assert!(code == 0 && error.contains(&format!("the folder of {} is damaged", job.id)), "{code}: {error}");
    let (code, _, error) = lab.run(&["status", &job.id]);
    assert!(code == 3 && error.contains("is damaged") && error.contains("elastictop rm"), "{code}: {error}");
    lab.must(&["rm", &job.id]);
    assert!(!job.dir().exists());
}

#[test]
fn a_restart_that_could_not_work_leaves_the_group_alone() {
    let lab = Lab::new();
    let job = lab.start("keep", &["--launcher", "local", "--no-python", "sleep", "1000"]);
    let ranks = living(&job.wait_for_ranks(1));
    // A folder where the agent's output would go.
    let out = job.dir().join("agent.out");
    fs::remove_file(&out).and_then(|()| fs::create_dir(&out)).expect("a folder in the way");
    let (code, _, error) = lab.run(&["restart", &job.id]);
    assert!(code == 3 && error.contains("could not be started again"), "{code}: {error}");
    assert_eq!(living(&job.status()), ranks);
    fs::remove_dir(&out).expect("the way is free");
    // The program is put back.
    fs::remove_dir_all(job.dir().join("bin")).expect("a folder");
    lab.must(&["restart", &job.id]);
    assert!(living(&job.wait_for_ranks(1)).iter().all(|pid| !ranks.contains(pid)));
    job.stop();
}

#[test]
fn a_restart_by_hand_gives_no_new_restarts() {
    let lab = Lab::new();
    let words = ["--launcher", "local", "--max-restarts", "1", "--no-python", "sleep", "1000"];
    let job = lab.start("budget", &words);
    let kill_rank = || kill(living(&job.wait_for_ranks(1))[0], Signal::KILL);
    kill_rank();
    job.wait_for("one restart", |status| status["job"]["restarts"] == 1);
    job.wait_for_ranks(1);
    lab.must(&["restart", &job.id]);
    kill_rank();
    let status = job.wait_for_end();
    assert_eq!(
        (&status["job"]["state"], &status["job"]["restarts"]),
        (&"failed".into(), &1.into()),
        "{status:#}"
    );
}

#[test]
fn a_job_whose_folder_was_removed_is_told_with_what_ends_it() {
    let lab = Lab::new();
    let job = lab.start("gone", &["--launcher", "local", "--no-python", "sleep", "1000"]);
    let status = job.wait_for_ranks(1);
    let agent = pid_of(&status["agent"]["pid"]);
    fs::remove_dir_all(job.dir()).expect("a folder");
    let listed = lab.must(&["ps"]);
    assert!(listed.contains(&format!("its folder was removed: kill {agent} ends it")), "{listed}");
    kill(agent, Signal::TERM);
    wait_until("nothing is left", PATIENCE, || lab.processes("1000").is_empty().then_some(()));
}
