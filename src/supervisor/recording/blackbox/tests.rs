use std::fs;

use super::*;
use crate::{
    domain::{event::Fact, exit::Exit, id::ProcId, sample::RankSample},
    supervisor::recording::{Entry, JobReader, Reader},
};

const T: u64 = 1_795_167_600_000;
const MINUTE: u64 = 60_000;

/// A sample that does not pack well, as real ones do not.
fn sample(at: u64) -> Event {
    let noise = |n: u64| at.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(n as u32) >> 24;
    let one = |local: u32| RankSample {
        local_rank: local,
        cpu_ns: Some(noise(u64::from(local))),
        rss_bytes: Some(noise(u64::from(local) + 20)),
        step: Some(at / 100),
        last_line: Some(format!("line of {at}")),
        ..RankSample::default()
    };
    Event { seq: 0, at: Stamp(at), fact: Fact::Sample { ranks: (0..4).map(one).collect() } }
}

fn death(at: u64) -> Event {
    let fact = Fact::RankExited {
        local_rank: 1,
        proc: ProcId { pid: 5, start: 5 },
        rank: Some(1),
        exit: Some(Exit::Code(1)),
    };
    Event { seq: 9, at: Stamp(at), fact }
}

fn writer(job: &Path, keep: Keep) -> Writer {
    Writer::new(job.join(segments::BOX), keep, watch::channel(Health::default()).0)
}

/// A sample a second, handed over as the supervisor does, from minute to minute; a failure at the end of these.
fn run(writer: &mut Writer, minutes: std::ops::Range<u64>, failures: &[u64]) {
    for minute in minutes {
        for begin in (0..60).step_by(5) {
            let events =
                (begin..begin + 5).map(|second| sample(T + minute * MINUTE + second * 1000)).collect();
            writer.take(&Batch { events, failures: Vec::new() }).unwrap();
        }
        if failures.contains(&minute) {
            let failures = vec![Stamp(T + minute * MINUTE + 59_500)];
            writer.take(&Batch { events: Vec::new(), failures }).unwrap();
        }
    }
}

/// The minutes of which samples are there, and how many.
fn minutes(job: &Path) -> Vec<(u64, usize)> {
    let mut found: Vec<(u64, usize)> = Vec::new();
    for segment in segments::list(&job.join(segments::BOX)) {
        let mut reader = Reader::open(&segment.path()).unwrap();
        while let Some(Entry::Event(event)) = reader.read() {
            let minute = (event.at.0 - T) / MINUTE;
            match found.last_mut() {
                Some((last, count)) if *last == minute => *count += 1,
                _ => found.push((minute, 1)),
            }
        }
    }
    found
}

fn count_in(found: &[(u64, usize)], minutes: std::ops::Range<u64>) -> usize {
    found.iter().filter(|(minute, _)| minutes.contains(minute)).map(|(_, count)| count).sum()
}

fn size(job: &Path) -> u64 {
    segments::list(&job.join(segments::BOX)).iter().map(|segment| segment.bytes).sum()
}

#[test]
fn a_day_and_more_gets_coarse_but_for_the_minutes_before_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), Keep::default());
    run(&mut writer, 0..180, &[40]);
    writer.finish().unwrap();
    let found = minutes(dir.path());
    assert_eq!(count_in(&found, 26..40), 14 * 60, "a quarter of an hour before the failure: {found:?}");
    assert!(count_in(&found, 40..41) == 60, "and the minute after");
    assert_eq!(count_in(&found, 60..100), 40 * 6, "one in ten seconds after an hour: {found:?}");
    assert_eq!(count_in(&found, 130..180), 50 * 60, "the last hour is whole");
}

#[test]
fn the_limit_of_size_holds_and_takes_failures_last() {
    let dir = tempfile::tempdir().unwrap();
    let keep = Keep { before_ms: 5 * MINUTE, bytes: 200 << 10 };
    let mut writer = writer(dir.path(), keep);
    run(&mut writer, 0..120, &[10]);
    writer.finish().unwrap();
    let found = minutes(dir.path());
    assert!(size(dir.path()) <= keep.bytes + (64 << 10), "{}", size(dir.path()));
    assert_eq!(count_in(&found, 6..10), 4 * 60, "{found:?}");
    assert_eq!(count_in(&found, 20..60), 0, "older minutes without a failure went first: {found:?}");
    assert!(count_in(&found, 115..120) > 200, "the newest are there: {found:?}");
}

#[test]
fn failures_without_end_get_coarser_before_any_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let keep = Keep { before_ms: 5 * MINUTE, bytes: 200 << 10 };
    let mut writer = writer(dir.path(), keep);
    let all: Vec<u64> = (0..40).map(|n| n * 5).collect();
    run(&mut writer, 0..200, &all);
    writer.finish().unwrap();
    let found = minutes(dir.path());
    assert!(size(dir.path()) <= keep.bytes + (64 << 10), "{}", size(dir.path()));
    assert!(count_in(&found, 0..10) >= 10, "a figure a minute of the first failure is left: {found:?}");
    assert!(count_in(&found, 195..200) > 200, "the last one is whole: {found:?}");
}

