//! Rows a second into a W&B server, and what they cost: elastictop beside W&B's own SDK, in the same run.
//!
//! `cargo bench --bench wandb_forward`. Three ways with 1 and with 10 metrics a row, each into the test server, which
//! only counts: rows that lie in a `.wandb` file; rows that ranks of a real job print; rows that scripts log with the
//! SDK (if `.venv` has it). One run takes two requests of 10 MiB a second, whoever sends; so jobs of four ranks and runs
//! are measured too. Prints figures; asserts that all rows arrived, and nothing about time.

#[path = "../wandb_server/mod.rs"]
mod wandb_server;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use elastictop::{
    domain::time::Stamp,
    wandb::log::{
        Batch, Writer,
        record::{Exit, Kind, Run},
    },
};
use wandb_server::{KEY, Options, Server};

const ROWS: u64 = 200_000;
/// The SDK is slower: fewer rows, for the same rate.
const SDK_ROWS: u64 = 50_000;
/// Ranks of a job, and runs that they write to.
const RANKS: [u64; 2] = [1, 4];
const START: Stamp = Stamp(1_795_167_616_000);
const PATIENCE: Duration = Duration::from_secs(300);

const PRINTS: &str = "
import json, sys
rows, metrics = int(sys.argv[1]), int(sys.argv[2])
for n in range(rows):
    print(json.dumps({f'metric_{k}': (n + k) * 0.001 for k in range(metrics)}))
";
const LOGS: &str = "
import sys, wandb
rows, metrics = int(sys.argv[1]), int(sys.argv[2])
run = wandb.init()
for n in range(rows):
    run.log({f'metric_{k}': (n + k) * 0.001 for k in range(metrics)})
run.finish()
";

/// What a way cost.
struct Cost {
    rows: u64,
    wall: Duration,
    cpu: Duration,
    rss_kb: u64,
    bytes: u64,
}

fn main() {
    // The figures are for people; `cargo test --benches` only wants to know that this builds.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    println!("{:<34} {:>10} {:>10} {:>8} {:>10}", "", "rows/s", "us CPU/row", "MB RSS", "bytes/row");
    for metrics in [1, 10] {
        let name = |way: &str| format!("{way}, {metrics} metric{}", if metrics == 1 { "" } else { "s" });
        tell(&name("elastictop sync, from the file"), &sync(metrics));
        for ranks in RANKS {
            let name = |way: &str| name(&format!("{way}, {ranks} rank{}", if ranks == 1 { "" } else { "s" }));
            tell(&name("elastictop run"), &run(metrics, ranks));
            match sdk(metrics, ranks) {
                Some(cost) => tell(&name("W&B's SDK"), &cost),
                None => println!("no wandb in .venv: the SDK was left out"),
            }
        }
    }
}

fn tell(name: &str, cost: &Cost) {
    let rate = cost.rows as f64 / cost.wall.as_secs_f64();
    let per_row = cost.cpu.as_secs_f64() * 1e6 / cost.rows as f64;
    let (mb, bytes) = (cost.rss_kb as f64 / 1024.0, cost.bytes as f64 / cost.rows as f64);
    println!("{name:<34} {rate:>10.0} {per_row:>10.2} {mb:>8.1} {bytes:>10.0}");
}

fn server() -> Server {
    Server::with(Options { cheap: true, ..Options::default() })
}

fn environment(command: &mut Command, server: &Server, dir: &Path) {
    let inherited = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WANDB_"));
    inherited.for_each(|(name, _)| _ = command.env_remove(name));
    command.current_dir(dir).envs([
        ("WANDB_BASE_URL", server.url().as_str()),
        ("WANDB_API_KEY", KEY),
        ("WANDB_PROJECT", "bench"),
        ("WANDB_SILENT", "true"),
        ("WANDB_CONSOLE", "off"),
        ("WANDB_ERROR_REPORTING", "false"),
        ("HOME", dir.to_str().expect("a path of text")),
        ("ELASTICTOP_DIR", dir.join("e").to_str().expect("a path of text")),
    ]);
}

/// The sender alone.
fn sync(metrics: u64) -> Cost {
    let (dir, server) = (tempfile::tempdir().expect("a folder"), server());
    let mut writer = Writer::create(dir.path(), "r", START).expect("a file");
    let mut batch = Batch::new();
    let run =
        Run { run_id: "r".into(), project: "bench".into(), start_time: Some(START.into()), ..Run::default() };
    batch.push(&Kind::Run(Box::new(run))).expect("a record");
    for n in 0..ROWS {
        let mut row: Vec<_> =
            (0..metrics).map(|k| (format!("metric_{k}"), format!("{:?}", (n + k) as f64 * 0.001))).collect();
        row.push(("_step".into(), n.to_string()));
        row.push(("_timestamp".into(), format!("{:?}", 1_795_167_616.837 + n as f64 * 1e-4)));
        row.push(("_runtime".into(), format!("{:?}", n as f64 * 1e-4)));
        batch.row(row.iter().map(|(key, value)| (key.as_str(), value.as_str()))).expect("a row");
        if n % 1000 == 0 {
            writer.append(&batch).expect("room on the disk");
            batch.clear();
        }
    }
    batch.push(&Kind::Exit(Exit { exit_code: 0, runtime: 20 })).expect("a record");
    writer.append(&batch).expect("room on the disk");
    let mut command = Command::new(env!("CARGO_BIN_EXE_elastictop"));
    command.arg("sync").arg(writer.path()).stderr(Stdio::null());
    measure(command, &server, dir.path(), ROWS, "elastictop")
}

