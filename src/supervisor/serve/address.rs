//! Where facts are served: a loopback port, or a socket that only its owner can open.

use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdTcpListener},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener as StdUnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{
    domain::id::JobId,
    error::{Error, Result},
    supervisor::place::Roots,
    wire::socket,
};

/// What a user asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// `unix`, or `unix:PATH` below the folder of sockets.
    Unix(Option<PathBuf>),
    /// `127.0.0.1:9123`; port 0 is any that is free.
    Tcp(SocketAddr),
}

impl FromStr for Asked {
    type Err = String;

    /// The error is the end of a sentence that begins with the value.
    fn from_str(text: &str) -> Result<Asked, String> {
        const ONLY: &str = "only unix, unix:PATH and loopback addresses such as 127.0.0.1:9123 are served";
        if text == "unix" {
            return Ok(Asked::Unix(None));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("names no path after unix:".into()),
                path => Ok(Asked::Unix(Some(path.into()))),
            };
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("is no address: {ONLY}"));
        };
        let port: u16 = port.parse().map_err(|_| format!("has no port: {ONLY}"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let ip = match host {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().map_err(|_| format!("is no loopback address: {ONLY}"))?,
        };
        if ip.is_loopback() {
            Ok(Asked::Tcp(SocketAddr::new(ip, port)))
        } else {
            Err(format!("can be reached over the network: {ONLY}; a proxy of your own may stand in front"))
        }
    }
}

/// Where facts are served. Kept in the manifest for a supervisor that takes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// A socket that only its owner can open.
    Unix(PathBuf),
    /// A port of this machine, which all of its users can reach.
    Tcp(SocketAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(address) => write!(f, "http://{address}"),
        }
    }
}

impl Asked {
    /// The address of a job.
    ///
    /// # Errors
    /// A path that is not below the folder of sockets.
    pub fn address(&self, roots: &Roots, id: &JobId) -> Result<Address> {
        match self {
            Asked::Tcp(address) => Ok(Address::Tcp(*address)),
            Asked::Unix(None) => Ok(Address::Unix(roots.run.join(format!("{id}.http")))),
            Asked::Unix(Some(path)) => below(&roots.run, path).map(Address::Unix),
        }
    }
}

/// Endings of what elastictop itself keeps in the folder of sockets.
const OWN: [&str; 3] = ["sock", "beat", "lock"];

/// A path below the folder of sockets, which nobody else can enter.
fn below(run: &Path, path: &Path) -> Result<PathBuf> {
    let whole = run.join(path);
    let refuse = |why: &str| {
        Err(Error::usage(format!("cannot serve on {}: {why}", whole.display()))
            .hint(format!("give a path below {}, where only you can open it", run.display())))
    };
    let (Some(folder), Some(name)) = (whole.parent(), whole.file_name()) else {
        return refuse("it is no path of a socket");
    };
    if whole.extension().is_some_and(|end| OWN.iter().any(|own| end == *own)) {
        return refuse("names that end with .sock, .beat or .lock are elastictop's own");
    }
    match (folder.canonicalize(), run.canonicalize()) {
        (Ok(folder), Ok(run)) if folder.starts_with(&run) => Ok(folder.join(name)),
        (Err(error), _) => refuse(&format!("{}: {error}", folder.display())),
        _ => refuse("others may reach it there"),
    }
}

impl Address {
    /// Whether it could be listened on now. Leaves nothing behind.
    ///
    /// # Errors
    /// The address is in use, or cannot be used.
    pub fn check(&self) -> Result<()> {
        let could = match self {
            Address::Tcp(wanted) => StdTcpListener::bind(wanted).map(drop),
            Address::Unix(path) => find_room(path).map(drop),
        };
        could.map_err(|error| self.refused(error))
    }

    fn refused(&self, error: io::Error) -> Error {
        let text = format!("cannot serve on {self}: {error}");
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                Error::environment(text).hint("another job or program listens there: name another address")
            }
            _ => Error::environment(text),
        }
    }
}

/// A socket that listens, before anybody is served.
#[derive(Debug)]
pub struct Door {
    /// Where.
    pub address: Address,
    pub(super) listener: Listener,
}

#[derive(Debug)]
pub(super) enum Listener {
    Unix(StdUnixListener),
    Tcp(StdTcpListener),
}

