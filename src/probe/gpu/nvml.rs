//! Rounds of questions to NVML: at most nine calls for a GPU.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::{Clock, TemperatureSensor},
    error::NvmlError,
};

use super::{
    ROUND, Shared, Teller,
    holders::Who,
    raw::{self, Fields, ProcessList, XidEvents},
};
use crate::domain::gpu::{
    GpuInfo, GpuProc, GpuSample, GpuSource, MigInfo, MigSample, Reading, Status, XidSeen,
};

/// A driver that did not start is tried again after this time: somebody may be about to load it.
const AGAIN: Duration = Duration::from_secs(60);
/// Every so many rounds the figures are read that hardly ever change.
const HEALTH_EVERY: u64 = 10;
/// Every so many rounds a GPU that was lost is asked whether it is back.
const LOST_EVERY: u64 = 30;

/// Starts NVML and asks it until nobody wants answers any more.
pub fn ask(teller: &mut Teller) {
    while !teller.shared.is_over() {
        let began = Instant::now();
        match Nvml::init() {
            // Never shut down: the thread that listens for events has it too, and either may hang in it for ever.
            Ok(nvml) => return rounds(Box::leak(Box::new(nvml)), teller),
            Err(error) => teller.absent(why_not(&error)),
        }
        teller.shared.sleep_until(began + AGAIN);
    }
}

/// Why NVML did not start, and what to do.
fn why_not(error: &NvmlError) -> String {
    match error {
        NvmlError::DriverNotLoaded => "the NVIDIA driver is not loaded".into(),
        NvmlError::LibRmVersionMismatch => {
            "driver and library of NVIDIA have different versions: reboot, or load the new driver".into()
        }
        NvmlError::NoPermission => "this user may not talk to the NVIDIA driver".into(),
        error => format!("NVML does not start: {error}"),
    }
}

fn rounds(nvml: &'static Nvml, teller: &mut Teller) {
    let count = match nvml.device_count() {
        Ok(0) => return teller.absent("the NVIDIA driver knows no GPU".into()),
        Ok(count) => count,
        Err(error) => {
            return teller.absent(format!("the NVIDIA driver does not say how many GPUs there are: {error}"));
        }
    };
    let driver = nvml.sys_driver_version().ok();
    let mut gpus: Vec<Gpu> = (0..count).map(|index| Gpu::named(nvml, index)).collect();
    let reading = |gpus: &[Gpu]| Reading {
        status: Status::Answers,
        source: GpuSource::Nvml,
        driver: driver.clone(),
        gpus: gpus.iter().map(|gpu| gpu.info.clone()).collect(),
        ..Reading::default()
    };
    // Names first: details of eight GPUs take a while.
    teller.tell(reading(&gpus));
    listen(nvml, count, &teller.shared);
    gpus.iter_mut().for_each(|gpu| gpu.describe(nvml));
    let mut who = Who::default();
    let mut round = 0;
    loop {
        let began = Instant::now();
        round += 1;
        let with_traffic = teller.shared.counts_traffic();
        let samples: Vec<_> = gpus.iter_mut().map(|gpu| gpu.look(nvml, round, with_traffic)).collect();
        if round == 1 {
            // Somebody waits for figures, and to look hundreds of processes up takes a while.
            teller.tell(Reading { samples: samples.clone(), round, ..reading(&gpus) });
        }
        let holders = who.look(samples.iter().flat_map(|sample| sample.procs.iter().flatten()), began);
        teller.tell(Reading { samples, holders: Some(holders), round, ..reading(&gpus) });
        if !teller.shared.sleep_until(began + ROUND) {
            return;
        }
    }
}

/// Questions of a round. One that a GPU does not support is not asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Util,
    Memory,
    OldMemory,
    Temperature,
    Power,
    SmClock,
    MemClock,
    Throttle,
    Processes,
    Fields,
}

#[derive(Debug)]
struct Gpu {
    info: GpuInfo,
    device: Option<Device<'static>>,
    parts: Vec<Part>,
    lost: bool,
    unsupported: u32,
    list: ProcessList,
    procs: Option<Vec<GpuProc>>,
    fields: Fields,
    power_limit_mw: Option<u32>,
}

