//! The screen in a real terminal, and the lines without one.

use std::{
    io::{Read, Write},
    num::NonZero,
    process::Stdio,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use portable_pty::{CommandBuilder, MasterPty, PtySize, native_pty_system};
use rustix::process::Signal;

use crate::harness::{Job, Lab, PATIENCE, finish, is_over, kill, living, wait_until};

const LOCAL: &[&str] = &["--launcher", "local", "--no-python", "--nproc-per-node", "2"];

/// A terminal with elastictop in it.
pub struct Terminal {
    master: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn portable_pty::Child + Send + Sync>,
    parser: Arc<Mutex<vt100::Parser>>,
}

fn size(columns: u16, rows: u16) -> PtySize {
    PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 }
}

fn cells(count: u16) -> NonZero<u16> {
    NonZero::new(count).expect("at least one")
}

impl Terminal {
    /// elastictop with these arguments, in a terminal of 100×30.
    pub fn open(lab: &Lab, args: &[&str]) -> Terminal {
        let pty = native_pty_system().openpty(size(100, 30)).expect("a pseudo terminal");
        // The same environment as all commands of the lab.
        let template = lab.elastictop();
        let mut command = CommandBuilder::new(template.get_program());
        for (name, value) in template.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            }
        }
        command.env("TERM", "xterm-256color");
        command.cwd(lab.dir());
        command.args(template.get_args());
        command.args(args);
        let child = pty.slave.spawn_command(command).expect("elastictop in a terminal");
        let mut output = pty.master.try_clone_reader().expect("its output");
        let parser = Arc::new(Mutex::new(vt100::Parser::new(cells(30), cells(100), 0)));
        let screen = parser.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut bytes) {
                screen.lock().expect("a screen").process(&bytes[..n]);
            }
        });
        let keys = pty.master.take_writer().expect("its input");
        Terminal { master: pty.master, keys, child, parser }
    }

    /// What it shows.
    pub fn text(&self) -> String {
        self.parser.lock().expect("a screen").screen().contents()
    }

    /// Types.
    pub fn press(&mut self, keys: &str) {
        self.keys
            .write_all(keys.as_bytes())
            .and_then(|()| self.keys.flush())
            .expect("a terminal that is there");
    }

    /// Waits until it shows `what`; gives all that it shows then.
    pub fn wait_for(&self, what: &str) -> String {
        let due = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < due {
            let text = self.text();
            if text.contains(what) {
                return text;
            }
            thread::sleep(Duration::from_millis(30));
        }
        panic!("the screen does not show {what:?}:\n{}", self.text());
    }

    fn resize(&self, columns: u16, rows: u16) {
        self.master.resize(size(columns, rows)).expect("a terminal that is there");
        if rows > 0 && columns > 0 {
            self.parser.lock().expect("a screen").screen_mut().set_size(cells(rows), cells(columns));
        }
    }

    fn pid(&self) -> i32 {
        self.child.process_id().expect("a process") as i32
    }

    /// Waits for its end; gives the exit code.
    pub fn wait(&mut self) -> u32 {
        self.child.wait().expect("an end").exit_code()
    }
}

fn start<'a>(lab: &'a Lab, line: &str) -> Job<'a> {
    let job = lab.start("job", &[LOCAL, &["sh", "-c", line]].concat());
    job.wait_for_ranks(2);
    job
}

fn only_job(lab: &Lab) -> Job<'_> {
    let id = wait_until("a job", PATIENCE, || {
        let jobs = std::fs::read_dir(lab.elastictop_dir().join("jobs")).ok()?.flatten().next()?;
        jobs.path().join("job.json").exists().then(|| jobs.file_name().to_string_lossy().into_owned())
    });
    lab.job(&id)
}

#[test]
fn the_demo_opens_the_screen_and_outlives_it() {
    let lab = Lab::new();
    let mut terminal = Terminal::open(&lab, &["demo", "--steps", "100000", "--crash-step", "0"]);
    let job = only_job(&lab);
    let ranks = living(&job.wait_for_ranks(4));
    for pid in &ranks {
        terminal.wait_for(&pid.to_string());
    }
    terminal.wait_for(&job.id);
    terminal.press("q");
    assert_eq!(terminal.wait(), 0);
    terminal.wait_for("detached from");
    assert_eq!(living(&job.status()), ranks, "the job goes on");

    // Two at once, from other terminals.
    let (mut one, two) = (Terminal::open(&lab, &["attach", &job.id]), Terminal::open(&lab, &["attach"]));
    for terminal in [&one, &two] {
        for pid in &ranks {
            terminal.wait_for(&pid.to_string());
        }
    }
    drop(two);
    // A connection that drops: whoever holds the terminal of the viewer is gone.
    let spawn = "import pty, sys; pty.spawn(['sh', '-c', 'stty cols 100 rows 30; exec \"$0\" \"$@\"', *sys.argv[1:]])";
    let mut holder = lab.command("python3");
    holder.args(["-c", spawn, env!("CARGO_BIN_EXE_elastictop"), "attach", &job.id]).env("TERM", "xterm");
    let mut holder = lab.spawn("holder", &mut holder);
    wait_until("the screen", PATIENCE, || {
        lab.read("holder.out").contains(&ranks[0].to_string()).then_some(())
    });
    let viewers = || lab.processes("").iter().filter(|(_, line)| line.contains("elastictop attach")).count();
    let before = viewers();
    kill(holder.id() as i32, Signal::KILL);
    holder.wait().expect("a dead holder");
    wait_until("the viewer ends with its terminal", PATIENCE, || (viewers() < before).then_some(()));
    assert_eq!(living(&job.status()), ranks);
    // The first one is killed.
    kill(one.pid(), Signal::KILL);
    one.wait();
    assert_eq!(living(&job.status()), ranks);
    job.stop();
    job.wait_until_nothing_is_left();
}

