//! The rank shim, `elastictop __rank [--setsid] -- PROG ARGS…`: runs as the rank, notes what only the rank
//! knows, and becomes the program. Same pid, same tree.
//!
//! It must never keep a job from starting: whatever fails before the exec is said in one line on stderr and
//! forgotten. Only an exec that fails ends the rank, with 127 (not found) or 126 (cannot be run).
//!
//! # What it leaves in `$ELASTICTOP_JOB_DIR/ranks/PID-STARTTIME/`
//!
//! * `stdout.log`, `stderr.log`: hard links of the rank's own output files, so that the logs outlive torchrun
//!   deleting `attempt_N` at a change of membership. A file on another file system is only named.
//! * `rank.json`: a [`Shim`].
//!
//! The same message goes to the datagram socket `$ELASTICTOP_BEAT`.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{
        fs::DirBuilderExt,
        io::AsRawFd,
        net::UnixDatagram,
        process::{CommandExt, parent_id},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use crate::domain::{
    beat::{Message, Shim},
    forward::{Around, RankEnv, Settings, rank_env},
    sample::Place,
};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// Runs the shim with the arguments after `__rank`. Only returns when the program could not be run.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut args = args.peekable();
    if args.next_if(|arg| arg == "--setsid").is_some() {
        // Fails where the rank leads a session or group already, as under torchrun: then there is nothing to do.
        let _ = rustix::process::setsid();
    }
    args.next_if(|arg| arg == "--");
    let Some(program) = args.next() else {
        complain("__rank needs a program to run");
        return ExitCode::from(2);
    };
    if std::env::var_os("ELASTICTOP_ORPHANS").is_some_and(|orphans| orphans == "end") {
        let signal = Some(rustix::process::Signal::TERM);
        if let Err(error) = rustix::process::set_parent_process_death_signal(signal) {
            complain(&format!("cannot ask to be ended with the agent: {error}"));
        }
    }

    let mut command = Command::new(&program);
    command.args(args);
    let pid = std::process::id();
    command.env("ELASTICTOP_RANK_PID", pid.to_string());
    // A Python agent takes its mark off by itself; the embedded launcher hands it on.
    command.env_remove("ELASTICTOP_AGENT");
    let folder = introduce(pid as i32);
    if let Some(folder) = &folder {
        command.env("ELASTICTOP_RANK_DIR", folder);
    }
    let changes = wandb_changes(folder.as_deref());
    changes.unset.iter().for_each(|name| {
        command.env_remove(name);
    });
    command.envs(changes.set);
    let error = command.exec();
    complain(&format!("cannot run {}: {error}", program.display()));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
}

/// `elastictop __wandb FOLDER`: prints as JSON what [`main`] does to the environment of a rank, for ranks that run
/// inside the launcher's own Python processes and so have no shim.
pub fn print_wandb_changes(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let folder = args.next().map(PathBuf::from);
    let changes = serde_json::to_string(&wandb_changes(folder.as_deref())).unwrap_or_default();
    println!("{changes}");
    ExitCode::SUCCESS
}

/// What the rank's `wandb` SDK is told. A job whose settings cannot be read starts all the same.
fn wandb_changes(folder: Option<&Path>) -> RankEnv {
    let get = |name: &str| std::env::var(name).ok();
    let Some(job) = get("ELASTICTOP_JOB_DIR").filter(|dir| !dir.is_empty()) else {
        return RankEnv::default();
    };
    let path = absolute(Path::new(&job)).join("wandb/settings.json");
    let told = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return RankEnv::default(),
        Err(error) => Err(error.to_string()),
        Ok(bytes) => serde_json::from_slice::<Settings>(&bytes).map_err(|error| error.to_string()),
    };
    let place = place(get);
    let (folder, visible) = (folder.and_then(Path::to_str), get("CUDA_VISIBLE_DEVICES"));
    let nodes = get("GROUP_WORLD_SIZE").and_then(|nodes| nodes.parse().ok());
    let around = Around { nodes, folder, visible_gpus: visible.as_deref() };
    told.and_then(|settings| rank_env(&settings, &place, around)).unwrap_or_else(|why| {
        complain(&format!("W&B is left to the script: {}: {why}", path.display()));
        RankEnv::default()
    })
}

