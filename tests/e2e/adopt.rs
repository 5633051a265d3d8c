//! The supervisor dies: the job goes on, a new one takes it over and tells what it can.

use std::{collections::BTreeSet, fs, thread};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Job, Lab, PATIENCE, finish, kernel_state, kill, kinds, living, pid_of, wait_until};

/// Two ranks that run a line of shell, under the built-in launcher.
const RANKS: &[&str] = &["--launcher", "local", "--nproc-per-node", "2", "--no-python"];

fn start<'a>(lab: &'a Lab, flags: &[&str], line: &str) -> Job<'a> {
    start_named(lab, "job", flags, line)
}

fn start_named<'a>(lab: &'a Lab, name: &str, flags: &[&str], line: &str) -> Job<'a> {
    lab.start(name, &[RANKS, flags, &["sh", "-c", line]].concat())
}

fn kill_supervisor(job: &Job) {
    let supervisor = job.supervisor();
    kill(supervisor, Signal::KILL);
    wait_for_death(supervisor);
}

fn wait_for_death(pid: i32) {
    wait_until("a process is dead", PATIENCE, || {
        kernel_state(pid).is_none_or(|state| state == 'Z').then_some(())
    });
}

fn adoptions(events: &[Value]) -> usize {
    kinds(events).into_iter().filter(|kind| *kind == "adopted").count()
}

/// The lines that a rank wrote into its own files, over all its incarnations.
fn written(job: &Job, rank: u32) -> Vec<String> {
    let folders = fs::read_dir(job.dir().join("ranks")).expect("folders of ranks").flatten();
    let mut files: Vec<_> = folders
        .filter_map(|folder| {
            let told: Value =
                serde_json::from_slice(&fs::read(folder.path().join("rank.json")).ok()?).ok()?;
            (told["place"]["rank"] == rank).then_some((told["start"].as_u64()?, folder.path()))
        })
        .collect();
    files.sort();
    let text = |(_, folder): (u64, std::path::PathBuf)| {
        fs::read_to_string(folder.join("stdout.log")).expect("the rank's own log")
    };
    files.into_iter().flat_map(|file| text(file).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The same lines as elastictop has them.
fn shown(job: &Job, rank: u32) -> Vec<String> {
    let text = job.logs(&["--rank", &rank.to_string(), "--no-agent"]);
    text.lines().map(|line| line.split_once(" | ").expect("a tagged line").1.to_owned()).collect()
}

/// Counts until a file exists.
const COUNT: &str =
    "i=0; while [ ! -e end ] && [ $i -lt 100000 ]; do echo $RANK:$i; i=$((i+1)); sleep 0.005; done";

#[test]
fn no_line_is_lost_or_doubled_and_history_goes_on() {
    let lab = Lab::new();
    survives_its_supervisors(&lab, &start(&lab, &[], COUNT));
}

#[test]
fn no_line_of_torchruns_ranks_is_lost_or_doubled() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = lab.start("job", &["--nproc-per-node", "2", "--no-python", "sh", "-c", COUNT]);
    survives_its_supervisors(&lab, &job);
}

#[test]
fn torchrun_restarts_a_rank_under_the_new_supervisor() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = lab.start("job", &["--nproc-per-node", "2", "--no-python", "sh", "-c", "exec sleep 1000"]);
    let before = living(&job.wait_for_ranks(2));
    kill_supervisor(&job);
    assert_eq!(living(&job.wait_for_ranks(2)), before);
    kill(before[1], Signal::KILL);
    job.wait_for_event("restart", 1);
    let status = job.wait_for_ranks(2);
    assert_eq!((&status["job"]["restarts"], &status["job"]["attempt"]), (&json!(1), &json!(1)));
    assert_eq!(status["job"]["cause"]["rank"], 1, "{:#}", status["job"]["cause"]);
    assert!(living(&status).iter().all(|pid| !before.contains(pid)));
    assert_eq!(job.stop().trim(), "the job was stopped");
    job.wait_until_nothing_is_left();
}

