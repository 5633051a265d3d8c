//! What is known of GPUs: what they are, what a look at them shows, who holds their memory.
//!
//! Raw: counters stay cumulative, units are in the names, `None` is "the driver does not tell". Which rank has which
//! GPU is decided by [`join`], what is wrong by [`watch`], what belongs to nobody by [`leftover`].

pub mod fold;
pub mod join;
pub mod leftover;
pub mod report;
pub mod wait;
pub mod watch;
pub mod words;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{id::ProcId, tree::EnvFacts};

/// Where the figures come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuSource {
    /// NVML, the driver's library.
    Nvml,
    /// The program `nvidia-smi`, where the library cannot be loaded.
    NvidiaSmi,
    /// Nobody answers.
    #[default]
    #[serde(other)]
    None,
}

/// What does not change of a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuInfo {
    /// NVML's index: the order on the PCI bus.
    pub index: u32,
    /// `GPU-…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Name of the product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `00000000:18:00.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_bus_id: Option<String>,
    /// Its parts, where it is split (MIG).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mig: Vec<MigInfo>,
}

/// What does not change of a part of a GPU (MIG).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigInfo {
    /// Position among the GPU's parts.
    pub index: u32,
    /// Id of the GPU instance, by which process lists name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_instance_id: Option<u32>,
    /// `MIG-…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Name with the profile: `NVIDIA H200 MIG 1g.18gb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// One look at one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuSample {
    /// NVML's index.
    pub index: u32,
    /// Whether the driver says that the GPU has fallen off the bus or needs a reset.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// Share of the last sampling period in which a kernel ran, in percent. Not known of a GPU that is split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub util_pct: Option<u32>,
    /// Memory in use, the driver's own left out where it tells them apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_used_bytes: Option<u64>,
    /// Memory of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_total_bytes: Option<u64>,
    /// Temperature of the chip in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temp_c: Option<u32>,
    /// Power draw of the board.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_mw: Option<u32>,
    /// The power limit that is enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit_mw: Option<u32>,
    /// Clock of the multiprocessors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm_clock_mhz: Option<u32>,
    /// Clock of the memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_clock_mhz: Option<u32>,
    /// Why clocks are not higher, as NVML's bits; [`words::throttle`] reads them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle: Option<u64>,
    /// Memory errors that were corrected since the driver was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc_corrected: Option<u64>,
    /// Memory errors that could not be corrected since the driver was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc_uncorrected: Option<u64>,
    /// Rows of memory that were replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remapped: Option<Remapped>,
    /// What the driver wants done, by its number; [`words::recovery`] reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<u32>,
    /// Bytes over PCIe and NVLink; only while somebody looks at the rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// Processes that hold its memory; `None` where the driver does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub procs: Option<Vec<GpuProc>>,
    /// Its parts, as far as they were asked so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mig: Vec<MigSample>,
}

/// Rows of memory that were replaced by spare ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remapped {
    /// After errors that were corrected.
    pub correctable: u32,
    /// After errors that could not be corrected.
    pub uncorrectable: u32,
    /// A replacement waits for a reset.
    pub pending: bool,
    /// A replacement failed: no spare rows are left.
    pub failed: bool,
}

/// Cumulative counters; rates come from two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes sent over PCIe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcie_tx_bytes: Option<u64>,
    /// Bytes received over PCIe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcie_rx_bytes: Option<u64>,
    /// Bytes of data sent over all NVLinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvlink_tx_bytes: Option<u64>,
    /// Bytes of data received over all NVLinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvlink_rx_bytes: Option<u64>,
}

/// A process that holds memory of a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuProc {
    /// Process id as the driver tells it: in a container perhaps one of another pid namespace.
    pub pid: i32,
    /// What it holds; `None` where the driver does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// Id of the GPU instance that it runs on (MIG).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_instance_id: Option<u32>,
}

/// One look at a part of a GPU (MIG).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigSample {
    /// Position among the GPU's parts.
    pub index: u32,
    /// Memory in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_used_bytes: Option<u64>,
    /// Memory of the part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_total_bytes: Option<u64>,
}

/// An error that the driver told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XidSeen {
    /// NVML's index; `None` when it came from a GPU that is not known.
    pub gpu: Option<u32>,
    /// NVIDIA's number for the kind of error.
    pub xid: u64,
}

/// Who a process is that holds GPU memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Process id as the driver tells it.
    pub pid: i32,
    /// The process; `None` when there is none with this id here.
    pub proc: Option<ProcId>,
    /// The user it runs as.
    pub uid: Option<u32>,
    /// Its command, short and without secrets.
    pub command: String,
    /// Its parent, the parent's parent and so on.
    pub ancestors: Vec<i32>,
    /// What its environment says; `None` when it may not be read.
    pub env: Option<EnvFacts>,
    /// Whether one of its ancestors is an elastic agent.
    pub has_agent: bool,
}

/// How far the one who asks the driver has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Nothing has been heard yet.
    #[default]
    Unknown,
    /// There is a driver's library; it is being started, which can take seconds.
    Starting,
    /// It answers.
    Answers,
    /// Nobody does: why.
    Absent(String),
}

/// All that one round of questions told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// How far it is.
    pub status: Status,
    /// Who answered.
    pub source: GpuSource,
    /// Version of the driver.
    pub driver: Option<String>,
    /// What there is.
    pub gpus: Vec<GpuInfo>,
    /// One look at each; empty before the first.
    pub samples: Vec<GpuSample>,
    /// Who the processes on them are; `None` while that is looked up.
    pub holders: Option<Arc<[Holder]>>,
    /// Counts the rounds from 1; 0 before the first look.
    pub round: u64,
}

impl Reading {
    /// Tells answers of one driver apart, the later ones larger: the first round is told twice, before and after it is
    /// known who the processes are.
    pub fn seq(&self) -> (u64, bool) {
        (self.round, self.holders.is_some())
    }

    /// Who the processes on the GPUs are, as far as it was looked up.
    pub fn known_holders(&self) -> &[Holder] {
        self.holders.as_deref().unwrap_or_default()
    }
}
