//! Processes as `/proc` shows them.
//!
//! Every function takes the root of the tree, `/proc` by default ([`ROOT`]), so that tests can build one.
//! Files there are rewritten while they are read, and names and arguments hold any bytes: nothing here panics
//! or guesses on a line that it does not understand, it says that nothing is known.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::cpu_clock::CpuClock;
use crate::domain::{
    exit::Exit,
    id::{Boot, ProcId},
    sample::{Kernel, Place},
    time::Stamp,
    tree::{EnvFacts, ProcFacts},
};

/// Where the kernel shows processes.
pub const ROOT: &str = "/proc";

/// The longest command line that is read, in bytes; what follows is left out.
const MAX_CMDLINE: usize = 256 << 10;

/// The longest environment that is read, in bytes: more than the kernel lets a program start with.
const MAX_ENVIRON: usize = 8 << 20;

/// Room for most command lines and environments.
const FIRST_READ: usize = 16 << 10;

/// The flag of kernel threads in field 9 of `stat`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What is used of one line of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat<'line> {
    /// The process.
    pub proc: ProcId,
    /// Name of the main thread, any bytes: field 2.
    pub comm: &'line [u8],
    /// What the kernel says it does: field 3.
    pub kernel: Kernel,
    /// Parent: field 4.
    pub ppid: i32,
    /// Process group: field 5.
    pub pgid: i32,
    /// Session: field 6.
    pub sid: i32,
    /// Whether it is a thread of the kernel's own, by field 9.
    pub is_kernel_thread: bool,
    /// CPU time of all threads, user and system, in clock ticks: fields 14 and 15.
    pub cpu_ticks: u64,
    /// Threads, 0 for a zombie: field 20.
    pub threads: u32,
    /// Resident pages, 0 for a zombie: field 24.
    pub resident: u64,
    /// Wait status: field 52. 0 while it runs, and also when it may not be seen; `None` on old kernels.
    pub wait_status: Option<i32>,
}

impl Stat<'_> {
    /// Reads a line. `None` when it is none, or was cut off before the start time.
    ///
    /// The `procfs` crate has a parser too, but it panics on a line that is cut off, and makes a string and
    /// some fifty numbers where a dozen are wanted ten times a second.
    pub fn parse(line: &[u8]) -> Option<Stat<'_>> {
        let open = line.iter().position(|&byte| byte == b'(')?;
        // The name may hold `) b (`: only the last one ends it.
        let close = line.iter().rposition(|&byte| byte == b')').filter(|&close| close > open)?;
        let pid = str::from_utf8(&line[..open]).ok()?.trim().parse().ok()?;
        let rest = str::from_utf8(line.get(close + 1..)?).ok()?;
        // The first field here is field 3 of the manual.
        let mut fields = rest.split_ascii_whitespace();
        let kernel = Kernel::from_letter(fields.next()?.chars().next()?);
        let (ppid, pgid, sid) =
            (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let flags: u64 = fields.nth(2)?.parse().ok()?;
        let (user, system): (u64, u64) = (fields.nth(4)?.parse().ok()?, fields.next()?.parse().ok()?);
        let threads = fields.nth(4)?.parse().ok()?;
        let start = fields.nth(1)?.parse().ok()?;
        let resident = fields.nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
        Some(Stat {
            proc: ProcId { pid, start },
            comm: &line[open + 1..close],
            kernel,
            ppid,
            pgid,
            sid,
            is_kernel_thread: flags & KERNEL_THREAD != 0,
            cpu_ticks: user.saturating_add(system),
            threads,
            resident,
            wait_status: fields.nth(27).and_then(|field| field.parse().ok()),
        })
    }

    /// The name as text, bad bytes replaced.
    pub fn comm_text(&self) -> String {
        String::from_utf8_lossy(self.comm).into_owned()
    }
}

/// CPU time in a line of `stat`, of a process or of one of its threads, in nanoseconds.
pub(super) fn cpu_ns(line: &[u8]) -> Option<u64> {
    Stat::parse(line).map(|stat| ticks_to_ns(stat.cpu_ticks))
}

/// Longest `stat` line: 52 numbers of at most 20 digits and a name.
const STAT_BYTES: usize = 1536;

