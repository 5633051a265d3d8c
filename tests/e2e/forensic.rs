//! Finding out why a job hangs: stacks, flight recorders, the bundle.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::harness::{Job, Lab, PATIENCE, script, wait_until};

/// A key as W&B has them, in the environment, on the command line and in the log.
const KEY: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567";
/// A secret that looks like nothing.
const WORD: &str = "correct horse-battery \"staple\"";

/// Three ranks that all-reduce until rank 1 does not come any more.
fn hang<'a>(lab: &'a Lab, mode: &str) -> Job<'a> {
    // Steps long enough for the second in which the rank's server starts.
    let length = if mode == "gil" { "1000" } else { "0" };
    let args = ["--nproc-per-node", "3", &script("hang.py"), "--step", "3", "--step-ms", length];
    let args = [&args[..], &["--mode", mode, "--api-key", KEY]].concat();
    let job = lab.start_with("hang", &args, &[("WANDB_API_KEY", KEY), ("MY_SECRET", WORD)]);
    job.wait_for_lines(&[], &format!("rank 1 hangs: {mode}"), 1);
    job
}

fn stacks(job: &Job, args: &[&str]) -> Value {
    let text = job.lab.must(&[&["stacks", &job.id, "--json"], args].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn diagnose(job: &Job) -> Option<Value> {
    let (code, text, _) = job.lab.run(&["diagnose", &job.id, "--json"]);
    let told: Value = serde_json::from_str(&text).ok()?;
    (code == 1).then_some(told)
}

#[test]
fn every_way_to_read_stacks_names_the_odd_rank() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = hang(&lab, "sleep");
    let has_py_spy = lab.python().parent().is_some_and(|bin| bin.join("py-spy").exists());
    for way in ["py-spy", "server", "thread"].into_iter().skip(usize::from(!has_py_spy)) {
        let told = wait_until(&format!("stacks by {way}"), PATIENCE, || {
            let told = stacks(&job, &["--by", way]);
            let odd = &told["groups"][0];
            let waiting = &told["groups"][1];
            (odd["ranks"] == serde_json::json!([1]) && waiting["ranks"] == serde_json::json!([0, 2]))
                .then_some(told)
        });
        let odd = &told["groups"][0];
        assert_eq!((&odd["source"], &odd["in_collective"]), (&way.into(), &false.into()), "{told}");
        assert!(odd["line"].as_str().unwrap().starts_with("wait_to_be_ended ← "), "{told}");
        let waiting = &told["groups"][1];
        assert!(waiting["line"].as_str().unwrap().contains("all_reduce ← hang.py"), "{told}");
        assert_eq!(waiting["in_collective"], true);
    }
    // Told to everybody who watches, after the effect.
    let outcome = job.events_of("command").pop().expect("a command").to_string();
    assert!(outcome.contains("rank 1: wait_to_be_ended"), "{outcome}");
    let of_one = stacks(&job, &["--rank", "0"]);
    assert_eq!(of_one["groups"][0]["ranks"], serde_json::json!([0]));
    assert!(of_one["threads"].as_array().is_some_and(|threads| !threads.is_empty()));
    assert!(lab.run(&["stacks", &job.id, "--rank", "9"]).2.contains("no living rank 9"));
    job.stop();
}

#[test]
fn a_rank_that_holds_the_lock_is_found_without_it() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = hang(&lab, "gil");
    let told = wait_until("a diagnosis", PATIENCE, || diagnose(&job));
    let first = &told["findings"][0];
    assert_eq!(
        (&first["kind"], &first["ranks"]),
        (&"missing_ranks".into(), &serde_json::json!([1])),
        "{told}"
    );
    assert_eq!(told["dumped"], serde_json::json!([0, 1, 2]), "rank 1's C++ threads answer");
    let silent = stacks(&job, &["--by", "thread"]);
    assert_eq!(silent["failed"][0]["ranks"], serde_json::json!([1]), "{silent}");
    job.stop();
}

/// The files of a bundle by their paths without the job's folder.
fn unpack(path: &Path) -> BTreeMap<String, String> {
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(File::open(path).expect("a bundle")));
    let mut files = BTreeMap::new();
    for entry in tar.entries().expect("a tar file") {
        let mut entry = entry.expect("an entry");
        let name =
            entry.path().expect("a path").components().skip(1).collect::<PathBuf>().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        files.insert(name, text);
    }
    files
}

fn bundle(job: &Job, name: &str) -> BTreeMap<String, String> {
    let path = job.lab.path(name);
    let said = job.lab.must(&["bundle", &job.id, "-o", &path]);
    assert!(said.starts_with(&path), "{said}");
    let files = unpack(Path::new(&path));
    for (file, text) in &files {
        assert!(!text.contains(KEY), "{file} holds the key");
        assert!(files["README.txt"].contains(file) || file == "README.txt", "{file} is not listed");
    }
    files
}

