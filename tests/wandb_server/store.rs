//! What the server keeps of each run, and the rules that a client must follow.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::graphql::finite;

/// Most bytes of one line.
const LONGEST_LINE: usize = (10 << 20) - (100 << 10);
/// Console lines that a client may still change.
const EDITABLE: usize = 32;

/// Everything that was received.
#[derive(Debug, Default, Serialize)]
pub struct Store {
    /// By `entity/project/run id`.
    pub runs: BTreeMap<String, Run>,
    /// Broken rules, in words.
    pub violations: Vec<String>,
    /// How often each kind of request came: `UpsertBucket`, `file_stream`, `PUT`.
    pub requests: BTreeMap<String, u64>,
    /// How often a fault was played.
    pub faults: u64,
    /// Bytes of file_stream bodies.
    pub stream_bytes: u64,
    /// When each file_stream request came, in milliseconds since the start.
    pub stream_times: Vec<u64>,
    /// Whether rows are only counted and compared, not read: for benchmarks.
    #[serde(skip)]
    pub cheap: bool,
    #[serde(skip)]
    pub late_clients: bool,
}

/// One run.
#[derive(Debug, Default, Serialize)]
pub struct Run {
    /// Opaque id.
    pub id: String,
    pub entity: String,
    pub project: String,
    pub name: String,
    pub display_name: Option<String>,
    pub group: Option<String>,
    pub job_type: Option<String>,
    pub sweep: Option<String>,
    pub notes: Option<String>,
    pub tags: Vec<String>,
    pub config: Map<String, Value>,
    /// The summary, merged over clients.
    pub summary: Map<String, Value>,
    /// By client id; that of a run outside of shared mode is empty.
    pub clients: BTreeMap<String, Client>,
    pub complete: bool,
    pub exit_code: Option<i64>,
    /// Uploaded files, as text.
    pub files: BTreeMap<String, String>,
    /// Names reported in `uploaded`.
    pub uploaded: Vec<String>,
    pub heartbeats: u64,
    pub upserts: u64,
}

/// What one client sent.
#[derive(Debug, Default, Serialize)]
pub struct Client {
    pub history: Stream,
    pub events: Stream,
    pub console: Stream,
    /// Lines of history that the run had when this client last upserted it.
    pub joined_at: usize,
}

/// Lines of one file.
#[derive(Debug, Default, Serialize)]
pub struct Stream {
    /// Offset of the first one.
    pub start: usize,
    pub lines: Vec<String>,
    /// Equal lines that came again.
    pub repeated: usize,
    /// Console lines that were changed.
    pub edited: usize,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    files: BTreeMap<String, Chunk>,
    #[serde(default)]
    uploaded: Vec<String>,
    complete: Option<bool>,
    exitcode: Option<i64>,
}

#[derive(Deserialize)]
struct Chunk {
    offset: usize,
    content: Vec<String>,
}

impl Run {
    /// Lines of history of all clients.
    pub fn history_lines(&self) -> usize {
        self.clients.values().map(|client| client.history.lines.len()).sum()
    }

    /// Rows of a client, read.
    pub fn rows(&self, client: &str) -> Vec<Map<String, Value>> {
        self.clients.get(client).map_or_else(Vec::new, |client| {
            client
                .history
                .lines
                .iter()
                .map(|line| serde_json::from_str(&finite(line)).expect("a row"))
                .collect()
        })
    }

    /// What `bucket` answers.
    pub fn bucket(&self) -> Value {
        let tail = |pick: fn(&Client) -> &Stream| {
            let lines = self.clients.values().filter_map(|client| pick(client).lines.last());
            json!(json!(lines.collect::<Vec<_>>()).to_string())
        };
        let count = |pick: fn(&Client) -> &Stream| -> usize {
            self.clients
                .values()
                .map(|client| pick(client).start + pick(client).lines.len())
                .max()
                .unwrap_or(0)
        };
        let telemetry = self.config.get("_wandb").and_then(|w| w["value"].get("t")).cloned();
        json!({
            "id": self.id, "name": self.name, "displayName": self.display_name, "description": null,
            "notes": self.notes, "tags": self.tags, "sweepName": null, "group": self.group,
            "jobType": self.job_type, "stopped": false, "exitcode": self.exit_code,
            "config": Value::Object(self.config.clone()).to_string(),
            "wandbConfig": telemetry.map_or(json!({}), |t| json!({"t": t})).to_string(),
            "summaryMetrics": Value::Object(self.summary.clone()).to_string(),
            "historyLineCount": self.history_lines(),
            "eventsLineCount": count(|client| &client.events),
            "logLineCount": count(|client| &client.console),
            "historyTail": tail(|client| &client.history), "eventsTail": tail(|client| &client.events),
            "project": {"id": "p", "name": self.project, "entity": {"id": "e", "name": self.entity}},
        })
    }
}

