//! A closer look at a process that may keep a job from moving on. It costs some 50 µs, so only suspects get one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::proc;
use crate::domain::{id::ProcId, verdict::Doing};

/// Threads whose names tell a communication backend begin like this.
const TELLING: &[&str] = &["pt_nccl", "pt_gloo", "gloo", "NCCL"];
/// Variables that bear on time limits.
const SETTINGS: &[&str] = &["TORCH_NCCL_", "TORCH_DIST_USE_NCCL2", "NCCL_ASYNC_ERROR_HANDLING", "TORCH_FR_"];
/// Most threads that are named in a dump.
const MAX_THREADS: usize = 512;

/// Looks at a process. `None` when it is gone. With `whole`, threads and settings too, which change seldom.
pub fn look(proc_root: &Path, proc: ProcId, whole: bool) -> Option<Doing> {
    if proc::identify(proc_root, proc.pid) != Some(proc) {
        return None;
    }
    let dir = proc::process_dir(proc_root, proc.pid);
    let (call, file) = read_call(&dir);
    let main = dir.join(format!("task/{}/stat", proc.pid));
    let mut doing = Doing {
        wchan: proc::wchan(proc_root, proc.pid),
        call,
        file,
        main_cpu_ns: fs::read(main).ok().and_then(|line| proc::cpu_ns(&line)),
        io_bytes: fs::read_to_string(dir.join("io")).ok().and_then(|text| parse_io(&text)),
        ..Doing::default()
    };
    if whole {
        let telling = |name: &String| TELLING.iter().any(|start| name.starts_with(start));
        doing.threads =
            threads(proc_root, proc).into_iter().map(|thread| thread.name).filter(telling).collect();
        doing.threads.sort();
        doing.threads.dedup();
        doing.settings =
            fs::read(dir.join("environ")).map(|bytes| parse_settings(&bytes)).unwrap_or_default();
    }
    Some(doing)
}

/// One thread of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Thread {
    /// Its id.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// The kernel's letter for its state.
    pub state: Option<char>,
    /// Where it sleeps in the kernel.
    pub wchan: Option<String>,
}

/// The threads of a process. Empty when it is gone.
pub fn threads(proc_root: &Path, proc: ProcId) -> Vec<Thread> {
    let Ok(tasks) = fs::read_dir(proc::process_dir(proc_root, proc.pid).join("task")) else {
        return Vec::new();
    };
    let read = |dir: PathBuf| {
        let text = |name: &str| {
            fs::read(dir.join(name)).ok().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        Some(Thread {
            tid: dir.file_name()?.to_str()?.parse().ok()?,
            name: text("comm")?,
            state: text("stat").and_then(|stat| stat.rsplit_once(") ")?.1.chars().next()),
            wchan: text("wchan").filter(|wchan| !wchan.is_empty() && wchan != "0"),
        })
    };
    tasks.flatten().take(MAX_THREADS).filter_map(|task| read(task.path())).collect()
}

/// The system call that the main thread is in, and the file behind its first argument where that is a descriptor.
///
/// Both are `None` while it runs, and where this process may not trace the other: the kernel only lets ancestors in by
/// default.
fn read_call(dir: &Path) -> (Option<String>, Option<String>) {
    let Some(text) = fs::read_to_string(dir.join("syscall")).ok() else { return (None, None) };
    let Some((number, first)) = parse_call(&text) else { return (None, None) };
    let Some((name, has_file)) = call_name(number) else {
        return (Some(format!("system call {number}")), None);
    };
    let file = has_file.then(|| fs::read_link(dir.join(format!("fd/{first}"))).ok()).flatten();
    (Some(name.to_owned()), file.map(|path| path.to_string_lossy().into_owned()))
}

/// Number and first argument of a line of `syscall`: `0 0x3 0x7ffd…`.
fn parse_call(text: &str) -> Option<(u32, u64)> {
    let mut words = text.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let first = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    Some((number, first))
}

/// A system call's name, and whether its first argument is a file. Those that processes wait in.
fn call_name(number: u32) -> Option<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    const CALLS: &[(u32, &str, bool)] = &[
        (0, "read", true),
        (1, "write", true),
        (2, "open", false),
        (7, "poll", false),
        (17, "pread64", true),
        (18, "pwrite64", true),
        (19, "readv", true),
        (20, "writev", true),
        (23, "select", false),
        (34, "pause", false),
        (35, "nanosleep", false),
        (42, "connect", true),
        (43, "accept", true),
        (44, "sendto", true),
        (45, "recvfrom", true),
        (46, "sendmsg", true),
        (47, "recvmsg", true),
        (61, "wait4", false),
        (72, "fcntl", true),
        (73, "flock", true),
        (74, "fsync", true),
        (75, "fdatasync", true),
        (202, "futex", false),
        (230, "clock_nanosleep", false),
        (232, "epoll_wait", false),
        (247, "waitid", false),
        (257, "openat", false),
        (270, "pselect6", false),
        (271, "ppoll", false),
        (281, "epoll_pwait", false),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    const CALLS: &[(u32, &str, bool)] = &[
        // The numbers that arm64, riscv64 and other newer architectures share.
        (22, "epoll_pwait", false),
        (25, "fcntl", true),
        (32, "flock", true),
        (56, "openat", false),
        (63, "read", true),
        (64, "write", true),
        (65, "readv", true),
        (66, "writev", true),
        (67, "pread64", true),
        (68, "pwrite64", true),
        (72, "pselect6", false),
        (73, "ppoll", false),
        (82, "fsync", true),
        (95, "waitid", false),
        (98, "futex", false),
        (101, "nanosleep", false),
        (115, "clock_nanosleep", false),
        (203, "connect", true),
        (206, "sendto", true),
        (207, "recvfrom", true),
        (260, "wait4", false),
    ];
    CALLS.iter().find(|(known, ..)| *known == number).map(|(_, name, file)| (*name, *file))
}

/// Bytes read and written, by the counters of `io` that no cache hides.
fn parse_io(text: &str) -> Option<u64> {
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
    };
    Some(field("rchar")?.saturating_add(field("wchar")?))
}

