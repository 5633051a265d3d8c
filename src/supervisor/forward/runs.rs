//! One `.wandb` file: what waits to be written to it, and what its run is about.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    domain::{
        event::JobInfo,
        forward::{
            Settings, Source, figures::Figure, router::OWN_STEP, router::Stamped, row::Row, summary::Summary,
        },
        resolve::{Facts, Given},
        time::Stamp,
    },
    wandb::{
        log::{
            Batch, Entry, Failure, Reader, Writer,
            record::{
                Changes, Environment, Exit, Header, Item, Kind, Metric, MetricOptions, Output, Run, Stats,
                Telemetry, VersionInfo,
            },
        },
        upload::Job,
    },
};

/// Pattern of the metrics that elastictop itself adds to rows.
const OWN: &str = "elastictop/*";
/// Position of the record about the run itself in a file.
const OF_RUN: usize = 1;
/// The SDK's name for no project.
const NO_PROJECT: &str = "uncategorized";
/// How long a run is kept from the server until its script may have said which project it is for. A run cannot move.
const NAMED_WITHIN: Duration = Duration::from_secs(300);
/// The same once it has a row: a `wandb.init()` just before it is read a second later.
const NAMED_AFTER_ROW: Duration = Duration::from_secs(3);

/// A run that is written to.
#[derive(Debug)]
pub struct RunFile {
    /// Its id.
    pub id: String,
    /// Whether it is shared.
    pub shared: bool,
    /// Whether it is never sent: figures of a node where no rank logs.
    pub is_local: bool,
    /// When the run began for the first time.
    pub began_at: Stamp,
    /// The start that this file tells of.
    started_at: Stamp,
    writer: Option<Writer>,
    batch: Batch,
    /// Step, time and runtime of the last row.
    last: Option<[String; 3]>,
    /// Seconds since the run began, of what was logged last.
    runtime: f64,
    texts: [String; 3],
    has_exit: bool,
    /// What the file says of the run, names of the script included.
    said: Run,
    /// Since when it waits for names; `None` once nothing more is waited for.
    unnamed_since: Option<Instant>,
    /// When its first row was added.
    row_at: Option<Instant>,
    /// Whether what is known of the run changed since the last commit, though its file may not have.
    pub is_touched: bool,
}

/// What a file says of its run.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The job.
    pub job: &'a JobInfo,
    /// What was decided about metrics.
    pub settings: &'a Settings,
    /// The run's group.
    pub group: Option<&'a str>,
    /// What its name ends with, so that runs of one job can be told apart.
    pub suffix: &'a str,
    /// The step that follows.
    pub next_step: u64,
    /// Whether the run has files before this one.
    pub is_resumed: bool,
}

impl RunFile {
    /// A run that begins, or goes on, at `now`. Its file is made when something is written.
    pub fn begin(
        id: &str,
        shared: bool,
        began_at: Stamp,
        now: Stamp,
        about: About<'_>,
        summary: &Summary,
    ) -> RunFile {
        // Runtimes count whole seconds of the time before: the start is put back by the rest.
        let before = now.0.saturating_sub(began_at.0);
        let started_at = Stamp(now.0 - before % 1000);
        let mut file = RunFile::of(id, shared, began_at, started_at);
        file.runtime = before as f64 / 1000.0;
        file.said = run(id, started_at, (before / 1000) as i32, about);
        if may_be_named(about.settings) && !about.is_resumed {
            file.unnamed_since = Some(Instant::now());
        }
        file.push(&Kind::Header(header()));
        file.push(&Kind::Run(Box::new(file.said.clone())));
        file.push(&Kind::Environment(Box::new(environment(about.job, began_at))));
        file.push(&Kind::Metric(Metric {
            glob_name: OWN.into(),
            step_metric: "_timestamp".into(),
            options: Some(MetricOptions { step_sync: true, hidden: false, defined: true }),
            ..Metric::default()
        }));
        if about.is_resumed {
            file.push(&Kind::Summary(Changes::of(summary.iter().map(|(key, value)| ([key], value)))));
        }
        file
    }

