//! Reaching a job: over its supervisor's socket, by a new supervisor, from its files, or from `/proc`.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::net::UnixStream;

use super::out;
use crate::{
    domain::{
        command::{Command, Outcome},
        id::JobId,
        state::State,
    },
    error::{Error, Result},
    probe::scan,
    supervisor::{
        archive::Archive,
        aside::{self, Observer},
        detach,
        folder::Manifest,
        journal,
        place::Roots,
    },
    wire::{
        link::Link,
        message::{PROTOCOL, ToSupervisor, ToViewer},
        socket,
    },
};

/// How long a supervisor that somebody else just started may take until it listens.
const LISTENS_WITHIN: Duration = Duration::from_secs(15);
/// Pause between two tries to reach it.
const AGAIN: Duration = Duration::from_millis(20);

/// How long a supervisor may take to say hello; a healthy one takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// After this long without an answer, who waits is told.
const SLOW: Duration = Duration::from_secs(10);

/// A job that was found.
#[derive(Clone, Debug)]
pub enum Target {
    /// Started by elastictop.
    Own {
        /// Where its files are.
        roots: Roots,
        /// What it is.
        manifest: Box<Manifest>,
    },
    /// Started by somebody else; the agent's process id, or that of a rank without one.
    Foreign(i32),
}

impl Target {
    /// The job that `wanted` means: an id, a name, the start of an id; `None` means the newest.
    ///
    /// # Errors
    /// There is none, or it fits several.
    pub fn find(wanted: Option<&str>, pid: Option<i32>) -> Result<Target> {
        if let Some(pid) = pid.or_else(|| wanted?.strip_prefix("pid-")?.parse().ok()) {
            return Ok(Target::Foreign(pid));
        }
        let roots = Roots::find()?;
        let manifest = Box::new(roots.find_job(wanted)?);
        Ok(Target::Own { roots, manifest })
    }

    /// A link to it. A job that lost its supervisor gets a new one when `adopt` says so.
    ///
    /// # Errors
    /// Whatever keeps it from being reached.
    pub async fn link(&self, adopt: bool) -> Result<Link> {
        Ok(match self.open(adopt).await? {
            Opened::Served(link) => link,
            Opened::Socket(stream) => {
                let (read, write) = stream.into_split();
                Link::over(read, write)
            }
        })
    }

    /// A link over which the supervisor has said hello. One that dies while it is asked, or ends with its job, is looked
    /// for anew: another one may have taken over, or the files have it all.
    ///
    /// # Errors
    /// Whatever keeps it from being reached; it refuses, or does not answer.
    pub async fn greet(&self, watch: bool) -> Result<Greeted> {
        let until = Instant::now() + LISTENS_WITHIN;
        loop {
            let link = self.link(true).await?;
            match tokio::time::timeout(PATIENCE, greet(link, watch)).await {
                Ok(Ok(Some(greeted))) => return Ok(greeted),
                Ok(Ok(None)) if Instant::now() < until => tokio::time::sleep(AGAIN).await,
                Ok(Ok(None)) => return Err(Error::environment("the supervisor left without an answer")),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(self.is_mute()),
            }
        }
    }

    fn is_mute(&self) -> Error {
        let seconds = PATIENCE.as_secs();
        let error = Error::environment(format!("the job's supervisor does not answer within {seconds} s"));
        let Target::Own { manifest, .. } = self else { return error };
        let pid = manifest.supervisor.pid;
        error
            .hint(format!("it may be stopped: on {} kill -CONT {pid} wakes it", manifest.node))
            .hint(format!("kill -9 {pid} ends it: the job goes on, and elastictop attach takes it over"))
    }

    /// The same as [`Target::link`], before anything is read from it or written to it.
    ///
    /// # Errors
    /// Whatever keeps it from being reached.
    pub async fn open(&self, adopt: bool) -> Result<Opened> {
        match self {
            Target::Foreign(pid) => Ok(Opened::Served(Observer::new(&aside::meet_foreign(*pid)?).serve())),
            Target::Own { roots, manifest } => open_own(roots, &manifest.id, adopt).await,
        }
    }
}

/// A job that was reached.
#[derive(Debug)]
pub enum Opened {
    /// A supervisor is at the other end.
    Socket(UnixStream),
    /// This process serves it, from files or `/proc`.
    Served(Link),
}

