use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::{
    event::{Fact, JobInfo, Launcher},
    id::{JobId, ProcId},
    sample::{Place, RankSample},
};

const T: u64 = 1_795_167_600_000;

fn begin(tape: &mut Tape, ranks: u32) {
    let job = JobInfo {
        id: JobId("j-1".into()),
        name: "j".into(),
        launcher: Launcher::Local,
        node: "n".into(),
        command: Vec::new(),
        cwd: String::new(),
        max_restarts: None,
        local_world_size: Some(ranks),
        nodes: (1, 1),
        rdzv_id: None,
        uid: 0,
    };
    tape.push(Event { seq: 1, at: Stamp(T), fact: Fact::JobStarted { job } });
    for local_rank in 0..ranks {
        let proc = ProcId { pid: 100 + local_rank as i32, start: 1 };
        let place = Place { rank: Some(local_rank), ..Place::default() };
        let fact = Fact::RankStarted { proc, agent_pid: 1, local_rank, attempt: 0, place };
        tape.push(Event { seq: 2 + u64::from(local_rank), at: Stamp(T), fact });
    }
}

fn sample(at: u64, ranks: u32, step: u64) -> Event {
    let one = |local_rank| RankSample {
        local_rank,
        cpu_ns: Some(step * 900_000_000 + u64::from(local_rank)),
        rss_bytes: Some(3 << 30),
        step: Some(step),
        step_at: Some(Stamp(at)),
        beat_at: Some(Stamp(at)),
        lines: step,
        ..RankSample::default()
    };
    Event { seq: 0, at: Stamp(at), fact: Fact::Sample { ranks: (0..ranks).map(one).collect() } }
}

/// A recording with blocks of a few events, so that states and blocks matter.
fn short_blocks(times: &[u64]) -> (Tape, Vec<Event>) {
    let mut tape = Tape::default();
    begin(&mut tape, 2);
    let mut all = Vec::new();
    let mut state = Tape::default();
    begin(&mut state, 2);
    for (n, at) in (0..).zip(times) {
        let event = sample(T + at, 2, n);
        tape.push(event.clone());
        all.push(Event { at: event.at.max(all.last().map_or(Stamp(T), |last: &Event| last.at)), ..event });
        if n % 3 == 2 {
            tape.close_block();
        }
    }
    (tape.finish().unwrap(), all)
}

proptest! {
    #[test]
    fn any_moment_is_the_fold_of_all_before_it(
        times in prop::collection::vec(0_u64..100_000, 1..60),
        at in 0_u64..110_000,
        from in 0_u64..110_000,
    ) {
        let (tape, all) = short_blocks(&times);
        let mut state = tape.state_at(Stamp(T));
        // What happened at the very beginning is in it already.
        for event in all.iter().filter(|event| event.at > Stamp(T) && event.at <= Stamp(T + at)) {
            state.apply(event);
        }
        prop_assert_eq!(&tape.state_at(Stamp(T + at)), &state);
        let (after, until) = (Stamp(T + from.min(at)), Stamp(T + from.max(at)));
        let between = tape.between(after, until, usize::MAX).unwrap();
        let mut played = tape.state_at(after);
        between.iter().for_each(|event| played.apply(event));
        prop_assert_eq!(played, tape.state_at(until), "playing and seeking give the same");
    }
}

#[test]
fn before_the_beginning_nothing_is_known_and_after_the_end_all() {
    let (tape, all) = short_blocks(&[1000, 2000, 3000, 4000]);
    assert_eq!(tape.state_at(Stamp(0)), State::default());
    assert_eq!(tape.state_at(Stamp(u64::MAX)).at, all.last().unwrap().at);
    assert_eq!(tape.between(Stamp(0), Stamp(u64::MAX), 3), None, "more than wanted");
    assert_eq!(tape.course().length(), Duration::from_secs(4));
}

#[test]
fn three_weeks_are_seeked_through_quickly_and_in_little_memory() {
    let mut tape = Tape::default();
    begin(&mut tape, 8);
    // A figure a minute for three weeks, and every second of twenty times a quarter of an hour.
    let mut at = T;
    for minute in 0..30_240_u64 {
        at += 60_000;
        tape.push(sample(at, 8, minute));
        if minute % 1500 == 1499 {
            for _ in 0..900 {
                at += 1000;
                tape.push(sample(at, 8, minute));
            }
        }
    }
    let tape = tape.finish().unwrap();
    let bytes: usize =
        tape.blocks.iter().map(|block| block.packed.len() + block.frame.as_ref().map_or(0, Vec::len)).sum();
    assert!(bytes < 20 << 20, "{bytes}");
    assert!(tape.blocks.iter().filter(|block| block.frame.is_some()).count() <= FRAMES + 1);
    let began = std::time::Instant::now();
    for share in [0, 17, 50, 83, 99, 3] {
        let to = tape.course().begin() + tape.course().length() * share / 100;
        let state = tape.state_at(to);
        assert!(state.at <= to && to.since(state.at) < Duration::from_secs(61));
    }
    let each = began.elapsed() / 6;
    // Built without optimisation on a busy machine; the release build takes a tenth.
    assert!(each < Duration::from_secs(2), "{each:?}");
}

#[test]
fn states_get_rarer_as_a_recording_grows() {
    let mut tape = Tape::default();
    begin(&mut tape, 1);
    for n in 0..1000 {
        tape.push(sample(T + n * 1000, 1, n));
        tape.close_block();
    }
    let tape = tape.finish().unwrap();
    let frames = tape.blocks.iter().filter(|block| block.frame.is_some()).count();
    assert!((FRAMES / 2 - 1..=FRAMES).contains(&frames), "{frames}");
    assert_eq!(tape.state_at(Stamp(T + 777_500)).rank(0).unwrap().step, Some(777));
}

#[test]
fn time_does_not_go_back_and_gaps_of_years_are_no_trouble() {
    let year = 365 * 86_400_000_u64;
    let (tape, _) = short_blocks(&[1000, 500, 10 * year, 10 * year + 1000]);
    assert_eq!(tape.course().times.len(), 4, "the event that was late is at the time of the one before");
    assert_eq!(tape.state_at(Stamp(T + 5 * year)).rank(0).unwrap().step, Some(1));
    assert_eq!(tape.state_at(Stamp(T + 11 * year)).rank(0).unwrap().step, Some(3));
}

#[test]
fn what_holds_no_event_is_told() {
    let reader = Reader::new(Box::new(&b"no recording at all\n"[..]), 1000, 1000).unwrap();
    let error = Tape::from(reader).unwrap_err();
    assert!(error.text.contains("no event") && error.text.contains("1 lines cannot be read"), "{error}");
}