/// Kills one supervisor after the other of a job whose ranks run [`COUNT`].
fn survives_its_supervisors(lab: &Lab, job: &Job) {
    job.wait_for_ranks(2);
    // At moments that lie differently between two looks of the supervisor.
    for (round, more) in [1, 37, 90, 203].into_iter().enumerate() {
        let before = written(job, 0).len();
        wait_until("more lines", PATIENCE, || (written(job, 0).len() >= before + more).then_some(()));
        kill_supervisor(job);
        let before = written(job, 1).len();
        wait_until("the job goes on without it", PATIENCE, || {
            (written(job, 1).len() > before + 5).then_some(())
        });
        let status = job.status();
        assert_eq!(status["job"]["state"], "running");
        assert_eq!(living(&status).len(), 2);
        assert_eq!(adoptions(&job.events()), round + 1);
    }
    lab.touch("end");
    let status = job.wait_for_end();
    assert_eq!(status["job"]["state"], "done", "all ranks ended well: {status:#}");
    assert_eq!(status["job"]["exit_code"], Value::Null, "nobody saw the agent's");
    assert_eq!(status["job"]["attempt"], 0);
    for rank in 0..2 {
        let written = written(job, rank);
        assert!(written.len() > 331);
        assert_eq!(shown(job, rank), written, "rank {rank}");
    }
    let events = job.events();
    let numbers: Vec<_> = events.iter().map(|event| event["seq"].clone()).collect();
    let counted: Vec<_> = (1..=events.len()).map(|n| json!(n)).collect();
    assert_eq!(numbers, counted, "events are numbered through");
    assert_eq!(kinds(&events).into_iter().filter(|kind| *kind == "rank_started").count(), 2);
    let adopted = job.events_of("adopted");
    assert!(adopted.iter().all(|event| {
        event["text"].as_str().is_some_and(|text| text.contains("exit code will be unknown"))
    }));
}

#[test]
fn several_who_come_at_once_cause_one_adoption() {
    let lab = Lab::new();
    let job = start(&lab, &[], "exec sleep 1000");
    job.wait_for_ranks(2);
    kill_supervisor(&job);
    thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| lab.run(&["status", &job.id, "--json"]))).collect();
        for run in runs {
            let (code, out, err) = run.join().expect("a run");
            assert_eq!(code, 0, "{err}");
            assert!(out.contains("\"running\""), "{out}");
        }
    });
    assert_eq!(adoptions(&job.events()), 1);
    assert_eq!(job.stop().trim(), "the job was stopped");
}

#[test]
fn who_asks_while_the_supervisor_dies_is_answered() {
    let lab = Lab::new();
    let job = start(&lab, &[], "exec sleep 1000");
    let before = living(&job.wait_for_ranks(2));
    for _ in 0..10 {
        let supervisor = job.supervisor();
        // It may be asked before it is gone, and leave without a word.
        kill(supervisor, Signal::KILL);
        assert_eq!(living(&job.status()), before);
        wait_for_death(supervisor);
        job.status();
    }
    assert_eq!(job.stop().trim(), "the job was stopped");
}

#[test]
fn a_restart_after_an_adoption_has_the_first_environment() {
    let lab = Lab::new();
    let line = "echo \"mark=$MARK in $PWD\"; exec sleep 1000";
    let job = lab.start_with("job", &[RANKS, &["sh", "-c", line]].concat(), &[("MARK", "a b'\"$c")]);
    let before = living(&job.wait_for_ranks(2));
    kill_supervisor(&job);
    assert_eq!(lab.must(&["restart", &job.id]).trim(), "the group was started anew");
    let status = job.wait_for_ranks(2);
    assert!(living(&status).iter().all(|pid| !before.contains(pid)));
    assert_eq!((&status["job"]["attempt"], &status["job"]["restarts"]), (&json!(1), &json!(0)));
    let wanted = format!("mark=a b'\"$c in {}", lab.dir().display());
    wait_until("both ranks say it again", PATIENCE, || {
        let lines: Vec<_> = [0, 1].iter().flat_map(|rank| shown(&job, *rank)).collect();
        (lines == vec![wanted.clone(); 4]).then_some(())
    });
    // The agent that this supervisor started is its child: its exit code is known again.
    job.stop();
    assert_eq!(job.status()["job"]["state"], "stopped");
    job.wait_until_nothing_is_left();
}

