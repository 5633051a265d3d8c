//! Old recordings keep opening: those in `tests/recordings/` were made by version 0.1.0 from real jobs.
//!
//! These files are never made anew. When one of these tests fails, the reader is wrong, not the file. What a later
//! version writes gets a file of its own beside them. (In the log lines of `gloo.etrec` one path was replaced by hand.)
//!
//! * `demo.etrec`: `elastictop demo --steps 120 --crash-step 60`, 4 ranks, one crash.
//! * `gloo.etrec`: `tests/scripts/train_gloo.py` under real torchrun with gloo, 2 ranks, rank 1 crashes once.
//! * `gloo-redacted.etrec`: the same job, `export --redact`.
//! * `gloo-part.etrec`: the same job, `export --last 4s`: it begins with a snapshot.

use std::path::PathBuf;

use elastictop::{
    domain::{
        exit::Exit,
        log::{Anchor, LogFilter, LogQuery},
        rank::JobState,
        replay::MarkKind,
        state::State,
        time::Stamp,
    },
    supervisor::recording::Tape,
};

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/recordings", name].iter().collect()
}

fn open(name: &str) -> Tape {
    let tape = Tape::read(&path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(tape.missing, Vec::<String>::new(), "{name}");
    tape
}

fn last(tape: &Tape) -> State {
    tape.state_at(tape.course().end())
}

fn lines(tape: &Tape, until: Stamp) -> Vec<String> {
    let query = LogQuery::Page { filter: LogFilter::default(), anchor: Anchor::From(0), max: 1000 };
    tape.lines.answer(&query, until).lines.into_iter().map(|line| line.text).collect()
}

/// What every recording of a job that failed once and then succeeded tells.
fn check(state: &State, ranks: usize, failed: u32, step: u64) {
    assert_eq!((state.state, state.exit_code), (JobState::Done, Some(0)));
    assert_eq!((state.restarts, state.attempts.len(), state.ranks.len()), (1, 2, ranks));
    let cause = state.attempts[0].cause.as_ref().expect("why attempt 0 failed");
    assert_eq!(cause.rank, Some(failed));
    assert!(state.ranks.iter().all(|rank| rank.exit.is_some_and(Exit::is_success)));
    assert!(state.attempts[1].last_step >= Some(step), "{:?}", state.attempts[1].last_step);
    assert!(state.alerts.is_empty());
}

#[test]
fn the_demo() {
    let tape = open("demo.etrec");
    let state = last(&tape);
    check(&state, 4, 2, 110);
    assert!(state.cause.is_none(), "the job as a whole did not fail");
    let failure = tape.course().marks.iter().find(|mark| mark.kind == MarkKind::Failure).expect("a failure");
    assert!(failure.text.contains("rank 2 raised RuntimeError: injected failure at step 60"), "{failure:?}");
    let then = tape.state_at(failure.at);
    assert!(then.rank(2).unwrap().exit.is_some(), "it is shown as it was");
    assert_eq!(then.restarts, 0);
    // Samples are there for the seconds before it, and lines up to it.
    assert!(then.rank(0).unwrap().step >= Some(50), "{:?}", then.rank(0).unwrap().step);
    let (before, after) = (lines(&tape, tape.course().begin()), lines(&tape, failure.at));
    assert!(before.is_empty() && after.iter().any(|line| line.contains("injected failure")));
}

#[test]
fn torchrun_with_gloo() {
    let tape = open("gloo.etrec");
    check(&last(&tape), 2, 1, 50);
    let cause = last(&tape).attempts[0].cause.clone().unwrap();
    assert!(cause.text.contains("rank 1 crashes at step 25, as asked"), "{}", cause.text);
    assert!(lines(&tape, tape.course().end()).len() > 200);
    assert!(!tape.redacted);
}

#[test]
fn the_same_redacted() {
    let (tape, whole) = (open("gloo-redacted.etrec"), open("gloo.etrec"));
    assert!(tape.redacted);
    let (state, other) = (last(&tape), last(&whole));
    check(&state, 2, 1, 50);
    assert_eq!(tape.course().times, whole.course().times);
    let steps = |state: &State| state.ranks.iter().map(|rank| (rank.step, rank.exit)).collect::<Vec<_>>();
    assert_eq!(steps(&state), steps(&other));
    assert!(lines(&tape, tape.course().end()).is_empty());
    let text = serde_json::to_string(&state).unwrap();
    for word in ["train_gloo", "/tmp", "as asked", "venv"] {
        assert!(!text.contains(word), "{word} is in it");
    }
}

#[test]
fn a_part_that_begins_with_a_snapshot() {
    let (tape, whole) = (open("gloo-part.etrec"), open("gloo.etrec"));
    let (state, other) = (last(&tape), last(&whole));
    check(&state, 2, 1, 50);
    assert_eq!((&state.attempts, &state.ranks), (&other.attempts, &other.ranks));
    assert!(tape.course().length() < std::time::Duration::from_secs(5));
    let first = tape.state_at(tape.course().begin());
    assert_eq!(first.job, other.job, "what came before is known");
}

#[test]
fn a_journal_of_the_first_days() {
    let journal = [env!("CARGO_MANIFEST_DIR"), "tests/golden/journal-v1.jsonl"].iter().collect::<PathBuf>();
    let tape = Tape::read(&journal).unwrap();
    assert!(!tape.course().marks.is_empty());
    assert_eq!(last(&tape).job.map(|job| job.id.0).as_deref(), Some("train-x3k9"));
}
