//! What watching a job costs: viewer and supervisor of a job that sleeps, in a terminal of 200x50.
//!
//! `cargo bench --bench cost`: jobs of 8, 64 and 512 ranks under the built-in launcher, with eight GPUs of a driver's
//! library of our own where there is a C compiler. Prints CPU time, wake-ups and bytes to the terminal in a second,
//! and memory; asserts nothing.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use portable_pty::{CommandBuilder, PtySize, native_pty_system};

const RANKS: [u32; 3] = [8, 64, 512];
const SIZE: (u16, u16) = (50, 200);
const WINDOW: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_elastictop");

fn main() {
    let dir = tempfile::tempdir().expect("a folder for the jobs");
    let driver = driver(dir.path());
    println!("{} GPUs; each figure in a second of {WINDOW:?}", if driver.is_some() { 8 } else { 0 });
    println!("ranks  process     CPU ms  wake-ups  bytes  peak RSS, PSS MiB");
    for ranks in RANKS {
        measure(ranks, dir.path(), driver.as_deref());
    }
}

/// A folder with a driver's library that tells of eight GPUs; `None` without a C compiler.
fn driver(dir: &Path) -> Option<PathBuf> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/stub.c");
    let library = dir.join("libnvidia-ml.so.1");
    let built = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    let lines = (0..8).map(|gpu| format!("util {gpu} {}\nmem {gpu} 60000 81559\ntemp {gpu} 61\n", 90 + gpu));
    let text = format!("gpus 8\n{}", lines.collect::<String>());
    fs::write(dir.join("gpus"), text).expect("a file for the driver");
    built.is_ok_and(|status| status.success()).then(|| dir.to_owned())
}

fn measure(ranks: u32, dir: &Path, driver: Option<&Path>) {
    let home = dir.join(ranks.to_string());
    let with_driver = |command: &mut Command| {
        command.env("ELASTICTOP_DIR", &home).env("STUB_NVML", dir.join("gpus"));
        if let Some(driver) = driver {
            command.env("LD_LIBRARY_PATH", driver);
        }
    };
    let elastictop = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        with_driver(&mut command);
        command.args(args).output().expect("elastictop runs")
    };
    let count = ranks.to_string();
    let job = ["run", "--detach", "--launcher", "local", "--nproc-per-node", &count];
    elastictop(&[&job[..], &["--no-python", "sleep", "1000"]].concat());

    let size = PtySize { rows: SIZE.0, cols: SIZE.1, pixel_width: 0, pixel_height: 0 };
    let pair = native_pty_system().openpty(size).expect("a terminal");
    let mut command = CommandBuilder::new(PROGRAM);
    command.arg("attach");
    command.env("ELASTICTOP_DIR", &home);
    command.env("TERM", "xterm-256color");
    command.env("LANG", "C.UTF-8");
    let mut viewer = pair.slave.spawn_command(command).expect("elastictop starts");
    drop(pair.slave);
    let bytes = count_bytes(pair.master.try_clone_reader().expect("the terminal's other end"));
    let supervisor = supervisor(&home);
    let viewer_pid = viewer.process_id().expect("it runs");
    let until = Instant::now() + PATIENCE;
    while bytes.load(Ordering::Relaxed) < 1000 && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(WINDOW / 2);

    let processes = [("viewer", viewer_pid), ("supervisor", supervisor)];
    let before = processes.map(|(_, pid)| Usage::of(pid));
    let (bytes_before, began) = (bytes.load(Ordering::Relaxed), Instant::now());
    thread::sleep(WINDOW);
    let seconds = began.elapsed().as_secs_f64();
    let written = (bytes.load(Ordering::Relaxed) - bytes_before) as f64 / seconds;
    for ((name, pid), before) in processes.into_iter().zip(before) {
        let now = Usage::of(pid);
        let written = if name == "viewer" { format!("{written:.0}") } else { "-".into() };
        println!(
            "{ranks:>5}  {name:<10}  {:>6.2}  {:>8.1}  {written:>5}  {:.1}, {:.1}",
            (now.cpu_ns - before.cpu_ns) as f64 / 1e6 / seconds,
            (now.waits - before.waits) as f64 / seconds,
            field(&format!("/proc/{pid}/status"), "VmHWM:") as f64 / 1024.0,
            field(&format!("/proc/{pid}/smaps_rollup"), "Pss:") as f64 / 1024.0,
        );
    }
    // The job goes first, so that the screen shows an end and not a loss.
    elastictop(&["stop", "--now"]);
    let _ = viewer.kill();
    let _ = viewer.wait();
}

fn count_bytes(mut reader: Box<dyn Read + Send>) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read @ 1..) = reader.read(&mut buffer) {
            counted.fetch_add(read as u64, Ordering::Relaxed);
        }
    });
    count
}

/// The supervisor of the only job in a folder: the parent of its agent.
fn supervisor(home: &Path) -> u32 {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = Command::new(PROGRAM).args(["ps", "--json"]).env("ELASTICTOP_DIR", home).output();
        let status: serde_json::Value =
            serde_json::from_slice(&status.expect("elastictop runs").stdout).unwrap_or_default();
        if let Some(agent) = status["jobs"][0]["pid"].as_u64() {
            return field(&format!("/proc/{agent}/status"), "PPid:") as u32;
        }
        assert!(Instant::now() < until, "the job does not start: {status}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The number behind a name in a file of `/proc`.
fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// CPU time and voluntary waits of all threads so far.
struct Usage {
    cpu_ns: u64,
    waits: u64,
}

impl Usage {
    fn of(pid: u32) -> Usage {
        let mut usage = Usage { cpu_ns: 0, waits: 0 };
        for task in fs::read_dir(format!("/proc/{pid}/task")).expect("a living process").flatten() {
            let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            usage.cpu_ns += stat.split(' ').next().and_then(|ran| ran.parse::<u64>().ok()).unwrap_or(0);
            let status = task.path().join("status").display().to_string();
            usage.waits += field(&status, "voluntary_ctxt_switches:");
        }
        usage
    }
}
