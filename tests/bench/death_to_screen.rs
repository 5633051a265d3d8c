//! How long it takes from the death of a rank until the screen shows it, and until it shows the rank that follows.
//!
//! `cargo bench --bench death_to_screen`: a real job of four ranks under the built-in launcher, a real terminal, and
//! SIGKILL from outside. Prints milliseconds; asserts nothing.

use std::{
    io::Read,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use rustix::process::{Pid, Signal, kill_process};

const ROUNDS: usize = 20;
const SIZE: (u16, u16) = (40, 160);
const PATIENCE: Duration = Duration::from_secs(20);

type Screen = Arc<Mutex<vt100::Parser>>;

fn main() {
    let dir = tempfile::tempdir().expect("a folder for the job");
    let program = env!("CARGO_BIN_EXE_elastictop");
    let pty = native_pty_system();
    let size = PtySize { rows: SIZE.0, cols: SIZE.1, pixel_width: 0, pixel_height: 0 };
    let pair = pty.openpty(size).expect("a terminal");
    let mut command = CommandBuilder::new(program);
    command.args(["run", "--launcher", "local", "--nproc-per-node", "4", "--max-restarts", "1000"]);
    command.args(["--no-python", program, "__trainer", "--steps", "1000000", "--step-ms", "20"]);
    command.env("ELASTICTOP_DIR", dir.path());
    command.env("TERM", "xterm-256color");
    command.env("LANG", "C.UTF-8");
    command.cwd(dir.path());
    let mut child = pair.slave.spawn_command(command).expect("elastictop starts");
    drop(pair.slave);
    let screen: Screen = Arc::new(Mutex::new(vt100::Parser::new(
        SIZE.0.try_into().expect("rows"),
        SIZE.1.try_into().expect("columns"),
        0,
    )));
    let reader = pair.master.try_clone_reader().expect("the terminal's other end");
    let shown = Arc::clone(&screen);
    thread::spawn(move || read(reader, &shown));

    let (mut deaths, mut successors) = (Vec::new(), Vec::new());
    let mut before = pids(program, &dir, &[]);
    for _ in 0..ROUNDS {
        let victim = before[1];
        wait_for(&screen, &format!(" {victim} "));
        let start = Instant::now();
        kill_process(Pid::from_raw(victim).expect("a pid"), Signal::KILL).expect("a living rank");
        wait_for(&screen, &format!("SIGKILL, pid {victim}"));
        deaths.push(start.elapsed());
        let after = pids(program, &dir, &before);
        wait_for(&screen, &format!(" {} ", after[1]));
        successors.push(start.elapsed());
        before = after;
    }
    println!("death of a rank on the screen:     {}", summary(&mut deaths));
    println!("the rank that follows on screen:   {}", summary(&mut successors));
    let _ = Command::new(program).args(["stop", "--now"]).env("ELASTICTOP_DIR", dir.path()).output();
    // The screen stays open after the end, for its logs.
    let _ = child.kill();
}

fn read(mut reader: Box<dyn Read + Send>, screen: &Screen) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = reader.read(&mut buffer) {
        screen.lock().expect("the screen").process(&buffer[..read]);
    }
}

fn wait_for(screen: &Screen, text: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        let contents = screen.lock().expect("the screen").screen().contents();
        if contents.contains(text) {
            return;
        }
        assert!(Instant::now() < until, "{text:?} does not appear on:\n{contents}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The pids of all four ranks, once none of them is one of `before`.
fn pids(program: &str, dir: &tempfile::TempDir, before: &[i32]) -> Vec<i32> {
    let until = Instant::now() + PATIENCE;
    loop {
        let output =
            Command::new(program).args(["status", "--json"]).env("ELASTICTOP_DIR", dir.path()).output();
        let status: serde_json::Value =
            serde_json::from_slice(&output.expect("elastictop runs").stdout).unwrap_or_default();
        let ranks = status["ranks"].as_array().cloned().unwrap_or_default();
        let alive = ranks.iter().filter(|rank| rank["state"] == "running");
        let pids: Vec<_> = alive.filter_map(|rank| i32::try_from(rank["pid"].as_i64()?).ok()).collect();
        if pids.len() == 4 && pids.iter().all(|pid| !before.contains(pid)) {
            return pids;
        }
        assert!(Instant::now() < until, "the ranks do not start: {status}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn summary(times: &mut [Duration]) -> String {
    times.sort();
    let ms = |time: &Duration| time.as_secs_f64() * 1000.0;
    let (first, median, last) = (&times[0], &times[times.len() / 2], &times[times.len() - 1]);
    format!("median {:.0} ms, {:.0} to {:.0} ms, {} times", ms(median), ms(first), ms(last), times.len())
}