fn ticks_to_ns(ticks: u64) -> u64 {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    ticks.saturating_mul(1_000_000_000 / per_second)
}

/// One look at one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// What the kernel says it does, from `stat`.
    pub kernel: Kernel,
    /// CPU time of all threads since the start, in nanoseconds; from the CPU clock, or in steps of a clock tick from
    /// `stat`.
    pub cpu_ns: Option<u64>,
    /// Resident memory in bytes, from `stat`; `None` for a zombie, which has no memory.
    pub rss_bytes: Option<u64>,
    /// Threads, from `stat`; `None` for a zombie.
    pub threads: Option<u32>,
    /// Parent now, from `stat`: it changes when the parent dies.
    pub ppid: i32,
}

/// A process that is looked at again and again. Its file stays open: that saves most of a look's cost, and
/// what is open can never show a later process with the same pid.
#[derive(Debug)]
pub struct Watch {
    proc: ProcId,
    stat: File,
    /// Where its CPU time is read for little; `None` where that shows something else than `stat` does.
    clock: Option<CpuClock>,
    last: Option<Look>,
    /// Counted from a number of its own, so that the whole looks at many processes do not come together.
    looks: u32,
    /// Whether it used CPU time between the last two looks.
    ran: bool,
}

/// How far CPU clock and `stat` may be apart, in nanoseconds: ticks are rounded, and threads go on in between.
const APART: u64 = 100_000_000;

impl Watch {
    /// Opens `stat` of a process.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it is gone, or its pid belongs to another by now.
    pub fn open(proc_root: &Path, proc: ProcId) -> io::Result<Watch> {
        let mut watch = Watch {
            proc,
            stat: File::open(process_dir(proc_root, proc.pid).join("stat"))?,
            // The clock is of this machine's process, whatever tree the files are in.
            clock: (proc_root == Path::new(ROOT)).then(|| CpuClock::of(proc.pid)),
            last: None,
            looks: proc.pid.unsigned_abs(),
            ran: false,
        };
        watch.sample()?;
        Ok(watch)
    }

    /// The process.
    pub fn proc(&self) -> ProcId {
        self.proc
    }

    /// What the last look showed.
    pub fn last(&self) -> Option<Look> {
        self.last
    }

    /// Looks at all of it: two system calls.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it is gone; [`is_gone`] tells.
    pub fn sample(&mut self) -> io::Result<Look> {
        let mut buffer = [0; STAT_BYTES];
        let length = self.stat.read_at(&mut buffer, 0).map_err(gone_if_esrch)?;
        let stat = Stat::parse(&buffer[..length]).filter(|stat| stat.proc == self.proc).ok_or_else(gone)?;
        let is_dead = stat.kernel == Kernel::Dead;
        let by_stat = ticks_to_ns(stat.cpu_ticks);
        let by_clock = self.clock.filter(|_| !is_dead).and_then(CpuClock::read);
        // Another process has this pid here: the tree is one of another pid namespace.
        if by_clock.is_some_and(|time| time.abs_diff(by_stat) > APART) {
            self.clock = None;
        }
        let by_clock = by_clock.filter(|_| self.clock.is_some());
        // One that is on its way out has no memory any more: what it had last says more.
        let memory =
            (stat.resident > 0).then(|| stat.resident.saturating_mul(rustix::param::page_size() as u64));
        let look = Look {
            kernel: stat.kernel,
            cpu_ns: by_clock.or(Some(by_stat)),
            rss_bytes: if is_dead { None } else { memory.or(self.last.and_then(|last| last.rss_bytes)) },
            threads: (!is_dead && stat.threads > 0).then_some(stat.threads),
            ppid: stat.ppid,
        };
        Ok(self.keep(look))
    }

    /// Looks at CPU time alone, for a tenth of the cost, where the process's death is told by other means: its clock
    /// goes by the process id. The rest is that of the last whole look, which is at most `every` looks ago. A
    /// whole look it is at once for a process that stopped using the CPU, or that was last seen stopped or blocked.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it is gone; [`is_gone`] tells.
    pub fn glance(&mut self, every: u32) -> io::Result<Look> {
        self.looks = self.looks.wrapping_add(1);
        let is_turn = self.looks.is_multiple_of(every);
        let last = self.last.filter(|last| last.kernel == Kernel::Alive && !is_turn);
        let Some((last, cpu_ns)) = last.zip(self.clock.and_then(CpuClock::read)) else {
            return self.sample();
        };
        // A clock that went back is another's.
        if self.halted(cpu_ns) || last.cpu_ns > Some(cpu_ns) {
            return self.sample();
        }
        Ok(self.keep(Look { cpu_ns: Some(cpu_ns), ..last }))
    }

