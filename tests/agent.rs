//! The embedded launcher, the rank shim and the demo's trainer, as real processes.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixDatagram,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use elastictop::domain::beat::{Message, Shim};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

const ELASTICTOP: &str = env!("CARGO_BIN_EXE_elastictop");
/// How long anything may take before the test is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command without what a launcher around the tests may have set.
fn elastictop(subcommand: &str) -> Command {
    let mut command = Command::new(ELASTICTOP);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["ELASTICTOP_", "TORCH", "RANK", "OMP_", "CUDA_"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.env_remove("LOGLEVEL").arg(subcommand).stdin(Stdio::null());
    command
}

/// The lines of a stream, as they come.
struct Lines {
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Lines {
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { return };
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Lines { lines, seen: Vec::new() }
    }

    /// Waits for a line with `part` in it.
    fn wait_for(&mut self, part: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("no line with {part:?} in:\n{}", self.seen.join("\n"));
            };
            self.seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    /// All lines, to the end of the stream.
    fn all(mut self) -> Vec<String> {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => return self.seen,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("somebody keeps the stream open after:\n{:#?}", self.seen)
                }
            }
        }
    }
}

/// A launcher whose ranks run a shell script and share its stdout, unless redirected.
struct Agent {
    child: Child,
    out: Lines,
    err: Lines,
    folder: TempDir,
}

impl Agent {
    fn start(options: &[&str], script: &str) -> Agent {
        Agent::run(options, &["sh", "-c", script])
    }

