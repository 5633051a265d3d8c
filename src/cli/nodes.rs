//! Jobs on many nodes: which hosts, how each is reached, and commands that go to all of them.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use rustix::process::{Resource, getrlimit};

use super::{
    hosts::HostArgs,
    out,
    reach::{Slow, Target, hello, viewer_name},
};
use crate::{
    cluster::{self, Connect, Host},
    domain::{
        cluster::{Member, NodeLink, NodeStatus, shift},
        command::{Command, Outcome},
        gpu::report::GpusReport,
        report::{NodeReport, Status},
        state::State,
        time::Stamp,
    },
    error::{Error, Result},
    probe::{files, scan},
    wire::{
        child,
        link::Link,
        message::{ToSupervisor, ToViewer},
    },
};

/// How a host is reached when nobody says otherwise. The options come before what a user's own configuration says: a
/// screen cannot ask for a password, and a dead network must be noticed.
const SSH: &str =
    "ssh -T -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3 {host}";
/// What stands for the host and for the job in a template.
const PLACES: (&str, &str) = ("{host}", "{job}");
/// With more nodes than this, a relay is worth a word.
const MANY: usize = 64;
/// Descriptors for a link: three streams of a process, and its end. And for all else.
const FILES: usize = 4;
const FILES_ELSE: usize = 128;
/// How long a command waits for hosts that do not answer.
const PATIENCE: Duration = Duration::from_secs(15);

// Which nodes, and how they are reached.
#[derive(Clone, Debug, Default, Args)]
pub struct NodesArgs {
    #[command(flatten, next_help_heading = "Nodes")]
    hosts: HostArgs,
    /// Command that reaches a node, such as 'ssh {host}' or 'kubectl exec -i {host} --'; {job} stands for the job
    #[arg(long, value_name = "COMMAND", env = "ELASTICTOP_VIA", help_heading = "Nodes")]
    via: Option<String>,
}

// The same, or relays that hold the links to them.
#[derive(Clone, Debug, Default, Args)]
pub struct ReachArgs {
    /// Go through the relay that runs for the job, on this node or on those that --nodes names
    #[arg(long, help_heading = "Nodes")]
    relay: bool,
    #[command(flatten)]
    nodes: NodesArgs,
}

impl ReachArgs {
    /// Whom to link to, nodes or relays; `None` when the job is reached on this node alone.
    ///
    /// # Errors
    /// A host or a template that cannot be used.
    pub fn hosts(&self, job: Option<&str>) -> Result<Option<Vec<Host>>> {
        if !self.relay {
            return self.nodes.hosts(job);
        }
        let own = || vec![Host { name: "the relay of this node".into(), connect: own_relay(job) }];
        Ok(Some(self.nodes.relays(job)?.unwrap_or_else(own)))
    }

    /// Whether one link is enough, as a relay is behind it that holds all others.
    pub fn is_relay(&self) -> bool {
        self.relay
    }
}

/// How the relay of this node is reached, for a job.
fn own_relay(job: Option<&str>) -> Connect {
    let job = job.map(str::to_owned);
    Box::new(move || {
        let job = job.clone();
        Box::pin(async move {
            let (read, write) = super::proxy::relay(job.as_deref()).await?.into_split();
            Ok(Link::over(read, write))
        })
    })
}

impl NodesArgs {
    /// The relays of the nodes that are named; `None` when none are. Each stands for the nodes that it has.
    ///
    /// # Errors
    /// A host or a template that cannot be used.
    pub fn relays(&self, job: Option<&str>) -> Result<Option<Vec<Host>>> {
        let Some(names) = self.names(job)? else { return Ok(None) };
        let via = Via::parse(self.via.as_deref(), &["proxy", "--relay"])?;
        let wanted = wanted(job)?;
        make_room(names.len())?;
        let host = |name: String| Host { connect: via.connect(&name, &wanted), name };
        Ok(Some(names.into_iter().map(host).collect()))
    }

    fn names(&self, job: Option<&str>) -> Result<Option<Vec<String>>> {
        self.hosts.hosts(job, |name| std::env::var(name).ok())
    }

