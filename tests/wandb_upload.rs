//! Runs are sent from their files to a W&B server that fails in every way it can.

#[path = "wandb_server/mod.rs"]
mod wandb_server;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use elastictop::{
    domain::{
        forward::{RunState, retry::Backoff},
        time::Stamp,
    },
    wandb::{
        client::Client,
        credentials::ApiKey,
        log::{
            Batch, Writer,
            record::{Changes, Environment, Exit, Kind, Metric, Output, Run as RunRecord, Stats, Timestamp},
        },
        upload::{Cursor, Job, Progress, Sharing, Upload, Uploads},
    },
};
use serde_json::{Map, Value, json};
use wandb_server::{ENTITY, Fault, KEY, Run, Server, What};

const PATIENCE: Duration = Duration::from_secs(60);
const START: Stamp = Stamp(1_795_167_616_000);

/// A run's files, written as the supervisor writes them.
struct Log {
    writer: Writer,
    rows: u64,
    segments: Vec<PathBuf>,
    dir: PathBuf,
}

impl Log {
    fn new(dir: &Path) -> Log {
        Log::of(dir, "run1", false)
    }

    fn of(dir: &Path, id: &str, resume: bool) -> Log {
        Log::in_entity(dir, id, resume, "")
    }

    fn in_entity(dir: &Path, id: &str, resume: bool, entity: &str) -> Log {
        let writer = Writer::create(dir, id, START).unwrap();
        let segments = vec![writer.path().to_owned()];
        let mut log = Log { writer, rows: 0, segments, dir: dir.to_owned() };
        log.begin(id, resume, entity);
        log
    }

    fn begin(&mut self, id: &str, resume: bool, entity: &str) {
        let run = RunRecord {
            run_id: id.into(),
            entity: entity.into(),
            project: "proj".into(),
            run_group: "grp".into(),
            display_name: "shown".into(),
            tags: vec!["tag".into()],
            config: Some(Changes::of([(vec!["lr"], "0.1"), (vec!["opt", "name"], "\"adam\"")])),
            start_time: Some(START.into()),
            resume,
            ..RunRecord::default()
        };
        self.push(Kind::Run(Box::new(run)));
    }

    /// The same run in another file.
    fn next_segment(&mut self) -> PathBuf {
        self.writer = Writer::create(&self.dir, "run1", START).unwrap();
        self.segments.push(self.writer.path().to_owned());
        self.begin("run1", true, "");
        self.writer.path().to_owned()
    }

    fn push(&mut self, kind: Kind) -> u64 {
        let mut batch = Batch::new();
        batch.push(&kind).unwrap();
        self.writer.append(&batch).unwrap()
    }

    fn rows(&mut self, count: u64) -> u64 {
        let mut batch = Batch::new();
        for n in self.rows..self.rows + count {
            let (loss, step) = (format!("{:?}", 1.0 / (n as f64 + 1.0)), n.to_string());
            let (at, runtime) =
                (format!("{:?}", 1_795_167_616.5 + n as f64), format!("{:?}", 0.5 + n as f64));
            let row = [
                ("loss", loss.as_str()),
                ("n\"an", "NaN"),
                ("_step", &step),
                ("_timestamp", &at),
                ("_runtime", &runtime),
            ];
            batch.row(row).unwrap();
        }
        self.rows += count;
        let last = Changes::of([(["loss"], format!("{:?}", 1.0 / self.rows as f64).as_str())]);
        batch.push(&Kind::Summary(last)).unwrap();
        self.writer.append(&batch).unwrap()
    }

    fn console(&mut self, text: &str, label: &str) -> u64 {
        let (output_type, timestamp) = (Output::STDOUT, Some(START.into()));
        self.push(Kind::Output(Output { output_type, timestamp, line: text.into(), label: label.into() }))
    }

    fn stats(&mut self, value: &str) -> u64 {
        let timestamp = Some(Timestamp { seconds: 1_795_167_626, nanos: 500_000_000 });
        let items = Changes::of([(["gpu.0.gpu/l:rank0"], value)]).update;
        self.push(Kind::Stats(Stats { stats_type: 0, timestamp, items }))
    }

    fn exit(&mut self, exit_code: i32) -> u64 {
        self.push(Kind::Exit(Exit { exit_code, runtime: 20 }))
    }

    fn job(&self) -> Job {
        let backoff = Backoff { min: Duration::from_millis(20), max: Duration::from_millis(200) };
        Job { backoff, ..Job::of(self.segments.clone()) }
    }
}

fn client(server: &Server) -> Client {
    Client::new(&server.url(), &ApiKey::new(KEY).unwrap()).unwrap()
}