/// A part of a GPU (MIG).
#[derive(Debug)]
struct Part {
    device: Device<'static>,
    sample: MigSample,
    procs: Option<Vec<GpuProc>>,
}

impl Gpu {
    fn named(nvml: &'static Nvml, index: u32) -> Gpu {
        let found = nvml.device_by_index(index);
        let lost = found.as_ref().is_err_and(is_lost);
        let device = found.ok();
        let info = GpuInfo {
            index,
            uuid: device.as_ref().and_then(|device| device.uuid().ok()),
            name: device.as_ref().and_then(|device| device.name().ok()),
            ..GpuInfo::default()
        };
        Gpu {
            info,
            device,
            parts: Vec::new(),
            lost,
            unsupported: 0,
            list: ProcessList::new(),
            procs: None,
            fields: Fields::default(),
            power_limit_mw: None,
        }
    }

    /// What does not change, once.
    fn describe(&mut self, nvml: &'static Nvml) {
        let Some(device) = &self.device else { return };
        self.info.pci_bus_id = device.pci_info().ok().map(|pci| pci.bus_id);
        self.power_limit_mw = device.enforced_power_limit().ok();
        let is_split = device.mig_mode().is_ok_and(|mode| mode.current == 1);
        let most = if is_split { device.mig_device_count().unwrap_or(0) } else { 0 };
        let parts = (0..most).filter_map(|at| Some((at, device.mig_device_by_index(at).ok()?)));
        for (index, part) in parts.collect::<Vec<_>>() {
            self.info.mig.push(MigInfo {
                index,
                gpu_instance_id: raw::gpu_instance_id(nvml, &part).ok(),
                uuid: part.uuid().ok(),
                name: part.name().ok(),
            });
            let sample = MigSample { index, ..MigSample::default() };
            self.parts.push(Part { device: part, sample, procs: None });
        }
    }

    /// One answer. `None` for what is not supported and what failed.
    fn put<T>(
        &mut self,
        question: Question,
        ask: impl FnOnce(&mut Gpu, &Device) -> Result<T, NvmlError>,
    ) -> Option<T> {
        if self.lost || self.unsupported & (1 << question as u32) != 0 {
            return None;
        }
        // Taken out for the call, so that what is asked may keep its answer here.
        let device = self.device.take()?;
        let told = ask(self, &device);
        self.device = Some(device);
        match told {
            Ok(answer) => return Some(answer),
            Err(error) if is_lost(&error) => self.lost = true,
            Err(
                NvmlError::NotSupported
                | NvmlError::NoPermission
                | NvmlError::FunctionNotFound
                | NvmlError::FailedToLoadSymbol(_),
            ) => self.unsupported |= 1 << question as u32,
            Err(_) => {}
        }
        None
    }

    /// Nine calls at most; eight in most rounds.
    fn look(&mut self, nvml: &'static Nvml, round: u64, with_traffic: bool) -> GpuSample {
        if self.lost && round.is_multiple_of(LOST_EVERY) {
            // One question tells whether it is back.
            self.lost = false;
            if self.device.is_none() {
                *self = Gpu::named(nvml, self.info.index);
                self.describe(nvml);
            }
            self.put(Question::Temperature, |_, device| device.temperature(TemperatureSensor::Gpu));
            return self.sample(None, None);
        }
        let util_pct = self.put(Question::Util, |_, device| Ok(device.utilization_rates()?.gpu));
        let memory = self.put(Question::Memory, |_, device| {
            device.memory_info().map(|memory| (memory.total, memory.used))
        });
        let memory = memory.or_else(|| {
            self.is_old().then(|| self.put(Question::OldMemory, |_, d| raw::memory_v1(nvml, d)))?
        });
        let temp_c = self.put(Question::Temperature, |_, device| device.temperature(TemperatureSensor::Gpu));
        let power_mw = self.put(Question::Power, |_, device| device.power_usage());
        let sm_clock_mhz = self.put(Question::SmClock, |_, device| device.clock_info(Clock::SM));
        let mem_clock_mhz = self.put(Question::MemClock, |_, device| device.clock_info(Clock::Memory));
        let throttle =
            self.put(Question::Throttle, |_, device| Ok(device.current_throttle_reasons()?.bits()));
        if self.parts.is_empty() {
            if let Some(Some(procs)) =
                self.put(Question::Processes, |gpu, device| gpu.list.read(nvml, device))
            {
                self.procs = Some(procs);
            }
        } else {
            self.look_at_part(nvml, round);
        }
        if with_traffic || self.fields.traffic.is_some() || round % HEALTH_EVERY == 1 {
            self.fields = self
                .put(Question::Fields, |_, device| raw::fields(nvml, device, with_traffic))
                .unwrap_or_default();
        }
        let sample = GpuSample {
            util_pct,
            temp_c,
            power_mw,
            sm_clock_mhz,
            mem_clock_mhz,
            throttle,
            ..GpuSample::default()
        };
        self.sample(Some(sample), memory)
    }

