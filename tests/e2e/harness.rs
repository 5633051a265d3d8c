//! What the tests share: a place of their own, jobs in it, and waiting for something instead of for a time.

use std::{
    fmt::Debug,
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Once,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test is given up: a slow machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(100);
/// Between two looks at something that is awaited.
const POLL: Duration = Duration::from_millis(50);
/// How much of a file is shown when a test fails, in bytes.
const TAIL: usize = 4000;

/// All files with tests, to count those that need torch.
const SOURCES: &[&str] = &[
    include_str!("adopt.rs"),
    include_str!("causes.rs"),
    include_str!("forensic.rs"),
    include_str!("hosts/mod.rs"),
    include_str!("input.rs"),
    include_str!("orphans.rs"),
    include_str!("ranks.rs"),
    include_str!("replay.rs"),
    include_str!("restarts.rs"),
    include_str!("storage.rs"),
    include_str!("terminal.rs"),
    include_str!("verdicts.rs"),
    include_str!("viewers.rs"),
    include_str!("wandb.rs"),
    include_str!("wandb_script.rs"),
    include_str!("watchdog.rs"),
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A training script of the tests.
pub fn script(name: &str) -> String {
    repository().join("tests/scripts").join(name).display().to_string()
}

/// Gives what `look` finds, as soon as it finds something.
///
/// # Panics
/// When it finds nothing within `patience`.
pub fn wait_until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let due = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < due, "this did not happen within {patience:?}: {what}");
        thread::sleep(POLL);
    }
}

