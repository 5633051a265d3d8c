//! NVML calls that the safe wrapper has not, or makes twice: process lists with a kept buffer, many fields in one
//! call, the driver's events.

use std::{mem, ptr};

use nvml_wrapper::{Device, Nvml, error::NvmlError};
use nvml_wrapper_sys::bindings::{
    NvmlLib, field_id, nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlEventTypeXidCriticalError,
    nvmlFieldValue_t, nvmlMemory_t, nvmlProcessInfo_t,
};

use crate::domain::gpu::{GpuProc, Remapped, Traffic};

/// The driver's library, as the loader finds it.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// Processes that a list has room for at first: more than anybody runs on one GPU.
const ROOM: usize = 64;
/// What NVML says for an amount or an instance that it does not know.
const UNKNOWN_BYTES: u64 = u64::MAX;
const UNKNOWN_INSTANCE: u32 = u32::MAX;
/// All NVLinks of a GPU together.
const ALL_LINKS: u32 = u32::MAX;

/// Loads the library, which asks nothing of the driver; it stays loaded as long as the value lives.
///
/// # Errors
/// The loader's words.
pub fn load() -> Result<NvmlLib, String> {
    #[expect(
        unsafe_code,
        reason = "the driver's own library; what runs when it is loaded is trusted as the driver is"
    )]
    unsafe { NvmlLib::new(LIBRARY) }.map_err(|error| error.to_string())
}

fn check(code: u32) -> Result<(), NvmlError> {
    if code == 0 { Ok(()) } else { Err(code.into()) }
}

fn symbol<T, E: ToString>(symbol: &Result<T, E>) -> Result<&T, NvmlError> {
    symbol.as_ref().map_err(|error| NvmlError::FailedToLoadSymbol(error.to_string()))
}

fn handle(device: &Device) -> nvmlDevice_t {
    #[expect(unsafe_code, reason = "the handle is only used while the device is borrowed, or compared")]
    unsafe {
        device.handle()
    }
}

/// What tells one device from another; good for comparing only.
pub fn id(device: &Device) -> usize {
    handle(device) as usize
}

/// A list of processes and the room for it, which stays.
#[derive(Debug)]
pub struct ProcessList {
    room: Vec<nvmlProcessInfo_t>,
}

impl ProcessList {
    /// An empty one.
    pub fn new() -> ProcessList {
        ProcessList {
            room: vec![
                nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 };
                ROOM
            ],
        }
    }

    /// The processes that compute on a device: one call. `None` when there were more than fit; there is room for them
    /// the next time.
    pub fn read(&mut self, nvml: &Nvml, device: &Device) -> Result<Option<Vec<GpuProc>>, NvmlError> {
        let call = symbol(&nvml.lib().nvmlDeviceGetComputeRunningProcesses_v3)?;
        let mut count = self.room.len() as u32;
        #[expect(
            unsafe_code,
            reason = "NVML writes at most `count` entries, which is how many there is room for"
        )]
        let code = unsafe { call(handle(device), &raw mut count, self.room.as_mut_ptr()) };
        match check(code) {
            Ok(()) => {}
            Err(NvmlError::InsufficientSize(_)) => {
                let empty = self.room[0];
                self.room.resize((count as usize).max(self.room.len()) + ROOM, empty);
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let told = self.room.iter().take(count as usize).map(|told| GpuProc {
            pid: told.pid as i32,
            used_bytes: Some(told.usedGpuMemory).filter(|bytes| *bytes != UNKNOWN_BYTES),
            gpu_instance_id: Some(told.gpuInstanceId).filter(|id| *id != UNKNOWN_INSTANCE),
        });
        Ok(Some(told.collect()))
    }
}

/// Memory by the older call, which counts the driver's own as used: total and used bytes.
pub fn memory_v1(nvml: &Nvml, device: &Device) -> Result<(u64, u64), NvmlError> {
    let call = symbol(&nvml.lib().nvmlDeviceGetMemoryInfo)?;
    let mut memory = nvmlMemory_t { total: 0, free: 0, used: 0 };
    #[expect(unsafe_code, reason = "NVML fills the struct of its first version")]
    check(unsafe { call(handle(device), &raw mut memory) })?;
    Ok((memory.total, memory.used))
}

/// The id of the GPU instance that a part of a GPU (MIG) is on.
pub fn gpu_instance_id(nvml: &Nvml, part: &Device) -> Result<u32, NvmlError> {
    let call = symbol(&nvml.lib().nvmlDeviceGetGpuInstanceId)?;
    let mut id = 0;
    #[expect(unsafe_code, reason = "NVML fills in a number")]
    check(unsafe { call(handle(part), &raw mut id) })?;
    Ok(id)
}

/// Figures that come in one call. `None` for each that the driver or the GPU does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// Memory errors corrected since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    /// … and those that could not be.
    pub ecc_uncorrected: Option<u64>,
    /// Rows of memory that were replaced.
    pub remapped: Option<Remapped>,
    /// What the driver wants done.
    pub recovery: Option<u32>,
    /// The enforced power limit.
    pub power_limit_mw: Option<u32>,
    /// Counters of bytes, when they were asked for.
    pub traffic: Option<Traffic>,
}

const HEALTH: [u32; 8] = [
    field_id::NVML_FI_DEV_ECC_SBE_VOL_TOTAL,
    field_id::NVML_FI_DEV_ECC_DBE_VOL_TOTAL,
    field_id::NVML_FI_DEV_REMAPPED_COR,
    field_id::NVML_FI_DEV_REMAPPED_UNC,
    field_id::NVML_FI_DEV_REMAPPED_PENDING,
    field_id::NVML_FI_DEV_REMAPPED_FAILURE,
    field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
    field_id::NVML_FI_DEV_POWER_CURRENT_LIMIT,
];
const BYTES: [u32; 4] = [
    field_id::NVML_FI_DEV_PCIE_COUNT_TX_BYTES,
    field_id::NVML_FI_DEV_PCIE_COUNT_RX_BYTES,
    field_id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX,
    field_id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX,
];

