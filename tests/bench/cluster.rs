//! What many nodes cost: a viewer with 64 links, and relays with 512 and a viewer above them.
//!
//! `cargo bench --bench cluster`. Each node is a process of its own behind `--via`, as an ssh would be, and tells of
//! eight ranks once a second. Prints how long it takes until all is on the screen of 200x50 and until a command is
//! answered by all nodes, and CPU time, bytes, memory and descriptors meanwhile; asserts nothing.
//!
//! Started as `cluster node NAME NODES` it is one of those nodes.

use std::{
    env, fs,
    io::{BufReader, Read, Write, stdin, stdout},
    num::NonZeroU16,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use elastictop::{
    domain::{command::Outcome, event::Event, id::JobId},
    supervisor::clock::wall,
    wire::{
        frame,
        message::{PROTOCOL, ToSupervisor, ToViewer},
    },
};
use portable_pty::{CommandBuilder, PtySize, native_pty_system};

#[path = "../support/fleet.rs"]
mod fleet;

use fleet::Fleet;

const SIZE: (u16, u16) = (50, 200);
const WINDOW: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(180);
const PROGRAM: &str = env!("CARGO_BIN_EXE_elastictop");
const PER_NODE: u32 = 8;
/// Least difference between two figures that is told.
const LEAST: Duration = Duration::from_millis(2);

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    if let [what, name, nodes, ..] = words.as_slice()
        && what == "node"
    {
        return node(
            name.trim_start_matches('n').parse().expect("a number"),
            nodes.parse().expect("a number"),
        );
    }
    println!("each node has {PER_NODE} ranks; CPU and bytes in a second of {WINDOW:?}");
    viewer_with_links(64);
    relayed(512);
    tree(512);
}

/// Speaks as a supervisor would over `elastictop proxy`.
fn node(number: u32, of: u32) {
    let mut fleet = Fleet::node(number, of, PER_NODE);
    let (say, said) = mpsc::channel::<ToViewer>();
    let heard = say.clone();
    thread::spawn(move || {
        let mut input = BufReader::new(stdin());
        while let Some(message) = read(&mut input) {
            let answer = match message {
                ToSupervisor::Clock { id } => ToViewer::Clock { id, now: wall() },
                ToSupervisor::Do { id, .. } => ToViewer::Reply { id, outcome: Outcome::Done("done".into()) },
                _ => continue,
            };
            if heard.send(answer).is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
    let mut out = stdout();
    let mut tell = move |message: &ToViewer| {
        let bytes = frame::encode(message).expect("a frame");
        if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
            std::process::exit(0);
        }
    };
    tell(&ToViewer::Welcome { protocol: PROTOCOL, version: "0.1.0".into(), now: wall(), read_only: None });
    if let Some(job) = fleet.states[0].job.as_mut() {
        job.id = JobId(format!("llama-70b-{number}"));
    }
    tell(&ToViewer::Snapshot { state: Box::new(fleet.states[0].clone()), lost: 0 });
    // Nodes do not tell at one moment.
    let mut next = Instant::now() + Duration::from_millis(u64::from(number * 37 % 1000));
    loop {
        match said.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(answer) => tell(&answer),
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                next += Duration::from_secs(1);
                let events = fleet.second().into_iter();
                let events = events.map(|(_, event)| Event { at: wall(), ..event }).collect();
                tell(&ToViewer::Events { events });
            }
        }
    }
}

fn read(input: &mut impl Read) -> Option<ToSupervisor> {
    let mut length = [0; 4];
    input.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
    input.read_exact(&mut bytes).ok()?;
    Some(serde_json::from_slice(&bytes).unwrap_or(ToSupervisor::Unknown))
}

fn via(of: u32) -> String {
    format!("{} node {{host}} {of} proxy", env::current_exe().expect("its own path").display())
}

fn range(nodes: std::ops::Range<u32>) -> String {
    format!("n[{:03}-{:03}]", nodes.start, nodes.end - 1)
}

fn viewer_with_links(nodes: u32) {
    let dir = tempfile::tempdir().expect("a folder");
    println!("\n{nodes} links from the viewer");
    let (list, via) = (range(0..nodes), via(nodes));
    let arguments = ["--nodes", &list, "--via", &via];
    let screen = Screen::open(dir.path(), &[&["attach"], &arguments[..]].concat(), nodes);
    screen.measure(&[]);
    command(dir.path(), &arguments);
    screen.close();
}

fn relayed(nodes: u32) {
    let dir = tempfile::tempdir().expect("a folder");
    println!("\na relay with {nodes} links, a viewer above it");
    let relay = Relay::start(dir.path(), "relay", &["--nodes", &range(0..nodes), "--via", &via(nodes)]);
    let through = format!("env ELASTICTOP_DIR={}/{{host}} {PROGRAM} proxy --relay", dir.path().display());
    measure_above(dir.path(), nodes, &[&relay], &["--nodes", "relay", "--via", &through]);
}

fn tree(nodes: u32) {
    let dir = tempfile::tempdir().expect("a folder");
    println!("\ntwo relays with {} links each, a viewer above both", nodes / 2);
    let half = nodes / 2;
    let left = Relay::start(dir.path(), "left", &["--nodes", &range(0..half), "--via", &via(nodes)]);
    let right = Relay::start(dir.path(), "right", &["--nodes", &range(half..nodes), "--via", &via(nodes)]);
    let through = format!("env ELASTICTOP_DIR={}/{{host}} {PROGRAM} proxy --relay", dir.path().display());
    measure_above(dir.path(), nodes, &[&left, &right], &["--nodes", "left,right", "--via", &through]);
}

