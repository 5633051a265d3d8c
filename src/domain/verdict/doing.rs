//! What the main thread of a rank does, as far as the kernel tells.

use serde::{Deserialize, Serialize};

/// A closer look at one process, taken only of suspects. What may not be seen is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Doing {
    /// Where the main thread sleeps in the kernel, from `wchan`: `futex_do_wait`.
    pub wchan: Option<String>,
    /// The system call that the main thread is in, from `syscall`: `read`.
    pub call: Option<String>,
    /// The file, pipe or socket behind that call.
    pub file: Option<String>,
    /// CPU time of the main thread since its start, in nanoseconds.
    pub main_cpu_ns: Option<u64>,
    /// Bytes that the process has read and written so far, from `io`.
    pub io_bytes: Option<u64>,
    /// Names of its threads that tell which libraries run in it, sorted: `pt_nccl_watchdg`.
    pub threads: Vec<String>,
    /// `TORCH_NCCL_*` and the like in its environment. Empty after the first look.
    pub settings: Vec<(String, String)>,
}

/// The main thread's occupation in one word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It uses a processor.
    Busy,
    /// In `sleep`.
    Asleep,
    /// Waits for a signal.
    Paused,
    /// Waits for bytes from something that does not give any; what that is, if known.
    Reading(Option<String>),
    /// Waits until somebody takes its bytes.
    Writing(Option<String>),
    /// Waits for the other end of a named pipe.
    OpeningPipe,
    /// Waits for a lock or another thread: also what a collective on gloo looks like.
    Lock,
    /// Waits for a peer or server.
    Network,
    /// Waits for any of several files or sockets.
    Polling,
    /// Waits for a child process.
    Child,
    /// Waits for a lock on a file.
    FileLock,
    /// Waits for a network file system.
    NetworkFile,
    /// Something else, by the kernel's name for it.
    Other(Option<String>),
}

/// Share of a core in per mille from which on a thread computes rather than waits.
const BUSY: u64 = 500;
/// The same for a thread that the kernel shows in no call and no sleep.
const STARVED: u64 = 50;

impl Doing {
    /// What the thread does, given the share of a core that it used lately, in per mille.
    pub fn activity(&self, share: Option<u64>) -> Activity {
        if share.is_some_and(|share| share >= BUSY) {
            return Activity::Busy;
        }
        // On a machine with more to do than it can, a spinning thread gets a part of a core, but never sleeps.
        if self.wchan.is_none() && self.call.is_none() && share.is_some_and(|share| share >= STARVED) {
            return Activity::Busy;
        }
        let wchan = self.wchan.as_deref().unwrap_or_default();
        let has = |parts: &[&str]| parts.iter().any(|part| wchan.contains(part));
        let call = self.call.as_deref().unwrap_or_default();
        if has(&["nfs", "rpc_wait", "fuse_", "lustre", "gpfs", "ceph"]) {
            return Activity::NetworkFile;
        }
        if has(&["nanosleep"]) || call.contains("nanosleep") {
            return Activity::Asleep;
        }
        if has(&["sys_pause", "sigtimedwait", "sigsuspend"]) || call == "pause" {
            return Activity::Paused;
        }
        if has(&["fifo_open", "wait_for_partner"]) {
            return Activity::OpeningPipe;
        }
        if has(&["pipe_read", "tty_read", "n_tty", "eventfd_read"]) {
            return Activity::Reading(self.file.clone());
        }
        if has(&["pipe_write"]) {
            return Activity::Writing(self.file.clone());
        }
        if has(&["locks_lock", "flock", "posix_lock"]) {
            return Activity::FileLock;
        }
        if has(&["futex"]) || call == "futex" {
            return Activity::Lock;
        }
        if has(&["do_wait", "kernel_wait"]) || call.starts_with("wait") {
            return Activity::Child;
        }
        if has(&["poll", "do_select"]) {
            return Activity::Polling;
        }
        if has(&["sk_wait", "tcp_", "udp_", "unix_", "inet_", "wait_woken", "skb_", "sock_"]) {
            return Activity::Network;
        }
        match call {
            "read" | "readv" | "pread64" => Activity::Reading(self.file.clone()),
            "write" | "writev" | "pwrite64" => Activity::Writing(self.file.clone()),
            _ => Activity::Other(self.wchan.clone().or_else(|| self.call.clone())),
        }
    }
}

impl Activity {
    /// As the verb of a sentence: `sleeps`.
    pub fn verb(&self) -> String {
        let from =
            |what: &Option<String>| what.as_ref().map(|what| format!(" of {what}")).unwrap_or_default();
        match self {
            Activity::Busy => "computes or spins".into(),
            Activity::Asleep => "sleeps".into(),
            Activity::Paused => "waits for a signal".into(),
            Activity::Reading(what) => format!("is blocked in a read{}", from(what)),
            Activity::Writing(what) => format!("is blocked in a write{}", from(what)),
            Activity::OpeningPipe => "waits for the other end of a named pipe".into(),
            Activity::Lock => "waits for a lock or another thread".into(),
            Activity::Network => "waits for the network".into(),
            Activity::Polling => "waits for files or sockets".into(),
            Activity::Child => "waits for a child process".into(),
            Activity::FileLock => "waits for a lock on a file".into(),
            Activity::NetworkFile => "waits for a network file system".into(),
            Activity::Other(Some(what)) => format!("waits in {what}"),
            Activity::Other(None) => "does nothing that can be seen".into(),
        }
    }

    /// Whether it is input or output that does not come or go.
    pub fn is_io(&self) -> bool {
        matches!(
            self,
            Activity::Reading(_)
                | Activity::Writing(_)
                | Activity::OpeningPipe
                | Activity::FileLock
                | Activity::NetworkFile
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(wchan: &str, call: &str, share: u64) -> Activity {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let doing =
            Doing { wchan: text(wchan), call: text(call), file: Some("/x".into()), ..Doing::default() };
        doing.activity(Some(share))
    }

    #[test]
    fn the_kernels_names_are_told_apart() {
        // Seen on Linux 6.18.
        assert_eq!(of("hrtimer_nanosleep", "clock_nanosleep", 0), Activity::Asleep);
        assert_eq!(of("", "", 990), Activity::Busy);
        assert_eq!(of("", "", 80), Activity::Busy, "runnable, on a crowded machine");
        assert_eq!(of("anon_pipe_read", "read", 0), Activity::Reading(Some("/x".into())));
        assert_eq!(of("pipe_read", "", 0), Activity::Reading(Some("/x".into())));
        assert_eq!(of("futex_do_wait", "futex", 10), Activity::Lock);
        assert_eq!(of("wait_for_partner", "openat", 0), Activity::OpeningPipe);
        assert_eq!(of("do_sys_poll", "", 0), Activity::Polling);
        assert_eq!(of("do_epoll_wait", "", 0), Activity::Polling);
        assert_eq!(of("poll_schedule_timeout", "", 0), Activity::Polling);
        assert_eq!(of("sk_wait_data", "recvfrom", 0), Activity::Network);
        assert_eq!(of("do_wait", "wait4", 0), Activity::Child);
        assert_eq!(of("rpc_wait_bit_killable", "", 0), Activity::NetworkFile);
        assert_eq!(of("__do_sys_pause", "pause", 0), Activity::Paused);
        assert_eq!(of("", "read", 0), Activity::Reading(Some("/x".into())));
        assert_eq!(of("odd_thing", "", 0), Activity::Other(Some("odd_thing".into())));
        assert_eq!(Doing::default().activity(None).verb(), "does nothing that can be seen");
    }
}
