//! How many GPUs there are.

use std::{sync::mpsc, thread, time::Duration};

use nvml_wrapper::Nvml;

use super::smi;

/// How long the answers are waited for: a driver that is loaded for one question takes seconds, one that hangs
/// takes for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// The number of NVIDIA GPUs, from NVML, or from `nvidia-smi` where the library cannot be loaded.
///
/// `None` when neither answers within some seconds, which a machine without a driver does at once. Blocks.
pub fn count() -> Option<u32> {
    let (tell, answer) = mpsc::channel();
    // On a thread of its own: NVML has no time limit. One that hangs is left behind.
    thread::spawn(move || tell.send(by_nvml()));
    answer.recv_timeout(PATIENCE).ok().flatten().or_else(by_nvidia_smi)
}

fn by_nvml() -> Option<u32> {
    Nvml::init().ok()?.device_count().ok()
}

fn by_nvidia_smi() -> Option<u32> {
    smi::output(&["-L"], PATIENCE).ok().map(|text| count_listed(&text))
}

/// The GPUs in what `nvidia-smi -L` prints; parts of a GPU (MIG) are indented below it and do not count.
fn count_listed(text: &str) -> u32 {
    text.lines().filter(|line| line.starts_with("GPU ")).count() as u32
}

/// How many of `total` GPUs CUDA shows to a process with this `CUDA_VISIBLE_DEVICES`, as CUDA itself reads it:
/// the list ends at the first entry that is no GPU.
pub fn visible(total: u32, cuda_visible_devices: Option<&str>) -> u32 {
    let Some(list) = cuda_visible_devices else { return total };
    let is_gpu = |entry: &&str| {
        let entry = entry.trim();
        entry.parse::<u32>().is_ok_and(|index| index < total)
            || entry.starts_with("GPU-")
            || entry.starts_with("MIG-")
    };
    list.split(',').take_while(is_gpu).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_gpu_are_not_counted() {
        let text = "GPU 0: NVIDIA H200 (UUID: GPU-1)\n  MIG 1g.18gb Device 0: (UUID: MIG-2)\nGPU 1: NVIDIA H200 (UUID: GPU-3)\n";
        assert_eq!(count_listed(text), 2);
        assert_eq!(count_listed("No devices found.\n"), 0);
    }

    #[test]
    fn visible_devices_end_at_the_first_that_is_none() {
        for (list, count) in [
            (None, 8),
            (Some("0,1"), 2),
            (Some(""), 0),
            (Some("-1"), 0),
            (Some("3, 9,1"), 1),
            (Some("GPU-a,MIG-b"), 2),
        ] {
            assert_eq!(visible(8, list), count, "{list:?}");
        }
    }
}
