//! Reading the stacks of ranks: by py-spy from outside, else by what in the rank can tell.
//!
//! All of it blocks, up to the time limits below: run it on a thread.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::{
    proc::{self, ROOT},
    rank::{Question, Rank},
};
use crate::domain::{
    id::ProcId,
    stack::{self, RankStack, Source, Thread},
};

/// How long py-spy may take for one rank; 10 to 30 ms are usual.
const PY_SPY_WITHIN: Duration = Duration::from_secs(5);
/// How long torch's worker server may take: it answers in milliseconds, or not before Python's lock is free.
const SERVER_WITHIN: Duration = Duration::from_secs(2);
/// How long the injected thread may take: it looks once a second.
const THREAD_WITHIN: Duration = Duration::from_millis(3500);
/// Most bytes that py-spy may print.
const MAX_OUTPUT: u64 = 8 << 20;
/// Ranks that are looked at at the same time.
const AT_ONCE: usize = 8;
/// Variable that names a py-spy to use before any other.
const PY_SPY: &str = "ELASTICTOP_PY_SPY";

/// A rank whose stack is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Global rank; the position on the node where that is not known.
    pub rank: u32,
    /// Its process.
    pub proc: ProcId,
    /// Where it beats to; `None` for a rank that elastictop did not start.
    pub beat: Option<PathBuf>,
}

/// The stacks of these ranks, in the same order: by `only`, or by the first way that works.
pub fn take(wanted: &[Wanted], only: Option<Source>) -> Vec<RankStack> {
    let mut taken: Vec<(usize, RankStack)> = thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let workers = AT_ONCE.min(wanted.len());
        for worker in 0..workers {
            let sender = sender.clone();
            scope.spawn(move || {
                for (at, wanted) in wanted.iter().enumerate().skip(worker).step_by(workers) {
                    // The other end is in this very function.
                    let _ = sender.send((at, take_one(wanted, only)));
                }
            });
        }
        drop(sender);
        receiver.iter().collect()
    });
    taken.sort_by_key(|(at, _)| *at);
    taken.into_iter().map(|(_, stack)| stack).collect()
}

fn take_one(wanted: &Wanted, only: Option<Source>) -> RankStack {
    let mut why = Vec::new();
    let sources = Source::ALL.into_iter().filter(|source| only.is_none_or(|only| only == *source));
    for source in sources {
        match read(wanted, source) {
            Ok(threads) => {
                return RankStack { rank: wanted.rank, pid: wanted.proc.pid, read: Ok((source, threads)) };
            }
            Err(error) => why.push(format!("{}: {error}", source.name())),
        }
    }
    let other = if only.is_none() { other_program(wanted.proc) } else { None };
    let why = other.unwrap_or_else(|| why.join("; "));
    RankStack { rank: wanted.rank, pid: wanted.proc.pid, read: Err(why) }
}

/// That a process has no Python in it, where that can be told.
fn other_program(proc: ProcId) -> Option<String> {
    let of = PathBuf::from(ROOT).join(proc.pid.to_string());
    let program = std::fs::read_link(of.join("exe")).ok()?;
    let name = program.file_name()?.to_string_lossy().into_owned();
    let maps = std::fs::read_to_string(of.join("maps")).ok()?;
    let has_python = name.contains("python") || maps.contains("python");
    let is_it = proc::identify(Path::new(ROOT), proc.pid) == Some(proc);
    (!has_python && is_it).then(|| format!("it runs {name}, which is no Python program"))
}

fn read(wanted: &Wanted, source: Source) -> Result<Vec<Thread>, String> {
    if proc::identify(Path::new(ROOT), wanted.proc.pid) != Some(wanted.proc) {
        return Err("the process is gone".into());
    }
    let rank = || {
        let beat = wanted.beat.clone().ok_or("the rank was not started by elastictop")?;
        Ok::<_, String>(Rank { proc: wanted.proc, beat })
    };
    let nonsense = || "its answer makes no sense".to_owned();
    let threads = match source {
        Source::PySpy => {
            let program = find_py_spy(wanted.proc).ok_or("not installed (pip install py-spy)")?;
            py_spy(&program, wanted.proc.pid)?
        }
        Source::Server => {
            let answer = rank()?.post("dump_traceback", SERVER_WITHIN).map_err(|error| error.to_string())?;
            stack::of_traceback(&String::from_utf8_lossy(&answer))
        }
        Source::Thread => {
            let answer = rank()?.ask(Question::Stacks, THREAD_WITHIN).map_err(silent)?;
            stack::of_thread(&answer).ok_or_else(nonsense)?
        }
        Source::Unknown => return Err("a newer elastictop is needed".into()),
    };
    if threads.is_empty() { Err(nonsense()) } else { Ok(threads) }
}

/// What it means that a rank does not answer.
fn silent(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "no answer: it is stopped, or something holds Python's lock".into(),
        _ => error.to_string(),
    }
}

/// The py-spy to use: the one that a variable names, in the path, beside the rank's Python. That last one runs with
/// the rights of whoever looks, so only where the rank is this user's own.
fn find_py_spy(proc: ProcId) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(PY_SPY).filter(|named| !named.is_empty()) {
        return Some(named.into()).filter(|path: &PathBuf| is_program(path));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path =
        std::env::split_paths(&path).map(|folder| folder.join("py-spy")).find(|path| is_program(path));
    let own = proc::uid(Path::new(ROOT), proc.pid) == Some(rustix::process::geteuid().as_raw());
    in_path.or_else(|| own.then(|| beside_python(proc.pid)).flatten())
}

