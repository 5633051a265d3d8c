//! Facts over HTTP: figures for Prometheus, status, events and health, over a port and over a socket.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Job, Lab, PATIENCE, finish, kernel_state, kill, wait_until};

/// Two ranks that run a line of shell, under the built-in launcher.
const RANKS: &[&str] = &["--launcher", "local", "--nproc-per-node", "2", "--no-python"];
const STEPS: &str = "i=0; while :; do echo \"{\\\"step\\\": $i}\"; i=$((i+1)); sleep 0.2; done";

/// An answer: its status, its head and its body.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The value of the series that begins with this text; `None` when there is none.
    fn figure(&self, series: &str) -> Option<f64> {
        let line = self.body.lines().find(|line| line.starts_with(series))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }
}

fn ask(mut stream: impl Read + Write, path: &str, headers: &str) -> Answer {
    write!(stream, "GET {path} HTTP/1.1\r\n{headers}\r\n").expect("a server that listens");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer in UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Answer { status: status.expect("a status"), head: head.to_lowercase(), body: body.to_owned() }
}

fn over_tcp(address: &str, path: &str) -> Answer {
    let stream = TcpStream::connect(address).expect("a port that is open");
    ask(stream, path, &format!("Host: {address}\r\n"))
}

fn over_unix(socket: &Path, path: &str) -> Answer {
    ask(UnixStream::connect(socket).expect("a socket that is open"), path, "Host: elastictop\r\n")
}

/// Where a job says that it serves.
fn address(job: &Job) -> String {
    let text = fs::read(job.dir().join("job.json")).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&text).expect("JSON");
    let serve = &manifest["serve"];
    serve["tcp"].as_str().or(serve["unix"].as_str()).unwrap_or_else(|| panic!("{manifest}")).to_owned()
}

fn start<'a>(lab: &'a Lab, serve: &str, line: &str) -> Job<'a> {
    lab.start("job", &[&["--serve", serve], RANKS, &["sh", "-c", line]].concat())
}

#[test]
fn a_port_serves_figures_status_events_and_health_over_two_supervisors() {
    let lab = Lab::new();
    let job = start(&lab, "127.0.0.1:0", STEPS);
    job.wait_for_ranks(2);
    let address = address(&job);
    let told = |answer: &Answer, name: &str, rank: u32| {
        let id = &job.id;
        let node = answer.body.split("node=\"").nth(1)?.split('"').next()?;
        answer.figure(&format!(
            "elastictop_{name}{{job=\"{id}\",node=\"{node}\",rank=\"{rank}\",local_rank=\"{rank}\"}} "
        ))
    };
    let metrics = wait_until("steps of both ranks", PATIENCE, || {
        let answer = over_tcp(&address, "/metrics");
        let all = (0..2).all(|rank| {
            told(&answer, "rank_step", rank) > Some(1.0)
                && told(&answer, "rank_resident_memory_bytes", rank) > Some(1e4)
        });
        all.then_some(answer)
    });
    assert_eq!(metrics.status, 200);
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    assert_eq!(told(&metrics, "rank_up", 1), Some(1.0));
    let own = metrics.body.lines().find(|line| line.starts_with("elastictop_process_resident_memory_bytes"));
    assert!(own.is_some_and(|line| line.contains("process=\"supervisor\"")), "{}", metrics.body);
    let open = ask(
        TcpStream::connect(&address).expect("a port that is open"),
        "/metrics",
        "Host: localhost\r\nAccept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n",
    );
    assert!(open.head.contains("application/openmetrics-text") && open.body.ends_with("# EOF\n"));

    let status = over_tcp(&address, "/status").json();
    assert_eq!(status["job"]["id"], json!(job.id));
    assert_eq!(status["ranks"][1]["state"], job.status()["ranks"][1]["state"]);
    let health = over_tcp(&address, "/healthz");
    assert_eq!((health.status, &health.json()["healthy"]), (200, &json!(true)));

    let all = over_tcp(&address, "/events");
    assert!(all.head.contains("content-type: application/x-ndjson"), "{}", all.head);
    let events: Vec<Value> =
        all.body.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    assert_eq!((&events[0]["seq"], &events[0]["kind"]), (&json!(1), &json!("job_started")));
    let last = events.len() as u64;
    assert_eq!(events[events.len() - 1]["seq"], json!(last));
    assert!(!over_tcp(&address, &format!("/events?since={}", last - 1)).body.is_empty());
    assert_eq!(over_tcp(&address, "/events?from=1").status, 400);
    assert_eq!(over_tcp(&address, "/none").status, 404);
    // A page of another site that has its name lead here.
    let foreign = TcpStream::connect(&address).expect("a port that is open");
    assert_eq!(ask(foreign, "/status", "Host: evil.example:80\r\n").status, 403);

    // Who connects and says nothing, or half of a question, keeps others from an answer for seconds at most.
    let half = |n: usize| {
        let mut stream = TcpStream::connect(&address).expect("a port");
        stream
            .write_all(&b"GET /healthz HTTP/1.0\r\n"[..if n.is_multiple_of(2) { 0 } else { 23 }])
            .expect("a server");
        stream
    };
    let silent: Vec<_> = (0..20).map(half).collect();
    let asked = Instant::now();
    assert_eq!(over_tcp(&address, "/status").status, 200);
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    drop(silent);

    let supervisor = job.supervisor();
    kill(supervisor, Signal::KILL);
    wait_until("the supervisor is dead", PATIENCE, || {
        kernel_state(supervisor).is_none_or(|state| state == 'Z').then_some(())
    });
    job.status();
    assert_ne!(job.supervisor(), supervisor);
    let restarted = over_tcp(&address, "/metrics");
    assert_eq!((restarted.status, told(&restarted, "rank_up", 0)), (200, Some(1.0)), "the same address");
    assert!(over_tcp(&address, &format!("/events?since={last}")).body.contains("\"adopted\""));
    job.stop();
}

