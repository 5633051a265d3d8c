//! The forwarder's thread: orders in, rows from files to files, a commit after each batch.

mod orders;
mod report;
mod sdk;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedSender;

use super::{
    Order, Task, Told,
    cursor::{Cursor, CursorFile, FileMark, RankMark},
    runs::RunFile,
    sending::Sending,
    tail::{Next, Position, Tail},
};
use crate::{
    domain::{
        forward::{
            Mode, RankRows, RunProgress, Source,
            held::Held,
            router::{Route, Router, Stamped},
            row::Row,
            summary::Summary,
        },
        id::ProcId,
        rank::JobState,
    },
    supervisor::{clock, logbook},
    wandb::upload::Sharing,
};

/// How often files are looked at.
const POLL: Duration = Duration::from_millis(200);
/// How often the loop is told how far things are, unless something changed that viewers wait for.
const REPORT: Duration = Duration::from_secs(1);
/// More bytes than this in one file's batch are written before more is read.
const BATCH: usize = 1 << 20;
/// Where runs lie that are never sent, below the job's folder.
pub(super) const LOCAL: &str = "wandb/local";
/// A buffer that a long line made grow is given back beyond this.
const BUFFER: usize = 2 << 20;

/// What a line was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `metrics.jsonl`, of `elastictop.log`.
    Log,
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Log, Kind::Out, Kind::Err];

    /// In the cursor.
    const fn name(self) -> &'static str {
        match self {
            Kind::Log => "log",
            Kind::Out => "out",
            Kind::Err => "err",
        }
    }
}

/// Who says that a line is a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowOf {
    /// The script, which called `elastictop.log`.
    Log,
    /// Nobody: it looks like one.
    Output,
    /// W&B's SDK.
    Sdk,
}

/// A rank's files.
#[derive(Debug)]
struct RankFiles {
    proc: ProcId,
    local_rank: u32,
    tails: Vec<(Kind, Tail)>,
    sdk: sdk::SdkFiles,
    /// Its process is gone: what is left in its files is all there will be.
    is_gone: bool,
    /// All was read, and others have its place: it is looked at once more at the end of the job.
    is_idle: bool,
}

impl RankFiles {
    fn close(&mut self) {
        self.is_gone = true;
        self.tails.iter_mut().for_each(|(_, tail)| tail.is_closed = true);
    }

    fn rest(&mut self) {
        self.is_idle = true;
        self.tails.iter_mut().for_each(|(_, tail)| tail.rest());
        self.sdk.rest();
    }
}

/// The forwarder.
pub struct Worker {
    task: Task,
    told: UnboundedSender<Told>,
    router: Router,
    /// In the order of their start: what an earlier incarnation logged comes first.
    ranks: Vec<RankFiles>,
    runs: BTreeMap<String, RunFile>,
    summaries: BTreeMap<String, Summary>,
    cursor: CursorFile,
    committed: Cursor,
    change: Cursor,
    buffer: Vec<u8>,
    /// Why nothing can be written now.
    stuck: Option<String>,
    network_since: Option<(u64, u64)>,
    sending: Sending,
    /// `.wandb` files so far.
    files: u64,
    reported_at: Option<Instant>,
    report_is_due: bool,
    /// How the job ended, once it did.
    end: Option<(JobState, Option<u8>, Instant)>,
    /// All of the job is written.
    is_ended: bool,
    is_finished: bool,
    told_last: Option<(BTreeMap<String, RunProgress>, Vec<RankRows>)>,
}

