//! The life of one upload: waits, gathers, sends, moves the cursor, and begins again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Progress, Task, Told,
    batch::{Batch, Stop, gather, names_before_rows},
    cursor::{Cursor, Has},
    finish,
    row::Shift,
    source::{Source, behind},
};
use crate::{
    domain::{
        forward::{
            RunState,
            retry::{Pace, Verdict, Waiting},
            row::Row,
        },
        time::Stamp,
    },
    wandb::client::{
        Client, Failure, RunPath,
        documents::{RUN_RESUME_STATUS, SERVER_FEATURES, UPSERT_BUCKET},
    },
};

/// Most bytes of lines in one request: W&B takes about 10 MiB.
const FULL: usize = 9 << 20;
/// So much behind, requests follow each other as fast as they may.
const MUCH: u64 = 1 << 20;
/// Least time between two updates of the config.
const CONFIG_GAP: Duration = Duration::from_secs(5);

/// Sends a run until it is over.
pub(super) async fn send(task: Task) {
    let mut end = task.end.clone();
    let mut sender = Sender::new(task);
    tokio::select! {
        // An error ends it for good; what it was is told already.
        _ = sender.run() => {}
        _ = end.wait_for(|end| *end) => {}
    }
    sender.tell(|progress| progress.over = true);
}

struct Sender {
    task: Task,
    /// What holds on the server and in the cursor's file.
    cursor: Cursor,
    source: Source,
    pace: Pace,
    start: Instant,
    /// When the config was updated last.
    config_at: Option<Duration>,
    files_failures: u32,
}

/// It cannot go on.
struct Over;

impl Sender {
    fn new(task: Task) -> Sender {
        Sender {
            cursor: Cursor::default(),
            source: Source::default(),
            pace: Pace::new(task.job.backoff),
            start: Instant::now(),
            config_at: None,
            files_failures: 0,
            task,
        }
    }

    async fn run(&mut self) -> Result<(), Over> {
        match Cursor::read(&self.task.job.cursor) {
            Ok(cursor) => self.cursor = cursor,
            Err(error) => {
                let text = format!("cannot read {}: {error}", self.task.job.cursor.display());
                return Err(self.refuse(text));
            }
        }
        self.show();
        loop {
            let told = self.task.feed.told();
            let left = behind(&told, &self.cursor);
            let is_idle = left == 0 && !self.cursor.config_due;
            if is_idle && told.closed {
                return Ok(());
            }
            let waiting = match left {
                _ if is_idle => Waiting::Nothing,
                _ if told.closed || left >= MUCH => Waiting::Much,
                _ => Waiting::Some,
            };
            match self.due(waiting, left) {
                Some(due) if due <= self.start.elapsed() => {
                    let was_closed = told.closed;
                    let result = if is_idle {
                        self.heartbeat().await
                    } else {
                        let large = Arc::clone(&self.task.large);
                        let _turn = if left >= MUCH { large.acquire().await.ok() } else { None };
                        self.turn(told).await
                    };
                    match result {
                        Ok(true) => {}
                        // What is left is no whole record, and will not become one.
                        Ok(false) if was_closed => return Ok(()),
                        Ok(false) => self.task.feed.news.notified().await,
                        Err(failure) => self.failed(failure)?,
                    }
                }
                due => self.wait(due).await,
            }
        }
    }

    /// When something has to be sent; `None` when nothing will be until there is news.
    fn due(&self, waiting: Waiting, left: u64) -> Option<Duration> {
        let is_live = self.cursor.place.is_some() && !self.cursor.complete && !self.cursor.begins;
        match waiting {
            Waiting::Nothing if !is_live => None,
            // Only the config waits.
            Waiting::Some | Waiting::Much if left == 0 => {
                let gap = if waiting == Waiting::Much { Duration::ZERO } else { CONFIG_GAP };
                Some(self.pace.due(waiting).max(self.config_at.unwrap_or_default() + gap))
            }
            _ => Some(self.pace.due(waiting)),
        }
    }

    async fn wait(&self, due: Option<Duration>) {
        let news = self.task.feed.news.notified();
        match due {
            Some(due) => {
                tokio::select! {
                    () = tokio::time::sleep_until(self.start + due) => {}
                    () = news => {}
                }
            }
            None => news.await,
        }
    }

