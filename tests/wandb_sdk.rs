//! W&B's own SDK against the test server, which proves the server, and the SDK's files sent by elastictop, which proves
//! the sender. Needs `.venv` with wandb in it.

#[path = "wandb_server/mod.rs"]
mod wandb_server;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use elastictop::wandb::{
    client::Client,
    credentials::ApiKey,
    upload::{Job, Uploads},
};
use serde_json::{Value, json};
use wandb_server::{KEY, Run, Server};

const PATIENCE: Duration = Duration::from_secs(120);

/// The interpreter with the SDK; `None`, with a word, where there is none and none must be.
fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    if root.join(".venv/bin/wandb").exists() {
        return Some(python);
    }
    let must = std::env::var("ELASTICTOP_TEST_TORCH").is_ok_and(|value| value == "1");
    assert!(!must, "no wandb in .venv");
    println!("no wandb in .venv: skipped");
    None
}

struct Sdk<'a> {
    python: PathBuf,
    server: &'a Server,
    dir: &'a Path,
}

impl Sdk<'_> {
    fn start(&self, run: &str, rows: u32, code: i32, more: &[(&str, &str)]) -> Child {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/wandb_log.py");
        let mut command = Command::new(&self.python);
        let inherited = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WANDB_"));
        inherited.for_each(|(name, _)| _ = command.env_remove(name));
        command
            .arg(script)
            .args([rows.to_string(), code.to_string()])
            .current_dir(self.dir)
            .envs([
                ("WANDB_BASE_URL", self.server.url().as_str()),
                ("WANDB_API_KEY", KEY),
                ("WANDB_PROJECT", "proj"),
                ("WANDB_RUN_ID", run),
                ("WANDB_RUN_GROUP", "grp"),
                ("WANDB_SILENT", "true"),
                ("WANDB_ERROR_REPORTING", "false"),
                ("WANDB_X_DISABLE_STATS", "true"),
                ("HOME", self.dir.to_str().unwrap()),
            ])
            .envs(more.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .expect("python starts")
    }

    fn run(&self, run: &str, rows: u32, code: i32, more: &[(&str, &str)]) {
        finish(self.start(run, rows, code, more));
    }
}

fn finish(mut child: Child) {
    let until = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return assert!(status.success(), "{status}"),
            None if Instant::now() > until => {
                let _ = child.kill();
                panic!("the SDK does not come to an end");
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Rows without the times, which differ.
fn rows(run: &Run, client: &str) -> Vec<Value> {
    let mut rows = run.rows(client);
    rows.iter_mut().for_each(|row| ["_timestamp", "_runtime"].iter().for_each(|key| _ = row.remove(*key)));
    rows.into_iter().map(Value::Object).collect()
}

fn expected(rows: u32, from: u32) -> Vec<Value> {
    let row = |n: u32| json!({"loss": f64::from(n) + 0.5, "epoch": n, "d": {"x": n}, "nan": null, "_step": n + from});
    (0..rows).map(row).collect()
}

fn config(run: &Run) -> Value {
    let own = run.config.iter().filter(|(key, _)| *key != "_wandb");
    own.map(|(key, value)| (key.clone(), value["value"].clone())).collect()
}

#[test]
fn the_sdk_passes_and_what_it_logs_arrives() {
    let Some(python) = python() else { return };
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let sdk = Sdk { python, server: &server, dir: dir.path() };
    sdk.run("new1", 40, 3, &[]);
    server.assert_sound();
    {
        let store = server.store();
        let run = &store.runs["tester/proj/new1"];
        assert_eq!(rows(run, ""), expected(40, 0));
        assert_eq!((run.complete, run.exit_code, run.group.as_deref()), (true, Some(3), Some("grp")));
        assert_eq!(config(run), json!({"lr": 0.1, "opt": {"name": "adam"}, "late": [1, 2]}));
        assert_eq!((&run.summary["epoch"], &run.summary["_step"]), (&json!(39), &json!(39)));
        assert!(run.files["output.log"].contains("a line of the console"));
    }
    sdk.run("new1", 10, 0, &[("WANDB_RESUME", "allow")]);
    server.assert_sound();
    let store = server.store();
    let run = &store.runs["tester/proj/new1"];
    assert_eq!(rows(run, "")[40..], expected(10, 40));
    assert_eq!(run.exit_code, Some(0));
}

#[test]
fn two_sdks_share_a_run() {
    let Some(python) = python() else { return };
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let sdk = Sdk { python, server: &server, dir: dir.path() };
    let shared = |rank: &'static str, primary: &'static str| {
        [
            ("WANDB_MODE", "shared"),
            ("WANDB_X_LABEL", rank),
            ("WANDB_X_PRIMARY", primary),
            ("WANDB_X_UPDATE_FINISH_STATE", primary),
        ]
    };
    let second = sdk.start("both", 30, 0, &shared("rank1", "false"));
    finish(second);
    assert!(!server.store().runs["tester/proj/both"].complete);
    sdk.run("both", 20, 5, &shared("rank0", "true"));
    server.assert_sound();
    let store = server.store();
    let run = &store.runs["tester/proj/both"];
    assert_eq!((run.clients.len(), run.history_lines()), (2, 50));
    assert_eq!((run.complete, run.exit_code), (true, Some(5)));
}

/// The same script, sent by the SDK and by elastictop from the SDK's offline file.
#[test]
fn elastictop_sends_what_the_sdk_would_have_sent() {
    let Some(python) = python() else { return };
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let sdk = Sdk { python, server: &server, dir: dir.path() };
    sdk.run("online", 25, 4, &[]);
    sdk.run("offline", 25, 4, &[("WANDB_MODE", "offline")]);
    let found = std::fs::read_dir(dir.path().join("wandb")).unwrap().map(|entry| entry.unwrap().path());
    let folder = found.into_iter().find(|path| path.to_string_lossy().contains("offline-run-")).unwrap();
    let client = Client::new(&server.url(), &ApiKey::new(KEY).unwrap()).unwrap();
    let uploads = Uploads::start(client).unwrap();
    drop(uploads.begin(Job::of(vec![folder.join("run-offline.wandb")])));
    assert!(uploads.finish(PATIENCE));
    server.assert_sound();
    let store = server.store();
    let [one, two] = ["online", "offline"].map(|name| &store.runs[&format!("tester/proj/{name}")]);
    assert_eq!(rows(one, ""), rows(two, ""));
    assert_eq!(config(one), config(two));
    assert_eq!(one.config["_wandb"]["value"]["m"], two.config["_wandb"]["value"]["m"]);
    assert_eq!((one.exit_code, one.complete, &one.group), (two.exit_code, two.complete, &two.group));
    let keys = |run: &Run| run.summary.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(one), keys(two));
    assert_eq!(one.summary["loss"], two.summary["loss"]);
    let lines = |run: &Run| run.clients[""].console.lines.len();
    assert_eq!(lines(one), lines(two));
    let files = |run: &Run| run.files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(files(one), files(two));
}