impl Worker {
    /// One that goes on where the last commit was.
    ///
    /// # Errors
    /// Those of reading and cutting what is there.
    pub fn open(task: Task, told: UnboundedSender<Told>) -> io::Result<Worker> {
        std::fs::create_dir_all(task.root.join("wandb"))?;
        let (cursor, committed) = CursorFile::open(&task.root)?;
        let mut worker = Worker {
            router: Router::new(committed.runs.clone()),
            ranks: Vec::new(),
            runs: BTreeMap::new(),
            summaries: BTreeMap::new(),
            cursor,
            change: Cursor::default(),
            buffer: Vec::new(),
            stuck: None,
            network_since: crate::probe::host::network(std::path::Path::new(crate::probe::proc::ROOT)),
            sending: Sending::new(&task.settings, &task.environment),
            files: committed.files.values().map(|file| file.n + 1).max().unwrap_or(0),
            reported_at: None,
            report_is_due: true,
            end: None,
            is_ended: false,
            is_finished: false,
            told_last: None,
            committed,
            task,
            told,
        };
        worker.take_over()?;
        Ok(worker)
    }

    /// Works until nobody gives orders any more.
    pub fn run(mut self, orders: &Receiver<Order>) {
        let mut more = false;
        loop {
            match orders.recv_timeout(if more { Duration::ZERO } else { POLL }) {
                Ok(order) => {
                    self.order(order);
                    while let Ok(order) = orders.try_recv() {
                        self.order(order);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            more = self.end.is_none() && self.pass();
            self.write_end();
            self.report();
        }
    }

    /// Reads a piece of every file that grew and commits it. Returns whether there is more to read now.
    fn pass(&mut self) -> bool {
        if !self.flush() {
            return false;
        }
        let mut more = false;
        let mut ranks = std::mem::take(&mut self.ranks);
        for at in 0..ranks.len() {
            let (before, after) = ranks.split_at_mut(at + 1);
            let rank = &mut before[at];
            // Whoever took its place waits until all of it was read.
            let is_superseded = after.iter().any(|later| later.local_rank == rank.local_rank);
            let mut more_here = self.read(rank);
            while more_here && is_superseded && self.flush() {
                more_here = self.read(rank);
            }
            more |= more_here;
            if rank.is_gone && !more_here && self.is_placed(rank.proc) {
                self.complete_rows_of(rank.proc);
                if is_superseded {
                    rank.rest();
                }
            }
            // Not within a piece: its rows and the position after them belong into one commit.
            let is_much = self.runs.values().any(|run| run.waiting() > BATCH);
            if is_much && !self.flush() || self.stuck.is_some() {
                break;
            }
        }
        ranks.append(&mut self.ranks);
        self.ranks = ranks;
        let now = clock::wall();
        self.complete_all(|held| held.is_due(now));
        self.flush() && more
    }

    /// Reads a piece of each file of a rank. Returns whether there is more to read now.
    fn read(&mut self, rank: &mut RankFiles) -> bool {
        if rank.is_idle {
            return false;
        }
        let mut more = false;
        let mut buffer = std::mem::take(&mut self.buffer);
        for (kind, tail) in &mut rank.tails {
            let before = tail.position;
            let (proc, kind) = (rank.proc, *kind);
            match tail.read(&mut buffer, |line| self.line(proc, kind, line)) {
                Ok(found) => {
                    more |= found.more;
                    if found.too_long > 0 {
                        self.lose(proc, found.too_long);
                    }
                }
                Err(error) => tracing::warn!(%error, pid = proc.pid, "cannot read what a rank wrote"),
            }
            if tail.position != before {
                self.change.sources.insert(source(proc, kind), tail.position);
            }
        }
        if buffer.capacity() > BUFFER {
            buffer = Vec::new();
        }
        self.buffer = buffer;
        more | self.read_sdk(rank)
    }

    /// Takes one line in.
    fn line(&mut self, proc: ProcId, kind: Kind, line: &[u8]) -> Next {
        let line = match line.iter().take_while(|byte| **byte == 0).count() {
            0 => line,
            gone => self.after_hole(proc, line, gone),
        };
        let sources = &self.task.settings.sources;
        let may_be_row = match kind {
            Kind::Log => sources.has(Source::Log),
            Kind::Out => sources.has(Source::Lines),
            Kind::Err => false,
        };
        let of = if kind == Kind::Log { RowOf::Log } else { RowOf::Output };
        if may_be_row && let Some(next) = self.row(proc, line, of) {
            return next;
        }
        match kind {
            Kind::Log => Next::On,
            Kind::Out | Kind::Err => self.console(proc, kind, line),
        }
    }

    /// A full disk took these bytes for new lines before they were read: how many rows they were, nobody knows.
    fn after_hole<'a>(&mut self, proc: ProcId, line: &'a [u8], gone: usize) -> &'a [u8] {
        self.lose(proc, 1);
        self.tell(Told::Note(format!(
            "the disk is full: {gone} bytes that process {} had printed were given up before they were forwarded",
            proc.pid
        )));
        &line[gone..]
    }

    /// Takes a row in; `None` when the line is none. One of the SDK's has told the summary already.
    fn row(&mut self, proc: ProcId, line: &[u8], of: RowOf) -> Option<Next> {
        // A value that is a secret costs the row its exact text; that is rare.
        let text = std::str::from_utf8(line).ok()?;
        let hidden = self.task.secrets.are_in(text).then(|| self.task.secrets.hide(text.to_owned()));
        let text = hidden.as_deref().unwrap_or(text);
        let mut row = Row::parse(text.as_bytes())?;
        if of == RowOf::Output && !row.has_figures() {
            return None;
        }
        let now = clock::wall();
        let (whole, route) = self.router.route(proc, &mut row, text, now, of != RowOf::Sdk);
        match route {
            Route::Unplaced => return Some(Next::Again),
            Route::Silent => return Some(Next::On),
            Route::Held | Route::Run(_) => {}
        }
        let id = self.router.seat_of(proc)?.run.clone()?;
        self.open_run(&id, now);
        if let Some(held) = whole {
            let (row, stamped) = held.row();
            self.add_row(&id, &row, &stamped, true);
        }
        match route {
            Route::Run(stamped) => self.add_row(&id, &row, &stamped, of != RowOf::Sdk),
            _ => self.runs.get_mut(&id)?.is_touched = true,
        }
        Some(Next::On)
    }

    fn add_row(&mut self, id: &str, row: &Row<'_>, stamped: &Stamped<'_>, sums_up: bool) {
        let (Some(run), Some(summary)) = (self.runs.get_mut(id), self.summaries.get_mut(id)) else { return };
        if run.row(row, stamped) && sums_up {
            row.items.iter().for_each(|item| summary.set(&item.key, item.value));
        }
    }

    /// Adds those rows of a run that wait for more of their step and shall not.
    fn complete(&mut self, id: &str, shall: impl Fn(&Held) -> bool) {
        for held in self.router.complete(id, shall) {
            let (row, stamped) = held.row();
            self.add_row(id, &row, &stamped, true);
        }
    }

    fn console(&mut self, proc: ProcId, kind: Kind, line: &[u8]) -> Next {
        let Some(seat) = self.router.seat_of(proc).filter(|seat| seat.is_placed) else { return Next::Again };
        let Some(id) = seat.run.clone() else { return Next::On };
        let label = seat.label.clone();
        let mut text = self.task.secrets.hide(logbook::clean(line));
        text.push('\n');
        let now = clock::wall();
        if !self.runs.contains_key(&id) {
            self.open_run(&id, now);
        }
        if let Some(run) = self.runs.get_mut(&id) {
            run.console(kind == Kind::Err, label, now, text);
        }
        Next::On
    }

    fn complete_all(&mut self, shall: impl Fn(&Held) -> bool) {
        for id in self.runs.keys().cloned().collect::<Vec<_>>() {
            self.complete(&id, &shall);
        }
    }

    /// All that a rank logged was read.
    fn complete_rows_of(&mut self, proc: ProcId) {
        let run = self.router.seat_of(proc).and_then(|seat| seat.run.clone());
        if let Some(run) = run {
            self.complete(&run, |held| held.proc() == proc);
        }
    }

    fn is_placed(&self, proc: ProcId) -> bool {
        self.router.seat_of(proc).is_some_and(|seat| seat.is_placed)
    }

    fn lose(&mut self, proc: ProcId, rows: u64) {
        self.router.lose(proc, rows);
        self.report_is_due = true;
    }

    /// Writes what waits and commits it. Returns whether all is on the disk, or may stay where it was read from.
    fn flush(&mut self) -> bool {
        // `wandb sync` takes the project that a file names first; so nothing is written before that can be known.
        let is_offline = self.task.settings.mode == Mode::Offline;
        let is_little = self.runs.values().all(|run| run.waiting() < BATCH);
        if is_offline && is_little && self.runs.values().any(RunFile::is_unnamed) {
            return true;
        }
        self.flush_now()
    }

    fn flush_now(&mut self) -> bool {
        let stuck = self.try_flush().err();
        if let Some(error) = stuck.as_ref().filter(|_| self.stuck.is_none()) {
            tracing::warn!(%error, "rows wait in the files of their ranks");
            self.report_is_due = true;
        }
        self.stuck = stuck;
        self.stuck.is_none()
    }

    fn try_flush(&mut self) -> Result<(), String> {
        for run in self.runs.values_mut() {
            let summary = self.summaries.entry(run.id.clone()).or_default();
            let len = run.flush(&self.task.root, summary).map_err(|error| error.to_string())?;
            if (std::mem::take(&mut run.is_touched) || len.is_some())
                && let Some(book) = self.router.book(&run.id)
            {
                self.change.runs.insert(run.id.clone(), book.clone());
            }
            let Some(len) = len else { continue };
            let path = run.path().and_then(|path| path.strip_prefix(&self.task.root).ok());
            let Some(path) = path.map(|path| path.display().to_string()) else { continue };
            let known = self.change.files.get(&path).or_else(|| self.committed.files.get(&path));
            let n = known.map_or(self.files, |known| known.n);
            self.files = self.files.max(n + 1);
            let mark = FileMark { n, run: run.id.clone(), len, is_open: true, shared: run.shared };
            self.change.files.insert(path, mark);
        }
        self.commit()
    }

    fn commit(&mut self) -> Result<(), String> {
        if self.change.is_empty() {
            return Ok(());
        }
        let told = |error: io::Error| format!("cannot write wandb/cursor.jsonl: {error}");
        self.cursor.append(&self.change).map_err(told)?;
        let grown: BTreeSet<_> = self.change.files.values().map(|file| file.run.clone()).collect();
        self.committed.take(std::mem::take(&mut self.change));
        self.cursor.tidy(&self.committed);
        grown.iter().for_each(|run| self.send(run));
        Ok(())
    }
}

impl Worker {
    /// How far a source was read.
    fn position(&self, source: &str) -> Option<Position> {
        self.change.sources.get(source).or_else(|| self.committed.sources.get(source)).copied()
    }

    /// What is committed of a run may be sent, unless it is to stay here.
    fn send(&mut self, run: &str) {
        if self.runs.get(run).is_some_and(RunFile::is_unnamed) {
            return;
        }
        let mut files = self.committed.files.iter().filter(|(_, file)| file.run == run);
        if files.any(|(path, _)| path.starts_with(LOCAL)) {
            return;
        }
        let part = self.router.has_primary(run);
        let sharing = |shared: bool| shared.then_some(Sharing { primary: part, completes: part });
        self.sending.grew(&self.task.root, run, &self.committed, sharing);
    }
}

fn source(proc: ProcId, kind: Kind) -> String {
    format!("{}/{}", rank_name(proc), kind.name())
}

fn rank_name(proc: ProcId) -> String {
    format!("{}-{}", proc.pid, proc.start)
}