    /// The id under which this client writes to a shared run.
    fn shared_id(&self) -> Option<&str> {
        self.task.job.sharing.map(|_| self.cursor.client.as_str())
    }

    fn is_primary(&self) -> bool {
        self.task.job.sharing.is_none_or(|sharing| sharing.primary)
    }

    /// Sends what fits into one request. False when there was nothing in it.
    async fn turn(&mut self, told: Told) -> Result<bool, Failure> {
        let closed = told.closed;
        let segments = told.segments.clone();
        self.source.seek(told, &self.cursor);
        let Batch { mut next, mut body, stop } =
            gather(&mut self.source, &self.cursor, FULL).map_err(|failure| Failure {
                verdict: Verdict::Again,
                wait: None,
                status: None,
                text: failure.to_string(),
            })?;
        if stop == Stop::Begins {
            if next.place.is_none() {
                // A run cannot move to the project that it is said to be in later.
                let mut ahead = Source::default();
                ahead.seek(self.task.feed.told(), &next);
                names_before_rows(&mut ahead, &mut next);
            }
            self.begin(&mut next).await?;
            self.keep(next);
            return Ok(true);
        }
        let moved = (next.segment, next.offset) != (self.cursor.segment, self.cursor.offset);
        if next.begins {
            // Nothing but records that come before the run's own.
            let is_news = moved;
            self.cursor = next;
            return Ok(is_news);
        }
        let ends = stop == Stop::Ends;
        let config_is_due =
            closed || ends || self.config_at.is_none_or(|at| self.start.elapsed() >= at + CONFIG_GAP);
        if next.config_due && config_is_due {
            self.upsert(&mut next).await?;
        }
        if ends {
            self.finish(&mut next, &segments, &mut body).await?;
        }
        if next.summary_due && next.place.is_some() {
            body.summary = Some(next.summary_line());
            next.summary_due = false;
        }
        let is_something = moved || next.config_due != self.cursor.config_due;
        if !body.is_empty() {
            self.stream(&next, body).await?;
        }
        self.keep(next);
        Ok(is_something)
    }

    async fn heartbeat(&mut self) -> Result<bool, Failure> {
        let cursor = self.cursor.clone();
        self.stream(&cursor, super::body::Body::default()).await?;
        self.show();
        Ok(true)
    }

    async fn stream(&mut self, next: &Cursor, body: super::body::Body) -> Result<(), Failure> {
        let Some(place) = next.place.clone() else { return Ok(()) };
        self.pace.sent(self.start.elapsed());
        let taken = self.task.client.stream(&place, body.into_bytes(), self.shared_id()).await?;
        self.pace.done(taken.limit);
        self.tell(|progress| {
            progress.stopped |= taken.stopped;
            progress.run.last_ack_at = Some(now());
            progress.run.last_error = None;
            progress.run.retry_at = None;
        });
        Ok(())
    }

    /// The run begins or goes on: the server is told, and asked where to go on.
    async fn begin(&mut self, next: &mut Cursor) -> Result<(), Failure> {
        let is_new = next.place.is_none();
        if is_new {
            next.structured = self.takes_structured_lines().await?;
            if self.task.job.sharing.is_none() {
                self.resume(next).await?;
            }
        }
        let lines = self.upsert(next).await?;
        if is_new && self.task.job.sharing.is_some() {
            // This client's rows come after those that the run has already.
            next.history = lines;
        }
        (next.begins, next.complete, next.has_files, next.exit_code) = (false, false, false, None);
        self.pace.done(None);
        Ok(())
    }

    async fn takes_structured_lines(&self) -> Result<bool, Failure> {
        let answer = match self.task.client.query(SERVER_FEATURES, json!({}), self.shared_id()).await {
            // An old server knows no features.
            Err(failure) if failure.verdict == Verdict::Refused && failure.status != Some(401) => {
                return Ok(false);
            }
            other => other?,
        };
        let features = answer["serverInfo"]["features"].as_array().into_iter().flatten();
        Ok(features
            .into_iter()
            .any(|feature| feature["name"] == "STRUCTURED_CONSOLE_LOGS" && feature["isEnabled"] == true))
    }