    fn halted(&self, cpu_ns: u64) -> bool {
        self.ran && self.last.is_some_and(|last| last.cpu_ns == Some(cpu_ns))
    }

    fn keep(&mut self, look: Look) -> Look {
        self.ran = self.last.is_some_and(|last| last.cpu_ns != look.cpu_ns);
        self.last = Some(look);
        look
    }
}

/// Whether an error says that the process does not exist any more.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the process is gone")
}

fn gone_if_esrch(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) { gone() } else { error }
}

/// The folder of a process.
pub(super) fn process_dir(proc_root: &Path, pid: i32) -> PathBuf {
    proc_root.join(pid.to_string())
}

/// Reads a file in as few calls as it takes, and stops at the first that gives less than asked: an exec between
/// two calls would put the pieces of two programs together.
fn read_up_to(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::with_capacity(most.min(FIRST_READ));
    loop {
        let (at, room) = (bytes.len() as u64, bytes.capacity() - bytes.len());
        let read = rustix::io::pread(&file, rustix::buffer::spare_capacity(&mut bytes), at);
        if read.map_err(|error| gone_if_esrch(error.into()))? < room || bytes.len() >= most {
            bytes.truncate(most);
            return Ok(bytes);
        }
        bytes.reserve_exact(most.min(bytes.len() * 4) - bytes.len());
    }
}

