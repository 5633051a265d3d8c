//! How fast rows go from a rank's file through the `.wandb` file to a W&B server, and what that costs.
//!
//! `cargo bench --bench forward [-- ROWS]`. The server runs in a process of its own, so that the CPU time is that of the
//! forwarder alone: reading, routing, writing, sending.

#[path = "../wandb_server/mod.rs"]
mod wandb_server;

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead, BufReader, Write as _},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use elastictop::{
    domain::{
        event::{JobInfo, Launcher},
        forward::{Mode, Settings, Sources, Writer},
        id::{JobId, ProcId},
        rank::JobState,
        redact::Secrets,
        resolve::{Base, Facts, Given, RankScope, RunMode, Topology},
        sample::Place,
    },
    supervisor::forward::{Forward, Order, Task, Told},
};
use procfs::process::Process;
use wandb_server::{KEY, Options, Server};

/// Ranks and rows a second of each in the paced part, and its length.
const RANKS: u32 = 8;
const PACE: u32 = 100;
const PACED: Duration = Duration::from_secs(20);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--server") {
        let server = Server::with(Options { cheap: true, ..Options::default() });
        println!("{}", server.url());
        std::io::stdout().flush().expect("a reader");
        loop {
            std::thread::park();
        }
    }
    let rows = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(400_000);
    let before = peak_mb();
    paced(before);
    for metrics in [1, 10] {
        flood(rows, metrics);
    }
}

/// All rows lie there already: how fast they are through.
fn flood(rows: u32, metrics: u32) {
    let (_server, url) = serve();
    let root = tempfile::tempdir().expect("a folder");
    let proc = proc(0);
    let mut text = String::new();
    for step in 0..rows {
        let _ = write!(text, "{{\"_step\":{step}");
        for metric in 0..metrics {
            let _ = write!(text, ",\"train/metric_{metric}\":0.{:06}", step * 7 % 1_000_000 + metric);
        }
        text.push_str("}\n");
    }
    fs::create_dir_all(root.path().join(folder(proc))).expect("a folder");
    fs::write(root.path().join(folder(proc)).join("stdout.log"), text).expect("rows");
    let (cpu, began) = (cpu_seconds(), Instant::now());
    let (forward, told) = start(root.path(), &url, 1);
    rank(&forward, root.path(), 0, 1);
    end(&forward, told);
    let (cpu, took) = (cpu_seconds() - cpu, began.elapsed().as_secs_f64());
    let each = cpu / f64::from(rows) * 1e6;
    println!(
        "{rows} rows of {metrics} metrics: {:.0} rows/s, {each:.2} us CPU a row, peak {:.1} MB",
        f64::from(rows) / took,
        peak_mb()
    );
}

/// Ranks that log at a human pace: memory and CPU.
fn paced(before: f64) {
    let (_server, url) = serve();
    let root = tempfile::tempdir().expect("a folder");
    let mut files: Vec<File> = (0..RANKS)
        .map(|number| {
            let folder = root.path().join(folder(proc(number)));
            fs::create_dir_all(&folder).expect("a folder");
            File::create(folder.join("stdout.log")).expect("a file")
        })
        .collect();
    let cpu = cpu_seconds();
    let (forward, told) = start(root.path(), &url, RANKS);
    (0..RANKS).for_each(|number| rank(&forward, root.path(), number, RANKS));
    let began = Instant::now();
    let mut step = 0;
    while began.elapsed() < PACED {
        for file in &mut files {
            writeln!(file, "{{\"_step\":{step},\"loss\":0.{step:06}}}").expect("room");
        }
        step += 1;
        std::thread::sleep((Duration::from_secs(1) / PACE * step).saturating_sub(began.elapsed()));
    }
    let (cpu, peak) = (cpu_seconds() - cpu, peak_mb());
    end(&forward, told);
    println!(
        "{RANKS} ranks at {PACE} rows/s for {} s: {:.1} % of a core, {:.1} MB (process {peak:.1} MB)",
        PACED.as_secs(),
        cpu / PACED.as_secs_f64() * 100.0,
        peak - before
    );
}

struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve() -> (Serving, String) {
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program).arg("--server").stdout(Stdio::piped()).spawn().expect("a server");
    let mut url = String::new();
    let out = child.stdout.take().expect("its output");
    BufReader::new(out).read_line(&mut url).expect("its address");
    (Serving(child), url.trim().to_owned())
}

fn proc(number: u32) -> ProcId {
    // Beyond what the kernel gives out.
    ProcId { pid: 5_000_000 + number as i32, start: 1 }
}

fn folder(proc: ProcId) -> String {
    format!("ranks/{}-{}", proc.pid, proc.start)
}

fn start(
    root: &std::path::Path,
    url: &str,
    ranks: u32,
) -> (Forward, tokio::sync::mpsc::UnboundedReceiver<Told>) {
    let given = |value: &str| Some(Given::new("bench", value));
    let settings = Settings {
        mode: Mode::Online,
        why_not_online: None,
        writer: Writer::Elastictop,
        sources: Sources::default(),
        stop_button: false,
        facts: Facts {
            run_mode: RunMode::New,
            rank_scope: RankScope::Global,
            topology: Topology { ranks_per_node: vec![ranks], range: None },
            base: Base::Whole(Given::new("bench", "b")),
            parent_run: None,
            run_id: None,
            group: None,
            name: None,
            tags: Vec::new(),
            notes: None,
            job_type: None,
            sweep: None,
            project: given("p"),
            entity: None,
            base_url: given(url),
            app_url: None,
        },
    };
    let job = JobInfo {
        id: JobId("bench".into()),
        name: "bench".into(),
        launcher: Launcher::Local,
        node: "host".into(),
        command: Vec::new(),
        cwd: String::new(),
        max_restarts: None,
        local_world_size: Some(ranks),
        nodes: (1, 1),
        rdzv_id: None,
        uid: 0,
    };
    let environment = vec![("WANDB_API_KEY".to_owned(), KEY.to_owned())];
    let task = Task { root: root.to_owned(), job, settings, secrets: Secrets::default(), environment };
    Forward::start(task).expect("a forwarder")
}

fn rank(forward: &Forward, root: &std::path::Path, number: u32, ranks: u32) {
    let proc = proc(number);
    let place = Place {
        rank: Some(number),
        local_rank: Some(number),
        group_rank: Some(0),
        world_size: Some(ranks),
        local_world_size: Some(ranks),
        ..Place::default()
    };
    let outputs = [Some(root.join(folder(proc)).join("stdout.log")), None];
    forward.tell(Order::Rank { proc, local_rank: number, place, outputs });
}

fn end(forward: &Forward, mut told: tokio::sync::mpsc::UnboundedReceiver<Told>) {
    forward.tell(Order::End { state: JobState::Done, exit_code: Some(0) });
    while !matches!(told.blocking_recv(), Some(Told::Finished) | None) {}
}

fn cpu_seconds() -> f64 {
    let stat = Process::myself().and_then(|me| me.stat()).expect("/proc/self/stat");
    (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
}

fn peak_mb() -> f64 {
    let status = Process::myself().and_then(|me| me.status()).expect("/proc/self/status");
    status.vmhwm.unwrap_or(0) as f64 / 1024.0
}