    /// The hosts to link to; `None` when the job is watched on this node alone.
    ///
    /// # Errors
    /// A host or a template that cannot be used.
    pub fn hosts(&self, job: Option<&str>) -> Result<Option<Vec<Host>>> {
        let Some(names) = self.names(job)? else { return Ok(None) };
        let via = Via::parse(self.via.as_deref(), &["proxy"])?;
        let wanted = wanted(job)?;
        let here = scan::node_name();
        make_room(names.len())?;
        if names.len() > MANY {
            out::note(format_args!(
                "note: {} links; elastictop relay holds them once for all who look",
                names.len()
            ));
        }
        let host = |name: String| {
            let is_here = self.via.is_none() && is_here(&name, &here);
            let connect = if is_here { directly(job) } else { via.connect(&name, &wanted) };
            Host { name, connect }
        };
        Ok(Some(names.into_iter().map(host).collect()))
    }
}

/// Sees to it that so many links can be open at once.
///
/// # Errors
/// The system does not allow it.
fn make_room(links: usize) -> Result<()> {
    let wanted = (links * FILES + FILES_ELSE) as u64;
    if getrlimit(Resource::Nofile).current.is_none_or(|now| now >= wanted) {
        return Ok(());
    }
    files::allow_many();
    match getrlimit(Resource::Nofile).current {
        Some(now) if now < wanted => Err(Error::environment(format!(
            "{links} links need {wanted} open files, and this process may have {now}"
        ))
        .hint("raise the limit (ulimit -n), or have relays with fewer nodes each, and one above them: elastictop relay --relays")),
        _ => Ok(()),
    }
}

/// What the job is called on other nodes: by its rendezvous id, which is the same everywhere, if one was given; else by
/// what the user calls it. Empty for the newest.
fn wanted(job: Option<&str>) -> Result<String> {
    let found = Target::find(job, None).ok();
    let rdzv_id = match &found {
        Some(Target::Own { manifest, .. }) => manifest.job.rdzv_id.clone(),
        _ => None,
    };
    let wanted = rdzv_id.or_else(|| job.map(str::to_owned)).unwrap_or_default();
    // It goes through a shell on the other side, whose quoting is not known.
    if let Some(odd) = wanted.chars().find(|c| !(c.is_ascii_alphanumeric() || "._:@+-".contains(*c))) {
        return Err(Error::usage(format!(
            "{wanted:?} cannot be asked for on other nodes: it has {odd:?} in it"
        ))
        .hint("start the job with an --rdzv-id of letters, digits, dots and hyphens"));
    }
    if wanted.starts_with('-') {
        return Err(Error::usage(format!("{wanted:?} begins with a hyphen, as an option does")));
    }
    Ok(wanted)
}

fn is_here(host: &str, here: &str) -> bool {
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    host == "localhost" || host == here || (host == short(here) || short(host) == here) && !here.is_empty()
}

fn directly(job: Option<&str>) -> Connect {
    let job = job.map(str::to_owned);
    Box::new(move || {
        let job = job.clone();
        Box::pin(async move { Target::find(job.as_deref(), None)?.link(true).await })
    })
}

/// A command that reaches a host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Via(Vec<String>);

impl Via {
    fn parse(template: Option<&str>, proxy: &[&str]) -> Result<Via> {
        let template = template.filter(|template| !template.trim().is_empty()).unwrap_or(SSH);
        let mut words = shell_words::split(template)
            .map_err(|error| Error::usage(format!("--via {template:?} cannot be read: {error}")))?;
        if !words.iter().any(|word| word.contains(PLACES.0)) {
            return Err(Error::usage(format!("--via {template:?} does not say where the host goes"))
                .hint("write {host} there: --via 'ssh {host}', --via 'srun --overlap -N1 -n1 -w {host}'"));
        }
        if !words.iter().any(|word| word.split_whitespace().any(|word| word == "proxy")) {
            let own = ["elastictop"].iter().chain(proxy).chain([&PLACES.1]);
            words.extend(own.map(|word| (*word).to_owned()));
        }
        Ok(Via(words))
    }

