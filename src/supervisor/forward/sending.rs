//! The way from `.wandb` files to W&B, for all runs of a job: which files make up what one client sends.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::{
    cursor::{Cursor, CursorFile, FileMark},
    worker::LOCAL,
};
use crate::{
    domain::forward::{Mode, RunProgress, RunState, Settings, retry::Backoff},
    wandb::{
        client::{CLOUD, Client},
        credentials::{find_key, no_key_hint},
        upload::{Job, Sharing, Upload, Uploads},
    },
};

/// What one client sends: a run, shared or not. One that changes between the two gets another client.
type Key = (String, bool);

/// All that is being sent.
#[derive(Debug, Default)]
pub struct Sending {
    /// `None` while offline.
    uploads: Option<Uploads>,
    clients: BTreeMap<Key, Sent>,
    /// Why nothing can be sent although it should.
    pub trouble: Option<String>,
}

#[derive(Debug)]
struct Sent {
    upload: Upload,
    newest: PathBuf,
    stop_told: bool,
    /// Another client goes on with the run.
    is_former: bool,
}

impl Sending {
    /// The way that settings ask for. What stands in it is in [`Sending::trouble`].
    pub fn new(settings: &Settings, environment: &[(String, String)]) -> Sending {
        let mut sending = Sending::default();
        if settings.mode == Mode::Online {
            match connect(settings, environment) {
                Ok(uploads) => sending.uploads = Some(uploads),
                Err(text) => sending.trouble = Some(text),
            }
        }
        sending
    }

    /// Files of a run grew to what is committed of them.
    pub fn grew(
        &mut self,
        root: &Path,
        run: &str,
        committed: &Cursor,
        sharing: impl Fn(bool) -> Option<Sharing>,
    ) {
        let Some(uploads) = &self.uploads else { return };
        let mut files: Vec<(&String, &FileMark)> =
            committed.files.iter().filter(|(_, file)| file.run == run).collect();
        files.sort_by_key(|(_, file)| file.n);
        let Some((newest, mark)) = files.last().map(|(path, mark)| (root.join(path), *mark)) else { return };
        let shared = mark.shared;
        // A client that sent the run before, as shared or not shared, must have said its last word.
        let mut former = self.clients.iter_mut().filter(|((id, was), _)| id == run && *was != shared);
        if !former.all(|(_, sent)| {
            sent.is_former = true;
            sent.upload.close();
            sent.upload.progress().over
        }) {
            return;
        }
        let key = (run.to_owned(), shared);
        if let Some(sent) = self.clients.get_mut(&key).filter(|sent| !sent.is_former) {
            if sent.newest == newest {
                sent.upload.grew(mark.len);
            } else {
                sent.upload.add_segment(newest.clone(), mark.len);
                sent.newest = newest;
            }
            return;
        }
        if self.clients.get(&key).is_some_and(|sent| !sent.upload.progress().over) {
            return;
        }
        let mut segments: Vec<_> =
            files.iter().filter(|(_, file)| file.shared == shared).map(|(path, _)| root.join(path)).collect();
        let cursor = segments.first().map(|first| Job::cursor_of(first)).unwrap_or_default();
        segments.pop();
        let upload =
            uploads.begin(Job { segments, cursor, sharing: sharing(shared), backoff: Backoff::default() });
        upload.add_segment(newest.clone(), mark.len);
        self.clients.insert(key, Sent { upload, newest, stop_told: false, is_former: false });
    }

    /// Nothing more will be written.
    pub fn close(&mut self) {
        self.clients.values().for_each(|sent| sent.upload.close());
    }

    /// Whether there is nothing left to send, or no way to.
    pub fn is_over(&self) -> bool {
        self.clients.values().all(|sent| sent.upload.progress().over)
    }

    /// Whether nobody sends a run yet: its former client has to end first.
    pub fn lacks(&self, run: &str, shared: bool) -> bool {
        let client = self.clients.get(&(run.to_owned(), shared));
        self.uploads.is_some() && client.is_none_or(|sent| sent.is_former)
    }