#[test]
fn samples_go_through_the_thread_and_failures_keep_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut boxed = BlackBox::open(dir.path(), Keep::default()).unwrap();
    (0..30).for_each(|second| boxed.keep(&[sample(T + second * 1000)]));
    boxed.keep(&[death(T + 30_000)]);
    boxed.close();
    assert_eq!(boxed.health(), Health::default());
    assert_eq!(minutes(dir.path()), [(0, 30)]);
    assert!(segments::list(&dir.path().join(segments::BOX))[0].kept);
}

#[test]
fn nothing_is_kept_where_nothing_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let mut boxed = BlackBox::open(dir.path(), Keep { bytes: 0, ..Keep::default() }).unwrap();
    boxed.keep(&[sample(T), death(T)]);
    boxed.close();
    assert!(!dir.path().join(segments::BOX).exists());
}

#[test]
fn a_new_supervisor_goes_on_beside_what_a_dead_one_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut killed = writer(dir.path(), Keep::default());
    run(&mut killed, 0..3, &[]);
    // Killed: the file has no end, and a torn one at that.
    let left = segments::list(&dir.path().join(segments::BOX));
    let path = left[0].path();
    let bytes = fs::read(&path).unwrap();
    drop(killed);
    fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
    let mut adopted = writer(dir.path(), Keep::default());
    run(&mut adopted, 3..5, &[4]);
    adopted.finish().unwrap();
    let found = minutes(dir.path());
    assert!(count_in(&found, 0..3) > 160, "{found:?}");
    assert_eq!(count_in(&found, 3..5), 120, "{found:?}");
    let names: Vec<_> = segments::list(&dir.path().join(segments::BOX));
    assert!(names.len() == 2 && names.iter().all(|segment| segment.kept), "{names:?}");
}

#[test]
fn a_disk_that_refuses_is_told_and_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    // Where the folder should be lies a file.
    fs::write(dir.path().join(segments::BOX), "").unwrap();
    let mut boxed = BlackBox::open(dir.path(), Keep::default()).unwrap();
    (0..60).for_each(|second| boxed.keep(&[sample(T + second * 1000)]));
    boxed.close();
    let health = boxed.health();
    assert!(
        health.error.as_ref().unwrap().starts_with("elastictop cannot keep its black box: "),
        "{health:?}"
    );
    assert_eq!(health.lost, 60);
}

#[test]
fn a_last_line_that_was_told_once_survives_thinning() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(segments::BOX);
    fs::create_dir(&folder).unwrap();
    let segment = Segment::new(&folder, Stamp(T), false);
    let mut packed = segments::create(&segment).unwrap();
    for second in 0..30 {
        let mut event = sample(T + second * 1000);
        if let Fact::Sample { ranks } = &mut event.fact {
            ranks.iter_mut().for_each(|rank| rank.last_line = (second == 3).then(|| "once".into()));
        }
        packed.write_all(&segments::event_line(&event)).unwrap();
    }
    packed.finish().unwrap();
    let thinner = segment.thin().unwrap().unwrap();
    assert!(!segment.path().exists() && thinner.path().exists());
    let mut reader = Reader::open(&thinner.path()).unwrap();
    let mut lines = Vec::new();
    while let Some(Entry::Event(Event { fact: Fact::Sample { ranks }, .. })) = reader.read() {
        lines.push(ranks[0].last_line.clone());
    }
    assert_eq!(lines, [None, Some("once".to_owned()), None]);
}

#[test]
fn the_end_of_a_job_is_read_without_all_that_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), Keep::default());
    run(&mut writer, 0..60, &[]);
    writer.finish().unwrap();
    let journal = dir.path().join("journal.jsonl");
    fs::write(&journal, [crate::supervisor::journal::line(&death(T)), b"\n".to_vec()].concat()).unwrap();
    let events = |from: u64| {
        let from = Stamp(T + from * MINUTE);
        let mut reader = JobReader::of(vec![journal.clone()], dir.path(), from).unwrap();
        std::iter::from_fn(move || reader.read()).map(|event| event.at.0).collect::<Vec<_>>()
    };
    assert_eq!(events(0).len(), 1 + 60 * 60);
    let end = events(42);
    assert_eq!(end[0], T, "what happened is there from the first event on");
    assert!((40 * MINUTE..=42 * MINUTE).contains(&(end[1] - T)), "{}", end[1] - T);
    assert_eq!(end.last(), Some(&(T + 59 * MINUTE + 59_000)));
}
