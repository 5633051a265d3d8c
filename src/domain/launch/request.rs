//! What the user typed, and reading it: every value is checked here, with one error that names its origin.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::flags::flag;
use crate::domain::{
    event::Launcher,
    id, redact,
    replay::Keep,
    verdict::{OnStall, Policy},
};

/// What the user typed, and the environment it was typed in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `--name`.
    pub name: Option<String>,
    /// `--launcher local` instead of torchrun.
    pub local: bool,
    /// torchrun's flags by long name with hyphens; a switch has an empty value. See [`super::FLAGS`].
    pub flags: BTreeMap<String, String>,
    /// `--nccl-heartbeat-timeout`.
    pub heartbeat_timeout: Option<Duration>,
    /// `--nccl-collective-timeout`.
    pub collective_timeout: Option<Duration>,
    /// `--nccl-async-error-handling`.
    pub async_error_handling: Option<bool>,
    /// `--nccl-enable-monitoring`.
    pub enable_monitoring: Option<bool>,
    /// `--stop-grace`.
    pub stop_grace: Option<Duration>,
    /// `--gpu-wait`.
    pub gpu_wait: Option<Duration>,
    /// `--orphans`.
    pub orphans: Option<Orphans>,
    /// `--hang-after`.
    pub hang_after: Option<Duration>,
    /// `--heartbeat-timeout`.
    pub stall_after: Option<Duration>,
    /// `--on-stall`.
    pub on_stall: Option<OnStall>,
    /// How much of the figures is kept second by second.
    pub record: Keep,
    /// The script, module or program.
    pub script: String,
    /// Its arguments, untouched.
    pub args: Vec<String>,
    /// The environment. Variables that are not UTF-8 may be missing.
    pub env: BTreeMap<String, String>,
}

/// What ranks do when their agent dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orphans {
    /// They go on, and are shown as orphans.
    #[default]
    Keep,
    /// They get SIGTERM.
    End,
}

impl fmt::Display for Orphans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Orphans::Keep => "keep",
            Orphans::End => "end",
        })
    }
}

/// Why a request cannot become a plan. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// What is wrong: one sentence without a full stop.
    pub text: String,
    /// What to do next.
    pub hints: Vec<String>,
}

impl PlanError {
    pub(in crate::domain) fn new(text: impl Into<String>) -> PlanError {
        PlanError { text: text.into(), hints: Vec::new() }
    }

    pub(in crate::domain) fn hint(mut self, hint: impl Into<String>) -> PlanError {
        self.hints.push(hint.into());
        self
    }
}

/// Where a setting comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// A flag on the command line.
    Flag,
    /// A variable in the environment.
    Environment,
}

/// A value that the user gave for a flag of torchrun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting<'a> {
    /// `--log-dir` or `PET_LOG_DIR`.
    pub(super) name: String,
    pub(super) value: &'a str,
    pub(super) who: Who,
}

impl Setting<'_> {
    pub(super) fn wrong(&self, why: impl fmt::Display) -> PlanError {
        let value = redact::value(&self.name, self.value);
        match self.who {
            Who::Flag => PlanError::new(format!("{} {value}: {why}", self.name)),
            Who::Environment => PlanError::new(format!("{}={value}: {why}", self.name)),
        }
    }
}

/// How many ranks this node gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nproc {
    Number(u32),
    Auto,
    Gpu,
    Cpu,
    Xpu,
}

/// What runs in a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// A Python file.
    Script,
    /// A Python module.
    Module,
    /// Any program.
    Direct,
    /// A Python file inside the launcher's own processes.
    Function,
}

/// The typed and checked part of a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) nodes: (u32, u32),
    pub(super) nproc: Nproc,
    pub(super) max_restarts: Option<u32>,
    pub(super) monitor_interval: Option<Duration>,
    pub(super) shutdown_timeout: Option<u32>,
    pub(super) program: Program,
    pub(super) orphans: Orphans,
}

