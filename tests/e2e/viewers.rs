//! Viewers: several, slow ones, broken ones and those that should not be there.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};

use crate::{
    harness::{Job, Lab, PATIENCE, is_over, kill, living, wait_until},
    terminal::Terminal,
};

const LOCAL: &[&str] = &["--launcher", "local", "--no-python", "--nproc-per-node", "2"];

fn start<'a>(lab: &'a Lab, words: &[&str]) -> Job<'a> {
    let job = lab.start("job", &[LOCAL, words].concat());
    job.wait_for_ranks(2);
    job
}

fn socket(job: &Job) -> PathBuf {
    job.lab.elastictop_dir().join("run").join(format!("{}.sock", job.id))
}

/// A viewer of our own, without any of elastictop's code.
pub struct Raw(UnixStream);

impl Raw {
    fn connect(job: &Job) -> Raw {
        let stream = UnixStream::connect(socket(job)).expect("a supervisor that listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        Raw(stream)
    }

    pub fn hello(job: &Job) -> Raw {
        let mut raw = Raw::connect(job);
        raw.say(&json!({"m": "hello", "protocol": 1, "version": "0", "viewer": "raw", "watch": true}))
            .expect("a supervisor that listens");
        raw
    }

    pub fn say(&mut self, message: &Value) -> std::io::Result<()> {
        let text = message.to_string();
        let length = (text.len() as u32).to_be_bytes();
        self.0.write_all(&[&length[..], text.as_bytes()].concat())
    }

    pub fn hear(&mut self) -> Option<Value> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Waits until the other side has closed the connection.
    fn wait_for_close(mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }
}

/// Resident memory of the supervisor, in bytes.
fn memory(job: &Job) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", job.supervisor())).expect("a supervisor");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

fn descriptors(job: &Job) -> usize {
    fs::read_dir(format!("/proc/{}/fd", job.supervisor())).expect("a supervisor").count()
}

#[test]
fn two_viewers_are_told_the_same() {
    let lab = Lab::new();
    let job = start(&lab, &["sleep", "1000"]);
    let attach = |name| lab.spawn(name, lab.elastictop().args(["attach", &job.id, "--plain"]));
    let mut viewers = [attach("one"), attach("two")];
    for name in ["one", "two"] {
        wait_until("both watch", PATIENCE, || {
            lab.read(&format!("{name}.out")).contains("is running").then_some(())
        });
    }
    lab.must(&["signal", "CONT", &job.id, "--rank", "1"]);
    job.stop();
    for viewer in &mut viewers {
        viewer.wait().expect("a viewer that ends with the job");
    }
    let (one, two) = (lab.read("one.out"), lab.read("two.out"));
    assert!(one.contains("SIGCONT") && one.contains("stopped"), "{one}");
    assert_eq!(one, two);
}

#[test]
fn viewers_that_stop_reading_cost_little_and_slow_nobody() {
    let lab = Lab::new();
    let line = "line=$(printf '%05000d' 0); i=0; while :; do echo $i $line; i=$((i+1)); sleep 0.01; done";
    let job = start(&lab, &["sh", "-c", line]);
    let index = job.dir().join("logs.jsonl");
    let entries = || fs::read_to_string(&index).expect("the index").lines().count();
    wait_until("many long lines", PATIENCE, || (entries() > 6).then_some(()));
    let before = memory(&job);
    let mut stuck: Vec<_> = (0..5).map(|_| Raw::hello(&job)).collect();
    let query = json!({"m": "logs", "id": 1, "query":
        {"ask": "page", "filter": {"local_rank": null, "attempt": null}, "anchor": "tail", "max": 1000}});
    for viewer in &mut stuck {
        viewer.0.set_write_timeout(Some(Duration::from_millis(50))).expect("a time limit");
        // Each answer has 5 MB. It ends when the supervisor does not take more questions, or after many.
        for _ in 0..100 {
            if viewer.say(&query).is_err() {
                break;
            }
        }
    }
    let rank = living(&job.status())[0];
    for round in 0..10 {
        let asked = Instant::now();
        lab.must(&["signal", "CONT", &job.id]);
        assert_eq!(living(&job.status())[0], rank);
        assert!(asked.elapsed() < Duration::from_secs(20), "round {round} took {:?}", asked.elapsed());
    }
    let grown = memory(&job).saturating_sub(before);
    // What may wait for each, what is being made for one, and the allocator's share.
    assert!(grown < 5 * (16 << 20) + (64 << 20), "{} MiB for five viewers", grown >> 20);
    let end = entries();
    wait_until("logs go on", PATIENCE, || (entries() > end).then_some(()));
    drop(stuck);
    job.stop();
}

#[test]
fn connecting_and_leaving_many_times_leaves_nothing() {
    let lab = Lab::new();
    let job = start(&lab, &["sleep", "1000"]);
    job.status();
    let before = wait_until("nobody is connected", PATIENCE, || Some(descriptors(&job)));
    for round in 0..20 {
        let mut viewer = Raw::hello(&job);
        if round % 2 == 0 {
            assert_eq!(viewer.hear().expect("a welcome")["m"], "welcome");
            assert_eq!(viewer.hear().expect("a snapshot")["m"], "snapshot");
        }
    }
    // One that is killed in the middle.
    let mut viewer = lab.spawn("viewer", lab.elastictop().args(["attach", &job.id, "--plain"]));
    wait_until("it watches", PATIENCE, || lab.read("viewer.out").contains("is running").then_some(()));
    kill(viewer.id() as i32, Signal::KILL);
    viewer.wait().expect("a dead viewer");
    wait_until("all are forgotten", PATIENCE, || (descriptors(&job) <= before).then_some(()));
    assert_eq!(living(&job.status()).len(), 2);
    job.stop();
}

#[test]
fn garbage_on_the_socket_ends_the_connection_alone() {
    let lab = Lab::new();
    let job = start(&lab, &["sleep", "1000"]);
    let (supervisor, before) = (job.supervisor(), memory(&job));
    let frame = |text: &[u8]| [&(text.len() as u32).to_be_bytes()[..], text].concat();
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0xff; 1 << 16],
        (33_u32 << 20).to_be_bytes().to_vec(),
        frame(b"{}"),
        frame(b""),
        frame(&[0xff, 0xfe]),
        frame(&deep),
        frame(br#"{"m":"do","id":"x","command":7}"#),
    ] {
        let mut raw = Raw::connect(&job);
        // It may be closed before all is written.
        let _ = raw.0.write_all(&bytes);
        raw.wait_for_close();
    }
    // Promised and never sent: whoever waits for it costs no memory.
    let mut lying: Vec<_> = (0..20).map(|_| Raw::connect(&job)).collect();
    lying.iter_mut().for_each(|raw| raw.0.write_all(&(32_u32 << 20).to_be_bytes()).expect("four bytes"));
    // What a newer viewer may say is no garbage.
    let mut raw = Raw::hello(&job);
    raw.say(&json!({"m": "from_the_future", "x": 1})).expect("a supervisor that listens");
    assert_eq!(raw.hear().expect("a welcome")["m"], "welcome");
    // Another protocol gets a sentence.
    let mut old = Raw::connect(&job);
    old.say(&json!({"m": "hello", "protocol": 99, "version": "9", "viewer": "x", "watch": false}))
        .expect("sent");
    let bye = old.hear().expect("an answer");
    assert!(
        bye["m"] == "bye" && bye["text"].as_str().is_some_and(|text| text.contains("same version")),
        "{bye}"
    );
    assert_eq!(living(&job.status()).len(), 2);
    assert_eq!(job.supervisor(), supervisor, "the same supervisor");
    let grown = memory(&job).saturating_sub(before);
    assert!(grown < 32 << 20, "{} MiB", grown >> 20);
    drop(lying);
    job.stop();
}