    /// A run whose file is there already, cut to what is committed of it. Gives what its summary was.
    ///
    /// # Errors
    /// The file cannot be opened, read or cut.
    pub fn reopen(
        path: &Path,
        len: u64,
        (id, shared, began_at): (&str, bool, Stamp),
        settings: &Settings,
        summary: &mut Summary,
    ) -> Result<RunFile, Failure> {
        let (said, rows) = read_summary(path, len, summary)?;
        let mut file = RunFile::of(id, shared, began_at, began_at);
        file.said = said.unwrap_or_default();
        if may_be_named(settings) && rows == 0 && !Job::cursor_of(path).exists() {
            file.unnamed_since = Some(Instant::now());
        }
        file.writer = Some(Writer::reopen(path, len)?);
        Ok(file)
    }

    fn of(id: &str, shared: bool, began_at: Stamp, started_at: Stamp) -> RunFile {
        RunFile {
            id: id.to_owned(),
            shared,
            is_local: false,
            began_at,
            started_at,
            writer: None,
            batch: Batch::new(),
            last: None,
            runtime: 0.0,
            texts: Default::default(),
            has_exit: false,
            said: Run::default(),
            unnamed_since: None,
            row_at: None,
            is_touched: false,
        }
    }

    /// Where its file is, once there is one.
    pub fn path(&self) -> Option<&Path> {
        self.writer.as_ref().map(Writer::path)
    }

    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        self.batch.bytes()
    }

    /// Adds a record. One that no reader would take is left out; returns whether it was added.
    pub fn push(&mut self, kind: &Kind) -> bool {
        self.batch.push(kind).is_ok()
    }

    /// Whether the server should not hear of it yet: where it belongs may still be said.
    pub fn is_unnamed(&self) -> bool {
        let is_late = self.row_at.is_some_and(|at| at.elapsed() >= NAMED_AFTER_ROW);
        self.unnamed_since.is_some_and(|since| since.elapsed() < NAMED_WITHIN) && !is_late
    }

    /// Takes the names that a script has in its `wandb.init()` where nobody else has given any. The name of a project that
    /// came too late is given back.
    pub fn name(&mut self, script: &Run, facts: &Facts, suffix: &str) -> Option<String> {
        let is_first = self.is_unnamed();
        self.unnamed_since = None;
        let before = self.said.clone();
        let said = &mut self.said;
        let take = |to: &mut String, from: &String, is_given: bool| {
            if !is_given && !from.is_empty() {
                to.clone_from(from);
            }
        };
        let name = named(&script.display_name, suffix);
        take(&mut said.display_name, &name, facts.name.is_some());
        take(&mut said.notes, &script.notes, facts.notes.is_some());
        take(&mut said.job_type, &script.job_type, facts.job_type.is_some());
        if facts.tags.is_empty() && !script.tags.is_empty() {
            said.tags.clone_from(&script.tags);
        }
        let mut late = None;
        if facts.project.is_none() && script.project != NO_PROJECT && script.project != said.project {
            if is_first {
                take(&mut said.project, &script.project, false);
            } else {
                late = Some(script.project.clone()).filter(|project| !project.is_empty());
            }
        }
        take(&mut said.entity, &script.entity, is_given(facts.entity.as_ref()) || !is_first);
        if self.said != before {
            let said = Kind::Run(Box::new(self.said.clone()));
            // `wandb sync` takes the project that it meets first.
            let is_written = self.writer.is_some() || self.batch.replace(OF_RUN, &said).is_err();
            if is_written {
                self.push(&said);
            }
        }
        late
    }

    /// Adds a row. Returns whether it was added.
    pub fn row(&mut self, row: &Row<'_>, stamped: &Stamped<'_>) -> bool {
        use std::fmt::Write;
        let [step, timestamp, runtime] = &mut self.texts;
        for (text, value) in [(&mut *timestamp, stamped.timestamp), (&mut *runtime, stamped.runtime)] {
            text.clear();
            // With a point even where none is needed: W&B takes these as floats. Writing to a string cannot fail.
            let _ = write!(text, "{value:?}");
        }
        step.clear();
        let _ = write!(step, "{}", stamped.step);
        let own = stamped.own_step.map(|own| (OWN_STEP, own));
        let set =
            [("_timestamp", timestamp.as_str()), ("_runtime", runtime.as_str()), ("_step", step.as_str())];
        let items = row.items.iter().map(|item| (item.key.as_ref(), item.value));
        let is_added = self.batch.row(items.chain(own).chain(set)).is_ok();
        if is_added {
            self.row_at.get_or_insert_with(Instant::now);
            self.last.get_or_insert_default().clone_from(&self.texts);
            self.runtime = self.runtime.max(stamped.runtime);
        }
        is_added
    }

    /// Adds a line of the console.
    pub fn console(&mut self, is_error: bool, label: Option<String>, now: Stamp, line: String) {
        let output_type = if is_error { Output::STDERR } else { Output::STDOUT };
        self.push(&Kind::Output(Output {
            output_type,
            timestamp: Some(now.into()),
            line,
            label: label.unwrap_or_default(),
        }));
        self.runtime = self.runtime.max(now.since(self.began_at).as_secs_f64());
    }

    /// Adds figures.
    pub fn figures(&mut self, now: Stamp, figures: &[Figure]) {
        let items =
            figures.iter().map(|(name, value)| Item::new([name.as_str()], value.to_string())).collect();
        self.push(&Kind::Stats(Stats { stats_type: 0, timestamp: Some(now.into()), items }));
        self.runtime = self.runtime.max(now.since(self.began_at).as_secs_f64());
    }

    /// Adds the end.
    pub fn exit(&mut self, now: Stamp, exit_code: i32) {
        // Told again when the disk was full the first time.
        if std::mem::replace(&mut self.has_exit, true) {
            return;
        }
        self.unnamed_since = None;
        let runtime = now.since(self.began_at).as_secs() as i32;
        self.push(&Kind::Exit(Exit { exit_code, runtime }));
    }

    /// Writes what waits, with what of the summary changed. Gives the length of the file, `None` when there was
    /// nothing to write.
    ///
    /// # Errors
    /// The disk refuses; nothing is lost, and it can be tried again.
    pub fn flush(&mut self, root: &Path, summary: &mut Summary) -> Result<Option<u64>, Failure> {
        if summary.has_changes() {
            self.add_summary(summary);
        }
        if self.batch.is_empty() {
            return Ok(None);
        }
        if self.writer.is_none() {
            let writer = Writer::create(&self.folder(root), &self.id, self.started_at)?;
            if !self.is_local {
                // Without the link leet asks which run is meant.
                let _ = writer.link_latest();
            }
            self.writer = Some(writer);
        }
        let Some(writer) = &mut self.writer else { return Ok(None) };
        let len = writer.append(&self.batch)?;
        self.batch.clear();
        Ok(Some(len))
    }

    /// Those that are never sent lie apart, so that no tool sends them by mistake.
    fn folder(&self, root: &Path) -> PathBuf {
        if self.is_local { root.join(super::worker::LOCAL) } else { root.to_owned() }
    }

    fn add_summary(&mut self, summary: &mut Summary) {
        let mut changes = Changes::default();
        summary.take_changes(|key, value| match value {
            Some(value) => changes.update.push(Item::new([key], value)),
            None => changes.remove.push(Item::new([key], "")),
        });
        for (key, value) in ["_step", "_timestamp", "_runtime"].iter().zip(self.last.iter().flatten()) {
            changes.update.push(Item::new([*key], value.as_str()));
        }
        changes.update.push(Item::new(["_wandb"], format!("{{\"runtime\":{}}}", self.runtime as u64)));
        self.push(&Kind::Summary(changes));
    }
}

