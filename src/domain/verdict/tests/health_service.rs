//! NCCL's health service beside the verdict: evidence, and never more.

use super::{
    sim::{Mode, Sim},
    *,
};
use crate::domain::ras::{Communicator, Member as RasMember, Missing};

/// Rank 1 of three has launched one collective less; a fourth rank is on another node.
fn lagging(count: u64) -> Ras {
    let member = |rank: u32, pid: i64, host: &str, count: u64| RasMember {
        rank,
        pid,
        host: host.into(),
        counts: [("AllReduce".to_owned(), count)].into(),
        ..RasMember::default()
    };
    let ranks = vec![
        member(4, 100, "here", count),
        member(5, 101, "here", count - 1),
        member(6, 102, "here", count),
        member(0, 101, "there", count - 1),
    ];
    let missing = vec![Missing { rank: 1, host: "there".into(), pid: 7, considered_dead: false }];
    Ras {
        nccl_version: "2.30.7".into(),
        communicators: vec![Communicator { hash: "0xcf".into(), size: 5, ranks, missing }],
    }
}

fn facts(sim: &Sim) -> Vec<&str> {
    sim.evidence.iter().filter(|fact| fact.starts_with("RAS")).map(String::as_str).collect()
}

fn patient() -> Policy {
    Policy { hang_after_ms: 30_000, ..Policy::default() }
}

#[test]
fn counts_that_stay_are_evidence_of_the_hang() {
    let mut sim = Sim::new(patient(), 3);
    sim.ras = Box::new(|_| Some(lagging(6650)));
    sim.run(20);
    assert_eq!(sim.asked, [0; 0], "a healthy job is not asked about");
    sim.ranks[1].mode = Mode::Asleep;
    sim.run(35);
    assert_eq!(
        facts(&sim),
        [
            "RAS: rank 1, rank 0 of communicator 0xcf (pid 101 on there) at AllReduce 6649, the others at 6650; no answer \
          of rank 1 of communicator 0xcf (pid 7 on there); counts unchanged since 00:00:36 UTC"
        ]
    );
    let alarms = alarms(&sim.transcript);
    assert_eq!(alarms.len(), 1, "told once, with the evidence: {alarms:?}");
    sim.run(600);
    let pauses: Vec<_> = sim.asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[0] >= 5 && *pauses.last().unwrap() >= 60, "{pauses:?}");
}

#[test]
fn an_answer_that_comes_after_the_alarm_is_told_with_it_once() {
    let mut sim = Sim::new(quick(), 3);
    sim.ras = Box::new(|_| Some(lagging(6650)));
    sim.run(20);
    sim.ranks[1].mode = Mode::Asleep;
    sim.run(6);
    assert_eq!(facts(&sim), [""; 0]);
    sim.run(60);
    assert_eq!(facts(&sim).len(), 1);
    assert_eq!(alarms(&sim.transcript).len(), 2);
}

#[test]
fn counts_that_move_prove_nothing() {
    let mut sim = Sim::new(quick(), 3);
    sim.ras = Box::new(|sim| Some(lagging(6650 + sim.now.0)));
    sim.run(20);
    sim.ranks[1].mode = Mode::Asleep;
    sim.run(60);
    assert_eq!((facts(&sim).len(), alarms(&sim.transcript).len()), (0, 1));
}

#[test]
fn it_raises_no_alarm_and_its_silence_changes_none() {
    let mut sim = Sim::new(quick(), 3);
    sim.ras = Box::new(|_| Some(lagging(6650)));
    sim.run(120);
    assert_eq!((sim.asked.len(), alarms(&sim.transcript).len()), (0, 0), "while steps are made");

    let told = |ras: fn(&Sim) -> Option<Ras>| {
        let mut sim = Sim::new(quick(), 3);
        sim.ras = Box::new(ras);
        sim.run(20);
        sim.ranks[1].mode = Mode::Asleep;
        sim.run(4);
        sim.ranks[1].mode = Mode::Work;
        sim.run(20);
        sim.ranks[1].mode = Mode::Asleep;
        sim.run(60);
        (alarms(&sim.transcript).into_iter().map(str::to_owned).collect::<Vec<_>>(), facts(&sim).len())
    };
    let (silent, none) = told(|_| None);
    let (empty, still_none) = told(|_| Some(Ras::default()));
    assert_eq!((none, still_none, &silent), (0, 0, &empty));
    let (answered, one) = told(|_| Some(lagging(6650)));
    assert_eq!((one, &answered[0]), (1, &silent[0]), "the same alarm at the same time");
}