#[test]
fn the_socket_is_private_and_others_are_refused() {
    let lab = Lab::new();
    let job = start(&lab, &["sleep", "1000"]);
    let mode = |path: PathBuf| fs::metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!(mode(lab.elastictop_dir().join("run")), 0o700);
    assert_eq!(mode(lab.elastictop_dir().join("jobs")), 0o700);
    assert_eq!(mode(job.dir()), 0o700);
    assert_eq!(mode(socket(&job)), 0o600);
    if !geteuid().is_root() {
        // Only root can be somebody else for a moment.
        job.stop();
        return;
    }
    // All that the file system guards is opened: the supervisor looks at who comes all the same.
    for dir in [lab.dir().to_owned(), lab.elastictop_dir(), lab.elastictop_dir().join("run")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("an open folder");
    }
    fs::set_permissions(socket(&job), fs::Permissions::from_mode(0o666)).expect("an open socket");
    // The system's own: one in somebody's home folder cannot be run by others.
    let python3 = ["/usr/bin/python3", "/usr/local/bin/python3"]
        .into_iter()
        .find(|path| fs::exists(path).unwrap_or(false));
    let Some(python3) = python3 else {
        job.stop();
        return;
    };
    let python = "import socket, sys\n\
                  s = socket.socket(socket.AF_UNIX)\n\
                  s.settimeout(60)\n\
                  s.connect(sys.argv[1])\n\
                  print(s.recv(4096)[4:].decode())\n";
    let mut other = lab.command("setpriv");
    other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", python3, "-c", python]);
    let (code, out, err) = crate::harness::finish(other.arg(socket(&job)));
    assert_eq!(code, 0, "{err}");
    let bye: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(bye["m"], "bye");
    assert_eq!(bye["text"], "this job belongs to user 0; you are user 65534");
    job.stop();
}