/// Whether a script may still say which project or entity a run is for.
fn may_be_named(settings: &Settings) -> bool {
    let facts = &settings.facts;
    let has_gap = facts.project.is_none() || !is_given(facts.entity.as_ref());
    has_gap && settings.sources.has(Source::Sdk)
}

/// Whether somebody gave a value, rather than that it was found out.
fn is_given(value: Option<&Given>) -> bool {
    value.is_some_and(|given| given.from != Given::OF_KEY)
}

/// Takes over what a file says of the summary, and gives the last that it says of the run itself, and how many rows it has.
///
/// # Errors
/// The file cannot be read.
pub fn read_summary(path: &Path, len: u64, summary: &mut Summary) -> Result<(Option<Run>, u64), Failure> {
    let mut reader = Reader::open(path, 0)?;
    let (mut said, mut rows) = (None, 0);
    while let Some(entry) = reader.next_before(len)? {
        let Entry::Record(found) = entry else { continue };
        let changes = match found.record.kind {
            Some(Kind::Summary(changes)) => changes,
            Some(Kind::Run(run)) => {
                said = Some(*run);
                continue;
            }
            Some(Kind::History(_)) => {
                rows += 1;
                continue;
            }
            _ => continue,
        };
        for item in changes.update {
            // A key of several parts is one of the SDK's nested ones, which is kept under its first part.
            summary.set(&item.path().join("."), item.json());
        }
        changes.remove.iter().for_each(|item| summary.remove(&item.path().join(".")));
    }
    summary.take_changes(|_, _| {});
    Ok((said, rows))
}

