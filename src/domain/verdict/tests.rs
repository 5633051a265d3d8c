//! Little jobs in which each rank behaves as it is told, second by second, and what is told of them.

mod health_service;
mod healthy;
mod sim;

use self::sim::{Mode, Sim};
use super::*;

/// Five seconds of patience, as the end-to-end tests have.
fn quick() -> Policy {
    Policy { hang_after_ms: 5000, ..Policy::default() }
}

/// Two or more ranks that make ten steps a second for 20 s; then rank 1 does `mode` for `seconds`.
fn fault(ranks: u32, mode: Mode, seconds: u64) -> Vec<String> {
    let mut sim = Sim::new(quick(), ranks);
    sim.run(20);
    sim.ranks[1].mode = mode;
    sim.run(seconds);
    sim.transcript
}

#[test]
fn a_rank_asleep_is_named_and_those_that_wait_are_not() {
    assert_eq!(
        fault(3, Mode::Asleep, 12),
        [
            "24 r0 waits: in collective #201 of group default",
            "24 r1 lags: has not joined collective #201 of group default",
            "24 r2 waits: in collective #201 of group default",
            "25 r0 waits: in all_reduce #201 of group default",
            "25 r1 lags: has not joined all_reduce #201 of group default",
            "25 r2 waits: in all_reduce #201 of group default",
            "26 raise Hang r1: rank 1 sleeps and has not joined all_reduce #201 of group default; ranks 0, 2 wait for it",
        ]
    );
}

#[test]
fn the_line_that_a_rank_hangs_at_is_named_and_one_that_changes_is_not() {
    let mut sim = Sim::new(quick(), 3);
    sim.run(20);
    (sim.ranks[1].mode, sim.ranks[1].spot) = (Mode::Asleep, Some((40, None)));
    sim.run(12);
    assert_eq!(
        alarms(&sim.transcript),
        [
            "26 raise Hang r1: rank 1 sleeps at train.py:40 and has not joined all_reduce #201 of group default; ranks 0, \
             2 wait for it"
        ]
    );
    assert_eq!(sim.evidence[0], "its main thread is at train.py:40, in main");
    let mut sim = Sim::new(quick(), 3);
    sim.run(20);
    sim.ranks[1].mode = Mode::Busy;
    for line in 0..12 {
        sim.ranks[1].spot = Some((line, None));
        sim.run(1);
    }
    let told = alarms(&sim.transcript);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("rank 1 computes or spins and has not joined"), "{told:?}");
}

#[test]
fn who_kept_the_others_waiting_is_known_before_an_alarm_is_due() {
    let mut sim = Sim::new(quick(), 3);
    sim.run(20);
    assert_eq!(sim.verdict.suspicion(sim.now), None);
    sim.ranks[1].mode = Mode::Asleep;
    sim.run(4);
    assert!(alarms(&sim.transcript).is_empty());
    // The collective's own limit ends the ranks that waited.
    let over = sim.now;
    for local_rank in [0, 2] {
        sim.ranks[local_rank as usize].mode = Mode::Dead;
        sim.give(Input::Ended { local_rank, well: false });
    }
    sim.run(3);
    let who = |before| sim.verdict.suspicion(before).map(|alert| (alert.local_rank, alert.text.as_str()));
    let text = "rank 1 sleeps and has not joined collective #201 of group default; ranks 0, 2 wait for it";
    assert_eq!(who(over), Some((Some(1), text)));
    assert_eq!(who(over + Duration::from_secs(60)), None, "it has nothing to do with an end much later");
}

#[test]
fn a_rank_that_raised_and_lives_on_says_what_it_raised() {
    let mut sim = Sim::new(quick(), 2);
    sim.run(20);
    let proof = crate::domain::evidence::Tracebacks::default().line((), "ValueError: bad batch").unwrap();
    // One that it survived, and one that it did not.
    sim.give(Input::Mark { local_rank: 0, proof: &proof });
    sim.run(2);
    sim.give(Input::Mark { local_rank: 1, proof: &proof });
    sim.ranks[1].mode = Mode::Reading;
    sim.run(12);
    assert_eq!(
        alarms(&sim.transcript),
        [
            "28 raise BlockedIo r1: rank 1 raised ValueError: bad batch; it lives on and has not joined all_reduce #221 of \
             group default; rank 0 waits for it"
        ]
    );
}

