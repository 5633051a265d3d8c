//! Runs that arrive, of every kind.

use elastictop::{
    domain::forward::RunState,
    wandb::{
        log::record::{Changes, Environment, Kind, Metric},
        upload::{Job, Sharing},
    },
};
use serde_json::{Value, json};

use crate::{
    harness::*,
    wandb_server::{self, Server},
};

#[test]
fn a_whole_run_arrives() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let mut log = Log::new(dir.path());
    log.push(Kind::Metric(Metric {
        name: "loss".into(),
        step_metric: "_timestamp".into(),
        ..Metric::default()
    }));
    log.push(Kind::Environment(Box::new(Environment {
        host: "h".into(),
        cpu_count: 2,
        ..Environment::default()
    })));
    log.rows(100);
    log.push(Kind::Config(Changes::of([(["epochs"], "3")])));
    log.console("hello\nhalf", "");
    log.console("from rank 1\n", "rank1");
    log.stats("55.5");
    log.console(" a line\nnever ended", "");
    log.exit(3);
    let progress = send(&server, log.job());
    server.assert_sound();
    assert_eq!(progress.run.state, RunState::Finished);
    assert_eq!((progress.run.rows_acked, progress.run.rows_lost), (100, 0));
    assert_eq!(progress.run.link, Some(format!("{}/tester/proj/runs/run1", server.url())));
    assert!(progress.run.last_ack_at.is_some() && !progress.stopped);

    let store = server.store();
    let run = &store.runs[&key("run1")];
    assert_steps(run, 100);
    assert_eq!((run.complete, run.exit_code), (true, Some(3)));
    assert_eq!(Value::Object(values(run)), json!({"lr": 0.1, "opt": {"name": "adam"}, "epochs": 3}));
    let own = &run.config["_wandb"]["value"];
    assert_eq!(own["t"]["5"], "0.31.0");
    assert_eq!(
        own["m"],
        json!([{"1": "loss", "5": 2, "6": [], "7": []}, {"1": "_timestamp", "6": [], "7": []}])
    );
    assert_eq!(
        Value::Object(run.summary.clone()),
        json!({
            "loss": 0.01, "_step": 99, "_timestamp": 1_795_167_715.5, "_runtime": 99, "_wandb": {"runtime": 99},
        })
    );
    assert_eq!((run.group.as_deref(), run.display_name.as_deref()), (Some("grp"), Some("shown")));
    assert_eq!(run.tags, ["tag"]);
    let of = &run.clients[""];
    let event: Value = serde_json::from_str(&of.events.lines[0]).unwrap();
    assert_eq!(
        event,
        json!({
            "_wandb": true, "_timestamp": 1_795_167_626.5, "_runtime": 10.5, "system.gpu.0.gpu/l:rank0": 55.5,
        })
    );
    let console: Vec<Value> =
        of.console.lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<_> = console.iter().map(|line| line["content"].as_str().unwrap()).collect();
    assert_eq!(texts, ["hello", "from rank 1", "half a line", "never ended"]);
    assert_eq!(console[1]["label"], "rank1");
    assert_eq!(run.files["output.log"], "hello\n[rank1] from rank 1\nhalf a line\nnever ended\n");
    assert!(run.files["config.yaml"].contains("\"lr\":\n    value: 0.1\n"));
    assert_eq!(
        serde_json::from_str::<Value>(&run.files["wandb-metadata.json"]).unwrap(),
        json!({"host": "h", "cpu_count": 2})
    );
    assert!(run.files.contains_key("wandb-summary.json"));
    assert_eq!(run.uploaded.len(), 4);
}

#[test]
fn sending_twice_sends_once() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let mut log = Log::new(dir.path());
    log.rows(10);
    log.exit(0);
    send(&server, log.job());
    let requests = server.store().requests.clone();
    assert_eq!(send(&server, log.job()).run.state, RunState::Finished);
    assert_eq!(server.store().requests, requests, "nothing is asked when nothing is left");

    // Without the cursor the server is asked what it has.
    std::fs::remove_file(log.job().cursor).unwrap();
    send(&server, log.job());
    server.assert_sound();
    let store = server.store();
    assert_steps(&store.runs[&key("run1")], 10);
    assert_eq!(store.runs[&key("run1")].clients[""].history.repeated, 0);
}

