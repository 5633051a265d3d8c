use std::fmt::Write;

use super::*;
use crate::domain::{
    alert::Alert,
    beat::{GroupStatus, Op},
    cause::{Cause, CauseKind},
    command::{Command, Outcome},
    event::{JobInfo, Launcher, Reason},
    exit::Exit,
    gpu::{
        GpuInfo, GpuProc, GpuSample, GpuSource,
        leftover::{Leftover, LeftoverKind},
    },
    id::{JobId, ProcId},
    rank::RankState,
    sample::{Place, RankSample},
    verdict::{Guard, GuardedBy, Role, Standing},
};

const T: u64 = 1_795_167_600_000;

fn mark(second: u64, kind: MarkKind, text: &str) -> Mark {
    Mark { at: Stamp(T + second * 1000), kind, text: text.into() }
}

/// Events at 0, 1, 2, … 60 s, and at 2 h, with a restart at 20 s and trouble at 10 s, 30 s and 2 h.
fn course() -> Course {
    let mut course = Course::default();
    for second in (0..=60).chain([7200, 7200]) {
        course.passes(Stamp(T + second * 1000));
    }
    course.marks = vec![
        mark(10, MarkKind::Alert, "rank 3 hangs"),
        mark(20, MarkKind::Restart, "attempt 1 begins"),
        mark(30, MarkKind::Failure, "rank 3 failed"),
        mark(7200, MarkKind::Failure, "rank 5 failed"),
    ];
    course
}

/// Runs a script of `milliseconds: wish` and writes down where the player is after each.
fn transcript(script: &[(u64, Option<Control>)]) -> String {
    let mut player = Player::new(Stamp(0), course(), 1);
    let mut lines = String::new();
    for (now, control) in script {
        let moved = match control {
            Some(control) => player.handle(Stamp(*now), *control),
            None => player.on_deadline(Stamp(*now)),
        };
        let at = (player.position().0 - T) as f64 / 1000.0;
        let glyph = if player.is_playing() { '>' } else { '=' };
        let due = player.deadline().map_or("-".into(), |due| (due.0 - now).to_string());
        let jumped = if moved.jumped { " jumped" } else { "" };
        let told = moved.told.map(|text| format!(": {text}")).unwrap_or_default();
        let _ = writeln!(lines, "{now:>6} {glyph} {at} at {}x due {due}{jumped}{told}", player.speed());
    }
    lines
}

#[test]
fn it_plays_pauses_and_changes_speed() {
    use Control::{Faster, Slower, Toggle};
    let said = transcript(&[
        (0, None),
        (2500, None),
        (3000, Some(Faster)),
        (4000, None),
        (4000, Some(Toggle)),
        (60_000, None),
        (60_000, Some(Slower)),
        (60_000, Some(Slower)),
        (60_000, Some(Toggle)),
        (61_000, None),
    ]);
    let expected = "     0 > 0 at 1x due 250
  2500 > 2.5 at 1x due 250
  3000 > 3 at 2x due 100
  4000 > 5 at 2x due 100
  4000 = 5 at 2x due -
 60000 = 5 at 2x due -
 60000 = 5 at 1x due -
 60000 = 5 at 1x due -
 60000 > 5 at 1x due 250
 61000 > 6 at 1x due 250
";
    assert_eq!(said, expected);
}

#[test]
fn it_steps_seeks_and_jumps_to_trouble() {
    use Control::{NextTrouble, PreviousTrouble, Seek, Share, Skip, StepBack, StepForward, Toggle};
    let said = transcript(&[
        (0, Some(StepBack)),
        (0, Some(StepForward)),
        (0, Some(StepForward)),
        (0, Some(StepBack)),
        (0, Some(NextTrouble)),
        (0, Some(NextTrouble)),
        (0, Some(NextTrouble)),
        (0, Some(NextTrouble)),
        (0, Some(PreviousTrouble)),
        (0, Some(Skip { ms: -60_000 })),
        (0, Some(PreviousTrouble)),
        (0, Some(Share { permille: 500 })),
        (0, Some(Seek { at: Stamp(T + 5500) })),
        (0, Some(StepBack)),
        (0, Some(Seek { at: Stamp(0) })),
        (0, Some(Seek { at: Stamp(u64::MAX) })),
        (0, Some(StepForward)),
        (0, Some(Toggle)),
        (0, Some(Control::Unknown)),
    ]);
    let expected = "     0 = 0 at 1x due -: this is the beginning of the recording
     0 = 1 at 1x due - jumped
     0 = 2 at 1x due - jumped
     0 = 1 at 1x due - jumped
     0 = 10 at 1x due - jumped: rank 3 hangs
     0 = 30 at 1x due - jumped: rank 3 failed
     0 = 7200 at 1x due - jumped: rank 5 failed
     0 = 7200 at 1x due -: no alert or failure after this
     0 = 30 at 1x due - jumped: rank 3 failed
     0 = 0 at 1x due - jumped
     0 = 0 at 1x due -: no alert or failure before this
     0 = 3600 at 1x due - jumped
     0 = 5.5 at 1x due - jumped
     0 = 5 at 1x due - jumped
     0 = 0 at 1x due - jumped
     0 = 7200 at 1x due - jumped
     0 = 7200 at 1x due -: this is the end of the recording
     0 > 0 at 1x due 250 jumped
     0 > 0 at 1x due 250
";
    assert_eq!(said, expected);
}