    /// Whether the driver is too old for the newer question about memory.
    fn is_old(&self) -> bool {
        self.unsupported & (1 << Question::Memory as u32) != 0
    }

    /// Of the parts, one in each round: two calls. The whole GPU's utilisation and process list are not asked then.
    fn look_at_part(&mut self, nvml: &'static Nvml, round: u64) {
        if self.lost {
            return;
        }
        let at = (round % self.parts.len() as u64) as usize;
        let part = &mut self.parts[at];
        if let Ok(memory) = part.device.memory_info() {
            (part.sample.mem_used_bytes, part.sample.mem_total_bytes) =
                (Some(memory.used), Some(memory.total));
        }
        if let Ok(Some(procs)) = self.list.read(nvml, &part.device) {
            part.procs = Some(procs);
        }
        let known = self.parts.iter().filter_map(|part| part.procs.as_ref());
        self.procs =
            self.parts.iter().any(|part| part.procs.is_some()).then(|| known.flatten().copied().collect());
    }

    fn sample(&self, looked: Option<GpuSample>, memory: Option<(u64, u64)>) -> GpuSample {
        let looked = looked.filter(|_| !self.lost).unwrap_or_default();
        if self.lost {
            return GpuSample { index: self.info.index, lost: true, ..looked };
        }
        GpuSample {
            index: self.info.index,
            mem_total_bytes: memory.map(|(total, _)| total),
            mem_used_bytes: memory.map(|(_, used)| used),
            power_limit_mw: self.fields.power_limit_mw.or(self.power_limit_mw),
            ecc_corrected: self.fields.ecc_corrected,
            ecc_uncorrected: self.fields.ecc_uncorrected,
            remapped: self.fields.remapped,
            recovery: self.fields.recovery,
            traffic: self.fields.traffic,
            procs: self.procs.clone(),
            mig: self.parts.iter().map(|part| part.sample).collect(),
            ..looked
        }
    }
}

fn is_lost(error: &NvmlError) -> bool {
    matches!(error, NvmlError::GpuLost | NvmlError::ResetRequired)
}

/// Listens for Xids on a thread of its own: questions to a GPU that hangs shall not keep back why it does.
///
/// Events stay in their set until they are asked for, and whoever wants them takes them once a second: so nobody waits
/// for them inside of the library, some of which look for new ones fifty times a second.
fn listen(nvml: &'static Nvml, count: u32, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    let heard = move || {
        let devices: Vec<_> =
            (0..count).filter_map(|index| Some((index, nvml.device_by_index(index).ok()?))).collect();
        let ids: Vec<_> = devices.iter().map(|(index, device)| (raw::id(device), *index)).collect();
        let devices: Vec<_> = devices.into_iter().map(|(_, device)| device).collect();
        let Ok(events) = XidEvents::of(nvml, &devices) else { return };
        loop {
            match events.next() {
                Ok(Some((device, xid))) => {
                    let gpu = ids.iter().find(|(id, _)| *id == device).map(|(_, index)| *index);
                    shared.tell_xid(XidSeen { gpu, xid });
                    continue;
                }
                Ok(None) => {}
                // A GPU is lost; the others may still have something to tell.
                Err(error) if is_lost(&error) => {}
                Err(_) => return,
            }
            if !shared.sleep_until(Instant::now() + ROUND) {
                return;
            }
        }
    };
    // Without the thread there are no events, and all else works.
    let _ = thread::Builder::new().name("gpu-events".into()).spawn(heard);
}
