//! From what the user typed and what is known of the world to what is started: a pure plan.
//!
//! `elastictop run` is a drop-in for torchrun. What the user set, by flag, by `PET_*` or by any variable, wins;
//! the rest is added, each with its reason, and [`render_text`] shows all of it.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::event::Launcher;

mod flags;
mod plan;
mod render;
mod request;

pub use flags::{FLAGS, Flag, flag};
pub use plan::plan;
pub use render::{quote, render_json, render_text};
pub use request::{Orphans, PlanError, Request, Who, parse_span};

/// Restarts of the group where the user gave no number.
pub const MAX_RESTARTS: u32 = 3;
/// How often the agent looks at its ranks where the user gave nothing.
pub const MONITOR_INTERVAL: Duration = Duration::from_millis(100);
/// Time between SIGTERM and SIGKILL where the user gave nothing.
pub const STOP_GRACE: Duration = Duration::from_secs(30);
/// How long GPU memory of dead jobs is waited for where the user gave nothing.
pub const GPU_WAIT: Duration = Duration::from_secs(30);
/// Time after which NCCL's monitor ends a rank whose watchdog is stuck, where the user gave nothing.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(300);
/// Oldest Python that the injected files run on.
pub const OLDEST_PYTHON: (u32, u32) = (3, 9);
/// Oldest torch whose torchrun takes flags with hyphens.
pub const OLDEST_TORCH: (u32, u32) = (2, 0);

/// What is known of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The interpreter; only a program on the built-in launcher does without.
    pub python: Option<Python>,
    /// GPUs of this machine, as NVML counts them.
    pub gpus: u32,
    /// CPUs that this process may use.
    pub cpus: u32,
    /// Id of the job, which names torchrun's log folder where nothing else does.
    pub run_id: String,
    /// Folder of the job.
    pub job_dir: String,
    /// The elastictop binary.
    pub elastictop: String,
    /// Path of the datagram socket that ranks beat to.
    pub beat_socket: String,
    /// A free TCP port for NCCL's RAS.
    pub ras_port: u16,
    /// Working directory of the agent.
    pub cwd: String,
}

/// A Python interpreter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Python {
    /// The path that it was found by; the agent runs it.
    pub path: String,
    /// What it calls itself (`sys.executable`); the ranks run it.
    pub executable: String,
    /// Major and minor version.
    pub version: (u32, u32),
    /// Version of torch, `2.15.0+cu132`; `None` when there is none.
    pub torch: Option<String>,
    /// Long flags that its torchrun knows, with hyphens; `None` when that is not known.
    pub flags: Option<BTreeSet<String>>,
}

/// A flag or variable that the user did not give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// `--log-dir` or `PYTHONUNBUFFERED`.
    pub name: String,
    /// Its value; empty for a switch.
    pub value: String,
    /// Why: one clause.
    pub reason: String,
}

/// A variable that the agent must not inherit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its name.
    pub name: String,
    /// Why: one clause.
    pub reason: String,
}

/// What the user set, where elastictop would have set something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// `--log-dir`, `PET_LOG_DIR` or `OMP_NUM_THREADS`.
    pub name: String,
    /// The user's value, secrets hidden.
    pub value: String,
    /// Whether it was typed or found in the environment.
    pub who: Who,
    /// What elastictop would have set: `--log-dir=…`.
    pub instead_of: String,
}

/// What is started. Holds the user's command line and so perhaps secrets: [`LaunchPlan::display`] is for showing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// Name of the job.
    pub name: String,
    /// Who runs the ranks.
    pub launcher: Launcher,
    /// Command line of the agent.
    pub argv: Vec<String>,
    /// The same, with secrets hidden.
    pub display: Vec<String>,
    /// The user's script and its arguments, with secrets hidden.
    pub asked: Vec<String>,
    /// Working directory of the agent.
    pub cwd: String,
    /// Variables to set for the agent, on top of the inherited environment.
    pub env: Vec<Added>,
    /// Variables to take out of the inherited environment.
    pub env_remove: Vec<Removed>,
    /// Flags in `argv` that the user did not give.
    pub flags: Vec<Added>,
    /// What the user set and elastictop left alone.
    pub kept: Vec<Kept>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// Ranks on this node; `None` when only torch can count them.
    pub local_world_size: Option<u32>,
    /// Smallest and largest number of nodes.
    pub nodes: (u32, u32),
    /// Restarts that the agent may spend.
    pub max_restarts: u32,
    /// How often the agent looks at its ranks.
    pub monitor_interval: Duration,
    /// Time between SIGTERM and SIGKILL. The agent gives its ranks as long: whoever kills the agent waits a little
    /// more.
    pub stop_grace: Duration,
    /// How long GPU memory of dead jobs is waited for before ranks are started.
    pub gpu_wait: Duration,
    /// What ranks do when the agent dies.
    pub orphans: Orphans,
    /// Folder under which torchrun makes the folder of this run: absolute.
    pub agent_log_dir: String,
    /// Where NCCL's RAS listens: `localhost:PORT`; `None` when the user turned it off.
    pub ras_addr: Option<String>,
    /// Ranks run inside the launcher's own Python processes (`--run-path`): there is no shim.
    pub function_mode: bool,
}