#[test]
fn it_goes_over_hours_without_events_and_stops_at_the_end() {
    let said = transcript(&[
        (0, Some(Control::Seek { at: Stamp(T + 59_000) })),
        (500, None),
        (1000, None),
        (1250, None),
        (2000, None),
        (2250, None),
        (9000, None),
    ]);
    let expected = "     0 > 59 at 1x due 250 jumped
   500 > 59.5 at 1x due 250
  1000 > 60 at 1x due 250
  1250 > 7199 at 1x due 250 jumped: went over 1h 58m in which nothing was recorded
  2000 > 7199.75 at 1x due 250
  2250 = 7200 at 1x due -
  9000 = 7200 at 1x due -
";
    assert_eq!(said, expected);
}

#[test]
fn an_empty_course_does_not_move() {
    let mut player = Player::new(Stamp(5), Course::default(), 600);
    for control in
        [Control::StepForward, Control::Share { permille: 900 }, Control::NextTrouble, Control::Toggle]
    {
        player.handle(Stamp(9), control);
        assert_eq!(player.position(), Stamp(0), "{control:?}");
    }
    assert_eq!(player.speed(), 600);
}

#[test]
fn places_are_read_in_all_their_forms() {
    // 2026-11-20T09:40:00Z and two days later.
    let (begin, end, now) = (Stamp(T), Stamp(T + 2 * 86_400_000), Stamp(T + 5000));
    let place = |text: &str| parse_place(text, begin, end, now, 0).map(|at| (at.0 as i64 - T as i64) / 1000);
    let begins = begin.to_string();
    assert!(begins.starts_with("2026-11-20T09:40:00"), "{begins}");
    for (text, second) in [
        ("0%", 0),
        ("50 %", 86_400),
        ("+5m", 305),
        ("-3s", 2),
        ("09:41", 60),
        ("09:40:10", 10),
        ("09:39:59", 86_399),
        ("2026-11-20T10:40:00Z", 3600),
    ] {
        assert_eq!(place(text), Ok(second), "{text}");
    }
    let local = parse_place("10:40:10", begin, end, now, 3600).unwrap();
    assert_eq!(local.0 - T, 10_000, "in the viewer's zone");
    for wrong in ["", "x", "101%", "-1%", "+x", "25:00", "1:2:3:4", "12", "9:60", "NaN%"] {
        assert!(place(wrong).is_err(), "{wrong}: {:?}", place(wrong));
    }
}

#[test]
fn bytes_are_read_with_their_units() {
    assert_eq!(parse_bytes("64"), Ok(64));
    assert_eq!(parse_bytes("2k"), Ok(2048));
    assert_eq!(parse_bytes("256M"), Ok(256 << 20));
    assert_eq!(parse_bytes("1G"), Ok(1 << 30));
    for wrong in ["", "M", "-1", "1T", "1MM", "99999999999G"] {
        assert!(parse_bytes(wrong).is_err(), "{wrong}");
    }
}

const CANARY: &str = "swordfish";

