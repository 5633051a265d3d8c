//! An alarm that wakes the program once: a timer of tokio that is a second away wakes it up to three times.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

/// One alarm, set again and again.
#[derive(Debug)]
pub struct Alarm {
    /// The kernel's timer; `None` where there is none to be had, and tokio's are used.
    timer: Option<AsyncFd<OwnedFd>>,
    /// What the timer is set to.
    set: Option<Instant>,
}

impl Alarm {
    /// An alarm that is not set.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn unset() -> Alarm {
        Alarm { timer: timer().ok(), set: None }
    }

    /// Waits until `at`. May be given up and called again, with the same time or another.
    pub async fn until(&mut self, at: Instant) {
        if self.wait(at).await.is_none() {
            sleep_until(at).await;
        }
    }

    /// `None` when the kernel's timer does not work.
    async fn wait(&mut self, at: Instant) -> Option<()> {
        let timer = self.timer.as_ref()?;
        loop {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(());
            }
            if self.set != Some(at) {
                self.set = None;
                set(timer.get_ref(), left).ok()?;
                self.set = Some(at);
            }
            let mut ready = timer.readable().await.ok()?;
            // It may be ready from a former time: only what can be read has rung.
            if rustix::io::read(timer.get_ref(), &mut [0; 8]).is_ok() {
                self.set = None;
            }
            ready.clear_ready();
        }
    }
}

fn timer() -> io::Result<AsyncFd<OwnedFd>> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    #[expect(
        deprecated,
        reason = "the function that replaces it is unsafe; an OwnedFd keeps what that one asks for"
    )]
    AsyncFd::with_interest(timer, Interest::READABLE)
}

fn set(timer: &OwnedFd, left: Duration) -> io::Result<()> {
    let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: left };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_rings_when_it_is_due_and_can_be_set_anew() {
        let mut alarm = Alarm::unset();
        assert!(alarm.timer.is_some());
        let far = Instant::now() + Duration::from_secs(3600);
        let near = Instant::now() + Duration::from_millis(20);
        tokio::select! {
            biased;
            () = alarm.until(far) => panic!("an hour is not over"),
            () = std::future::ready(()) => {}
        }
        alarm.until(near).await;
        assert!(Instant::now() >= near);
        // What is over rings at once, and what rang does not ring again.
        alarm.until(near).await;
        let next = near + Duration::from_millis(40);
        alarm.until(next).await;
        assert!(Instant::now() >= next);
    }

    #[tokio::test]
    async fn without_a_timer_of_the_kernel_it_rings_too() {
        let mut alarm = Alarm { timer: None, set: None };
        let near = Instant::now() + Duration::from_millis(5);
        alarm.until(near).await;
        assert!(Instant::now() >= near);
    }
}