    fn run(options: &[&str], program: &[&str]) -> Agent {
        let folder = tempfile::tempdir().unwrap();
        let mut command = elastictop("__agent");
        command.arg("--log-dir").arg(folder.path().join("logs")).args(["--run-id", "job"]).args(options);
        command.arg("--").args(program).env("ELASTICTOP_JOB_DIR", folder.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = Lines::of(child.stdout.take().unwrap());
        let err = Lines::of(child.stderr.take().unwrap());
        Agent { child, out, err, folder }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for the end: status, stdout, stderr.
    fn end(mut self) -> Ended {
        let status = wait(&mut self.child);
        Ended { status, out: self.out.all(), err: self.err.all(), folder: self.folder }
    }
}

struct Ended {
    status: ExitStatus,
    out: Vec<String>,
    err: Vec<String>,
    folder: TempDir,
}

impl Ended {
    fn code(&self) -> Option<i32> {
        self.status.code()
    }

    fn err_with(&self, part: &str) -> Vec<&str> {
        self.err.iter().map(String::as_str).filter(|line| line.contains(part)).collect()
    }

    /// The events of this kind, and what is in their inner JSON.
    fn events(&self, kind: &str) -> Vec<(Value, Value)> {
        let head = format!("{{\"name\": \"torchelastic.worker.status.{kind}\", ");
        let lines = self.err.iter().filter(|line| line.starts_with(&head));
        lines
            .map(|line| {
                let event: Value = serde_json::from_str(line).unwrap();
                let inner = serde_json::from_str(event["metadata"]["metadata"].as_str().unwrap()).unwrap();
                (event["metadata"].clone(), inner)
            })
            .collect()
    }

    /// The run's own folder below the log folder.
    fn run(&self) -> PathBuf {
        only_entry(&self.folder.path().join("logs"))
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let pid = Pid::from_child(child);
    let (done, stopped) = channel::<()>();
    thread::spawn(move || {
        if stopped.recv_timeout(PATIENCE).is_err_and(|why| why == RecvTimeoutError::Timeout) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let status = child.wait().unwrap();
    drop(done);
    status
}

fn only_entry(folder: &Path) -> PathBuf {
    let entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.into_iter().next().unwrap()
}

fn shim(message: &[u8]) -> Shim {
    match Message::parse(message) {
        Some(Message::Shim(shim)) => shim,
        other => panic!("{other:?} is not from the shim"),
    }
}

fn rank_files(job: &Path) -> Vec<Shim> {
    let folders = fs::read_dir(job.join("ranks")).unwrap();
    folders.map(|folder| shim(&fs::read(folder.unwrap().path().join("rank.json")).unwrap())).collect()
}

fn pid(text: &str) -> Pid {
    Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}

// --- launcher ---

#[test]
fn all_ranks_succeed() {
    let script =
        "env | grep -E '^(RANK|LOCAL_|WORLD|GROUP|ROLE|MASTER|TORCH|OMP)' | sort | tr '\\n' ' '; echo";
    let ended = Agent::start(&["--nproc-per-node", "2", "--max-restarts", "3", "-r", "1"], script).end();
    assert_eq!(ended.code(), Some(0));
    let env: Vec<BTreeMap<String, String>> = (0..2)
        .map(|rank| {
            let text = fs::read_to_string(ended.run().join(format!("attempt_0/{rank}/stdout.log"))).unwrap();
            let pairs = text.split_ascii_whitespace().map(|pair| pair.split_once('=').unwrap());
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        })
        .collect();
    let error_file = ended.run().join("attempt_0/1/error.json").display().to_string();
    let port = env[0]["MASTER_PORT"].clone();
    assert!(port.parse::<u16>().is_ok());
    let expected = [
        ("GROUP_RANK", "0"),
        ("GROUP_WORLD_SIZE", "1"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "2"),
        ("MASTER_ADDR", "localhost"),
        ("MASTER_PORT", &port),
        ("OMP_NUM_THREADS", "1"),
        ("RANK", "1"),
        ("ROLE_NAME", "default"),
        ("ROLE_RANK", "1"),
        ("ROLE_WORLD_SIZE", "2"),
        ("TORCHELASTIC_ERROR_FILE", &error_file),
        ("TORCHELASTIC_MAX_RESTARTS", "3"),
        ("TORCHELASTIC_RESTART_COUNT", "0"),
        ("TORCHELASTIC_RUN_ID", "job"),
        ("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT"),
        ("TORCHELASTIC_USE_AGENT_STORE", "False"),
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        ("WORLD_SIZE", "2"),
    ];
    let got: Vec<_> = env[1].iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(got, expected);

    let started: Vec<_> = ended.events("START").iter().map(|(event, _)| event["worker_id"].clone()).collect();
    let succeeded = ended.events("SUCCEEDED");
    assert_eq!(succeeded.len(), 2);
    for (rank, (event, inner)) in succeeded.iter().enumerate() {
        assert_eq!(event["worker_id"], started[rank]);
        assert_eq!(inner["local_rank"][0], rank);
        assert_eq!(inner["exit_code"][0], 0);
    }
}

#[test]
fn a_crash_is_recovered_from_with_new_processes_and_a_new_port() {
    let script = r#"echo "$RANK $TORCHELASTIC_RESTART_COUNT $MASTER_PORT $$"
        if [ $TORCHELASTIC_RESTART_COUNT = 1 ]; then exit 0; fi
        if [ $RANK = 1 ]; then exit 3; fi
        exec sleep 1000"#;
    let ended = Agent::start(&["--nproc-per-node", "2", "--max-restarts", "1"], script).end();
    assert_eq!(ended.code(), Some(0), "{:#?}", ended.err);
    let starts = ended.events("START");
    let restarts: Vec<_> =
        starts.iter().map(|(event, _)| event["agent_restarts"].as_u64().unwrap()).collect();
    assert_eq!(restarts, [0, 0, 1, 1]);
    let field = |nth: usize| -> Vec<String> {
        let mut values: Vec<_> =
            ended.out.iter().map(|line| line.split(' ').nth(nth).unwrap().to_owned()).collect();
        values.sort();
        values.dedup();
        values
    };
    // Rank 0 may be ended before it wrote its first line.
    assert!(field(3).len() >= 3 && field(2).len() == 2, "{:?}", ended.out);
    assert_eq!(ended.err_with("failed (exitcode: 3) local_rank: 1 (pid: ").len(), 1);
    assert_eq!(ended.err_with("closing signal SIGTERM").len(), 1);
    let attempts: Vec<_> = (0..2).map(|n| ended.run().join(format!("attempt_{n}")).is_dir()).collect();
    assert_eq!(attempts, [true, true]);
}

#[test]
fn a_spent_budget_fails_the_job_with_the_block_of_failures() {
    let script = r#"if [ $RANK = 1 ]; then
            printf '{"message":{"message":"ValueError: bad","extraInfo":{"timestamp":"1"}}}' >"$TORCHELASTIC_ERROR_FILE"
            exit 7
        fi
        exec sleep 1000"#;
    let ended = Agent::start(&["--nproc-per-node", "2", "--max-restarts", "2"], script).end();
    assert_eq!(ended.code(), Some(1));
    assert_eq!(ended.events("START").len(), 6);
    assert_eq!(ended.err_with("failed (exitcode: 7) local_rank: 1").len(), 3);
    let failed = ended.events("FAILED");
    let codes: Vec<_> = failed.iter().map(|(_, inner)| inner["exit_code"][0].as_i64().unwrap()).collect();
    assert_eq!(codes, [-15, 7]);
    assert!(failed[1].0["raw_error"].as_str().unwrap().contains("ValueError: bad"));
    let text = ended.err.join("\n");
    let (_, block) = text.split_once("ChildFailedError:\n").expect(&text);
    let (others, root) = block.split_once("Root Cause (first observed failure):\n").unwrap();
    assert!(others.contains("sh FAILED") && others.contains("exitcode  : -15 (pid: "), "{block}");
    assert!(others.contains("(SIGTERM)"), "{block}");
    assert!(root.contains("rank      : 1 (local_rank: 1)\n  exitcode  : 7 (pid: "), "{block}");
    assert!(root.contains("attempt_2/1/error.json\n  traceback : ValueError: bad\n"), "{block}");
    let log = &ended.err_with("failed (exitcode: 7)")[0];
    assert!(log.starts_with('E') && log.contains("elastictop/agent/runner.rs:"), "{log}");
}

#[test]
fn a_killed_rank_restarts_the_group_at_once() {
    let script = r#"[ $TORCHELASTIC_RESTART_COUNT = 1 ] && exit 0; echo "$RANK $$"; exec sleep 1000"#;
    let mut agent = Agent::start(&["--nproc-per-node", "2", "--max-restarts", "1"], script);
    let ready = [agent.out.wait_for(" "), agent.out.wait_for(" ")];
    let victim = ready.iter().find_map(|line| line.strip_prefix("0 ")).unwrap();
    let killed = Instant::now();
    kill_process(pid(victim), Signal::KILL).unwrap();
    agent.err.wait_for("\"agent_restarts\": 1");
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    let ended = agent.end();
    assert_eq!(ended.code(), Some(0));
    assert_eq!(
        ended.err_with(&format!("failed (exitcode: -9) local_rank: 0 (pid: {victim}) of binary: sh")).len(),
        1
    );
}

#[test]
fn a_rank_that_ignores_sigterm_is_killed_after_the_grace() {
    let script = r#"if [ $RANK = 0 ]; then trap '' TERM; echo ready; while :; do sleep 1000; done; fi
        read -r go <"$ELASTICTOP_JOB_DIR/go"; exit 1"#;
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    assert!(Command::new("mkfifo").arg(&go).status().unwrap().success());
    let script = script.replace("$ELASTICTOP_JOB_DIR", folder.path().to_str().unwrap());
    let mut agent = Agent::start(&["--nproc-per-node", "2", "--grace", "0.3"], &script);
    agent.out.wait_for("ready");
    fs::write(&go, "go\n").unwrap();
    agent.err.wait_for("closing signal SIGTERM");
    let asked = Instant::now();
    agent.err.wait_for("via SIGTERM, forcefully exiting via SIGKILL");
    assert!(asked.elapsed() >= Duration::from_millis(200), "{:?}", asked.elapsed());
    let ended = agent.end();
    assert_eq!(ended.code(), Some(1));
    let codes: Vec<_> =
        ended.events("FAILED").iter().map(|(_, inner)| inner["exit_code"][0].as_i64().unwrap()).collect();
    assert_eq!(codes, [-9, 1]);
}

#[test]
fn a_stopped_rank_takes_the_signal() {
    let script = r#"echo "$RANK $$"; exec sleep 1000"#;
    let mut agent = Agent::start(&["--nproc-per-node", "2", "--grace", "50"], script);
    let ready = [agent.out.wait_for(" "), agent.out.wait_for(" ")];
    kill_process(pid(ready[0].split(' ').nth(1).unwrap()), Signal::STOP).unwrap();
    kill_process(agent.pid(), Signal::TERM).unwrap();
    let ended = agent.end();
    assert_eq!(ended.code(), Some(1));
    assert!(ended.err_with("SIGKILL").is_empty(), "{:#?}", ended.err);
}

#[test]
fn a_signal_to_the_launcher_reaches_whole_groups_and_ends_with_1() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT"), (Signal::HUP, "SIGHUP")] {
        // The child is what a data loader would be. It speaks up itself, when it has a signal's default action.
        let script = r#"trap 'exit 0' TERM INT HUP
            sh -c 'echo "$RANK $$"; exec sleep 1000' & wait; exit 0"#;
        let mut agent = Agent::start(&["--nproc-per-node", "2", "--max-restarts", "5"], script);
        let ready = [agent.out.wait_for(" "), agent.out.wait_for(" ")];
        kill_process(agent.pid(), signal).unwrap();
        agent.err.wait_for(&format!("closing signal {name}"));
        agent.err.wait_for(&format!("closing signal {name}"));
        // Shells start background jobs with SIGINT ignored.
        if signal == Signal::INT {
            for line in &ready {
                kill_process(pid(line.split(' ').nth(1).unwrap()), Signal::KILL).unwrap();
            }
        }
        let ended = agent.end();
        assert_eq!(ended.code(), Some(1), "{name}");
        assert_eq!(ended.events("START").len(), 2, "{name}: no restart");
        let number = signal.as_raw();
        assert_eq!(ended.err_with(&format!("Received {number} death signal, shutting down")).len(), 1);
        // The end of stdout above means that the children are gone too: they shared it.
    }
}

#[test]
fn a_rank_that_leaves_early_is_done() {
    let script = r#"[ $RANK = 0 ] && exit 0; read -r line <"$FIFO"; echo "$line""#;
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = script.replace("$FIFO", fifo.to_str().unwrap());
    let mut agent = Agent::start(&["--nproc-per-node", "2"], &script);
    let start = agent.err.wait_for("\"global_rank\": 0");
    let event: Value = serde_json::from_str(&start).unwrap();
    let first = pid(event["metadata"]["worker_id"].as_str().unwrap());
    while test_kill_process(first).is_ok() {
        thread::yield_now();
    }
    fs::write(&fifo, "still here\n").unwrap();
    let ended = agent.end();
    assert_eq!((ended.code(), ended.out.last().unwrap().as_str()), (Some(0), "still here"));
    assert!(ended.err_with("closing signal").is_empty());
}

#[test]
fn logs_lie_where_torchrun_puts_them() {
    let script = "echo out$RANK; echo err$RANK >&2";
    let ended = Agent::start(&["--nproc-per-node", "3", "-r", "0:3,1:2", "-t", "2:1"], script).end();
    assert_eq!(ended.code(), Some(0));
    let run = ended.run();
    let name = run.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("job_") && name.len() == 12, "{name}");
    let read = |path: &str| fs::read_to_string(run.join("attempt_0").join(path)).ok();
    assert_eq!(read("0/stdout.log").as_deref(), Some("out0\n"));
    assert_eq!(read("0/stderr.log").as_deref(), Some("err0\n"));
    assert_eq!((read("1/stdout.log"), read("1/stderr.log").as_deref()), (None, Some("err1\n")));
    assert_eq!((read("2/stdout.log").as_deref(), read("2/stderr.log")), (Some("out2\n"), None));
    let mut out = ended.out.clone();
    out.sort();
    assert_eq!(out, ["[default2]:out2", "out1"]);
    assert_eq!(ended.err_with("err").iter().filter(|line| **line == "err2").count(), 1);
}

#[test]
fn the_console_can_be_left_to_some_ranks() {
    let options = ["--nproc-per-node", "3", "--local-ranks-filter", "1", "-t", "0:1", "--role", "trainer"];
    let ended = Agent::start(&options, "echo out$RANK").end();
    assert_eq!(ended.out, ["out1"]);
    assert_eq!(fs::read_to_string(ended.run().join("attempt_0/0/stdout.log")).unwrap(), "out0\n");
}

#[test]
fn ranks_lead_sessions_and_the_launcher_looks_like_an_agent() {
    let script = r#"cat /proc/$PPID/comm; cut -d' ' -f1,5,6 /proc/$$/stat; echo "$$ $$ $$""#;
    let ended = Agent::start(&[], script).end();
    assert_eq!(ended.out[0], "pt_elastic");
    assert_eq!(ended.out[1], ended.out[2]);
}

#[test]
fn odd_arguments_pass_through_unchanged() {
    let odd = ["", "a b", "--", "--grace", "$HOME", "é\n", "-"];
    let script = r#"for arg; do printf '<%s>' "$arg"; done; echo"#;
    let mut program = vec!["sh", "-c", script, "sh"];
    program.extend(odd);
    let ended = Agent::run(&[], &program).end();
    let expected = format!("<{}>", odd.join("><"));
    assert_eq!(ended.out.join("\n"), expected);
}

#[test]
fn virtual_local_ranks_get_a_gpu_each() {
    let script = r#"echo "$LOCAL_RANK $CUDA_VISIBLE_DEVICES""#;
    let ended = Agent::start(&["--nproc-per-node", "2", "--virtual-local-rank"], script).end();
    let mut out = ended.out;
    out.sort();
    assert_eq!(out, ["0 0", "0 1"]);
}

#[test]
fn a_log_folder_that_cannot_be_made_is_one_clear_error() {
    let output = elastictop("__agent").args(["--log-dir", "/proc/none", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("cannot make a log folder in /proc/none"), "{text}");
    assert_eq!(
        elastictop("__agent").args(["--nproc-per-node", "0", "--", "x"]).output().unwrap().status.code(),
        Some(2)
    );
}

// --- shim ---

#[test]
fn links_of_the_logs_survive_the_folder_of_the_attempt() {
    let ended = Agent::start(&["--nproc-per-node", "2", "-r", "3"], "echo out$RANK; echo err$RANK >&2").end();
    fs::remove_dir_all(ended.run().join("attempt_0")).unwrap();
    let ranks = rank_files(ended.folder.path());
    assert_eq!(ranks.len(), 2);
    for file in ranks {
        let rank = file.place.rank.unwrap();
        let folder = ended.folder.path().join("ranks").join(format!("{}-{}", file.pid, file.start));
        assert_eq!(file.out.as_deref(), Some(folder.join("stdout.log").as_path()));
        assert_eq!(fs::read_to_string(file.out.unwrap()).unwrap(), format!("out{rank}\n"));
        assert_eq!(fs::read_to_string(file.err.unwrap()).unwrap(), format!("err{rank}\n"));
        assert!(file.error_file.unwrap().ends_with(format!("attempt_0/{rank}/error.json")));
        assert_eq!(file.place.world_size, Some(2));
        assert_eq!((file.place.run_id.as_deref(), file.place.restart_count), (Some("job"), Some(0)));
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    }
}

#[test]
fn the_shim_tells_the_supervisor_and_becomes_the_program() {
    let job = tempfile::tempdir().unwrap();
    let beat = job.path().join("beat");
    let socket = UnixDatagram::bind(&beat).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let script = r#"echo "$$ $ELASTICTOP_RANK_PID $ELASTICTOP_RANK_DIR$ELASTICTOP_AGENT""#;
    let output = elastictop("__rank")
        .args(["--", "sh", "-c", script])
        .env("ELASTICTOP_JOB_DIR", job.path())
        .env("ELASTICTOP_BEAT", &beat)
        .env("RANK", "5")
        .env("ELASTICTOP_AGENT", "1")
        .env("TORCHELASTIC_ERROR_FILE", "some/error.json")
        .current_dir(job.path())
        .output()
        .unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    let told = shim(&buffer[..length]);
    let text = String::from_utf8(output.stdout).unwrap();
    let folder = job.path().join("ranks").join(format!("{}-{}", told.pid, told.start));
    assert_eq!(text.trim_end(), format!("{0} {0} {1}", told.pid, folder.display()));
    assert_eq!(told.agent_pid, std::process::id() as i32);
    assert_eq!(told.place.rank, Some(5));
    assert_eq!((told.out, told.err), (None, None), "pipes are no files");
    assert_eq!(told.error_file, Some(job.path().join("some/error.json")));
    assert!(output.stderr.is_empty());
}

#[test]
fn a_log_on_another_file_system_is_named() {
    let (job, elsewhere) = (tempfile::tempdir().unwrap(), Path::new("/dev/shm"));
    let same = fs::metadata(job.path()).unwrap().dev() == fs::metadata(elsewhere).unwrap().dev();
    let log = tempfile::NamedTempFile::new_in(elsewhere).unwrap();
    let mut command = elastictop("__rank");
    command.args(["true"]).env("ELASTICTOP_JOB_DIR", job.path()).stdout(log.reopen().unwrap());
    assert!(command.status().unwrap().success());
    let file = rank_files(job.path()).remove(0);
    if !same {
        assert_eq!(file.out.as_deref(), Some(log.path()));
    }
}

#[test]
fn nothing_keeps_the_shim_from_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let gone = folder.path().join("gone");
    for (job, beat) in
        [(gone.as_path(), Path::new("/none/beat")), (&file, &file), (Path::new(""), Path::new(""))]
    {
        let mut command = elastictop("__rank");
        command.args(["--setsid", "--", "echo", "ran"]);
        let output = command.env("ELASTICTOP_JOB_DIR", job).env("ELASTICTOP_BEAT", beat).output().unwrap();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"ran\n"[..]), "{job:?}");
        let complaints = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<_> = complaints.lines().collect();
        assert_eq!(lines.is_empty(), job == Path::new(""), "{complaints}");
        let says = |line: &&str| {
            ["elastictop: cannot make ", "elastictop: W&B is left to the script: "]
                .iter()
                .any(|start| line.starts_with(start))
        };
        assert!(lines.len() <= 2 && lines.iter().all(says), "{complaints}");
    }
    assert!(!gone.exists(), "a job that was removed does not come back");
}

