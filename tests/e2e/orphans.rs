//! Ranks without an agent, and ranks that do not want to end.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    Job, Lab, PATIENCE, kernel_state, kill, living, pid_of, script, seconds_between, wait_until,
};

fn idle<'a>(lab: &'a Lab, flags: &[&str]) -> Job<'a> {
    let (script, file) = (script("idle.py"), lab.path("never"));
    lab.start("idle", &[flags, &["--nproc-per-node", "2", &script, &file]].concat())
}

fn states(status: &Value) -> Vec<&str> {
    status["ranks"].as_array().into_iter().flatten().filter_map(|rank| rank["state"].as_str()).collect()
}

#[test]
fn orphans_live_until_they_are_stopped() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = idle(&lab, &[]);
    let ranks = living(&job.wait_for_ranks(2));
    kill(pid_of(&job.status()["agent"]["pid"]), Signal::KILL);
    let status = job.wait_for_state("orphaned");
    assert_eq!(states(&status), ["orphan", "orphan"]);
    assert_eq!(living(&status), ranks);
    assert_eq!(status["alerts"][0]["kind"], "orphan", "{status:#}");
    assert_eq!(status["agent"]["state"], "exited");
    let listed = lab.must(&["ps", "--json"]);
    // Other tests have jobs of their own.
    assert!(listed.contains(&job.id), "{listed}");
    assert!(
        ranks.iter().all(|pid| !listed.contains(&format!("\"pid-{pid}\""))),
        "no job of their own: {listed}"
    );
    job.stop();
    let status = job.wait_for_end();
    assert_eq!(status["job"]["state"], "stopped");
    job.wait_until_nothing_is_left();
}

#[test]
fn orphans_end_with_their_agent_if_asked() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = idle(&lab, &["--orphans", "end"]);
    let status = job.wait_for_ranks(2);
    kill(pid_of(&status["agent"]["pid"]), Signal::KILL);
    let status = job.wait_for_end();
    assert_eq!(status["job"]["state"], "failed");
    assert_eq!(status["job"]["cause"]["kind"], "agent", "{:#}", status["job"]["cause"]);
    job.wait_until_nothing_is_left();
}

#[test]
fn who_ignores_sigterm_is_killed_after_the_grace_time() {
    let Some(lab) = Lab::with_torch() else { return };
    let args = ["--nproc-per-node", "2", "--stop-grace", "1", &script("ignore_term.py")];
    let job = lab.start("stubborn", &args);
    job.wait_for_ranks(2);
    job.wait_for_lines(&[], "is ready", 2);
    let said = job.stop();
    assert!(said.contains("by force"), "{said}");
    let status = job.wait_for_end();
    assert_eq!(status["job"]["state"], "stopped");
    assert!(job.logs(&[]).contains("ignores SIGTERM"), "they were asked first");
    let events = job.events();
    let asked = events.iter().find(|event| event["state"] == "tearing_down").expect("a teardown");
    assert!(seconds_between(&asked["at"], &asked["deadline"]) > 0.5, "a countdown: {asked:#}");
    job.wait_until_nothing_is_left();
}

#[test]
fn stopped_ranks_are_woken_to_end() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = idle(&lab, &["--stop-grace", "60"]);
    let ranks = living(&job.wait_for_ranks(2));
    kill(ranks[1], Signal::STOP);
    job.wait_for("rank 1 is shown as stopped", |status| status["ranks"][1]["state"] == "stopped");
    assert_eq!(kernel_state(ranks[1]), Some('T'));
    let said = job.stop();
    assert!(!said.contains("force"), "SIGCONT let it take the SIGTERM: {said}");
    assert_eq!(job.wait_for_end()["job"]["state"], "stopped");
    job.wait_until_nothing_is_left();
}

#[test]
fn a_teardown_by_the_agent_shows_its_deadline_and_can_be_cut_short() {
    let Some(lab) = Lab::with_torch() else { return };
    let (script, meeting) = (script("ignore_term.py"), lab.path("meeting"));
    let flags = ["--nproc-per-node", "2", "--max-restarts", "0", &script];
    let job = lab.start("teardown", &[&flags[..], &["--fail-rank", "1", "--meet", &meeting]].concat());
    job.wait_for_state("tearing_down");
    let deadline = |event: &Value| event["deadline"].is_string();
    let event = wait_until("a deadline", PATIENCE, || job.events().into_iter().find(deadline));
    let left = seconds_between(&event["at"], &event["deadline"]);
    assert!((25.0..=30.5).contains(&left), "torchrun waits 30 s: {left}");
    lab.must(&["stop", "--now", &job.id]);
    let status = job.wait_for_end();
    assert_eq!(status["job"]["state"], "stopped", "{status:#}");
    job.wait_until_nothing_is_left();
}
