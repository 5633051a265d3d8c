//! Which of many processes died, asked with one system call.

use std::{io, os::fd::OwnedFd};

use rustix::{
    event::{Timespec, epoll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::domain::id::PidMap;

/// Process descriptors, watched together.
#[derive(Debug)]
pub struct Deaths {
    all: OwnedFd,
    /// By process id. Closing a descriptor ends its watch.
    held: PidMap<OwnedFd>,
}

impl Deaths {
    /// Watches nobody yet.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Deaths> {
        Ok(Deaths { all: epoll::create(epoll::CreateFlags::CLOEXEC)?, held: PidMap::default() })
    }

    /// Watches the process that has this id now. Whoever looks at its start time after this call knows whom.
    ///
    /// # Errors
    /// It is gone, or no descriptor is left.
    pub fn watch(&mut self, pid: i32) -> io::Result<()> {
        let process = Pid::from_raw(pid).filter(|_| pid > 0).ok_or(io::ErrorKind::NotFound)?;
        let held = pidfd_open(process, PidfdFlags::empty())?;
        epoll::add(
            &self.all,
            &held,
            epoll::EventData::new_u64(u64::from(pid.unsigned_abs())),
            epoll::EventFlags::IN,
        )?;
        self.held.insert(pid, held);
        Ok(())
    }

    /// Whether the death of the process with this id would be told.
    pub fn watches(&self, pid: i32) -> bool {
        self.held.contains_key(&pid)
    }

    /// Watches it no more.
    pub fn forget(&mut self, pid: i32) {
        self.held.remove(&pid);
    }

    /// The ids of those that died since the last call; they are watched no more.
    pub fn take(&mut self) -> Vec<i32> {
        if self.held.is_empty() {
            return Vec::new();
        }
        let mut found = Vec::with_capacity(self.held.len());
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // It does not wait, so nothing can interrupt it.
        let _ = epoll::wait(&self.all, rustix::buffer::spare_capacity(&mut found), Some(&at_once));
        let died: Vec<i32> = found.iter().map(|event| event.data.u64() as i32).collect();
        died.iter().for_each(|pid| self.forget(*pid));
        died
    }
}

impl Deaths {
    /// Rings when somebody dies.
    ///
    /// # Errors
    /// No descriptor is left.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bell(&self) -> io::Result<Bell> {
        #[expect(
            deprecated,
            reason = "the function that replaces it is unsafe; an OwnedFd keeps what that one asks for"
        )]
        AsyncFd::with_interest(self.all.try_clone()?, Interest::READABLE).map(Bell)
    }
}

/// Rings when one of those dies that [`Deaths`] watches. Who it was, [`Deaths::take`] tells.
#[derive(Debug)]
pub struct Bell(AsyncFd<OwnedFd>);

impl Bell {
    /// Waits for the next death.
    pub async fn rings(&mut self) {
        match self.0.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            // Only the runtime's end is an error.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn those_that_died_are_told_once_and_the_others_are_not() {
        let mut deaths = Deaths::new().unwrap();
        let mut children: Vec<_> =
            (0..3).map(|_| Command::new("sleep").arg("1000").spawn().expect("sleep starts")).collect();
        for child in &children {
            deaths.watch(child.id() as i32).unwrap();
        }
        let mut bell = deaths.bell().unwrap();
        assert!(deaths.take().is_empty());
        children[1].kill().unwrap();
        // It need not be collected for that.
        bell.rings().await;
        assert_eq!(deaths.take(), [children[1].id() as i32]);
        assert!(deaths.take().is_empty() && !deaths.watches(children[1].id() as i32));
        assert!(deaths.watches(children[2].id() as i32));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(deaths.watch(children[0].id() as i32).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
