//! `elastictop sync`, the program itself, against the W&B test server.

#[path = "wandb_server/mod.rs"]
mod wandb_server;

use std::{
    path::Path,
    process::{Command, Output},
};

use elastictop::{
    domain::time::Stamp,
    wandb::log::{
        Batch, Writer,
        record::{Exit, Kind, Run},
    },
};
use wandb_server::{KEY, Server};

const START: Stamp = Stamp(1_795_167_616_000);

/// A finished offline run of so many rows, which begin at a step.
fn write(dir: &Path, id: &str, first: u64, rows: u64, at: Stamp) -> Writer {
    let mut writer = Writer::create(dir, id, at).unwrap();
    let mut batch = Batch::new();
    let run =
        Run { run_id: id.into(), project: "proj".into(), start_time: Some(at.into()), ..Run::default() };
    batch.push(&Kind::Run(Box::new(run))).unwrap();
    for n in first..first + rows {
        let (step, time) = (n.to_string(), format!("{:?}", 1_795_167_616.5 + n as f64));
        batch.row([("_step", step.as_str()), ("_timestamp", &time), ("_runtime", "1.5")]).unwrap();
    }
    batch.push(&Kind::Exit(Exit { exit_code: 0, runtime: 2 })).unwrap();
    writer.append(&batch).unwrap();
    writer
}

fn sync(dir: &Path, url: &str, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_elastictop"));
    let inherited = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WANDB_"));
    inherited.for_each(|(name, _)| _ = command.env_remove(name));
    command.arg("sync").args(args).current_dir(dir);
    command.envs([("WANDB_BASE_URL", url), ("WANDB_API_KEY", KEY), ("HOME", dir.to_str().unwrap())]);
    command.env("ELASTICTOP_DIR", dir.join("elastictop"));
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn runs_on_disk_are_sent_once() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let one = write(dir.path(), "one", 0, 10, START);
    write(dir.path(), "two", 0, 3, START);
    write(dir.path(), "two", 3, 4, Stamp(START.0 + 60_000));
    let (code, said) = sync(dir.path(), &server.url(), &[one.path().to_str().unwrap()]);
    assert_eq!((code, said), (0, format!("one: 10 rows sent  {}/tester/proj/runs/one\n", server.url())));
    let (code, said) = sync(dir.path(), &server.url(), &["wandb"]);
    let url = server.url();
    assert_eq!(code, 0);
    assert_eq!(
        said,
        format!(
            "one: nothing was left to send (10 rows)  {url}/tester/proj/runs/one\n\
             two: 7 rows sent  {url}/tester/proj/runs/two\n"
        )
    );
    let requests = server.store().requests.clone();
    assert_eq!(sync(dir.path(), &server.url(), &["."]).0, 0);
    assert_eq!(server.store().requests, requests, "twice is harmless");
    server.assert_sound();
    let store = server.store();
    let steps: Vec<_> =
        store.runs["tester/proj/two"].rows("").iter().map(|row| row["_step"].as_u64()).collect();
    assert_eq!(steps, (0..7).map(Some).collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_sent_is_said() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let run = |args: &[&str]| sync(dir.path(), &server.url(), args);
    let (code, said) = run(&["."]);
    assert!(code == 2 && said.contains("holds no run: no run-ID.wandb"), "{said}");
    let (code, said) = run(&["nothing-of-that-name"]);
    assert!(code == 3 && said.contains("there is no job \"nothing-of-that-name\""), "{said}");
    write(dir.path(), "one", 0, 2, START);
    server.fail(wandb_server::Fault::once(
        "any",
        wandb_server::What::Status { status: 401, retry_after: None },
    ));
    let (code, said) = run(&["."]);
    assert_eq!(code, 1);
    assert!(
        said.starts_with("one: 0 rows sent, 2 rows left: 127.0.0.1 does not know the API key (401)"),
        "{said}"
    );
    assert!(!said.contains(KEY));
}

/// Runs a job of two ranks offline, each with five rows and a run of its own.
fn away(dir: &Path, server: &Server) -> Output {
    std::fs::write(dir.join("rank.sh"), "for n in 1 2 3 4 5; do echo \"{\\\"loss\\\": 0.$n}\"; done\n")
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_elastictop"));
    let inherited = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WANDB_"));
    inherited.for_each(|(name, _)| _ = command.env_remove(name));
    command.args(["run", "--launcher", "local", "--nproc-per-node", "2", "--max-restarts", "0", "--wait"]);
    command.args([
        "--name",
        "away",
        "--wandb-mode",
        "offline",
        "--wandb-project",
        "proj",
        "--wandb-base",
        "base",
    ]);
    command.args(["--run-mode", "new", "--no-python", "sh", "rank.sh"]).current_dir(dir);
    command.env("ELASTICTOP_DIR", dir.join("elastictop")).env("WANDB_BASE_URL", server.url());
    command.env("HOME", dir);
    command.output().unwrap()
}

/// A job that ran offline is sent later, by its name or its folder, and only once.
#[test]
fn a_job_that_was_offline_is_sent() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let output = away(dir.path(), &server);
    assert!(server.store().requests.is_empty(), "offline");

    let (code, said) = sync(dir.path(), &server.url(), &["away"]);
    assert_eq!(code, 0, "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.lines().filter(|line| line.contains("5 rows sent")).count(), 2, "{said}");
    let requests = server.store().requests.clone();
    let job = std::fs::read_dir(dir.path().join("elastictop/jobs")).unwrap().next().unwrap().unwrap().path();
    let (code, said) = sync(dir.path(), &server.url(), &[job.to_str().unwrap()]);
    assert_eq!((code, said.matches("nothing was left to send (5 rows)").count()), (0, 2), "{said}");
    assert_eq!(server.store().requests, requests);
    server.assert_sound();
    let store = server.store();
    assert_eq!(store.runs.len(), 2);
    for run in store.runs.values() {
        let losses: Vec<_> = run.rows("").iter().map(|row| row["loss"].as_f64().unwrap()).collect();
        assert_eq!(losses, [0.1, 0.2, 0.3, 0.4, 0.5]);
        assert!(run.complete && run.exit_code == Some(0), "{:?}", run.exit_code);
    }
}

/// The record of what was forwarded may be damaged or gone: what was written counts, of a job that is over.
#[test]
fn rows_are_found_whatever_became_of_the_record_of_them() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    away(dir.path(), &server);
    let job = std::fs::read_dir(dir.path().join("elastictop/jobs")).unwrap().next().unwrap().unwrap().path();
    let record = job.join("wandb/cursor.jsonl");
    let whole = std::fs::read(&record).unwrap();
    let (name, rm) = (job.file_name().unwrap().to_str().unwrap(), env!("CARGO_BIN_EXE_elastictop"));
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for damaged in [&b""[..], b"garbage\n", &whole[..first]] {
        std::fs::write(&record, damaged).unwrap();
        let mut command = Command::new(rm);
        command.args(["rm", name]).env("ELASTICTOP_DIR", dir.path().join("elastictop"));
        let Output { status, stderr, .. } = command.output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        assert!(status.code() == Some(1) && said.contains("10 rows never got to W&B"), "{said}");
    }
    std::fs::remove_file(&record).unwrap();
    let (code, said) = sync(dir.path(), &server.url(), &["away"]);
    assert_eq!((code, said.matches("5 rows sent").count()), (0, 2), "{said}");
    server.assert_sound();
    let store = server.store();
    assert!(store.runs.len() == 2 && store.runs.values().all(|run| run.rows("").len() == 5));
}
