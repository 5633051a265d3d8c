//! A real torchrun job on gloo with each fault: the right rank is named, for the right reason, in good time.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Job, Lab, kill, living, script, seconds_between, wait_until};
use crate::terminal::Terminal;

/// How long healthy jobs are watched.
const SOAK: Duration = Duration::from_secs(40);

fn start<'a>(lab: &'a Lab, flags: &[&str], fault: &str, more: &[&str]) -> Job<'a> {
    let script = script("faults.py");
    let mut args = vec!["--nproc-per-node", "2", "--hang-after", "5"];
    args.extend(flags);
    args.extend([script.as_str(), "--fault", fault]);
    args.extend(more);
    lab.start("verdict", &args)
}

fn alert<'v>(status: &'v Value, kind: &str) -> Option<&'v Value> {
    status["alerts"].as_array()?.iter().find(|alert| alert["kind"] == kind)
}

/// Waits for an alert of this kind, and gives it with the status that has it.
fn wait_for_alert(job: &Job, kind: &str) -> (Value, Value) {
    let status = job.wait_for(&format!("alert {kind}"), |status| alert(status, kind).is_some());
    (alert(&status, kind).expect("just seen").clone(), status)
}

/// A fault that stops the job: who is named, with which word in the sentence, and that it was told within 10 s of the
/// stall (twice that on a machine with other things to do).
fn stalls(fault: &str, kind: &str, word: &str) {
    let Some(lab) = Lab::with_torch() else { return };
    let job = start(&lab, &[], fault, &[]);
    let (alert, status) = wait_for_alert(&job, kind);
    assert_eq!(alert["rank"], 1, "{alert:#}");
    let text = alert["text"].as_str().unwrap_or_default();
    assert!(text.contains(word) && text.starts_with("rank 1 "), "{text}");
    assert!(alert["evidence"].as_array().is_some_and(|facts| facts.len() >= 2), "{alert:#}");
    let raised = job.events_of("alert_raised").into_iter().find(|event| event["alert"]["kind"] == kind);
    let raised = raised.expect("an event for it");
    let took = seconds_between(&alert["since"], &raised["at"]);
    assert!(took < 20.0, "told {took} s after the stall");
    // The one that waits is not blamed.
    assert!(status["alerts"].as_array().into_iter().flatten().all(|alert| alert["rank"] != 0), "{status:#}");
    job.stop();
}

#[test]
fn a_rank_asleep_is_told() {
    stalls("asleep", "hang", "sleeps");
}

#[test]
fn a_busy_loop_is_told() {
    stalls("busy", "hang", "computes or spins");
}

#[test]
fn a_lock_held_in_c_is_told() {
    stalls("gil", "gil_stuck", "holds Python's lock");
}

#[test]
fn a_blocked_read_is_told() {
    stalls("read", "blocked_io", "blocked in a read");
}

/// What ends at the time limit of its collective is the one that waited: the one to blame was known long before.
#[test]
fn a_hang_that_ends_at_the_time_limit_is_told_by_who_kept_the_others_waiting() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = start(&lab, &["--max-restarts", "0"], "asleep", &["--timeout", "25"]);
    let cause = job.wait_for_end()["job"]["cause"].clone();
    assert_eq!((&cause["rank"], &cause["kind"]), (&json!(1), &json!("collective_timeout")), "{cause:#}");
    let text = cause["text"].as_str().unwrap_or_default();
    assert!(text.starts_with("rank 1 sleeps at faults.py:"), "{text}");
    assert!(text.contains(" and has not joined all_reduce #"), "{text}");
    assert!(text.ends_with("rank 0 waits for it, until the collective's time limit"), "{text}");
    assert!(cause["evidence"][0].as_str().is_some_and(|fact| fact.starts_with("rank 0 waited")), "{cause:#}");
    // It can still be looked at.
    let mut screen = Terminal::open(&lab, &["attach", &job.id]);
    screen.wait_for("failed");
    screen.press("H");
    let shown = screen.wait_for("its last group ended in this hang");
    assert!(shown.contains("rank 1 sleeps at faults.py:"), "{shown}");
}

#[test]
fn a_rank_that_leaves_with_a_message_is_quoted() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = start(&lab, &["--max-restarts", "0"], "says-why", &[]);
    let cause = job.wait_for_end()["job"]["cause"].clone();
    let said = "rank 1 ended with exit code 1; its last line: the learning rate must be positive";
    assert_eq!((&cause["rank"], &cause["text"]), (&json!(1), &json!(said)), "{cause:#}");
}