/// A job whose ranks print rows, each into a run of its own; what it costs is the supervisor's.
fn run(metrics: u64, ranks: u64) -> Cost {
    let (dir, server) = (tempfile::tempdir().expect("a folder"), server());
    let script = dir.path().join("rows.py");
    fs::write(&script, PRINTS).expect("a script");
    // The script alone, to take its own time off.
    let began = Instant::now();
    let python = python();
    let mut alone = Command::new(&python);
    alone.arg(&script).args([ROWS.to_string(), metrics.to_string()]).stdout(Stdio::null());
    assert!(alone.status().expect("python").success());
    println!("{:<34} the script prints {:.0} rows/s", "", ROWS as f64 / began.elapsed().as_secs_f64());
    let mut command = Command::new(env!("CARGO_BIN_EXE_elastictop"));
    command.args(["run", "--launcher", "local", "--nproc-per-node", &ranks.to_string(), "--wait"]);
    command.args(["--wandb-mode", "online", "--run-mode", "new", "--wandb-base", "bench"]);
    command.arg("--no-python").arg(python).arg(&script).args([ROWS.to_string(), metrics.to_string()]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    measure(command, &server, dir.path(), ROWS * ranks, "__supervise")
}

fn sdk(metrics: u64, ranks: u64) -> Option<Cost> {
    let python = python();
    python.parent()?.join("wandb").exists().then_some(())?;
    let (dir, server) = (tempfile::tempdir().expect("a folder"), server());
    let mut command = Command::new("sh");
    let each = "for rank in $(seq $1); do WANDB_RUN_ID=bench-$rank \"$2\" -c \"$3\" $4 $5 & done; wait";
    command.args(["-c", each, "sh", &ranks.to_string()]).arg(python).arg(LOGS);
    command.args([(SDK_ROWS / ranks).to_string(), metrics.to_string()]).stderr(Stdio::null());
    Some(measure(command, &server, dir.path(), SDK_ROWS, ""))
}

fn python() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    if own.exists() { own } else { "python3".into() }
}

/// Runs a program until the server has a complete run of all rows. The clock runs from the first request; CPU and memory
/// are those of the program and its descendants whose command line has `of` in it.
fn measure(mut command: Command, server: &Server, dir: &Path, rows: u64, of: &'static str) -> Cost {
    environment(&mut command, server, dir);
    let mut child: Child = command.spawn().expect("the program starts");
    let watch = Watch::start(child.id(), of);
    let began = Instant::now();
    let mut first = None;
    loop {
        let store = server.store();
        let seen: usize = store.runs.values().map(wandb_server::Run::history_lines).sum();
        let is_complete = !store.runs.is_empty() && store.runs.values().all(|run| run.complete);
        if !store.requests.is_empty() {
            first.get_or_insert_with(Instant::now);
        }
        drop(store);
        if is_complete && seen as u64 >= rows {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{seen} of {rows} rows after {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
    let wall = first.map_or(Duration::ZERO, |first| first.elapsed());
    let _ = child.wait();
    let (cpu, rss_kb) = watch.stop();
    server.assert_sound();
    Cost { rows, wall, cpu, rss_kb, bytes: server.store().stream_bytes }
}

/// Looks at a process and its descendants again and again, and keeps what it saw last.
struct Watch {
    seen: Arc<Mutex<BTreeMap<u32, (u64, u64)>>>,
    end: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn start(root: u32, of: &'static str) -> Watch {
        let (seen, end) = (Arc::<Mutex<BTreeMap<u32, (u64, u64)>>>::default(), Arc::<AtomicBool>::default());
        let (seen_here, end_here) = (Arc::clone(&seen), Arc::clone(&end));
        let thread = thread::spawn(move || {
            let mut family = vec![root];
            while !end_here.load(Ordering::Relaxed) {
                family.extend(children(&family));
                family.sort_unstable();
                family.dedup();
                for &pid in &family {
                    if let Some(cost) = cost(pid, of) {
                        seen_here.lock().expect("no panic").insert(pid, cost);
                    }
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        Watch { seen, end, thread }
    }

    /// CPU time of all, and the sum of the peaks of their memory in kB.
    fn stop(self) -> (Duration, u64) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watching thread");
        let seen = self.seen.lock().expect("no panic");
        let ticks: u64 = seen.values().map(|(ticks, _)| ticks).sum();
        (Duration::from_millis(ticks * 10), seen.values().map(|(_, rss)| rss).sum())
    }
}

fn children(family: &[u32]) -> Vec<u32> {
    let mut found = Vec::new();
    for pid in family {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found
}

/// CPU time in ticks of 10 ms and peak memory in kB of a process whose command line has `of` in it.
fn cost(pid: u32, of: &str) -> Option<(u64, u64)> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let command = read("cmdline")?;
    if !command.contains(of) {
        return None;
    }
    let stat = read("stat")?;
    let fields: Vec<u64> =
        stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
    let status = read("status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some((fields.iter().sum(), peak.trim().trim_end_matches(" kB").parse().ok()?))
}
