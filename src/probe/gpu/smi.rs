//! `nvidia-smi`, where NVML cannot be loaded: a binary that is linked statically cannot load a library at all.

use std::{
    io::{self, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::{Teller, holders::Who};
use crate::{
    domain::{
        gpu::{GpuInfo, GpuProc, GpuSample, GpuSource, Reading, Status},
        id::ProcId,
    },
    probe::{
        proc::{self, ROOT},
        signal,
    },
};

const SIGKILL: i32 = 9;

/// Between two rounds: each starts two processes, which attach to all GPUs.
const ROUND: Duration = Duration::from_secs(5);
/// One that takes longer hangs, and is killed.
const PATIENCE: Duration = Duration::from_secs(15);
/// After this many rounds without an answer, questions become rare.
const PATIENT_ROUNDS: u32 = 3;
const SELDOM: Duration = Duration::from_secs(60);

/// What is asked of each GPU. The names are those of the oldest driver that has them; new drivers know them too.
const COLUMNS: [&str; 13] = [
    "index",
    "uuid",
    "name",
    "pci.bus_id",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "temperature.gpu",
    "power.draw",
    "power.limit",
    "clocks.sm",
    "clocks.mem",
    "clocks_throttle_reasons.active",
];

/// Asks until nobody wants answers any more. `why` says why NVML was not asked.
pub fn ask(teller: &mut Teller, why: &str) {
    let (mut who, mut round, mut failed) = (Who::default(), 0, 0);
    while !teller.shared.is_over() {
        let began = Instant::now();
        match one_round() {
            Ok((gpus, samples)) => {
                (round, failed) = (round + 1, 0);
                let holders =
                    who.look(samples.iter().flat_map(|sample| sample.procs.iter().flatten()), began);
                teller.tell(Reading {
                    status: Status::Answers,
                    source: GpuSource::NvidiaSmi,
                    gpus,
                    samples,
                    holders: Some(holders),
                    round,
                    ..Reading::default()
                });
            }
            Err(Failure::Missing) => {
                return teller
                    .absent(format!("no NVIDIA driver was found: {why}, and there is no nvidia-smi"));
            }
            Err(Failure::Said(said)) => {
                failed += 1;
                // One answer that fails leaves the last one, which shows its age.
                if round == 0 || failed >= PATIENT_ROUNDS {
                    teller.absent(format!("nvidia-smi {said}"));
                }
            }
        }
        let pause = if failed >= PATIENT_ROUNDS { SELDOM } else { ROUND };
        if !teller.shared.sleep_until(began + pause) {
            return;
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no such program.
    Missing,
    /// It hung or failed: the end of a sentence that starts with its name.
    Said(String),
}

fn one_round() -> Result<(Vec<GpuInfo>, Vec<GpuSample>), Failure> {
    let columns = format!("--query-gpu={}", COLUMNS.join(","));
    let text = output(&[&columns, "--format=csv,noheader,nounits"], PATIENCE)?;
    let (gpus, mut samples) = read_gpus(&text);
    if gpus.is_empty() {
        return Err(Failure::Said("lists no GPU".into()));
    }
    // In a container it may name none; then there is no list rather than an empty one.
    let apps = "--query-compute-apps=gpu_uuid,pid,used_memory";
    if let Ok(text) = output(&[apps, "--format=csv,noheader,nounits"], PATIENCE) {
        put_processes(&text, &gpus, &mut samples);
    }
    Ok((gpus, samples))
}

/// What `nvidia-smi` prints; it is killed when that takes too long.
///
/// # Errors
/// [`Failure`].
pub fn output(args: &[&str], patience: Duration) -> Result<String, Failure> {
    let said = |what: &str| Failure::Said(what.to_owned());
    let mut child = Command::new("nvidia-smi")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::Missing,
            _ => Failure::Said(format!("cannot be started: {error}")),
        })?;
    let proc = proc::identify(Path::new(ROOT), child.id() as i32);
    let Some(mut stdout) = child.stdout.take() else {
        end(child, proc);
        return Err(said("cannot be read"));
    };
    let (tell, answer) = mpsc::channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        tell.send(stdout.read_to_end(&mut text).is_ok().then_some(text))
    });
    let Some(text) = answer.recv_timeout(patience).ok().flatten() else {
        end(child, proc);
        return Err(Failure::Said(format!("did not answer within {} s and was ended", patience.as_secs())));
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    // A supervisor collects all its children: then nobody here learns how this one ended, and its words decide.
    let Some(status) = child.wait().ok().filter(|status| !status.success()) else { return Ok(text) };
    // It prints its errors on standard output.
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("says nothing").trim();
    Err(Failure::Said(format!("failed ({status}): {}", first.chars().take(200).collect::<String>())))
}

fn end(mut child: Child, proc: Option<ProcId>) {
    // Not by its pid alone, which may be another's by now: a supervisor collects all its children.
    let _ = proc.map(|proc| signal::signal(proc, SIGKILL));
    // One that hangs in the driver cannot be reaped now.
    thread::spawn(move || child.wait());
}

/// Reads the answer about GPUs. Lines that are none are left out; what is `[N/A]` or the like is `None`.
pub fn read_gpus(text: &str) -> (Vec<GpuInfo>, Vec<GpuSample>) {
    text.lines().filter_map(read_gpu).unzip()
}

fn read_gpu(line: &str) -> Option<(GpuInfo, GpuSample)> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let index = fields.first()?.parse().ok()?;
    if fields.len() != COLUMNS.len() {
        return None;
    }
    let text = |at: usize| Some(fields[at]).filter(|text| is_told(text)).map(str::to_owned);
    let number = |at: usize| fields[at].parse::<f64>().ok().filter(|number| *number >= 0.0);
    let whole = |at: usize| number(at).map(|number| number as u32);
    let bytes = |at: usize| number(at).map(|mib| (mib * f64::from(1 << 20)) as u64);
    let milliwatts = |at: usize| number(at).map(|watts| (watts * 1000.0) as u32);
    let info = GpuInfo { index, uuid: text(1), name: text(2), pci_bus_id: text(3), ..GpuInfo::default() };
    let sample = GpuSample {
        index,
        // So it says of one that has fallen off the bus.
        lost: fields[1..].iter().any(|field| field.contains("GPU is lost")),
        mem_total_bytes: bytes(4),
        mem_used_bytes: bytes(5),
        util_pct: whole(6),
        temp_c: whole(7),
        power_mw: milliwatts(8),
        power_limit_mw: milliwatts(9),
        sm_clock_mhz: whole(10),
        mem_clock_mhz: whole(11),
        throttle: fields[12].strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok()),
        ..GpuSample::default()
    };
    Some((info, sample))
}