/// Says something even though the test succeeds, which `eprintln!` does not.
pub fn tell(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// A place of its own for one test. All that was started in it ends with it.
#[derive(Debug)]
pub struct Lab {
    dir: TempDir,
    python: Option<PathBuf>,
    /// What stands before every program.
    prefix: Vec<String>,
}

impl Lab {
    /// For tests that need no torch.
    pub fn new() -> Lab {
        Lab::with(None)
    }

    fn with(python: Option<PathBuf>) -> Lab {
        let dir = tempfile::Builder::new().prefix("elastictop-e2e-").tempdir().expect("a temporary folder");
        Lab { dir, python, prefix: Vec::new() }
    }

    /// Another one, with the same Python.
    pub fn beside(&self) -> Lab {
        Lab::with(self.python.clone())
    }

    /// All programs of this lab are started by another, such as one that enters a namespace and becomes them.
    pub fn behind(mut self, prefix: Vec<String>) -> Lab {
        self.prefix = prefix;
        self
    }

    /// For tests that need torch; `None` means that it is left out.
    ///
    /// # Panics
    /// When torch is missing though `ELASTICTOP_TEST_TORCH` says that it must be there.
    pub fn with_torch() -> Option<Lab> {
        static TOLD: Once = Once::new();
        let python = repository().join(".venv/bin/python");
        if python.exists() {
            return Some(Lab::with(Some(python)));
        }
        let must = std::env::var("ELASTICTOP_TEST_TORCH").is_ok_and(|value| value == "1");
        assert!(!must, "{} is missing: the test command of the README makes it", python.display());
        TOLD.call_once(|| {
            let needle = concat!("Lab::with", "_torch()");
            let count: usize = SOURCES.iter().map(|source| source.matches(needle).count()).sum();
            // Not `eprintln!`, which is kept back while a test succeeds.
            let text = format!("{count} end-to-end tests left out: no torch (the test command sets it up)\n");
            let _ = std::io::stderr().write_all(text.as_bytes());
        });
        None
    }

    /// The Python that has torch.
    pub fn python(&self) -> &Path {
        self.python.as_deref().expect("a lab with torch")
    }

    /// The folder of the lab.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the lab, to be given to a script.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Makes a file that scripts wait for.
    pub fn touch(&self, name: &str) {
        fs::write(self.dir.path().join(name), "").expect("a file in the lab");
    }

    /// `ELASTICTOP_DIR` of the lab.
    pub fn elastictop_dir(&self) -> PathBuf {
        self.dir.path().join("et")
    }

    /// Any program, without what a launcher around the tests may have set. Ends with the lab.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        const LEFT: &[&str] = &[
            "ELASTICTOP",
            "TORCH",
            "PET_",
            "RANK",
            "LOCAL_",
            "GROUP_",
            "ROLE_",
            "WORLD_",
            "MASTER_",
            "OMP_",
            "NCCL_",
            "CUDA_",
            "WANDB_",
            "PYTHON",
            "VIRTUAL_ENV",
            "LOGLEVEL",
            "NO_COLOR",
        ];
        let mut command = Command::new(self.prefix.first().map_or(program.as_ref(), Path::new));
        if let Some((_, rest)) = self.prefix.split_first() {
            command.args(rest).arg(program.as_ref());
        }
        for (name, _) in std::env::vars_os() {
            if LEFT.iter().any(|left| name.to_string_lossy().starts_with(left)) {
                command.env_remove(name);
            }
        }
        // What the user keeps in files of their own is none of the tests'.
        command.env("XDG_CONFIG_HOME", self.path("config")).env("NETRC", self.path("netrc"));
        command.env("WANDB_CONFIG_DIR", self.path("wandb-config"));
        command.env("ELASTICTOP_DIR", self.elastictop_dir()).stdin(Stdio::null()).current_dir(self.dir());
        command
    }

    /// elastictop.
    pub fn elastictop(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_elastictop"))
    }

    /// Runs elastictop to its end: exit code, standard output, standard error.
    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        finish(self.elastictop().args(args))
    }

    /// Runs elastictop to its end, which must be a good one; gives its standard output.
    ///
    /// # Panics
    /// When the exit code is not 0.
    pub fn must(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "elastictop {} failed: {err}", args.join(" "));
        out
    }

    /// `elastictop run --detach` with these arguments and a name; the lab's Python unless one is given.
    pub fn start(&self, name: &str, args: &[&str]) -> Job<'_> {
        self.start_with(name, args, &[])
    }

    /// The same with variables.
    ///
    /// # Panics
    /// When the job does not start.
    pub fn start_with(&self, name: &str, args: &[&str], env: &[(&str, &str)]) -> Job<'_> {
        let mut command = self.elastictop();
        command.args(["run", "--detach", "--name", name]).envs(env.iter().copied());
        if let Some(python) = &self.python {
            command.arg("--python").arg(python);
        }
        let (code, out, err) = finish(command.args(args));
        assert_eq!(code, 0, "the job did not start: {err}");
        let id = out.strip_prefix("started ").and_then(|rest| rest.split(';').next());
        Job { lab: self, id: id.unwrap_or_else(|| panic!("no job id in {out:?}")).to_owned() }
    }

    /// A job by its id.
    pub fn job(&self, id: &str) -> Job<'_> {
        Job { lab: self, id: id.to_owned() }
    }

    /// Starts a program that the lab looks after; its output goes to `NAME.out` in the lab.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Child {
        let out = fs::File::create(self.dir().join(format!("{name}.out"))).expect("a file in the lab");
        let err = out.try_clone().expect("a second handle");
        // A session of its own, as if it had been started in another terminal.
        command.stdout(out).stderr(err).process_group(0).spawn().expect("a program that starts")
    }

    /// The text of a file in the lab, as far as it is there.
    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.dir().join(name)).unwrap_or_default()).into_owned()
    }

    /// Living processes of this lab with their command lines, zombies left out. `mark` narrows them down to those
    /// that have it in their environment or command line.
    pub fn processes(&self, mark: &str) -> Vec<(i32, String)> {
        let ours = self.dir().display().to_string();
        let me = std::process::id() as i32;
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let known = |pid: i32| {
            // A zombie has neither.
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let all = format!("{command}\0{}", String::from_utf8_lossy(&environment));
            (all.contains(&ours) && all.contains(mark)).then_some((pid, command))
        };
        pids.filter(|pid| *pid != me).filter_map(known).collect()
    }

    fn tell_all(&self) {
        let jobs = fs::read_dir(self.elastictop_dir().join("jobs")).into_iter().flatten().flatten();
        for job in jobs {
            let id = job.file_name().to_string_lossy().into_owned();
            eprintln!("\n=== job {id}");
            eprintln!("--- events\n{}", tail(&self.run(&["events", &id]).1));
            eprintln!("--- status\n{}", tail(&self.run(&["status", &id]).1));
            for file in ["supervisor.log", "agent.err"] {
                let text = fs::read(job.path().join(file)).unwrap_or_default();
                eprintln!("--- {file}\n{}", tail(&String::from_utf8_lossy(&text)));
            }
        }
        let files = fs::read_dir(self.dir()).into_iter().flatten().flatten();
        for file in files.filter(|file| file.path().extension().is_some_and(|end| end == "out")) {
            let name = file.file_name().to_string_lossy().into_owned();
            eprintln!("--- {name}\n{}", tail(&self.read(&name)));
        }
        eprintln!("--- processes\n{:#?}", self.processes(""));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            self.tell_all();
        }
        let due = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.processes("");
            if left.is_empty() || Instant::now() > due {
                return;
            }
            left.iter().for_each(|(pid, _)| kill(*pid, Signal::KILL));
            thread::sleep(POLL);
        }
    }
}

fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(TAIL);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// Runs a program to its end: exit code, standard output, standard error.
///
/// # Panics
/// When it cannot be started, or ended by a signal.
pub fn finish(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or_else(|| panic!("{command:?}: {}", output.status));
    (code, text(&output.stdout), text(&output.stderr))
}

/// Sends a signal; who is gone already needs none.
pub fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// The letter that the kernel has for the state of a process; `None` when it is gone.
pub fn kernel_state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// A job of a lab.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// Where it runs.
    pub lab: &'a Lab,
    /// Its id.
    pub id: String,
}

impl Job<'_> {
    /// Its folder.
    pub fn dir(&self) -> PathBuf {
        self.lab.elastictop_dir().join("jobs").join(&self.id)
    }

    /// `status --json`.
    ///
    /// # Panics
    /// When that is no JSON.
    pub fn status(&self) -> Value {
        let text = self.lab.must(&["status", &self.id, "--json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// `events --json`.
    ///
    /// # Panics
    /// When a line is no JSON.
    pub fn events(&self) -> Vec<Value> {
        let text = self.lab.must(&["events", &self.id, "--json"]);
        let parsed = text.lines().map(serde_json::from_str);
        parsed.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Events of one kind.
    pub fn events_of(&self, kind: &str) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["kind"] == kind).collect()
    }

    /// Waits for a status that `is_there` likes.
    ///
    /// # Panics
    /// When none comes.
    pub fn wait_for(&self, what: &str, mut is_there: impl FnMut(&Value) -> bool) -> Value {
        wait_until(what, PATIENCE, || Some(self.status()).filter(|status| is_there(status)))
    }

    /// Waits for a state of the job.
    pub fn wait_for_state(&self, state: &str) -> Value {
        self.wait_for(&format!("the job's state is {state}"), |status| status["job"]["state"] == state)
    }

    /// Waits until this many ranks live at the same time and the job runs.
    pub fn wait_for_ranks(&self, count: usize) -> Value {
        self.wait_for(&format!("{count} ranks run"), |status| {
            status["job"]["state"] == "running" && living(status).len() == count
        })
    }

    /// Waits for the `count`th event of a kind, and gives it.
    pub fn wait_for_event(&self, kind: &str, count: usize) -> Value {
        let what = format!("event {kind}, number {count}");
        wait_until(&what, PATIENCE, || self.events_of(kind).into_iter().nth(count - 1))
    }

    /// The sizes of the world, from the first on. Agents that are late for a rendezvous make for one change more:
    /// torchrun starts the group without them, and anew when they are there.
    pub fn world_sizes(&self) -> Vec<u64> {
        let size = |value: &Value| value.as_u64().expect("a size");
        let changes = self.events_of("membership_changed");
        let mut sizes: Vec<_> = changes.first().map(|first| size(&first["from"])).into_iter().collect();
        for change in &changes {
            assert_eq!(sizes.last(), Some(&size(&change["from"])), "{changes:#?}");
            sizes.push(size(&change["world_size"]));
        }
        sizes
    }

    /// Waits until the job is over; gives its last status.
    pub fn wait_for_end(&self) -> Value {
        self.wait_for("the job is over", |status| is_over(&status["job"]["state"]))
    }

    /// `logs` with these arguments.
    pub fn logs(&self, args: &[&str]) -> String {
        let mut all = vec!["logs", self.id.as_str()];
        all.extend(args);
        self.lab.must(&all)
    }

    /// Waits until `logs` with these arguments contains something `count` times.
    pub fn wait_for_lines(&self, args: &[&str], text: &str, count: usize) {
        let what = format!("{text:?} is in the logs {count} times");
        wait_until(&what, PATIENCE, || (self.logs(args).matches(text).count() >= count).then_some(()));
    }

    /// `stop`; gives what it says.
    pub fn stop(&self) -> String {
        self.lab.must(&["stop", &self.id])
    }

    /// Living processes of this job, its supervisor left out.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mut found = self.lab.processes(&self.id);
        found.retain(|(_, command)| !command.contains("__supervise"));
        found
    }

    /// Waits until nothing of the job lives.
    pub fn wait_until_nothing_is_left(&self) {
        wait_until("nothing of the job is left", PATIENCE, || self.processes().is_empty().then_some(()));
    }

    /// Process id of its supervisor.
    ///
    /// # Panics
    /// When the manifest has none.
    pub fn supervisor(&self) -> i32 {
        let text = fs::read(self.dir().join("job.json")).expect("a manifest");
        let manifest: Value = serde_json::from_slice(&text).expect("JSON");
        pid_of(&manifest["supervisor"]["pid"])
    }
}

