//! A job that is over, or whose supervisor is on another machine: served to viewers by this very process, from its files.

use std::time::Duration;

use tokio::task::JoinSet;

use super::{
    clock::wall,
    closeup::{CloseUps, Known},
    desk,
    folder::JobDir,
    hub::{Hub, Said},
    journal,
    logbook::Logbook,
    place::Roots,
    recording::JobReader,
};
use crate::{
    domain::{
        alert::{Alert, AlertKind},
        closeup::{Question, history::Histories},
        id::JobId,
        redact::Secrets,
        state::State,
        time::Stamp,
    },
    error::{Error, Result},
    wire::{link::Link, message::ToSupervisor},
};

/// As far back as charts by seconds and by tens of seconds go.
const FINE: Duration = Duration::from_secs(20 * 60);

/// A job that is over, or whose supervisor is on another machine, from its files.
#[derive(Debug)]
pub struct Archive {
    /// All its events, folded.
    pub state: State,
    logbook: Logbook,
    /// Read when somebody asks for them first.
    histories: Histories,
    dir: JobDir,
    why: String,
}

impl Archive {
    /// Reads the files. `why` says why nothing can be done to the job.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn open(roots: &Roots, id: &JobId, why: &str) -> Result<Archive> {
        let dir = roots.job(id);
        let past = journal::read(&dir.journal(), |_| {});
        let past = past.map_err(|error| Error::io("cannot read", &dir.journal(), &error))?;
        let manifest =
            dir.manifest().map_err(|error| Error::io("cannot read", &dir.manifest_path(), &error))?;
        let is_short = manifest.ended && !past.state.state.is_over();
        let unhidden = dir
            .read_secret_marks()
            .err()
            .map(|error| (format!("{}: values that ranks printed may be in clear", error.text), Vec::new()));
        let lost = past.lost().or(is_short.then(|| "the end of the journal is missing".to_owned()));
        let mut state = past.filled_up(&manifest);
        let lost = lost.map(|lost| {
            (format!("{lost}; what else is shown is complete"), vec![dir.journal().display().to_string()])
        });
        for (text, evidence) in lost.into_iter().chain(unhidden) {
            state.alerts.push(Alert {
                kind: AlertKind::Storage,
                local_rank: None,
                since: manifest.seen_at,
                text,
                evidence,
                acts_at: None,
            });
        }
        Ok(Archive {
            state,
            logbook: open_logs(&dir)?,
            histories: Histories::default(),
            dir,
            why: why.to_owned(),
        })
    }

    /// Serves one viewer until it leaves.
    pub fn serve(mut self) -> Link {
        let (mut hub, mut said, link) = Hub::for_one();
        tokio::spawn(async move {
            let mut close_ups = CloseUps::default();
            let mut reading = JoinSet::new();
            // Questions that wait for figures that are being read.
            let (mut waiting, mut has_figures) = (Vec::new(), false);
            while !hub.is_empty() {
                tokio::select! {
                    (to, answer) = close_ups.next() => hub.send(to, &answer),
                    Some(read) = reading.join_next() => {
                        // A thread that panicked has none.
                        (self.histories, has_figures) = (read.unwrap_or_default(), true);
                        for (from, message) in waiting.drain(..) {
                            close_ups.hear(&mut hub, from, &message, self.known());
                        }
                    }
                    Some((from, said)) = said.recv() => match said {
                        Said::Message(message @ ToSupervisor::LookAt { question: Question::History, .. })
                            if !has_figures =>
                        {
                            waiting.push((from, message));
                            if reading.is_empty() {
                                let (dir, end) = (self.dir.clone(), self.state.at);
                                reading.spawn_blocking(move || histories(&dir, end));
                            }
                        }
                        said => {
                            if let Said::Message(message) = &said {
                                close_ups.hear(&mut hub, from, message, self.known());
                            }
                            let known = (&self.state, &self.logbook);
                            desk::hear_reader(&mut hub, from, said, known, wall(), &self.why);
                        }
                    },
                }
            }
        });
        link
    }

    fn known(&self) -> Known<'_> {
        let (state, logbook, histories) = (&self.state, &self.logbook, &self.histories);
        Known { state, logbook, histories, dir: Some(&self.dir) }
    }
}

/// The figures of a job that ended: those of its last minutes by the second, as far as the black box still has them.
fn histories(dir: &JobDir, end: Stamp) -> Histories {
    let (mut state, mut histories) = (State::default(), Histories::default());
    let Ok(mut reader) = JobReader::since(dir, Stamp(end.0.saturating_sub(FINE.as_millis() as u64))) else {
        return histories;
    };
    while let Some(event) = reader.read() {
        state.apply(&event);
        histories.take(&state, &event);
    }
    histories
}

/// The logs of a job, for reading.
///
/// # Errors
/// An index that cannot be read.
pub fn open_logs(dir: &JobDir) -> Result<Logbook> {
    let mut logbook = Logbook::open(&dir.log_index(), false)
        .map_err(|error| Error::io("cannot read", &dir.log_index(), &error))?;
    let env: Vec<_> = std::env::vars().collect();
    let own = Secrets::new(env.iter().map(|(name, value)| (name.as_str(), value.as_str())), &[]);
    // The job's own environment may be gone.
    logbook.hide(own.and(dir.read_secret_marks().unwrap_or_default()));
    Ok(logbook)
}
