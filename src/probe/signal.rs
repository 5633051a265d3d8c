//! Process descriptors: waiting for an end, and signals that cannot reach the wrong process.
//!
//! A pid alone may belong to somebody else by the time it is used. A descriptor may not: it is opened first,
//! then the start time is compared, and whoever has both has the process that was meant.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::ioctl::{Updater, ioctl, opcode};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::io::{Interest, unix::AsyncFd};

use crate::domain::{exit::Exit, id::ProcId, sample::Kernel};

use super::proc::{self, ROOT};

/// Opens a descriptor of exactly this process; it may be a zombie.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] when it is gone, or its pid belongs to another by now.
pub fn open_pidfd(proc: ProcId) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(proc.pid).filter(|_| proc.pid > 0).ok_or_else(gone)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(gone_if_esrch)?;
    // The process existed before the call, so what was opened is it or a later one with its pid; that the start
    // time still fits rules the later one out.
    if proc::identify(Path::new(ROOT), proc.pid) == Some(proc) { Ok(pidfd) } else { Err(gone()) }
}

/// Waits until the process has ended. Does not reap it: it can still be a zombie.
///
/// # Errors
/// When the descriptor cannot be watched, which only a lack of resources explains.
pub async fn exited(pidfd: &OwnedFd) -> io::Result<()> {
    #[expect(
        deprecated,
        reason = "the function that replaces it is unsafe; an OwnedFd keeps what that one asks for"
    )]
    let pidfd = AsyncFd::with_interest(pidfd.as_fd(), Interest::READABLE)?;
    pidfd.readable().await.map(drop)
}

/// How a process ended that is nobody's zombie any more, as its descriptor remembers it.
///
/// `None` while it is not reaped, and on kernels before 6.15, which forget.
pub fn exit_of_reaped(pidfd: &OwnedFd) -> Option<Exit> {
    /// `struct pidfd_info` of the kernel's first version: 64 bytes, the wait status in the last four.
    type Info = [u32; 16];
    const GET_INFO: u32 = opcode::read_write::<Info>(0xff, 11);
    const EXIT: u32 = 1 << 3;
    let mut info: Info = [0; 16];
    info[0] = EXIT;
    #[expect(unsafe_code, reason = "the kernel writes at most the 64 bytes that the opcode tells it of")]
    let told = unsafe { ioctl(pidfd, Updater::<GET_INFO, Info>::new(&mut info)) };
    (told.is_ok() && info[0] & EXIT != 0).then(|| Exit::from_wait_status(info[15] as i32))
}

/// Sends a signal to exactly this process.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] when it is gone, [`io::ErrorKind::PermissionDenied`] when it is another user's,
/// [`io::ErrorKind::InvalidInput`] for what is no signal of Linux, or a real-time one.
pub fn signal(proc: ProcId, signal: i32) -> io::Result<()> {
    let signal = named(signal)?;
    pidfd_send_signal(open_pidfd(proc)?, signal).map_err(gone_if_esrch)
}

/// Sends a signal to the process group that `leader` leads: a rank and what it started.
///
/// When the leader is gone already, those of its session that are left get it, each by its own descriptor.
///
/// # Errors
/// As [`signal`]; [`io::ErrorKind::NotFound`] only when nobody is left. [`io::ErrorKind::InvalidInput`] also when
/// the process leads no group: the signal would reach others.
pub fn signal_group(leader: ProcId, signal: i32) -> io::Result<()> {
    let signal = named(signal)?;
    let root = Path::new(ROOT);
    match open_pidfd(leader) {
        // While the leader is not reaped, its pid and so its group's number belong to nobody else.
        Ok(_held) => {
            if proc::with_stat(root, leader.pid, |stat| stat.pgid) != Some(leader.pid) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the process leads no group"));
            }
            let group = Pid::from_raw(leader.pid).filter(|_| leader.pid > 1).ok_or_else(gone)?;
            kill_process_group(group, signal).map_err(gone_if_esrch)
        }
        Err(error) if proc::is_gone(&error) => signal_left_behind(leader, signal),
        Err(error) => Err(error),
    }
}

/// Who is left in the sessions that these processes led, they themselves included. One walk through the process
/// table, whatever their number; zombies do not count.
pub fn left_in_sessions(leaders: &[ProcId]) -> Vec<ProcId> {
    let root = Path::new(ROOT);
    let member = |pid| {
        proc::with_stat(root, pid, |stat| {
            // A later process can lead a session of the same number only when nobody is left in the old one.
            let leader = leaders.iter().find(|leader| leader.pid == stat.sid)?;
            let taken_over = stat.proc.pid == leader.pid && stat.proc != *leader;
            (stat.proc.start >= leader.start && !taken_over && stat.kernel != Kernel::Dead)
                .then_some(stat.proc)
        })?
    };
    if leaders.is_empty() { Vec::new() } else { proc::pids(root).into_iter().filter_map(member).collect() }
}

/// Signals what a leader that is gone left behind in its session.
fn signal_left_behind(leader: ProcId, signal: Signal) -> io::Result<()> {
    let root = Path::new(ROOT);
    // The number of a session is not given to a new process while anybody is in it: somebody with the leader's
    // pid is a later process, and nobody of the old session is left.
    if proc::identify(root, leader.pid).is_some() {
        return Err(gone());
    }
    let members = proc::pids(root).into_iter().filter_map(|pid| {
        proc::with_stat(root, pid, |stat| {
            let is_left = stat.sid == leader.pid && stat.kernel != Kernel::Dead;
            (is_left && stat.proc.start >= leader.start).then_some(stat.proc)
        })?
    });
    let mut outcome = Err(gone());
    for member in members {
        let sent =
            open_pidfd(member).and_then(|pidfd| pidfd_send_signal(pidfd, signal).map_err(gone_if_esrch));
        match sent {
            Ok(()) => outcome = Ok(()),
            Err(error) if outcome.is_err() && !proc::is_gone(&error) => outcome = Err(error),
            Err(_) => {}
        }
    }
    outcome
}

fn named(signal: i32) -> io::Result<Signal> {
    Signal::from_named_raw(signal).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{signal} is no signal that can be sent"))
    })
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the process is gone")
}

fn gone_if_esrch(error: rustix::io::Errno) -> io::Error {
    if error == rustix::io::Errno::SRCH { gone() } else { error.into() }
}

#[cfg(test)]
#[path = "signal_tests.rs"]
mod tests;