fn parse_settings(environ: &[u8]) -> Vec<(String, String)> {
    let entries = environ.split(|&byte| byte == 0).filter_map(|entry| {
        let (name, value) = str::from_utf8(entry).ok()?.split_once('=')?;
        let wanted = SETTINGS.iter().any(|start| name.starts_with(start));
        wanted.then(|| (name.to_owned(), value.chars().take(200).collect()))
    });
    let mut found: Vec<_> = entries.collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::{io::Write, process};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_process_that_reads_from_a_pipe_is_seen_doing_so() {
        let mut child = process::Command::new("cat")
            .env("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "300")
            .stdin(process::Stdio::piped())
            .spawn()
            .unwrap();
        let root = Path::new(proc::ROOT);
        let proc = proc::identify(root, child.id() as i32).unwrap();
        let due = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let doing = loop {
            let doing = look(root, proc, true).unwrap();
            let reads = doing.wchan.as_deref().is_some_and(|wchan| wchan.contains("pipe_read"))
                || doing.call.as_deref() == Some("read");
            if reads && !doing.settings.is_empty() {
                break doing;
            }
            assert!(std::time::Instant::now() < due, "{doing:?}");
            std::thread::yield_now();
        };
        assert_eq!(doing.settings, [("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC".to_owned(), "300".to_owned())]);
        assert!(doing.main_cpu_ns.is_some());
        let seen = threads(root, proc);
        assert_eq!((seen.len(), seen[0].name.as_str()), (1, "cat"));
        child.stdin.take().unwrap().flush().unwrap();
        child.wait().unwrap();
        assert_eq!(look(root, proc, true), None);
    }

    #[test]
    fn the_kernels_lines_are_read() {
        assert_eq!(parse_call("0 0x5 0x7ffc 0x1 0x0 0x0 0x0 0x7ff 0x7fe\n"), Some((0, 5)));
        assert_eq!(parse_call("running\n"), None);
        assert_eq!(parse_call("-1 0x7ffc 0x7fe"), None);
        assert_eq!(parse_io("rchar: 12\nwchar: 30\nsyscr: 1\n"), Some(42));
        assert_eq!(parse_io("rchar: x\n"), None);
    }

    proptest! {
        #[test]
        fn any_line_is_survived(text: String, bytes: Vec<u8>) {
            let _ = (parse_call(&text), parse_io(&text), parse_settings(&bytes));
        }
    }
}
