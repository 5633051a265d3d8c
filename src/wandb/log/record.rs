//! The records of a `.wandb` file, as far as elastictop writes or reads them; all else in them is skipped.
//!
//! Field numbers are those of W&B's protocol. Values are JSON text throughout, with the bare `NaN`,
//! `Infinity` and `-Infinity` that Python writes.

mod about;

use std::borrow::Cow;

use prost::{Message, Oneof};

pub use about::{
    Alert, Artifact, Environment, Files, FilesItem, Git, Header, Metric, MetricOptions, MetricSummary, Run,
    Telemetry, VersionInfo,
};

use crate::domain::time::Stamp;

/// One record.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// Its number in the file: 1, 2, 3 and so on.
    #[prost(int64, tag = "1")]
    pub num: i64,
    /// What it says; `None` for a kind that is not listed here.
    #[prost(oneof = "Kind", tags = "2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 17, 18, 21, 22, 23, 25, 26, 27")]
    pub kind: Option<Kind>,
}

/// What a record says.
#[derive(Clone, PartialEq, Oneof)]
pub enum Kind {
    /// A row of metrics.
    #[prost(message, tag = "2")]
    History(History),
    /// Changes of the summary.
    #[prost(message, tag = "3")]
    Summary(Changes),
    /// Changes of the configuration.
    #[prost(message, tag = "5")]
    Config(Changes),
    /// Files of the run.
    #[prost(message, tag = "6")]
    Files(Files),
    /// System metrics.
    #[prost(message, tag = "7")]
    Stats(Stats),
    /// A version of an artifact.
    #[prost(message, tag = "8")]
    Artifact(Artifact),
    /// A message to the user.
    #[prost(message, tag = "10")]
    Alert(Alert),
    /// Versions of what writes.
    #[prost(message, tag = "11")]
    Telemetry(Telemetry),
    /// How a metric is plotted and summed up: `define_metric`.
    #[prost(message, tag = "12")]
    Metric(Metric),
    /// A piece of the console.
    #[prost(message, tag = "13")]
    Output(Output),
    /// Which run this is.
    #[prost(message, tag = "17")]
    Run(Box<Run>),
    /// The end.
    #[prost(message, tag = "18")]
    Exit(Exit),
    /// Who writes the file.
    #[prost(message, tag = "21")]
    Header(Header),
    /// The end of the file; the SDK writes none.
    #[prost(message, tag = "22")]
    Footer(Empty),
    /// The machine is about to be taken away.
    #[prost(message, tag = "23")]
    Preempting(Empty),
    /// An artifact that the run uses.
    #[prost(message, tag = "25")]
    UseArtifact(Artifact),
    /// Machine and program.
    #[prost(message, tag = "26")]
    Environment(Box<Environment>),
    /// A line of the console from a logger.
    #[prost(message, tag = "27")]
    OutputLogger(OutputLogger),
}

/// No fields.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Empty {}

/// A point in time.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Timestamp {
    /// Seconds since the Unix epoch.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// And nanoseconds.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl From<Stamp> for Timestamp {
    fn from(at: Stamp) -> Timestamp {
        Timestamp { seconds: (at.0 / 1000) as i64, nanos: (at.0 % 1000 * 1_000_000) as i32 }
    }
}

impl From<Timestamp> for Stamp {
    /// Times before 1970 become 1970.
    fn from(at: Timestamp) -> Stamp {
        let seconds = u64::try_from(at.seconds).unwrap_or(0);
        let millis = u64::try_from(at.nanos).unwrap_or(0) / 1_000_000;
        Stamp(seconds.saturating_mul(1000).saturating_add(millis))
    }
}

/// A row of metrics. W&B takes step and times from the items `_step`, `_timestamp` and `_runtime`.
#[derive(Clone, PartialEq, Message)]
pub struct History {
    /// The metrics, each key once.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<HistoryItem>,
    /// The step once more; `wandb sync` ignores it.
    #[prost(message, optional, tag = "2")]
    pub step: Option<Step>,
}

impl History {
    /// A row from keys, part by part, and values as JSON text.
    pub fn of<'a, P: IntoIterator<Item = &'a str>>(items: impl IntoIterator<Item = (P, &'a str)>) -> History {
        let items = items.into_iter().map(|(path, json)| HistoryItem::new(path, json)).collect();
        History { items, step: None }
    }

    /// The row as one JSON object, as a line of the file stream wants it.
    pub fn json(&self) -> String {
        let values: Vec<_> = self.items.iter().map(HistoryItem::json).collect();
        super::json::object(self.items.iter().zip(&values).map(|(item, json)| (item.path(), json.as_ref())))
    }
}

/// A step.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Step {
    /// Its number.
    #[prost(int64, tag = "1")]
    pub num: i64,
}

/// One metric of a row.
#[derive(Clone, PartialEq, Message)]
pub struct HistoryItem {
    /// The key, if it is not in `nested_key`.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The key, part by part: `["d", "x"]` for `{"d": {"x": 0}}`.
    #[prost(string, repeated, tag = "2")]
    pub nested_key: Vec<String>,
    /// The value; goes before `value_json`.
    #[prost(oneof = "Value", tags = "3, 4, 5, 6, 7, 8")]
    pub value: Option<Value>,
    /// The value as JSON text.
    #[prost(string, tag = "16")]
    pub value_json: String,
}