#[test]
fn a_socket_is_private_and_goes_with_the_job() {
    let lab = Lab::new();
    let job = start(&lab, "unix", "kill -STOP $$; sleep 1000");
    let socket = address(&job);
    let socket = Path::new(&socket);
    assert!(socket.starts_with(lab.elastictop_dir().join("run")));
    assert_eq!(fs::metadata(socket).expect("a socket").mode() & 0o777, 0o600);
    // Two ranks that a signal stopped are no health.
    let health = wait_until("an alert", PATIENCE, || {
        Some(over_unix(socket, "/healthz")).filter(|answer| answer.status == 503)
    });
    let reasons = health.json()["reasons"].to_string();
    assert!(reasons.contains("stopped"), "{reasons}");
    let metrics = over_unix(socket, "/metrics");
    let alerts = metrics.body.lines().find(|line| line.contains("kind=\"stopped\""));
    assert!(alerts.is_some_and(|line| line.ends_with(" 2")), "{}", metrics.body);
    job.lab.must(&["stop", &job.id, "--now"]);
    wait_until("the socket is gone", PATIENCE, || (!socket.exists()).then_some(()));
}

#[test]
fn an_address_that_cannot_be_used_is_an_error_before_anything_starts() {
    let lab = Lab::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").to_string();
    let run = |serve: &str| {
        let args = [&["run", "--detach", "--serve", serve], RANKS, &["sh", "-c", "sleep 1000"]].concat();
        lab.run(&args)
    };
    for (serve, code, why) in [
        (port.as_str(), 1, "another job or program listens there"),
        ("0.0.0.0:9123", 2, "can be reached over the network"),
        ("unix:/tmp/elastictop-somewhere.http", 2, "others may reach it there"),
        ("9123", 2, "is no address"),
    ] {
        let (got, out, err) = run(serve);
        assert_eq!(got, code, "{serve}: {out}{err}");
        assert!(err.contains(why) && err.contains(serve.trim_start_matches("unix:")), "{serve}: {err}");
    }
    assert_eq!(lab.processes("sleep 1000"), []);
    let jobs = fs::read_dir(lab.elastictop_dir().join("jobs")).expect("a folder");
    assert_eq!(jobs.count(), 0, "no trace of a job");
}

#[test]
fn a_taken_port_does_not_keep_a_job_from_being_adopted() {
    let lab = Lab::new();
    let job = start(&lab, "127.0.0.1:0", STEPS);
    let address = address(&job);
    let supervisor = job.supervisor();
    kill(supervisor, Signal::KILL);
    wait_until("the supervisor is dead", PATIENCE, || {
        kernel_state(supervisor).is_none_or(|state| state == 'Z').then_some(())
    });
    let _taken = wait_until("the port is ours", PATIENCE, || TcpListener::bind(&address).ok());
    job.wait_for_ranks(2);
    let notes = job.events_of("note");
    assert!(notes.iter().any(|note| {
        note["text"]
            .as_str()
            .is_some_and(|text| text.starts_with("facts are not served") && text.contains(&address))
    }));
    job.stop();
}