    fn argv(&self, host: &str, job: &str) -> Vec<String> {
        let filled = self.0.iter().map(|word| word.replace(PLACES.0, host).replace(PLACES.1, job));
        filled.filter(|word| !word.is_empty()).collect()
    }

    fn connect(&self, host: &str, job: &str) -> Connect {
        let argv = self.argv(host, job);
        Box::new(move || {
            let argv = argv.clone();
            Box::pin(async move {
                child::connect(&argv).map_err(|error| {
                    Error::environment(format!(
                        "cannot start {}: {error}",
                        argv.first().map_or("", String::as_str)
                    ))
                })
            })
        })
    }
}

/// What all nodes told within some seconds.
#[derive(Debug, Default)]
pub struct Gathered {
    nodes: Vec<(NodeStatus, State)>,
}

impl Gathered {
    fn take(&mut self, message: ToViewer) {
        match message {
            ToViewer::Together { messages } => messages.into_iter().for_each(|message| self.take(message)),
            ToViewer::Nodes { nodes } => {
                let known = std::mem::take(&mut self.nodes);
                let mut told: BTreeMap<String, State> =
                    known.into_iter().map(|(status, state)| (status.host, state)).collect();
                let join = |status: NodeStatus| {
                    let state = told.remove(&status.host).unwrap_or_default();
                    (status, state)
                };
                self.nodes = nodes.into_iter().map(join).collect();
            }
            ToViewer::From { node, message } => {
                if let (Some((_, state)), ToViewer::Snapshot { state: told, .. }) =
                    (self.nodes.get_mut(node as usize), *message)
                {
                    *state = *told;
                }
            }
            _ => {}
        }
    }

    /// Whether each node has told its state, or cannot be reached now.
    fn is_complete(&self) -> bool {
        let told = |(status, state): &(NodeStatus, State)| match status.link {
            NodeLink::Live => state.job.is_some(),
            NodeLink::Silent { .. } | NodeLink::Lost { .. } | NodeLink::Gone { .. } => true,
            NodeLink::Connecting | NodeLink::Unknown => false,
        };
        !self.nodes.is_empty() && self.nodes.iter().all(told)
    }

    /// All nodes as one job.
    fn whole(&self) -> State {
        let members: Vec<_> = self
            .nodes
            .iter()
            .map(|(status, state)| Member { host: &status.host, state, ahead_ms: status.ahead_ms() })
            .collect();
        crate::domain::cluster::whole(&members)
    }

    /// `status --json` over all nodes.
    pub fn status(&self, now: Stamp) -> Status {
        let mut status = Status::new(&self.whole(), now);
        // The alerts of the whole name no rank: positions mean nothing without their node.
        let kept: Vec<_> = status.alerts.drain(..).map(|alert| (alert.kind, alert.text)).collect();
        let (mut nodes, mut gpus) = (Vec::new(), Vec::new());
        for (link, state) in &self.nodes {
            let mut own = Status::new(state, shift(now, -link.ahead_ms()));
            own.ranks.iter_mut().for_each(|rank| rank.node = Some(link.host.clone()));
            own.alerts.retain(|alert| {
                kept.iter().any(|(kind, text)| *kind == alert.kind && text.ends_with(&alert.text))
            });
            status.ranks.extend(own.ranks);
            gpus.extend(own.gpus.map(|gpus| (link.host.clone(), gpus)));
            status.alerts.extend(own.alerts);
            nodes.push(NodeReport::new(link, state, now));
        }
        status.ranks.sort_by_key(|rank| rank.rank.unwrap_or(u32::MAX));
        status.nodes = Some(nodes);
        status.gpus = GpusReport::join(gpus);
        status
    }

    /// The nodes, for those who read.
    pub fn each(&self) -> impl Iterator<Item = (&NodeStatus, &State)> {
        self.nodes.iter().map(|(status, state)| (status, state))
    }

