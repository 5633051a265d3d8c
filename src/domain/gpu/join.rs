//! Which rank has which GPU.
//!
//! By the driver's process lists where they name the rank; else by the devices that the rank's environment shows it.
//! Where the driver names processes of another pid namespace, the convention that a rank uses the device of its local
//! rank is all there is, and is told as that.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{GpuInfo, Reading};

/// How a rank's GPU was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinSource {
    /// The driver lists the rank's process on it.
    NvmlPids,
    /// `CUDA_VISIBLE_DEVICES` of the rank, and its place in that list.
    CudaVisibleDevices,
    /// Assumed: the device of its local rank.
    LocalRank,
    /// A way that a newer elastictop knows.
    #[serde(other)]
    Unknown,
}

impl JoinSource {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            JoinSource::NvmlPids => "by the driver's process list",
            JoinSource::CudaVisibleDevices => "by CUDA_VISIBLE_DEVICES",
            JoinSource::LocalRank => "assumed by its local rank",
            JoinSource::Unknown => "in an unknown way",
        }
    }
}

/// The GPUs of one rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankGpus {
    /// Position of the rank on its node.
    pub local_rank: u32,
    /// Its process.
    pub pid: i32,
    /// NVML's indices, at least one.
    pub gpus: Vec<u32>,
    /// How they were found.
    pub source: JoinSource,
}

/// What bears on a living rank's GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RankFacts {
    /// Position on the node.
    pub local_rank: u32,
    /// Its process.
    pub pid: i32,
    /// `LOCAL_RANK` as written: 0 everywhere under `--virtual-local-rank`.
    pub env_local_rank: Option<u32>,
    /// `CUDA_VISIBLE_DEVICES` as written; `None` when it is not set or may not be read.
    pub cuda_visible_devices: Option<String>,
}

/// The GPUs of the ranks that live. What was known before of the same processes stays where nothing better is known:
/// a process keeps its GPU until it ends.
pub fn join(ranks: &[RankFacts], reading: &Reading, foreign: bool, before: &[RankGpus]) -> Vec<RankGpus> {
    let lists = Lists::of(reading);
    let former: HashMap<i32, &RankGpus> = before.iter().map(|known| (known.pid, known)).collect();
    let one = |rank: &RankFacts| {
        let found = |gpus: Vec<u32>, source| {
            let (local_rank, pid) = (rank.local_rank, rank.pid);
            (!gpus.is_empty()).then_some(RankGpus { local_rank, pid, gpus, source })
        };
        let kept = || former.get(&rank.pid).filter(|known| known.source == JoinSource::NvmlPids);
        found(lists.gpus_of(rank.pid), JoinSource::NvmlPids)
            .or_else(|| kept().map(|known| (*known).clone()))
            .or_else(|| found(by_devices(rank, &reading.gpus), JoinSource::CudaVisibleDevices))
            .or_else(|| found(by_position(rank, &reading.gpus, foreign), JoinSource::LocalRank))
    };
    ranks.iter().filter_map(one).collect()
}

/// Whether the driver names processes, and none of them exists here: another pid namespace than the driver's.
pub fn names_strangers_only(reading: &Reading) -> bool {
    let holders = reading.known_holders();
    !holders.is_empty() && holders.iter().all(|holder| holder.proc.is_none())
}

/// The driver's process lists, by process.
struct Lists {
    /// The GPUs that list a process.
    on: HashMap<i32, Vec<u32>>,
    /// The processes on GPUs that a process is, or started.
    below: HashMap<i32, Vec<i32>>,
}

impl Lists {
    fn of(reading: &Reading) -> Lists {
        let mut lists = Lists { on: HashMap::new(), below: HashMap::new() };
        for sample in &reading.samples {
            for held in sample.procs.iter().flatten() {
                let gpus = lists.on.entry(held.pid).or_default();
                if gpus.last() != Some(&sample.index) {
                    gpus.push(sample.index);
                }
            }
        }
        if reading.holders.is_none() {
            // Nobody knows yet who started whom; a rank that holds memory itself is told by its number.
            lists.below = lists.on.keys().map(|pid| (*pid, vec![*pid])).collect();
        }
        for holder in reading.known_holders().iter().filter(|holder| holder.proc.is_some()) {
            for pid in holder.ancestors.iter().copied().chain([holder.pid]) {
                lists.below.entry(pid).or_default().push(holder.pid);
            }
        }
        lists
    }

    fn gpus_of(&self, pid: i32) -> Vec<u32> {
        let below = self.below.get(&pid).map(Vec::as_slice).unwrap_or_default();
        // A rank whose helper computes for it has no memory of its own.
        let counted = if below.contains(&pid) { &[pid][..] } else { below };
        let mut gpus: Vec<u32> =
            counted.iter().filter_map(|pid| self.on.get(pid)).flatten().copied().collect();
        gpus.sort_unstable();
        gpus.dedup();
        gpus
    }
}

/// The devices that CUDA shows with this `CUDA_VISIBLE_DEVICES`: all without one. It ends the list at the first entry
/// that is no device.
pub fn visible(list: Option<&str>, gpus: &[GpuInfo]) -> Vec<u32> {
    match list {
        None => gpus.iter().map(|gpu| gpu.index).collect(),
        Some(list) => list.split(',').map_while(|entry| device(entry.trim(), gpus)).collect(),
    }
}

fn by_devices(rank: &RankFacts, gpus: &[GpuInfo]) -> Vec<u32> {
    let Some(list) = &rank.cuda_visible_devices else { return Vec::new() };
    let devices = visible(Some(list), gpus);
    let at = rank.env_local_rank.unwrap_or(0) as usize;
    let found = if list.contains(',') { devices.get(at) } else { devices.first() };
    found.copied().into_iter().collect()
}