#[test]
fn a_message_in_the_place_of_a_collective_is_told_as_what_it_is() {
    let mut sim = Sim::new(quick(), 3);
    sim.run(20);
    for (rank, spot) in sim.ranks.iter_mut().zip([(40, "all_reduce"), (52, "recv"), (40, "all_reduce")]) {
        (rank.mode, rank.spot) = (Mode::InCollective("all_reduce"), Some((spot.0, Some(spot.1))));
    }
    sim.run(10);
    assert_eq!(
        alarms(&sim.transcript),
        [
            "26 raise CollectiveMismatch r1: ranks of group default wait in calls that do not belong together: ranks 0, 2 \
             in all_reduce at train.py:40, rank 1 in recv at train.py:52"
        ]
    );
}

#[test]
fn a_rank_that_does_not_come_to_a_new_group_is_named() {
    let mut sim = Sim::new(quick(), 3);
    sim.run(20);
    // It counts as no collective: nobody is seen to wait.
    for (local, rank) in sim.ranks.iter_mut().enumerate() {
        let comes = local != 1;
        rank.mode = Mode::Asleep;
        rank.spot = Some(if comes { (9, Some("new_group")) } else { (7, None) });
    }
    sim.run(10);
    assert_eq!(
        alarms(&sim.transcript),
        [
            "25 raise Hang r1: rank 1 sleeps at train.py:7 and has not called new_group; ranks 0, 2 wait there at train.py:9"
        ]
    );
}

#[test]
fn a_hang_in_the_first_steps_is_told_with_more_patience() {
    let mut sim = Sim::new(quick(), 2);
    sim.rate = 1.0;
    sim.run(2);
    sim.ranks[1].mode = Mode::Asleep;
    sim.run(19);
    assert_eq!(alarms(&sim.transcript), [] as [&str; 0], "compiling, warming up");
    sim.run(6);
    let told = alarms(&sim.transcript);
    assert!(
        told.len() == 1 && told[0].contains("raise Hang r1: rank 1 sleeps and has not joined"),
        "{told:?}"
    );
}

#[test]
fn a_rank_that_does_not_come_to_meet_the_others_is_named() {
    let mut sim = Sim::new(quick(), 4);
    for (local, rank) in sim.ranks.iter_mut().enumerate() {
        let comes = local != 2;
        rank.mode = if comes { Mode::InCollective("") } else { Mode::Asleep };
        rank.spot = Some(if comes { (9, Some("init_process_group")) } else { (7, None) });
        rank.is_outside = true;
    }
    sim.run(30);
    assert_eq!(
        alarms(&sim.transcript),
        ["20 raise SlowStart r2: the start takes long: rank 2 sleeps at train.py:7 and has not called \
             init_process_group; ranks 0-1, 3 wait there"]
    );
    assert_eq!(sim.evidence, ["rank 2 is at train.py:7, in main"]);
}

fn alarms(transcript: &[String]) -> Vec<&str> {
    transcript
        .iter()
        .filter(|line| line.contains("raise") || line.contains("clear"))
        .map(String::as_str)
        .collect()
}

#[test]
fn each_fault_is_told_apart() {
    let told = |mode| alarms(&fault(2, mode, 12)).join("\n");
    assert_eq!(
        told(Mode::Busy),
        "26 raise Hang r1: rank 1 computes or spins and has not joined all_reduce #201 of group default; rank 0 waits for it"
    );
    assert_eq!(
        told(Mode::Reading),
        "26 raise BlockedIo r1: rank 1 is blocked in a read of /data/pipe and has not joined all_reduce #201 of group \
         default; rank 0 waits for it"
    );
    assert_eq!(
        told(Mode::Gil),
        "26 raise GilStuck r1: rank 1 sleeps in C code and holds Python's lock; rank 0 waits for it"
    );
    assert_eq!(
        told(Mode::GilBusy),
        "26 raise GilStuck r1: rank 1 computes in C code and holds Python's lock; rank 0 waits for it"
    );
    assert_eq!(told(Mode::Stopped), "", "the kernel's word has an alert of its own");
}

