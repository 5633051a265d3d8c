use std::{os::unix::process::ExitStatusExt, process::Command};

use prost::Message;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::*;
use crate::wandb::log::{
    Entry, Reader,
    record::{Exit, History},
};

const START: Stamp = Stamp(1_795_167_616_837);

fn rows(from: i64, count: i64) -> Batch {
    let mut batch = Batch::new();
    for step in from..from + count {
        batch.row([("loss", "0.5"), ("_step", step.to_string().as_str())]).unwrap();
    }
    batch
}

/// Numbers and rows of a file, which must be without damage.
fn read(path: &Path) -> Vec<(i64, String)> {
    let mut reader = Reader::open(path, 0).unwrap();
    let mut found = Vec::new();
    for entry in reader.by_ref() {
        let Ok(Entry::Record(entry)) = entry else { panic!("{entry:?}") };
        let text = match entry.record.kind {
            Some(Kind::History(row)) => row.json(),
            other => format!("{other:?}"),
        };
        found.push((entry.record.num, text));
    }
    assert_eq!(reader.torn(), 0);
    found
}

fn steps(path: &Path) -> Vec<(i64, String)> {
    let json = |num: i64| format!("{{\"loss\":0.5,\"_step\":{}}}", num - 1);
    (1..=read(path).len() as i64).map(|num| (num, json(num))).collect()
}

#[test]
fn folders_are_named_as_the_sdk_does_and_never_shared() {
    let at = jiff::civil::date(2026, 11, 20).at(9, 4, 16, 837_000_000);
    assert_eq!(folder_name(at, "ab-1"), "offline-run-20261120_090416-ab-1");
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..3)
        .map(|_| {
            let writer = Writer::create(dir.path(), "ab", START).unwrap();
            assert!(writer.files().is_dir() && writer.path().ends_with("run-ab.wandb") && writer.is_empty());
            writer.link_latest().unwrap();
            let latest = fs::read_link(dir.path().join("wandb/latest-run")).unwrap();
            assert_eq!(writer.folder().file_name().unwrap(), latest);
            latest.into_os_string().into_string().unwrap()
        })
        .collect();
    assert_eq!(names[1..], [format!("{}-1", names[0]), format!("{}-2", names[0])]);
    assert_eq!(fs::read_dir(dir.path().join("wandb")).unwrap().count(), 4, "no link is left behind");
}

#[test]
fn a_run_id_that_is_no_name_of_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for id in ["", "a/b", "../x", "a\0"] {
        let error = Writer::create(dir.path(), id, START).unwrap_err();
        assert_eq!(error.cause.kind(), io::ErrorKind::InvalidInput, "{id:?}: {error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn rows_are_the_same_bytes_as_records() {
    let items = [("loss", "0.5"), ("é", "\"x\""), ("", "1"), ("empty", "")];
    let mut fast = Batch::new();
    fast.row(items).unwrap();
    let mut slow = Batch::new();
    slow.push(&Kind::History(History::of(items.map(|(key, json)| ([key], json))))).unwrap();
    assert_eq!(fast.bytes, slow.bytes);
    assert_eq!((fast.len(), fast.bytes()), (1, fast.bytes.len()));
    fast.clear();
    assert!(fast.is_empty() && fast.bytes() == 0);
}

#[test]
fn a_record_that_readers_would_refuse_is_not_taken() {
    let mut batch = rows(0, 1);
    let text = "x".repeat(LONGEST_BODY);
    assert!(batch.row([("text", text.as_str())]).is_err());
    assert!(batch.push(&Kind::History(History::of([(["text"], text.as_str())]))).is_err());
    assert_eq!(batch.len(), 1);
}

#[test]
fn numbers_and_blocks_go_on_after_a_crash_at_any_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), "ab", START).unwrap();
    writer.append(&rows(0, 1100)).unwrap();
    let committed = writer.len();
    assert!(committed > frame::BLOCK as u64);
    let long = "9".repeat(3 * frame::BLOCK);
    let mut batch = Batch::new();
    batch.row([("long", long.as_str())]).unwrap();
    writer.append(&batch).unwrap();
    let (path, whole) = (writer.path().to_owned(), fs::read(writer.path()).unwrap());
    drop(writer);
    let cuts = (committed as usize..whole.len()).step_by(997).chain([committed as usize, whole.len()]);
    for cut in cuts {
        fs::write(&path, &whole[..cut]).unwrap();
        let mut writer = Writer::reopen(&path, committed).unwrap();
        assert_eq!((writer.len(), writer.last_num()), (committed, 1100), "cut at {cut}");
        writer.append(&rows(1100, 2)).unwrap();
        assert_eq!(writer.len(), fs::metadata(&path).unwrap().len());
        assert_eq!(read(&path), steps(&path), "cut at {cut}");
    }
    // All that is whole stays when nobody knows what was committed.
    for (cut, num) in [(whole.len(), 1101), (whole.len() - 1, 1100)] {
        fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(Writer::reopen(&path, u64::MAX).unwrap().last_num(), num);
    }
}

