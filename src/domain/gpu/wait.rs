//! Whether GPU memory that dead jobs hold keeps ranks from being started.

use std::time::Duration;

use super::{Reading, Status, join, leftover};

/// How long a driver that does not answer is waited for.
const DRIVER_PATIENCE: Duration = Duration::from_secs(5);

/// Whether dead jobs hold memory of a GPU that the job can see.
#[derive(Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The driver has not told yet.
    Unknown,
    /// Not any more, or nobody can tell.
    No,
    /// They do: who.
    By(String),
    /// They do, and have been waited for long enough.
    Anyway(String),
}

/// What keeps ranks from being started, by an answer of the driver that came after the one with number `after`.
/// `visible` is `CUDA_VISIBLE_DEVICES` of the job.
pub fn blocked(
    reading: &Reading,
    after: u64,
    visible: Option<&str>,
    waited: Duration,
    limit: Duration,
) -> Blocked {
    match reading.status {
        Status::Absent(_) => return Blocked::No,
        _ if reading.round <= after || reading.holders.is_none() => {
            let patience = DRIVER_PATIENCE.min(limit);
            return if waited < patience { Blocked::Unknown } else { Blocked::No };
        }
        _ => {}
    }
    let visible = join::visible(visible, &reading.gpus);
    // Nobody of the job lives now: its former ranks are dead too.
    let mut left = leftover::find(reading, |_| false);
    left.retain(|left| left.gpus.iter().any(|gpu| visible.contains(gpu)));
    match leftover::sentence(&left) {
        None => Blocked::No,
        Some(who) if waited >= limit => Blocked::Anyway(who),
        Some(who) => Blocked::By(who),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        gpu::{GpuInfo, GpuProc, GpuSample, Holder},
        id::ProcId,
        sample::Place,
        tree::EnvFacts,
    };

    fn reading(round: u64, is_rank: bool) -> Reading {
        let place = Place { run_id: is_rank.then(|| "r".to_owned()), ..Place::default() };
        Reading {
            status: Status::Answers,
            round,
            gpus: vec![GpuInfo::default()],
            samples: vec![GpuSample {
                procs: Some(vec![GpuProc { pid: 7, used_bytes: Some(1 << 30), gpu_instance_id: None }]),
                ..GpuSample::default()
            }],
            holders: Some(
                [Holder {
                    pid: 7,
                    proc: Some(ProcId { pid: 7, start: 1 }),
                    env: Some(EnvFacts { place, has_local_rank: is_rank, ..EnvFacts::default() }),
                    ..Holder::default()
                }]
                .into(),
            ),
            ..Reading::default()
        }
    }

    #[test]
    fn only_dead_jobs_are_waited_for_and_not_for_ever() {
        let limit = Duration::from_secs(30);
        let at = |seconds, reading: &Reading| blocked(reading, 3, None, Duration::from_secs(seconds), limit);
        assert_eq!(at(0, &reading(3, true)), Blocked::Unknown, "what was seen before the ranks died");
        assert_eq!(at(5, &reading(3, true)), Blocked::No, "a driver that does not answer");
        let unnamed = Reading { holders: None, ..reading(4, true) };
        assert_eq!(at(0, &unnamed), Blocked::Unknown, "nobody knows yet who they are");
        assert_eq!(at(0, &reading(4, false)), Blocked::No, "somebody else's process");
        let who = "process 7 of a job that is over holds 1.0 GiB of GPU 0".to_owned();
        assert_eq!(at(29, &reading(4, true)), Blocked::By(who.clone()));
        assert_eq!(at(30, &reading(4, true)), Blocked::Anyway(who));
        let absent = Reading { status: Status::Absent(String::new()), ..Reading::default() };
        assert_eq!(at(0, &absent), Blocked::No);
        let hidden = blocked(&reading(4, true), 3, Some("1"), Duration::ZERO, limit);
        assert_eq!(hidden, Blocked::No, "the job does not see that GPU");
    }
}