#[test]
fn who_waits_and_who_lags_is_in_the_status() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = start(&lab, &[], "asleep", &[]);
    let status = job.wait_for("rank 0 waits and rank 1 lags, and the collective is known", |status| {
        let ranks = &status["ranks"];
        (&ranks[0]["state"], &ranks[1]["state"]) == (&"waiting".into(), &"lagging".into())
            && ranks[0]["collective"]["op"] == "all_reduce"
    });
    let waits = &status["ranks"][0]["collective"];
    assert_eq!((&waits["group"], &waits["behind"]), (&"default".into(), &0.into()), "{waits:#}");
    assert!(waits["abort_in_s"].as_f64().is_some_and(|left| left > 0.0 && left < 1800.0), "{waits:#}");
    assert_eq!(status["ranks"][1]["collective"]["behind"], 1);
    let group = &status["ranks"][0]["groups"][0];
    assert_eq!((&group["backend"], &group["size"]), (&"gloo".into(), &2.into()), "{group:#}");
    assert_eq!(status["ranks"][0]["guard"]["backends"][0], "gloo", "{:#}", status["ranks"][0]["guard"]);
    job.stop();
}

#[test]
fn a_stopped_rank_is_told() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = start(&lab, &[], "none", &[]);
    let status = job.wait_for("both ranks train", |status| status["ranks"][1]["step"].as_u64() > Some(20));
    kill(living(&status)[1], Signal::STOP);
    let (alert, status) = wait_for_alert(&job, "stopped");
    assert_eq!(alert["rank"], 1);
    assert_eq!(status["ranks"][1]["state"], "stopped");
    kill(living(&status)[1], Signal::CONT);
    job.wait_for("no alert is left", |status| status["alerts"].as_array().is_some_and(Vec::is_empty));
    job.stop();
}

#[test]
fn a_collective_that_was_left_out_is_told() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = start(&lab, &[], "skip", &["--step", "80"]);
    let (alert, _) = wait_for_alert(&job, "collective_mismatch");
    assert_eq!(alert["rank"], 1);
    assert!(alert["text"].as_str().is_some_and(|text| text.contains("left out a collective")), "{alert:#}");
    job.stop();
}

#[test]
fn different_collectives_are_told() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = start(&lab, &[], "mismatch", &[]);
    let (alert, _) = wait_for_alert(&job, "collective_mismatch");
    let text = alert["text"].as_str().unwrap_or_default();
    assert!(text.contains("rank 0 in all_reduce") && text.contains("rank 1 in broadcast"), "{text}");
    job.stop();
}

#[test]
fn a_straggler_is_told() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = start(&lab, &[], "slow", &["--step-ms", "20"]);
    let (alert, status) = wait_for_alert(&job, "straggler");
    assert_eq!(alert["rank"], 1, "{alert:#}");
    assert!(self::alert(&status, "hang").is_none());
    job.stop();
}

#[test]
fn a_loss_that_is_no_number_is_told() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = start(&lab, &[], "nan", &[]);
    let (alert, _) = wait_for_alert(&job, "nan_loss");
    assert_eq!(alert["rank"], 1);
    job.stop();
}

#[test]
fn memory_that_only_grows_is_told() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = start(&lab, &["--hang-after", "2"], "leak", &["--step", "5"]);
    let (alert, _) = wait_for_alert(&job, "memory_leak");
    assert_eq!(alert["rank"], 1, "{alert:#}");
    job.stop();
}

#[test]
fn the_same_failure_again_and_again_is_told_with_its_reason() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = start(&lab, &["--max-restarts", "4"], "oom", &["--step", "3", "--step-ms", "20"]);
    let is = |alert: &Value, kind: &str| alert["alert"]["kind"] == kind;
    wait_until("a crash loop and its reason are told", Duration::from_secs(100), || {
        let raised = job.events_of("alert_raised");
        let both =
            raised.iter().any(|event| is(event, "crash_loop")) && raised.iter().any(|event| is(event, "oom"));
        both.then_some(())
    });
    job.stop();
}