/// Reads `stat` of `pid` and hands it to `take`. `None` when there is no such process.
pub(super) fn with_stat<T>(proc_root: &Path, pid: i32, take: impl FnOnce(&Stat<'_>) -> T) -> Option<T> {
    read_stat(&File::open(process_dir(proc_root, pid).join("stat")).ok()?, pid, take)
}

fn read_stat<T>(file: &File, pid: i32, take: impl FnOnce(&Stat<'_>) -> T) -> Option<T> {
    let mut buffer = [0; STAT_BYTES];
    let length = file.read_at(&mut buffer, 0).ok()?;
    Stat::parse(&buffer[..length]).filter(|stat| stat.proc.pid == pid).map(|stat| take(&stat))
}

/// The process that has this pid now. `None` when there is none.
pub fn identify(proc_root: &Path, pid: i32) -> Option<ProcId> {
    with_stat(proc_root, pid, |stat| stat.proc)
}

/// Whether a process is there and no zombie.
pub fn lives(proc_root: &Path, proc: ProcId) -> bool {
    let is_it = |stat: &Stat| stat.proc == proc && stat.kernel != Kernel::Dead;
    with_stat(proc_root, proc.pid, is_it).unwrap_or(false)
}

/// Whether a process is there and was stopped by a signal: it does nothing until it gets SIGCONT.
pub fn is_stopped(proc_root: &Path, proc: ProcId) -> bool {
    let is_it = |stat: &Stat| stat.proc == proc && stat.kernel == Kernel::Stopped;
    with_stat(proc_root, proc.pid, is_it).unwrap_or(false)
}

/// The children of a process that are alive or zombies, in no order.
///
/// From `task/*/children`; on kernels without that file from the parents of all processes. Empty when the
/// process is gone.
pub fn children(proc_root: &Path, pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(process_dir(proc_root, pid).join("task")) else { return Vec::new() };
    let mut found = Vec::new();
    let mut buffer = Vec::with_capacity(CHILDREN_BYTES);
    for task in tasks.flatten() {
        buffer.clear();
        match File::open(task.path().join("children")).and_then(|file| read_whole(&file, &mut buffer)) {
            Ok(()) => found.extend(
                buffer
                    .split(u8::is_ascii_whitespace)
                    .filter_map(|word| str::from_utf8(word).ok()?.parse::<i32>().ok()),
            ),
            // The thread can be gone by now; the whole process too, which shows below.
            Err(_) if !task.path().exists() => {}
            Err(_) => return children_by_parent(proc_root, pid),
        }
    }
    found
}

/// Room for the numbers of a thousand children: a file of `/proc` that fits is read with two calls.
const CHILDREN_BYTES: usize = 8192;

/// Reads without asking for the length first, which files of `/proc` do not have.
fn read_whole(file: &File, buffer: &mut Vec<u8>) -> io::Result<()> {
    loop {
        if buffer.len() == buffer.capacity() {
            buffer.reserve(CHILDREN_BYTES);
        }
        if rustix::io::read(file, rustix::buffer::spare_capacity(buffer))? == 0 {
            return Ok(());
        }
    }
}

fn children_by_parent(proc_root: &Path, parent: i32) -> Vec<i32> {
    pids(proc_root)
        .into_iter()
        .filter(|&pid| with_stat(proc_root, pid, |stat| stat.ppid) == Some(parent))
        .collect()
}

/// All processes there are. Empty when the folder cannot be read.
pub fn pids(proc_root: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(proc_root) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// All that bears on a process's part in a job, read once. `None` when there is no such process.
///
/// Costs about 20 µs. A process in the middle of an exec is read in an order that can show new things beside
/// old ones only so that [`crate::domain::tree::role`] says [`crate::domain::tree::Role::Undecided`].
pub fn read_facts(proc_root: &Path, pid: i32) -> Option<ProcFacts> {
    // Opened first: what it shows at the end is the process that it showed at the beginning, or nothing.
    let stat = File::open(process_dir(proc_root, pid).join("stat")).ok()?;
    // A child calls setsid, then exec; exec sets the arguments, then the environment. Read in this order, a new
    // command line comes with a new environment or none, and with the new session.
    let cmdline = read_cmdline(proc_root, pid);
    let env = read_env(proc_root, pid);
    read_stat(&stat, pid, |stat| facts_of(stat, cmdline, env))
}

/// The facts of a process whose `stat` is known.
pub(super) fn facts_of(stat: &Stat<'_>, cmdline: Vec<String>, env: Option<EnvFacts>) -> ProcFacts {
    ProcFacts {
        proc: stat.proc,
        ppid: stat.ppid,
        pgid: stat.pgid,
        sid: stat.sid,
        comm: stat.comm_text(),
        cmdline,
        kernel: stat.kernel,
        env,
    }
}

/// The command line, bad bytes replaced. Empty for zombies and kernel threads, and when it cannot be read.
pub fn read_cmdline(proc_root: &Path, pid: i32) -> Vec<String> {
    let bytes = read_up_to(&process_dir(proc_root, pid).join("cmdline"), MAX_CMDLINE).unwrap_or_default();
    let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if words.is_empty() {
        return Vec::new();
    }
    words.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// What the environment says. `None` when it may not be read.
pub fn read_env(proc_root: &Path, pid: i32) -> Option<EnvFacts> {
    read_up_to(&process_dir(proc_root, pid).join("environ"), MAX_ENVIRON).ok().map(|bytes| parse_env(&bytes))
}

/// The whole environment at the last exec, bad bytes replaced. `None` when it may not be read.
pub fn whole_env(proc_root: &Path, pid: i32) -> Option<Vec<(String, String)>> {
    let bytes = read_up_to(&process_dir(proc_root, pid).join("environ"), MAX_ENVIRON).ok()?;
    let entries = bytes.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    Some(
        entries
            .filter_map(|entry| entry.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
            .collect(),
    )
}

/// Picks what torchrun sets out of an environment, `NAME=value` ended by zero bytes each.
pub fn parse_env(bytes: &[u8]) -> EnvFacts {
    let mut env = EnvFacts { bytes: bytes.len(), ..EnvFacts::default() };
    for entry in bytes.split(|&byte| byte == 0) {
        let Some(equals) = entry.iter().position(|&byte| byte == b'=') else { continue };
        let value = &entry[equals + 1..];
        let number = || str::from_utf8(value).ok()?.trim().parse().ok();
        let text = || String::from_utf8_lossy(value).into_owned();
        let place: &mut Place = &mut env.place;
        match &entry[..equals] {
            b"RANK" => place.rank = number(),
            b"LOCAL_RANK" => {
                place.local_rank = number();
                env.has_local_rank = true;
            }
            b"GROUP_RANK" => place.group_rank = number(),
            b"WORLD_SIZE" => place.world_size = number(),
            b"LOCAL_WORLD_SIZE" => place.local_world_size = number(),
            b"TORCHELASTIC_RESTART_COUNT" => place.restart_count = number(),
            b"TORCHELASTIC_MAX_RESTARTS" => place.max_restarts = number(),
            b"TORCHELASTIC_RUN_ID" => place.run_id = Some(text()),
            b"TORCHELASTIC_USE_AGENT_STORE" => {
                env.use_agent_store = match value {
                    b"True" | b"true" | b"1" => Some(true),
                    b"False" | b"false" | b"0" => Some(false),
                    _ => None,
                }
            }
            b"TORCHELASTIC_ERROR_FILE" => env.error_file = Some(text()),
            b"CUDA_VISIBLE_DEVICES" => env.cuda_visible_devices = Some(text()),
            _ => {}
        }
    }
    env
}

/// How a zombie ended, from field 52 of its `stat`.
///
/// `None` when it is no zombie, is gone, or belongs to another user: to those the kernel shows 0, which would
/// read as success.
pub fn exit_of_zombie(proc_root: &Path, proc: ProcId) -> Option<Exit> {
    let owner = fs::metadata(process_dir(proc_root, proc.pid)).ok()?.uid();
    let me = rustix::process::geteuid();
    if !me.is_root() && me.as_raw() != owner {
        return None;
    }
    with_stat(proc_root, proc.pid, |stat| {
        (stat.proc == proc && stat.kernel == Kernel::Dead)
            .then_some(stat.wait_status)
            .flatten()
            .map(Exit::from_wait_status)
    })?
}

/// What the main thread of a process waits for in the kernel: `futex_do_wait`, `anon_pipe_read`.
///
/// `None` while it runs, when it is gone, and when it may not be seen.
pub fn wchan(proc_root: &Path, pid: i32) -> Option<String> {
    let bytes = read_up_to(&process_dir(proc_root, pid).join("wchan"), 128).ok()?;
    let name = String::from_utf8_lossy(&bytes).trim().to_owned();
    (!name.is_empty() && name != "0").then_some(name)
}

/// When the machine was booted. Good to about a second.
pub fn boot() -> Option<Boot> {
    let at = Stamp(procfs::boot_time_secs().ok()?.checked_mul(1000)?);
    Some(Boot { at, ticks_per_second: procfs::ticks_per_second() })
}

/// The working directory of a process. `None` when it may not be seen.
pub fn cwd(proc_root: &Path, pid: i32) -> Option<PathBuf> {
    fs::read_link(process_dir(proc_root, pid).join("cwd")).ok()
}

/// The user id that a process runs as: the owner of its folder. `None` when it is gone.
pub fn uid(proc_root: &Path, pid: i32) -> Option<u32> {
    fs::metadata(process_dir(proc_root, pid)).ok().map(|meta| meta.uid())
}

/// The files that a process writes its standard output and standard error to; `None` for each that is a pipe,
/// a terminal or a device, or that may not be seen.
///
/// A file that was deleted meanwhile keeps its former path.
pub fn log_paths(proc_root: &Path, pid: i32) -> (Option<PathBuf>, Option<PathBuf>) {
    let dir = process_dir(proc_root, pid).join("fd");
    let file_behind = |name: &str| {
        let link = dir.join(name);
        // Follows the descriptor itself, so a deleted file counts too.
        let is_file = fs::metadata(&link).is_ok_and(|meta| meta.is_file());
        let target = fs::read_link(&link).ok().filter(|_| is_file)?;
        let text = target.to_str().and_then(|text| text.strip_suffix(" (deleted)"));
        Some(text.map_or_else(|| target.clone(), PathBuf::from))
    };
    (file_behind("1"), file_behind("2"))
}

/// Where a rank writes its `error.json`: `TORCHELASTIC_ERROR_FILE`, which starts at the agent's working
/// directory when it is relative. `None` when the rank has none.
pub fn error_file(env: &EnvFacts, agent_cwd: &Path) -> Option<PathBuf> {
    env.error_file.as_ref().filter(|path| !path.is_empty()).map(|path| agent_cwd.join(path))
}

#[cfg(test)]
#[path = "proc_tests.rs"]
mod tests;