/// A run's name. Where nobody gave one, W&B makes one up.
fn named(name: &str, suffix: &str) -> String {
    if name.is_empty() { String::new() } else { format!("{name}{suffix}") }
}

fn header() -> Header {
    let producer = concat!("elastictop ", env!("CARGO_PKG_VERSION")).into();
    Header { version_info: Some(VersionInfo { producer, min_consumer: "0.40.0".into() }) }
}

fn run(id: &str, started_at: Stamp, runtime: i32, about: About<'_>) -> Run {
    let facts = &about.settings.facts;
    let value = |given: &Option<crate::domain::resolve::Given>| {
        given.as_ref().map(|given| given.value.clone()).unwrap_or_default()
    };
    Run {
        run_id: id.into(),
        entity: value(&facts.entity),
        project: value(&facts.project),
        run_group: about.group.unwrap_or_default().into(),
        display_name: named(&value(&facts.name), about.suffix),
        tags: facts.tags.iter().map(|tag| tag.value.clone()).collect(),
        notes: value(&facts.notes),
        job_type: value(&facts.job_type),
        sweep_id: value(&facts.sweep),
        host: about.job.node.clone(),
        starting_step: about.next_step as i64,
        start_time: Some(started_at.into()),
        resumed: about.is_resumed,
        telemetry: Some(Telemetry {
            cli_version: concat!("elastictop-", env!("CARGO_PKG_VERSION")).into(),
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            ..Telemetry::default()
        }),
        runtime,
        // The job may be started anew under the same id, or switch away and back: what is there stays there.
        resume: true,
        ..Run::default()
    }
}

fn environment(job: &JobInfo, began_at: Stamp) -> Environment {
    let (program, args) = match job.command.split_first() {
        Some((program, args)) => (program.clone(), args.to_vec()),
        None => Default::default(),
    };
    let cores = crate::probe::host::cores();
    Environment {
        os: std::env::consts::OS.into(),
        started_at: Some(began_at.into()),
        args,
        program,
        root: job.cwd.clone(),
        host: job.node.clone(),
        cpu_count: cores,
        cpu_count_logical: cores,
        ..Environment::default()
    }
}