#[test]
fn a_stall_of_all_is_told_as_what_it_is() {
    let mut sim = Sim::new(quick(), 2);
    sim.run(20);
    sim.ranks.iter_mut().for_each(|rank| rank.mode = Mode::InCollective("all_reduce"));
    sim.run(10);
    assert_eq!(
        alarms(&sim.transcript),
        [
            "26 raise Hang: all ranks are in all_reduce #201 of group default and it does not end: the network or a GPU \
          holds it up"
        ]
    );
    let mut sim = Sim::new(quick(), 2);
    sim.run(20);
    sim.ranks[0].mode = Mode::InCollective("all_reduce");
    sim.ranks[1].mode = Mode::InCollective("broadcast");
    sim.run(10);
    assert_eq!(
        alarms(&sim.transcript),
        [
            "26 raise CollectiveMismatch: ranks called different collectives as #201 of group default: rank 0 in \
          all_reduce, rank 1 in broadcast"
        ]
    );
    let mut sim = Sim::new(quick(), 2);
    sim.run(20);
    sim.ranks.iter_mut().for_each(|rank| rank.mode = Mode::Asleep);
    sim.run(10);
    assert_eq!(
        alarms(&sim.transcript),
        ["25 raise Hang: no rank moves on, and none waits for another in a collective: each sleeps"]
    );
}

#[test]
fn a_collective_that_was_left_out_is_told_while_all_go_on() {
    let mut sim = Sim::new(quick(), 3);
    sim.run(20);
    sim.ranks[1].left_out = 1;
    sim.run(20);
    assert_eq!(
        alarms(&sim.transcript),
        [
            "28 raise CollectiveMismatch r1: rank 1 left out a collective that the others joined: results are wrong from \
          there on"
        ]
    );
    let mut sim = Sim::new(quick(), 3);
    sim.run(20);
    sim.ranks[2].left_out = 4;
    sim.run(20);
    assert!(alarms(&sim.transcript)[0].contains("raise StepDrift r2: rank 2 left out 4 collectives"));
}

#[test]
fn a_pause_that_was_learned_raises_nothing_the_next_time() {
    let mut sim = Sim::new(quick(), 2);
    sim.run(20);
    for _ in 0..2 {
        sim.ranks[0].mode = Mode::Busy;
        sim.run(12);
        sim.ranks[0].mode = Mode::Work;
        sim.run(10);
    }
    let told = alarms(&sim.transcript);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("raise Hang r0") && told[1].ends_with("clear Hang r0"), "{told:?}");
}

#[test]
fn a_rank_that_writes_a_checkpoint_gets_more_time() {
    let told = fault(2, Mode::Writing, 15);
    assert_eq!(alarms(&told), [""; 0], "15 s are no hang while bytes flow");
    let told = fault(2, Mode::Writing, 30);
    assert_eq!(alarms(&told).len(), 1, "four times the patience is enough for anybody");
}

#[test]
fn nothing_is_a_hang_before_the_first_steps_and_while_the_group_starts() {
    let mut sim = Sim::new(quick(), 2);
    sim.ranks[1].mode = Mode::Asleep;
    sim.run(19);
    assert_eq!(alarms(&sim.transcript), [""; 0]);
    sim.run(10);
    assert_eq!(
        alarms(&sim.transcript),
        [
            "20 raise SlowStart: the start takes long: rank 1 sleeps and has not joined all_reduce #1 of group default"
        ]
    );
    let mut sim = Sim::new(quick(), 2);
    sim.run(20);
    sim.ranks[1].mode = Mode::Asleep;
    sim.runs = false;
    sim.run(60);
    assert_eq!(alarms(&sim.transcript), [""; 0], "restarting, ending, changing its members");
}

#[test]
fn a_straggler_is_told_with_its_score_and_forgiven() {
    let mut sim = Sim::new(quick(), 4);
    sim.run(20);
    sim.slow = Some(2);
    sim.run(60);
    sim.slow = None;
    sim.run(60);
    let told = alarms(&sim.transcript);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("raise Straggler r2: rank 2 is slow: it needs about"), "{told:?}");
    assert!(told[1].contains("clear Straggler r2"), "{told:?}");
}