#[test]
fn only_a_program_that_cannot_run_ends_the_shim() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    fs::write(&plain, "text").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    for (program, code) in [("no-such-program-here", 127), (plain.to_str().unwrap(), 126)] {
        let output = elastictop("__rank").args(["--", program]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.starts_with(&format!("elastictop: cannot run {program}: ")), "{text}");
    }
    assert_eq!(elastictop("__rank").output().unwrap().status.code(), Some(2));
}

#[test]
fn orphans_are_ended_only_if_wanted() {
    for (orphans, ended) in [("end", true), ("keep", false)] {
        let mut agent = Command::new("sh");
        // A shell that starts the shim and waits stands for the agent.
        agent.args(["-c", r#""$0" __rank --setsid -- sh -c 'echo $$; exec sleep 1000' & wait"#, ELASTICTOP]);
        agent.env("ELASTICTOP_ORPHANS", orphans).env_remove("ELASTICTOP_JOB_DIR").process_group(0);
        let mut agent = agent.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = Lines::of(agent.stdout.take().unwrap());
        let rank = pid(&out.wait_for(""));
        agent.kill().unwrap();
        assert_eq!(agent.wait().unwrap().signal(), Some(9));
        if !ended {
            test_kill_process(rank).unwrap();
            kill_process(rank, Signal::KILL).unwrap();
        }
        // The pipe ends when the rank does.
        out.all();
    }
}

// --- trainer ---

fn steps(lines: &str) -> Vec<(u64, f64)> {
    let values = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    values.map(|value| (value["step"].as_u64().unwrap(), value["loss"].as_f64().unwrap())).collect()
}

#[test]
fn the_trainer_crashes_once_resumes_and_converges() {
    let options = ["--nproc-per-node", "4", "--max-restarts", "3", "-r", "3"];
    let crash = ["--steps", "120", "--step-ms", "1", "--crash-rank", "2", "--crash-step", "48", "--metrics"];
    let mut program = vec![ELASTICTOP, "__trainer"];
    program.extend(crash);
    let ended = Agent::run(&options, &program).end();
    assert_eq!(ended.code(), Some(0), "{:#?}", ended.err);
    let read = |path: &str| fs::read_to_string(ended.run().join(path)).unwrap();

    let first = steps(&read("attempt_0/0/stdout.log"));
    // The launcher may end it before it tells of its last step.
    let told = first.len() as u64;
    assert!((46..48).contains(&told), "{first:?}");
    assert_eq!(first.iter().map(|(step, _)| *step).collect::<Vec<_>>(), (1..=told).collect::<Vec<_>>());
    for rank in 0..4 {
        let second = steps(&read(&format!("attempt_1/{rank}/stdout.log")));
        assert_eq!(second.iter().map(|(step, _)| *step).collect::<Vec<_>>(), (46..=120).collect::<Vec<_>>());
        // What was trained before the crash is not lost, and what comes again is the same.
        assert_eq!(second[..first.len() - 45], first[45..], "rank {rank}");
        assert!(second[74].1 < first[0].1 / 20.0, "{} then {}", first[0].1, second[74].1);
        assert!(read(&format!("attempt_1/{rank}/stderr.log")).contains("resumed at step 45\n"));
    }
    assert!(read("attempt_1/0/stdout.log").contains("\"grad_norm\":"));

    let raised = "RuntimeError: injected failure at step 48 (demo)";
    assert!(read("attempt_0/2/stderr.log").contains(&format!("[rank2]: {raised}\n")));
    let error: Value = serde_json::from_str(&read("attempt_0/2/error.json")).unwrap();
    assert_eq!(error["message"]["message"], raised);
    assert!(error["message"]["extraInfo"]["timestamp"].as_str().unwrap().parse::<u64>().is_ok());
    let checkpoint = fs::read_to_string(ended.folder.path().join("demo-checkpoint.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&checkpoint).unwrap()["step"], 120);
}

#[test]
fn a_trainer_without_a_launcher_is_a_world_of_its_own_and_beats() {
    let job = tempfile::tempdir().unwrap();
    let beat = job.path().join("beat");
    let socket = UnixDatagram::bind(&beat).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    fs::write(job.path().join("demo-checkpoint.json"), "{nonsense").unwrap();
    let mut command = elastictop("__trainer");
    // Three seconds: it beats once in each, and on a busy machine not in every one of them.
    command.args(["--steps", "30", "--step-ms", "100"]);
    command.env("ELASTICTOP_BEAT", &beat).env("ELASTICTOP_JOB_DIR", job.path());
    let output = command.output().unwrap();
    assert!(output.status.success());
    assert_eq!(steps(&String::from_utf8(output.stdout).unwrap()).len(), 30);
    assert!(String::from_utf8(output.stderr).unwrap().contains("starting over"));
    let mut beats = Vec::new();
    let mut buffer = [0; 4096];
    while beats.last().is_none_or(|beat: &Value| beat["kind"] != "bye") {
        let length = socket.recv(&mut buffer).unwrap();
        beats.push(serde_json::from_slice::<Value>(&buffer[..length]).unwrap());
    }
    let kinds: Vec<_> = beats.iter().map(|beat| beat["kind"].as_str().unwrap()).collect();
    let ["hello", between @ .., "bye"] = kinds.as_slice() else { panic!("{kinds:?}") };
    assert!(!between.is_empty() && between.iter().all(|kind| *kind == "beat"), "{kinds:?}");
    let last = &beats[beats.len() - 1];
    let n = (beats.len() - 1).into();
    assert_eq!((&last["n"], &last["step"], &last["step_source"]), (&n, &30.into(), &"log".into()));
    assert_eq!(last["groups"][0]["backend"], "tcp");
    assert_eq!(last["groups"][0]["enqueued"], last["groups"][0]["completed"]);
    assert_eq!((&last["error"], &last["world_size"], &last["v"]), (&Value::Null, &1.into(), &1.into()));
}

#[test]
fn sigterm_ends_a_trainer_by_the_signal() {
    let mut command = elastictop("__trainer");
    let mut child =
        command.args(["--steps", "100000", "--step-ms", "5"]).stdout(Stdio::piped()).spawn().unwrap();
    Lines::of(child.stdout.take().unwrap()).wait_for("\"step\":2,");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(wait(&mut child).signal(), Some(15));
}