impl Store {
    /// Notes a broken rule.
    pub fn violation(&mut self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("wandb_server: violation: {text}");
        self.violations.push(text);
    }

    /// `upsertBucket`, and whether the run is new.
    pub fn upsert(
        &mut self,
        input: &Map<String, Value>,
        entity: &str,
        client: &str,
    ) -> Result<Value, String> {
        let text = |key: &str| input.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        for (key, most) in
            [("name", 128), ("modelName", 128), ("groupName", 128), ("displayName", 128), ("jobType", 64)]
        {
            if text(key).is_some_and(|text| text.len() > most) {
                return Err(format!("invalid parameters: {most} limit exceeded for {key}"));
            }
        }
        let by_id = text("id").and_then(|id| self.runs.iter().find(|(_, run)| run.id == id));
        let name = match (by_id, text("name")) {
            (Some((_, run)), _) => run.name.clone(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => return Err("a run needs a name".into()),
        };
        if name.contains([':', ';', ',', '#', '?', '/', '\'']) {
            return Err(format!("invalid run name {name}"));
        }
        let project = text("modelName").unwrap_or("uncategorized").to_owned();
        let key = format!("{entity}/{project}/{name}");
        let inserted = !self.runs.contains_key(&key);
        let run = self.runs.entry(key.clone()).or_default();
        run.upserts += 1;
        (run.id, run.entity, run.project, run.name) = (format!("Run:{key}"), entity.into(), project, name);
        let optional = |key: &str, was: &mut Option<String>| {
            if let Some(new) = text(key) {
                *was = Some(new.to_owned());
            }
        };
        optional("displayName", &mut run.display_name);
        optional("groupName", &mut run.group);
        optional("jobType", &mut run.job_type);
        optional("sweep", &mut run.sweep);
        optional("notes", &mut run.notes);
        if let Some(tags) = input.get("tags").and_then(Value::as_array) {
            run.tags = tags.iter().filter_map(|tag| Some(tag.as_str()?.to_owned())).collect();
        }
        if let Some(config) = text("config") {
            let config: Value = serde_json::from_str(&finite(config)).map_err(|error| error.to_string())?;
            let config = config.as_object().ok_or("config is no object")?;
            if let Some(bad) = config.iter().find(|(_, value)| value.get("value").is_none()) {
                return Err(format!("config value {} is not wrapped", bad.0));
            }
            run.config.extend(config.clone());
        }
        let lines = run.history_lines();
        run.clients.entry(client.to_owned()).or_default().joined_at = lines;
        run.complete = false;
        Ok(json!({"inserted": inserted, "bucket": run.bucket()}))
    }

    /// One file_stream request; the answer is its status.
    pub fn stream(&mut self, key: &str, client: &str, shared: bool, body: &[u8]) -> u16 {
        self.stream_bytes += body.len() as u64;
        let body: Body = match serde_json::from_slice(body) {
            Ok(body) => body,
            Err(error) => {
                self.violation(format!("{key}: file_stream body: {error}"));
                return 400;
            }
        };
        let (cheap, late_clients) = (self.cheap, self.late_clients);
        let Some(run) = self.runs.get_mut(key) else {
            self.violation(format!("{key}: file_stream before UpsertBucket"));
            return 404;
        };
        let mut wrong = Vec::new();
        let was_complete = run.complete;
        let of = run.clients.entry(client.to_owned()).or_default();
        let before = of.history.lines.len() + of.events.lines.len() + of.console.lines.len();
        let nothing = body.files.is_empty() && body.uploaded.is_empty() && body.complete.is_none();
        for (name, chunk) in body.files {
            if let Some(long) = chunk.content.iter().find(|line| line.len() > LONGEST_LINE) {
                wrong.push(format!("{name}: a line of {} bytes", long.len()));
            }
            if chunk.content.is_empty() {
                wrong.push(format!("{name}: no content"));
            }
            match name.as_str() {
                "wandb-history.jsonl" => {
                    let joined = of.joined_at;
                    let added = of.history.take(chunk, if shared { joined } else { 0 }, false);
                    match added {
                        Ok(from) if !cheap => wrong.extend(of.history.steps(from, shared)),
                        Ok(_) => {}
                        Err(why) => wrong.push(format!("{name}: {why}")),
                    }
                }
                "wandb-events.jsonl" => match of.events.take(chunk, usize::MAX, false) {
                    Ok(from) => wrong.extend(of.events.objects(from)),
                    Err(why) => wrong.push(format!("{name}: {why}")),
                },
                "output.log" => {
                    let taken = of.console.take(chunk, usize::MAX, true);
                    wrong.extend(taken.err().map(|why| format!("{name}: {why}")));
                }
                "wandb-summary.json" => {
                    let line = chunk.content.first().map(|line| finite(line)).unwrap_or_default();
                    match serde_json::from_str(&line) {
                        Ok(Value::Object(summary)) if chunk.offset == 0 && chunk.content.len() == 1 => {
                            if shared {
                                run.summary.extend(summary);
                            } else {
                                run.summary = summary;
                            }
                        }
                        _ => wrong.push(format!("{name}: not one whole object at offset 0")),
                    }
                }
                other => wrong.push(format!("{other}: unknown file")),
            }
        }
        let after = of.history.lines.len() + of.events.lines.len() + of.console.lines.len();
        if was_complete && after > before && !(shared && late_clients) {
            wrong.push("data after complete".into());
        }
        if nothing {
            run.heartbeats += 1;
        }
        for name in body.uploaded {
            if !run.files.contains_key(&name) {
                wrong.push(format!("{name} is reported as uploaded, but is not"));
            }
            run.uploaded.push(name);
        }
        if body.complete == Some(true) {
            if was_complete && run.exit_code != body.exitcode {
                wrong.push(format!("completed again with another exit code: {:?}", body.exitcode));
            }
            if body.exitcode.is_none() {
                wrong.push("complete without an exit code".into());
            }
            (run.complete, run.exit_code) = (true, body.exitcode);
        }
        let fine = wrong.is_empty();
        wrong.into_iter().for_each(|why| self.violation(format!("{key} ({client}): {why}")));
        if fine { 200 } else { 400 }
    }
}

impl Stream {
    /// Takes lines in; gives the index of the first new one. A first line may have any offset up to `joined`: a client
    /// may have been told an earlier count than that of its upsert.
    fn take(&mut self, chunk: Chunk, joined: usize, edits: bool) -> Result<usize, String> {
        if self.lines.is_empty() && chunk.offset <= joined {
            self.start = chunk.offset;
        }
        let end = self.start + self.lines.len();
        if chunk.offset > end || chunk.offset < self.start {
            return Err(format!("offset {} where {}..={end} was possible", chunk.offset, self.start));
        }
        let from = self.lines.len();
        for (at, line) in (chunk.offset - self.start..).zip(chunk.content) {
            match self.lines.get_mut(at) {
                None => self.lines.push(line),
                Some(old) if *old == line => self.repeated += 1,
                Some(old) if edits && at + EDITABLE >= from => {
                    *old = line;
                    self.edited += 1;
                }
                Some(old) => {
                    let short = |line: &str| line.chars().take(200).collect::<String>();
                    return Err(format!("line {at} was {}, now {}", short(old), short(&line)));
                }
            }
        }
        Ok(from)
    }

