//! What the tests have in common: files of runs, and sending them.

#![allow(unreachable_pub)]

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use elastictop::{
    domain::{forward::retry::Backoff, time::Stamp},
    wandb::{
        client::Client,
        credentials::ApiKey,
        log::{
            Batch, Writer,
            record::{Changes, Exit, Kind, Output, Run as RunRecord, Stats, Timestamp},
        },
        upload::{Job, Progress, Upload, Uploads},
    },
};
use serde_json::{Map, Value};

use crate::wandb_server::{ENTITY, KEY, Run, Server};

pub const PATIENCE: Duration = Duration::from_secs(60);
pub const START: Stamp = Stamp(1_795_167_616_000);

/// A run's files, written as the supervisor writes them.
pub struct Log {
    pub writer: Writer,
    pub rows: u64,
    segments: Vec<PathBuf>,
    dir: PathBuf,
}

impl Log {
    pub fn new(dir: &Path) -> Log {
        Log::of(dir, "run1", false)
    }

    pub fn of(dir: &Path, id: &str, resume: bool) -> Log {
        Log::in_entity(dir, id, resume, "")
    }

    pub fn in_entity(dir: &Path, id: &str, resume: bool, entity: &str) -> Log {
        let writer = Writer::create(dir, id, START).unwrap();
        let segments = vec![writer.path().to_owned()];
        let mut log = Log { writer, rows: 0, segments, dir: dir.to_owned() };
        log.begin(id, resume, entity);
        log
    }

    pub fn begin(&mut self, id: &str, resume: bool, entity: &str) {
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
    pub fn next_segment(&mut self) -> PathBuf {
        self.writer = Writer::create(&self.dir, "run1", START).unwrap();
        self.segments.push(self.writer.path().to_owned());
        self.begin("run1", true, "");
        self.writer.path().to_owned()
    }

    pub fn push(&mut self, kind: Kind) -> u64 {
        let mut batch = Batch::new();
        batch.push(&kind).unwrap();
        self.writer.append(&batch).unwrap()
    }

    pub fn rows(&mut self, count: u64) -> u64 {
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

    pub fn console(&mut self, text: &str, label: &str) -> u64 {
        let (output_type, timestamp) = (Output::STDOUT, Some(START.into()));
        self.push(Kind::Output(Output { output_type, timestamp, line: text.into(), label: label.into() }))
    }

    pub fn stats(&mut self, value: &str) -> u64 {
        let timestamp = Some(Timestamp { seconds: 1_795_167_626, nanos: 500_000_000 });
        let items = Changes::of([(["gpu.0.gpu/l:rank0"], value)]).update;
        self.push(Kind::Stats(Stats { stats_type: 0, timestamp, items }))
    }

    pub fn exit(&mut self, exit_code: i32) -> u64 {
        self.push(Kind::Exit(Exit { exit_code, runtime: 20 }))
    }

    pub fn job(&self) -> Job {
        let backoff = Backoff { min: Duration::from_millis(20), max: Duration::from_millis(200) };
        Job { backoff, ..Job::of(self.segments.clone()) }
    }
}

pub fn client(server: &Server) -> Client {
    Client::new(&server.url(), &ApiKey::new(KEY).unwrap()).unwrap()
}

pub fn uploads(server: &Server) -> Uploads {
    Uploads::start(client(server)).unwrap()
}

/// Sends all that is there; gives how far it came.
pub fn send(server: &Server, job: Job) -> Progress {
    let uploads = uploads(server);
    let upload = uploads.begin(job);
    upload.close();
    let progress = wait(&upload, "all is sent", |progress| progress.over);
    assert!(uploads.finish(PATIENCE));
    progress
}

pub fn wait(upload: &Upload, what: &str, holds: impl Fn(&Progress) -> bool) -> Progress {
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

pub fn key(run: &str) -> String {
    format!("{ENTITY}/proj/{run}")
}

#[track_caller]
pub fn assert_steps(run: &Run, count: u64) {
    let steps: Vec<_> = run.rows("").iter().map(|row| row["_step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (0..count).collect::<Vec<_>>());
}

pub fn values(run: &Run) -> Map<String, Value> {
    run.config
        .iter()
        .filter(|(key, _)| *key != "_wandb")
        .map(|(k, v)| (k.clone(), v["value"].clone()))
        .collect()
}
