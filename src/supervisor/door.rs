//! Listening on a private socket.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use tokio::net::UnixListener;

use crate::{
    error::{Error, Result},
    wire::socket,
};

/// Listens on a socket that only its owner can use; what lies there from somebody who died is replaced.
///
/// # Errors
/// What lies there is another user's, or the folder cannot be used.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let told = |error: std::io::Error| Error::io("cannot listen on", path, &error);
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.uid() != rustix::process::getuid().as_raw() => {
            return Err(Error::environment(format!("{} belongs to another user", path.display())));
        }
        Ok(_) => fs::remove_file(path).map_err(told)?,
        Err(_) => {}
    }
    let listener = socket::listen(path).map_err(told)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(told)?;
    Ok(listener)
}
