//! GPUs in `status --json`. A contract, as all of it: fields are added, never renamed; unknown is null.

use serde::Serialize;

use super::{
    GpuSource,
    fold::{Gpu, Gpus},
    join::JoinSource,
    leftover::LeftoverKind,
    words,
};
use crate::domain::{state::Rank, time::Stamp};

/// `gpus` in `status --json`.
#[derive(Debug, Serialize)]
pub struct GpusReport {
    /// `nvml`, `nvidia_smi` or `none`.
    pub source: GpuSource,
    /// Version of the driver.
    pub driver: Option<String>,
    /// Why nobody answers.
    pub trouble: Option<String>,
    /// Seconds since the figures were taken: more than some seconds means that the driver does not answer.
    pub age_s: Option<f64>,
    /// Whether the driver names processes of another pid namespace.
    pub foreign_pids: bool,
    /// All GPUs of the node, or of all nodes that were asked.
    pub gpus: Vec<GpuReport>,
    /// Processes that hold GPU memory and belong to no rank.
    pub leftovers: Vec<LeftoverReport>,
}

/// One GPU.
#[derive(Debug, Serialize)]
pub struct GpuReport {
    /// The node, where several were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// NVML's index.
    pub index: u32,
    /// `GPU-…`.
    pub uuid: Option<String>,
    /// Name of the product.
    pub name: Option<String>,
    /// Address on the PCI bus.
    pub pci_bus_id: Option<String>,
    /// Whether it has fallen off the bus or needs a reset.
    pub lost: bool,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// Memory errors that were corrected since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    /// … and those that could not be.
    pub ecc_uncorrected: Option<u64>,
    /// Rows of memory that were replaced.
    pub remapped_rows: Option<super::Remapped>,
    /// What the driver wants done, in words.
    pub recovery_action: Option<String>,
    /// Its parts (MIG).
    pub mig: Vec<MigReport>,
}

/// A part of a GPU (MIG).
#[derive(Debug, Serialize)]
pub struct MigReport {
    /// Position among the parts.
    pub index: u32,
    /// `MIG-…`.
    pub uuid: Option<String>,
    /// Name with the profile.
    pub name: Option<String>,
    /// Memory in use.
    pub mem_used_bytes: Option<u64>,
    /// Memory of the part.
    pub mem_total_bytes: Option<u64>,
}

/// The figures of one look.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Share of time in which a kernel ran.
    pub util_pct: Option<u32>,
    /// Memory in use.
    pub mem_used_bytes: Option<u64>,
    /// Memory of the device.
    pub mem_total_bytes: Option<u64>,
    /// Temperature.
    pub temp_c: Option<u32>,
    /// Power draw.
    pub power_w: Option<f64>,
    /// Enforced power limit.
    pub power_limit_w: Option<f64>,
    /// Clock of the multiprocessors.
    pub sm_clock_mhz: Option<u32>,
    /// Clock of the memory.
    pub mem_clock_mhz: Option<u32>,
    /// Why clocks are not higher, in words; null when it is not known.
    pub throttle: Option<Vec<&'static str>>,
}

/// `gpu` of a rank in `status --json`: its first GPU.
#[derive(Debug, Serialize)]
pub struct RankGpuReport {
    /// NVML's index.
    pub index: u32,
    /// `GPU-…`.
    pub uuid: Option<String>,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// What the rank's process holds of its memory.
    pub proc_mem_bytes: Option<u64>,
    /// All GPUs of the rank.
    pub indices: Vec<u32>,
    /// How it is known that this is the rank's.
    pub source: JoinSource,
}

/// A process that holds GPU memory and belongs to no rank.
#[derive(Debug, Serialize)]
pub struct LeftoverReport {
    /// The node, where several were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: Option<u32>,
    /// Its command, short and without secrets.
    pub command: String,
    /// `dead_job` or `other`.
    pub reason: LeftoverKind,
    /// NVML's indices.
    pub gpus: Vec<u32>,
    /// What it held when it was listed.
    pub used_bytes: Option<u64>,
}

