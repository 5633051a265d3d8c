//! What the loop is told of all this.

use std::{collections::BTreeMap, time::Instant};

use super::{REPORT, Told, Worker};
use crate::domain::forward::{Mode, RankRows, RunProgress, RunState};

impl Worker {
    /// Tells how far things are, at most once a second unless a viewer waits for it.
    pub(super) fn report(&mut self) {
        let is_due = self.reported_at.is_none_or(|at| at.elapsed() >= REPORT);
        if !is_due && !self.report_is_due {
            return;
        }
        (self.reported_at, self.report_is_due) = (Some(Instant::now()), false);
        let now = (self.progress(), self.rank_rows());
        if self.told_last.as_ref() != Some(&now) {
            self.tell(Told::Progress { runs: now.0.clone(), ranks: now.1.clone() });
            self.told_last = Some(now);
        }
        if self.is_ended && !self.is_finished {
            self.is_finished = true;
            self.tell(Told::Finished);
        }
    }

    fn progress(&self) -> BTreeMap<String, RunProgress> {
        let mut runs: BTreeMap<String, RunProgress> = BTreeMap::new();
        for (path, mark) in self.committed.files.iter().chain(&self.change.files) {
            let is_newer = |known: &String| known < path;
            let run = runs.entry(mark.run.clone()).or_default();
            if run.file.as_ref().is_none_or(is_newer) {
                run.file = Some(path.clone());
            }
        }
        for id in self.runs.keys() {
            runs.entry(id.clone()).or_default();
        }
        for (id, run) in &mut runs {
            let Some(book) = self.router.book(id) else { continue };
            (run.rows_logged, run.rows_lost) = (book.rows, book.lost);
            run.state = match self.task.settings.mode {
                _ if book.rows == 0 && !self.is_ended => RunState::Waiting,
                Mode::Online | Mode::Offline | Mode::Disabled => RunState::Local,
            };
            run.last_error.clone_from(&self.stuck);
        }
        runs
    }

    fn rank_rows(&self) -> BTreeMap<u32, RankRows> {
        let mut seats: Vec<_> = self.router.seats().collect();
        // The newest incarnation of a rank is told of last, and stays.
        seats.sort_by_key(|(proc, _)| proc.start);
        let rows = seats.into_iter().map(|(_, seat)| {
            let last = seat.last.clone();
            (
                seat.place.rank.unwrap_or(seat.local_rank),
                RankRows { rows: seat.rows, last, is_sent: seat.run.is_some() },
            )
        });
        rows.collect()
    }
}
