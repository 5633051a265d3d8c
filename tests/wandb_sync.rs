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
