//! Writes `screenshots/`: the real program in a real pseudo-terminal, at 40×12 to 200×50.
//!
//! ```text
//! cargo test --test screenshots -- --ignored --nocapture
//! ```
//!
//! The demo needs nothing. With a Python environment in `.venv` (`python3 tests/env/make_env.py`) torchrun jobs are
//! photographed too; without one their pictures stay as they are. Nothing here waits by the clock: a picture is
//! taken when the screen shows what it is of.

use std::{
    fs,
    io::{Read, Write},
    num::NonZero,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use elastictop::tui::{App, ColorDepth, KeyOverrides, Layout, Msg, Options, Theme, Themes, draw, encode};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

#[path = "support/fleet.rs"]
mod fleet;

/// Columns and rows.
type Size = (u16, u16);

const SIZES: [Size; 2] = [(80, 24), (200, 50)];
/// For views whose layout changes with the size.
const ALL_SIZES: [Size; 4] = [(40, 12), (80, 24), (120, 40), (200, 50)];
/// A screen that does not come within this time is an error.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where `tests/env/make_env.py` puts it.
const PYTHON: &str = ".venv/bin/python";
const ESC: &str = "\x1b";

#[test]
#[ignore = "writes screenshots/; run it with: cargo test --test screenshots -- --ignored --nocapture"]
fn screenshots() {
    let world = World::new();
    for size in SIZES {
        the_demo(&world, size);
    }
    themes(&world);
    let has_torch = root().join(PYTHON).exists();
    let may_be_alone =
        Command::new(ALONE[0]).args(&ALONE[1..]).arg("true").status().is_ok_and(|ended| ended.success());
    for size in SIZES {
        if has_torch {
            a_failure(&world, size);
            torchrun(&world, size);
        }
        if may_be_alone {
            jobs(has_torch, size);
        }
    }
    if !may_be_alone {
        println!("no user namespaces here: the list of jobs was not photographed");
    }
    if !has_torch {
        println!("no .venv: torchrun was not photographed");
    }
}

/// Runs in W&B, and GPUs.
#[test]
#[ignore = "writes screenshots/; run it with: cargo test --test screenshots runs -- --ignored --nocapture"]
fn runs_and_gpus() {
    for size in ALL_SIZES {
        runs(size);
        gpus(size);
    }
}

/// A job that hangs.
#[test]
#[ignore = "writes screenshots/; run it with: cargo test --test screenshots hangs -- --ignored --nocapture"]
fn hangs() {
    if !root().join(PYTHON).exists() {
        return println!("no .venv: a hang was not photographed");
    }
    for size in ALL_SIZES {
        a_hang(size);
    }
}

/// Jobs of many nodes, which no single machine can run: their states are made up, the screen is the real one.
#[test]
#[ignore = "writes screenshots/; run it with: cargo test --test screenshots fleets -- --ignored --nocapture"]
fn fleets() {
    let sizes = [(40, 12), (80, 24), (120, 40), (200, 50)];
    for nodes in [1, 8, 64, 512] {
        let fleet = fleet::Fleet::troubled(nodes, 8);
        for size in sizes {
            made_up(&format!("ranks-{}", nodes * 8), &fleet, "default-dark", size, "");
        }
    }
    let (small, large) = (fleet::Fleet::troubled(8, 8), fleet::Fleet::troubled(64, 8));
    for size in [(80, 24), (200, 50)] {
        made_up("node", &large, "default-dark", size, ":goto 131\n\n");
        made_up("rank-peers", &large, "default-dark", size, ":goto 26\n\n\nTT");
        made_up("filter", &large, "default-dark", size, "/lag>5\n");
        made_up("palette", &small, "default-dark", size, ":the");
    }
    for size in [(80, 24), (120, 40)] {
        made_up("light-512", &large, "default-light", size, "");
        made_up("mono-512", &large, "mono", size, "");
        made_up("mono-64", &small, "mono", size, "");
    }
    for theme in Themes::default().names() {
        made_up(&format!("theme-{theme}"), &small, theme, (100, 24), ":goto 22\n");
    }
}

/// A picture of a made-up job, after these keys.
fn made_up(name: &str, fleet: &fleet::Fleet, theme: &str, size: Size, keys: &str) {
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
    let options = Options {
        theme: Theme::load(theme).unwrap(),
        ascii: false,
        color: ColorDepth::True,
        viewer: "ada on pts/3".into(),
        mouse: false,
        themes: Themes::default(),
        keys: KeyOverrides::default(),
        from_list: false,
        links: false,
        budget: None,
        layout: Layout::default(),
        layout_file: None,
    };
    let mut app: App = fleet.app(&options, size);
    for c in keys.chars() {
        let code = if c == '\n' { KeyCode::Enter } else { KeyCode::Char(c) };
        app.update(Msg::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }
    app.update(Msg::Tick(fleet.now() + Duration::from_secs(10)));
    app.update(Msg::Tick(fleet.now()));
    let backend = ratatui::backend::TestBackend::new(size.0, size.1);
    let mut terminal = ratatui::Terminal::new(backend).unwrap();
    let next = terminal.draw(|frame| draw(&app, frame)).unwrap().buffer.clone();
    let empty = ratatui::buffer::Buffer::empty(next.area);
    let cells = |count| NonZero::new(count).unwrap();
    let mut parser = vt100::Parser::new(cells(size.1), cells(size.0), 0);
    parser.process(&encode(&empty, &next));
    let path = root().join(format!("screenshots/{name}-{}x{}.svg", size.0, size.1));
    fs::write(&path, svg(parser.screen())).unwrap();
    println!("{}", path.strip_prefix(root()).unwrap().display());
}

/// From the start over the crash to the end, with the views in between.
fn the_demo(world: &World, size: Size) {
    let arguments = ["demo", "--steps=4000", "--step-ms=50", "--crash-step=100"];
    let mut screen = world.open(&arguments, size);
    screen.until("four ranks at step 40", |text| steps(text).iter().filter(|step| **step >= 40).count() == 4);
    screen.take("overview");
    screen.until("the restart", |text| text.contains("restarts 1/3") && steps(text).len() == 4);
    screen.until("ranks at step 130", |text| steps(text).iter().filter(|step| **step >= 130).count() == 4);
    screen.take("restart");
    screen.press("x");
    screen.until("the signal dialog", |text| text.contains("Signal to"));
    screen.take("signal");
    screen.press(ESC);
    screen.until("no dialog", |text| !text.contains("Signal to"));
    screen.press("?");
    screen.until("the help", |text| text.contains("─ keys ─"));
    screen.take("help");
    screen.press(ESC);
    screen.until("no help", |text| !text.contains("─ keys ─"));
    screen.press("3");
    screen.until("the timeline", |text| !text.contains("LAST LINE") && text.contains("failure"));
    screen.take("timeline");
    screen.press("4");
    screen.until("the events", |text| text.contains("agent started") || text.contains("started, attempt 1"));
    screen.take("events");
    screen.press("2");
    screen.until("the log", |text| text.contains("\"loss\""));
    screen.take("logs");
    screen.press("e");
    screen.until("the error", |text| text.contains("Error: injected") && !text.contains("FOLLOW"));
    screen.take("error");
    screen.press("1\r");
    screen.until("the page of a rank", |text| {
        let has_charts = size.0 < 110 || text.contains("a second");
        has_charts && text.contains("now") && text.contains("\"loss\"") && !text.contains("first error")
    });
    screen.take("rank");
    screen.press(&format!("{ESC}[D").repeat(8));
    screen.until("a cursor in the past", |text| text.contains(" s ago") && !text.contains(" now"));
    screen.take("rank-cursor");
    screen.press("Gt");
    screen.until("the environment", |text| text.contains("compared with"));
    screen.take("rank-env");
    screen.press("tt");
    screen.until("the last words", |text| text.contains("error.json"));
    screen.take("rank-error");
    screen.press("t");
    screen.until("the groups", |text| text.contains("enqueued"));
    screen.take("rank-collectives");
    screen.press("q");
    screen.until("the shell", |text| text.contains("detached from"));
    world.run(&["stop", "--now"]);
}

/// Runs in W&B, offline.
fn runs(size: Size) {
    let world = World::new();
    let rank =
        r#"i=0; while :; do i=$((i+1)); echo "{\"step\": $i, \"loss\": 0.$((9000 - i))}"; sleep 0.2; done"#;
    let job = ["run", "--launcher=local", "--name=llama", "--nproc-per-node=4", "--no-python"];
    let wandb = ["--run-mode=new", "--rank-scope=worker", "--wandb-project=llama", "--wandb-entity=ada"];
    let mut screen =
        world.open(&[&job[..], &wandb, &["--wandb-mode=offline", "sh", "-c", rank]].concat(), size);
    screen.until("four ranks", |text| text.contains("running"));
    screen.press("5jj");
    screen.until("rows", |text| text.contains("rank-1") && text.contains("kept here"));
    screen.take("wandb");
    screen.press("s");
    screen.until("the other scope", |text| text.contains("Enter apply") || text.contains("Enter"));
    screen.take("wandb-preview");
    screen.press(ESC);
    screen.press("q");
    screen.until("the shell", |text| text.contains("detached from"));
}

/// The driver's library of the tests, as no machine that builds this has a GPU.
fn gpus(size: Size) {
    let (world, driver) = (World::new(), tempfile::tempdir().unwrap());
    let made = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .arg(driver.path().join("libnvidia-ml.so.1"))
        .arg(root().join("tests/e2e/stub.c"))
        .status();
    if !made.is_ok_and(|status| status.success()) {
        println!("no C compiler: GPUs were not photographed");
        return;
    }
    let script = driver.path().join("script");
    let figures = |second: u64| {
        let one = |gpu: u64| {
            let (wave, hot) = ((second * (gpu + 3) + gpu) % 7, gpu == 2 && second % 40 > 15);
            format!(
                "util {gpu} {}\nmem {gpu} {} 143771\ntemp {gpu} {}\npower {gpu} {}\nclocks {gpu} {} 3201\nthrottle {gpu} {}\n",
                92 + wave,
                61_000 + second * 40 + wave * 300,
                if hot { 88 } else { 58 + gpu },
                if hot { 455 } else { 630 + wave * 5 },
                if hot { 1110 } else { 1980 },
                if hot { "40" } else { "4" },
            )
        };
        let all: String = (0..4).map(one).collect();
        let (new, now) = (script.with_extension("new"), format!("gpus 4\n{all}"));
        fs::write(&new, now).and_then(|()| fs::rename(&new, &script)).unwrap();
    };
    figures(0);
    let env = [
        ("LD_LIBRARY_PATH", driver.path().to_str().unwrap().to_owned()),
        ("STUB_NVML", script.to_str().unwrap().to_owned()),
    ];
    let words = ["./elastictop", "demo", "--steps=4000", "--step-ms=50", "--crash-step=0"];
    let mut screen = world.spawn_with(&words, size, &env);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begin = Instant::now();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                figures(begin.elapsed().as_secs());
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        screen.until("the GPUs", |text| text.contains("running") && text.contains('9'));
        screen.until("half a minute", |text| text.contains("up 3") && text.contains(" s"));
        screen.take("gpus");
        screen.press("jj\r");
        screen.until("the page of a rank", |text| text.contains("rank 2"));
        screen
            .until("the heat", |text| size.0 < 80 || text.contains("▲") || text.contains("hardware thermal"));
        screen.take("rank-gpu");
        screen.press("T");
        screen.until("the GPU", |text| text.contains("[gpu]") || text.contains("8 of 8"));
        screen.take("gpu");
        screen.press("q");
        screen.until("the shell", |text| text.contains("detached from"));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// A rank that sleeps while the others wait for it.
fn a_hang(size: Size) {
    let world = World::new();
    let python = format!("--python={PYTHON}");
    let script = ["scripts/hang.py", "--rank=2", "--step=60", "--step-ms=100"];
    let job = ["run", &python, "--nproc-per-node=4", "--hang-after=5"];
    let mut screen = world.open(&[&job[..], &script].concat(), size);
    screen.until("the verdict", |text| text.contains("H why"));
    screen.take("hang-alert");
    screen.press("H");
    screen.until("the view", |text| text.contains("why the job does not move on"));
    screen.press("s");
    screen.until("the stacks", |text| size.1 < 24 || text.contains("×"));
    screen.take("hang");
    screen.press("q");
    screen.until("the shell", |text| text.contains("detached from"));
}

/// The list of jobs: running ones, one that is over, and one that somebody else started. It has all torchrun jobs of
/// the machine, so it is taken where there are no others: in a process namespace of its own.
fn jobs(has_torch: bool, size: Size) {
    let world = World::new();
    let foreign = format!(
        "{PYTHON} -m torch.distributed.run --nproc-per-node=2 scripts/train_ddp.py --steps=4000 >/dev/null 2>&1 &"
    );
    let script = [
        "./elastictop demo --detach --steps=4000 --crash-step=0",
        "./elastictop run --launcher=local --name=broken --max-restarts=0 --detach --no-python false",
        "./elastictop run --launcher=local --name=sweep --nproc-per-node=2 --detach --no-python sleep 1000",
        if has_torch { &foreign } else { "" },
        "./elastictop",
    ];
    let mut list = world.spawn(&[&ALONE[..], &["sh", "-c", &script.join("\n")]].concat(), size);
    list.until("the list", |text| {
        let row = |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_default();
        let foreign = row("pid-").split_whitespace().any(|word| word == "2");
        row("sweep-").contains("running") && row("broken-").contains("failed") && (foreign || !has_torch)
    });
    list.take("jobs");
    list.press("q");
    list.ends();
}

/// Runs what follows without a view of other processes; when it ends, all that it started ends.
const ALONE: [&str; 3] = ["unshare", "-Urpf", "--mount-proc"];

/// The same screen for other eyes.
fn themes(world: &World) {
    world.run(&["demo", "--detach", "--steps=2000", "--step-ms=50", "--crash-step=40"]);
    for (name, arguments) in [
        ("light", &["attach", "--theme=default-light"][..]),
        ("mono", &["attach", "--color=never"]),
        ("ascii", &["attach", "--color=16", "--ascii"]),
    ] {
        let mut screen = world.open(arguments, SIZES[0]);
        screen.until("the restart", |text| text.contains("restarts 1/3") && steps(text).len() == 4);
        screen.take(name);
        screen.press("q");
        screen.until("the shell", |text| text.contains("detached from"));
    }
    world.run(&["stop", "--now"]);
}

/// One rank raises, the other fails because of it: the cause is the first.
fn a_failure(world: &World, size: Size) {
    let python = format!("--python={PYTHON}");
    let script = "scripts/raise_then_peer.py";
    let mut screen = world.open(&["run", &python, "--nproc-per-node=2", "--max-restarts=0", script], size);
    screen.until("the end", |text| text.contains("✖ failed") && text.contains("bad batch"));
    screen.take("failed");
    screen.press("q");
    screen.ends();
}

/// DistributedDataParallel on gloo.
fn torchrun(world: &World, size: Size) {
    let python = format!("--python={PYTHON}");
    let script = ["scripts/train_ddp.py", "--steps=4000", "--step-ms=50"];
    let mut screen = world.open(&[&["run", &python, "--nproc-per-node=2"], &script[..]].concat(), size);
    screen.until("two ranks at step 40", |text| steps(text).iter().filter(|step| **step >= 40).count() == 2);
    screen.take("torchrun");
    screen.press("q");
    screen.until("the shell", |text| text.contains("detached from"));
    world.run(&["stop", "--now"]);
}

/// What stands in the STEP column of each row of ranks.
fn steps(text: &str) -> Vec<u64> {
    let Some(header) = text.lines().find(|line| line.contains("RANK") && line.contains("STEP")) else {
        return Vec::new();
    };
    let end = header[..header.find("STEP").unwrap()].chars().count() + "STEP".len();
    let rows = text.lines().skip_while(|line| *line != header).skip(1);
    let step = |line: &str| line.chars().take(end).collect::<String>().split(' ').next_back()?.parse().ok();
    rows.map_while(step).collect()
}

/// Folders of its own, so that no job of the user is touched or shown.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// A folder that looks like a user's: what is on a picture must not tell where it was made.
    fn new() -> World {
        let dir = tempfile::Builder::new().prefix("ada-").tempdir().unwrap();
        let built = env!("CARGO_BIN_EXE_elastictop");
        let program = dir.path().join("elastictop");
        fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
        symlink(root().join("tests/scripts"), dir.path().join("scripts")).unwrap();
        symlink(root().join(".venv"), dir.path().join(".venv")).unwrap();
        World { dir }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.dir.path().join("elastictop"));
        command.envs(self.environment()).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn environment(&self) -> Vec<(&str, String)> {
        vec![
            ("ELASTICTOP_DIR", self.dir.path().join("state").to_str().unwrap().to_owned()),
            ("TERM", "xterm-256color".into()),
            ("COLORTERM", "truecolor".into()),
            ("LANG", "C.UTF-8".into()),
            ("LC_ALL", "C.UTF-8".into()),
            ("USER", "ada".into()),
        ]
    }

    fn open(&self, arguments: &[&str], size: Size) -> Terminal {
        self.spawn(&[&["./elastictop"], arguments].concat(), size)
    }

    fn spawn(&self, words: &[&str], size: Size) -> Terminal {
        self.spawn_with(words, size, &[])
    }

    fn spawn_with(&self, words: &[&str], size: Size, more: &[(&str, String)]) -> Terminal {
        let (columns, rows) = size;
        let pair =
            native_pty_system().openpty(PtySize { rows, cols: columns, ..PtySize::default() }).unwrap();
        let mut command = CommandBuilder::new(words[0]);
        command.args(&words[1..]);
        command.cwd(self.dir.path());
        // The page of a rank shows its environment: what is on it is a user's, not that of whoever takes pictures.
        command.env_clear();
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.env("HOME", self.dir.path());
        self.environment().iter().for_each(|(name, value)| command.env(name, value));
        more.iter().for_each(|(name, value)| command.env(name, value));
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader().unwrap();
        let (bytes, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if bytes.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        let cells = |count| NonZero::new(count).unwrap();
        let parser = vt100::Parser::new(cells(rows), cells(columns), 0);
        let keys = pair.master.take_writer().unwrap();
        Terminal {
            _master: pair.master,
            keys,
            output,
            parser,
            child,
            size,
            is_drawing: false,
            tail: Vec::new(),
        }
    }

    /// Runs a command that needs no screen.
    fn run(&self, arguments: &[&str]) {
        let ended = self.command().args(arguments).output().unwrap();
        assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

impl Drop for World {
    /// A picture that failed leaves no job behind.
    fn drop(&mut self) {
        for _ in 0..SIZES.len() * 4 {
            let stopped = self.command().args(["stop", "--now"]).output();
            if !stopped.is_ok_and(|output| output.status.success()) {
                break;
            }
        }
    }
}

struct Terminal {
    _master: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    output: mpsc::Receiver<Vec<u8>>,
    parser: vt100::Parser,
    child: Box<dyn Child + Send + Sync>,
    size: Size,
    is_drawing: bool,
    /// The last bytes that were read: a mark may be cut in two.
    tail: Vec<u8>,
}

impl Terminal {
    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Reads until the screen is as wanted.
    fn until(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        let end = Instant::now() + PATIENCE;
        while self.is_drawing || !wanted(&self.parser.screen().contents()) {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.output.recv_timeout(left) else {
                panic!("{what} did not come, only\n{}", self.parser.screen().contents());
            };
            self.process(&bytes);
        }
    }

    /// Takes output in, and notes whether a frame has begun that has not ended (synchronised update).
    fn process(&mut self, bytes: &[u8]) {
        self.parser.process(bytes);
        self.tail.extend(bytes);
        let last = |mark: &[u8]| self.tail.windows(mark.len()).rposition(|window| window == mark);
        let (begin, end) = (last(b"\x1b[?2026h"), last(b"\x1b[?2026l"));
        if begin.is_some() || end.is_some() {
            self.is_drawing = begin > end;
        }
        self.tail.drain(..self.tail.len().saturating_sub(16));
    }

    /// Reads until the program has ended.
    fn ends(&mut self) {
        while self.output.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().unwrap();
    }

    fn take(&self, name: &str) {
        let (columns, rows) = self.size;
        let path = root().join(format!("screenshots/{name}-{columns}x{rows}.svg"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, svg(self.parser.screen())).unwrap();
        println!("{}", path.strip_prefix(root()).unwrap().display());
    }
}

/// Width and height of a cell, and the margin, in pixels. 14 px of a monospaced font are 8.4 px wide.
const CELL: (f64, f64) = (8.4, 18.0);
const MARGIN: f64 = 10.0;

/// The screen as a picture: cells of one look form a run, whose place and length are given. So columns stay in line
/// whatever font the reader has.
fn svg(screen: &vt100::Screen) -> String {
    let (rows, columns) = screen.size();
    let (width, height) = (f64::from(columns.get()) * CELL.0, f64::from(rows.get()) * CELL.1);
    let (width, height) = (width + 2.0 * MARGIN, height + 2.0 * MARGIN);
    // The margin has the theme's own colour.
    let paper = screen.cell(0, 0).map_or(PAPER.to_owned(), |cell| look(cell).background);
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" width=\"{width:.0}\">\n\
         <style>text {{ font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; \
         white-space: pre }}</style>\n<rect width=\"100%\" height=\"100%\" rx=\"5\" fill=\"{paper}\"/>\n"
    );
    for row in 0..rows.get() {
        let cells: Vec<_> = (0..columns.get()).filter_map(|column| screen.cell(row, column)).collect();
        let y = MARGIN + f64::from(row) * CELL.1;
        let mut column = 0;
        for run in cells.chunk_by(|a, b| look(a) == look(b)) {
            let (x, length) = (MARGIN + f64::from(column) * CELL.0, run.len() as f64 * CELL.0);
            column += u16::try_from(run.len()).unwrap();
            let look = look(run[0]);
            if look.background != paper {
                let fill = &look.background;
                picture += &format!(
                    "<rect x=\"{x:.1}\" y=\"{y:.0}\" width=\"{length:.1}\" height=\"18\" fill=\"{fill}\"/>\n"
                );
            }
            picture += &text(run, x, y + 13.5, &look);
        }
    }
    picture + "</svg>\n"
}

/// The words of a run, each at its place: blanks between them need no font.
fn text(run: &[&vt100::Cell], x: f64, y: f64, look: &Look) -> String {
    let mut text = String::new();
    let mut column = 0;
    for word in run.chunk_by(|a, b| is_blank(a) == is_blank(b)) {
        let (x, length) = (x + f64::from(column) * CELL.0, word.len() as f64 * CELL.0);
        column += u16::try_from(word.len()).unwrap();
        if is_blank(word[0]) {
            continue;
        }
        let letters: String = word.iter().map(|cell| cell.contents()).collect();
        let letters = letters.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let Look { ink, style, .. } = look;
        text += &format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" textLength=\"{length:.1}\" lengthAdjust=\"spacingAndGlyphs\" \
             fill=\"{ink}\"{style}>{letters}</text>\n"
        );
    }
    text
}

fn is_blank(cell: &vt100::Cell) -> bool {
    !cell.is_wide_continuation() && cell.contents().trim().is_empty()
}

/// What cells of one run have in common.
#[derive(PartialEq)]
struct Look {
    ink: String,
    background: String,
    style: String,
}

/// The colours of a terminal without a theme.
const INK: &str = "#d0d4dc";
const PAPER: &str = "#101218";

fn look(cell: &vt100::Cell) -> Look {
    let ink = hex(cell.fgcolor()).unwrap_or_else(|| INK.to_owned());
    let paper = hex(cell.bgcolor()).unwrap_or_else(|| PAPER.to_owned());
    let (ink, background) = if cell.inverse() { (paper, ink) } else { (ink, paper) };
    let mut style = String::new();
    for (is_so, attribute) in [
        (cell.bold(), " font-weight=\"bold\""),
        (cell.italic(), " font-style=\"italic\""),
        (cell.underline(), " text-decoration=\"underline\""),
        (cell.dim(), " opacity=\"0.6\""),
    ] {
        style += if is_so { attribute } else { "" };
    }
    Look { ink, background, style }
}

/// A colour; the first sixteen as a dark terminal would show them. `None` is the terminal's own.
fn hex(color: vt100::Color) -> Option<String> {
    const NAMED: [&str; 16] = [
        "#20232a", "#e0606a", "#6fbf85", "#d9b95c", "#6ea3f0", "#b98ae8", "#5cc0c0", "#c8ccd4", "#6b7280",
        "#ff7b85", "#7fcf9a", "#e8c468", "#7fb4ff", "#cba2f2", "#7fd8d8", "#f4f6fa",
    ];
    match color {
        vt100::Color::Default => None,
        vt100::Color::Rgb(r, g, b) => Some(format!("#{r:02x}{g:02x}{b:02x}")),
        vt100::Color::Idx(index @ 0..16) => Some(NAMED[usize::from(index)].to_owned()),
        vt100::Color::Idx(index @ 16..232) => {
            let level = |step: u8| if step == 0 { 0 } else { 55 + 40 * step };
            let cube = index - 16;
            let (r, g, b) = (level(cube / 36), level(cube / 6 % 6), level(cube % 6));
            Some(format!("#{r:02x}{g:02x}{b:02x}"))
        }
        vt100::Color::Idx(index) => {
            let gray = 8 + 10 * (index - 232);
            Some(format!("#{gray:02x}{gray:02x}{gray:02x}"))
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
