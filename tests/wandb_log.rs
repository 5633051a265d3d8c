//! The `.wandb` file beside the real SDK: `wandb leet inspect` reads what elastictop writes, and elastictop reads
//! what the SDK writes offline.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use elastictop::{
    domain::time::Stamp,
    wandb::{
        log::{
            Batch, Entry, Reader, Writer, json,
            record::{Changes, Exit, History, Kind, Metric, Output, Record, Run},
        },
        sdk::{self, Said, Sdk},
    },
};
use serde_json::Value;
use tempfile::TempDir;

const START: Stamp = Stamp(1_795_167_616_837);

/// A row: keys and values as JSON text.
type Row = Vec<(String, String)>;

/// The SDK, or `None` when there is no Python environment, which `ELASTICTOP_TEST_TORCH` forbids.
fn sdk() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let must = std::env::var("ELASTICTOP_TEST_TORCH").is_ok_and(|value| value == "1");
    assert!(
        python.exists() || !must,
        "{} is missing: the test command of the README makes it",
        python.display()
    );
    python.exists().then_some(python)
}

/// A program without what a launcher around the tests may have set, which keeps all its files in `dir`.
fn command(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if ["WANDB_", "PYTHON", "RANK", "WORLD_", "LOCAL_"]
            .iter()
            .any(|left| name.to_string_lossy().starts_with(left))
        {
            command.env_remove(name);
        }
    }
    for name in ["HOME", "WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"] {
        command.env(name, dir);
    }
    command.env("WANDB_ERROR_REPORTING", "false").env("WANDB_SILENT", "true").current_dir(dir);
    command
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("a program that starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed: {err}{out}");
    out.into_owned()
}

/// The records of a file, as the real SDK sees them.
fn inspect(python: &Path, dir: &Path, path: &Path) -> Vec<Value> {
    let wandb = python.with_file_name("wandb");
    let text = output(command(&wandb, dir).args(["leet", "inspect", "--json"]).arg(path));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
        .collect()
}

fn of_type<'a>(records: &'a [Value], wanted: &'a str) -> impl Iterator<Item = &'a Value> {
    records.iter().filter(move |record| record["type"] == wanted).map(move |record| &record[wanted])
}

fn row(step: usize, more: &[(&str, &str)]) -> Row {
    let own = [("loss", format!("{}", 1.0 / (step + 1) as f64)), ("_step", step.to_string())];
    let times = [("_timestamp", format!("{}.25", 1_795_167_617 + step)), ("_runtime", format!("{step}.5"))];
    let more = more.iter().map(|(key, json)| (*key, (*json).to_owned()));
    own.into_iter().chain(times).chain(more).map(|(key, json)| (key.to_owned(), json)).collect()
}

/// What the SDK prints for a value: numbers that are none come as texts.
fn as_printed(json: &str) -> Value {
    match json {
        "NaN" | "Infinity" | "-Infinity" => json.into(),
        _ => serde_json::from_str(json).expect("JSON"),
    }
}

fn write(dir: &Path, rows: &[Row]) -> Writer {
    let mut writer = Writer::create(dir, "ab12", START).unwrap();
    let mut batch = Batch::new();
    let run = Run {
        run_id: "ab12".into(),
        project: "demo".into(),
        run_group: "group".into(),
        tags: vec!["one".into(), "zwei ü".into()],
        start_time: Some(START.into()),
        config: Some(Changes::of([(["lr"].as_slice().iter().copied(), "0.1")])),
        ..Run::default()
    };
    let metric =
        Metric { glob_name: "elastictop/*".into(), step_metric: "_timestamp".into(), ..Metric::default() };
    batch.push(&Kind::Run(Box::new(run))).unwrap();
    batch.push(&Kind::Metric(metric)).unwrap();
    writer.append(&batch).unwrap();
    for some in rows.chunks(100) {
        batch.clear();
        for row in some {
            batch.row(row.iter().map(|(key, json)| (key.as_str(), json.as_str()))).unwrap();
        }
        writer.append(&batch).unwrap();
    }
    batch.clear();
    let line = Output {
        output_type: Output::STDOUT,
        timestamp: Some(START.into()),
        line: "epoch 1: größer\n".into(),
        ..Output::default()
    };
    batch.push(&Kind::Output(line)).unwrap();
    batch.push(&Kind::Summary(Changes::of([(["best"], "0.5"), (["nan"], "NaN")]))).unwrap();
    batch.push(&Kind::Exit(Exit { exit_code: 3, runtime: 7 })).unwrap();
    writer.append(&batch).unwrap();
    writer
}

