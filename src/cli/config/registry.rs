//! Every setting once: its key in files, flag, variables, default, check and words.
//!
//! Flags, help, files, `config print`, `config init` and `config validate` are made of this table.

use crate::{
    domain::{
        forward::{Mode, Sources, Writer},
        launch::parse_span,
        replay::parse_bytes,
        resolve::{RankScope, RunMode},
    },
    supervisor::serve::Asked,
};

/// What values look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// Words with commas between them; in a file a list too.
    List,
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// `section.name` in files; the name alone within its section.
    pub key: &'static str,
    /// Long flag of `run`, without hyphens in front.
    pub flag: &'static str,
    /// Variables, the first that is set counts: elastictop's own, then those of others.
    pub variables: &'static [&'static str],
    /// Key in W&B's own settings file.
    pub theirs: Option<&'static str>,
    /// What stands for the value in help.
    pub value: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// What holds if nobody says anything, in words.
    pub default: Option<&'static str>,
    /// What values look like.
    pub kind: Kind,
    /// Why a text is no value: the end of a sentence.
    pub check: fn(&str) -> Result<(), String>,
    /// Whether it says that somebody wants W&B, wherever it is set.
    pub asks: bool,
    /// Whether `plan` has the flag too.
    pub plans: bool,
    /// Whether the flag of `run` is made of this line; those of W&B all are.
    pub is_flag: bool,
}

const BASIC: Setting = Setting {
    key: "",
    flag: "",
    variables: &[],
    theirs: None,
    value: "TEXT",
    help: "",
    default: None,
    kind: Kind::Text,
    check: |_| Ok(()),
    asks: false,
    plans: false,
    is_flag: false,
};

const MODES: &[&str] = &[Mode::Online.name(), Mode::Offline.name(), Mode::Disabled.name()];
const WRITERS: &[&str] = &[Writer::Elastictop.name(), Writer::Script.name()];
const RUN_MODES: &[&str] = &[RunMode::Auto.name(), RunMode::Shared.name(), RunMode::New.name()];
const SCOPES: &[&str] = &[RankScope::Global.name(), RankScope::Worker.name()];

fn span(text: &str) -> Result<(), String> {
    parse_span(text).map(drop)
}