impl Request {
    /// When the job counts as hung, and what is done then.
    pub fn policy(&self) -> Policy {
        let ms = |time: Option<Duration>, otherwise: u64| {
            time.map_or(otherwise, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        };
        let usual = Policy::default();
        Policy {
            hang_after_ms: ms(self.hang_after, usual.hang_after_ms),
            heartbeat_timeout_ms: ms(self.stall_after, usual.heartbeat_timeout_ms),
            on_stall: self.on_stall.unwrap_or(usual.on_stall),
        }
    }

    /// Who runs the ranks.
    pub fn launcher(&self) -> Launcher {
        if self.local { Launcher::Local } else { Launcher::Torchrun }
    }

    /// The name of the job: `--name`, or made of the script's.
    ///
    /// # Errors
    /// `--name` cannot name a job.
    pub fn job_name(&self) -> Result<String, PlanError> {
        match &self.name {
            Some(name) => {
                id::check_name(name).map_err(|why| PlanError::new(format!("--name {name}: {why}")))?;
                Ok(name.clone())
            }
            None if self.is_on("module") => Ok(id::name_from_path(&format!("{}.py", self.script))),
            None => Ok(id::name_from_path(&self.script)),
        }
    }

    /// What runs in a rank is found by Python, so an interpreter is needed.
    pub fn needs_python(&self) -> bool {
        !self.local || !self.is_on("no-python")
    }

    /// Whether the script names a file that must exist, and not a module or a program on the search path.
    pub fn script_is_file(&self) -> bool {
        self.is_on("run-path") || (!self.is_on("module") && !self.is_on("no-python"))
    }

    /// Whether the script names a program that is run as it is.
    pub fn script_is_program(&self) -> bool {
        !self.is_on("run-path") && self.is_on("no-python")
    }

    /// The value of a flag: typed, else from its `PET_` variable.
    pub(super) fn setting(&self, name: &str) -> Option<Setting<'_>> {
        if let Some(value) = self.flags.get(name) {
            return Some(Setting { name: format!("--{name}"), value, who: Who::Flag });
        }
        let variable = flag(name)?.variable()?;
        let value = self.env.get(&variable)?;
        Some(Setting { name: variable, value, who: Who::Environment })
    }

