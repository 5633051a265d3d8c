//! Processes that hold GPU memory and belong to no rank of a job that runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Holder, Reading};
use crate::domain::id::ProcId;

/// Why a process is on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftoverKind {
    /// It was a rank, or was started by one, and no agent lives above it.
    DeadJob,
    /// It has nothing to do with an elastic job.
    #[serde(other)]
    Other,
}

/// A process that holds GPU memory and belongs to no rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// The process.
    #[serde(flatten)]
    pub proc: ProcId,
    /// The user it runs as.
    pub uid: Option<u32>,
    /// Its command, short and without secrets.
    pub command: String,
    /// Why it is here.
    pub reason: LeftoverKind,
    /// NVML's indices.
    pub gpus: Vec<u32>,
    /// What it held when it was listed, over all GPUs; `None` where the driver does not tell.
    pub used_bytes: Option<u64>,
}

impl Leftover {
    /// Whether it is the same trouble: amounts of memory change without news.
    pub fn is_same(&self, other: &Leftover) -> bool {
        (self.proc, self.reason, &self.gpus) == (other.proc, other.reason, &other.gpus)
    }
}

/// The processes that belong to no rank, by process id. `ours` knows the processes of this job; what descends from one
/// of them belongs to it too. What cannot be seen from here is not judged.
pub fn find(reading: &Reading, ours: impl Fn(i32) -> bool) -> Vec<Leftover> {
    let mut held: BTreeMap<i32, (Vec<u32>, Option<u64>)> = BTreeMap::new();
    for sample in &reading.samples {
        for proc in sample.procs.iter().flatten() {
            let (gpus, bytes) = held.entry(proc.pid).or_default();
            // Parts of a GPU list a process each for itself.
            if !gpus.contains(&sample.index) {
                gpus.push(sample.index);
            }
            *bytes = proc.used_bytes.map(|more| bytes.unwrap_or(0) + more).or(*bytes);
        }
    }
    let one = |holder: &Holder| {
        let proc = holder.proc?;
        let (gpus, used_bytes) = held.get(&holder.pid)?.clone();
        if ours(holder.pid) || holder.ancestors.iter().any(|pid| ours(*pid)) || holder.has_agent {
            return None;
        }
        let was_rank =
            holder.env.as_ref().is_some_and(|env| env.has_local_rank && env.place.run_id.is_some());
        let reason = if was_rank { LeftoverKind::DeadJob } else { LeftoverKind::Other };
        Some(Leftover { proc, uid: holder.uid, command: holder.command.clone(), reason, gpus, used_bytes })
    };
    let mut found: Vec<_> = reading.known_holders().iter().filter_map(one).collect();
    found.sort_by_key(|leftover| leftover.proc.pid);
    found
}

/// The leftovers of dead jobs in one sentence: `2 processes of jobs that are over hold 12.5 GiB of GPU 0, 3`; `None`
/// when there are none.
pub fn sentence(leftovers: &[Leftover]) -> Option<String> {
    let dead: Vec<_> = leftovers.iter().filter(|left| left.reason == LeftoverKind::DeadJob).collect();
    let first = dead.first()?;
    let mut gpus: Vec<u32> = dead.iter().flat_map(|left| left.gpus.iter().copied()).collect();
    gpus.sort_unstable();
    gpus.dedup();
    let gpus = gpus.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let bytes: u64 = dead.iter().filter_map(|left| left.used_bytes).sum();
    let amount =
        if bytes > 0 { format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)) } else { "memory".into() };
    Some(match dead.len() {
        1 => format!("process {} of a job that is over holds {amount} of GPU {gpus}", first.proc),
        count => format!("{count} processes of jobs that are over hold {amount} of GPU {gpus}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        gpu::{GpuProc, GpuSample},
        sample::Place,
        tree::EnvFacts,
    };

    fn holder(pid: i32, ancestors: &[i32], is_rank: bool, has_agent: bool) -> Holder {
        let place = Place { run_id: is_rank.then(|| "r".to_owned()), ..Place::default() };
        Holder {
            pid,
            proc: Some(ProcId { pid, start: 5 }),
            ancestors: ancestors.to_vec(),
            env: Some(EnvFacts { place, has_local_rank: is_rank, ..EnvFacts::default() }),
            has_agent,
            ..Holder::default()
        }
    }

    #[test]
    fn only_what_belongs_to_nobody_is_listed() {
        let gib = |n: u64| Some(n << 30);
        let held = |pid, used_bytes| GpuProc { pid, used_bytes, gpu_instance_id: None };
        let reading = Reading {
            samples: vec![
                GpuSample {
                    procs: Some(vec![held(10, gib(1)), held(11, gib(1)), held(20, gib(2)), held(30, gib(4))]),
                    ..GpuSample::default()
                },
                GpuSample {
                    index: 1,
                    procs: Some(vec![held(20, gib(3)), held(40, None), held(50, gib(9))]),
                    ..GpuSample::default()
                },
            ],
            holders: Some(
                [
                    holder(10, &[5, 1], true, true),
                    holder(11, &[10, 5, 1], true, true),
                    holder(20, &[1], true, false),
                    holder(30, &[8, 1], true, true),
                    holder(40, &[1], false, false),
                    Holder { proc: None, ..holder(50, &[], true, false) },
                ]
                .into(),
            ),
            ..Reading::default()
        };
        let found = find(&reading, |pid| pid == 10);
        let told: Vec<_> = found.iter().map(|left| (left.proc.pid, left.reason, left.used_bytes)).collect();
        assert_eq!(told, [(20, LeftoverKind::DeadJob, gib(5)), (40, LeftoverKind::Other, None)]);
        assert_eq!(found[0].gpus, [0, 1]);
        assert_eq!(sentence(&found).unwrap(), "process 20 of a job that is over holds 5.0 GiB of GPU 0, 1");
        assert_eq!(sentence(&found[1..]), None, "strangers are no alarm");
    }
}