fn written_file_is_read_by_the_sdk(rows: &[Row]) {
    let Some(python) = sdk() else { return };
    let dir = TempDir::new().unwrap();
    let writer = write(dir.path(), rows);
    let records = inspect(&python, dir.path(), writer.path());
    assert_eq!(records.len() as i64, writer.last_num());
    assert!(records.iter().zip(1..).all(|(record, num)| record["num"] == num));
    let seen: Vec<_> = of_type(&records, "history").map(|row| row["item"].as_object().unwrap()).collect();
    assert_eq!(seen.len(), rows.len());
    for (seen, row) in seen.iter().zip(rows) {
        assert_eq!(seen.len(), row.len());
        for (key, json) in row {
            assert_eq!(seen[key], as_printed(json), "{key}");
        }
    }
    let run = of_type(&records, "run").next().unwrap();
    assert_eq!(
        (&run["run_id"], &run["run_group"], &run["tags"][1]),
        (&"ab12".into(), &"group".into(), &"zwei ü".into())
    );
    assert_eq!(
        (&run["config"]["update"]["lr"], &run["start_time"]),
        (&0.1.into(), &"2026-11-20T09:40:16.837Z".into())
    );
    assert_eq!(of_type(&records, "metric").next().unwrap()["glob_name"], "elastictop/*");
    assert_eq!(of_type(&records, "output_raw").next().unwrap()["line"], "epoch 1: größer\n");
    assert_eq!(
        of_type(&records, "summary").next().unwrap()["update"],
        serde_json::json!({"best": 0.5, "nan": "NaN"})
    );
    assert_eq!(of_type(&records, "exit").next().unwrap(), &serde_json::json!({"exit_code": 3, "runtime": 7}));
}

#[test]
fn the_sdk_reads_one_row_of_any_values() {
    let values = [
        ("nan", "NaN"),
        ("inf", "-Infinity"),
        ("größe/µ", "\"ünï ✓ \\u00e9\\n\""),
        ("a.b", "1"),
        ("with space", "true"),
        ("none", "null"),
        ("list", "[1, 2.5, \"x\"]"),
        ("large", "12345678901234567"),
    ];
    written_file_is_read_by_the_sdk(&[row(0, &values)]);
}

#[test]
fn the_sdk_reads_ten_thousand_rows() {
    let rows: Vec<_> = (0..10_000).map(|step| row(step, &[("acc", "0.75")])).collect();
    written_file_is_read_by_the_sdk(&rows);
}

#[test]
fn the_sdk_reads_rows_longer_than_a_block_and_rows_around_its_end() {
    let long = format!("\"{}\"", "long ü ".repeat(20_000));
    let mut rows = vec![row(0, &[("text", &long)]), row(1, &[])];
    // Each of these ends some bytes further from the end of a block than the one before.
    for step in 2..60 {
        let fill = format!("\"{}\"", "x".repeat(32_600 + 3 * step));
        rows.push(row(step, &[("fill", &fill)]));
    }
    written_file_is_read_by_the_sdk(&rows);
}

#[test]
fn the_sdk_finds_the_latest_run_and_what_a_crash_left() {
    let Some(python) = sdk() else { return };
    let dir = TempDir::new().unwrap();
    let writer = write(dir.path(), &[row(0, &[]), row(1, &[])]);
    writer.link_latest().unwrap();
    let (path, committed) = (writer.path().to_owned(), writer.len());
    drop(writer);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(&[1, 2, 3, 4, 200, 0, 1, b'x']);
    fs::write(&path, bytes).unwrap();
    let mut writer = Writer::reopen(&path, committed).unwrap();
    let mut batch = Batch::new();
    batch.row([("after", "1"), ("_step", "2")]).unwrap();
    writer.append(&batch).unwrap();
    let records = inspect(&python, dir.path(), &dir.path().join("wandb"));
    let last = of_type(&records, "history").last().unwrap();
    assert_eq!((records.len() as i64, &last["item"]["after"]), (writer.last_num(), &1.into()));
}

/// Logs `rows.jsonl`, line by line, and prints and sets what the tests look for.
const SCRIPT: &str = r#"
import json, sys
import wandb
run = wandb.init(project="demo", id="ab12", config={"lr": 0.1, "net": {"layers": [1, 2], "name": "größe"}})
print("begin ✓", flush=True)
for line in open("rows.jsonl"):
    run.log(json.loads(line))
run.config.update({"late": float("inf")})
run.summary["best"] = {"at": 7}
print("err", file=sys.stderr, flush=True)
run.finish(exit_code=4)
"#;

struct FromSdk {
    records: Vec<Record>,
}

