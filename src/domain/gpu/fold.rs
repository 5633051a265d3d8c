//! GPUs in the state of a job: what is known, the last look, and what was seen before.

use serde::{Deserialize, Serialize};

use super::{
    GpuInfo, GpuSample, GpuSource,
    join::{JoinSource, RankGpus},
    leftover::Leftover,
};
use crate::domain::{series::Series, time::Stamp};

/// All GPUs of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gpus {
    /// Who answers.
    pub source: GpuSource,
    /// Version of the driver.
    #[serde(default)]
    pub driver: Option<String>,
    /// Why nobody answers, or why little is known.
    #[serde(default)]
    pub trouble: Option<String>,
    /// When the newest figures were taken: a driver that hangs makes them old.
    #[serde(default)]
    pub at: Option<Stamp>,
    /// By index.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
    /// Which rank has which.
    #[serde(default)]
    pub ranks: Vec<RankGpus>,
    /// Whether the driver names processes of another pid namespace.
    #[serde(default)]
    pub foreign_pids: bool,
    /// Who holds memory and belongs to no rank.
    #[serde(default)]
    pub leftovers: Vec<Leftover>,
}

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// What does not change.
    pub info: GpuInfo,
    /// The newest look.
    #[serde(default)]
    pub sample: GpuSample,
    /// Bytes in a second between the last two looks that counted them.
    #[serde(default)]
    pub rates: Option<Rates>,
    /// When the counters of `sample` were read.
    #[serde(default)]
    pub counted_at: Option<Stamp>,
    /// What was seen before.
    #[serde(default)]
    pub history: History,
}

/// Bytes in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Sent over PCIe.
    pub pcie_tx: Option<f32>,
    /// Received over PCIe.
    pub pcie_rx: Option<f32>,
    /// Data sent over all NVLinks.
    pub nvlink_tx: Option<f32>,
    /// Data received over all NVLinks.
    pub nvlink_rx: Option<f32>,
}

/// The figures of one GPU over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Utilisation in percent.
    pub util_pct: Series,
    /// Memory in use, in MiB.
    pub mem_mib: Series,
    /// Temperature in degrees Celsius.
    pub temp_c: Series,
    /// Power draw in watts.
    pub power_w: Series,
    /// Clock of the multiprocessors.
    pub sm_clock_mhz: Series,
    /// 100 while work is slowed down by heat or power brake, else 0.
    pub throttled_pct: Series,
}

impl Gpus {
    /// Takes in what there is. What was seen of a GPU before stays with its index.
    pub fn describe(
        &mut self,
        source: GpuSource,
        driver: Option<&String>,
        trouble: Option<&String>,
        gpus: &[GpuInfo],
    ) {
        (self.source, self.driver, self.trouble) = (source, driver.cloned(), trouble.cloned());
        let mut before = std::mem::take(&mut self.gpus);
        let one = |info: &GpuInfo| {
            let known = before.iter().position(|gpu| gpu.info.index == info.index);
            let known = known.map(|at| before.swap_remove(at)).unwrap_or_default();
            Gpu { info: info.clone(), ..known }
        };
        self.gpus = gpus.iter().map(one).collect();
    }

    /// Takes in a look.
    pub fn take(&mut self, at: Stamp, samples: &[GpuSample]) {
        self.at = Some(at);
        for sample in samples {
            if let Some(gpu) = self.gpus.iter_mut().find(|gpu| gpu.info.index == sample.index) {
                gpu.take(at, sample);
            }
        }
    }

    /// The GPU with this index.
    pub fn get(&self, index: u32) -> Option<&Gpu> {
        let here = self.gpus.get(index as usize).filter(|gpu| gpu.info.index == index);
        here.or_else(|| self.gpus.iter().find(|gpu| gpu.info.index == index))
    }

    /// The GPUs of the rank at this position.
    pub fn joined(&self, local_rank: u32) -> Option<&RankGpus> {
        // Nearly always all ranks have one.
        let here = self.ranks.get(local_rank as usize).filter(|rank| rank.local_rank == local_rank);
        here.or_else(|| self.ranks.iter().find(|rank| rank.local_rank == local_rank))
    }