    fn objects(&self, from: usize) -> Option<String> {
        let bad = self.lines[from..].iter().find(|line| {
            serde_json::from_str::<Map<String, Value>>(&finite(line))
                .map_or(true, |row| !row.contains_key("_timestamp") || !row.contains_key("_runtime"))
        })?;
        Some(format!("no event with a time: {}", bad.chars().take(200).collect::<String>()))
    }

    /// What is wrong with new rows of history, if anything. A client of a shared run may stand for several ranks, each
    /// with steps of its own, as the merged rows of several clients have them: their order says nothing.
    fn steps(&self, from: usize, shared: bool) -> Option<String> {
        let read = |line: &String| serde_json::from_str::<Map<String, Value>>(&finite(line)).ok();
        let mut last = from.checked_sub(1).and_then(|at| read(&self.lines[at])?.get("_step")?.as_i64());
        for line in &self.lines[from..] {
            let short = || line.chars().take(200).collect::<String>();
            let Some(row) = read(line) else { return Some(format!("no object: {}", short())) };
            let Some(step) = row.get("_step").and_then(Value::as_i64) else {
                return Some(format!("no _step: {}", short()));
            };
            if !row.get("_timestamp").is_some_and(Value::is_f64)
                || !row.get("_runtime").is_some_and(Value::is_number)
            {
                return Some(format!("no time: {}", short()));
            }
            if !shared && last.is_some_and(|last| step <= last) {
                return Some(format!("step {step} after {last:?}"));
            }
            last = Some(step);
        }
        None
    }
}
