//! Nodes behind a real ssh server, which this test starts for itself; without one, a reason is printed.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    harness::{Lab, PATIENCE, finish, kill, tell, wait_until},
    terminal::Terminal,
};

const SERVERS: [&str; 2] = ["/usr/sbin/sshd", "/usr/bin/sshd"];
const JOB: [&str; 9] =
    ["run", "--detach", "--name", "sj", "--launcher", "local", "--nproc-per-node", "1", "--no-python"];

/// A server with a key of its own, and how it is reached.
struct Server {
    process: Child,
    config: String,
}

impl Server {
    fn start(lab: &Lab) -> Option<Server> {
        let Some(program) = SERVERS.into_iter().find(|path| Path::new(path).exists()) else {
            tell("skipped: there is no sshd");
            return None;
        };
        let dir = lab.dir().join("ssh");
        fs::create_dir(&dir).expect("a folder");
        let at = |name: &str| dir.join(name).display().to_string();
        for key in ["host", "mine", "other"] {
            let words = ["-q", "-t", "ed25519", "-N", "", "-f"];
            let made = Command::new("ssh-keygen").args(words).arg(at(key)).status();
            assert!(made.is_ok_and(|status| status.success()), "ssh-keygen makes a key");
        }
        fs::copy(at("mine.pub"), at("allowed")).expect("a key that is let in");
        // Where sshd drops its rights; only root's does, and it must be there then.
        if rustix::process::getuid().is_root() {
            fs::create_dir_all("/run/sshd").expect("a folder for sshd");
            let _ = fs::set_permissions("/run/sshd", fs::Permissions::from_mode(0o755));
        }
        let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        let port = free.port();
        let server = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nPidFile none\n",
            at("host"),
            at("allowed")
        );
        fs::write(at("server"), server).expect("a file");
        let key = fs::read_to_string(at("host.pub")).expect("a key");
        fs::write(at("known"), format!("[127.0.0.1]:{port} {key}")).expect("a file");
        fs::write(at("nobody"), "").expect("a file");
        // Later lines hold for what earlier ones do not set.
        let client = format!(
            "Host stranger\n  UserKnownHostsFile {}\nHost locked\n  IdentityFile {}\nHost *\n  HostName 127.0.0.1\n  \
             Port {port}\n  IdentitiesOnly yes\n  IdentityAgent none\n  StrictHostKeyChecking yes\n  \
             GlobalKnownHostsFile /dev/null\n  UserKnownHostsFile {}\n",
            at("nobody"),
            at("other"),
            at("known")
        );
        let names = "Host n01 n02 stranger bare\n  IdentityFile ";
        fs::write(at("client"), format!("{names}{}\n{client}", at("mine"))).expect("a file");
        let mut command = lab.command(program);
        command.args(["-D", "-e", "-f", &at("server")]);
        let process = lab.spawn("sshd", &mut command);
        wait_until("the server listens", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).ok());
        Some(Server { process, config: at("client") })
    }

    /// How a host is reached, with a folder of its own.
    fn via(&self, lab: &Lab, program: &str) -> String {
        let dir = lab.dir().display();
        format!(
            "ssh -T -o BatchMode=yes -F {} {{host}} env ELASTICTOP_DIR={dir}/{{host}} {program} proxy {{job}}",
            self.config
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What keeps each of these hosts away.
fn troubles(lab: &Lab, hosts: &str, via: &str) -> Vec<String> {
    let (code, out, err) =
        finish(lab.elastictop().args(["status", "sj", "--json", "--nodes", hosts, "--via", via]));
    assert_eq!(code, 1, "{out}{err}");
    let status: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    let nodes = status["nodes"].as_array().expect("nodes").iter();
    nodes.filter_map(|node| node["why"].as_str().map(str::to_owned)).collect()
}

#[test]
fn nodes_are_reached_over_ssh_and_come_back() {
    let lab = Lab::new();
    let Some(server) = Server::start(&lab) else { return };
    for host in ["n01", "n02"] {
        let mut run = lab.elastictop();
        run.env("ELASTICTOP_DIR", lab.path(host)).args(JOB).args(["sleep", "1000"]);
        assert_eq!(finish(&mut run).0, 0);
    }
    let via = server.via(&lab, env!("CARGO_BIN_EXE_elastictop"));

    // What goes wrong is told with what to do.
    let told = troubles(&lab, "n01,stranger", &via);
    assert!(told[0].starts_with("Host key verification failed; log in by hand once"), "{told:?}");
    let told = troubles(&lab, "n01,locked", &via);
    assert!(told[0].contains("Permission denied (publickey)") && told[0].contains("ssh-copy-id"), "{told:?}");
    let missing = server.via(&lab, "no-such-elastictop").replace("env ELASTICTOP_DIR", "ELASTICTOP_DIR");
    let (_, _, error) = lab.run(&["status", "sj", "--nodes", "n01,n02", "--via", &missing]);
    assert!(error.contains("not found; say where it is there"), "{error}");

    let mut screen = Terminal::open(&lab, &["attach", "sj", "--nodes", "n01,n02", "--via", &via]);
    let is_whole = |text: &str| {
        let rows =
            |host: &str| text.lines().filter(|line| line.contains(host) && line.contains("● run ")).count();
        (rows("n01"), rows("n02")) == (1, 1) && !text.contains("silent")
    };
    wait_until("both nodes", PATIENCE, || is_whole(&screen.text()).then_some(()));
    // The connection of one is cut: the client dies, and another one takes its place.
    let client = || {
        let is_it = |line: &String| line.starts_with("ssh ") && line.contains(" n02 ");
        lab.processes("").into_iter().find(|(_, line)| is_it(line)).map(|(pid, _)| pid)
    };
    let first = client().expect("a client");
    kill(first, Signal::KILL);
    wait_until("another client", PATIENCE, || client().filter(|pid| *pid != first));
    wait_until("both nodes again", PATIENCE, || is_whole(&screen.text()).then_some(()));
    screen.press("q");
    assert_eq!(screen.wait(), 0);

    let out = lab.must(&["stop", "sj", "--now", "--nodes", "n01,n02", "--via", &via]);
    assert!(out.contains("on all 2 nodes"), "{out}");
}
