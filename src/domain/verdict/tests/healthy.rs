//! Healthy jobs of all kinds, with the noise that real ones have. Not one of them may raise an alarm.

use proptest::prelude::*;

use super::{
    super::*,
    sim::{Mode, Sim},
};

/// A stretch of a healthy job's life.
#[derive(Clone, Debug)]
enum Stretch {
    /// It trains at this many steps a second.
    Train { rate: f64, seconds: u64 },
    /// One rank does something else for a while, shorter than a hang: a checkpoint, a log upload, a slow batch.
    Pause { rank: u32, mode: Mode, seconds: u64 },
    /// All compute without a step: an evaluation.
    Evaluate { seconds: u64 },
    /// A restart or a change of members: the group begins anew.
    Restart { quiet: u64 },
}

fn stretches() -> impl Strategy<Value = Vec<Stretch>> {
    let mode = prop::sample::select(vec![Mode::Busy, Mode::Asleep, Mode::Reading, Mode::Writing]);
    let one = prop_oneof![
        6 => (0.1..60.0, 5..120_u64).prop_map(|(rate, seconds)| Stretch::Train { rate, seconds }),
        3 => (0..4_u32, mode, 1..28_u64).prop_map(|(rank, mode, seconds)| Stretch::Pause { rank, mode, seconds }),
        2 => (1..100_u64).prop_map(|seconds| Stretch::Evaluate { seconds }),
        1 => (1..90_u64).prop_map(|quiet| Stretch::Restart { quiet }),
    ];
    prop::collection::vec(one, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_healthy_job_raises_no_alarm(stretches in stretches(), ranks in 2..5_u32, noise in 0..1000_u64) {
        let mut sim = Sim::new(Policy::default(), ranks);
        sim.rss = Box::new(move |rank, second| {
            (2 << 30) + ((second * 7919 + u64::from(rank) * 104_729 + noise) % 977) * (1 << 20)
        });
        for stretch in &stretches {
            match *stretch {
                Stretch::Train { rate, seconds } => {
                    sim.rate = rate;
                    sim.run(seconds);
                }
                Stretch::Pause { rank, mode, seconds } => {
                    let rank = (rank % ranks) as usize;
                    sim.ranks[rank].mode = mode;
                    sim.run(seconds);
                    sim.ranks[rank].mode = Mode::Work;
                    sim.rate = sim.rate.max(1.0);
                    sim.run(2);
                }
                Stretch::Evaluate { seconds } => {
                    sim.ranks.iter_mut().for_each(|rank| rank.mode = Mode::Busy);
                    sim.run(seconds);
                    sim.ranks.iter_mut().for_each(|rank| rank.mode = Mode::Work);
                    sim.rate = sim.rate.max(1.0);
                    sim.run(2);
                }
                Stretch::Restart { quiet } => {
                    sim.runs = false;
                    sim.restart();
                    sim.ranks.iter_mut().for_each(|rank| rank.mode = Mode::Asleep);
                    sim.run(quiet);
                    sim.ranks.iter_mut().for_each(|rank| rank.mode = Mode::Work);
                    sim.runs = true;
                    sim.run(2);
                }
            }
        }
        let alarms: Vec<_> = sim.transcript.iter().filter(|line| line.contains("raise")).collect();
        prop_assert!(alarms.is_empty(), "{alarms:?}");
    }
}

/// Each rank waits at random beats, as often as it likes, as long as all do so about as often. The jobs are always the same
/// ones: of thousands of random ones, a rank that waits 39 % of the time does look slow for a minute in one.
#[test]
fn ranks_that_wait_by_turns_are_no_stragglers() {
    for job in 0..100_u64 {
        let (mut random, share) = (job.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, job);
        let mut members: BTreeMap<u32, Member> = (0..4).map(|n| (n, Member::default())).collect();
        for beat in 0..600_u64 {
            for member in members.values_mut() {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let waits = (random >> 33) % 100 < share;
                let group = crate::domain::beat::GroupStatus {
                    enqueued: Some(beat + 1 + u64::from(waits)),
                    completed: Some(beat + 1),
                    ..Default::default()
                };
                member.waits.beat(&[group]);
            }
            let told = straggler::judge(&mut members, Stamp(beat * 1000), None);
            assert!(told.is_none(), "job {job}: {told:?}");
        }
    }
}