#[test]
fn a_dry_run_tells_where_figures_would_be_served() {
    let lab = Lab::new();
    let dry = |address: &str, json: &[&str]| {
        lab.run(&[&["run", "--dry-run", "--serve", address], json, RANKS, &["sleep", "1"]].concat())
    };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let (code, _, err) = dry(&address, &[]);
    assert!(code == 1 && err.contains("cannot serve on") && err.contains("name another address"), "{err}");
    drop(taken);
    let (code, out, err) = dry(&address, &[]);
    assert!(code == 0 && out.contains(&format!("Figures are served on http://{address}")), "{out}{err}");
    let (code, out, err) = dry("unix", &["--json"]);
    assert_eq!(code, 0, "{err}");
    let told: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert!(told["serve"].as_str().is_some_and(|path| path.starts_with("unix:/")), "{out}");
    assert_eq!(dry("10.0.0.1:80", &[]).0, 2);
}

#[test]
fn a_running_job_and_one_of_others_are_served_by_a_command() {
    let lab = Lab::new();
    let job = lab.start("job", &[RANKS, &["sh", "-c", STEPS]].concat());
    job.wait_for_ranks(2);
    let serve = |name: &str, args: &[&str]| {
        let mut command = lab.elastictop();
        let child = lab.spawn(name, command.arg("serve").args(args));
        let file = format!("{name}.out");
        let said =
            wait_until("an address", PATIENCE, || Some(lab.read(&file)).filter(|text| text.contains(';')));
        let address = said.split(" on ").nth(1).and_then(|rest| rest.split(';').next()).expect("an address");
        (child, address.trim_start_matches("http://").trim_start_matches("unix:").to_owned())
    };
    let (mut child, address) = serve("own", &[&job.id, "--on", "localhost:0"]);
    let metrics = over_tcp(&address, "/metrics");
    assert!(metrics.body.contains("process=\"server\"") && metrics.body.contains("process=\"supervisor\""));
    assert!(over_tcp(&address, "/events").body.contains("job_started"));
    // The job ends, its facts are served from its files.
    job.stop();
    wait_until("the end is served", PATIENCE, || {
        (over_tcp(&address, "/status").json()["job"]["state"] == "stopped").then_some(())
    });
    kill(child.id() as i32, Signal::INT);
    assert!(child.wait().expect("an end").success());

    let mut agent = fake_agent(&lab);
    let pid = agent.id().to_string();
    let (mut child, socket) = serve("foreign", &["--pid", &pid]);
    let socket = Path::new(&socket);
    let metrics = wait_until("memory of a foreign rank", PATIENCE, || {
        let answer = over_unix(socket, "/metrics");
        answer.body.contains("elastictop_rank_resident_memory_bytes{").then_some(answer)
    });
    assert!(metrics.body.contains("launcher=\"foreign\""), "{}", metrics.body);
    assert_eq!(over_unix(socket, "/events").status, 404);
    kill(child.id() as i32, Signal::TERM);
    assert!(child.wait().expect("an end").success());
    assert!(!socket.exists());
    kill(agent.id() as i32, Signal::KILL);
    agent.wait().expect("an end");
}

/// What an agent looks like: a process whose child leads a session and has rank variables. Nobody's job.
fn fake_agent(lab: &Lab) -> std::process::Child {
    let rank = "RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 LOCAL_WORLD_SIZE=1 GROUP_RANK=0 setsid sleep 1000 & wait";
    let agent = lab.spawn("agent", lab.command("sh").args(["-c", rank]));
    let pid = agent.id().to_string();
    wait_until("the agent has a rank", PATIENCE, || {
        (lab.run(&["status", "--pid", &pid]).0 == 0).then_some(())
    });
    agent
}

#[test]
fn the_flag_has_a_variable_and_a_key_in_files() {
    let lab = Lab::new();
    let config = lab.path("config/elastictop/config.toml");
    fs::create_dir_all(Path::new(&config).parent().expect("a folder")).expect("a folder in the lab");
    fs::write(&config, "[run]\nserve = \"unix\"\n").expect("a file in the lab");
    let (code, out, err) = finish(lab.elastictop().args(["config", "print"]));
    assert_eq!(code, 0, "{err}");
    assert!(out.lines().any(|line| line.starts_with("run.serve") && line.contains("config.toml:2")), "{out}");
    fs::write(&config, "[run]\nserve = \"0.0.0.0:1\"\n").expect("a file in the lab");
    let (code, _, err) = finish(lab.elastictop().args(["config", "validate"]));
    assert_eq!(code, 2);
    assert!(err.contains("over the network"), "{err}");
}
