use super::*;
use crate::domain::{
    event::{Event, Fact},
    exit::Exit,
    id::ProcId,
    sample::{Place, RankSample},
};

const NOW: Stamp = Stamp(1_000_000_000);

fn node(first: u32, ranks: u32, steps: impl Fn(u32) -> u64) -> State {
    let mut state = State::default();
    let mut apply = |fact| state.apply(&Event { seq: 1, at: NOW, fact });
    for local_rank in 0..ranks {
        let place = Place { rank: Some(first + local_rank), ..Place::default() };
        let proc = ProcId { pid: 100 + local_rank as i32, start: 1 };
        apply(Fact::RankStarted { proc, agent_pid: 1, local_rank, attempt: 0, place });
        apply(Fact::RankState { local_rank, state: RankState::Running, detail: None });
    }
    let ranks = (0..ranks).map(|local_rank| RankSample {
        local_rank,
        step: Some(steps(first + local_rank)),
        beat_at: Some(NOW),
        ..RankSample::default()
    });
    let ranks = ranks.collect();
    apply(Fact::Sample { ranks });
    state
}

fn fleet(states: &[State]) -> Fleet {
    let mut fleet = Fleet::default();
    refresh(&mut fleet, states);
    fleet
}

fn refresh(fleet: &mut Fleet, states: &[State]) {
    fleet.refresh(NOW, Metric::StepLag, states.iter().map(Source::new));
}

#[test]
fn ranks_of_all_nodes_are_peers() {
    let steps = |rank| if rank == 13 { 80 } else { 100 };
    let states = [node(0, 8, steps), node(8, 8, steps)];
    let fleet = fleet(&states);
    assert_eq!((fleet.nodes.len(), fleet.ranks.len(), fleet.furthest()), (2, 16, Some(100)));
    let suspects = fleet.suspects();
    let [row] = suspects[..] else { panic!("{suspects:?}") };
    let rank = fleet.ranks[row as usize];
    assert_eq!((rank.id, rank.number(), rank.level), (RankId { node: 1, local: 5 }, 13, 4));
    assert_eq!(fleet.reason(NOW, &rank), "20 steps behind");
    assert_eq!((fleet.nodes[0].worst, fleet.nodes[1].worst, fleet.nodes[1].worst_rank), (0, 4, Some(13)));
    assert_eq!(rank.heat, Some(3));
}

#[test]
fn a_dead_rank_is_bad_by_itself_and_no_peer() {
    let mut states = [node(0, 8, |_| 100)];
    let proc = ProcId { pid: 102, start: 1 };
    let exit = Some(Exit::Signal(9));
    let fact = Fact::RankExited { local_rank: 2, proc, rank: Some(2), exit };
    states[0].apply(&Event { seq: 9, at: NOW, fact });
    let proc = ProcId { pid: 103, start: 1 };
    let fact = Fact::RankExited { local_rank: 3, proc, rank: Some(3), exit: Some(Exit::Signal(15)) };
    states[0].apply(&Event { seq: 10, at: NOW, fact });
    let fleet = fleet(&states);
    let levels: Vec<_> = fleet.ranks.iter().map(|rank| rank.level).collect();
    assert_eq!(levels, [0, 0, 4, 0, 0, 0, 0, 0], "SIGTERM is how the agent ends the peers");
    assert!(fleet.ranks[2].has_failed() && !fleet.ranks[3].has_failed());
    assert_eq!(fleet.reason(NOW, &fleet.ranks[2]), "gone for 0 s");
}

#[test]
fn a_heartbeat_that_stays_away_is_told_unless_nobody_could_tell() {
    let states = [node(0, 8, |_| 100)];
    let mut fleet = Fleet::default();
    let later = NOW + Duration::from_secs(12);
    let source = |silent| states.iter().map(move |state| Source { silent, ..Source::new(state) });
    fleet.refresh(later, Metric::Suspicion, source(None));
    assert_eq!(fleet.ranks[0].level, 2);
    assert_eq!(fleet.reason(later, &fleet.ranks[0]), "no heartbeat for 12 s");
    fleet.refresh(later, Metric::Suspicion, source(Some(Duration::from_secs(12))));
    assert_eq!(
        (fleet.ranks[0].level, fleet.ranks[0].beat_age),
        (0, None),
        "the node is silent, not the rank"
    );
}