#[test]
fn a_file_cut_at_any_byte_is_taken_up_after_its_last_whole_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), "ab", START).unwrap();
    writer.append(&rows(0, 3)).unwrap();
    let (path, whole) = (writer.path().to_owned(), fs::read(writer.path()).unwrap());
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let mut writer = Writer::reopen(&path, u64::MAX).unwrap();
        assert!(writer.len() <= cut.max(HEADER.len()) as u64);
        writer.append(&rows(writer.last_num(), 1)).unwrap();
        let found = read(&path);
        assert_eq!(found, steps(&path), "cut at {cut}");
        assert_eq!(found.len() as i64, writer.last_num());
    }
}

#[test]
fn a_record_damaged_on_the_disk_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), "ab", START).unwrap();
    writer.append(&rows(0, 3)).unwrap();
    let before = writer.len();
    writer.append(&rows(3, 1)).unwrap();
    let (path, committed) = (writer.path().to_owned(), writer.len());
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let writer = Writer::reopen(&path, committed).unwrap();
    assert_eq!((writer.len(), writer.last_num()), (before, 3));
}

#[test]
fn failures_name_the_file() {
    let error = Writer::reopen(Path::new("/nowhere/run-x.wandb"), 0).unwrap_err();
    assert!(error.to_string().starts_with("cannot go on with /nowhere/run-x.wandb: No such file"), "{error}");
    let error: crate::error::Error = error.into();
    assert_eq!(error.kind, crate::error::Kind::Environment);
}

/// Set in the process that may not write more than a few kilobytes.
const LIMITED: &str = "ELASTICTOP_TEST_LIMITED";

/// A real disk that is full needs a mount; a limit on file sizes makes the kernel do the same: it takes a
/// part of a write, then refuses.
#[test]
fn a_full_disk_leaves_a_valid_file_and_the_batch() {
    if let Some(dir) = std::env::var_os(LIMITED) {
        return write_until_refused(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let name = "wandb::log::writer::tests::a_full_disk_leaves_a_valid_file_and_the_batch";
    let output = Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 40; exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(LIMITED, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("refused at"), "{:?}: {text}", output.status.signal());
}

fn write_until_refused(dir: &Path) {
    let mut writer = Writer::create(dir, "ab", START).unwrap();
    let (mut next, failure) = (0, loop_until_refused(&mut writer));
    assert_eq!(
        (failure.valid, failure.cause.kind()),
        (writer.len(), io::ErrorKind::FileTooLarge),
        "{failure}"
    );
    assert_eq!(fs::metadata(writer.path()).unwrap().len(), writer.len(), "no half batch stays");
    assert_eq!(read(writer.path()), steps(writer.path()));
    next += writer.last_num();
    // Smaller ones still fit, with numbers that go on; the refused batch took none.
    writer.append(&rows(next, 1)).unwrap();
    assert_eq!(read(writer.path()), steps(writer.path()));
    // Not even a beginning fits: nothing is left of it.
    setrlimit(Resource::Fsize, Rlimit { current: Some(0), maximum: None }).unwrap();
    let error = Writer::create(dir, "cd", START).unwrap_err();
    assert_eq!((error.valid, error.cause.kind()), (0, io::ErrorKind::FileTooLarge));
    assert_eq!(fs::read_dir(dir.join("wandb")).unwrap().count(), 1);
    println!("refused at {}", failure.valid);
}

fn loop_until_refused(writer: &mut Writer) -> Failure {
    loop {
        if let Err(failure) = writer.append(&rows(writer.last_num(), 50)) {
            return failure;
        }
        assert!(writer.len() < 1 << 20, "the limit does not hold");
    }
}

#[test]
fn the_end_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), "ab", START).unwrap();
    let mut batch = Batch::new();
    let exit = Kind::Exit(Exit { exit_code: -9, runtime: 3 });
    batch.push(&exit).unwrap();
    writer.append(&batch).unwrap();
    writer.sync().unwrap();
    let record = Record { num: 1, kind: Some(exit) };
    let mut bytes = HEADER.to_vec();
    frame::encode(&mut bytes, HEADER.len() as u64, &record.encode_to_vec());
    assert_eq!(fs::read(writer.path()).unwrap(), bytes);
}