    /// Whether a switch is on, as torchrun reads it.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.setting(name).is_some_and(|setting| match setting.who {
            Who::Flag => true,
            Who::Environment => setting.value.trim().parse::<i64>().is_ok_and(|number| number != 0),
        })
    }

    fn number<T: std::str::FromStr>(&self, name: &str, what: &str) -> Result<Option<T>, PlanError> {
        self.setting(name)
            .map(|setting| setting.value.trim().parse().map_err(|_| setting.wrong(format!("is no {what}"))))
            .transpose()
    }

    /// Reads and checks all that can be checked without looking at the world.
    pub(super) fn settings(&self) -> Result<Settings, PlanError> {
        self.job_name()?;
        if self.flags.contains_key("print-completion") {
            return Err(PlanError::new("--print-completion starts no job")
                .hint("torchrun --print-completion SHELL prints torchrun's own completion script"));
        }
        if self.script.is_empty() {
            return Err(PlanError::new("no script was given").hint("elastictop run SCRIPT [ARGS]"));
        }
        for switch in super::FLAGS.iter().filter(|flag| flag.value.is_none()) {
            if let Some(setting) = self.setting(switch.name).filter(|setting| setting.who == Who::Environment)
                && setting.value.trim().parse::<i64>().is_err()
            {
                return Err(setting.wrong("is neither 0 nor 1"));
            }
        }
        let nodes = self.nodes()?;
        for name in ["redirects", "tee"] {
            if let Some(setting) = self.setting(name) {
                check_std(setting.value).map_err(|why| setting.wrong(why))?;
            }
        }
        if let Some(setting) = self.setting("start-method")
            && !["spawn", "fork", "forkserver"].contains(&setting.value)
        {
            return Err(setting.wrong("is none of spawn, fork and forkserver"));
        }
        if let Some(setting) = self.setting("local-ranks-filter")
            && !setting.value.is_empty()
            && !setting.value.split(',').all(|rank| rank.trim().parse::<u32>().is_ok())
        {
            return Err(setting.wrong("is no list of ranks such as 0,1"));
        }
        if let Some(rank) = self.number::<u32>("node-rank", "number from 0")?
            && rank >= nodes.1
        {
            let setting = self.setting("node-rank").expect("was just read");
            return Err(setting.wrong(format!("the last of {} nodes is number {}", nodes.1, nodes.1 - 1)));
        }
        self.number::<u16>("master-port", "port number")?;
        if self.collective_timeout.is_some_and(|span| span.is_zero()) {
            return Err(PlanError::new("--nccl-collective-timeout 0: no collective could ever end in time"));
        }
        Ok(Settings {
            nodes,
            nproc: self.nproc()?,
            max_restarts: self.number("max-restarts", "number from 0")?,
            monitor_interval: self.monitor_interval()?,
            shutdown_timeout: self.number("shutdown-timeout", "number of whole seconds")?,
            program: self.program()?,
            orphans: self.read_orphans()?,
        })
    }

    /// The smallest and the largest number of nodes.
    ///
    /// # Errors
    /// The value is neither a number from 1 nor a range of them.
    pub fn nodes(&self) -> Result<(u32, u32), PlanError> {
        let Some(setting) = self.setting("nnodes") else { return Ok((1, 1)) };
        let read = |text: &str| {
            text.trim().parse::<u32>().map_err(|_| setting.wrong("is neither a number nor MIN:MAX"))
        };
        let (min, max) = match setting.value.split_once(':') {
            Some((min, max)) => (read(min)?, read(max)?),
            None => (read(setting.value)?, read(setting.value)?),
        };
        if min == 0 {
            return Err(setting.wrong("at least one node is needed"));
        }
        if min > max {
            return Err(setting
                .wrong(format!("the smallest number of nodes, {min}, is above the largest, {max}"))
                .hint(format!("did you mean --nnodes {max}:{min}?")));
        }
        if max > 1 && self.is_on("standalone") {
            return Err(setting
                .wrong("--standalone means one node")
                .hint("leave out --standalone and give every node the same --rdzv-endpoint HOST:PORT"));
        }
        Ok((min, max))
    }

    fn nproc(&self) -> Result<Nproc, PlanError> {
        let Some(setting) = self.setting("nproc-per-node") else { return Ok(Nproc::Number(1)) };
        match setting.value.trim() {
            "auto" => Ok(Nproc::Auto),
            "gpu" => Ok(Nproc::Gpu),
            "cpu" => Ok(Nproc::Cpu),
            "xpu" => Ok(Nproc::Xpu),
            text => match text.parse() {
                Ok(0) => Err(setting.wrong("at least one rank is needed")),
                Ok(number) => Ok(Nproc::Number(number)),
                Err(_) => Err(setting.wrong("is neither a number from 1 nor one of auto, gpu, cpu and xpu")),
            },
        }
    }

    fn monitor_interval(&self) -> Result<Option<Duration>, PlanError> {
        let Some(seconds) = self.number::<f64>("monitor-interval", "number of seconds")? else {
            return Ok(None);
        };
        let good = Duration::try_from_secs_f64(seconds).ok().filter(|interval| !interval.is_zero());
        match (good, self.setting("monitor-interval")) {
            (None, Some(setting)) => Err(setting.wrong("is no number of seconds above 0")),
            (good, _) => Ok(good),
        }
    }

    fn program(&self) -> Result<Program, PlanError> {
        let (module, direct) = (self.is_on("module"), self.is_on("no-python"));
        if self.is_on("run-path") {
            return Ok(Program::Function);
        }
        match (module, direct) {
            (true, true) => Err(PlanError::new("--module and --no-python exclude each other")),
            (true, false) => Ok(Program::Module),
            (false, true) => Ok(Program::Direct),
            (false, false) => Ok(Program::Script),
        }
    }

    fn read_orphans(&self) -> Result<Orphans, PlanError> {
        match (self.orphans, self.env.get("ELASTICTOP_ORPHANS").map(String::as_str)) {
            (Some(orphans), _) => Ok(orphans),
            (None, None | Some("keep")) => Ok(Orphans::Keep),
            (None, Some("end")) => Ok(Orphans::End),
            (None, Some(other)) => {
                Err(PlanError::new(format!("ELASTICTOP_ORPHANS={other}: is neither keep nor end")))
            }
        }
    }
}

/// What torchrun takes for `--redirects` and `--tee`: one of 0-3 for all ranks, or one for each local rank.
fn check_std(text: &str) -> Result<(), String> {
    let is_std = |text: &str| matches!(text, "0" | "1" | "2" | "3");
    let is_pair = |pair: &str| {
        pair.split_once(':')
            .is_some_and(|(rank, std)| rank.parse::<u8>().is_ok_and(|rank| rank < 10) && is_std(std))
    };
    if is_std(text) || text.split(',').all(is_pair) {
        return Ok(());
    }
    Err("is none of 0 (none), 1 (stdout), 2 (stderr) and 3 (both), nor LOCAL_RANK:STD,... as in 0:3,1:1"
        .into())
}

/// A time span as the command line takes it: `90`, `90s`, `5m`, `1h`.
///
/// # Errors
/// Says what is accepted.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.trim().find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.trim().split_at(at),
        None => (text.trim(), "s"),
    };
    let factor = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let seconds =
        digits.parse::<u32>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    seconds
        .map(|seconds| Duration::from_secs(seconds.into()))
        .ok_or_else(|| "is no time span: give seconds, or a unit as in 90s, 5m, 1h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_seconds_unless_they_say_more() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("0", 0), (" 7 ", 7)] {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "s", "-1", "1d", "1.5", "1 h", "5000000000", "4000000000h", "1m30s"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }
}