    /// Hosts that could not be reached, with the reason.
    fn unreached(&self) -> BTreeMap<&str, String> {
        let why = |(status, _): &(NodeStatus, State)| status.link.untold();
        self.nodes.iter().filter_map(|node| Some((node.0.host.as_str(), why(node)?))).collect()
    }
}

/// Reaches all hosts that can be reached.
///
/// # Errors
/// None of them can.
pub async fn gather(hosts: Vec<Host>) -> Result<(Link, Gathered)> {
    let mut link = cluster::serve(hosts, &viewer_name());
    let mut gathered = Gathered::default();
    let lost = || Error::environment("the links to the nodes ended");
    link.outgoing.send(hello(true)).await.map_err(|_| lost())?;
    let until = tokio::time::Instant::now() + PATIENCE;
    while !gathered.is_complete() {
        match tokio::time::timeout_at(until, link.incoming.recv()).await {
            Ok(Some(message)) => gathered.take(message),
            Ok(None) => return Err(lost()),
            Err(_) => break,
        }
    }
    if gathered.nodes.iter().all(|(_, state)| state.job.is_none()) {
        let mut error = Error::environment("no node can be reached");
        for (host, why) in gathered.unreached() {
            error = error.hint(format!("{host}: {why}"));
        }
        return Err(error);
    }
    Ok((link, gathered))
}

/// Has a command carried out on all nodes that it is for.
///
/// # Errors
/// No node can be reached, or not every node did it: which ones.
pub async fn command(hosts: Vec<Host>, command: Command) -> Result<String> {
    let (mut link, gathered) = gather(hosts).await?;
    for (status, _) in gathered.each().filter(|(_, state)| state.state.is_over()) {
        out::note(format_args!("elastictop: {}: its part of the job is over", status.host));
    }
    let lost = || Error::environment("the links to the nodes ended before they answered");
    link.outgoing.send(ToSupervisor::Do { id: 1, command, until: None }).await.map_err(|_| lost())?;
    let mut slow = Slow::new();
    while let Some(message) = slow.wait(link.incoming.recv()).await {
        if let ToViewer::Reply { id: 1, outcome } = message {
            return match outcome {
                Outcome::Done(text) => Ok(text),
                Outcome::Refused(text) => Err(Error::environment(text)),
            };
        }
    }
    Err(lost())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(template: Option<&str>, job: &str) -> String {
        Via::parse(template, &["proxy"]).unwrap().argv("n01", job).join(" ")
    }

    #[test]
    fn templates_say_where_host_and_job_go() {
        assert!(argv(None, "r1").starts_with("ssh -T -o BatchMode=yes "));
        assert!(argv(None, "r1").ends_with(" n01 elastictop proxy r1"));
        assert_eq!(
            argv(Some("srun --overlap -N1 -n1 -w {host}"), ""),
            "srun --overlap -N1 -n1 -w n01 elastictop proxy"
        );
        assert_eq!(
            argv(Some("env ELASTICTOP_DIR=/x/{host} /opt/elastictop proxy {job}"), "r1"),
            "env ELASTICTOP_DIR=/x/n01 /opt/elastictop proxy r1"
        );
        assert_eq!(
            Via::parse(Some("ssh {host} 'cd /x && elastictop proxy {job}'"), &["proxy"])
                .unwrap()
                .argv("n01", "r1"),
            ["ssh", "n01", "cd /x && elastictop proxy r1"]
        );
        for (wrong, why) in
            [("ssh n01", "does not say where the host goes"), ("ssh '{host}", "cannot be read")]
        {
            let error = Via::parse(Some(wrong), &["proxy"]).unwrap_err();
            assert!(error.text.contains(why) && error.exit_code() == 2, "{error}");
        }
    }

    #[test]
    fn the_node_of_the_user_is_known_by_either_name() {
        assert!(
            is_here("n01", "n01.example.org")
                && is_here("n01.example.org", "n01")
                && is_here("localhost", "x")
        );
        assert!(!is_here("n02", "n01.example.org") && !is_here("n01", "n011"));
    }
}
