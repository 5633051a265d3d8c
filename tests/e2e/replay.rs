//! Recordings: kept while a job runs, written into a file, and played on the screen.

use std::{fs, path::Path};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    harness::{Job, Lab, PATIENCE, finish, kill, living, script, wait_until},
    terminal::Terminal,
};

/// The demo to its end: 4 ranks, of which rank 2 fails once.
fn demo(lab: &Lab) -> Job<'_> {
    lab.must(&["demo", "--plain", "--steps", "80", "--crash-step", "40"]);
    let mut jobs = fs::read_dir(lab.elastictop_dir().join("jobs")).expect("jobs").flatten();
    let only = jobs.next().expect("a job").file_name();
    lab.job(&only.to_string_lossy())
}

/// Lines of a recording.
fn unpacked(path: &str) -> Vec<Value> {
    let mut text = String::new();
    let file = fs::File::open(path).expect("a recording");
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).expect("gzip");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn box_files(job: &Job) -> Vec<String> {
    let entries = fs::read_dir(job.dir().join("box")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_failure_is_recorded_exported_and_played() {
    let lab = Lab::new();
    let job = demo(&lab);
    assert!(box_files(&job).iter().all(|name| name.contains("-kept")), "{:?}", box_files(&job));
    let file = lab.path("demo.etrec");
    let told = lab.must(&["export", &job.id, "-o", &file]);
    assert!(told.contains("log lines") && told.contains("elastictop replay"), "{told}");
    // It plays where the job is not known.
    let elsewhere = Lab::new();
    let copy = elsewhere.path("copy.etrec");
    fs::copy(&file, &copy).expect("a copy");
    let plain = elsewhere.must(&["replay", &copy, "--plain"]);
    assert_eq!(plain, lab.must(&["replay", &job.id, "--plain"]), "the job's own files play the same");
    assert!(plain.contains("attempt 0 failed: rank 2 raised RuntimeError: injected failure"), "{plain}");

    let mut terminal = Terminal::open(&elsewhere, &["replay", &copy]);
    terminal.wait_for("Space play");
    terminal.wait_for(&job.id);
    terminal.press("}");
    let text = terminal.wait_for("attempt 0 failed: rank 2 raised RuntimeError");
    let row = text
        .lines()
        .find(|line| line.contains("exit 1"))
        .unwrap_or_else(|| panic!("no rank failed:\n{text}"));
    assert!(row.trim_start_matches(['▌', ' ']).starts_with('2'), "{row}");
    // One event back, and again: before it had failed.
    let paused = terminal.wait_for("‖ 1×");
    assert!(paused.contains("✖"), "{paused}");
    let steps = (0..20).find(|_| {
        terminal.press("[");
        std::thread::sleep(std::time::Duration::from_millis(100));
        !terminal.text().contains("exit 1")
    });
    assert!(steps.is_some(), "no step goes back to before the failure:\n{}", terminal.text());
    // The log is that of the time that is shown.
    terminal.press(":seek 0%\r");
    terminal.wait_for(" 0 s of ");
    terminal.press("2");
    terminal.press(":seek 20%\r");
    terminal.wait_for("\"step\":");
    assert!(!terminal.text().contains("injected failure"), "{}", terminal.text());
    terminal.press(":seek 100%\r");
    terminal.wait_for("\"step\":79");
    terminal.press("1");
    terminal.wait_for("✔ done");
    // Nothing can be done to the job.
    terminal.press("R");
    terminal.wait_for("this is a recording");
    terminal.press("q");
    assert_eq!(terminal.wait(), 0);
    terminal.wait_for("left the replay of");
}

#[test]
fn samples_are_there_for_each_second_and_survive_the_supervisors_death() {
    let lab = Lab::new();
    let line = "i=0; while :; do i=$((i+1)); echo \"{\\\"step\\\": $i}\"; sleep 0.2; done";
    let local = ["--launcher", "local", "--no-python", "--nproc-per-node", "2", "sh", "-c", line];
    let job = lab.start("job", &local);
    job.wait_for_ranks(2);
    let samples = || {
        let file = lab.path("live.etrec");
        lab.must(&["export", &job.id, "-o", &file]);
        unpacked(&file).iter().filter(|line| line["kind"] == "sample").count()
    };
    wait_until("samples of a live job", PATIENCE, || (samples() >= 5).then_some(()));
    kill(job.supervisor(), Signal::KILL);
    let left = samples();
    // A new one takes over, and goes on beside what the old one left.
    lab.must(&["status", &job.id]);
    wait_until("more samples", PATIENCE, || (samples() >= left + 5).then_some(()));
    kill(living(&job.status())[0], Signal::KILL);
    job.wait_for_event("restart", 1);
    wait_until("its minutes are kept", PATIENCE, || {
        let files = box_files(&job);
        (files.len() >= 2 && files.iter().all(|name| name.contains("-kept"))).then_some(())
    });
    let plain = lab.must(&["replay", &job.id, "--plain"]);
    assert!(plain.contains("a new supervisor took over") && plain.contains("SIGKILL"), "{plain}");
    job.stop();
    job.wait_until_nothing_is_left();
}

#[test]
fn a_part_of_it_and_one_without_words() {
    let lab = Lab::new();
    let job = demo(&lab);
    let file = lab.path("part.etrec");
    lab.must(&["export", &job.id, "--last", "3s", "-o", &file]);
    let lines = unpacked(&file);
    assert_eq!((&lines[0]["recording"], &lines[1]["kind"]), (&Value::from(1), &Value::from("snapshot")));
    assert!(lines.iter().any(|line| line["log"]["text"].is_string()));
    let redacted = lab.path("redacted.etrec");
    let told = lab.must(&["export", &job.id, "--redact", "-o", &redacted]);
    assert!(told.contains("taken out: job, host and user names"), "{told}");
    let text = unpacked(&redacted).iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name");
    for word in ["demo", "injected", "__trainer", env!("CARGO_MANIFEST_DIR"), "\"log\""] {
        assert!(!text.contains(word), "{word} is in it");
    }
    assert!(!text.contains(&format!("\"{}\"", host.trim())));
    let plain = lab.must(&["replay", &redacted, "--plain"]);
    assert!(plain.contains("attempt 0 failed: rank 2: exception") && plain.contains("job done"), "{plain}");
}

#[test]
fn what_cannot_be_played_or_written_is_told() {
    let lab = Lab::new();
    let job = demo(&lab);
    let file = lab.path("whole.etrec");
    lab.must(&["export", &job.id, "-o", &file]);
    let bytes = fs::read(&file).expect("a recording");
    let write = |name: &str, bytes: &[u8]| {
        fs::write(lab.path(name), bytes).expect("a file");
        lab.path(name)
    };
    // What is left of a file that was cut is played, with a warning.
    let (code, out, err) = lab.run(&["replay", "--plain", &write("cut.etrec", &bytes[..bytes.len() / 2])]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("the file is cut off") && out.contains("job is running"), "{out}{err}");
    // A journal is a recording.
    let journal = job.dir().join("journal.jsonl").display().to_string();
    assert!(lab.must(&["replay", "--plain", &journal]).contains("job done"));
    let newer = b"{\"recording\":99,\"schema\":1,\"version\":\"9.9.9\"}\n";
    for (args, code, words) in [
        (vec!["replay".to_owned(), write("empty.etrec", b"")], 1, "the file is empty"),
        (vec!["replay".to_owned(), write("text.etrec", b"hello\n")], 1, "no event in it that can be read"),
        (vec!["replay".to_owned(), write("newer.etrec", newer)], 1, "written by elastictop 9.9.9"),
        (vec!["replay".to_owned(), lab.path("missing.etrec")], 2, "there is no file"),
        (vec!["replay".to_owned(), "nobody".to_owned()], 3, "there is no job"),
        (
            vec!["replay".to_owned(), file.clone(), "--at".to_owned(), "noon".to_owned()],
            2,
            "is no place in a recording",
        ),
        (vec!["export".to_owned(), "pid-1".to_owned()], 3, "did not start that job"),
        (
            vec!["export".to_owned(), job.id.clone(), "--from".to_owned(), "+2h".to_owned()],
            2,
            "nothing was recorded",
        ),
        (
            ["export", &job.id, "-o", "/nowhere/x.etrec"].map(str::to_owned).to_vec(),
            1,
            "cannot write /nowhere/x.etrec",
        ),
    ] {
        let (got, out, err) = finish(lab.elastictop().args(&args));
        assert_eq!(got, code, "{args:?}: {out}{err}");
        assert!(err.contains(words), "{args:?}: {err}");
    }
    assert!(!Path::new(&lab.path("recording.etrec")).exists());
}

#[test]
fn a_job_of_torchrun_is_recorded_too() {
    let Some(lab) = Lab::with_torch() else { return };
    let crash = script("raise_then_peer.py");
    let job = lab.start("gloo", &["--nproc-per-node", "2", "--max-restarts", "0", &crash]);
    job.wait_for_end();
    let file = lab.path("gloo.etrec");
    lab.must(&["export", &job.id, "-o", &file]);
    let plain = lab.must(&["replay", &file, "--plain"]);
    assert!(plain.contains("job failed, exit code 1"), "{plain}");
    let state: Value = job.status();
    assert!(plain.contains(state["job"]["cause"]["text"].as_str().expect("a cause")), "{plain}");
}