#[test]
fn levels_are_kept_by_rank_when_others_come_and_go() {
    let mut fleet = fleet(&[node(0, 8, |rank| if rank == 5 { 97 } else { 100 })]);
    assert_eq!(fleet.rank(RankId { node: 0, local: 5 }).unwrap().level, 3, "three steps behind");
    // Ranks 0 and 1 are gone meanwhile, and rank 4 is as far behind as rank 5 is.
    let mut state = node(0, 8, |rank| if rank == 5 || rank == 4 { 97 } else { 100 });
    state.ranks.drain(..2);
    refresh(&mut fleet, &[state]);
    assert_eq!(fleet.rank(RankId { node: 0, local: 5 }).unwrap().level, 3);
    assert!(fleet.rank(RankId { node: 0, local: 0 }).is_none());
}

#[test]
fn the_worst_come_first_and_equals_by_number() {
    let fleet = fleet(&[node(0, 12, |rank| [100, 100, 60, 100][rank as usize % 4])]);
    let mut rows: Vec<u32> = (0..12).rev().collect();
    Order::Suspicion.sort(&fleet.ranks, &mut rows);
    assert_eq!(rows, [2, 6, 10, 0, 1, 3, 4, 5, 7, 8, 9, 11]);
    Order::Rank.sort(&fleet.ranks, &mut rows);
    assert!(rows.is_sorted());
    Order::Step.sort(&fleet.ranks, &mut rows);
    assert_eq!(rows[..4], [2, 6, 10, 0]);
}

#[test]
fn steps_that_are_told_later_are_no_lag() {
    // Ten steps a second; rank 5 was heard of 0.6 s before the others, then for longer than a look takes.
    let mut state = node(0, 8, |_| 0);
    let fact = Fact::GroupStarted { attempt: 0, world_size: Some(8) };
    state.apply(&Event { seq: 1, at: NOW, fact });
    let mut tell = |at_ms: u64, step: u64, ranks: std::ops::Range<u32>| {
        let at = NOW + Duration::from_millis(at_ms);
        let ranks = ranks.map(|local_rank| RankSample {
            local_rank,
            step: Some(step),
            step_at: Some(at),
            beat_at: Some(at),
            ..RankSample::default()
        });
        state.apply(&Event { seq: 2, at, fact: Fact::Sample { ranks: ranks.collect() } });
        fleet(std::slice::from_ref(&state)).rank(RankId { node: 0, local: 5 }).unwrap().figures.step_lag
    };
    tell(10_000, 100, 0..8);
    tell(20_000, 194, 5..6);
    tell(20_600, 200, 0..5);
    assert_eq!(tell(20_600, 200, 6..8), Some(0.0));
    tell(30_000, 294, 0..5);
    assert_eq!(tell(30_000, 294, 6..8), Some(100.0), "it stands");
}

#[test]
fn the_rank_that_failed_first_comes_first() {
    use crate::domain::cause::{Cause, CauseKind};
    let mut state = node(0, 4, |_| 100);
    let mut apply = |fact| state.apply(&Event { seq: 5, at: NOW, fact });
    apply(Fact::GroupStarted { attempt: 0, world_size: Some(4) });
    for local_rank in [1, 2] {
        let proc = ProcId { pid: 100 + local_rank as i32, start: 1 };
        apply(Fact::RankExited { local_rank, proc, rank: Some(local_rank), exit: Some(Exit::Code(1)) });
    }
    let cause = Cause {
        rank: Some(2),
        kind: CauseKind::ExitCode,
        text: "rank 2".into(),
        evidence: Vec::new(),
        hint: None,
    };
    apply(Fact::CauseFound { attempt: 0, cause });
    let fleet = fleet(&[state]);
    let suspects: Vec<_> = fleet.suspects().iter().map(|row| fleet.ranks[*row as usize].number()).collect();
    assert_eq!(suspects, [2, 1]);
}

#[test]
fn what_is_not_known_comes_last_in_every_order() {
    let unknown = |local| RankRow {
        id: RankId { node: 0, local },
        rank: None,
        state: RankState::Running,
        since: Stamp(0),
        ended_well: false,
        is_cause: false,
        figures: Figures::default(),
        step: None,
        step_at: None,
        rss_bytes: None,
        beat_age: None,
        score: 0.0,
        level: 0,
        heat: None,
    };
    // As large as another node may say.
    let figures = Figures { cpu_pct: Some(f32::MAX), gpu_pct: Some(100.0), ..Figures::default() };
    let known =
        RankRow { rank: Some(7), step: Some(5), rss_bytes: Some(u64::MAX), figures, level: 1, ..unknown(1) };
    let ranks = [unknown(0), known, unknown(2)];
    for order in Order::ALL {
        let mut rows = [0, 1, 2];
        order.sort(&ranks, &mut rows);
        assert_eq!(rows, [1, 0, 2], "by {}", order.name());
    }
}
