//! GPUs: one thread asks the driver, everybody else takes its newest answer.
//!
//! A driver can take seconds to start, and hang for ever. So NVML is only called on threads of its own, no lock is
//! held over a call, and whoever wants figures takes a value out of a slot, with its age. Where the driver's library
//! cannot be loaded, `nvidia-smi` is asked; where that is missing too, the slot says why.

mod count;
mod holders;
mod nvml;
mod raw;
mod smi;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use tokio::sync::watch;

pub use self::count::{count, visible};
use crate::domain::gpu::{Reading, Status, XidSeen};

/// Between two rounds of questions.
const ROUND: Duration = Duration::from_secs(1);
/// How long [`GpuProbe::start`] waits to hear whether there is a driver's library at all. Loading it asks nothing
/// of the driver.
const FIRST_WORD: Duration = Duration::from_millis(50);
/// Most errors of the driver kept until somebody takes them.
const MAX_XIDS: usize = 256;

/// Asks the driver in the background, for as long as it lives.
#[derive(Debug)]
pub struct GpuProbe {
    slot: watch::Receiver<Arc<Reading>>,
    shared: Arc<Shared>,
    asker: Option<Thread>,
}

/// What the threads have in common. Locks are held for an assignment.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    traffic_until: Mutex<Option<Instant>>,
    xids: Mutex<VecDeque<XidSeen>>,
}

/// Where a thread puts its answers.
struct Teller {
    slot: watch::Sender<Arc<Reading>>,
    first: Option<mpsc::SyncSender<()>>,
    shared: Arc<Shared>,
}

impl GpuProbe {
    /// Begins to ask. Returns within 50 ms, whatever the driver does; on a machine without one the slot says
    /// so by then.
    pub fn start() -> GpuProbe {
        let (sender, slot) = watch::channel(Arc::default());
        let (first, heard) = mpsc::sync_channel(1);
        let shared = Arc::new(Shared::default());
        let mut teller = Teller { slot: sender.clone(), first: Some(first), shared: Arc::clone(&shared) };
        let spawned = thread::Builder::new().name("gpu".into()).spawn(move || ask(&mut teller));
        let asker = match spawned {
            Ok(thread) => Some(thread.thread().clone()),
            Err(error) => {
                let why = format!("cannot start a thread to ask the driver: {error}");
                sender.send_replace(Arc::new(Reading { status: Status::Absent(why), ..Reading::default() }));
                None
            }
        };
        drop(sender);
        // Too late is no harm: the word is in the slot later.
        let _ = heard.recv_timeout(FIRST_WORD);
        GpuProbe { slot, shared, asker }
    }

    /// The newest answer. Never waits. One that stays the same for much longer than a second means that the driver does
    /// not answer.
    pub fn latest(&self) -> Arc<Reading> {
        Arc::clone(&self.slot.borrow())
    }

    /// Waits until there is another answer than when this was called last; for ever when there will be none.
    pub async fn changed(&mut self) {
        if self.slot.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Errors that the driver told of since the last call, oldest first.
    pub fn take_xids(&self) -> Vec<XidSeen> {
        held(&self.shared.xids).drain(..).collect()
    }

    /// Counts bytes over PCIe and NVLink too, for this long from now on.
    pub fn count_traffic(&self, span: Duration) {
        *held(&self.shared.traffic_until) = Some(Instant::now() + span);
    }
}

impl Drop for GpuProbe {
    fn drop(&mut self) {
        // A thread that hangs in the driver never hears of it, and ends with the process.
        self.shared.stop.store(true, Ordering::Relaxed);
        self.asker.iter().for_each(Thread::unpark);
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn counts_traffic(&self) -> bool {
        held(&self.traffic_until).is_some_and(|until| Instant::now() < until)
    }

    fn tell_xid(&self, seen: XidSeen) {
        let mut xids = held(&self.xids);
        // The first errors explain the later ones.
        if xids.len() < MAX_XIDS {
            xids.push_back(seen);
        }
    }

    /// Sleeps until then, or until nobody wants answers any more. Returns whether to go on.
    fn sleep_until(&self, then: Instant) -> bool {
        while !self.is_over() {
            let left = then.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::park_timeout(left);
        }
        false
    }
}

/// What a panic left behind in an assignment of a value is that value.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Teller {
    fn tell(&mut self, reading: Reading) {
        self.slot.send_replace(Arc::new(reading));
        if let Some(first) = self.first.take() {
            // Nobody listens after the first moments.
            let _ = first.try_send(());
        }
    }

    fn absent(&mut self, why: String) {
        self.tell(Reading { status: Status::Absent(why), ..Reading::default() });
    }
}

/// The thread's work.
fn ask(teller: &mut Teller) {
    match raw::load() {
        Ok(_library) => {
            teller.tell(Reading { status: Status::Starting, ..Reading::default() });
            nvml::ask(teller);
        }
        Err(why) => smi::ask(teller, &why),
    }
}