/// A process id in JSON.
///
/// # Panics
/// When it is none.
pub fn pid_of(value: &Value) -> i32 {
    value.as_i64().unwrap_or_else(|| panic!("{value} is no process id")) as i32
}

/// Process ids of the ranks that live, in the order of their local ranks.
pub fn living(status: &Value) -> Vec<i32> {
    const DEAD: &[&str] = &["exited", "zombie"];
    let ranks = status["ranks"].as_array().into_iter().flatten();
    ranks
        .filter(|rank| !DEAD.contains(&rank["state"].as_str().unwrap_or_default()))
        .map(|rank| pid_of(&rank["pid"]))
        .collect()
}

/// Whether that is the state of a job that is over.
pub fn is_over(state: &Value) -> bool {
    ["done", "failed", "stopped"].contains(&state.as_str().unwrap_or_default())
}

/// The kinds of some events, in order.
pub fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["kind"].as_str()).collect()
}

/// Seconds from `before` to a time in an event.
///
/// # Panics
/// When that is no time.
pub fn seconds_between(before: &Value, after: &Value) -> f64 {
    let parse = |value: &Value| {
        let text = value.as_str().unwrap_or_else(|| panic!("{value} is no time"));
        text.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    (parse(after) - parse(before)).total(jiff::Unit::Second).expect("seconds")
}

/// All of these in a text, in this order.
///
/// # Panics
/// When one is missing.
pub fn assert_in_order<T: AsRef<str> + Debug>(all: &[T], wanted: &[&str]) {
    let mut rest = all.iter();
    for want in wanted {
        assert!(rest.any(|one| one.as_ref() == *want), "{want} is missing, or too early, in {all:?}");
    }
}
