//! What the loop is told of all this.

use std::{collections::BTreeMap, time::Instant};

use super::{FileMark, LOCAL, REPORT, Told, Worker};
use crate::domain::forward::{RankRows, RunProgress, RunState};

impl Worker {
    /// Tells how far things are, at most once a second unless a viewer waits for it.
    pub(super) fn report(&mut self) {
        let is_due =
            self.is_ended && !self.is_finished || self.reported_at.is_none_or(|at| at.elapsed() >= REPORT);
        if !is_due && !self.report_is_due {
            return;
        }
        (self.reported_at, self.report_is_due) = (Some(Instant::now()), false);
        let lacking = self.tend_clients();
        let now = (self.progress(), self.rank_rows());
        if self.told_last.as_ref() != Some(&now) {
            self.tell(Told::Progress { runs: now.0.clone(), ranks: now.1.clone() });
            self.told_last = Some(now);
        }
        for run in self.sending.stopped() {
            self.tell(Told::StopAsked(run));
        }
        if self.is_ended && !self.is_finished && !lacking && self.sending.is_over() {
            self.is_finished = true;
            self.tell(Told::Finished);
        }
    }

    /// Begins clients that had to wait for former ones. Returns whether any still waits.
    fn tend_clients(&mut self) -> bool {
        let mut newest: BTreeMap<&str, &FileMark> = BTreeMap::new();
        for (_, mark) in self.committed.files.iter().filter(|(path, _)| !path.starts_with(LOCAL)) {
            let known = newest.entry(&mark.run).or_insert(mark);
            if known.n < mark.n {
                *known = mark;
            }
        }
        let lacking = newest.into_iter().filter(|(run, mark)| self.sending.lacks(run, mark.shared));
        let lacking: Vec<_> = lacking.map(|(run, _)| run.to_owned()).collect();
        lacking.iter().for_each(|run| self.send(run));
        if self.is_ended && !lacking.is_empty() {
            self.sending.close();
        }
        !lacking.is_empty()
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
        for rank in &self.ranks {
            let seat = self.router.seat_of(rank.proc);
            if let Some(run) = seat.and_then(|seat| runs.get_mut(seat.run.as_ref()?)) {
                run.not_forwarded.extend(rank.sdk.not_forwarded());
            }
        }
        for (id, run) in &mut runs {
            let Some(book) = self.router.book(id) else { continue };
            (run.rows_logged, run.rows_lost) = (book.rows, book.lost);
            if run.file.as_ref().is_some_and(|file| file.starts_with(LOCAL)) {
                run.state = RunState::Local;
                run.not_forwarded.push("system metrics: no rank of this node logs".into());
            } else {
                self.sending.progress(id, run);
            }
            if self.stuck.is_some() {
                run.last_error.clone_from(&self.stuck);
            }
        }
        runs
    }

    fn rank_rows(&self) -> Vec<RankRows> {
        let mut seats: Vec<_> = self.router.seats().collect();
        // Of the lives of a rank the newest is told of: it comes last.
        seats.sort_by_key(|(proc, _)| proc.start);
        let rows = seats.into_iter().map(|(_, seat)| {
            let rank = seat.place.rank.unwrap_or(seat.local_rank);
            (rank, RankRows { rank, rows: seat.rows, last: seat.last.clone(), is_sent: seat.run.is_some() })
        });
        rows.collect::<BTreeMap<_, _>>().into_values().collect()
    }
}