    /// Asks what the server has of the run. Rows are only ever added to it: those that are there were sent by an earlier
    /// job, or by us, if the cursor was lost.
    async fn resume(&mut self, next: &mut Cursor) -> Result<(), Failure> {
        let about = &next.about;
        let or_null = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
        let variables =
            json!({"project": or_null(&about.project), "entity": or_null(&about.entity), "name": about.id});
        let answer = match self.task.client.query(RUN_RESUME_STATUS, variables, None).await {
            // The project is not there yet; whether the entity is, UpsertBucket tells.
            Err(failure) if failure.status == Some(404) => return Ok(()),
            other => other?,
        };
        let bucket = &answer["model"]["bucket"];
        let parsed = |key: &str| -> Value {
            let text = bucket[key].as_str().unwrap_or("null");
            Row::parse(text.as_bytes()).map_or_else(
                || serde_json::from_str(text).unwrap_or_default(),
                |row| row.items.iter().map(|item| (item.key.to_string(), Value::from(item.value))).collect(),
            )
        };
        if bucket.is_null() || parsed("wandbConfig").get("t").is_none() {
            return Ok(());
        }
        let count = |key: &str| bucket[key].as_u64().unwrap_or(0);
        let has = Has {
            history: count("historyLineCount"),
            events: count("eventsLineCount"),
            console: count("logLineCount"),
        };
        let tail = |key: &str| -> Option<String> {
            serde_json::from_str::<Vec<String>>(bucket[key].as_str()?).ok()?.pop()
        };
        let last = tail("historyTail");
        match last.as_deref().and_then(|last| self.known_rows(next, last)) {
            // The server has nothing but what is in these files.
            Some((rows, shift)) if rows == has.history => {
                (next.has, next.shift) = (has, shift);
                return Ok(());
            }
            Some((rows, shift)) => {
                (next.known_rows, next.shift) = (rows, shift);
                (next.history, next.events, next.console) = (has.history, has.events, has.console);
                return Ok(());
            }
            None => {}
        }
        (next.history, next.events, next.console) = (has.history, has.events, has.console);
        let last = last.unwrap_or_default();
        let of_tail = |text: &str, key: &str| Row::parse(text.as_bytes()).and_then(|row| row.number(key));
        let summary = bucket["summaryMetrics"].as_str().unwrap_or_default();
        let last_step = [of_tail(summary, "_step"), of_tail(&last, "_step"), Some(has.history as f64 - 1.0)];
        next.first_step = last_step.into_iter().flatten().map(|step| step as i64 + 1).max();
        let event = tail("eventsTail").unwrap_or_default();
        let times = [of_tail(summary, "_runtime"), of_tail(&last, "_runtime"), of_tail(&event, "_runtime")];
        next.shift.runtime = times.into_iter().flatten().fold(0.0, f64::max);
        next.about.keep(bucket["config"].as_str().unwrap_or_default(), &bucket["tags"], &bucket["notes"]);
        Ok(())
    }

    /// Rows of our files up to the last one on the server, which was sent without this cursor, and how they were
    /// shifted. `None` if it is not ours. Rows are told by their times, which no two have in common.
    fn known_rows(&self, cursor: &Cursor, last: &str) -> Option<(u64, Shift)> {
        let last = Row::parse(last.as_bytes())?;
        let time = last.number("_timestamp")?;
        let mut from = cursor.clone();
        (from.segment, from.offset) = (0, 0);
        let mut source = Source::default();
        source.seek(self.task.feed.told(), &from);
        let (rows, ours) = super::batch::rows_up_to(&mut source, &from, |line| {
            Row::parse(line.as_bytes()).is_some_and(|row| row.number("_timestamp") == Some(time))
        })?;
        let ours = Row::parse(ours.as_bytes())?;
        let more = |key: &str| Some(last.number(key)? - ours.number(key)?);
        let step = more("_step").unwrap_or(0.0) as i64;
        Some((rows, Shift { step, runtime: more("_runtime").unwrap_or(0.0) }))
    }

    /// Tells the server what the run is; gives how many rows it has.
    async fn upsert(&mut self, next: &mut Cursor) -> Result<u64, Failure> {
        let mut variables = next.about.upsert(&next.client, self.is_primary());
        if let Some(place) = &next.place {
            (variables["entity"], variables["project"]) = (json!(place.entity), json!(place.project));
        }
        let answer = self.task.client.query(UPSERT_BUCKET, variables, self.shared_id()).await?;
        let bucket = &answer["upsertBucket"]["bucket"];
        let text = |value: &Value, or: &str| value.as_str().unwrap_or(or).to_owned();
        let project = &bucket["project"];
        next.place = Some(RunPath {
            entity: text(&project["entity"]["name"], &next.about.entity),
            project: text(&project["name"], &next.about.project),
            run: text(&bucket["name"], &next.about.id),
        });
        next.bucket = text(&bucket["id"], "");
        next.config_due = false;
        self.config_at = Some(self.start.elapsed());
        Ok(bucket["historyLineCount"].as_u64().unwrap_or(0))
    }