#[test]
fn two_restarts_at_once_are_one_and_both_are_answered_after_it() {
    let lab = Lab::new();
    // It takes a while to end, so that both ask before it is done.
    let line = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.05; done";
    let job = start(&lab, &["sh", "-c", line]);
    let before = living(&job.status());
    thread::scope(|scope| {
        let runs: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let said = lab.must(&["restart", &job.id]);
                    // The effect is there when the answer is.
                    let now = living(&job.status());
                    assert!(now.iter().all(|pid| !before.contains(pid)), "{now:?} after {before:?}");
                    said
                })
            })
            .collect();
        for run in runs {
            assert_eq!(run.join().expect("a run").trim(), "the group was started anew");
        }
    });
    assert_eq!(job.events_of("restart").len(), 1);
    let commands = job.events_of("command");
    assert_eq!(commands.len(), 2, "both are in the timeline: {commands:#?}");
    assert_eq!(job.wait_for_ranks(2)["job"]["restarts"], 0, "none is spent");

    job.stop();
    let status = job.status();
    assert!(is_over(&status["job"]["state"]), "{status:#}");
    assert!(job.processes().is_empty(), "answered after the end: {:?}", job.processes());
}

#[test]
fn an_order_that_comes_too_late_is_refused() {
    let lab = Lab::new();
    let job = start(&lab, &["sleep", "1000"]);
    let before = living(&job.status());
    let mut raw = Raw::hello(&job);
    raw.say(&json!({"m": "do", "id": 7, "command": {"do": "restart"}, "until": "2026-01-01T00:00:00.000Z"}))
        .expect("a supervisor that listens");
    let reply = loop {
        let heard = raw.hear().expect("an answer");
        if heard["m"] == "reply" {
            break heard;
        }
    };
    let text = reply["outcome"]["refused"].as_str().expect("a refusal");
    assert!(text.contains("too late"), "{text}");
    assert_eq!(living(&job.status()), before);
    job.stop();
}

#[test]
fn a_stopped_supervisor_is_told_apart_from_a_quiet_job() {
    let lab = Lab::new();
    let job = start(&lab, &["sleep", "1000"]);
    let screen = Terminal::open(&lab, &["attach", &job.id]);
    screen.wait_for("running");
    let supervisor = job.supervisor();
    kill(supervisor, Signal::STOP);
    let shown = screen.wait_for("has not answered for");
    assert!(shown.contains("no answer for"), "{shown}");
    let listed = lab.must(&["ps"]);
    assert!(listed.contains(&format!("kill -CONT {supervisor} wakes it")), "{listed}");
    let (code, _, error) = lab.run(&["restart", &job.id]);
    assert!(code == 1 && error.contains(&format!("kill -CONT {supervisor} wakes it")), "{code}: {error}");
    // Among several nodes it is the one that does not answer.
    let other = lab.start("other", &["--launcher", "local", "--no-python", "sleep", "1000"]);
    let nodes = [&*other.id, &*job.id].join(",");
    let via = format!("{} proxy {{host}}", env!("CARGO_BIN_EXE_elastictop"));
    let (code, out, _) = lab.run(&["status", "--json", "--nodes", &nodes, "--via", &via]);
    let status: Value = serde_json::from_str(&out).expect("JSON");
    let links: Vec<_> = status["nodes"].as_array().into_iter().flatten().map(|node| &node["link"]).collect();
    assert_eq!((code, links), (1, vec![&json!("live"), &json!("silent")]), "{status:#}");
    other.stop();
    kill(supervisor, Signal::CONT);
    wait_until("the supervisor talks again", PATIENCE, || {
        (!screen.text().contains("has not answered")).then_some(())
    });
    assert!(!lab.must(&["ps"]).contains("stopped"));
    job.stop();
}