    /// Adds how far a run is sent to what is known of it.
    pub fn progress(&self, run: &str, progress: &mut RunProgress) {
        if self.uploads.is_none() {
            progress.state = RunState::Local;
            progress.last_error.clone_from(&self.trouble);
            return;
        }
        let clients =
            [false, true].into_iter().filter_map(|shared| self.clients.get(&(run.to_owned(), shared)));
        for sent in clients {
            let told = sent.upload.progress().run;
            progress.rows_acked += told.rows_acked;
            progress.rows_lost += told.rows_lost;
            progress.link = told.link.or(progress.link.take());
            progress.not_forwarded.extend(told.not_forwarded);
            progress.last_ack_at = told.last_ack_at.max(progress.last_ack_at);
            // Of two clients the one that has not finished counts.
            if progress.state != RunState::Waiting && told.state == RunState::Finished {
                continue;
            }
            (progress.state, progress.retry_at) = (told.state, told.retry_at);
            progress.last_error = told.last_error;
        }
    }

    /// Runs whose stop button was pressed, each once.
    pub fn stopped(&mut self) -> Vec<String> {
        let pressed = self.clients.iter_mut().filter_map(|((run, _), sent)| {
            let is_news = sent.upload.progress().stopped && !std::mem::replace(&mut sent.stop_told, true);
            is_news.then(|| run.clone())
        });
        pressed.collect()
    }
}

/// What one client of a job has to send, once nobody watches the job any more.
#[derive(Debug)]
pub struct Left {
    /// The run.
    pub run: String,
    /// All its files but the newest.
    pub job: Job,
    /// The newest.
    pub newest: PathBuf,
    /// What is valid of it: the rest was never committed.
    pub committed: u64,
}

/// What clients of a job have to send, in the order of their files. Some may be sent already.
///
/// # Errors
/// The job's record of its files cannot be read.
pub fn left(root: &Path, settings: &Settings) -> io::Result<Vec<Left>> {
    let (_, committed) = CursorFile::open(root)?;
    let mut clients: BTreeMap<(&str, bool), Vec<(&String, &FileMark)>> = BTreeMap::new();
    for (path, mark) in committed.files.iter().filter(|(path, _)| !path.starts_with(LOCAL)) {
        clients.entry((&mark.run, mark.shared)).or_default().push((path, mark));
    }
    let plan = settings.plan().ok();
    let is_here = |rank| committed.ranks.values().any(|mark| mark.seat.place.rank == Some(rank));
    let mut all: Vec<_> = clients
        .into_iter()
        .filter_map(|((run, shared), mut files)| {
            files.sort_by_key(|(_, mark)| mark.n);
            let first = root.join(files.first()?.0);
            let (newest, mark) = files.pop()?;
            let planned = plan.iter().flat_map(|plan| &plan.runs).find(|planned| planned.id == run);
            // As while it was watched: a run that left the plan is done here.
            let part =
                planned.is_none_or(|planned| !planned.shared || planned.primary_rank.is_some_and(is_here));
            let job = Job {
                segments: files.iter().map(|(path, _)| root.join(path)).collect(),
                cursor: Job::cursor_of(&first),
                sharing: shared.then_some(Sharing { primary: part, completes: part }),
                backoff: Backoff::default(),
            };
            Some((mark.n, Left { run: run.to_owned(), job, newest: root.join(newest), committed: mark.len }))
        })
        .collect();
    all.sort_by_key(|(n, _)| *n);
    Ok(all.into_iter().map(|(_, left)| left).collect())
}

fn connect(settings: &Settings, of_job: &[(String, String)]) -> Result<Uploads, String> {
    let base_url = settings.facts.base_url.as_ref().map_or(CLOUD, |given| given.value.as_str());
    let of_job = |name: &str| of_job.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let environment = |name: &str| of_job(name).or_else(|| std::env::var(name).ok());
    let found = find_key(&environment, base_url).map_err(|error| error.text)?;
    let found = found.ok_or_else(|| format!("no API key was found: {}", no_key_hint(base_url)))?;
    let client = Client::new(base_url, &found.key).map_err(|error| error.text)?;
    Uploads::start(client).map_err(|error| format!("cannot start sending: {error}"))
}
