//! `watch` on a real pseudo-terminal: this test program runs itself again inside of one.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use portable_pty::{CommandBuilder, PtySize, native_pty_system};

use super::pty::{Pty, parser};
use crate::{
    domain::command::Outcome,
    error::Error,
    tui::{Connector, Ending, fixture, fixture_page::close_up, watch},
    wire::{
        link::Link,
        message::{PROTOCOL, ToSupervisor, ToViewer},
    },
};

/// Watches a made-up job. Only of use inside of a terminal: the other tests start it there.
#[test]
#[ignore = "takes the terminal; the tests below run it in one of their own"]
fn inside() {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let mut link = None;
        let connector: Connector = Box::new(move || {
            let made = link.take().unwrap_or_else(far_end);
            Box::pin(async { Ok::<_, Error>(made) })
        });
        let (ending, state) = watch(connector, &fixture::options()).await.unwrap();
        assert!(state.job.is_some() || ending != Ending::Over);
        println!("ended: {ending:?}");
    });
}

/// A supervisor that greets, answers log questions and refuses commands.
fn far_end() -> Link {
    let (link, mut far) = Link::pair();
    tokio::spawn(async move {
        let story = fixture::veteran();
        let lines = fixture::log_lines(3000);
        while let Some(message) = far.incoming.recv().await {
            match message {
                ToSupervisor::Hello { .. } => {
                    let (now, version) = (story.now(), "0.1.0".into());
                    let welcome = ToViewer::Welcome { protocol: PROTOCOL, version, now, read_only: None };
                    let state = Box::new(story.state.clone());
                    far.outgoing.send(welcome).await.unwrap();
                    far.outgoing.send(ToViewer::Snapshot { state, lost: 0 }).await.unwrap();
                }
                ToSupervisor::Logs { id, query } => {
                    let page = crate::domain::log::answer(&lines, &query);
                    far.outgoing.send(ToViewer::Logs { id, page }).await.unwrap();
                }
                ToSupervisor::Do { id, .. } => {
                    let outcome = Outcome::Refused("this is a test".into());
                    far.outgoing.send(ToViewer::Reply { id, outcome }).await.unwrap();
                }
                ToSupervisor::LookAt { id, local_rank, question } => {
                    let close_up = close_up(&story.state, story.now(), local_rank, question);
                    far.outgoing.send(ToViewer::CloseUp { id, close_up: Box::new(close_up) }).await.unwrap();
                }
                ToSupervisor::To { .. }
                | ToSupervisor::DoOn { .. }
                | ToSupervisor::Replay { .. }
                | ToSupervisor::Clock { .. }
                | ToSupervisor::Traffic
                | ToSupervisor::Unknown => {}
            }
        }
    });
    link
}

struct Terminal {
    pty: Pty,
    parser: vt100::Parser,
}

/// This program, again.
fn again() -> CommandBuilder {
    let mut command = CommandBuilder::new(std::env::current_exe().unwrap());
    command.args(["--exact", "tui::tests::terminal::inside", "--ignored", "--nocapture"]);
    command
}

impl Terminal {
    fn open() -> Terminal {
        Terminal { pty: Pty::open(again(), (80, 24)), parser: parser((80, 24)) }
    }

    fn press(&mut self, keys: &str) {
        self.pty.press(keys);
    }

    /// Reads until the screen shows `what`.
    fn until(&mut self, what: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.parser.screen().contents().contains(what) {
            let left = end.saturating_duration_since(Instant::now());
            let bytes = self.pty.output.recv_timeout(left);
            let shown = || self.parser.screen().contents();
            let bytes = bytes.unwrap_or_else(|error| panic!("{error}: no {what:?} on\n{}", shown()));
            self.parser.process(&bytes);
        }
    }

    /// Waits for the end of the program; whether it came in time.
    fn ends(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if self.pty.child.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.pty.child.kill().unwrap();
        false
    }
}

#[test]
fn keys_work_and_the_terminal_is_given_back() {
    let mut terminal = Terminal::open();
    terminal.until("● running");
    assert!(terminal.parser.screen().alternate_screen() && terminal.parser.screen().hide_cursor());
    terminal.press("j\r");
    terminal.until("heartbeat");
    terminal.press("\x1b");
    terminal.until("LAST LINE");
    terminal.press("Ry");
    terminal.until("restart refused: this is a test");
    terminal.pty.resize((40, 12));
    let cells = |count: u16| std::num::NonZero::new(count).unwrap();
    terminal.parser.screen_mut().set_size(cells(12), cells(40));
    terminal.press("L");
    terminal.until("merged log");
    terminal.press("q");
    terminal.until("ended: Detached");
    let screen = terminal.parser.screen();
    assert!(!screen.alternate_screen() && !screen.hide_cursor());
    assert!(terminal.ends());
}

#[test]
fn sigterm_gives_the_terminal_back() {
    let mut terminal = Terminal::open();
    terminal.until("● running");
    let pid = rustix::process::Pid::from_raw(terminal.pty.child.process_id().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    terminal.until("ended: Detached");
    assert!(!terminal.parser.screen().alternate_screen());
    assert!(terminal.ends());
}

#[test]
fn a_closed_terminal_ends_the_viewer() {
    let mut terminal = Terminal::open();
    terminal.until("● running");
    let Pty { master, keys, output, mut child } = terminal.pty;
    drop((master, keys, output));
    let end = Instant::now() + Duration::from_secs(10);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("the viewer outlived its terminal");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_terminal_that_does_not_read_does_not_keep_the_viewer() {
    let size = PtySize { rows: 200, cols: 250, pixel_width: 0, pixel_height: 0 };
    let pair = native_pty_system().openpty(size).unwrap();
    let mut child = pair.slave.spawn_command(again()).unwrap();
    drop(pair.slave);
    let mut keys = pair.master.take_writer().unwrap();
    let mut reader = pair.master.try_clone_reader().unwrap();
    // A little is read, so that the program is known to have drawn; then nothing more.
    let mut seen: Vec<u8> = Vec::new();
    while !seen.windows(4).any(|bytes| bytes == b"2026") {
        let mut buffer = [0; 64];
        let n = reader.read(&mut buffer).unwrap();
        seen.extend(&buffer[..n]);
    }
    let pid = rustix::process::Pid::from_raw(child.process_id().unwrap() as i32).unwrap();
    // Every theme paints all cells anew: more than the terminal's buffer holds.
    keys.write_all("C".repeat(40).as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        // The test harness around the viewer prints when it ends, which needs a reader again.
        if rustix::process::test_kill_process(pid).is_err() || child.try_wait().unwrap().is_some() {
            return;
        }
        let tasks = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        if names.filter(|name| name.trim() == "keys").count() == 0 {
            child.kill().unwrap();
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    panic!("the viewer waits for its terminal");
}
