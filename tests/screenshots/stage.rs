//! Where pictures are taken: a machine named `n01` on which a user named `ada` is alone.
//!
//! It is made of namespaces, so that nothing of whoever takes the pictures is on them, no job of theirs is touched, and
//! all that was started ends with it.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use portable_pty::CommandBuilder;

use crate::{
    picture::svg,
    pty::{Pty, parser},
};

/// Columns and rows.
pub type Size = (u16, u16);

/// A screen that does not come within this time is an error.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where `tests/env/make_env.py` puts it.
pub const PYTHON: &str = ".venv/bin/python";
const NAMESPACES: [&str; 4] = ["unshare", "-Urupf", "--mount-proc", "--kill-child"];
/// Makes the machine, of the folder $1 and the Python environment $2, says so, and keeps it.
const MAKE: &str = "set -e; hostname n01; mount -t tmpfs ada /home; mkdir /home/ada; mount --bind \"$1\" /home/ada; \
                    [ -z \"$2\" ] || mount --bind \"$2\" /home/ada/.venv; mount -t tmpfs ada /tmp; \
                    echo 127.0.0.1 localhost n01 n02 n03 login >/tmp/hosts; mount --bind /tmp/hosts /etc/hosts; echo made; exec sleep infinity";

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Writes a screen into `screenshots/`.
pub fn save(screen: &vt100::Screen, name: &str, size: Size) {
    let path = root().join(format!("screenshots/{name}-{}x{}.svg", size.0, size.1));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, svg(screen)).unwrap();
    println!("{}", path.strip_prefix(root()).unwrap().display());
}

/// The machine.
pub struct Stage {
    keeper: Child,
    /// The first process on it.
    first: String,
    folder: tempfile::TempDir,
}

impl Stage {
    /// `None`, with a word about it, where namespaces are not allowed.
    pub fn new() -> Option<Stage> {
        let folder = tempfile::tempdir().unwrap();
        let built = env!("CARGO_BIN_EXE_elastictop");
        fs::copy(built, folder.path().join("elastictop")).unwrap();
        for script in fs::read_dir(root().join("tests/scripts")).unwrap().flatten() {
            fs::copy(script.path(), folder.path().join(script.file_name())).unwrap_or_default();
        }
        fs::create_dir(folder.path().join(".venv")).unwrap();
        let python = fs::canonicalize(root().join(".venv")).unwrap_or_default();
        let mut keeper = Command::new(NAMESPACES[0])
            .args(&NAMESPACES[1..])
            .args(["sh", "-c", MAKE, "sh"])
            .args([folder.path(), &python])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = keeper.id();
        let first = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let stage = Stage { keeper, first: first.trim().to_owned(), folder };
        if line.trim() != "made" {
            println!("namespaces are not allowed here: nothing that runs was photographed");
            return None;
        }
        Some(stage)
    }

    /// The same, where torch is needed too.
    pub fn with_torch() -> Option<Stage> {
        if !root().join(PYTHON).exists() {
            println!("no .venv: torchrun was not photographed");
            return None;
        }
        Stage::new()
    }

    /// What the folder of the user is called from outside.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs words on the machine, in the user's folder.
    fn words<'a>(&'a self, words: &[&'a str], env: &[(&str, &str)]) -> Vec<String> {
        let mut all = ["nsenter", "-t", &self.first, "-U", "-m", "-u", "-p", "--preserve-credentials"]
            .map(str::to_owned)
            .to_vec();
        // The page of a rank shows its environment: what is on it is the user's.
        all.extend(["env", "-i"].map(str::to_owned));
        for (name, value) in [
            ("HOME", "/home/ada"),
            ("USER", "ada"),
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("TERM", "xterm-256color"),
            ("COLORTERM", "truecolor"),
            ("LANG", "C.UTF-8"),
        ]
        .iter()
        .chain(env)
        {
            all.push(format!("{name}={value}"));
        }
        all.extend(["sh", "-c", "cd && exec \"$@\"", "sh"].map(str::to_owned));
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all
    }