#[test]
fn a_policy_acts_once_for_each_stall_and_gives_up_at_the_same_step() {
    let policy = Policy { hang_after_ms: 5000, heartbeat_timeout_ms: 10_000, on_stall: OnStall::Restart };
    let mut sim = Sim::with_budget(policy, 2, 5);
    for _ in 0..3 {
        sim.run(20);
        sim.ranks[1].mode = Mode::Asleep;
        sim.run(15);
        sim.restart();
    }
    let acts: Vec<_> =
        sim.transcript.iter().filter(|line| line.contains(" act ")).map(String::as_str).collect();
    assert_eq!(
        acts,
        ["31 act dump", "31 act restart", "66 act dump", "66 act restart", "101 act dump", "101 act give up"]
    );
    let warned = Policy { on_stall: OnStall::Warn, ..policy };
    let mut sim = Sim::with_budget(warned, 2, 5);
    sim.run(20);
    sim.ranks[1].mode = Mode::Asleep;
    sim.run(60);
    assert!(sim.transcript.iter().all(|line| !line.contains(" act ")));
}

#[test]
fn a_spent_budget_ends_it() {
    let policy = Policy { hang_after_ms: 5000, heartbeat_timeout_ms: 5000, on_stall: OnStall::Restart };
    let mut sim = Sim::with_budget(policy, 2, 0);
    sim.run(20);
    sim.ranks[1].mode = Mode::Asleep;
    sim.run(15);
    assert!(sim.transcript.iter().any(|line| line.ends_with("act give up")), "{:?}", sim.transcript);
}

#[test]
fn a_loss_that_is_no_number_is_told_when_it_stays() {
    let mut sim = Sim::new(quick(), 1);
    sim.run(10);
    sim.loss(0, 1);
    sim.run(2);
    sim.loss(0, 0);
    sim.run(2);
    assert_eq!(alarms(&sim.transcript), [""; 0], "one bad batch that was thrown away");
    sim.loss(0, 2);
    sim.run(2);
    sim.loss(0, 0);
    sim.run(1);
    assert_eq!(
        alarms(&sim.transcript),
        [
            "15 raise NanLoss r0: the loss of rank 0 is not a number: what it trains now is lost",
            "17 clear NanLoss r0"
        ]
    );
}

#[test]
fn a_stopped_agent_and_one_that_leaves_the_dead_are_told() {
    let mut sim = Sim::new(quick(), 3);
    sim.run(10);
    sim.agent = Kernel::Stopped;
    sim.run(5);
    sim.agent = Kernel::Alive;
    sim.run(2);
    sim.ranks[1].mode = Mode::Dead;
    sim.runs = false;
    sim.run(12);
    let told = alarms(&sim.transcript);
    assert!(told[0].starts_with("14 raise AgentStuck: the agent is stopped"), "{told:?}");
    assert_eq!(told[1], "16 clear AgentStuck");
    assert!(told[2].contains("raise AgentStuck: the agent does not collect rank 1, long dead"), "{told:?}");
}

#[test]
fn a_machine_that_slept_is_no_hang() {
    let mut sim = Sim::new(quick(), 2);
    sim.run(20);
    sim.now = sim.now + Duration::from_hours(1);
    sim.run(20);
    assert_eq!(alarms(&sim.transcript), [""; 0]);
}

#[test]
fn names_of_ranks_are_joined() {
    assert_eq!(standing::names([3]), "rank 3");
    assert_eq!(standing::names([5, 0, 2, 3, 4]), "ranks 0, 2-5");
}

#[test]
fn an_agent_without_ranks_is_told_of() {
    let mut sim = Sim::new(quick(), 0);
    sim.runs = false;
    sim.run(19);
    assert_eq!(alarms(&sim.transcript), [""; 0]);
    sim.run(10);
    let told = alarms(&sim.transcript);
    assert_eq!(told, ["21 raise SlowStart: no rank has started yet: the agent waits for its group"]);
}