impl Door {
    /// Listens. Needs a running event loop. A socket that a dead process left is replaced.
    ///
    /// # Errors
    /// The address is in use, or cannot be used.
    pub fn open(address: Address) -> Result<Door> {
        let told = |error: io::Error| address.refused(error);
        match &address {
            Address::Tcp(wanted) => {
                let listener = StdTcpListener::bind(wanted).map_err(told)?;
                listener.set_nonblocking(true).map_err(told)?;
                let address = Address::Tcp(listener.local_addr().map_err(told)?);
                Ok(Door { address, listener: Listener::Tcp(listener) })
            }
            Address::Unix(path) => {
                let listener = listen(path).map_err(told)?;
                Ok(Door { listener: Listener::Unix(listener), address })
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Room {
    Free,
    /// A socket of somebody who is dead.
    LeftBehind,
}

fn find_room(path: &Path) -> io::Result<Room> {
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else lies there"))
        }
        Ok(_) if UnixStream::connect(path).is_ok() => Err(io::ErrorKind::AddrInUse.into()),
        Ok(_) => Ok(Room::LeftBehind),
        Err(_) => Ok(Room::Free),
    }
}

/// Listens at a path that only the owner can open.
pub(super) fn listen(path: &Path) -> io::Result<StdUnixListener> {
    if find_room(path)? == Room::LeftBehind {
        fs::remove_file(path)?;
    }
    let listener = socket::listen(path)?.into_std()?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_on_this_machine_is_an_address() {
        let good = |text: &str| text.parse::<Asked>().unwrap();
        assert_eq!(good("unix"), Asked::Unix(None));
        assert_eq!(good("unix:x/y"), Asked::Unix(Some("x/y".into())));
        assert_eq!(good("localhost:80"), Asked::Tcp("127.0.0.1:80".parse().unwrap()));
        assert_eq!(good("127.8.8.8:0"), Asked::Tcp("127.8.8.8:0".parse().unwrap()));
        assert_eq!(good("[::1]:80"), Asked::Tcp("[::1]:80".parse().unwrap()));
        for (bad, why) in [
            ("0.0.0.0:80", "over the network"),
            ("[::]:80", "over the network"),
            ("10.0.0.1:80", "over the network"),
            ("[::ffff:127.0.0.1]:80", "over the network"),
            ("example.org:80", "no loopback"),
            ("localhost.example.org:80", "no loopback"),
            (":80", "no loopback"),
            ("80", "no address"),
            ("127.0.0.1:http", "no port"),
            ("127.0.0.1:70000", "no port"),
            ("unix:", "no path"),
            ("", "no address"),
        ] {
            let told = bad.parse::<Asked>().unwrap_err();
            assert!(told.contains(why), "{bad}: {told}");
        }
    }

    #[test]
    fn a_socket_lies_below_the_private_folder_alone() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::below(dir.path());
        fs::create_dir_all(roots.run.join("sub")).unwrap();
        std::os::unix::fs::symlink(dir.path(), roots.run.join("out")).unwrap();
        let at = |path: &str| Asked::Unix(Some(path.into())).address(&roots, &JobId("j".into()));
        let run = roots.run.canonicalize().unwrap();
        assert_eq!(at("m.http").unwrap(), Address::Unix(run.join("m.http")));
        assert_eq!(at("sub/m").unwrap(), Address::Unix(run.join("sub/m")));
        assert_eq!(at(run.join("m").to_str().unwrap()).unwrap(), Address::Unix(run.join("m")));
        for bad in ["../m", "/tmp/m", "out/m", "none/m", "j.sock", "j.lock", "sub/.."] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_socket_of_the_dead_is_replaced_and_one_of_the_living_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let open = || Door::open(Address::Unix(path.clone()));
            let first = open().unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(open().unwrap_err().text.contains("in use"));
            drop(first);
            open().unwrap();
            fs::remove_file(&path).unwrap();
            fs::write(&path, "mine").unwrap();
            assert!(open().is_err());
            assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        });
    }

    #[test]
    fn a_free_port_is_told_and_a_taken_one_is_an_error() {
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let door = Door::open(any).unwrap();
        assert!(matches!(door.address, Address::Tcp(address) if address.port() != 0));
        let error = Door::open(door.address.clone()).unwrap_err();
        assert!(error.text.contains("in use") && error.hints.len() == 1, "{error}");
    }
}