    /// Runs a line of the shell to its end.
    pub fn run(&self, line: &str) {
        let words = self.words(&["sh", "-c", line], &[]);
        let ended = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap();
        assert!(ended.status.success(), "{line}: {}", String::from_utf8_lossy(&ended.stderr));
    }

    /// A terminal in which a line of the shell runs.
    pub fn open(&self, line: &str, size: Size) -> Screen {
        self.open_with(line, size, &[])
    }

    pub fn open_with(&self, line: &str, size: Size, env: &[(&str, &str)]) -> Screen {
        let words = self.words(&["sh", "-c", line], env);
        let mut command = CommandBuilder::new(&words[0]);
        command.args(&words[1..]);
        Screen {
            pty: Pty::open(command, size),
            parser: parser(size),
            size,
            is_drawing: false,
            is_new: true,
            tail: Vec::new(),
        }
    }
}

impl Drop for Stage {
    /// A picture that failed leaves nothing behind.
    fn drop(&mut self) {
        let _gone = self.keeper.kill();
        let _gone = self.keeper.wait();
    }
}

/// A terminal with the program in it.
pub struct Screen {
    pty: Pty,
    parser: vt100::Parser,
    size: Size,
    is_drawing: bool,
    /// Whether all cells are of this size.
    is_new: bool,
    /// The last bytes that were read: a mark may be cut in two.
    tail: Vec<u8>,
}

impl Screen {
    pub fn press(&mut self, keys: &str) {
        self.pty.press(keys);
    }

    /// Reads until the screen is as wanted.
    pub fn until(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        let end = Instant::now() + PATIENCE;
        while self.is_drawing || !self.is_new || !wanted(&self.parser.screen().contents()) {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.pty.output.recv_timeout(left) else {
                panic!("{what} did not come, only\n{}", self.parser.screen().contents());
            };
            self.process(&bytes);
        }
    }

    /// Presses keys and waits for what comes of them.
    pub fn go(&mut self, keys: &str, shows: &str) {
        self.press(keys);
        self.until(shows, |text| text.contains(shows));
    }

    /// Presses keys until something is gone.
    pub fn leave(&mut self, keys: &str, shows: &str) {
        self.press(keys);
        self.until(&format!("no {shows}"), |text| !text.contains(shows));
    }

    /// Takes output in, and notes whether a frame has begun that has not ended (synchronised update).
    fn process(&mut self, bytes: &[u8]) {
        self.parser.process(bytes);
        self.tail.extend(bytes);
        let last = |mark: &[u8]| self.tail.windows(mark.len()).rposition(|window| window == mark);
        let (begin, end) = (last(b"\x1b[?2026h"), last(b"\x1b[?2026l"));
        self.is_new |= last(b"\x1b[2J").is_some();
        if begin.is_some() || end.is_some() {
            self.is_drawing = begin > end;
        }
        self.tail.drain(..self.tail.len().saturating_sub(16));
    }

    /// Gives the terminal another size and waits until all of it is drawn anew.
    fn resize(&mut self, size: Size) {
        if size == self.size {
            return;
        }
        while let Ok(bytes) = self.pty.output.try_recv() {
            self.process(&bytes);
        }
        (self.size, self.parser, self.is_new) = (size, parser(size), false);
        self.tail.clear();
        self.pty.resize(size);
        self.until("a frame of the new size", |_| true);
    }

    /// Takes a picture in each of the sizes.
    pub fn take(&mut self, name: &str, sizes: &[Size]) {
        let before = self.size;
        for size in sizes {
            self.resize(*size);
            save(self.parser.screen(), name, *size);
        }
        self.resize(before);
    }

    /// Leaves the program; the job goes on.
    pub fn close(mut self) {
        self.press("q");
        while self.pty.output.recv_timeout(PATIENCE).is_ok() {}
    }
}
