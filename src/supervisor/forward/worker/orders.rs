//! What the forwarder is told, and what follows for its runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Kind, LOCAL, Order, RankFiles, RankMark, RunFile, Tail, Told, Worker, rank_name, sdk::SdkFiles, source,
};
use crate::{
    domain::{
        exit::Exit,
        forward::{Settings, figures::Figure, router::Seat, row::Row},
        id::ProcId,
        resolve::Plan,
        sample::Place,
        time::Stamp,
    },
    probe::{host, proc},
    supervisor::{
        clock,
        folder::JobDir,
        forward::{
            runs::{About, read_summary},
            tail::Next,
        },
        reading,
    },
};

/// How long the primary of a run leaves it open for the clients on other nodes.
const LINGER: Duration = Duration::from_secs(3);

impl Worker {
    pub(super) fn order(&mut self, order: Order) {
        match order {
            Order::Plan(settings) => self.plan(*settings),
            Order::Rank { proc, local_rank, place, outputs } => {
                self.add_rank(proc, local_rank, &place, outputs);
            }
            Order::Placed(proc, place) => {
                if let Some(seat) = self.router.seat_of(proc) {
                    let local_rank = seat.local_rank;
                    self.router.seat(proc, local_rank, &place);
                    self.note_rank(proc);
                    self.open_runs();
                }
            }
            Order::Gone(proc, exit) => self.gone(proc, exit),
            Order::Figures(figures) => self.figures(&figures),
            Order::End { state, exit_code } => self.end = Some((state, exit_code, Instant::now())),
        }
    }

    /// What was logged until now goes where it went; what follows goes by the new plan.
    fn plan(&mut self, settings: Settings) {
        self.drain();
        let before: BTreeMap<_, _> = self.router.seats().map(|(proc, seat)| (proc, seat.way())).collect();
        match settings.plan() {
            Ok(plan) => self.set_plan(plan),
            // It was checked before it was decided.
            Err(error) => tracing::warn!(error = error.text, "cannot plan"),
        }
        // Rows that wait for more of their step would get it in another run.
        let after: BTreeMap<_, _> = self.router.seats().map(|(proc, seat)| (proc, seat.way())).collect();
        self.complete_all(|held| before.get(&held.proc()) != after.get(&held.proc()));
        self.task.settings = settings.clone();
        for proc in self.ranks.iter().map(|rank| rank.proc).collect::<Vec<_>>() {
            self.note_rank(proc);
        }
        self.close_left();
        self.open_runs();
        self.flush();
        self.report_is_due = true;
        self.tell(Told::Planned(Box::new(settings)));
    }

    fn set_plan(&mut self, mut plan: Plan) {
        let files = self.committed.files.values().chain(self.change.files.values());
        let shared = files.filter(|file| file.shared).map(|file| file.run.as_str());
        let open = self.runs.values().filter(|run| run.shared).map(|run| run.id.as_str());
        let shared: BTreeSet<&str> = shared.chain(open).collect();
        plan.keep_shared(|run| shared.contains(run));
        self.router.set_plan(plan);
    }

    /// Reads all that there is now.
    fn drain(&mut self) {
        while self.pass() {}
    }

    /// What a former forwarder committed: files are cut to it, what it did not commit is thrown away.
    pub(super) fn take_over(&mut self) -> io::Result<()> {
        if let Ok(plan) = self.task.settings.plan() {
            self.set_plan(plan);
        }
        self.remove_strays()?;
        for (path, mark) in self.committed.files.clone() {
            let path = self.task.root.join(path);
            let summary = self.summaries.entry(mark.run.clone()).or_default();
            if !mark.is_open {
                read_summary(&path, mark.len, summary).map_err(|failure| failure.cause)?;
                continue;
            }
            let began_at = self.committed.runs.get(&mark.run).map_or(Stamp(0), |book| book.began_at);
            let known = (mark.run.as_str(), mark.shared, began_at);
            let file = RunFile::reopen(&path, mark.len, known, &self.task.settings, summary);
            let mut file = file.map_err(|failure| failure.cause)?;
            file.is_local = path.starts_with(self.task.root.join(LOCAL));
            self.runs.insert(mark.run.clone(), file);
        }
        for rank in self.committed.ranks.clone().into_values() {
            self.router.restore(rank.proc, rank.seat.clone());
            self.add_files(&rank);
        }
        // Ranks that came while nobody was there to tell of them.
        let dir = JobDir { root: self.task.root.clone() };
        for sighting in reading::ranks_on_disk(&dir) {
            let local_rank = sighting.place.slot().unwrap_or_default();
            let outputs = reading::keep_logs(&dir, &sighting);
            self.add_rank(sighting.proc, local_rank, &sighting.place, outputs);
        }
        let runs: BTreeSet<_> = self.committed.files.values().map(|file| file.run.clone()).collect();
        runs.iter().for_each(|run| self.send(run));
        let procs: Vec<_> = self.ranks.iter().filter(|rank| !rank.is_gone).map(|rank| rank.proc).collect();
        for proc in procs {
            if proc::identify(Path::new(proc::ROOT), proc.pid) != Some(proc) {
                self.gone(proc, None);
            }
        }
        Ok(())
    }

