//! Records about a run rather than of its rows: what it is, who writes it, its files, how its metrics are
//! shown.

use prost::Message;

use super::{Changes, Timestamp};

/// Which run a file is about.
#[derive(Clone, PartialEq, Message)]
pub struct Run {
    /// Id, unique in the project.
    #[prost(string, tag = "1")]
    pub run_id: String,
    /// Entity; empty for the default one of whoever sends it.
    #[prost(string, tag = "2")]
    pub entity: String,
    /// Project.
    #[prost(string, tag = "3")]
    pub project: String,
    /// Configuration at the start.
    #[prost(message, optional, tag = "4")]
    pub config: Option<Changes>,
    /// Summary at the start.
    #[prost(message, optional, tag = "5")]
    pub summary: Option<Changes>,
    /// Group.
    #[prost(string, tag = "6")]
    pub run_group: String,
    /// Job type.
    #[prost(string, tag = "7")]
    pub job_type: String,
    /// Name that is shown.
    #[prost(string, tag = "8")]
    pub display_name: String,
    /// Notes.
    #[prost(string, tag = "9")]
    pub notes: String,
    /// Tags.
    #[prost(string, repeated, tag = "10")]
    pub tags: Vec<String>,
    /// Sweep that it belongs to.
    #[prost(string, tag = "12")]
    pub sweep_id: String,
    /// Host.
    #[prost(string, tag = "13")]
    pub host: String,
    /// First step.
    #[prost(int64, tag = "14")]
    pub starting_step: i64,
    /// When it started; without it W&B shows runtimes since 1970.
    #[prost(message, optional, tag = "17")]
    pub start_time: Option<Timestamp>,
    /// Whether it went on from an earlier one.
    #[prost(bool, tag = "18")]
    pub resumed: bool,
    /// Versions.
    #[prost(message, optional, tag = "19")]
    pub telemetry: Option<Telemetry>,
    /// Seconds that earlier parts of it ran.
    #[prost(int32, tag = "20")]
    pub runtime: i32,
    /// The source's repository.
    #[prost(message, optional, tag = "21")]
    pub git: Option<Git>,
    /// Whether `wandb sync` appends to what is on the server: needed in every file of a run that has several.
    #[prost(bool, tag = "24")]
    pub resume: bool,
}

/// A repository and its state.
#[derive(Clone, PartialEq, Message)]
pub struct Git {
    /// Where it comes from.
    #[prost(string, tag = "1")]
    pub remote_url: String,
    /// The commit.
    #[prost(string, tag = "2")]
    pub commit: String,
}

/// Versions of what writes.
#[derive(Clone, PartialEq, Message)]
pub struct Telemetry {
    /// Python.
    #[prost(string, tag = "4")]
    pub python_version: String,
    /// The SDK, or what is in its place.
    #[prost(string, tag = "5")]
    pub cli_version: String,
    /// Its core.
    #[prost(string, tag = "12")]
    pub core_version: String,
    /// As `linux-x86_64`.
    #[prost(string, tag = "13")]
    pub platform: String,
}

/// Who writes the file.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// Versions.
    #[prost(message, optional, tag = "1")]
    pub version_info: Option<VersionInfo>,
}

/// Versions for which a file is.
#[derive(Clone, PartialEq, Message)]
pub struct VersionInfo {
    /// What wrote it.
    #[prost(string, tag = "1")]
    pub producer: String,
    /// The oldest SDK that can read it.
    #[prost(string, tag = "2")]
    pub min_consumer: String,
}

/// Files of a run.
#[derive(Clone, PartialEq, Message)]
pub struct Files {
    /// The files.
    #[prost(message, repeated, tag = "1")]
    pub files: Vec<FilesItem>,
}

/// One file of a run.
#[derive(Clone, PartialEq, Message)]
pub struct FilesItem {
    /// Path below `files/`.
    #[prost(string, tag = "1")]
    pub path: String,
    /// 0 now, 1 at the end, 2 whenever it changes.
    #[prost(int32, tag = "2")]
    pub policy: i32,
    /// One of the constants of this type.
    #[prost(int32, tag = "3")]
    pub kind: i32,
}