/// Without its cursor, and with rows of an earlier job before its own.
#[test]
fn a_lost_cursor_costs_no_row_and_doubles_none() {
    let (dir, other, server) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Server::start());
    let mut first = Log::new(dir.path());
    first.rows(5);
    send(&server, first.job());
    let mut second = Log::of(other.path(), "run1", true);
    second.rows = 50;
    second.rows(5);
    second.console("one\n", "");
    second.rows(1);
    send(&server, second.job());
    std::fs::remove_file(second.job().cursor).unwrap();
    second.console("two\n", "");
    second.rows(3);
    second.exit(0);
    let progress = send(&server, second.job());
    server.assert_sound();
    assert_eq!(progress.run.rows_acked, 9);
    let store = server.store();
    let run = &store.runs[&key("run1")];
    let steps: Vec<_> = run.rows("").iter().map(|row| row["_step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (0..5).chain(50..59).collect::<Vec<_>>());
    assert_eq!(run.clients[""].console.lines.len(), 2);
    assert!(run.complete);
}

/// Documents that no other test sends too.
#[test]
fn every_document_fits_the_schema() {
    let schema = wandb_server::graphql::Schema::read();
    for document in elastictop::wandb::client::documents::ALL {
        let variables = match document.name {
            "RunResumeStatus" | "UpsertBucket" => json!({"name": "r"}),
            "CreateRunFiles" => json!({"entity": "e", "project": "p", "run": "r", "files": ["f"]}),
            _ => json!({}),
        };
        let body =
            |text: &str| json!({"query": text, "operationName": document.name, "variables": variables});
        schema.check(&body(document.text)).unwrap_or_else(|why| panic!("{}: {why}", document.name));
        // The check can fail.
        let wrong = document.text.replacen("name", "nom", 2).replacen("username", "nom", 1);
        assert!(schema.check(&body(&wrong)).is_err(), "{}", document.name);
    }
}

#[test]
fn a_run_of_an_earlier_job_goes_on() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let mut first = Log::new(dir.path());
    first.rows(7);
    first.push(Kind::Config(Changes::of([(["old"], "1")])));
    first.stats("1");
    first.console("one\n", "");
    first.exit(1);
    send(&server, first.job());

    let other = tempfile::tempdir().unwrap();
    let mut second = Log::of(other.path(), "run1", true);
    second.push(Kind::Config(Changes::of([(["lr"], "0.2")])));
    second.rows = 100;
    second.rows(3);
    second.rows = 0;
    second.stats("2");
    second.console("two\n", "");
    second.exit(0);
    send(&server, second.job());
    server.assert_sound();
    let store = server.store();
    let run = &store.runs[&key("run1")];
    let steps: Vec<_> = run.rows("").iter().map(|row| row["_step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 1, 2, 3, 4, 5, 6, 100, 101, 102], "steps that go on by themselves stay");
    assert_eq!((run.clients[""].events.lines.len(), run.clients[""].console.lines.len()), (2, 2));
    assert_eq!(Value::Object(values(run)), json!({"lr": 0.2, "opt": {"name": "adam"}, "old": 1}));
    assert_eq!(run.exit_code, Some(0));
}

#[test]
fn steps_that_begin_anew_are_shifted_behind_those_of_an_earlier_job() {
    let (dir, other, server) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Server::start());
    let mut first = Log::new(dir.path());
    first.rows(5);
    first.exit(0);
    send(&server, first.job());
    let mut second = Log::of(other.path(), "run1", true);
    // Other rows than the first job's: a time apart.
    second.push(Kind::History(elastictop::wandb::log::record::History::of([
        (["loss"], "0.5"),
        (["_step"], "0"),
        (["_timestamp"], "1795167999.5"),
        (["_runtime"], "1.5"),
    ])));
    second.exit(0);
    send(&server, second.job());
    server.assert_sound();
    let store = server.store();
    let rows = store.runs[&key("run1")].rows("");
    assert_eq!((&rows[5]["_step"], &rows[5]["_runtime"]), (&json!(5), &json!(6.0)), "4.5 s ran before");
}

#[test]
fn a_run_goes_on_in_another_file_after_its_end() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let mut log = Log::new(dir.path());
    let uploads = uploads(&server);
    let upload = uploads.begin(log.job());
    upload.grew(log.rows(5));
    upload.grew(log.exit(0));
    wait(&upload, "the end is said", |progress| progress.run.state == RunState::Finished);
    assert!(server.store().runs[&key("run1")].complete);
    let next = log.next_segment();
    upload.add_segment(next, log.rows(5));
    wait(&upload, "more rows", |progress| progress.run.rows_acked == 10);
    assert!(!server.store().runs[&key("run1")].complete);
    upload.grew(log.exit(4));
    upload.close();
    wait(&upload, "all is sent", |progress| progress.over);
    server.assert_sound();
    let store = server.store();
    assert_steps(&store.runs[&key("run1")], 10);
    assert_eq!(store.runs[&key("run1")].exit_code, Some(4));
}

#[test]
fn two_nodes_share_a_run() {
    let server = Server::start();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut logs: Vec<_> = dirs.iter().map(|dir| Log::of(dir.path(), "shared1", false)).collect();
    let of = |primary| Some(Sharing { primary, completes: primary });
    logs[1].rows(30);
    logs[1].console("two\n", "rank2");
    logs[1].exit(0);
    let second = send(&server, Job { sharing: of(false), ..logs[1].job() });
    assert_eq!(second.run.state, RunState::Finished, "all it has to say");
    {
        let store = server.store();
        let run = &store.runs[&key("shared1")];
        assert!(!run.complete && run.files.is_empty() && run.config.is_empty(), "that is the primary's");
        assert_eq!(run.history_lines(), 30);
    }
    logs[0].rows(20);
    logs[0].exit(5);
    send(&server, Job { sharing: of(true), ..logs[0].job() });
    server.assert_sound();
    let store = server.store();
    let run = &store.runs[&key("shared1")];
    assert_eq!((run.complete, run.exit_code, run.history_lines()), (true, Some(5), 50));
    assert_eq!(run.clients.len(), 2);
    assert_eq!(values(run)["lr"], 0.1);
    let starts: Vec<_> = run.clients.values().map(|client| client.history.start).collect();
    assert!(starts.contains(&0) && starts.contains(&30), "{starts:?}");
}

#[test]
fn rows_arrive_as_they_are_logged_and_the_first_at_once() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let mut log = Log::new(dir.path());
    let uploads = uploads(&server);
    let upload = uploads.begin(log.job());
    for n in 1..=4 {
        upload.grew(log.rows(10));
        wait(&upload, "the rows", |progress| progress.run.rows_acked == n * 10);
    }
    let times = server.store().stream_times.clone();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 500), "two a second at most: {times:?}");
    drop(upload);
    assert!(uploads.finish(PATIENCE));
    server.assert_sound();
}