fn measure_above(dir: &Path, nodes: u32, relays: &[&Relay], arguments: &[&str]) {
    let words = [&["attach", "--relay"], arguments].concat();
    let screen = Screen::open(dir, &words, nodes);
    let first = screen.all_after();
    println!("  all nodes heard after  {first:>8.2?}");
    screen.measure(relays);
    command(dir, arguments);
    screen.close();
    // The relay has all links by now.
    let again = Screen::open(dir, &words, nodes);
    println!("  next viewer: all after {:>8.2?}", again.all_after());
    again.close();
}

/// How long a command takes that all nodes answer.
fn command(dir: &Path, arguments: &[&str]) {
    let began = Instant::now();
    let output = elastictop(dir).args(["restart"]).args(arguments).output().expect("elastictop runs");
    println!(
        "  restart answered after {:>8.2?}: {}{}",
        began.elapsed(),
        String::from_utf8_lossy(&output.stdout).trim(),
        String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default()
    );
}

fn elastictop(dir: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env("ELASTICTOP_DIR", dir.join("viewer"));
    command
}

struct Relay {
    name: String,
    process: Child,
}

impl Relay {
    fn start(dir: &Path, name: &str, arguments: &[&str]) -> Relay {
        let mut command = Command::new(PROGRAM);
        command.env("ELASTICTOP_DIR", dir.join(name)).arg("relay").args(arguments).stderr(Stdio::piped());
        let mut process = command.spawn().expect("elastictop starts");
        let mut words = BufReader::new(process.stderr.take().expect("its words"));
        std::io::BufRead::read_line(&mut words, &mut String::new()).expect("its first words");
        thread::spawn(move || std::io::copy(&mut words, &mut std::io::sink()));
        Relay { name: name.into(), process }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn parser() -> vt100::Parser {
    let cells = |count: u16| NonZeroU16::new(count).expect("a terminal with cells");
    vt100::Parser::new(cells(SIZE.0), cells(SIZE.1), 0)
}

/// A viewer in a terminal.
struct Screen {
    viewer: Box<dyn portable_pty::Child + Send + Sync>,
    seen: Arc<Mutex<Seen>>,
    began: Instant,
    nodes: u32,
    _terminal: Box<dyn portable_pty::MasterPty + Send>,
}

struct Seen {
    screen: vt100::Parser,
    bytes: u64,
}

impl Screen {
    fn open(dir: &Path, arguments: &[&str], nodes: u32) -> Screen {
        let size = PtySize { rows: SIZE.0, cols: SIZE.1, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).expect("a terminal");
        let mut command = CommandBuilder::new(PROGRAM);
        command.args(arguments);
        command.env("ELASTICTOP_DIR", dir.join("viewer"));
        command.env("TERM", "xterm-256color");
        command.env("LANG", "C.UTF-8");
        let began = Instant::now();
        let viewer = pair.slave.spawn_command(command).expect("elastictop starts");
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader().expect("the terminal's other end");
        let seen = Arc::new(Mutex::new(Seen { screen: parser(), bytes: 0 }));
        let sees = seen.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                let mut seen = sees.lock().expect("a whole screen");
                seen.screen.process(&buffer[..read]);
                seen.bytes += read as u64;
            }
        });
        Screen { viewer, seen, began, nodes, _terminal: pair.master }
    }

    fn bytes(&self) -> u64 {
        self.seen.lock().expect("a whole screen").bytes
    }

    /// How long it took until all ranks were counted on the screen.
    fn all_after(&self) -> Duration {
        // Before that it says how many of them there are.
        let wanted = format!("ranks {} ", self.nodes * PER_NODE);
        loop {
            let text = self.seen.lock().expect("a whole screen").screen.screen().contents();
            let after = self.began.elapsed();
            if text.contains(&wanted) {
                return after;
            }
            assert!(after < PATIENCE, "not all ranks are there:\n{text}");
            thread::sleep(LEAST);
        }
    }

    fn measure(&self, relays: &[&Relay]) {
        if relays.is_empty() {
            println!("  all nodes heard after  {:>8.2?}", self.all_after());
        }
        println!("  bytes until then       {:>8}", self.bytes());
        thread::sleep(WINDOW / 4);
        let viewer = self.viewer.process_id().expect("it runs");
        let mut processes = vec![("viewer", viewer)];
        processes.extend(relays.iter().map(|relay| (relay.name.as_str(), relay.process.id())));
        let before: Vec<u64> = processes.iter().map(|(_, pid)| cpu_ns(*pid)).collect();
        let (bytes, began) = (self.bytes(), Instant::now());
        thread::sleep(WINDOW);
        let seconds = began.elapsed().as_secs_f64();
        for ((name, pid), before) in processes.into_iter().zip(before) {
            println!(
                "  {name:<8} CPU {:>6.2} ms, memory {:.1} MiB (most {:.1}), {} descriptors",
                (cpu_ns(pid) - before) as f64 / 1e6 / seconds,
                field(pid, "VmRSS:") as f64 / 1024.0,
                field(pid, "VmHWM:") as f64 / 1024.0,
                fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
            );
        }
        println!("  bytes to the terminal  {:>8.0}", (self.bytes() - bytes) as f64 / seconds);
    }

    fn close(mut self) {
        let _ = self.viewer.kill();
        let _ = self.viewer.wait();
    }
}

/// CPU time of all threads so far.
fn cpu_ns(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_task = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    tasks.filter_map(of_task).sum()
}

/// The number behind a name in the status of a process.
fn field(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