/// Reads the health of a device and, if wanted, its counters of bytes: one call.
pub fn fields(nvml: &Nvml, device: &Device, with_traffic: bool) -> Result<Fields, NvmlError> {
    let call = symbol(&nvml.lib().nvmlDeviceGetFieldValues)?;
    let wanted = HEALTH.iter().chain(BYTES.iter().filter(|_| with_traffic));
    let mut values: Vec<nvmlFieldValue_t> = wanted.map(|field| request(*field)).collect();
    let count = values.len() as i32;
    #[expect(unsafe_code, reason = "NVML fills as many entries as it is told of")]
    check(unsafe { call(handle(device), count, values.as_mut_ptr()) })?;
    let at = |place: usize| values.get(place).and_then(number);
    let flag = |place| at(place).map(|number| number != 0);
    let remapped = at(2).zip(at(3)).map(|(correctable, uncorrectable)| Remapped {
        correctable: correctable as u32,
        uncorrectable: uncorrectable as u32,
        pending: flag(4).unwrap_or(false),
        failed: flag(5).unwrap_or(false),
    });
    // NVML counts NVLink in KiB.
    let links = |place| at(place).map(|kib| kib.saturating_mul(1024));
    Ok(Fields {
        ecc_corrected: at(0),
        ecc_uncorrected: at(1),
        remapped,
        recovery: at(6).map(|action| action as u32),
        power_limit_mw: at(7).map(|milliwatts| milliwatts as u32),
        traffic: with_traffic.then(|| Traffic {
            pcie_tx_bytes: at(8),
            pcie_rx_bytes: at(9),
            nvlink_tx_bytes: links(10),
            nvlink_rx_bytes: links(11),
        }),
    })
}

fn request(field: u32) -> nvmlFieldValue_t {
    #[expect(unsafe_code, reason = "a struct of numbers and a union of numbers: zeros are valid")]
    let mut request: nvmlFieldValue_t = unsafe { mem::zeroed() };
    let is_link = BYTES[2..].contains(&field);
    (request.fieldId, request.scopeId) = (field, if is_link { ALL_LINKS } else { 0 });
    // What a driver does not touch because it does not know the field counts as unsupported.
    request.nvmlReturn = u32::MAX;
    request
}

/// The value, where there is one that counts something.
fn number(told: &nvmlFieldValue_t) -> Option<u64> {
    if told.nvmlReturn != 0 {
        return None;
    }
    #[expect(unsafe_code, reason = "every member of the union is a number, and all its bytes were set")]
    unsafe {
        match told.valueType {
            0 => Some(told.value.dVal).filter(|value| *value >= 0.0).map(|value| value as u64),
            1 => Some(u64::from(told.value.uiVal)),
            2 => Some(told.value.ulVal),
            3 => Some(told.value.ullVal),
            4 => u64::try_from(told.value.sllVal).ok(),
            5 => u64::try_from(told.value.siVal).ok(),
            6 => Some(u64::from(told.value.usVal)),
            _ => None,
        }
    }
}

/// Listens for Xids.
#[derive(Debug)]
pub struct XidEvents<'nvml> {
    nvml: &'nvml Nvml,
    set: nvmlEventSet_t,
}

impl<'nvml> XidEvents<'nvml> {
    /// Listens to these devices.
    ///
    /// # Errors
    /// No device has events that this user may hear of.
    pub fn of(nvml: &'nvml Nvml, devices: &[Device]) -> Result<XidEvents<'nvml>, NvmlError> {
        let (create, register) =
            (symbol(&nvml.lib().nvmlEventSetCreate)?, symbol(&nvml.lib().nvmlDeviceRegisterEvents)?);
        let mut set: nvmlEventSet_t = ptr::null_mut();
        #[expect(unsafe_code, reason = "NVML fills in the handle of a new set")]
        check(unsafe { create(&raw mut set) })?;
        let events = XidEvents { nvml, set };
        let mut outcome = Err(NvmlError::NotSupported);
        for device in devices {
            #[expect(unsafe_code, reason = "both handles are NVML's own and live")]
            let told = unsafe { register(handle(device), u64::from(nvmlEventTypeXidCriticalError), set) };
            outcome = check(told).or(outcome);
        }
        outcome.map(|()| events)
    }

    /// The next event that has come: which device, by [`id`], and the Xid. `None` when there is none; does not wait.
    ///
    /// # Errors
    /// The driver does not tell events any more.
    pub fn next(&self) -> Result<Option<(usize, u64)>, NvmlError> {
        let call = symbol(&self.nvml.lib().nvmlEventSetWait_v2)?;
        let mut told = nvmlEventData_t {
            device: ptr::null_mut(),
            eventType: 0,
            eventData: 0,
            gpuInstanceId: 0,
            computeInstanceId: 0,
        };
        #[expect(unsafe_code, reason = "the set is NVML's own and lives; NVML fills the struct")]
        match check(unsafe { call(self.set, &raw mut told, 0) }) {
            Ok(()) => Ok(Some((told.device as usize, told.eventData))),
            Err(NvmlError::Timeout) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for XidEvents<'_> {
    fn drop(&mut self) {
        if let Ok(free) = &self.nvml.lib().nvmlEventSetFree {
            #[expect(unsafe_code, reason = "the set is NVML's own, and nobody uses it after this")]
            // A set that cannot be freed is lost with the process.
            let _ = unsafe { free(self.set) };
        }
    }
}
