//! A cluster behind a socket: for many viewers, and for more nodes than each viewer should link to by itself.

use std::{fs, path::Path};

use tokio::net::UnixListener;

use super::{Cluster, Host};
use crate::{
    error::{Error, Result},
    supervisor::door,
    wire::socket,
};

/// Serves at `path` until `stop` resolves; `ready` is called once viewers can come. The folder of the socket is private;
/// who connects is checked all the same.
///
/// # Errors
/// Another relay serves there, or nobody can listen there.
pub async fn run(
    hosts: Vec<Host>,
    viewer: &str,
    path: &Path,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let listener = listen(path).await?;
    ready();
    let mut cluster = Cluster::new(hosts, viewer);
    tokio::select! {
        () = cluster.listen(&listener) => {}
        () = stop => {}
    }
    drop(listener);
    // The next relay would remove it, too.
    let _ = fs::remove_file(path);
    Ok(())
}

async fn listen(path: &Path) -> Result<UnixListener> {
    if socket::connect(path).await.is_ok() {
        return Err(Error::job(format!("a relay serves at {} already", path.display()))
            .hint("watch over it with elastictop attach --relay, or end it with Ctrl-C where it runs"));
    }
    door::listen(path)
}
