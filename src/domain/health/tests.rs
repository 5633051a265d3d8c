//! A script of looks and beats, one a line with its time in seconds, and what is told.

use super::*;

/// `T R` · `T T` · `T D` · `T Z` a look; `T R+MS` with MS of CPU used since the last look; `T beat`, `T beat step`,
/// `T beat groups`, `T step`, `T orphan`, `T quiet`, `T loud`, `T tick`.
fn run(expects_beats: bool, script: &str) -> Vec<String> {
    let mut health = Health::new(Stamp(0), 1, Some(5), expects_beats);
    let (mut out, mut transcript, mut cpu) = (Vec::new(), Vec::new(), 0u64);
    for item in script.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (time, what) = item.split_once(' ').expect(item);
        let now = Stamp((time.parse::<f64>().expect(item) * 1000.0) as u64);
        if health.deadline().is_some_and(|due| due <= now) {
            health.on_deadline(now, &mut out);
        }
        let input = match what {
            "beat" => Some(Input::Beat { step: None, groups: Some(0) }),
            "beat step" => Some(Input::Beat { step: Some(1), groups: None }),
            "beat groups" => Some(Input::Beat { step: None, groups: Some(1) }),
            "step" => Some(Input::Step),
            "orphan" => Some(Input::Orphaned),
            "quiet" => Some(Input::Quiet(true)),
            "loud" => Some(Input::Quiet(false)),
            "tick" => None,
            look => {
                let (letter, used) = look.split_once('+').unwrap_or((look, "0"));
                cpu += used.parse::<u64>().expect(item) * 1_000_000;
                let state = Kernel::from_letter(letter.chars().next().expect(item));
                Some(Input::Look { state, cpu_ns: Some(cpu) })
            }
        };
        if let Some(input) = input {
            health.handle(now, input, &mut out);
        }
        transcript.extend(out.drain(..).map(|output| match output {
            Output::State { state, .. } => format!("{time} {state:?}"),
            Output::Raise(alert) => {
                format!("{time} raise {:?} since {}", alert.kind, alert.since.0 as f64 / 1000.0)
            }
            Output::Clear(kind) => format!("{time} clear {kind:?}"),
        }));
    }
    transcript
}

#[test]
fn a_rank_starts_then_beats_then_works() {
    assert_eq!(run(true, "0.1 R, 0.5 beat, 1 R, 3 beat groups, 4 R"), ["0.5 Init", "3 Running"]);
    assert_eq!(run(true, "0.1 R, 0.5 beat step"), ["0.5 Running"]);
    assert_eq!(run(true, "0.1 R, 0.5 beat, 0.7 step"), ["0.5 Init", "0.7 Running"]);
}

#[test]
fn a_rank_that_never_beats_runs_after_a_while() {
    assert_eq!(run(false, "0.1 R, 1 R, 1.9 tick, 2 tick"), ["2 Running"]);
    assert_eq!(run(true, "0.1 R, 2 R, 4 R, 9 R, 10 tick"), ["10 Running"]);
    assert_eq!(run(false, "3 tick"), [""; 0], "nobody has seen it yet");
    assert_eq!(run(true, "0.1 R, 10 tick, 20 beat, 21 beat step"), ["10 Running", "20 Init", "21 Running"]);
}

#[test]
fn a_stopped_rank_is_told_at_once_and_cleared_when_it_goes_on() {
    assert_eq!(
        run(true, "0.1 R, 1 beat step, 2 T, 3 T, 4 R"),
        ["1 Running", "2 Stopped", "2 raise Stopped since 2", "4 Running", "4 clear Stopped"]
    );
    let mut health = Health::new(Stamp(0), 1, Some(5), true);
    let mut out = Vec::new();
    health.handle(Stamp(900), Input::Beat { step: None, groups: None }, &mut out);
    health.handle(Stamp(1000), Input::Look { state: Kernel::Stopped, cpu_ns: None }, &mut out);
    let Some(Output::Raise(alert)) = out.pop() else { panic!("{out:?}") };
    assert_eq!(
        alert.text,
        "rank 5 is stopped by a signal or a debugger; its peers wait for it in their next collective"
    );
    assert_eq!(alert.evidence, ["the kernel says T (stopped)", "last heartbeat 100 ms before"]);
}

#[test]
fn no_alarm_while_the_group_starts_or_ends() {
    assert_eq!(
        run(true, "0.1 R, 1 beat step, 1.5 quiet, 2 T, 3 loud, 4 quiet"),
        ["1 Running", "2 Stopped", "3 raise Stopped since 2", "4 clear Stopped"]
    );
    assert_eq!(
        run(true, "1 D, 2 D, 3 D, 4 D, 5 D, 6 D, 7 D, 8 R"),
        ["3 Blocked", "8 Starting"],
        "loads libraries"
    );
}

#[test]
fn uninterruptible_sleep_counts_when_it_lasts() {
    assert_eq!(
        run(true, "0.5 beat step, 1 D, 2 R, 3 D, 4 D, 5 D, 6 D, 7 D, 8 D, 9 R"),
        ["0.5 Running", "5 Blocked", "8 raise BlockedIo since 3", "9 Running", "9 clear BlockedIo"]
    );
    assert_eq!(run(true, "0.5 beat step, 1 D, 9 D, 17 D"), ["0.5 Running"], "looks too far apart");
}

#[test]
fn a_rank_that_computes_and_does_not_beat_is_stuck_and_an_idle_one_is_not() {
    let looks = |used: u32| (1..=16).map(|at| format!("{at} R+{used}")).collect::<Vec<_>>().join(", ");
    assert_eq!(
        run(true, &format!("0.5 beat step, {}, 17 beat", looks(900))),
        ["0.5 Running", "11 GilStuck", "17 Running"]
    );
    assert_eq!(run(true, &format!("0.5 beat step, {}", looks(100))), ["0.5 Running"]);
    assert_eq!(run(false, &looks(900)), ["2 Running"], "it never beat");
    assert_eq!(
        run(true, "0.5 beat step, 1 R, 60 R+50000, 61 R+900, 62 R+900"),
        ["0.5 Running"],
        "nobody looked"
    );
}

#[test]
fn the_dead_and_the_orphaned_are_told() {
    assert_eq!(run(true, "0.5 beat step, 1 Z"), ["0.5 Running", "1 Zombie"]);
    assert_eq!(
        run(true, "0.5 beat step, 1 orphan, 2 T, 3 R, 4 Z"),
        [
            "0.5 Running",
            "1 Orphan",
            "2 Stopped",
            "2 raise Stopped since 2",
            "3 Orphan",
            "3 clear Stopped",
            "4 Zombie"
        ]
    );
}