fn beside_python(pid: i32) -> Option<PathBuf> {
    let interpreter = PathBuf::from(proc::read_cmdline(Path::new(ROOT), pid).into_iter().next()?);
    let beside = interpreter.parent()?.join("py-spy");
    (interpreter.is_absolute() && is_program(&beside)).then_some(beside)
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Without a pause first: that also works on a stopped process, and never holds a rank up. A rank that runs can change
/// under it; then it is stopped for the milliseconds that it takes.
fn py_spy(program: &Path, pid: i32) -> Result<Vec<Thread>, String> {
    let first = run_py_spy(program, pid, &["--nonblocking"]);
    match first {
        Err(ref why) if !is_final(why) => run_py_spy(program, pid, &[]).or(first),
        other => other,
    }
}

/// Whether another try would say the same.
fn is_final(why: &str) -> bool {
    why.contains("ptrace") || why.contains("no answer")
}

fn run_py_spy(program: &Path, pid: i32, flags: &[&str]) -> Result<Vec<Thread>, String> {
    let mut arguments: Vec<OsString> = ["dump", "--json", "--pid"].map(OsString::from).into();
    arguments.push(pid.to_string().into());
    arguments.extend(flags.iter().map(OsString::from));
    let started = Command::new(program)
        .args(&arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = started.map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let (out, err) = finish(child, PY_SPY_WITHIN).ok_or("no answer, and was ended")?;
    stack::of_py_spy(&out, pid).ok_or_else(|| refusal(&String::from_utf8_lossy(&err)))
}

/// What a child writes until it ends; `None` when it had to be ended. Its exit code does not matter: whoever reaps the
/// children of this process may have taken it.
fn finish(mut child: Child, within: Duration) -> Option<(Vec<u8>, Vec<u8>)> {
    let process = proc::identify(Path::new(ROOT), child.id() as i32);
    let until = Instant::now() + within;
    let (sender, receiver) = mpsc::channel();
    let (out, err) = (child.stdout.take(), child.stderr.take());
    thread::spawn(move || {
        // Much on standard error would fill its pipe while standard output is read, but py-spy writes either.
        let read = |stream: Option<&mut dyn Read>| {
            let mut bytes = Vec::new();
            let _ = stream.map(|stream| stream.take(MAX_OUTPUT).read_to_end(&mut bytes));
            bytes
        };
        let (mut out, mut err) = (out, err);
        let out = read(out.as_mut().map(|out| out as &mut dyn Read));
        let err = read(err.as_mut().map(|err| err as &mut dyn Read));
        let _ = sender.send((out, err));
    });
    let said = receiver.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
    if said.is_none()
        && let Some(process) = process
    {
        // By descriptor: it may have been reaped, and its number be another's.
        let _ = super::signal::signal(process, 9);
    }
    let _ = child.wait();
    said
}

/// Why py-spy could not, and what to do.
fn refusal(said: &str) -> String {
    let lower = said.to_ascii_lowercase();
    if lower.contains("permission denied") || lower.contains("operation not permitted") {
        let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
        return match scope.trim() {
            "" | "0" => {
                "ptrace is not permitted: run elastictop as the rank's user, in a container with SYS_PTRACE"
                    .into()
            }
            scope => format!(
                "ptrace is not permitted: kernel.yama.ptrace_scope is {scope}; sudo sysctl kernel.yama.ptrace_scope=0 permits it"
            ),
        };
    }
    let words = said.lines().take_while(|line| !line.starts_with("Stack backtrace")).map(str::trim);
    let line = words.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
    if line.is_empty() { "it said nothing".into() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("py-spy");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn py_spy_is_tried_without_a_pause_then_with_one() {
        let dir = tempfile::tempdir().unwrap();
        let spy = program(
            dir.path(),
            r#"case "$*" in *--nonblocking) echo "Error: it moved" >&2; exit 1;; esac
               echo '[{"os_thread_id": 5, "frames": [{"name": "f", "filename": "a.py", "line": 1}]}]'"#,
        );
        let threads = py_spy(&spy, 5).unwrap();
        assert_eq!((threads[0].is_main, threads[0].frames[0].name.as_str()), (true, "f"));
    }

    #[test]
    fn what_py_spy_cannot_do_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let spy = program(dir.path(), "echo 'Error: x y' >&2; echo >&2; echo 'Stack backtrace:' >&2; exit 1");
        assert_eq!(py_spy(&spy, 5).unwrap_err(), "Error: x y");
        let spy = program(dir.path(), "echo 'Permission Denied: Try again as root' >&2; exit 1");
        assert!(py_spy(&spy, 5).unwrap_err().starts_with("ptrace is not permitted: "));
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let child = Command::new("sleep").arg("1000").stdout(Stdio::piped()).spawn().unwrap();
        let process = proc::identify(Path::new(ROOT), child.id() as i32).unwrap();
        assert_eq!(finish(child, Duration::from_millis(20)), None);
        assert_eq!(proc::identify(Path::new(ROOT), process.pid), None);
    }

    #[test]
    fn a_rank_that_is_gone_or_foreign_says_so() {
        let gone = Wanted { rank: 3, proc: ProcId { pid: std::process::id() as i32, start: 1 }, beat: None };
        let why = take(&[gone], Some(Source::Server)).remove(0).read.unwrap_err();
        assert_eq!(why, "server: the process is gone");
        let proc = proc::identify(Path::new(ROOT), std::process::id() as i32).unwrap();
        let why =
            take(&[Wanted { rank: 3, proc, beat: None }], Some(Source::Thread)).remove(0).read.unwrap_err();
        assert_eq!(why, "thread: the rank was not started by elastictop");
        let why = take(&[Wanted { rank: 3, proc, beat: None }], None).remove(0).read.unwrap_err();
        assert!(
            why.starts_with("it runs elastictop-") && why.ends_with(", which is no Python program"),
            "{why}"
        );
    }
}