#[test]
fn a_job_that_ended_meanwhile_is_judged_by_what_is_left() {
    let lab = Lab::new();
    let wait = "while [ ! -e go ]; do sleep 0.02; done";
    let ok = start_named(&lab, "ok", &[], &format!("{wait}; echo bye"));
    let bad = start_named(
        &lab,
        "bad",
        &["--max-restarts", "0"],
        &format!("{wait}; echo ValueError: no >&2; exit 3"),
    );
    let again = start_named(
        &lab,
        "again",
        &["--max-restarts", "3"],
        &format!(
            "{wait}; echo try $TORCHELASTIC_RESTART_COUNT; [ $TORCHELASTIC_RESTART_COUNT = 2 ] || exit 3"
        ),
    );
    let agents = [&ok, &bad, &again].map(|job| {
        let agent = pid_of(&job.wait_for_ranks(2)["agent"]["pid"]);
        kill_supervisor(job);
        agent
    });
    lab.touch("go");
    agents.into_iter().for_each(wait_for_death);

    let status = ok.status();
    assert_eq!((&status["job"]["state"], &status["job"]["exit_code"]), (&json!("done"), &Value::Null));
    assert_eq!(status["ranks"][0]["exit"], 0);
    assert_eq!(shown(&ok, 1), ["bye"]);
    assert!(ok.events_of("alert_raised").is_empty(), "nobody was left behind: {:#?}", ok.events());

    let status = bad.status();
    assert_eq!((&status["job"]["state"], &status["job"]["exit_code"]), (&json!("failed"), &Value::Null));
    // The other one may have been ended by the agent before it came so far.
    assert!((0..2).any(|rank| status["ranks"][rank]["exit"] == 3), "{status:#}");
    assert!(status["job"]["cause"]["text"].as_str().is_some_and(|text| text.contains("ValueError: no")));

    let status = again.status();
    assert_eq!((&status["job"]["state"], &status["job"]["restarts"]), (&json!("done"), &json!(2)));
    assert_eq!(status["job"]["attempt"], 2, "groups that nobody saw are counted");
    for rank in 0..2 {
        let written = written(&again, rank);
        assert_eq!(shown(&again, rank), written);
        assert_eq!(written.last().map(String::as_str), Some("try 2"));
    }
}

#[test]
fn an_agent_that_died_meanwhile_leaves_orphans_that_stop_ends() {
    let lab = Lab::new();
    let job = start(&lab, &[], "exec sleep 1000");
    let status = job.wait_for_ranks(2);
    kill_supervisor(&job);
    kill(pid_of(&status["agent"]["pid"]), Signal::KILL);
    wait_for_death(pid_of(&status["agent"]["pid"]));
    let seen = job.wait_for_state("orphaned");
    assert_eq!(living(&seen), living(&status), "the ranks live on");
    assert!(seen["alerts"].as_array().is_some_and(|all| all.iter().any(|alert| alert["kind"] == "orphan")));
    let (code, _, err) = lab.run(&["restart", &job.id]);
    assert_eq!(code, 3, "how the agent was started died with it: {err}");
    assert_eq!(living(&job.status()), living(&status), "nothing was ended for a restart that cannot be");
    job.stop();
    job.wait_until_nothing_is_left();
}

/// Offsets worth cutting at: around each end of a record, and inside of it.
fn cuts(journal: &[u8]) -> BTreeSet<usize> {
    let ends = journal.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let mut start = 0;
    let mut cuts = BTreeSet::from([0]);
    for end in ends {
        cuts.extend([start + 1, usize::midpoint(start, end), end - 1, end]);
        start = end;
    }
    cuts
}