impl GpusReport {
    /// The report on all GPUs as of `now`.
    pub fn new(gpus: &Gpus, now: Stamp) -> GpusReport {
        GpusReport {
            source: gpus.source,
            driver: gpus.driver.clone(),
            trouble: gpus.trouble.clone(),
            age_s: gpus.at.map(|at| now.since(at).as_secs_f64()),
            foreign_pids: gpus.foreign_pids,
            gpus: gpus.gpus.iter().map(GpuReport::new).collect(),
            leftovers: gpus
                .leftovers
                .iter()
                .map(|left| LeftoverReport {
                    node: None,
                    pid: left.proc.pid,
                    uid: left.uid,
                    command: left.command.clone(),
                    reason: left.reason,
                    gpus: left.gpus.clone(),
                    used_bytes: left.used_bytes,
                })
                .collect(),
        }
    }
}

impl GpusReport {
    /// What several nodes report, as one: each GPU with its node. The age is that of the oldest figures, and what is
    /// wrong anywhere is told with the node. `None` when no node told of GPUs.
    pub fn join(reports: Vec<(String, GpusReport)>) -> Option<GpusReport> {
        let mut whole: Option<GpusReport> = None;
        for (host, mut report) in reports {
            report.gpus.iter_mut().for_each(|gpu| gpu.node = Some(host.clone()));
            report.leftovers.iter_mut().for_each(|left| left.node = Some(host.clone()));
            report.trouble = report.trouble.map(|trouble| format!("{host}: {trouble}"));
            let Some(whole) = &mut whole else {
                whole = Some(report);
                continue;
            };
            // A node without GPUs says nothing about those that have some.
            if whole.gpus.is_empty() && !report.gpus.is_empty() {
                (whole.source, whole.driver) = (report.source, report.driver);
            }
            whole.age_s = [whole.age_s, report.age_s].into_iter().flatten().reduce(f64::max);
            whole.foreign_pids |= report.foreign_pids;
            whole.trouble = match (whole.trouble.take(), report.trouble) {
                (Some(one), Some(other)) => Some(format!("{one}; {other}")),
                (one, other) => one.or(other),
            };
            whole.gpus.extend(report.gpus);
            whole.leftovers.extend(report.leftovers);
        }
        whole
    }
}

impl GpuReport {
    fn new(gpu: &Gpu) -> GpuReport {
        let (info, sample) = (&gpu.info, &gpu.sample);
        let part = |part: &super::MigInfo| {
            let look = sample.mig.iter().find(|look| look.index == part.index);
            MigReport {
                index: part.index,
                uuid: part.uuid.clone(),
                name: part.name.clone(),
                mem_used_bytes: look.and_then(|look| look.mem_used_bytes),
                mem_total_bytes: look.and_then(|look| look.mem_total_bytes),
            }
        };
        GpuReport {
            node: None,
            index: info.index,
            uuid: info.uuid.clone(),
            name: info.name.clone(),
            pci_bus_id: info.pci_bus_id.clone(),
            lost: sample.lost,
            figures: Figures::new(gpu),
            ecc_corrected: sample.ecc_corrected,
            ecc_uncorrected: sample.ecc_uncorrected,
            remapped_rows: sample.remapped,
            recovery_action: sample.recovery.map(words::recovery),
            mig: info.mig.iter().map(part).collect(),
        }
    }
}

impl Figures {
    fn new(gpu: &Gpu) -> Figures {
        let sample = &gpu.sample;
        let watts = |milliwatts: u32| f64::from(milliwatts / 100) / 10.0;
        Figures {
            util_pct: sample.util_pct,
            mem_used_bytes: sample.mem_used_bytes,
            mem_total_bytes: sample.mem_total_bytes,
            temp_c: sample.temp_c,
            power_w: sample.power_mw.map(watts),
            power_limit_w: sample.power_limit_mw.map(watts),
            sm_clock_mhz: sample.sm_clock_mhz,
            mem_clock_mhz: sample.mem_clock_mhz,
            throttle: sample.throttle.map(words::throttle),
        }
    }
}

impl RankGpuReport {
    /// The report on a rank's first GPU; `None` when it has none or it is not known.
    pub fn new(gpus: &Gpus, rank: &Rank) -> Option<RankGpuReport> {
        let joined = gpus.ranks.iter().find(|joined| joined.local_rank == rank.local_rank)?;
        let gpu = gpus.get(*joined.gpus.first()?)?;
        Some(RankGpuReport {
            index: gpu.info.index,
            uuid: gpu.info.uuid.clone(),
            figures: Figures::new(gpu),
            proc_mem_bytes: gpu.held_by(rank.proc.pid),
            indices: joined.gpus.clone(),
            source: joined.source,
        })
    }
}