#[test]
fn a_bundle_tells_all_but_secrets() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = hang(&lab, "sleep");
    wait_until("a diagnosis", PATIENCE, || diagnose(&job));
    assert!(job.logs(&[]).contains("the key is "), "the script told its key");
    let files = bundle(&job, "live.tar.gz");
    for (file, text) in [
        ("status.json", "\"state\": \"running\""),
        ("events.txt", "hang"),
        ("journal.jsonl", "\"kind\":\"job_started\""),
        ("stacks.txt", "1 × wait_to_be_ended"),
        ("diagnosis.txt", "rank 1 has not called all_reduce #4 of the default group; ranks 0, 2 wait in it"),
        ("flight-now/rank_0.json", "gloo:all_reduce"),
        ("versions.txt", "torch 2"),
        ("environment/rank_1.txt", "WANDB_API_KEY=[hidden]"),
        ("environment/rank_1.txt", "--api-key [hidden]"),
        ("environment/rank_1.txt", "RANK=1"),
    ] {
        let found = files.get(file).unwrap_or_else(|| panic!("{file} is missing in {:?}", files.keys()));
        assert!(found.contains(text), "{text:?} is not in {file}: {found}");
    }
    let log = files.iter().find(|(name, _)| name.starts_with("logs/rank_1.") && name.ends_with("stdout.log"));
    assert!(log.expect("the log of rank 1").1.contains("the key is [hidden]"));
    for (file, text) in &files {
        assert!(!text.contains("horse-battery"), "{file} holds the other secret");
    }
    // The environment of a job that is over is gone: what looks like a key goes all the same.
    job.stop();
    job.wait_for_end();
    let files = bundle(&job, "ended.tar.gz");
    assert!(files["verdict.txt"].contains("stopped") || files["status.json"].contains("stopped"));
    assert!(files.values().any(|text| text.contains("the key is [hidden]")));
}

#[test]
fn secrets_of_a_job_that_is_over_stay_hidden() {
    let lab = Lab::new();
    let told = "echo key $DB_PASSWORD; echo option \"$1\"; echo end $DB_PASSWORD >&2; exit 3";
    let args = [
        "--launcher",
        "local",
        "--max-restarts",
        "0",
        "--no-python",
        "sh",
        "-c",
        told,
        "--token",
        "TokSecretArg55",
    ];
    let job = lab.start_with("over", &args, &[("DB_PASSWORD", "hunter2SuperPw")]);
    job.wait_for_end();
    let kept = fs::read_to_string(job.dir().join("secrets.json")).expect("what is kept of them");
    lab.must(&["export", &job.id, "-o", &lab.path("over.etrec")]);
    let mut recording = String::new();
    let packed = fs::File::open(lab.path("over.etrec")).expect("a recording");
    flate2::read::MultiGzDecoder::new(packed).read_to_string(&mut recording).expect("lines");
    let logs = job.logs(&[]);
    assert!(logs.contains("key [hidden]") && logs.contains("option [hidden]"), "{logs}");
    let bundled: String = bundle(&job, "over.tar.gz").into_values().collect();
    assert!(bundled.contains("key [hidden]") && recording.contains("key [hidden]"), "{bundled}");
    let (_, screen, _) = lab.run(&["attach", "--plain", &job.id]);
    for text in [&kept, &recording, &logs, &bundled, &screen] {
        assert!(!text.contains("hunter2SuperPw") && !text.contains("TokSecretArg55"), "{text}");
    }
    // A device is no file to be replaced.
    let (code, _, err) = lab.run(&["export", &job.id, "-o", "/dev/null"]);
    assert!(code == 2 && err.contains("/dev/null is no regular file"), "{err}");
}

/// Dumps that real torch wrote.
fn dumps(story: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flight").join(story);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("dumps")
        .map(|file| file.expect("a file").path().display().to_string())
        .collect();
    files.retain(|file| !file.ends_with(".json"));
    files.sort();
    files
}

fn diagnose_files(lab: &Lab, files: &[String], more: &[&str]) -> (i32, String, String) {
    let mut args = vec!["diagnose"];
    args.extend(files.iter().map(String::as_str));
    args.extend(more);
    lab.run(&args)
}

#[test]
fn dump_files_are_diagnosed_without_a_job() {
    let lab = Lab::new();
    let (code, out, _) = diagnose_files(&lab, &dumps("op"), &[]);
    assert_eq!(code, 1);
    assert!(
        out.starts_with(
            "rank 1 calls broadcast as #2 of the default group, where ranks 0, 2 call all_reduce\n"
        ),
        "{out}"
    );
    let (code, out, _) = diagnose_files(&lab, &dumps("healthy"), &[]);
    assert_eq!((code, out.lines().next()), (0, Some("nothing is wrong between ranks 0-2")));
    let (code, out, _) = diagnose_files(&lab, &dumps("chain"), &["--json"]);
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (code, &told["schema"], &told["findings"][0]["ranks"]),
        (1, &1.into(), &serde_json::json!([2]))
    );
    // Two of three ranks, with the number of all.
    let (code, out, _) = diagnose_files(&lab, &dumps("missing")[1..], &["--world-size", "3"]);
    assert_eq!(code, 1);
    assert!(out.starts_with("rank 1 has not called all_reduce #4"), "{out}");
    assert!(out.contains("no dump of rank 0"), "{out}");
    let bad = lab.path("rank_0");
    fs::write(&bad, b"\x80\x02cos\nsystem\nX\x01\0\0\0x\x85R.").expect("a file");
    let (code, out, _) = diagnose_files(&lab, &[bad], &[]);
    assert_eq!(code, 2);
    assert!(out.contains("is not for plain data"), "{out}");
    assert_eq!(lab.run(&["diagnose", "no-such-job"]).0, 3);
}