#[test]
fn a_journal_that_is_cut_off_opens_and_says_so() {
    let lab = Lab::new();
    let job = start(&lab, &["--max-restarts", "0"], "exit 3");
    job.wait_for_end();
    let whole = fs::read(job.dir().join("journal.jsonl")).expect("a journal");
    for cut in cuts(&whole) {
        let (kept, is_torn) = (&whole[..cut], cut > 0 && whole[cut - 1] != b'\n');
        fs::write(job.dir().join("journal.jsonl"), kept).expect("a shorter journal");
        let records = kept.iter().filter(|byte| **byte == b'\n').count();

        let (code, out, err) = lab.run(&["events", &job.id, "--json"]);
        assert_eq!((code, out.lines().count()), (0, records), "cut at {cut}: {err}");
        assert_eq!(err.contains("was cut off"), is_torn, "cut at {cut}: {err}");
        let status = job.status();
        assert_eq!(status["job"]["name"], "job", "cut at {cut}");
        assert_eq!(status["job"]["state"], "failed", "cut at {cut}");
        let told = status["alerts"].to_string().contains("was cut off");
        assert_eq!(told, is_torn, "cut at {cut}: {status:#}");
        let (code, out, _) = lab.run(&["attach", &job.id, "--plain"]);
        assert_eq!(code, 1, "cut at {cut}: {out}");
    }
    let (code, out, _) = finish(lab.elastictop().args(["status", &job.id]));
    assert_eq!(code, 0);
    assert!(!out.contains("cut off"), "the whole journal is there again: {out}");
}

#[test]
fn a_running_job_with_a_journal_that_is_cut_off_is_taken_over() {
    let lab = Lab::new();
    let job = start(&lab, &[], "exec sleep 1000");
    let ranks = living(&job.wait_for_ranks(2));
    // Once in the last record, once in the first.
    for (cut_to, first) in [(None, "job_started"), (Some(20), "adopted")] {
        kill_supervisor(&job);
        let journal = fs::read(job.dir().join("journal.jsonl")).expect("a journal");
        let kept = cut_to.unwrap_or(journal.len() - 3);
        fs::write(job.dir().join("journal.jsonl"), &journal[..kept]).expect("a shorter journal");
        let (code, _, err) = lab.run(&["status", &job.id]);
        assert_eq!(code, 0);
        assert!(err.contains("was cut off"), "{err}");
        let status = job.wait_for_ranks(2);
        assert_eq!(living(&status), ranks);
        assert_eq!(status["job"]["name"], "job");
        let events = job.events();
        assert_eq!(events[0]["kind"], first);
        let adopted = job.events_of("adopted");
        let text = adopted.last().and_then(|event| event["text"].as_str()).unwrap_or_default();
        assert!(text.contains("was cut off"), "{text}");
    }
    job.stop();
    job.wait_until_nothing_is_left();
}

/// Gives an order that takes until the ranks are killed by force, and kills the supervisor in between.
fn order_and_kill(job: &Job, order: &str) {
    let lab = job.lab;
    let mut asking = lab.spawn(order, lab.elastictop().args([order, &job.id]));
    wait_until("the order is in the journal", PATIENCE, || {
        let journal = fs::read_to_string(job.dir().join("journal.jsonl")).ok()?;
        journal.contains("\"ordered\"").then_some(())
    });
    kill_supervisor(job);
    // Who asked hears that the supervisor left, or is answered by the next one.
    asking.wait().expect("a command that ends");
}

const STUBBORN: &str = "trap '' TERM; while :; do sleep 0.1; done";

#[test]
fn a_stop_goes_on_under_the_next_supervisor() {
    let lab = Lab::new();
    let job = start(&lab, &["--stop-grace", "3", "--max-restarts", "0"], STUBBORN);
    job.wait_for_ranks(2);
    order_and_kill(&job, "stop");
    let status = job.wait_for_end();
    assert_eq!(status["job"]["state"], "stopped", "{status:#}");
    job.wait_until_nothing_is_left();
}

#[test]
fn a_restart_goes_on_under_the_next_supervisor() {
    let lab = Lab::new();
    let job = start(&lab, &["--stop-grace", "3", "--max-restarts", "0"], STUBBORN);
    let before = living(&job.wait_for_ranks(2));
    order_and_kill(&job, "restart");
    job.wait_for("a new group", |status| {
        let now = living(status);
        now.len() == 2 && now.iter().all(|pid| !before.contains(pid))
    });
    assert_eq!(job.status()["job"]["restarts"], 0);
    job.stop();
}
