use super::*;
use crate::wandb::log::{Batch, Writer, record::Exit};

/// Offline files of the real SDK 0.31.0.
const PLAIN: &[u8] = include_bytes!("../../../tests/golden/sdk-0.31.0.wandb");
const MEDIA: &[u8] = include_bytes!("../../../tests/golden/sdk-0.31.0-media.wandb");

fn word(said: Said<'_>) -> String {
    match said {
        Said::Run(run) => format!("run {} of {} named {}", run.run_id, run.project, run.display_name),
        Said::Row(text) => format!("row {text}"),
        Said::Summary(key, value) => format!("summary {key} {}", value.unwrap_or("-")),
        Said::Config(key, value) => format!("config {key} {}", value.unwrap_or("-")),
        Said::Metric(metric) => format!("metric {}", metric.name),
        Said::Console { is_err, text, .. } => {
            format!("console {} {text}", if is_err { "err" } else { "out" })
        }
        Said::Exit(code) => format!("exit {code}"),
    }
}

fn read(sdk: &mut Sdk) -> Vec<String> {
    let mut words = Vec::new();
    while sdk.read(|said| words.push(word(said))).unwrap() {}
    words
}

fn write(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("run-ab.wandb");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_run_of_the_sdk_is_told_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut sdk = Sdk::new(write(dir.path(), PLAIN), 0);
    let words = read(&mut sdk);
    let about = |what: &str| {
        words.iter().filter(|word| word.starts_with(what)).map(String::as_str).collect::<Vec<_>>()
    };
    assert_eq!(words[..2], ["run abc of p named n", "config lr 0.1"]);
    assert_eq!(about("config"), ["config lr 0.1", "config nested {\"a\":1}"]);
    assert_eq!(about("console"), ["console out hello ünï"]);
    let rows = about("row");
    assert!(
        rows.len() == 3
            && rows.iter().all(|row| row.contains("\"nan\":NaN") && row.contains("\"d\":{\"x\":"))
    );
    assert_eq!(about("summary d"), ["summary d {\"x\":0}", "summary d {\"x\":1}", "summary d {\"x\":2}"]);
    assert_eq!(about("summary best"), ["summary best 3"]);
    assert!(about("summary _").is_empty());
    assert_eq!(about("metric"), ["metric loss"]);
    assert_eq!(words.last().unwrap(), "exit 0");
    assert_eq!((sdk.position(), sdk.not_forwarded()), (PLAIN.len() as u64, vec![]));
}

#[test]
fn what_needs_files_is_left_out_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut sdk = Sdk::new(write(dir.path(), MEDIA), 0);
    let words = read(&mut sdk);
    assert_eq!(sdk.not_forwarded(), ["1 saved file", "3 media files", "1 artifact", "1 alert"]);
    let first = words.iter().find(|word| word.starts_with("row")).unwrap();
    assert!(first.contains("\"deep\":{\"x\":1}") && first.contains("\"_type\":\"histogram\""), "{first}");
    assert!(!words.iter().any(|word| word.contains("media/") || word.contains("artifact")), "{words:#?}");
    let about = |what: &str| {
        words.iter().filter(|word| word.starts_with(what)).map(String::as_str).collect::<Vec<_>>()
    };
    assert_eq!(about("summary best"), ["summary best {\"at\":7}", "summary best {\"at\":7,\"x\":8}"]);
    assert_eq!(about("summary gone"), ["summary gone 1", "summary gone -"]);
    assert_eq!(about("config k"), ["config k {\"a\":1}", "config k {\"b\":2}"]);
    // As the script has it with define_metric, not the last value.
    assert_eq!(about("summary loss").last(), Some(&"summary loss {\"min\":1}"));
    assert_eq!(words.last().unwrap(), "exit 4");
}

#[test]
fn it_goes_on_after_any_record_as_if_nothing_had_been() {
    let dir = tempfile::tempdir().unwrap();
    for bytes in [PLAIN, MEDIA] {
        let path = write(dir.path(), bytes);
        let whole = read(&mut Sdk::new(path.clone(), 0));
        for cut in (0..=bytes.len()).step_by(7).chain([bytes.len()]) {
            fs::write(&path, &bytes[..cut]).unwrap();
            let mut first = Sdk::new(path.clone(), 0);
            let mut words = read(&mut first);
            fs::write(&path, bytes).unwrap();
            // Every other time in a new life.
            let mut second = if cut % 2 == 0 { Sdk::new(path.clone(), first.position()) } else { first };
            words.extend(read(&mut second));
            assert_eq!(words, whole, "cut at {cut}");
            assert_eq!(second.position(), bytes.len() as u64);
        }
    }
}

#[test]
fn pieces_of_the_console_become_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), "ab", Stamp(0)).unwrap();
    let mut batch = Batch::new();
    let (out, err) = (Output::STDOUT, Output::STDERR);
    for (output_type, line) in
        [(out, "a"), (err, "e1\ne2"), (out, "b\r\n\nc"), (out, "\n"), (err, ""), (out, "end")]
    {
        batch.push(&Kind::Output(Output { output_type, line: line.into(), ..Output::default() })).unwrap();
    }
    let long = Output { output_type: out, line: "x".repeat(LONGEST_LINE), ..Output::default() };
    batch.push(&Kind::Output(long)).unwrap();
    batch.push(&Kind::Exit(Exit { exit_code: -9, runtime: 0 })).unwrap();
    writer.append(&batch).unwrap();
    let words = read(&mut Sdk::new(writer.path().to_owned(), 0));
    let long = format!("console out end{}", "x".repeat(LONGEST_LINE));
    let expected = [
        "console err e1",
        "console out ab",
        "console out ",
        "console out c",
        &long,
        "console err e2",
        "exit -9",
    ];
    assert_eq!(words, expected);
}

#[test]
fn damage_is_counted_and_a_file_written_anew_is_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = PLAIN.to_vec();
    bytes[400] ^= 1;
    let path = write(dir.path(), &bytes);
    let mut sdk = Sdk::new(path.clone(), 0);
    read(&mut sdk);
    assert_eq!(sdk.not_forwarded(), ["1 unreadable record"]);
    fs::write(&path, &PLAIN[..7]).unwrap();
    assert_eq!(read(&mut sdk), [""; 0]);
    fs::write(&path, PLAIN).unwrap();
    assert_eq!(read(&mut sdk).len(), read(&mut Sdk::new(path, 0)).len());
    assert_eq!(sdk.not_forwarded(), [""; 0]);
}

#[test]
fn files_of_several_runs_come_in_the_order_of_their_start() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(files(dir.path()).unwrap(), []);
    let wandb = dir.path().join("wandb");
    for (folder, id) in
        [("run-20260102_000000-b", "b"), ("offline-run-20260101_000000-a", "a"), ("other", "x")]
    {
        fs::create_dir_all(wandb.join(folder)).unwrap();
        fs::write(wandb.join(folder).join(format!("run-{id}.wandb")), "").unwrap();
        fs::write(wandb.join(folder).join(format!("run-{id}.wandb.synced")), "").unwrap();
    }
    fs::create_dir_all(wandb.join("offline-run-20260103_000000-c")).unwrap();
    std::os::unix::fs::symlink("nowhere", wandb.join("latest-run")).unwrap();
    let found = files(dir.path()).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|place| (place.path.file_name().unwrap().to_str().unwrap(), place.is_offline))
        .collect();
    assert_eq!(found, [("run-a.wandb", true), ("run-b.wandb", false)]);
}