async fn open_own(roots: &Roots, id: &JobId, adopt: bool) -> Result<Opened> {
    let archive = |why: &str| Ok(Opened::Served(Archive::open(roots, id, why)?.serve()));
    let dir = roots.job(id);
    let read = || dir.manifest().map_err(|error| Error::io("cannot read", &dir.manifest_path(), &error));
    let manifest = read()?;
    if manifest.ended {
        return archive(&format!("job {id} is over"));
    }
    if let Ok(stream) = socket::connect(&manifest.socket).await {
        return Ok(Opened::Socket(stream));
    }
    if journal::end(&dir.journal()).is_some() {
        // Its end could not be written into the manifest.
        return archive(&format!("job {id} is over"));
    }
    if manifest.node != scan::node_name() {
        let why = format!("the job's supervisor is on {}; run elastictop there", manifest.node);
        return archive(&why);
    }
    if !adopt {
        let why = format!("the job's supervisor died; elastictop attach {id} takes it over");
        return archive(&why);
    }
    match detach::adopt(id.clone()) {
        Ok(lost) => {
            let lost = lost.map(|lost| format!("; {lost}")).unwrap_or_default();
            out::note(format_args!("elastictop: the supervisor of {id} had died; a new one took over{lost}"));
        }
        // Somebody else was faster, or the job has just ended.
        Err(error) if error.kind == crate::error::Kind::Job => {}
        Err(error) => return Err(error),
    }
    let until = Instant::now() + LISTENS_WITHIN;
    loop {
        let manifest = read()?;
        if manifest.ended {
            return archive(&format!("job {id} is over"));
        }
        match socket::connect(&manifest.socket).await {
            Ok(stream) => return Ok(Opened::Socket(stream)),
            Err(_) if Instant::now() < until => tokio::time::sleep(AGAIN).await,
            Err(error) => {
                return Err(Error::io("cannot reach the supervisor at", &manifest.socket, &error)
                    .hint(format!("its log is {}", dir.supervisor_log().display())));
            }
        }
    }
}

/// Who this viewer is, for the timeline: `user on /dev/pts/3`.
pub fn viewer_name() -> String {
    let user = scan::user_of(rustix::process::getuid().as_raw());
    let tty = std::fs::read_link(Path::new("/proc/self/fd/0")).ok();
    match tty.filter(|tty| tty.starts_with("/dev/pts") || tty.starts_with("/dev/tty")) {
        Some(tty) => format!("{user} on {}", tty.display()),
        None => user,
    }
}

/// The first message of a viewer.
pub fn hello(watch: bool) -> ToSupervisor {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    ToSupervisor::Hello { protocol: PROTOCOL, version, viewer: viewer_name(), watch }
}

/// A supervisor that answered.
#[derive(Debug)]
pub struct Greeted {
    /// The link to it.
    pub link: Link,
    /// What it answered with.
    pub state: State,
    /// Why commands will be refused, if they will.
    pub read_only: Option<String>,
}

/// Greets; `None` when the other side left without an answer.
async fn greet(mut link: Link, watch: bool) -> Result<Option<Greeted>> {
    let mut read_only = None;
    if link.outgoing.send(hello(watch)).await.is_err() {
        return Ok(None);
    }
    while let Some(message) = link.incoming.recv().await {
        match message {
            ToViewer::Welcome { read_only: why, .. } => read_only = why,
            ToViewer::Snapshot { state, .. } => return Ok(Some(Greeted { link, state: *state, read_only })),
            ToViewer::Bye { text } => return Err(Error::environment(text)),
            _ => {}
        }
    }
    Ok(None)
}

/// Says once that an answer is long in coming: a new group waits for the other nodes, ranks do not want to end.
#[derive(Debug)]
pub struct Slow {
    due: Instant,
    is_told: bool,
}

impl Slow {
    /// Who waits from now on.
    pub fn new() -> Slow {
        Slow { due: Instant::now() + SLOW, is_told: false }
    }

    /// What comes, whenever it does.
    pub async fn wait<T>(&mut self, coming: impl Future<Output = T>) -> T {
        tokio::pin!(coming);
        loop {
            tokio::select! {
                come = &mut coming => return come,
                () = tokio::time::sleep_until(self.due.into()), if !self.is_told => {
                    self.is_told = true;
                    out::note(
                        "elastictop: it was asked, and is not done yet; elastictop status says how far it is, Ctrl-C \
                         leaves it to itself",
                    );
                }
            }
        }
    }
}

/// Has a command carried out, and gives the sentence that says what was done.
///
/// # Errors
/// It was refused, or the supervisor left before it answered.
pub async fn carry_out(link: &mut Link, command: Command) -> Result<String> {
    carry_out_with(link, command, |_| {}).await
}

/// The same, with what comes before the answer given to `each`.
///
/// # Errors
/// As [`carry_out`].
pub async fn carry_out_with(
    link: &mut Link,
    command: Command,
    mut each: impl FnMut(ToViewer),
) -> Result<String> {
    let lost = || Error::environment("the supervisor left before it answered; see elastictop status");
    link.outgoing.send(ToSupervisor::Do { id: 1, command, until: None }).await.map_err(|_| lost())?;
    let mut slow = Slow::new();
    while let Some(message) = slow.wait(link.incoming.recv()).await {
        match message {
            ToViewer::Reply { outcome: Outcome::Done(text), .. } => return Ok(text),
            ToViewer::Reply { outcome: Outcome::Refused(text), .. } => return Err(Error::job(text)),
            ToViewer::Bye { text } => return Err(Error::environment(text)),
            other => each(other),
        }
    }
    Err(lost())
}
