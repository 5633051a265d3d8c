//! How many files this process may have open: for each rank it keeps a few.

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The limit that this process was started with.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Allows as many as the system lets this process allow itself: 1024 are the usual limit, and too few for 512 ranks.
pub fn allow_many() {
    let before = BEFORE.get_or_init(|| getrlimit(Resource::Nofile));
    // Fewer files are a reason to watch fewer ranks, not to watch none.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
}

/// Gives a child that was just started the limit that this process was started with.
pub fn give_back(child: i32) {
    if let Some((before, child)) = BEFORE.get().zip(Pid::from_raw(child)) {
        // Who ended already needs no limit.
        let _ = prlimit(Some(child), Resource::Nofile, *before);
    }
}