    /// The run ends: its files, and the last word, which goes with the last rows.
    async fn finish(
        &mut self,
        next: &mut Cursor,
        segments: &[std::path::PathBuf],
        body: &mut super::body::Body,
    ) -> Result<(), Failure> {
        self.tell(|progress| progress.run.state = RunState::Finishing);
        if self.is_primary() && !next.has_files {
            match finish::store(&self.task.client, next, segments, self.shared_id()).await {
                Ok((stored, trouble)) => {
                    next.stored = stored;
                    next.left_out.extend(trouble.map(|why| (format!("file of the run ({why})"), 1)));
                }
                // Storage that is broken for long must not keep the run open.
                Err(failure) if self.files_failures < FILE_TRIES => {
                    self.files_failures += 1;
                    if self.files_failures == 1 && !body.is_empty() {
                        // Rows do not wait for storage; they come again, the same ones, with the last word.
                        self.stream(next, body.clone()).await?;
                    }
                    return Err(failure);
                }
                Err(_) => next.left_out.extend([("file of the run".to_owned(), 1)]),
            }
            next.has_files = true;
        }
        body.uploaded = std::mem::take(&mut next.stored);
        if self.task.job.sharing.is_none_or(|sharing| sharing.completes) {
            body.complete = next.exit_code;
        }
        next.complete = true;
        Ok(())
    }

    /// Moves the cursor. Where the disk refuses, it is as good as a crash after the answer: the request is sent again.
    fn keep(&mut self, next: Cursor) {
        let kept = next.keep(&self.task.job.cursor);
        self.cursor = next;
        self.show();
        if let Err(error) = kept {
            let text = format!("cannot write {}: {error}", self.task.job.cursor.display());
            self.tell(|progress| progress.run.last_error = Some(text));
        }
    }

    /// Plans the next try, or gives up.
    fn failed(&mut self, failure: Failure) -> Result<(), Over> {
        if failure.verdict == Verdict::Refused {
            return Err(self.refuse(failure.text));
        }
        let now_here = self.start.elapsed();
        let at = self.pace.failed(now_here, failure.wait, fastrand::f64());
        let text = failure.text;
        self.tell(|progress| {
            progress.run.state = RunState::Retrying;
            progress.run.retry_at = Some(now() + at.saturating_sub(now_here));
            progress.run.last_error = Some(text);
        });
        Ok(())
    }

    fn refuse(&mut self, text: String) -> Over {
        self.tell(|progress| {
            progress.run.state = RunState::Refused;
            progress.run.retry_at = None;
            progress.run.last_error = Some(text);
        });
        Over
    }

    /// Shows where the cursor is.
    fn show(&self) {
        let cursor = &self.cursor;
        let state = match cursor {
            cursor if cursor.complete => RunState::Finished,
            cursor if cursor.place.is_some() => RunState::Sending,
            _ => RunState::Waiting,
        };
        let link = cursor.place.as_ref().map(|place| link(&self.task.client, place));
        self.tell(|progress| {
            progress.run.state = state;
            progress.run.rows_acked = cursor.rows;
            progress.run.rows_logged = progress.run.rows_logged.max(cursor.rows + cursor.lost);
            progress.run.rows_lost = cursor.lost;
            progress.run.not_forwarded = cursor.not_forwarded();
            progress.run.link = link.flatten();
            progress.place = cursor.place.as_ref().map(|place| (place.entity.clone(), place.project.clone()));
        });
    }

    fn tell(&self, change: impl FnOnce(&mut Progress)) {
        self.task.progress.send_modify(change);
    }
}

/// Tries to store a run's files.
const FILE_TRIES: u32 = 20;

fn link(client: &Client, place: &RunPath) -> Option<String> {
    use crate::domain::resolve::{Given, run_link};
    let given = |value: &str| Given::new("W&B", value);
    run_link(&given(client.base_url()), &given(&place.entity), &given(&place.project), &place.run)
}

/// The clock, for what people see.
fn now() -> Stamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Stamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
