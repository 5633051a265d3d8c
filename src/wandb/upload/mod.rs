//! Sends the `.wandb` files of runs to the server: every record once, in order, whatever breaks in between.
//!
//! The files are the queue. A request is built from them at the run's cursor, and the cursor moves once the server has
//! taken it: a retry, a crash and an outage of hours are the same thing, and cost no memory. Offsets and lines follow
//! from files and cursor alone, so that what is sent twice is the same twice, which the server knows to be one.
//!
//! ```text
//!  .wandb files ─▶ batch: records from the cursor on ─▶ request ─▶ server
//!                    ▲                                    │ taken
//!                    └────────────── cursor file ◀────────┘
//! ```
//!
//! [`Uploads`] is one thread for all runs of a process. Whoever writes the files never waits for it: it says
//! [`Upload::grew`], and reads [`Upload::progress`] when it likes.

mod batch;
mod body;
mod config;
mod console;
mod cursor;
mod finish;
mod row;
mod run;
mod source;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc::RecvTimeoutError},
    thread,
    time::Duration,
};

use tokio::sync::{Notify, Semaphore, mpsc, watch};

pub use cursor::Cursor;
pub use source::rows_in;

use super::{client::Client, tree};
use crate::domain::forward::{RunProgress, retry::Backoff};

/// Large requests of all runs that are made and sent at the same time: what is behind after an outage must not fill the
/// memory of the machine that trains.
const LARGE_AT_ONCE: usize = 2;

/// What to send, and as whom.
#[derive(Clone, Debug)]
pub struct Job {
    /// The run's files, oldest first; more may follow by [`Upload::add_segment`]. Id, project, entity and so on are those
    /// of their records.
    pub segments: Vec<PathBuf>,
    /// Where the cursor is kept: [`Job::cursor_of`] the first file.
    pub cursor: PathBuf,
    /// How the run is shared with other clients; `None` when it is not.
    pub sharing: Option<Sharing>,
    /// How long to wait between tries.
    pub backoff: Backoff,
}

impl Job {
    /// All that files hold, of a run that nobody shares.
    pub fn of(segments: Vec<PathBuf>) -> Job {
        let cursor = segments.first().map(|first| Job::cursor_of(first)).unwrap_or_default();
        Job { segments, cursor, sharing: None, backoff: Backoff::default() }
    }

    /// Where the cursor of a run is kept whose first file this is: beside it.
    pub fn cursor_of(file: &Path) -> PathBuf {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".sent");
        file.with_file_name(name)
    }
}

/// What this client does in a shared run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Whether it sends the config and the files of the run.
    pub primary: bool,
    /// Whether it says that the run is complete: the primary of a run that no parent job completes.
    pub completes: bool,
}

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// For the state of the job. `rows_logged` counts rows that were read, `rows_lost` those that are too long; whoever
    /// writes the file knows better.
    pub run: RunProgress,
    /// Where the run is, once the server has said so: entity and project.
    pub place: Option<(String, String)>,
    /// Whether somebody pressed the stop button on the run's page.
    pub stopped: bool,
    /// Whether nothing more will happen: all is sent and closed, it was refused, or the upload was told to end.
    pub over: bool,
}

/// The thread that sends.
#[derive(Debug)]
pub struct Uploads {
    client: Client,
    begin: mpsc::UnboundedSender<Task>,
    /// Dropped when it is time to end, whatever is left.
    end: watch::Sender<bool>,
    done: std::sync::mpsc::Receiver<()>,
    large: Arc<Semaphore>,
}

#[derive(Debug)]
struct Task {
    job: Job,
    client: Client,
    feed: Arc<Feed>,
    progress: watch::Sender<Progress>,
    end: watch::Receiver<bool>,
    /// Asked before a large request is made.
    large: Arc<Semaphore>,
}

/// What the writer of the files tells.
#[derive(Debug)]
struct Feed {
    told: Mutex<Told>,
    news: Notify,
}

#[derive(Clone, Debug)]
struct Told {
    segments: Vec<PathBuf>,
    /// Length of the newest file that is committed.
    committed: u64,
    closed: bool,
}

impl Feed {
    fn told(&self) -> Told {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.notify_one();
    }
}

/// A run that is being sent. Dropping it lets the upload go on until what is there is sent.
#[derive(Debug)]
pub struct Upload {
    feed: Arc<Feed>,
    progress: watch::Receiver<Progress>,
}

impl Uploads {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread or no event loop.
    pub fn start(client: Client) -> io::Result<Uploads> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (begin, mut tasks) = mpsc::unbounded_channel::<Task>();
        let (finished, done) = std::sync::mpsc::channel();
        thread::Builder::new().name("wandb".into()).spawn(move || {
            runtime.block_on(async {
                let mut running = tokio::task::JoinSet::new();
                while let Some(task) = tasks.recv().await {
                    running.spawn(run::send(task));
                    while running.try_join_next().is_some() {}
                }
                while running.join_next().await.is_some() {}
            });
            let _ = finished.send(());
        })?;
        let large = Arc::new(Semaphore::new(LARGE_AT_ONCE));
        Ok(Uploads { client, begin, end: watch::Sender::new(false), done, large })
    }

    /// Begins to send a run.
    pub fn begin(&self, job: Job) -> Upload {
        let told = Told { segments: job.segments.clone(), committed: u64::MAX, closed: false };
        let feed = Arc::new(Feed { told: Mutex::new(told), news: Notify::new() });
        let (sender, progress) = watch::channel(Progress::default());
        let task = Task {
            job,
            client: self.client.clone(),
            feed: Arc::clone(&feed),
            progress: sender,
            end: self.end.subscribe(),
            large: Arc::clone(&self.large),
        };
        // The thread takes tasks until `self` is gone.
        let _ = self.begin.send(task);
        Upload { feed, progress }
    }

    /// Waits until all runs that were closed or dropped are sent, but no longer than `within`, and ends the thread.
    /// True when all was sent. What was not is sent by the next one who looks at the files.
    pub fn finish(self, within: Duration) -> bool {
        drop(self.begin);
        if let Ok(()) | Err(RecvTimeoutError::Disconnected) = self.done.recv_timeout(within) {
            return true;
        }
        let _ = self.end.send(true);
        // Ends at once but for a file that hangs; then the process goes without it.
        let _ = self.done.recv_timeout(Duration::from_secs(1));
        false
    }
}

impl Upload {
    /// The newest file is `committed` bytes long now. Cheap; never waits.
    pub fn grew(&self, committed: u64) {
        self.feed.tell(|told| told.committed = committed);
    }

    /// The run goes on in another file, of which `committed` bytes are valid; earlier ones are as long as they are.
    pub fn add_segment(&self, file: PathBuf, committed: u64) {
        self.feed.tell(|told| {
            told.segments.push(file);
            told.committed = committed;
        });
    }

    /// Nothing more will be written: what is there is sent quickly, and then the upload is over.
    pub fn close(&self) {
        self.feed.tell(|told| told.closed = true);
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// To be told of changes; only the newest state is kept.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.close();
    }
}