fn device(entry: &str, gpus: &[GpuInfo]) -> Option<u32> {
    if let Ok(index) = entry.parse::<u32>() {
        return gpus.iter().map(|gpu| gpu.index).find(|known| *known == index);
    }
    // CUDA takes the beginning of a name where it fits one device only.
    let named = |name: &Option<String>| name.as_deref().is_some_and(|name| name.starts_with(entry));
    let fits = |gpu: &&GpuInfo| match entry {
        _ if entry.starts_with("GPU-") => named(&gpu.uuid),
        _ if entry.starts_with("MIG-") => gpu.mig.iter().any(|part| named(&part.uuid)),
        _ => false,
    };
    let mut fitting = gpus.iter().filter(fits);
    fitting.next().filter(|_| fitting.next().is_none()).map(|gpu| gpu.index)
}

fn by_position(rank: &RankFacts, gpus: &[GpuInfo], foreign: bool) -> Vec<u32> {
    let at = rank.env_local_rank.unwrap_or(rank.local_rank);
    // A list that shows no device is an answer too.
    let may_assume = foreign && rank.cuda_visible_devices.is_none();
    gpus.iter().filter(|gpu| may_assume && gpu.index == at).map(|gpu| gpu.index).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        gpu::{GpuProc, GpuSample, Holder, MigInfo},
        id::ProcId,
    };

    fn reading(on: &[&[i32]]) -> Reading {
        let sample = |(index, pids): (usize, &&[i32])| GpuSample {
            index: index as u32,
            procs: Some(pids.iter().map(|pid| GpuProc { pid: *pid, ..GpuProc::default() }).collect()),
            ..GpuSample::default()
        };
        let pids = on.iter().flat_map(|pids| pids.iter());
        Reading {
            gpus: (0..on.len() as u32)
                .map(|index| GpuInfo {
                    index,
                    uuid: Some(format!("GPU-{index}aaa")),
                    mig: vec![MigInfo { uuid: Some(format!("MIG-{index}bbb")), ..MigInfo::default() }],
                    ..GpuInfo::default()
                })
                .collect(),
            samples: on.iter().enumerate().map(sample).collect(),
            holders: Some(
                pids.map(|pid| Holder {
                    pid: *pid,
                    proc: (*pid < 1000).then_some(ProcId { pid: *pid, start: 1 }),
                    ancestors: vec![pid / 10, 1],
                    ..Holder::default()
                })
                .collect(),
            ),
            ..Reading::default()
        }
    }

    fn rank(local_rank: u32, pid: i32, local: u32, visible: Option<&str>) -> RankFacts {
        let cuda_visible_devices = visible.map(str::to_owned);
        RankFacts { local_rank, pid, env_local_rank: Some(local), cuda_visible_devices }
    }

    fn joined(ranks: &[RankFacts], reading: &Reading, foreign: bool) -> Vec<(u32, Vec<u32>, JoinSource)> {
        let found = join(ranks, reading, foreign, &[]);
        found.into_iter().map(|rank| (rank.local_rank, rank.gpus, rank.source)).collect()
    }

    #[test]
    fn the_drivers_lists_come_first() {
        let ranks = [rank(0, 50, 0, Some("0")), rank(1, 51, 1, None), rank(2, 52, 2, None)];
        // 511 is a child of 51; 52 holds nothing.
        let found = joined(&ranks, &reading(&[&[511], &[50], &[50, 7]]), false);
        assert_eq!(found, [(0, vec![1, 2], JoinSource::NvmlPids), (1, vec![0], JoinSource::NvmlPids)]);
    }

    #[test]
    fn visible_devices_are_read_as_cuda_does() {
        for (visible, local, gpu) in [
            ("3,2,1", 1, Some(2)),
            ("2", 7, Some(2)),
            (" GPU-1aa , 0", 0, Some(1)),
            ("GPU-,0", 0, None),
            ("MIG-2b", 0, Some(2)),
            ("", 0, None),
            ("-1", 0, None),
            ("0,9,1", 2, None),
        ] {
            let found = joined(&[rank(5, 77, local, Some(visible))], &reading(&[&[], &[], &[], &[]]), false);
            let wanted: Vec<_> =
                gpu.map(|gpu| (5, vec![gpu], JoinSource::CudaVisibleDevices)).into_iter().collect();
            assert_eq!(found, wanted, "{visible:?} {local}");
        }
    }

    #[test]
    fn positions_are_only_assumed_across_pid_namespaces() {
        let (ranks, seen) = ([rank(1, 77, 1, None)], reading(&[&[4711], &[4712]]));
        assert!(names_strangers_only(&seen) && !names_strangers_only(&reading(&[&[50, 4711]])));
        assert_eq!(joined(&ranks, &seen, false), []);
        assert_eq!(joined(&ranks, &seen, true), [(1, vec![1], JoinSource::LocalRank)]);
        assert_eq!(joined(&[rank(1, 77, 1, Some(""))], &seen, true), [], "no device is visible to it");
    }

    #[test]
    fn a_process_keeps_its_gpu() {
        let ranks = [rank(0, 50, 0, Some("0"))];
        let first = join(&ranks, &reading(&[&[], &[50]]), false, &[]);
        assert_eq!(join(&ranks, &reading(&[&[], &[]]), false, &first), first);
        let other = [rank(0, 60, 0, Some("0"))];
        assert_eq!(
            join(&other, &reading(&[&[], &[]]), false, &first)[0].source,
            JoinSource::CudaVisibleDevices
        );
    }

    proptest! {
        #[test]
        fn any_list_of_devices_is_read(list: String, local: u32) {
            for gpu in by_devices(&rank(0, 1, local, Some(&list)), &reading(&[&[], &[]]).gpus) {
                prop_assert!(gpu < 2);
            }
        }
    }
}