impl FilesItem {
    /// `kind` of a file that the script saves.
    pub const OTHER: i32 = 0;
    /// `kind` of a file that the SDK makes of itself.
    pub const WANDB: i32 = 1;
    /// `kind` of an image, a sound, a table and the like.
    pub const MEDIA: i32 = 2;
    /// `kind` of a file that belongs to an artifact.
    pub const ARTIFACT: i32 = 3;
}

/// A version of an artifact; only what is needed to name it.
#[derive(Clone, PartialEq, Message)]
pub struct Artifact {
    /// Its type, as `model`.
    #[prost(string, tag = "4")]
    pub artifact_type: String,
    /// Its name.
    #[prost(string, tag = "5")]
    pub name: String,
}

/// A message to the user.
#[derive(Clone, PartialEq, Message)]
pub struct Alert {
    /// Its title.
    #[prost(string, tag = "1")]
    pub title: String,
    /// Its text.
    #[prost(string, tag = "2")]
    pub text: String,
    /// INFO, WARN or ERROR.
    #[prost(string, tag = "3")]
    pub level: String,
    /// Seconds until the next one like it may be sent.
    #[prost(int64, tag = "4")]
    pub wait_duration: i64,
}

/// How a metric is plotted and summed up.
#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Or a pattern of names, as `elastictop/*`.
    #[prost(string, tag = "2")]
    pub glob_name: String,
    /// The metric that is its x axis.
    #[prost(string, tag = "4")]
    pub step_metric: String,
    /// How it is shown.
    #[prost(message, optional, tag = "6")]
    pub options: Option<MetricOptions>,
    /// What of it goes to the summary.
    #[prost(message, optional, tag = "7")]
    pub summary: Option<MetricSummary>,
}

/// How a metric is shown.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct MetricOptions {
    /// Whether the x axis is added to rows that lack it.
    #[prost(bool, tag = "1")]
    pub step_sync: bool,
    /// Whether it gets no panel.
    #[prost(bool, tag = "2")]
    pub hidden: bool,
    /// Whether someone defined it, rather than a pattern.
    #[prost(bool, tag = "3")]
    pub defined: bool,
}

/// What of a metric goes to the summary.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct MetricSummary {
    /// The smallest.
    #[prost(bool, tag = "1")]
    pub min: bool,
    /// The largest.
    #[prost(bool, tag = "2")]
    pub max: bool,
    /// The mean.
    #[prost(bool, tag = "3")]
    pub mean: bool,
    /// The best.
    #[prost(bool, tag = "4")]
    pub best: bool,
    /// The last.
    #[prost(bool, tag = "5")]
    pub last: bool,
    /// Nothing.
    #[prost(bool, tag = "6")]
    pub none: bool,
    /// The first.
    #[prost(bool, tag = "8")]
    pub first: bool,
}

/// Machine and program; becomes `wandb-metadata.json`.
#[derive(Clone, PartialEq, Message)]
pub struct Environment {
    /// Operating system.
    #[prost(string, tag = "1")]
    pub os: String,
    /// Version of Python.
    #[prost(string, tag = "2")]
    pub python: String,
    /// When the program started.
    #[prost(message, optional, tag = "3")]
    pub started_at: Option<Timestamp>,
    /// Its arguments.
    #[prost(string, repeated, tag = "5")]
    pub args: Vec<String>,
    /// Its file.
    #[prost(string, tag = "6")]
    pub program: String,
    /// The source's repository.
    #[prost(message, optional, tag = "9")]
    pub git: Option<Git>,
    /// Where it was started.
    #[prost(string, tag = "11")]
    pub root: String,
    /// Host.
    #[prost(string, tag = "12")]
    pub host: String,
    /// Who started it.
    #[prost(string, tag = "13")]
    pub username: String,
    /// The interpreter.
    #[prost(string, tag = "14")]
    pub executable: String,
    /// Cores.
    #[prost(uint32, tag = "16")]
    pub cpu_count: u32,
    /// Hardware threads.
    #[prost(uint32, tag = "17")]
    pub cpu_count_logical: u32,
    /// Name of the GPUs.
    #[prost(string, tag = "18")]
    pub gpu_type: String,
    /// Number of GPUs.
    #[prost(uint32, tag = "19")]
    pub gpu_count: u32,
    /// Version of CUDA.
    #[prost(string, tag = "25")]
    pub cuda_version: String,
    /// Which writer of the run this is about.
    #[prost(string, tag = "199")]
    pub writer_id: String,
}
