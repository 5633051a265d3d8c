//! What ranks log through W&B's own SDK, which keeps it in their folders.

use std::path::PathBuf;

use super::{Position, RankFiles, RowOf, Worker, rank_name};
use crate::{
    domain::{forward::Source, id::ProcId},
    supervisor::{clock, forward::Told},
    wandb::{
        log::record::{Changes, Kind, Run},
        sdk::{Said, Sdk, files},
    },
};

/// The files of a rank's SDK.
#[derive(Debug, Default)]
pub(super) struct SdkFiles {
    /// The rank's folder, which is its `WANDB_DIR`.
    folder: PathBuf,
    open: Vec<Sdk>,
    /// Files that the SDK sends by itself.
    own: Vec<PathBuf>,
}

impl SdkFiles {
    pub(super) fn of(folder: PathBuf) -> SdkFiles {
        SdkFiles { folder, ..SdkFiles::default() }
    }

    /// Forgets what is open: it is read again, from where it was left, when it is looked at again.
    pub(super) fn rest(&mut self) {
        self.open = Vec::new();
    }

    /// What of it stays on this machine, in words.
    pub(super) fn not_forwarded(&self) -> Vec<String> {
        self.open.iter().flat_map(Sdk::not_forwarded).collect()
    }
}

impl Worker {
    /// Reads a piece of each file. Returns whether there is more to read now.
    pub(super) fn read_sdk(&mut self, rank: &mut RankFiles) -> bool {
        if !self.task.settings.sources.has(Source::Sdk) || !self.is_placed(rank.proc) {
            return false;
        }
        self.find_sdk_files(rank);
        let mut more = false;
        for sdk in &mut rank.sdk.open {
            let before = sdk.position();
            let proc = rank.proc;
            match sdk.read(|said| self.sdk_said(proc, said)) {
                Ok(more_here) => more |= more_here,
                Err(error) => tracing::warn!(%error, "cannot read what a rank's SDK wrote"),
            }
            if sdk.position() != before {
                let position = Position { done: sdk.position(), in_long_line: false };
                self.change.sources.insert(key(proc, sdk), position);
            }
        }
        more
    }

    fn find_sdk_files(&mut self, rank: &mut RankFiles) {
        let found = match files(&rank.sdk.folder) {
            Ok(found) => found,
            Err(error) => return tracing::warn!(%error, "cannot look for what a rank's SDK writes"),
        };
        for place in found {
            let is_known = rank.sdk.open.iter().any(|sdk| sdk.path() == place.path)
                || rank.sdk.own.contains(&place.path);
            if is_known {
                continue;
            }
            if place.is_offline {
                let mut sdk = Sdk::new(place.path, 0);
                if let Some(position) = self.position(&key(rank.proc, &sdk)) {
                    sdk = Sdk::new(sdk.path().to_owned(), position.done);
                }
                rank.sdk.open.push(sdk);
            } else {
                let number = self.number(rank.proc);
                self.tell(Told::Note(format!(
                    "the script of rank {number} sends to W&B by itself, as its source says: elastictop leaves that alone"
                )));
                rank.sdk.own.push(place.path);
            }
        }
    }

    fn sdk_said(&mut self, proc: ProcId, said: Said<'_>) {
        // As with the SDK itself, where only the primary writer does.
        let is_about_run = matches!(said, Said::Run(_) | Said::Config(..) | Said::Metric(_));
        if is_about_run && self.router.is_secondary(proc) {
            return;
        }
        let (key, value, is_config) = match said {
            Said::Row(line) => {
                self.row(proc, line.as_bytes(), RowOf::Sdk);
                return;
            }
            Said::Run(run) => return self.sdk_run(proc, run),
            Said::Summary(key, value) => (key, value, false),
            Said::Config(key, value) => (key, value, true),
            Said::Metric(metric) => {
                if let Some(run) = self.run_of(proc) {
                    run.push(&Kind::Metric(metric.clone()));
                }
                return;
            }
            // The rank's own output has the one, the launcher tells the other.
            Said::Console { .. } | Said::Exit(_) => return,
        };
        if is_config {
            let mut changes = Changes::of(value.map(|value| ([key], value)));
            if value.is_none() {
                changes.remove = Changes::of([([key], "")]).update;
            }
            if let Some(run) = self.run_of(proc) {
                run.push(&Kind::Config(changes));
            }
        } else if let Some(id) = self.router.seat_of(proc).and_then(|seat| seat.run.clone()) {
            let summary = self.summaries.entry(id).or_default();
            match value {
                Some(value) => summary.set(key, value),
                None => summary.remove(key),
            }
        }
    }

    /// The run that a rank writes to.
    fn run_of(&mut self, proc: ProcId) -> Option<&mut super::RunFile> {
        let id = self.router.seat_of(proc)?.run.clone()?;
        self.open_run(&id, clock::wall());
        self.runs.get_mut(&id)
    }

    /// A script whose source names a run of its own is told so once: its rows go where the plan says. Other names of its
    /// hold where the plan has none.
    fn sdk_run(&mut self, proc: ProcId, said: &Run) {
        let facts = self.task.settings.facts.clone();
        let planned = self.router.seat_of(proc).and_then(|seat| seat.run.clone()).unwrap_or_default();
        let suffix = self.router.plan().map_or("", |plan| plan.suffix(&planned)).to_owned();
        let late = self.run_of(proc).and_then(|run| run.name(said, &facts, &suffix));
        if let Some(project) = late {
            let number = self.number(proc);
            self.tell(Told::Note(format!(
                "the script of rank {number} names project {project}; its run was begun in another one before: \
                 run with --wandb-project {project}"
            )));
        }
        let named = said.run_id.as_str();
        let planned = self.router.seat_of(proc).and_then(|seat| seat.run.as_deref());
        if let Some(planned) = planned.filter(|planned| *planned != named && !named.is_empty()) {
            let number = self.number(proc);
            self.tell(Told::Note(format!(
                "the script of rank {number} names run {named}; its rows go to {planned}, as planned"
            )));
        }
    }

    fn number(&self, proc: ProcId) -> u32 {
        self.router.seat_of(proc).map_or(0, |seat| seat.place.rank.unwrap_or(seat.local_rank))
    }
}

fn key(proc: ProcId, sdk: &Sdk) -> String {
    let folder = sdk.path().parent().and_then(|folder| folder.file_name()).unwrap_or_default();
    format!("{}/sdk/{}", rank_name(proc), folder.to_string_lossy())
}