impl FromSdk {
    fn log(rows: &[String]) -> Option<FromSdk> {
        let python = sdk()?;
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("rows.jsonl"), rows.join("\n")).unwrap();
        let mut command = command(&python, dir.path());
        command.env("WANDB_MODE", "offline").env("WANDB_X_DISABLE_STATS", "true").args(["-c", SCRIPT]);
        output(&mut command);
        let path = dir.path().join("wandb/latest-run/run-ab12.wandb");
        let mut reader = Reader::open(&path, 0).unwrap();
        let found =
            |entry| if let Ok(Entry::Record(found)) = entry { found.record } else { panic!("{entry:?}") };
        let records: Vec<_> = reader.by_ref().map(found).collect();
        assert_eq!((reader.end(), reader.torn()), (fs::metadata(&path).unwrap().len(), 0));
        assert!(records.iter().map(|record| record.num).eq(1..=records.len() as i64));
        Some(FromSdk { records })
    }

    fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.records.iter().map(|record| record.kind.as_ref().expect("a kind that is known"))
    }

    fn rows(&self) -> Vec<&History> {
        self.kinds().filter_map(|kind| if let Kind::History(row) = kind { Some(row) } else { None }).collect()
    }

    fn changes(&self, pick: impl Fn(&Kind) -> Option<&Changes>) -> Vec<(String, &str)> {
        let items = self.kinds().filter_map(pick).flat_map(|changes| &changes.update);
        items.map(|item| (item.path().join("."), item.json())).collect()
    }
}

fn config(kind: &Kind) -> Option<&Changes> {
    match kind {
        Kind::Run(run) => run.config.as_ref(),
        Kind::Config(changes) => Some(changes),
        _ => None,
    }
}

fn summary(kind: &Kind) -> Option<&Changes> {
    if let Kind::Summary(changes) = kind { Some(changes) } else { None }
}

fn text(kind: &Kind, output_type: i32) -> Option<&str> {
    match kind {
        Kind::Output(output) if output.output_type == output_type => Some(&output.line),
        _ => None,
    }
}

/// Whether a row is what was logged, with step and times added. Numbers are compared as numbers.
fn assert_row(row: &History, step: usize, logged: &[(&str, &str)]) {
    let get = |wanted: &str| {
        let item = row.items.iter().find(|item| item.path().join(".") == wanted);
        item.unwrap_or_else(|| panic!("no {wanted} in row {step}: {}", row.json())).json()
    };
    assert_eq!(row.items.len(), logged.len() + 3, "row {step}: {}", row.json());
    assert_eq!(get("_step"), step.to_string());
    assert!(
        get("_timestamp").parse::<f64>().unwrap() > 1e9 && get("_runtime").parse::<f64>().unwrap() >= 0.0
    );
    for (key, json) in logged {
        let seen = get(key);
        match (seen.parse::<f64>(), json.parse::<f64>()) {
            (Ok(seen), Ok(json)) => assert_eq!(seen.to_bits(), json.to_bits(), "{key} of row {step}"),
            _ => {
                let parse = |text| serde_json::from_str::<Value>(text).expect("JSON");
                assert_eq!(parse(&seen), parse(json), "{key} of row {step}");
            }
        }
    }
}

fn line(logged: &[(&str, &str)]) -> String {
    json::object(logged.iter().map(|(key, json)| ([*key], *json)))
}

#[test]
fn one_row_of_the_sdk_is_read_with_all_that_is_around_it() {
    let logged = [
        ("loss", "0.1"),
        ("nan", "NaN"),
        ("inf", "-Infinity"),
        ("größe/µ", "\"ünï ✓\""),
        ("list", "[1, 2.5, \"x\"]"),
        ("yes", "true"),
        ("large", "9007199254740993"),
    ];
    let Some(file) = FromSdk::log(&[line(&logged)]) else { return };
    let rows = file.rows();
    assert_eq!(rows.len(), 1);
    assert_row(rows[0], 0, &logged);
    let config = file.changes(config);
    for wanted in [("lr", "0.1"), ("net", "{\"layers\":[1,2],\"name\":\"größe\"}"), ("late", "Infinity")] {
        assert!(config.contains(&(wanted.0.into(), wanted.1)), "{wanted:?} is not in {config:?}");
    }
    let summary = file.changes(summary);
    for wanted in [("best", "{\"at\":7}"), ("nan", "NaN")] {
        assert!(summary.contains(&(wanted.0.into(), wanted.1)), "{wanted:?} is not in {summary:?}");
    }
    let console = |wanted| -> String { file.kinds().filter_map(|kind| text(kind, wanted)).collect() };
    assert_eq!((console(Output::STDOUT).as_str(), console(Output::STDERR).as_str()), ("begin ✓\n", "err\n"));
    let last = file.kinds().last().unwrap();
    assert!(matches!(last, Kind::Exit(Exit { exit_code: 4, .. })), "{last:?}");
}