/// `[N/A]`, `[Not Supported]`, `[Unknown Error]`, `[GPU is lost]`.
fn is_told(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('[')
}

/// Puts the processes into the samples of their GPUs.
pub fn put_processes(text: &str, gpus: &[GpuInfo], samples: &mut [GpuSample]) {
    for sample in samples.iter_mut() {
        sample.procs = Some(Vec::new());
    }
    for line in text.lines() {
        let mut fields = line.split(',').map(str::trim);
        let (Some(uuid), Some(pid)) = (fields.next(), fields.next().and_then(|pid| pid.parse().ok())) else {
            continue;
        };
        let used_bytes = fields.next().and_then(|mib| mib.parse::<u64>().ok()?.checked_mul(1 << 20));
        let index = gpus.iter().find(|gpu| gpu.uuid.as_deref() == Some(uuid)).map(|gpu| gpu.index);
        let on = samples.iter_mut().find(|sample| Some(sample.index) == index);
        if let Some(procs) = on.and_then(|sample| sample.procs.as_mut()) {
            procs.push(GpuProc { pid, used_bytes, gpu_instance_id: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "\
0, GPU-11, NVIDIA H200, 00000000:18:00.0, 143771, 71200, 97, 61, 642.13, 700.00, 1755, 3201, 0x0000000000000004
1, GPU-22, NVIDIA H200, 00000000:2A:00.0, 143771, [N/A], [N/A], 84, [Not Supported], 700.00, 1100, 3201, 0x0000000000000040
2, [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost]
no, line
";

    #[test]
    fn what_is_not_told_is_none() {
        let (gpus, samples) = read_gpus(TEXT);
        assert_eq!(gpus.len(), 3);
        assert_eq!(gpus[0].uuid.as_deref(), Some("GPU-11"));
        let first = &samples[0];
        assert_eq!((first.util_pct, first.power_mw, first.throttle), (Some(97), Some(642_130), Some(4)));
        assert_eq!(first.mem_used_bytes, Some(71_200 << 20));
        let second = &samples[1];
        assert_eq!((second.util_pct, second.power_mw, second.temp_c), (None, None, Some(84)));
        assert!(samples[2].lost && gpus[2].uuid.is_none() && !second.lost);
    }

    #[test]
    fn processes_find_their_gpu() {
        let (gpus, mut samples) = read_gpus(TEXT);
        put_processes("GPU-22, 4711, 512\nGPU-99, 1, 2\nGPU-22, 4712, [N/A]\nx\n", &gpus, &mut samples);
        let procs = |at: usize| -> Vec<_> {
            let procs: &Vec<GpuProc> = samples[at].procs.as_ref().unwrap();
            procs.iter().map(|proc| (proc.pid, proc.used_bytes)).collect()
        };
        assert_eq!(procs(1), [(4711, Some(512 << 20)), (4712, None)]);
        assert_eq!(procs(0), []);
    }

    proptest! {
        #[test]
        fn no_answer_panics(text: String, apps: String) {
            let (gpus, mut samples) = read_gpus(&text);
            put_processes(&apps, &gpus, &mut samples);
            prop_assert_eq!(gpus.len(), samples.len());
        }

        #[test]
        fn lines_of_the_right_length_do_not_panic(fields in prop::collection::vec("[0-9a-zA-Z\\[\\]./ -]{0,12}", 13)) {
            let (gpus, _) = read_gpus(&fields.join(","));
            prop_assert!(gpus.len() <= 1);
        }
    }
}
