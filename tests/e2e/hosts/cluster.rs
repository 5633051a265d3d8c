//! Three hosts with a torchrun agent and a supervisor each, and a machine to look at them from.

use std::{fs, net::TcpListener, path::PathBuf, process::Child};

use rustix::process::Signal;
use serde_json::Value;

use super::network::{self, Network};
use crate::{
    harness::{Job, Lab, PATIENCE, finish, kill, living, script, tell, wait_until},
    terminal::Terminal,
};

/// How many hosts.
pub const HOSTS: u32 = 3;
/// `--rdzv-id` of the job.
pub const RENDEZVOUS: &str = "members";

/// The hosts, as namespaces or, where those are not allowed, as three folders of one host.
#[derive(Debug)]
pub struct Cluster {
    doors: Vec<Child>,
    // Dropped in this order: what runs on the hosts goes before the hosts.
    hosts: Vec<Lab>,
    /// The machine to look from.
    pub login: Lab,
    network: Option<Network>,
    endpoint: String,
    missed_after: u32,
}

impl Cluster {
    /// Hosts that nothing runs on yet but the doors that lead to them. `login` becomes the machine to look from. The
    /// rendezvous gives a node up that it has not heard of for `missed_after` seconds.
    pub fn around(login: Lab, missed_after: u32) -> Cluster {
        let network = Network::new(HOSTS)
            .map_err(|why| tell(&format!("three supervisors on one host, as there are no namespaces: {why}")))
            .ok();
        let hosts: Vec<_> = (1..=HOSTS)
            .map(|host| match &network {
                Some(network) => login.beside().behind(network.on(host)),
                None => login.beside(),
            })
            .collect();
        let endpoint = match &network {
            Some(_) => format!("{}:29400", network::address(1)),
            None => {
                let free = TcpListener::bind("localhost:0").and_then(|socket| socket.local_addr());
                format!("localhost:{}", free.expect("a port").port())
            }
        };
        let login = match &network {
            Some(network) => login.behind(network.on_login()),
            None => login,
        };
        let mut cluster = Cluster { doors: Vec::new(), hosts, login, network, endpoint, missed_after };
        fs::create_dir(cluster.book()).expect("a folder in the lab");
        cluster.doors = (1..=HOSTS).map(|host| cluster.open_door(host)).collect();
        cluster
    }

    /// Whether the hosts have names and addresses of their own.
    pub fn has_network(&self) -> bool {
        self.network.is_some()
    }

    /// The machine of a host.
    pub fn host(&self, host: u32) -> &Lab {
        &self.hosts[host as usize - 1]
    }

    /// Where it is written how to reach each host.
    fn book(&self) -> PathBuf {
        self.login.dir().join("doors")
    }

    fn open_door(&self, host: u32) -> Child {
        let (lab, name) = (self.host(host), network::name(host));
        let address = if self.has_network() { network::address(host) } else { "127.0.0.1".into() };
        let mut door = lab.command(lab.python());
        door.arg(script("door.py")).arg("serve").arg(self.book()).args([&name, &address]);
        let door = lab.spawn("door", &mut door);
        let place = self.book().join(&name);
        wait_until("a door", PATIENCE, || place.exists().then_some(()));
        door
    }

    /// Starts a host's part of the job. All parts have one name, as if `srun` had started them.
    pub fn start(&self, host: u32, flags: &[&str], program: &[&str]) -> Job<'_> {
        let address = if self.has_network() { network::address(host) } else { "localhost".into() };
        let is_host = u32::from(host == 1);
        let conf = format!(
            "is_host={is_host},last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt={}",
            self.missed_after
        );
        let rendezvous =
            ["--rdzv-backend", "c10d", "--rdzv-endpoint", &self.endpoint, "--rdzv-id", RENDEZVOUS];
        let elastic =
            ["--nnodes", "1:3", "--nproc-per-node", "1", "--rdzv-conf", &conf, "--local-addr", &address];
        // The name of the host leads to no address.
        let env = if self.has_network() { &[("GLOO_SOCKET_IFNAME", "eth0")][..] } else { &[] };
        self.host(host).start_with("train", &[&rendezvous[..], &elastic, flags, program].concat(), env)
    }

    /// Takes a host off the network or puts it back, while what it runs goes on. On one host its door is closed and
    /// whoever came through it is stopped: as silent, though nothing is lost on the way.
    pub fn connect(&self, host: u32, up: bool) {
        let Some(network) = &self.network else {
            let name = network::name(host);
            let (open, closed) = (self.book().join(&name), self.book().join(format!("{name}.closed")));
            let (from, to, signal) =
                if up { (closed, open, Signal::CONT) } else { (open, closed, Signal::STOP) };
            fs::rename(from, to).expect("a door");
            let guests = self.host(host).processes("").into_iter();
            let guests = guests.filter(|(_, line)| line.contains("elastictop proxy"));
            return guests.for_each(|(pid, _)| kill(pid, signal));
        };
        network.connect(host, up);
    }

    /// The job, all its nodes, and how they are reached from [`Cluster::login`].
    pub fn nodes(&self) -> [String; 5] {
        let (python, door, book) = (self.login.python().display(), script("door.py"), self.book());
        let elastictop = env!("CARGO_BIN_EXE_elastictop");
        let via = format!("{python} {door} call {} {{host}} {elastictop} proxy {{job}}", book.display());
        [RENDEZVOUS.into(), "--nodes".into(), "n[01-03]".into(), "--via".into(), via]
    }

    /// A command of elastictop over all nodes, from the login machine: exit code, standard output, standard error.
    pub fn ask(&self, command: &str, more: &[&str]) -> (i32, String, String) {
        finish(self.login.elastictop().arg(command).args(self.nodes()).args(more))
    }

    /// `status --json` over all nodes, with the exit code.
    ///
    /// # Panics
    /// When that is no JSON.
    pub fn status(&self) -> (i32, Value) {
        let (code, out, err) = self.ask("status", &["--json"]);
        (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}")))
    }

    /// Waits for a state of the whole that `is_there` likes.
    pub fn wait_for(&self, what: &str, mut is_there: impl FnMut(&Value) -> bool) -> Value {
        wait_until(what, PATIENCE, || Some(self.status().1).filter(|status| is_there(status)))
    }

    /// Opens the screen of the whole job.
    pub fn attach(&self) -> Terminal {
        let words = self.nodes();
        let words: Vec<&str> = ["attach"].into_iter().chain(words.iter().map(String::as_str)).collect();
        Terminal::open(&self.login, &words)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for door in &mut self.doors {
            let _ = door.kill();
            let _ = door.wait();
        }
    }
}

/// Waits until a node takes part in a world of this size.
pub fn wait_for_world(job: &Job, size: u32) -> Value {
    job.wait_for(&format!("a world of {size}"), |status| {
        status["job"]["state"] == "running"
            && status["job"]["world_size"] == size
            && living(status).len() == 1
    })
}
