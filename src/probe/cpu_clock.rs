//! The CPU clock of another process: what all its threads used, in nanoseconds, for a tenth of what `stat` costs.

/// The clock of one process. It goes by the process id: who may have been given the id since is not told apart here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuClock(libc::clockid_t);

/// The kind of clock in the lowest bits of its id: time in which threads ran.
const SCHED: libc::clockid_t = 2;

impl CpuClock {
    /// The clock of this process.
    pub fn of(pid: i32) -> CpuClock {
        // How the kernel, and so `clock_getcpuclockid`, makes the id of a process's clock.
        CpuClock((!pid << 3) | SCHED)
    }

    /// Nanoseconds since the process started. `None` when it is gone, or the kernel has no such clock.
    pub fn read(self) -> Option<u64> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        #[expect(unsafe_code, reason = "the kernel fills the struct, and checks the id")]
        let told = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        let seconds = u64::try_from(time.tv_sec).ok().filter(|_| told == 0)?;
        Some(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_this_process_goes_and_that_of_nobody_does_not() {
        let clock = CpuClock::of(std::process::id() as i32);
        let before = clock.read().unwrap();
        while clock.read().unwrap() == before {}
        // More than the kernel ever gives.
        assert_eq!(CpuClock::of(1 << 23).read(), None);
    }
}