#[test]
fn a_stall_is_written_down_and_restarted_within_the_budget() {
    let Some(lab) = Lab::with_torch() else { return };
    let flags = ["--max-restarts", "1", "--heartbeat-timeout", "6", "--on-stall", "restart"];
    let job = start(&lab, &flags, "asleep", &["--step", "30", "--step-ms", "50"]);
    let status = job.wait_for_end();
    assert_eq!(status["job"]["state"], "failed", "{status:#}");
    let cause = status["job"]["cause"]["text"].as_str().unwrap_or_default();
    assert!(cause.contains("its restarts are spent") && cause.contains("rank 1 sleeps"), "{cause}");
    let restarts = job.events_of("restart");
    assert_eq!(restarts.len(), 1, "one restart, as many as there were");
    assert_eq!(
        (&restarts[0]["reason"], &restarts[0]["restarts"]),
        (&json!("stall"), &json!(1)),
        "{restarts:#?}"
    );
    assert_eq!(status["job"]["restarts"], 1, "{status:#}");
    let dumps = std::fs::read_dir(job.dir()).expect("a folder").flatten();
    let dumps = dumps.filter(|file| file.file_name().to_string_lossy().starts_with("stall-"));
    assert_eq!(dumps.count(), 2, "one for each stall");
}

#[test]
fn healthy_jobs_raise_no_alarm() {
    let Some(lab) = Lab::with_torch() else { return };
    let train = script("train_ddp.py");
    let args =
        ["--nproc-per-node", "2", "--hang-after", "10", &train, "--steps", "100000", "--step-ms", "50"];
    let ddp = lab.start("ddp", &args);
    lab.must(&["demo", "--detach", "--steps", "100000", "--crash-step", "0"]);
    let demo = lab.job("demo");
    for job in [&ddp, &demo] {
        job.wait_for("it trains", |status| status["ranks"][1]["step"].as_u64() > Some(10));
    }
    std::thread::sleep(SOAK);
    for job in [&ddp, &demo] {
        assert_eq!(job.events_of("alert_raised"), Vec::<Value>::new());
        job.stop();
    }
}

#[test]
fn drills_are_told_and_need_a_confirmation() {
    let lab = Lab::new();
    for (fault, kind) in
        [("hang", "hang"), ("stop", "stopped"), ("kill", "signal"), ("zombie", "zombie_deadlock")]
    {
        let out = lab.must(&["drill", fault, "--json", "--hang-after", "3", "--for", "60"]);
        let told: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(told["told"], kind, "{told:#}");
        assert!(told["seconds"].as_f64().is_some_and(|seconds| seconds < 30.0), "{told:#}");
    }
    lab.must(&["demo", "--detach", "--steps", "100000", "--crash-step", "0"]);
    let (code, _, err) = lab.run(&["drill", "hang", "--job", "demo"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("--yes"), "{err}");
    assert!(lab.job("demo").events_of("command").is_empty(), "nothing was done");
    lab.job("demo").stop();
}

/// Answers as NCCL's health service does: rank 1 is one collective behind.
fn serve_health(listener: &TcpListener, pids: &[i32]) {
    let rank = |(rank, pid): (usize, &i32)| json!({"rank": rank, "host": "n", "pid": pid, "collective_counts": {"AllReduce": 6650 - rank}});
    let ranks: Vec<Value> = pids.iter().enumerate().map(rank).collect();
    let report = json!({"nccl_version": "2", "communicators": [{"hash": "0x1", "size": 2, "ranks": ranks}]});
    for stream in listener.incoming().flatten() {
        let mut out = stream.try_clone().expect("a second handle");
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let answer = match line.as_str() {
                "CLIENT PROTOCOL 2" => "SERVER PROTOCOL 2\n".to_owned(),
                "SET FORMAT json" => "OK\n".to_owned(),
                _ => report.to_string(),
            };
            if out.write_all(answer.as_bytes()).is_err() || line.ends_with("STATUS") {
                break;
            }
        }
    }
}

#[test]
fn what_nccls_health_service_counts_is_evidence_of_a_hang() {
    let Some(lab) = Lab::with_torch() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address").to_string();
    let script = script("faults.py");
    let args = ["--nproc-per-node", "2", "--hang-after", "5", script.as_str(), "--fault", "asleep"];
    let job = lab.start_with("verdict", &args, &[("NCCL_RAS_ADDR", &addr)]);
    let pids = living(&job.wait_for_ranks(2));
    thread::spawn(move || serve_health(&listener, &pids));
    let status = job.wait_for("a hang with what RAS says", |status| {
        alert(status, "hang").is_some_and(|alert| alert["evidence"].to_string().contains("RAS: "))
    });
    let evidence = alert(&status, "hang").expect("just seen")["evidence"].to_string();
    assert!(
        evidence.contains("RAS: rank 1 at AllReduce 6649, the others at 6650; counts unchanged since"),
        "{evidence}"
    );
    job.stop();
}