fn uploads(server: &Server) -> Uploads {
    Uploads::start(client(server)).unwrap()
}

/// Sends all that is there; gives how far it came.
fn send(server: &Server, job: Job) -> Progress {
    let uploads = uploads(server);
    let upload = uploads.begin(job);
    upload.close();
    let progress = wait(&upload, "all is sent", |progress| progress.over);
    assert!(uploads.finish(PATIENCE));
    progress
}

fn wait(upload: &Upload, what: &str, holds: impl Fn(&Progress) -> bool) -> Progress {
    let until = Instant::now() + PATIENCE;
    loop {
        let progress = upload.progress();
        if holds(&progress) {
            return progress;
        }
        assert!(Instant::now() < until, "{what}: not within a minute: {progress:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn key(run: &str) -> String {
    format!("{ENTITY}/proj/{run}")
}

#[track_caller]
fn assert_steps(run: &Run, count: u64) {
    let steps: Vec<_> = run.rows("").iter().map(|row| row["_step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (0..count).collect::<Vec<_>>());
}

fn values(run: &Run) -> Map<String, Value> {
    run.config
        .iter()
        .filter(|(key, _)| *key != "_wandb")
        .map(|(k, v)| (k.clone(), v["value"].clone()))
        .collect()
}

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

/// Each fault, on each kind of request, and every row arrives once.
#[test]
fn every_fault_is_survived() {
    let retry_after = |status, after: &str| What::Status { status, retry_after: Some(after.into()) };
    let faults = [
        What::Status { status: 500, retry_after: None },
        What::Status { status: 502, retry_after: None },
        What::Status { status: 408, retry_after: None },
        retry_after(429, "0.3"),
        retry_after(503, "Fri, 20 Nov 2026 09:41:00 GMT"),
        What::DropBefore,
        What::DropAfter,
        What::Slow { ms: 300 },
        What::Down { ms: 1500 },
        What::RateLimit { remaining: 1000.0, reset: 10.0 },
    ];
    let servers: Vec<_> = faults
        .into_iter()
        .map(|what| {
            let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
            for on in
                ["ServerFeatures", "RunResumeStatus", "UpsertBucket", "file_stream", "CreateRunFiles", "PUT"]
            {
                server.fail(Fault::once(on, what.clone()).times(2));
            }
            let mut log = Log::new(dir.path());
            log.rows(50);
            log.console("x\n", "");
            let uploads = uploads(&server);
            let upload = uploads.begin(log.job());
            (dir, server, log, uploads, upload, what)
        })
        .collect();
    for (_dir, server, mut log, uploads, upload, what) in servers {
        wait(&upload, "the first rows", |progress| progress.run.rows_acked == 50);
        upload.grew(log.rows(50));
        upload.grew(log.exit(2));
        drop(upload);
        assert!(uploads.finish(PATIENCE), "{what:?}");
        server.assert_sound();
        let store = server.store();
        assert!(store.faults > 0);
        let run = &store.runs[&key("run1")];
        assert_steps(run, 100);
        assert_eq!((run.complete, run.exit_code, run.files.len()), (true, Some(2), 3), "{what:?}");
    }
}

#[test]
fn retry_after_is_waited_for_and_shown() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    server.fail(Fault::once("file_stream", What::Status { status: 429, retry_after: Some("2".into()) }));
    let mut log = Log::new(dir.path());
    log.rows(5);
    let uploads = uploads(&server);
    let upload = uploads.begin(log.job());
    let progress = wait(&upload, "a retry", |progress| progress.run.state == RunState::Retrying);
    assert!(progress.run.retry_at.is_some());
    assert_eq!(
        progress.run.last_error.as_deref(),
        Some("127.0.0.1 asks for fewer requests (429): failed on purpose")
    );
    let progress = wait(&upload, "the rows", |progress| progress.run.rows_acked == 5);
    assert_eq!((progress.run.last_error, progress.run.retry_at), (None, None));
    let times = server.store().stream_times.clone();
    assert!(times[1] - times[0] >= 2000, "{times:?}");
}

#[test]
fn a_refusal_is_said_and_nothing_is_lost() {
    for (entity, status, said) in [
        ("", 401, "127.0.0.1 does not know the API key (401); wandb login, or set WANDB_API_KEY"),
        ("forbidden", 403, "the API key may not write there (403); another --wandb-entity"),
        ("nobody", 404, "127.0.0.1 has no such entity or run (404); check --wandb-entity"),
    ] {
        let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
        let mut log = Log::in_entity(dir.path(), "run1", false, entity);
        log.rows(5);
        if status == 401 {
            server.fail(Fault::once("any", What::Status { status, retry_after: None }));
        }
        let progress = send(&server, log.job());
        assert_eq!(progress.run.state, RunState::Refused);
        let error = progress.run.last_error.unwrap();
        assert!(error.starts_with(said), "{error}");
        assert!(!error.contains(KEY));
        if status == 401 {
            // The user has logged in.
            assert_eq!(send(&server, log.job()).run.rows_acked, 5);
        }
    }
}

#[test]
fn the_stop_button_is_seen() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    server.fail(Fault::once("file_stream", What::Stopped));
    let mut log = Log::new(dir.path());
    log.rows(5);
    assert!(send(&server, log.job()).stopped);
}

#[test]
fn long_lines_are_refused_with_a_count() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let mut log = Log::new(dir.path());
    log.rows(1);
    let long = format!("\"{}\"", "x".repeat(10_383_360));
    for (value, step) in [(long.as_str(), "1"), (&long[..long.len() - 90], "2")] {
        let value = if value.ends_with('"') { value.to_owned() } else { format!("{value}\"") };
        let mut batch = Batch::new();
        batch
            .row([("x", value.as_str()), ("_step", step), ("_timestamp", "1.5"), ("_runtime", "1.5")])
            .unwrap();
        log.writer.append(&batch).unwrap();
    }
    log.exit(0);
    let progress = send(&server, log.job());
    server.assert_sound();
    assert_eq!((progress.run.rows_acked, progress.run.rows_lost), (2, 1));
    assert_eq!(server.store().runs[&key("run1")].history_lines(), 2);
}

#[test]
fn old_servers_get_lines_of_text() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with(wandb_server::Options { structured_console: false, ..Default::default() });
    let mut log = Log::new(dir.path());
    log.console("hi\n", "rank0");
    send(&server, log.job());
    let store = server.store();
    assert_eq!(store.runs[&key("run1")].clients[""].console.lines, ["2026-11-20T09:40:16.000000 [rank0] hi"]);
}