/// All settings, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "wandb.mode",
        flag: "wandb-mode",
        variables: &["ELASTICTOP_WANDB_MODE", "WANDB_MODE"],
        theirs: Some("mode"),
        value: "MODE",
        help: "Send rows, keep them for `elastictop sync`, or neither",
        default: Some("online where there is an API key, else offline"),
        kind: Kind::Word(MODES),
        check: |text| wandb_mode(text).map(drop),
        asks: true,
        ..BASIC
    },
    Setting {
        key: "wandb.writer",
        flag: "wandb-writer",
        variables: &["ELASTICTOP_WANDB_WRITER"],
        value: "WHO",
        help: "Who writes the runs: elastictop, or the script's own wandb.init()",
        default: Some("elastictop"),
        kind: Kind::Word(WRITERS),
        check: |text| text.parse::<Writer>().map(drop),
        asks: true,
        ..BASIC
    },
    Setting {
        key: "wandb.project",
        flag: "wandb-project",
        variables: &["ELASTICTOP_WANDB_PROJECT", "WANDB_PROJECT"],
        theirs: Some("project"),
        value: "PROJECT",
        help: "W&B project",
        asks: true,
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.entity",
        flag: "wandb-entity",
        variables: &["ELASTICTOP_WANDB_ENTITY", "WANDB_ENTITY"],
        theirs: Some("entity"),
        value: "ENTITY",
        help: "W&B user or team",
        asks: true,
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.run_mode",
        flag: "run-mode",
        variables: &["ELASTICTOP_RUN_MODE"],
        value: "MODE",
        help: "auto: one rank logs for all; shared: all ranks write to one run; new: a run for each rank",
        default: Some("auto"),
        kind: Kind::Word(RUN_MODES),
        check: |text| text.parse::<RunMode>().map(drop),
        asks: true,
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.rank_scope",
        flag: "rank-scope",
        variables: &["ELASTICTOP_RANK_SCOPE"],
        value: "SCOPE",
        help: "Apply that to the whole job, or to each node",
        default: Some("global"),
        kind: Kind::Word(SCOPES),
        check: |text| text.parse::<RankScope>().map(drop),
        asks: true,
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.run_name",
        flag: "run-name",
        variables: &["ELASTICTOP_RUN_NAME", "RUN_NAME"],
        value: "RUN",
        help: "Name of the run; ids begin with RUN-ACTION",
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.action_name",
        flag: "action-name",
        variables: &["ELASTICTOP_ACTION_NAME", "ACTION_NAME"],
        value: "ACTION",
        help: "Name of the action",
        default: Some("a0"),
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.base",
        flag: "wandb-base",
        variables: &["ELASTICTOP_WANDB_BASE"],
        value: "BASE",
        help: "What ids begin with, in place of RUN-ACTION",
        asks: true,
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.parent_run",
        flag: "parent-run",
        variables: &["ELASTICTOP_PARENT_RUN"],
        value: "ID",
        help: "Run of the job that starts this one; a single rank joins it",
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.run_id",
        flag: "wandb-run-id",
        variables: &["ELASTICTOP_WANDB_RUN_ID", "WANDB_RUN_ID"],
        value: "ID",
        help: "Id of the run; with more than one rank what ids begin with",
        asks: true,
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.group",
        flag: "wandb-group",
        variables: &["ELASTICTOP_WANDB_GROUP", "WANDB_RUN_GROUP"],
        value: "GROUP",
        help: "Group of all runs; without a value the base",
        asks: true,
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.name",
        flag: "wandb-name",
        variables: &["ELASTICTOP_WANDB_NAME", "WANDB_NAME"],
        value: "NAME",
        help: "Display name of the runs",
        asks: true,
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.tags",
        flag: "wandb-tags",
        variables: &["ELASTICTOP_WANDB_TAGS", "WANDB_TAGS"],
        value: "TAG,...",
        help: "Tags of the runs",
        kind: Kind::List,
        asks: true,
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.notes",
        flag: "wandb-notes",
        variables: &["ELASTICTOP_WANDB_NOTES", "WANDB_NOTES"],
        value: "TEXT",
        help: "Notes on the runs",
        asks: true,
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.job_type",
        flag: "wandb-job-type",
        variables: &["ELASTICTOP_WANDB_JOB_TYPE", "WANDB_JOB_TYPE"],
        value: "TYPE",
        help: "Job type of the runs",
        asks: true,
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.sweep",
        flag: "wandb-sweep",
        variables: &["ELASTICTOP_WANDB_SWEEP", "WANDB_SWEEP_ID"],
        value: "ID",
        help: "Sweep that the runs are of",
        asks: true,
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.sources",
        flag: "wandb-sources",
        variables: &["ELASTICTOP_WANDB_SOURCES"],
        value: "SOURCE,...",
        help: "Where rows come from: JSON lines on a rank's output, elastictop.log(), its wandb SDK, the system, the job",
        default: Some("lines,log,sdk,system,job"),
        kind: Kind::List,
        check: |text| text.parse::<Sources>().map(drop),
        ..BASIC
    },
    Setting {
        key: "wandb.stop_button",
        flag: "wandb-stop-button",
        variables: &["ELASTICTOP_WANDB_STOP_BUTTON"],
        value: "BOOL",
        help: "Whether the stop button on W&B's page of a run stops the job",
        default: Some("true"),
        kind: Kind::Bool,
        check: |text| boolean(text).map(drop),
        ..BASIC
    },
    Setting {
        key: "wandb.base_url",
        flag: "wandb-base-url",
        variables: &["ELASTICTOP_WANDB_BASE_URL", "WANDB_BASE_URL"],
        theirs: Some("base_url"),
        value: "URL",
        help: "Address of the W&B server",
        default: Some("https://api.wandb.ai"),
        plans: true,
        ..BASIC
    },
    Setting {
        key: "wandb.app_url",
        flag: "wandb-app-url",
        variables: &["ELASTICTOP_WANDB_APP_URL", "WANDB_APP_URL"],
        value: "URL",
        help: "Address of its pages, where that does not follow",
        plans: true,
        ..BASIC
    },
    Setting {
        key: "run.python",
        flag: "python",
        variables: &["ELASTICTOP_PYTHON"],
        value: "PATH",
        help: "Python that runs torchrun and the ranks",
        default: Some("the active virtual environment's, then python3"),
        ..BASIC
    },
    Setting {
        key: "run.nccl_heartbeat_timeout",
        flag: "nccl-heartbeat-timeout",
        variables: &["ELASTICTOP_NCCL_HEARTBEAT_TIMEOUT"],
        value: "SEC",
        help: "End a rank whose NCCL watchdog is stuck this long: 90, 90s, 5m, 1h",
        default: Some("300"),
        check: span,
        ..BASIC
    },
    Setting {
        key: "run.nccl_collective_timeout",
        flag: "nccl-collective-timeout",
        variables: &["ELASTICTOP_NCCL_COLLECTIVE_TIMEOUT"],
        value: "SEC",
        help: "Default timeout of collectives, set before the script runs: 90, 90s, 5m, 1h",
        default: Some("torch's"),
        check: span,
        ..BASIC
    },
    Setting {
        key: "run.nccl_async_error_handling",
        flag: "nccl-async-error-handling",
        variables: &["ELASTICTOP_NCCL_ASYNC_ERROR_HANDLING"],
        value: "BOOL",
        help: "Whether NCCL errors end the rank",
        default: Some("torchrun's, true"),
        kind: Kind::Bool,
        check: |text| boolean(text).map(drop),
        ..BASIC
    },
    Setting {
        key: "run.nccl_enable_monitoring",
        flag: "nccl-enable-monitoring",
        variables: &["ELASTICTOP_NCCL_ENABLE_MONITORING"],
        value: "BOOL",
        help: "Whether a stuck NCCL watchdog ends its rank; else it is only logged",
        default: Some("true"),
        kind: Kind::Bool,
        check: |text| boolean(text).map(drop),
        ..BASIC
    },
    Setting {
        key: "run.stop_grace",
        flag: "stop-grace",
        variables: &["ELASTICTOP_STOP_GRACE"],
        value: "SEC",
        help: "Time between SIGTERM and SIGKILL when the job is stopped: 90, 90s, 5m, 1h",
        default: Some("30"),
        check: span,
        ..BASIC
    },
    Setting {
        key: "run.gpu_wait",
        flag: "gpu-wait",
        variables: &["ELASTICTOP_GPU_WAIT"],
        value: "SEC",
        help: "How long to wait for GPU memory that dead jobs still hold, before ranks start: 90, 90s, 5m",
        default: Some("30"),
        check: span,
        ..BASIC
    },
    Setting {
        key: "run.hang_after",
        flag: "hang-after",
        variables: &["ELASTICTOP_HANG_AFTER"],
        value: "SEC",
        help: "Call it a hang when nothing has moved on this long, or five learned step times: 90, 90s, 5m",
        default: Some("30"),
        check: span,
        ..BASIC
    },
    Setting {
        key: "run.heartbeat_timeout",
        flag: "heartbeat-timeout",
        variables: &["ELASTICTOP_HEARTBEAT_TIMEOUT"],
        value: "SEC",
        help: "Act as --on-stall says when nothing has moved on this long: 90, 90s, 5m, 1h",
        default: Some("300"),
        check: span,
        ..BASIC
    },
    Setting {
        key: "run.on_stall",
        flag: "on-stall",
        variables: &["ELASTICTOP_ON_STALL"],
        value: "WHAT",
        help: "What to do about a job that does not move on",
        default: Some("warn"),
        kind: Kind::Word(&["warn", "dump", "restart"]),
        ..BASIC
    },
    Setting {
        key: "run.orphans",
        flag: "orphans",
        variables: &["ELASTICTOP_RUN_ORPHANS"],
        value: "WHAT",
        help: "What ranks do when their agent dies: go on, or end",
        default: Some("keep"),
        kind: Kind::Word(&["keep", "end"]),
        ..BASIC
    },
    Setting {
        key: "run.serve",
        flag: "serve",
        variables: &["ELASTICTOP_SERVE"],
        value: "ADDRESS",
        help: "Serve figures for Prometheus, and JSON: unix, unix:PATH, or a loopback port such as 127.0.0.1:9123",
        default: Some("nowhere"),
        check: |text| text.parse::<Asked>().map(drop),
        is_flag: true,
        ..BASIC
    },
    Setting {
        key: "record.before",
        flag: "record-before",
        variables: &["ELASTICTOP_RECORD_BEFORE"],
        value: "SEC",
        help: "Figures of each second before a failure or alert that are kept whatever the limits: 90, 15m, 1h",
        default: Some("15m"),
        check: span,
        is_flag: true,
        ..BASIC
    },
    Setting {
        key: "record.size",
        flag: "record-size",
        variables: &["ELASTICTOP_RECORD_SIZE"],
        value: "BYTES",
        help: "Most that the figures of each second may take on disk for a job: 64M, 1G; 0 keeps none",
        default: Some("256M"),
        check: |text| parse_bytes(text).map(drop),
        is_flag: true,
        ..BASIC
    },
    Setting {
        key: "ui.theme",
        flag: "theme",
        variables: &["ELASTICTOP_THEME"],
        value: "NAME",
        help: "Colour theme",
        default: Some("default-dark, or what the terminal can show"),
        ..BASIC
    },
];

/// The setting with this key.
///
/// # Panics
/// There is none: keys are written by hand, and a test tries all that are used.
pub fn setting(key: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.key == key).unwrap_or_else(|| panic!("no setting {key}"))
}

impl Setting {
    /// Why a text is no value of this setting: the end of a sentence.
    ///
    /// # Errors
    /// See above.
    pub fn refuse(&self, text: &str) -> Result<(), String> {
        (self.check)(text)?;
        match self.kind {
            Kind::Word(words) if self.key != "wandb.mode" && !words.contains(&text) => {
                Err(format!("is none of {}", words.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// Help with the default, as flags have it.
    pub fn help_with_default(&self) -> String {
        match self.default {
            Some(default) => format!("{} [default: {default}]", self.help),
            None => self.help.to_owned(),
        }
    }
}

/// A mode as W&B's SDK takes it: `dryrun` is offline, `run` and `shared` are online.
pub fn wandb_mode(text: &str) -> Result<Mode, String> {
    match text {
        "dryrun" => Ok(Mode::Offline),
        "run" | "shared" => Ok(Mode::Online),
        text => text.parse(),
    }
}

/// A yes or no.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("is neither true nor false".into()),
    }
}
