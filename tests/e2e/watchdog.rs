//! The zombie watchdog: all ranks dead, the agent asleep on a lock that only they could open.

use crate::harness::{Lab, kinds, script, seconds_between, tell};

#[test]
fn a_deadlock_on_zombies_is_found_and_ended() {
    let Some(lab) = Lab::with_torch() else { return };
    let flags = ["--nproc-per-node", "2", "--max-restarts", "0", "--monitor-interval", "1", "--run-path"];
    let job = lab.start("deadlock", &[&flags[..], &[&script("abort_in_wait.py")]].concat());
    let status = job.wait_for_end();
    assert_eq!(status["job"]["state"], "failed");
    assert_eq!(status["job"]["cause"]["kind"], "zombie_deadlock", "{:#}", status["job"]["cause"]);
    let events = job.events();
    let died = events.iter().rfind(|event| event["kind"] == "rank_exited").expect("a death");
    let alert = events.iter().find(|event| event["kind"] == "alert_raised").expect("an alarm");
    assert_eq!(alert["alert"]["kind"], "zombie_deadlock");
    let took = seconds_between(&died["at"], &alert["at"]);
    tell(&format!("zombie deadlock found {took:.2} s after the last death"));
    assert!(took >= 1.9, "not on a single look: {took}");
    assert!(events.iter().any(|event| event["kind"] == "job_state" && event["state"] == "zombie_deadlock"));
    let term = |event: &&serde_json::Value| {
        event["kind"] == "note" && event["text"].as_str().is_some_and(|text| text.contains("SIGTERM"))
    };
    assert!(events.iter().any(|event| term(&event)), "{:?}", kinds(&events));
    assert_eq!(status["job"]["exit_code"], 1, "SIGTERM was enough: torchrun cleaned up and ended by itself");
    job.wait_until_nothing_is_left();
}

#[test]
fn ranks_that_abort_together_raise_no_alarm_and_are_restarted() {
    let Some(lab) = Lab::with_torch() else { return };
    let (script, meeting) = (script("abort_all.py"), lab.path("meeting"));
    let job = lab.start("abort", &["--nproc-per-node", "4", "--max-restarts", "1", &script, &meeting]);
    let status = job.wait_for_end();
    assert_eq!(status["job"]["state"], "done", "{status:#}");
    assert_eq!((&status["job"]["restarts"], &status["job"]["exit_code"]), (&1.into(), &0.into()));
    let alerts = job.events_of("alert_raised");
    assert!(alerts.iter().all(|event| event["alert"]["kind"] != "zombie_deadlock"), "{alerts:#?}");
    let restart = job.events_of("restart");
    assert_eq!(restart.len(), 1);
    assert_eq!(restart[0]["cause"]["kind"], "signal", "{:#}", restart[0]);
}