    /// The first GPU of a rank, how many it has, and how that is known.
    pub fn of_rank(&self, local_rank: u32) -> Option<(&Gpu, usize, JoinSource)> {
        let joined = self.joined(local_rank)?;
        Some((self.get(*joined.gpus.first()?)?, joined.gpus.len(), joined.source))
    }
}

impl Gpu {
    fn take(&mut self, at: Stamp, sample: &GpuSample) {
        if let Some(traffic) = sample.traffic {
            let before = self.sample.traffic.zip(self.counted_at).filter(|(_, then)| at > *then);
            self.rates = before.map(|(before, then)| {
                let seconds = at.since(then).as_secs_f32();
                let rate = |now: Option<u64>, then: Option<u64>| {
                    now.zip(then).map(|(now, then)| now.saturating_sub(then) as f32 / seconds)
                };
                Rates {
                    pcie_tx: rate(traffic.pcie_tx_bytes, before.pcie_tx_bytes),
                    pcie_rx: rate(traffic.pcie_rx_bytes, before.pcie_rx_bytes),
                    nvlink_tx: rate(traffic.nvlink_tx_bytes, before.nvlink_tx_bytes),
                    nvlink_rx: rate(traffic.nvlink_rx_bytes, before.nvlink_rx_bytes),
                }
            });
            self.counted_at = Some(at);
        } else {
            // Nobody looks any more: an average over the time since would be no rate of now.
            (self.rates, self.counted_at) = (None, None);
        }
        self.history.take(at, sample);
        self.sample = sample.clone();
    }

    /// What a process holds of it, by the driver's list.
    pub fn held_by(&self, pid: i32) -> Option<u64> {
        let mut held = self.sample.procs.iter().flatten().filter(|proc| proc.pid == pid);
        held.try_fold(None::<u64>, |sum, proc| Some(Some(sum.unwrap_or(0) + proc.used_bytes?)))?
    }
}

impl History {
    fn take(&mut self, at: Stamp, sample: &GpuSample) {
        let throttled = sample.throttle.map(|bits| if bits & super::words::TROUBLE == 0 { 0 } else { 100 });
        let figures = [
            (&mut self.util_pct, sample.util_pct),
            (&mut self.mem_mib, sample.mem_used_bytes.map(|bytes| (bytes >> 20) as u32)),
            (&mut self.temp_c, sample.temp_c),
            (&mut self.power_w, sample.power_mw.map(|milliwatts| milliwatts / 1000)),
            (&mut self.sm_clock_mhz, sample.sm_clock_mhz),
            (&mut self.throttled_pct, throttled),
        ];
        for (series, value) in figures {
            if let Some(value) = value {
                series.push(at, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gpu::{GpuProc, Traffic};

    #[test]
    fn rates_need_two_looks_and_history_stays_with_the_index() {
        let mut gpus = Gpus::default();
        let info = |index| GpuInfo { index, ..GpuInfo::default() };
        gpus.describe(GpuSource::Nvml, None, None, &[info(0), info(1)]);
        let sample = |bytes: Option<u64>, util| GpuSample {
            index: 1,
            util_pct: Some(util),
            traffic: bytes.map(|bytes| Traffic { pcie_tx_bytes: Some(bytes), ..Traffic::default() }),
            procs: Some(vec![GpuProc { pid: 7, used_bytes: Some(5), gpu_instance_id: None }; 2]),
            ..GpuSample::default()
        };
        gpus.take(Stamp(10_000), &[sample(Some(1000), 50)]);
        assert_eq!(gpus.gpus[1].rates, None);
        gpus.take(Stamp(12_000), &[sample(Some(5000), 60)]);
        assert_eq!(gpus.gpus[1].rates.unwrap().pcie_tx, Some(2000.0));
        assert_eq!((gpus.gpus[1].held_by(7), gpus.gpus[1].held_by(8)), (Some(10), None));
        gpus.take(Stamp(13_000), &[sample(None, 70)]);
        assert_eq!(gpus.gpus[1].rates, None);
        gpus.describe(GpuSource::Nvml, None, None, &[info(1)]);
        assert_eq!(gpus.gpus.len(), 1);
        assert!(!gpus.gpus[0].history.util_pct.is_empty());
        let json = serde_json::to_string(&gpus).unwrap();
        assert_eq!(serde_json::from_str::<Gpus>(&json).unwrap(), gpus);
    }
}