#[test]
fn a_redirect_to_another_host_gets_no_key() {
    use std::io::{Read, Write};
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://localhost:{}/graphql", other.local_addr().unwrap().port());
    let url = format!("http://{}", first.local_addr().unwrap());
    let serve = |listener: std::net::TcpListener, answer: String| {
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
            while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
                let read = stream.read(&mut buffer).unwrap();
                seen.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&seen).to_lowercase()
        })
    };
    let redirect =
        format!("HTTP/1.1 307 T\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let first = serve(first, redirect);
    let other = serve(other, "HTTP/1.1 401 U\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into());
    let (dir, uploads) = (
        tempfile::tempdir().unwrap(),
        Uploads::start(Client::new(&url, &ApiKey::new(KEY).unwrap()).unwrap()).unwrap(),
    );
    let upload = uploads.begin(Log::new(dir.path()).job());
    wait(&upload, "a refusal", |progress| progress.run.state == RunState::Refused);
    assert!(first.join().unwrap().contains("authorization: basic"));
    assert!(!other.join().unwrap().contains("authorization"));
}

/// The sender dies 200 times at random moments while the server fails at random.
#[test]
fn a_sender_that_is_killed_again_and_again_sends_every_row_once() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    server.fail(Fault::once("any", What::DropAfter).chance(0.1));
    server.fail(Fault::once("any", What::DropBefore).chance(0.05));
    server.fail(Fault::once("any", What::Status { status: 503, retry_after: None }).chance(0.05));
    server.fail(Fault::once("any", What::Slow { ms: 3 }).chance(0.2));
    let mut log = Log::new(dir.path());
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..200 {
        let uploads = uploads(&server);
        let upload = uploads.begin(log.job());
        upload.grew(log.rows(random.u64(1..50)));
        upload.grew(log.console(&format!("line {round}\npart"), ""));
        if random.u8(..10) == 0 {
            let next = log.next_segment();
            upload.add_segment(next, log.writer.len());
        }
        upload.grew(log.stats("1"));
        thread::sleep(Duration::from_micros(random.u64(0..40_000)));
        // Ends the thread wherever it is, as a kill would.
        uploads.finish(Duration::ZERO);
    }
    server.heal();
    log.exit(0);
    let progress = send(&server, log.job());
    assert_eq!(progress.run.state, RunState::Finished);
    server.assert_sound();
    let store = server.store();
    let run = &store.runs[&key("run1")];
    assert_steps(run, log.rows);
    assert_eq!(run.clients[""].events.lines.len(), 200);
    assert_eq!(run.clients[""].console.lines.len(), 201);
    assert_eq!(Cursor::rows_acked(&log.job().cursor), Some(log.rows));
    eprintln!(
        "{} rows in {:?}, {} of them again",
        log.rows, store.requests, run.clients[""].history.repeated
    );
}