    /// Runs that were begun and not committed.
    fn remove_strays(&self) -> io::Result<()> {
        let known: BTreeSet<_> = self
            .committed
            .files
            .keys()
            .filter_map(|path| Path::new(path).parent())
            .map(Path::to_owned)
            .collect();
        for folder in ["wandb", "wandb/local/wandb"] {
            let Ok(entries) = fs::read_dir(self.task.root.join(folder)) else { continue };
            for entry in entries.flatten() {
                let is_run = entry.file_name().to_string_lossy().starts_with("offline-run-");
                if is_run && !known.contains(&Path::new(folder).join(entry.file_name())) {
                    fs::remove_dir_all(entry.path())?;
                }
            }
        }
        Ok(())
    }

    fn add_rank(
        &mut self,
        proc: ProcId,
        local_rank: u32,
        place: &Place,
        outputs: [Option<std::path::PathBuf>; 2],
    ) {
        self.router.seat(proc, local_rank, place);
        // One of a group that was over before anybody told of it.
        if let Ok(plan) = self.task.settings.at(place, None).plan() {
            self.router.seat_late(proc, &plan);
        }
        if self.ranks.iter().all(|rank| rank.proc != proc) {
            let Some(seat) = self.router.seat_of(proc) else { return };
            let mark = RankMark { proc, outputs, seat: seat.clone() };
            self.add_files(&mark);
            self.change.ranks.insert(rank_name(proc), mark);
        } else {
            self.note_rank(proc);
        }
        self.open_runs();
    }

    fn add_files(&mut self, rank: &RankMark) {
        let folder = self.task.root.join("ranks").join(rank_name(rank.proc));
        let [out, err] = rank.outputs.clone();
        let paths = [Some(folder.join("metrics.jsonl")), out, err];
        let tails = Kind::ALL.into_iter().zip(paths).filter_map(|(kind, path)| {
            let position = self.position(&source(rank.proc, kind));
            let mut tail = Tail::new(path?, position.unwrap_or_default());
            tail.is_closed = rank.seat.is_gone;
            Some((kind, tail))
        });
        self.ranks.push(RankFiles {
            proc: rank.proc,
            local_rank: rank.seat.local_rank,
            tails: tails.collect(),
            sdk: SdkFiles::of(folder.clone()),
            is_gone: rank.seat.is_gone,
            is_idle: false,
        });
        self.ranks.sort_by_key(|rank| (rank.proc.start, rank.proc.pid));
    }

    /// What is known of a rank goes into the next commit.
    fn note_rank(&mut self, proc: ProcId) {
        let name = rank_name(proc);
        let known = self.change.ranks.get(&name).or_else(|| self.committed.ranks.get(&name));
        let (Some(known), Some(seat)) = (known, self.router.seat_of(proc)) else { return };
        let seat = Seat { rows: 0, last: String::new(), ..seat.clone() };
        if seat != known.seat {
            let mark = RankMark { seat, ..known.clone() };
            self.change.ranks.insert(name, mark);
        }
    }

    fn gone(&mut self, proc: ProcId, exit: Option<Exit>) {
        // Whatever it said last is in its files by now.
        if let Some(rank) = self.ranks.iter_mut().find(|rank| rank.proc == proc) {
            rank.close();
        }
        self.router.gone(proc, exit);
        self.note_rank(proc);
    }

    /// Begins the runs that ranks of this node write to.
    fn open_runs(&mut self) {
        let now = clock::wall();
        for id in self.router.open_runs() {
            self.open_run(&id, now);
        }
    }

    /// Begins a run or goes on with it, unless it is written to already.
    pub(super) fn open_run(&mut self, id: &str, now: Stamp) {
        if self.runs.contains_key(id) {
            return;
        }
        let planned = self.router.plan().and_then(|plan| plan.runs.iter().find(|run| run.id == id));
        let (group, shared) = planned.map_or((None, false), |run| (run.group.clone(), run.shared));
        self.begin(id, group.as_deref(), shared, false, now);
    }

    fn begin(&mut self, id: &str, group: Option<&str>, shared: bool, is_local: bool, now: Stamp) {
        let files = self.committed.files.values().chain(self.change.files.values());
        let is_resumed = files.into_iter().any(|file| file.run == id);
        let suffix = self.router.plan().map_or("", |plan| plan.suffix(id)).to_owned();
        let book = self.router.begin(id, now);
        let about = About {
            job: &self.task.job,
            settings: &self.task.settings,
            group,
            suffix: &suffix,
            next_step: book.next.values().copied().max().unwrap_or(0),
            is_resumed,
        };
        let summary = self.summaries.entry(id.to_owned()).or_default();
        let mut run = RunFile::begin(id, shared, book.began_at, now, about, summary);
        run.is_local = is_local;
        self.runs.insert(id.to_owned(), run);
        self.report_is_due = true;
    }