/// One event of every kind that has words of the user's in it, each word the canary.
fn telling_facts() -> Vec<Fact> {
    let word = || CANARY.to_owned();
    let place = || Place { rank: Some(3), run_id: Some(word()), ..Place::default() };
    let proc = ProcId { pid: 7, start: 8 };
    let cause = || Cause {
        rank: Some(3),
        kind: CauseKind::OomGpu,
        text: word(),
        evidence: vec![word()],
        hint: Some(word()),
    };
    let group = GroupStatus {
        name: word(),
        desc: Some(word()),
        backend: Some("nccl".into()),
        size: Some(4),
        rank: Some(3),
        enqueued: Some(9),
        started: Some(9),
        completed: Some(8),
        op: Some(Op { name: "all_reduce".into(), seq: Some(9), shape: Some(word()), timeout_ms: Some(1) }),
    };
    let standing = Standing {
        role: Role::Waiting,
        group: word(),
        seq: 9,
        op: Some("all_reduce".into()),
        since: Stamp(T),
        behind: 0,
        timeout_ms: None,
    };
    let sample = RankSample {
        local_rank: 3,
        step: Some(12),
        last_line: Some(word()),
        groups: vec![group],
        standing: Some(Box::new(standing)),
        ..RankSample::default()
    };
    let alert = Alert {
        kind: AlertKind::Hang,
        local_rank: Some(3),
        since: Stamp(T),
        text: word(),
        evidence: vec![word()],
        acts_at: None,
    };
    let info = GpuInfo {
        index: 0,
        uuid: Some(word()),
        name: Some("NVIDIA H100".into()),
        pci_bus_id: Some(word()),
        mig: Vec::new(),
    };
    let leftover = Leftover {
        proc,
        uid: Some(1000),
        command: word(),
        reason: LeftoverKind::Other,
        gpus: vec![0],
        used_bytes: None,
    };
    let guard = Guard {
        backends: vec!["nccl".into()],
        by: GuardedBy::Nobody,
        timeout_s: None,
        settings: vec![(word(), word())],
    };
    vec![
        Fact::JobStarted {
            job: JobInfo {
                id: JobId(word()),
                name: word(),
                launcher: Launcher::Torchrun,
                node: word(),
                command: vec![word()],
                cwd: word(),
                max_restarts: Some(3),
                local_world_size: Some(4),
                nodes: (1, 1),
                rdzv_id: Some(word()),
                uid: 1000,
            },
        },
        Fact::RankStarted { proc, agent_pid: 1, local_rank: 3, attempt: 0, place: place() },
        Fact::RankPlaced { local_rank: 3, place: place() },
        Fact::RankState { local_rank: 3, state: RankState::Waiting, detail: Some(word()) },
        Fact::RankGuarded { local_rank: 3, guard },
        Fact::Sample { ranks: vec![sample.clone()] },
        Fact::Progress { ranks: vec![sample] },
        Fact::AlertRaised { alert },
        Fact::CauseFound { attempt: 0, cause: cause() },
        Fact::Restart {
            attempt: 1,
            restarts: 1,
            reason: Reason::Failure,
            cause: Some(cause()),
            world_size: Some(4),
        },
        Fact::Adopted { supervisor_pid: 4, last_seen: None, text: word() },
        Fact::Ordered { command: Command::Stop { now: false }, by: word() },
        Fact::Command {
            command: Command::Restart { attempt: None },
            by: word(),
            outcome: Outcome::Refused(word()),
        },
        Fact::Note { text: word() },
        Fact::Gpus {
            source: GpuSource::Nvml,
            driver: Some("550".into()),
            trouble: Some(word()),
            gpus: vec![info],
        },
        Fact::GpuSample {
            gpus: vec![GpuSample {
                procs: Some(vec![GpuProc { pid: 5, used_bytes: None, ..GpuProc::default() }]),
                util_pct: Some(90),
                ..GpuSample::default()
            }],
        },
        Fact::GpuLeftovers { leftovers: vec![leftover] },
        Fact::RankExited { local_rank: 3, proc, rank: Some(3), exit: Some(Exit::Signal(9)) },
        Fact::JobEnded { state: JobState::Failed, exit_code: Some(1), cause: Some(cause()) },
    ]
}

#[test]
fn redaction_leaves_no_word_and_the_replay_stays_useful() {
    let (mut redaction, mut state) = (Redaction::default(), State::default());
    let mut marks = Vec::new();
    for (fact, seq) in telling_facts().into_iter().zip(1..) {
        let event = Event { seq, at: Stamp(T + seq), fact };
        let whole = serde_json::to_string(&event).unwrap();
        let event = redaction.event(event).unwrap();
        let text = serde_json::to_string(&event).unwrap();
        assert!(!text.contains(CANARY) && !text.contains("1000"), "{text}");
        // The kind of what happened is the same.
        let kind = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["kind"].clone();
        assert_eq!(kind(&text), kind(&whole));
        state.apply(&event);
        marks.extend(Mark::of(&state, &event).map(|mark| (mark.kind, mark.text)));
    }
    let all = serde_json::to_string(&state).unwrap();
    assert!(!all.contains(CANARY), "{all}");
    let rank = state.rank(3).unwrap();
    assert_eq!(
        (rank.step, rank.exit, rank.groups[0].name.as_str()),
        (Some(12), Some(Exit::Signal(9)), "group-1")
    );
    assert_eq!(rank.groups[0].desc.as_deref(), Some("group-1"), "one name for one group");
    assert_eq!(rank.groups[0].op.as_ref().map(|op| op.name.as_str()), Some("all_reduce"));
    let expected = [
        (MarkKind::Alert, "hang (local rank 3)"),
        (MarkKind::Failure, "attempt 0 failed: rank 3: oom gpu"),
        (MarkKind::Restart, "attempt 1 begins with 4 ranks, restarts 1/3"),
        (MarkKind::Failure, "job failed, exit code 1: rank 3: oom gpu"),
    ];
    let marks: Vec<_> = marks.iter().map(|(kind, text)| (*kind, text.as_str())).collect();
    assert_eq!(marks, expected);
}

#[test]
fn a_snapshot_takes_the_place_of_what_came_before_it() {
    let mut whole = State::default();
    for (fact, seq) in telling_facts().into_iter().zip(1..) {
        whole.apply(&Event { seq, at: Stamp(T + seq), fact });
    }
    let event = Event { seq: 0, at: whole.at, fact: Fact::Snapshot { state: Box::new(whole.clone()) } };
    assert!(!event.fact.is_lasting(), "a snapshot is not counted");
    let mut state = State::default();
    let text = serde_json::to_string(&event).unwrap();
    state.apply(&serde_json::from_str(&text).unwrap());
    assert_eq!(state, whole);
}
