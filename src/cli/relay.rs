//! `elastictop relay`: links to many nodes, held once for all who look.

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{block_on, nodes::NodesArgs, out, reach::viewer_name};
use crate::{
    cluster,
    error::{Error, Result},
    supervisor::place::Roots,
};

#[derive(Debug, Args)]
pub struct RelayArgs {
    /// Id, name or rendezvous id of the job; the newest of each node if left out
    job: Option<String>,
    /// The nodes that are named run relays; each stands for the nodes that it has
    #[arg(long)]
    relays: bool,
    #[command(flatten)]
    nodes: NodesArgs,
}

/// `elastictop relay`: until Ctrl-C or SIGTERM.
pub fn relay(args: &RelayArgs) -> Result<u8> {
    let job = args.job.as_deref();
    let hosts = if args.relays { args.nodes.relays(job)? } else { args.nodes.hosts(job)? };
    let Some(hosts) = hosts else {
        return Err(Error::usage("a relay needs nodes to link to").hint("elastictop relay --nodes n[01-64]"));
    };
    let path = Roots::find()?.relay(job);
    let count = hosts.len();
    block_on(async {
        let told = |error| Error::environment(format!("cannot listen for signals: {error}"));
        let mut int = signal(SignalKind::interrupt()).map_err(told)?;
        let mut term = signal(SignalKind::terminate()).map_err(told)?;
        let mut hup = signal(SignalKind::hangup()).map_err(told)?;
        let stop = async {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
                // The terminal was closed: the socket is not to stay behind.
                _ = hup.recv() => {}
            }
        };
        let word = job.map(|job| format!(" {job}")).unwrap_or_default();
        let what = if args.relays { "relays" } else { "nodes" };
        let ready = || {
            out::note(format_args!(
                "relay for {count} {what}; watch over it with: elastictop attach{word} --relay"
            ));
        };
        cluster::relay::run(hosts, &format!("relay of {}", viewer_name()), &path, ready, stop).await
    })?;
    Ok(0)
}