    /// Finishes runs that no rank of this node writes to any more, and those that change between shared and not.
    fn close_left(&mut self) {
        let plan = self.router.plan();
        let is_other = |run: &RunFile| {
            let planned = plan.and_then(|plan| plan.runs.iter().find(|planned| planned.id == run.id));
            planned.is_some_and(|planned| planned.shared != run.shared)
        };
        let leaving: Vec<_> = self
            .runs
            .values()
            .filter(|run| !run.is_local && (!self.router.keeps(&run.id) || is_other(run)))
            .map(|run| run.id.clone())
            .collect();
        for id in leaving {
            self.close(&id, 0);
        }
    }

    /// Finishes a run. On a full disk it stays open until there is room.
    fn close(&mut self, id: &str, exit_code: i32) {
        self.complete(id, |_| true);
        if let Some(run) = self.runs.get_mut(id) {
            run.exit(clock::wall(), exit_code);
        }
        if !self.flush_now() {
            return;
        }
        let Some(run) = self.runs.remove(id) else { return };
        let path = run.path().and_then(|path| path.strip_prefix(&self.task.root).ok());
        if let Some(path) = path.map(|path| path.display().to_string())
            && let Some(mark) = self.committed.files.get(&path)
        {
            let mark = super::FileMark { is_open: false, ..mark.clone() };
            self.change.files.insert(path, mark);
            self.flush_now();
        }
        self.report_is_due = true;
    }

    fn figures(&mut self, figures: &[(ProcId, Vec<Figure>)]) {
        let now = clock::wall();
        let mut hosts = BTreeSet::new();
        for (proc, figures) in figures {
            let Some((id, label)) = self.figures_go(*proc, now) else { continue };
            let mut labelled: Vec<Figure> = figures.clone();
            if hosts.insert(id.clone())
                && self.task.settings.sources.has(crate::domain::forward::Source::System)
            {
                labelled.extend(host::figures(self.network_since));
            }
            if let Some(label) = label {
                labelled.iter_mut().for_each(|(name, _)| name.push_str(&format!("/l:{label}")));
            }
            if let Some(run) = self.runs.get_mut(&id).filter(|_| !labelled.is_empty()) {
                run.figures(now, &labelled);
            }
        }
    }

    /// The run for a rank's figures. On a node where no rank logs they are kept in a file that is not sent.
    fn figures_go(&mut self, proc: ProcId, now: Stamp) -> Option<(String, Option<String>)> {
        if let Some((id, label)) = self.router.figures_of(proc) {
            let id = id.to_owned();
            self.open_run(&id, now);
            return Some((id, label));
        }
        let seat = self.router.seat_of(proc).filter(|seat| seat.is_placed)?;
        let (number, node) = (seat.place.rank.unwrap_or(seat.local_rank), seat.place.group_rank.unwrap_or(0));
        let id = format!("{}-node-{node}", self.router.plan()?.base);
        if !self.runs.contains_key(&id) {
            self.begin(&id, None, false, true, now);
            let text = format!(
                "no rank of this node logs to W&B by this plan: system metrics of node {node} are kept in \
                 wandb/local of the job's folder"
            );
            self.tell(Told::Note(text));
        }
        Some((id, Some(format!("rank-{number}"))))
    }

    /// The job is over: all that is left is read, and every run gets its end. A full disk is waited for.
    pub(super) fn write_end(&mut self) {
        let Some((state, exit_code, at)) = self.end.filter(|_| !self.is_ended) else { return };
        for rank in &mut self.ranks {
            rank.close();
            rank.is_idle = false;
        }
        self.drain();
        if self.stuck.is_some() {
            return;
        }
        self.lose_unplaced();
        for id in self.runs.keys().cloned().collect::<Vec<_>>() {
            let is_last =
                self.runs[&id].shared && self.router.has_primary(&id) && self.router.is_on_other_nodes(&id);
            if is_last && at.elapsed() < LINGER {
                continue;
            }
            let code = self.router.exit_code(&id, state, exit_code);
            self.close(&id, code);
        }
        self.is_ended = self.runs.is_empty();
        if self.is_ended {
            self.sending.close();
        }
        self.report_is_due = true;
    }

    /// Rows of ranks that never told which ranks they are have no run to go to.
    fn lose_unplaced(&mut self) {
        let mut lost = 0_u64;
        let mut buffer = Vec::new();
        for rank in &mut self.ranks {
            if self.router.seat_of(rank.proc).is_some_and(|seat| seat.is_placed) {
                continue;
            }
            for (_, tail) in rank.tails.iter_mut().filter(|(kind, _)| *kind != Kind::Err) {
                let mut count = |line: &[u8]| {
                    lost += u64::from(Row::parse(line).is_some());
                    Next::On
                };
                while tail.read(&mut buffer, &mut count).is_ok_and(|found| found.more) {}
            }
        }
        if lost > 0 {
            self.tell(Told::Note(format!(
                "{lost} rows were not forwarded: the ranks that logged them never told their number"
            )));
        }
    }

    pub(super) fn tell(&self, told: Told) {
        // A loop that is gone needs no words.
        let _ = self.told.send(told);
    }
}
