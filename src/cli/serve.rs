//! `elastictop serve`: facts of a job that runs already, for other programs.

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{block_on, config::Layers, out, reach::Target};
use crate::{
    domain::id::JobId,
    error::{Error, Result},
    probe::proc::{self, ROOT},
    supervisor::{
        place::Roots,
        serve::{self, About, Asked, Door},
    },
};

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    /// A torchrun agent that elastictop did not start; read-only
    #[arg(long, conflicts_with = "job")]
    pid: Option<i32>,
    /// Where: unix, unix:PATH, or a loopback port such as 127.0.0.1:9123 [default: as run.serve says, or unix]
    #[arg(long, value_name = "ADDRESS")]
    on: Option<String>,
}

/// `elastictop serve`.
pub fn serve(args: &ServeArgs) -> Result<u8> {
    let typed = args.on.iter().map(|address| ("run.serve", address.clone())).collect();
    let asked = Layers::find(typed)?.parsed("run.serve", str::parse::<Asked>)?.unwrap_or(Asked::Unix(None));
    let target = Target::find(args.job.as_deref(), args.pid)?;
    let (roots, id, journal) = match &target {
        Target::Own { roots, manifest } => {
            (roots.clone(), manifest.id.clone(), Some(roots.job(&manifest.id).journal()))
        }
        Target::Foreign(pid) => (Roots::find()?, JobId(format!("pid-{pid}")), None),
    };
    let own = std::iter::once(("server", proc::identify(ROOT.as_ref(), std::process::id() as i32)));
    let supervisor = match &target {
        Target::Own { manifest, .. } if !manifest.ended => Some(("supervisor", Some(manifest.supervisor))),
        _ => None,
    };
    let own = own.chain(supervisor).filter_map(|(what, proc)| Some((what, proc?))).collect();
    let keeps_link = matches!(target, Target::Foreign(_));
    block_on(async {
        // A job that cannot be reached is told before anybody asks.
        drop(target.link(true).await?);
        let door = Door::open(asked.address(&roots, &id)?)?;
        let address = door.address.clone();
        out::say(format_args!("figures of {id} are served on {address}; Ctrl-C ends it"))?;
        let connect = Box::new(move || -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            let target = target.clone();
            Box::pin(async move { target.link(true).await })
        });
        let about = About { connect, keeps_link, journal, own };
        let told = |error| Error::environment(format!("cannot listen for signals: {error}"));
        let (mut int, mut term) =
            (signal(SignalKind::interrupt()).map_err(told)?, signal(SignalKind::terminate()).map_err(told)?);
        let served = tokio::select! {
            served = serve::run(door, about) => served.map(|()| 0),
            _ = int.recv() => Ok(0),
            _ = term.recv() => Ok(0),
        };
        serve::clean_up(Some(&address));
        served.map_err(|error| Error::environment(format!("cannot serve on {address}: {error}")))
    })
}
