//! `elastictop proxy`: the wire protocol of this node's part of a job on standard input and output.

use std::path::PathBuf;

use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, copy, stdin, stdout},
    net::UnixStream,
};

use super::{
    reach::{Opened, Target},
    runtime,
};
use crate::{
    error::{Error, Result},
    supervisor::place::Roots,
    wire::{frame, link::Link, message::ToViewer, socket},
};

#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// Id, name, start of the id, or rendezvous id; the newest running job of this node if left out
    job: Option<String>,
    /// A torchrun agent that elastictop did not start; read-only
    #[arg(long, conflicts_with = "job")]
    pid: Option<i32>,
    /// Speak for the relay that runs on this node for the job
    #[arg(long, conflicts_with = "pid")]
    relay: bool,
}

/// `elastictop proxy`. What goes wrong is said on both ways: in a frame for a viewer, on standard error for a person.
pub fn proxy(args: &ProxyArgs) -> Result<u8> {
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let result = serve(args).await;
        if let Err(error) = &result {
            let bye = ToViewer::Bye { text: error.text.clone() };
            // The viewer may be gone; then nobody needs to hear it.
            let _ = frame::write(&mut stdout(), &bye).await;
        }
        result
    });
    // A read of standard input that is under way cannot be called off.
    runtime.shutdown_background();
    result.map(|()| 0)
}

async fn serve(args: &ProxyArgs) -> Result<()> {
    if args.relay {
        return splice(relay(args.job.as_deref()).await?).await;
    }
    match Target::find(args.job.as_deref(), args.pid)?.open(true).await? {
        Opened::Socket(stream) => splice(stream).await,
        Opened::Served(link) => pump(link).await,
    }
}

/// The relay that runs here for a job.
///
/// # Errors
/// There is none.
pub async fn relay(job: Option<&str>) -> Result<UnixStream> {
    let path = relay_of(&Roots::find()?, job);
    socket::connect(&path).await.map_err(|error| {
        // One that was ended may be started again: viewers wait for it.
        Error::environment(format!("no relay serves at {}: {error}", path.display()))
            .hint("start one: elastictop relay --nodes n[01-64]")
    })
}

/// Where the relay for a job listens. Who names no job means the only one.
fn relay_of(roots: &Roots, job: Option<&str>) -> PathBuf {
    let path = roots.relay(job);
    match roots.relays().as_slice() {
        [only] if job.is_none() && !path.exists() => only.clone(),
        _ => path,
    }
}

/// Bytes as they are: what this elastictop does not know, the two ends may.
async fn splice(stream: UnixStream) -> Result<()> {
    let (mut read, mut write) = stream.into_split();
    let to = async {
        let result = copy(&mut stdin(), &mut write).await;
        let _ = write.shutdown().await;
        result
    };
    let from = async {
        let mut out = stdout();
        let mut bytes = vec![0; 64 << 10];
        loop {
            match read.read(&mut bytes).await? {
                0 => return Ok(()),
                n => out.write_all(&bytes[..n]).await?,
            }
            out.flush().await?;
        }
    };
    ended(until_one_ends(to, from).await)
}

/// The end of either way is the end.
async fn until_one_ends(
    to: impl Future<Output = std::io::Result<u64>>,
    from: impl Future<Output = std::io::Result<()>>,
) -> std::io::Result<()> {
    tokio::pin!(to, from);
    tokio::select! {
        // The viewer left; what is still on its way to it does not matter.
        result = &mut to => result.map(drop),
        result = &mut from => result,
    }
}

async fn pump(link: Link) -> Result<()> {
    let Link { outgoing, mut incoming } = link;
    let to = async {
        let mut input = BufReader::new(stdin());
        while let Some(message) = frame::read(&mut input).await? {
            if outgoing.send(message).await.is_err() {
                break;
            }
        }
        Ok(0)
    };
    let from = async {
        let mut out = stdout();
        while let Some(message) = incoming.recv().await {
            frame::write(&mut out, &message).await?;
        }
        Ok(())
    };
    ended(until_one_ends(to, from).await)
}

fn ended(result: std::io::Result<()>) -> Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::environment(format!("the link broke: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_no_job_means_the_only_relay() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::below(dir.path());
        std::fs::create_dir_all(&roots.run).unwrap();
        let serve = |name: &str| std::fs::write(roots.run.join(name), "").unwrap();
        let found = |job| relay_of(&roots, job).file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(found(None), "newest.relay");
        serve("r1.relay");
        assert_eq!((found(None), found(Some("r2"))), ("r1.relay".into(), "r2.relay".into()));
        serve("r2.relay");
        assert_eq!(found(None), "newest.relay", "one of several is not chosen");
        serve("newest.relay");
        assert_eq!(found(None), "newest.relay");
    }
}
