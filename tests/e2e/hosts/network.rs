//! Hosts in network namespaces: each with an address and a host name of its own, on a switch that is a namespace too.
//!
//! Nothing is changed outside of the namespaces that are made here, and they go when the network is dropped.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// Addresses of the hosts, each with its number behind it. They exist in the namespaces alone.
const ADDRESSES: &str = "10.77.0.";
/// Sets the host name in `$0` and becomes the rest.
const NAMED: &str = r#"printf %s "$0" > /proc/sys/kernel/hostname && exec "$@""#;

/// Some hosts and the switch between them.
#[derive(Debug)]
pub struct Network {
    name: String,
    hosts: u32,
}

impl Network {
    /// Makes hosts 1 to `hosts`.
    ///
    /// # Errors
    /// Why there cannot be any here.
    pub fn new(hosts: u32) -> Result<Network, String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if std::env::var_os("ELASTICTOP_TEST_NETNS").is_some_and(|value| value == "0") {
            return Err("ELASTICTOP_TEST_NETNS is 0".into());
        }
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let network = Network { name: format!("elastictop-{}-{number}", std::process::id()), hosts };
        // From here on whatever was made goes when `network` is dropped.
        let switch = network.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "switch", "type", "bridge"])?;
        ip(&["-n", &switch, "addr", "add", &format!("{ADDRESSES}254/24"), "dev", "switch"])?;
        ip(&["-n", &switch, "link", "set", "switch", "up"])?;
        for host in 1..=hosts {
            let (name, port) = (network.namespace(host), port(host));
            ip(&["netns", "add", &name])?;
            ip(&[
                "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name,
            ])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "switch", "up"])?;
            ip(&["-n", &name, "addr", "add", &format!("{}/24", address(host)), "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
        }
        let try_it = words(&network.on(1)).arg("true").output().map_err(|error| error.to_string())?;
        if !try_it.status.success() {
            return Err(String::from_utf8_lossy(&try_it.stderr).trim().to_owned());
        }
        Ok(network)
    }

    /// What has to stand before a program to run it on a host.
    pub fn on(&self, host: u32) -> Vec<String> {
        inside(&self.namespace(host), &name(host))
    }

    /// The same for the machine that people log in to: it has a network to all hosts, and runs no rank.
    pub fn on_login(&self) -> Vec<String> {
        inside(&self.switch(), "login")
    }

    /// Takes a host off the network, or puts it back. What it runs goes on.
    pub fn connect(&self, host: u32, up: bool) {
        let to = if up { "up" } else { "down" };
        ip(&["-n", &self.switch(), "link", "set", &port(host), to]).expect("a port of the switch");
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    fn namespace(&self, host: u32) -> String {
        format!("{}-{}", self.name, name(host))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Some may not have been made. The switch takes its ports along.
        let hosts = (1..=self.hosts).map(|host| self.namespace(host));
        for name in hosts.chain([self.switch()]) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// The name of a host.
pub fn name(host: u32) -> String {
    format!("n{host:02}")
}

/// The address of a host.
pub fn address(host: u32) -> String {
    format!("{ADDRESSES}{host}")
}

fn port(host: u32) -> String {
    format!("port{host}")
}

fn inside(namespace: &str, name: &str) -> Vec<String> {
    // Not `ip netns exec`, which hides the control groups.
    let net = format!("--net=/run/netns/{namespace}");
    ["nsenter", &net, "unshare", "--uts", "sh", "-c", NAMED, name].map(str::to_owned).into()
}

fn words(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
