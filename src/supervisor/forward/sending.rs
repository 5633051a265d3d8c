//! The way from `.wandb` files to W&B, for all runs of a job: which files make up what one client sends.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::cursor::{Cursor, FileMark};
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

fn connect(settings: &Settings, of_job: &[(String, String)]) -> Result<Uploads, String> {
    let base_url = settings.facts.base_url.as_ref().map_or(CLOUD, |given| given.value.as_str());
    let of_job = |name: &str| of_job.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let environment = |name: &str| of_job(name).or_else(|| std::env::var(name).ok());
    let found = find_key(&environment, base_url).map_err(|error| error.text)?;
    let found = found.ok_or_else(|| format!("no API key was found: {}", no_key_hint(base_url)))?;
    let client = Client::new(base_url, &found.key).map_err(|error| error.text)?;
    Uploads::start(client).map_err(|error| format!("cannot start sending: {error}"))
}