#[test]
fn keys_restart_signal_and_stop() {
    let lab = Lab::new();
    let line = "trap 'echo got-usr1' USR1; echo ready; while :; do sleep 0.05; done";
    let job = start(&lab, line);
    let mut terminal = Terminal::open(&lab, &["attach", &job.id]);
    let before = living(&job.status());
    terminal.wait_for(&before[0].to_string());
    terminal.press("R");
    terminal.wait_for("end and start anew");
    terminal.press("y");
    wait_until("a new group", PATIENCE, || (job.events_of("restart").len() == 1).then_some(()));
    let after = living(&job.wait_for_ranks(2));
    assert!(after.iter().all(|pid| !before.contains(pid)));
    terminal.wait_for(&after[0].to_string());

    terminal.press("Q");
    terminal.wait_for("Type 2");
    assert_eq!(living(&job.status()), after, "nothing is ended before the answer");
    terminal.press("2\r");
    wait_until("the job is over", PATIENCE, || is_over(&job.status()["job"]["state"]).then_some(()));
    terminal.press("q");
    terminal.wait();
    job.wait_until_nothing_is_left();
}

#[test]
fn any_size_is_survived() {
    let lab = Lab::new();
    let job = start(&lab, "echo a-line-of-the-log; exec sleep 1000");
    let mut terminal = Terminal::open(&lab, &["attach", &job.id]);
    let rank = living(&job.status())[0].to_string();
    terminal.wait_for(&rank);
    for (columns, rows) in [(40, 12), (1, 1), (0, 0), (200, 50), (3, 2), (0, 0), (100, 30)] {
        terminal.resize(columns, rows);
        // It has seen the size when it answers to something else: a supervisor's event, and a key.
        terminal.press("2");
        terminal.press("1");
        assert!(terminal.child.try_wait().expect("a look").is_none(), "it died at {columns}×{rows}");
    }
    terminal.wait_for(&rank);
    terminal.press("q");
    assert_eq!(terminal.wait(), 0);
    assert_eq!(living(&job.status()).len(), 2);
    job.stop();
}

#[test]
fn without_a_terminal_there_is_one_line_per_event_and_the_exit_code_of_the_job() {
    let lab = Lab::new();
    let words = |code: &'static str| [LOCAL, &["--max-restarts", "0", "sh", "-c", code]].concat();
    for (line, code, last) in [("exit 0", 0, "done"), ("exit 3", 1, "failed")] {
        for how in [&["--plain"][..], &[], &["--wait"]] {
            let (got, out, err) = finish(lab.elastictop().arg("run").args(how).args(words(line)));
            assert_eq!(got, code, "{how:?}: {out}{err}");
            assert!(out.contains(&format!("job {last}")), "{how:?}: {out}{err}");
            let starts = out.lines().filter(|line| line.contains("started, pid")).count();
            // The agent and its ranks; when the first fails at once, the second may end before it begins.
            let fewest = if code == 0 { 3 } else { 2 };
            assert_eq!(starts == 0, how == ["--wait"], "{how:?}: {out}");
            assert!(starts == 0 || starts >= fewest, "{how:?}: {out}");
        }
    }
}

#[test]
fn who_only_came_to_look_leaves_the_job_alone() {
    let lab = Lab::new();
    let job = start(&lab, "exec sleep 1000");
    let ranks = living(&job.wait_for_ranks(2));
    for signal in [Signal::INT, Signal::TERM] {
        let mut viewer = lab.spawn("look", lab.elastictop().args(["attach", &job.id]));
        wait_until("it watches", PATIENCE, || lab.read("look.out").contains("is running").then_some(()));
        kill(viewer.id() as i32, signal);
        assert_eq!(viewer.wait().expect("an end").code(), Some(0));
        assert_eq!(living(&job.status()), ranks);
    }
    assert!(job.events_of("command").is_empty(), "nobody asked for anything");
    job.stop();
}

#[test]
fn ctrl_c_ends_the_job_and_a_closed_pipe_does_not() {
    let lab = Lab::new();
    let run = |name: &str| {
        let mut command = lab.elastictop();
        command.args(["run", "--plain", "--name", name]).args(LOCAL).args(["sleep", "1000"]);
        command
    };
    let mut viewer = lab.spawn("ctrl-c", &mut run("ctrl-c"));
    let job = only_job(&lab);
    job.wait_for_ranks(2);
    wait_until("it watches", PATIENCE, || lab.read("ctrl-c.out").contains("is running").then_some(()));
    kill(viewer.id() as i32, Signal::INT);
    assert_ne!(viewer.wait().expect("an end").code(), Some(0));
    assert_eq!(job.status()["job"]["state"], "stopped");
    job.wait_until_nothing_is_left();

    // The reader of the pipe leaves after one line.
    let mut viewer = run("piped").stdout(Stdio::piped()).spawn().expect("a viewer");
    let mut pipe = viewer.stdout.take().expect("a pipe");
    pipe.read_exact(&mut [0; 1]).expect("something is printed");
    drop(pipe);
    let job = wait_until("the second job", PATIENCE, || {
        let jobs = std::fs::read_dir(lab.elastictop_dir().join("jobs")).ok()?.flatten();
        let ids = jobs.map(|job| job.file_name().to_string_lossy().into_owned());
        ids.into_iter().find(|id| id.starts_with("piped")).map(|id| lab.job(&id))
    });
    job.wait_for_ranks(2);
    lab.must(&["signal", "CONT", &job.id]);
    job.wait_for_event("command", 1);
    assert!(viewer.try_wait().expect("a look").is_none(), "it waits for the job all the same");
    job.stop();
    viewer.wait().expect("an end with the job");
}