/// A value with its type.
#[derive(Clone, PartialEq, Oneof)]
pub enum Value {
    /// `null`.
    #[prost(message, tag = "3")]
    None(Empty),
    /// A truth value.
    #[prost(bool, tag = "4")]
    Boolean(bool),
    /// A whole number.
    #[prost(sint64, tag = "5")]
    Integer(i64),
    /// Any number.
    #[prost(double, tag = "6")]
    Number(f64),
    /// A text.
    #[prost(string, tag = "7")]
    Text(String),
    /// JSON text.
    #[prost(string, tag = "8")]
    Json(String),
}

impl HistoryItem {
    /// A metric from its key, part by part, and its value as JSON text.
    pub fn new<'a>(path: impl IntoIterator<Item = &'a str>, json: impl Into<String>) -> HistoryItem {
        HistoryItem {
            nested_key: path.into_iter().map(str::to_owned).collect(),
            value_json: json.into(),
            ..HistoryItem::default()
        }
    }

    /// The key, part by part.
    pub fn path(&self) -> &[String] {
        path(&self.key, &self.nested_key)
    }

    /// The value as JSON text.
    pub fn json(&self) -> Cow<'_, str> {
        match &self.value {
            None => Cow::Borrowed(&self.value_json),
            Some(Value::None(_)) => Cow::Borrowed("null"),
            Some(Value::Boolean(value)) => Cow::Borrowed(if *value { "true" } else { "false" }),
            Some(Value::Integer(value)) => Cow::Owned(value.to_string()),
            Some(Value::Number(value)) => number(*value),
            Some(Value::Text(text)) => Cow::Owned(super::json::text(text)),
            Some(Value::Json(json)) => Cow::Borrowed(json),
        }
    }
}

/// A number as Python's `json` writes it, as far as what is no finite number goes.
fn number(value: f64) -> Cow<'static, str> {
    match value {
        value if value.is_nan() => Cow::Borrowed("NaN"),
        f64::INFINITY => Cow::Borrowed("Infinity"),
        f64::NEG_INFINITY => Cow::Borrowed("-Infinity"),
        value => Cow::Owned(serde_json::to_string(&value).unwrap_or_default()),
    }
}

fn path<'a>(key: &'a String, nested_key: &'a [String]) -> &'a [String] {
    if nested_key.is_empty() { std::slice::from_ref(key) } else { nested_key }
}

/// Changes of the configuration or the summary.
#[derive(Clone, PartialEq, Message)]
pub struct Changes {
    /// New values.
    #[prost(message, repeated, tag = "1")]
    pub update: Vec<Item>,
    /// Keys that go; their values do not count.
    #[prost(message, repeated, tag = "2")]
    pub remove: Vec<Item>,
}

impl Changes {
    /// New values for these keys, given part by part, as JSON text.
    pub fn of<'a, P: IntoIterator<Item = &'a str>>(items: impl IntoIterator<Item = (P, &'a str)>) -> Changes {
        let update = items.into_iter().map(|(path, json)| Item::new(path, json)).collect();
        Changes { update, remove: Vec::new() }
    }
}

/// One key and its value.
#[derive(Clone, PartialEq, Message)]
pub struct Item {
    /// The key, if it is not in `nested_key`.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The key, part by part.
    #[prost(string, repeated, tag = "2")]
    pub nested_key: Vec<String>,
    /// The value as JSON text.
    #[prost(string, tag = "16")]
    pub value_json: String,
}

impl Item {
    /// A key, part by part, and its value as JSON text. A key of one part goes where the SDK puts it.
    pub fn new<'a>(path: impl IntoIterator<Item = &'a str>, json: impl Into<String>) -> Item {
        let mut parts: Vec<String> = path.into_iter().map(str::to_owned).collect();
        let key = if parts.len() == 1 { parts.pop().unwrap_or_default() } else { String::new() };
        Item { key, nested_key: parts, value_json: json.into() }
    }

    /// The key, part by part.
    pub fn path(&self) -> &[String] {
        path(&self.key, &self.nested_key)
    }

    /// The value as JSON text.
    pub fn json(&self) -> &str {
        &self.value_json
    }
}

/// System metrics.
#[derive(Clone, PartialEq, Message)]
pub struct Stats {
    /// 0: the system's.
    #[prost(int32, tag = "1")]
    pub stats_type: i32,
    /// When they were taken.
    #[prost(message, optional, tag = "2")]
    pub timestamp: Option<Timestamp>,
    /// The metrics, keys without `system.`.
    #[prost(message, repeated, tag = "3")]
    pub items: Vec<Item>,
}

/// A piece of the console: any number of lines, or a part of one.
#[derive(Clone, PartialEq, Message)]
pub struct Output {
    /// 0 for standard error, 1 for standard output.
    #[prost(int32, tag = "1")]
    pub output_type: i32,
    /// When it was written.
    #[prost(message, optional, tag = "2")]
    pub timestamp: Option<Timestamp>,
    /// The text with its ends of lines.
    #[prost(string, tag = "3")]
    pub line: String,
    /// Which rank wrote it, for W&B's console; empty for none. A field of elastictop's own, which others skip.
    #[prost(string, tag = "1001")]
    pub label: String,
}

impl Output {
    /// `output_type` of standard error.
    pub const STDERR: i32 = 0;
    /// `output_type` of standard output.
    pub const STDOUT: i32 = 1;
}

/// A line from a logger.
#[derive(Clone, PartialEq, Message)]
pub struct OutputLogger {
    /// The line.
    #[prost(string, tag = "1")]
    pub line: String,
}

/// The end of a run. A file without it is taken for that of a run that failed.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Exit {
    /// Exit code of the program.
    #[prost(int32, tag = "1")]
    pub exit_code: i32,
    /// Seconds that it ran.
    #[prost(int32, tag = "2")]
    pub runtime: i32,
}

#[cfg(test)]
mod tests;