/// Leaves the rank's folder and tells the supervisor; the folder, if there is one now.
fn introduce(pid: i32) -> Option<PathBuf> {
    let job = std::env::var_os("ELASTICTOP_JOB_DIR").filter(|dir| !dir.is_empty());
    let beat = std::env::var_os("ELASTICTOP_BEAT").filter(|path| !path.is_empty());
    if job.is_none() && beat.is_none() {
        return None;
    }
    let start = match start_time() {
        Ok(start) => start,
        Err(error) => {
            complain(&format!("cannot read /proc/self/stat: {error}"));
            return None;
        }
    };
    let folder = job.and_then(|job| {
        // A job folder that is gone stays gone: only what lies in it is made.
        let ranks = absolute(Path::new(&job)).join("ranks");
        let folder = ranks.join(format!("{pid}-{start}"));
        let private = |path: &Path| match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        };
        match private(&ranks).and_then(|()| private(&folder)) {
            Ok(()) => Some(folder),
            Err(error) => {
                complain(&format!("cannot make {}: {error}", folder.display()));
                None
            }
        }
    });
    let me = Message::Shim(Shim {
        pid,
        start,
        agent_pid: parent_id() as i32,
        place: place(|name| std::env::var(name).ok()),
        out: keep_output(1, folder.as_deref(), "stdout.log"),
        err: keep_output(2, folder.as_deref(), "stderr.log"),
        error_file: std::env::var_os("TORCHELASTIC_ERROR_FILE")
            .filter(|path| !path.is_empty())
            .map(|path| absolute(Path::new(&path))),
    })
    .to_datagram();
    if let Some(folder) = &folder
        && let Err(error) = write_atomically(&folder.join("rank.json"), &me)
    {
        complain(&format!("cannot write {}: {error}", folder.join("rank.json").display()));
    }
    if let Some(beat) = beat {
        // A supervisor that is gone or busy is no news: it finds the rank in /proc and reads `rank.json`.
        let _ = Beat::new(&beat).and_then(|beat| beat.send(&me));
    }
    folder
}

/// One line on stderr, whatever becomes of it.
fn complain(text: &str) {
    let _ = io::Write::write_all(&mut io::stderr(), format!("elastictop: {text}\n").as_bytes());
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The place that the launcher's variables tell; what is missing or no number stays unknown.
fn place(get: impl Fn(&str) -> Option<String>) -> Place {
    let number = |name| get(name).and_then(|text| text.parse().ok());
    Place {
        rank: number("RANK"),
        local_rank: number("LOCAL_RANK"),
        group_rank: number("GROUP_RANK"),
        world_size: number("WORLD_SIZE"),
        local_world_size: number("LOCAL_WORLD_SIZE"),
        restart_count: number("TORCHELASTIC_RESTART_COUNT"),
        max_restarts: number("TORCHELASTIC_MAX_RESTARTS"),
        run_id: get("TORCHELASTIC_RUN_ID"),
    }
}

/// Field 22 of `/proc/self/stat`.
fn start_time() -> io::Result<u64> {
    parse_start_time(&fs::read("/proc/self/stat")?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in it"))
}

/// Field 22 of a stat line, whose second field may hold blanks and brackets.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Where the file behind `fd` can be read later: linked into `folder` if that is possible.
fn keep_output(fd: i32, folder: Option<&Path>, name: &str) -> Option<PathBuf> {
    let magic = PathBuf::from(format!("/proc/self/fd/{fd}"));
    if !fs::metadata(&magic).is_ok_and(|meta| meta.is_file()) {
        return None;
    }
    let linked = folder.and_then(|folder| {
        let link = folder.join(name);
        match rustix::fs::linkat(CWD, &magic, CWD, &link, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Some(link),
            Err(rustix::io::Errno::XDEV) => None,
            Err(error) => {
                complain(&format!("cannot keep {name} in {}: {error}", folder.display()));
                None
            }
        }
    });
    linked.or_else(|| fs::read_link(&magic).ok())
}

/// Writes beside `path` and renames, so that a reader sees all of it or nothing.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, bytes)?;
    fs::rename(&beside, path)
}

/// The sending end of the supervisor's heartbeat socket. Never waits: a full or missing socket is an error.
pub(super) struct Beat {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Beat {
    /// For the socket at `path`, which need not exist yet.
    pub(super) fn new(path: &OsStr) -> io::Result<Beat> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Beat { socket, path: absolute(Path::new(path)) })
    }

    /// Sends one datagram.
    pub(super) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        /// Longest path in a socket address, the closing zero not counted.
        const LONGEST: usize = 107;
        if self.path.as_os_str().len() <= LONGEST {
            return self.socket.send_to(datagram, &self.path).map(drop);
        }
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        self.socket.send_to(datagram, short).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_is_found_behind_an_odd_name() {
        let mut stat = b"42 (a) b (c d) S".to_vec();
        for field in 4..=52 {
            stat.extend(format!(" {field}00").bytes());
        }
        assert_eq!(parse_start_time(&stat), Some(2200));
        assert_eq!(parse_start_time(b"42 (x) S 1 2"), None);
        assert_eq!(parse_start_time(b""), None);
        assert!(start_time().unwrap() > 0);
    }

    #[test]
    fn a_place_keeps_what_is_a_number() {
        let place = place(|name| match name {
            "RANK" => Some("3".into()),
            "WORLD_SIZE" => Some("four".into()),
            "TORCHELASTIC_RUN_ID" => Some("a b".into()),
            _ => None,
        });
        assert_eq!(place, Place { rank: Some(3), run_id: Some("a b".into()), ..Place::default() });
    }

    #[test]
    fn a_datagram_reaches_a_socket_with_a_long_path() {
        let top = tempfile::tempdir().unwrap();
        let deep = top.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let handle = rustix::fs::open(&deep, OFlags::PATH, Mode::empty()).unwrap();
        let socket = UnixDatagram::bind(format!("/proc/self/fd/{}/beat", handle.as_raw_fd())).unwrap();
        Beat::new(deep.join("beat").as_os_str()).unwrap().send(b"hello").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 5);
        assert!(Beat::new(deep.join("none").as_os_str()).unwrap().send(b"x").is_err());
    }
}