#[test]
fn ten_thousand_rows_of_the_sdk_are_read() {
    let values: Vec<_> =
        (0..10_000).map(|step| (format!("{}", 1.0 / f64::from(step + 3)), step.to_string())).collect();
    let rows: Vec<[(&str, &str); 2]> =
        values.iter().map(|(loss, n)| [("loss", loss.as_str()), ("n", n)]).collect();
    let lines: Vec<_> = rows.iter().map(|row| line(row)).collect();
    let Some(file) = FromSdk::log(&lines) else { return };
    let seen = file.rows();
    assert_eq!(seen.len(), rows.len());
    for (step, (seen, logged)) in seen.into_iter().zip(&rows).enumerate() {
        assert_row(seen, step, logged);
    }
}

#[test]
fn rows_of_the_sdk_longer_than_a_block_are_read() {
    let texts: Vec<_> = (0..40).map(|n| format!("\"{}\"", "ü".repeat(16_000 + 40 * n))).collect();
    let lines: Vec<_> = texts.iter().map(|text| line(&[("text", text), ("x", "1")])).collect();
    let Some(file) = FromSdk::log(&lines) else { return };
    assert_eq!(file.rows().len(), lines.len());
    for (step, (seen, text)) in file.rows().into_iter().zip(&texts).enumerate() {
        assert_row(seen, step, &[("text", text), ("x", "1")]);
    }
}

/// Logs, waits for a file, logs again and fails. It names another run than its environment does.
const GROWING: &str = r#"
import os, sys, time
import wandb
run = wandb.init(project="mine", config={"lr": 0.1})
run.log({"x": 1, "d": {"y": float("nan")}})
while not os.path.exists("go"):
    time.sleep(0.05)
run.log({"x": 2})
sys.exit(3)
"#;

/// Reads what an SDK says until `is_done`; fails after two minutes.
fn read_until(
    dir: &Path,
    file: &mut Option<Sdk>,
    said: &mut Vec<String>,
    is_done: impl Fn(&[String]) -> bool,
) {
    let due = Instant::now() + Duration::from_secs(120);
    while !is_done(said) {
        assert!(Instant::now() < due, "the SDK said no more than {said:#?}");
        if file.is_none()
            && let [place] = sdk::files(dir).unwrap().as_slice()
        {
            assert!(place.is_offline);
            *file = Some(Sdk::new(place.path.clone(), 0));
        }
        let more = file.as_mut().is_some_and(|file| {
            let read = file.read(|one| match one {
                Said::Run(run) => said.push(format!("run {} of {}", run.run_id, run.project)),
                Said::Row(text) => said.push(format!("row {text}")),
                Said::Config(key, value) => said.push(format!("config {key} {value:?}")),
                Said::Exit(code) => said.push(format!("exit {code}")),
                Said::Summary(..) | Said::Metric(_) | Said::Console { .. } => {}
            });
            read.unwrap()
        });
        if !more {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn what_the_sdk_logs_is_there_while_it_runs() {
    let Some(python) = sdk() else { return };
    let dir = TempDir::new().unwrap();
    let mut command = command(&python, dir.path());
    command.args(["-c", GROWING]).env("WANDB_MODE", "offline").env("WANDB_RUN_ID", "planned-r0");
    command.env("WANDB_PROJECT", "planned").env("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1");
    let mut child = command.spawn().unwrap();
    let (mut file, mut said) = (None, Vec::new());
    let row = |text: &str, x: &str| text.starts_with("row ") && text.contains(&format!("\"x\":{x}"));
    read_until(dir.path(), &mut file, &mut said, |said| said.iter().any(|text| row(text, "1")));
    assert_eq!(said[..2], ["run planned-r0 of mine", "config lr Some(\"0.1\")"]);
    assert!(said[2].contains("\"d\":{\"y\":NaN}") && said[2].contains("\"_step\":0"), "{said:#?}");
    assert_eq!((said.len(), child.try_wait().unwrap()), (3, None), "it still runs");
    fs::write(dir.path().join("go"), "").unwrap();
    read_until(dir.path(), &mut file, &mut said, |said| said.last().is_some_and(|text| text == "exit 3"));
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(said.len() == 5 && row(&said[3], "2") && said[3].contains("\"_step\":1"), "{said:#?}");
    assert!(file.unwrap().not_forwarded().is_empty());
}
