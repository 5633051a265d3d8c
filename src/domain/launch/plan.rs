//! The plan itself: which flags and variables are added to what the user typed, and why.

use std::time::Duration;

use super::{
    Added, FLAGS, Facts, GPU_WAIT, HEARTBEAT_TIMEOUT, Kept, LaunchPlan, MAX_RESTARTS, MONITOR_INTERVAL,
    OLDEST_PYTHON, OLDEST_TORCH, PlanError, Python, Removed, Request, STOP_GRACE, Who, flag,
    request::{Nproc, Program, Settings},
};
use crate::domain::redact;

/// Variables of a rank that must not reach an agent, which would look like a rank itself.
const RANK_VARIABLES: [&str; 11] = [
    "ELASTICTOP_AGENT_PID",
    "ELASTICTOP_RANK_DIR",
    "ELASTICTOP_RANK_PID",
    "ELASTICTOP_RANK_RUN",
    "ELASTICTOP_RANK_WRITER",
    "LOCAL_RANK",
    "TORCHELASTIC_ERROR_FILE",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_USE_AGENT_STORE",
];

impl Request {
    /// Checks all that can be checked without looking at the world.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), PlanError> {
        let settings = self.settings()?;
        if self.local { check_local(self, &settings) } else { Ok(()) }
    }
}

/// What is to be started.
///
/// # Errors
/// The request is wrong, or does not fit the world; nothing may be started.
pub fn plan(request: &Request, facts: &Facts) -> Result<LaunchPlan, PlanError> {
    let settings = request.settings()?;
    let python = check_python(request, facts)?;
    let local_world_size = count_ranks(request, settings.nproc, facts, python)?;
    let mut draft =
        Draft { request, facts, python, settings: &settings, ranks: local_world_size, out: Out::default() };
    let argv = if request.local {
        check_local(request, &settings)?;
        draft.local()?
    } else {
        draft.torchrun()
    };
    let ras_addr = draft.variables();
    let log_dir =
        request.setting("log-dir").map_or_else(|| draft.log_dir(), |dir| absolute(&facts.cwd, dir.value));
    draft.notes();
    let asked: Vec<_> = std::iter::once(&request.script).chain(&request.args).collect();
    Ok(LaunchPlan {
        name: request.job_name()?,
        launcher: request.launcher(),
        display: redact::command(&argv),
        argv,
        asked: redact::command(&asked),
        cwd: facts.cwd.clone(),
        env_remove: removed(request, settings.program),
        local_world_size,
        nodes: settings.nodes,
        max_restarts: settings.max_restarts.unwrap_or(MAX_RESTARTS),
        monitor_interval: settings.monitor_interval.unwrap_or(MONITOR_INTERVAL),
        stop_grace: stop_grace(request, &settings),
        gpu_wait: request.gpu_wait.unwrap_or(GPU_WAIT),
        orphans: settings.orphans,
        agent_log_dir: log_dir,
        ras_addr,
        function_mode: settings.program == Program::Function,
        env: draft.out.env,
        flags: draft.out.flags,
        kept: draft.out.kept,
        notes: draft.out.notes,
    })
}

#[derive(Default)]
struct Out {
    env: Vec<Added>,
    flags: Vec<Added>,
    kept: Vec<Kept>,
    notes: Vec<String>,
}

struct Draft<'a> {
    request: &'a Request,
    facts: &'a Facts,
    python: Option<&'a Python>,
    settings: &'a Settings,
    ranks: Option<u32>,
    out: Out,
}

impl Draft<'_> {
    fn torchrun(&mut self) -> Vec<String> {
        let python = self.python.expect("checked: torchrun needs Python");
        let function = self.settings.program == Program::Function;
        let mut argv = vec![python.path.clone(), "-m".into(), "torch.distributed.run".into()];
        for (flag, value) in self.typed() {
            let rewritten = ["module", "no-python"].contains(&flag) && !function;
            if !rewritten {
                argv.push(if value.is_empty() { format!("--{flag}") } else { format!("--{flag}={value}") });
            }
        }
        self.meeting();
        self.restarts();
        if let Some(grace) = self.request.stop_grace.filter(|_| self.knows("shutdown-timeout")) {
            let reason = "torchrun waits for its ranks as long as --stop-grace says";
            self.flag("shutdown-timeout", grace.as_secs().to_string(), reason);
        }
        self.logs();
        if self.knows("event-log-handler") {
            let reason = "torchrun writes one JSON line for each rank that starts or ends";
            self.flag("event-log-handler", "console".into(), reason);
        }
        argv.extend(self.out.flags.iter().map(|added| format!("{}={}", added.name, added.value)));
        if function {
            // Behind "--" the parser of torchrun leaves everything as it is, a "--" of the script's own too.
            argv.extend(["--".into(), self.request.script.clone()]);
        } else {
            let reason =
                "each rank starts through elastictop, which becomes the program: same pid, same tree";
            self.out.flags.push(Added {
                name: "--no-python".into(),
                value: String::new(),
                reason: reason.into(),
            });
            argv.extend(["--no-python".into(), self.facts.elastictop.clone(), "__rank".into(), "--".into()]);
            argv.extend(self.rank_program());
        }
        argv.extend(self.request.args.iter().cloned());
        argv
    }

    fn local(&mut self) -> Result<Vec<String>, PlanError> {
        let ranks =
            self.ranks.ok_or_else(|| PlanError::new("the number of ranks is not known without torch"))?;
        self.restarts();
        self.logs();
        let text = |name| self.request.setting(name).map(|setting| setting.value.to_owned());
        let seconds = self.settings.monitor_interval.unwrap_or(MONITOR_INTERVAL).as_secs_f64();
        let mut argv = vec![self.facts.elastictop.clone(), "__agent".into()];
        let mut put = |name: &str, value: String| argv.extend([format!("--{name}"), value]);
        put("nproc-per-node", ranks.to_string());
        put("max-restarts", self.settings.max_restarts.unwrap_or(MAX_RESTARTS).to_string());
        put("monitor-interval", seconds.to_string());
        put("run-id", text("rdzv-id").unwrap_or_else(|| self.facts.run_id.clone()));
        put("log-dir", text("log-dir").unwrap_or_else(|| self.log_dir()));
        put("grace", stop_grace(self.request, self.settings).as_secs().to_string());
        if let Some(wait) = self.request.gpu_wait {
            put("gpu-wait", wait.as_secs().to_string());
        }
        if text("redirects").or(text("tee")).is_none() {
            put("redirects", "3".into());
        }
        for name in ["redirects", "tee", "role"] {
            if let Some(value) = text(name) {
                put(name, value);
            }
        }
        if self.request.is_on("virtual-local-rank") {
            argv.push("--virtual-local-rank".into());
        }
        if self.request.env.get("ELASTICTOP_DRILL").is_some_and(|drill| drill == "zombie") {
            argv.push("--deadlock".into());
        }
        argv.extend(["--shim".into(), self.facts.elastictop.clone(), "--".into()]);
        argv.extend(self.rank_program());
        argv.extend(self.request.args.iter().cloned());
        Ok(argv)
    }

    /// What a rank runs, without the user's arguments.
    fn rank_program(&self) -> Vec<String> {
        let script = self.request.script.clone();
        let interpreter = || {
            let own = || self.python.map(|python| python.executable.clone()).unwrap_or_default();
            self.request.env.get("PYTHON_EXEC").cloned().unwrap_or_else(own)
        };
        match self.settings.program {
            Program::Script => vec![interpreter(), "-u".into(), script],
            Program::Module => vec![interpreter(), "-u".into(), "-m".into(), script],
            Program::Direct | Program::Function => vec![script],
        }
    }

    /// The user's own flags of torchrun, in the order of [`FLAGS`].
    fn typed(&self) -> Vec<(&'static str, String)> {
        let of = |flag: &super::Flag| Some((flag.name, self.request.flags.get(flag.name)?.clone()));
        FLAGS.iter().filter_map(of).collect()
    }

    fn knows(&self, flag: &str) -> bool {
        self.python.and_then(|python| python.flags.as_ref()).is_none_or(|flags| flags.contains(flag))
    }

    fn log_dir(&self) -> String {
        format!("{}/logs", self.facts.job_dir)
    }

    /// How more than one node meets: what torchrun would get wrong, or give up on too early.
    fn meeting(&mut self) {
        if self.settings.nodes.1 == 1 {
            return;
        }
        let given = |name| self.request.setting(name).is_some();
        let elastic = self.settings.nodes.0 != self.settings.nodes.1 || given("rdzv-endpoint");
        let fixed = ["node-rank", "master-addr", "master-port"].into_iter().any(given);
        let backend = self.request.setting("rdzv-backend").map(|setting| setting.value.to_owned());
        if backend.is_none() && elastic && !fixed {
            let reason =
                "nodes find their numbers by themselves; torchrun's default needs --node-rank on each";
            self.flag("rdzv-backend", "c10d".into(), reason);
        }
        let is_static = backend.map_or(!elastic || fixed, |backend| backend == "static");
        let conf = if is_static { "timeout=900" } else { "join_timeout=900" };
        self.flag("rdzv-conf", conf.into(), "nodes may take 15 minutes to come (torchrun: 10)");
    }

    fn restarts(&mut self) {
        let reason = "a failure costs a restart, not the job (torchrun: 0)";
        self.flag("max-restarts", MAX_RESTARTS.to_string(), reason);
        let reason = "a dead rank is noticed at once; seconds between looks would be seconds lost";
        self.flag("monitor-interval", MONITOR_INTERVAL.as_secs_f64().to_string(), reason);
    }

    fn logs(&mut self) {
        self.flag("log-dir", self.log_dir(), "the ranks' output stays with the job");
        let reason = "each rank writes files of its own: nothing mixes, and nothing waits for a reader";
        match self.request.setting("tee") {
            Some(tee) if self.request.setting("redirects").is_none() => {
                let (name, value, who) = (tee.name, tee.value.to_owned(), tee.who);
                self.out.kept.push(Kept { name, value, who, instead_of: "--redirects=3".into() });
            }
            _ => self.flag("redirects", "3".into(), reason),
        }
    }

    /// Adds a flag unless the user gave it.
    fn flag(&mut self, name: &str, value: String, reason: &str) {
        match self.request.setting(name) {
            None => self.out.flags.push(Added { name: format!("--{name}"), value, reason: reason.into() }),
            Some(setting) if setting.value == value => {}
            Some(setting) => {
                let kept = redact::value(name, setting.value).to_owned();
                let instead_of = format!("--{name}={value}");
                self.out.kept.push(Kept { name: setting.name, value: kept, who: setting.who, instead_of });
            }
        }
    }

    /// All variables; the address of NCCL's RAS.
    fn variables(&mut self) -> Option<String> {
        let job = &self.facts.job_dir;
        self.variable("PYTHONUNBUFFERED", "1", "lines are seen when they are written");
        if !self.request.local {
            let reason =
                "a restarted group gets a store of its own; the shared one holds addresses of dead ranks";
            self.variable("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1", reason);
        }
        if self.ranks.is_some_and(|ranks| ranks > 1) {
            let reason = "several ranks share the CPUs (torchrun does the same, with a warning)";
            self.variable("OMP_NUM_THREADS", "1", reason);
        }
        self.nccl();
        let ras = self.ras();
        let old = self.request.env.get("TORCH_NCCL_DEBUG_INFO_TEMP_FILE").cloned();
        let dumps = format!("{job}/fr/rank_");
        match old {
            Some(old) => {
                self.keep(
                    "TORCH_NCCL_DEBUG_INFO_TEMP_FILE",
                    &old,
                    format!("TORCH_FR_DUMP_TEMP_FILE={dumps}"),
                );
            }
            None => self.variable(
                "TORCH_FR_DUMP_TEMP_FILE",
                &dumps,
                "the flight recorder's dumps stay with the job",
            ),
        }
        let theirs = self.request.env.get("PYTHONPATH").filter(|path| !path.is_empty());
        let ours = format!("{job}/python");
        let (path, reason) = match theirs {
            Some(theirs) => (format!("{ours}:{theirs}"), "ranks find elastictop's Python files, then yours"),
            None => (ours, "ranks find elastictop's Python files"),
        };
        self.set("PYTHONPATH", &path, reason);
        self.set("ELASTICTOP_JOB_DIR", job, "where ranks leave what they know");
        self.set("ELASTICTOP_BEAT", &self.facts.beat_socket, "where ranks send their heartbeats");
        self.set("ELASTICTOP_AGENT", "1", "marks what elastictop started");
        let orphans = self.settings.orphans.to_string();
        let reason = match self.settings.orphans {
            super::Orphans::Keep => "ranks go on when their agent dies (--orphans end ends them)",
            super::Orphans::End => "ranks end when their agent dies",
        };
        self.set("ELASTICTOP_ORPHANS", &orphans, reason);
        ras
    }

    fn nccl(&mut self) {
        let name = "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC";
        if let Some(span) = self.request.heartbeat_timeout {
            self.asked(name, &span.as_secs().to_string(), "--nccl-heartbeat-timeout");
        } else {
            let reason = "a rank whose NCCL watchdog is stuck ends after 5 minutes (torch: 8)";
            self.variable(name, &HEARTBEAT_TIMEOUT.as_secs().to_string(), reason);
        }
        let name = "TORCH_NCCL_ENABLE_MONITORING";
        match self.request.enable_monitoring {
            Some(on) => self.asked(name, if on { "1" } else { "0" }, "--nccl-enable-monitoring"),
            None => self.variable(name, "1", "a stuck NCCL watchdog ends its rank instead of only logging"),
        }
        if let Some(on) = self.request.async_error_handling {
            let value = if on { "1" } else { "0" };
            self.asked("TORCH_NCCL_ASYNC_ERROR_HANDLING", value, "--nccl-async-error-handling");
        }
        if let Some(span) = self.request.collective_timeout {
            let seconds = span.as_secs().to_string();
            self.asked("ELASTICTOP_COLLECTIVE_TIMEOUT_SEC", &seconds, "--nccl-collective-timeout");
        }
    }

    fn ras(&mut self) -> Option<String> {
        let ours = format!("localhost:{}", self.facts.ras_port);
        let env = &self.request.env;
        if let Some(off) = env.get("NCCL_RAS_ENABLE").filter(|value| *value == "0").cloned() {
            self.keep("NCCL_RAS_ENABLE", &off, format!("NCCL_RAS_ADDR={ours}"));
            return None;
        }
        let addr = env.get("NCCL_RAS_ADDR").cloned().unwrap_or_else(|| ours.clone());
        self.variable("NCCL_RAS_ADDR", &ours, "jobs on one machine do not answer for each other");
        Some(addr)
    }

    /// Sets a variable unless the user did; an empty value counts as set.
    fn variable(&mut self, name: &str, value: &str, reason: &str) {
        match self.request.env.get(name).cloned() {
            None => self.set(name, value, reason),
            Some(theirs) if theirs == value => {}
            Some(theirs) => self.keep(name, &theirs, format!("{name}={value}")),
        }
    }

    fn keep(&mut self, name: &str, value: &str, instead_of: String) {
        let value = redact::value(name, value).to_owned();
        self.out.kept.push(Kept { name: name.into(), value, who: Who::Environment, instead_of });
    }

    /// Sets a variable that a flag asked for, whatever the environment says.
    fn asked(&mut self, name: &str, value: &str, flag: &str) {
        let reason = match self.request.env.get(name) {
            Some(theirs) if theirs != value => format!("asked by {flag}, over {theirs:?} in the environment"),
            _ => format!("asked by {flag}"),
        };
        self.set(name, value, &reason);
    }

    fn set(&mut self, name: &str, value: &str, reason: &str) {
        self.out.env.push(Added { name: name.into(), value: value.into(), reason: reason.into() });
    }

    fn notes(&mut self) {
        let mut notes = Vec::new();
        if self.settings.program == Program::Function {
            notes.push("with --run-path ranks start without elastictop's shim: their output after a membership change is lost");
        }
        let spec = |name| self.request.setting(name).map(|setting| setting.value);
        if spec("redirects") == Some("0") && spec("tee").is_none_or(|tee| tee == "0") {
            notes.push("without --redirects the output of all ranks is mixed in one file");
        }
        if spec("signals-to-handle")
            .is_some_and(|signals| !signals.split(',').any(|name| name.trim() == "SIGTERM"))
        {
            notes.push("--signals-to-handle leaves out SIGTERM: when the job is stopped, the agent leaves its ranks behind");
        }
        self.out.notes.extend(notes.into_iter().map(String::from));
    }
}

fn stop_grace(request: &Request, settings: &Settings) -> Duration {
    let variable = || request.env.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT")?.trim().parse().ok();
    let theirs =
        settings.shutdown_timeout.or_else(variable).map(|seconds| Duration::from_secs(seconds.into()));
    request.stop_grace.or(theirs).unwrap_or(STOP_GRACE)
}

fn removed(request: &Request, program: Program) -> Vec<Removed> {
    let left = RANK_VARIABLES.iter().map(|name| (*name, "left from a job around this one"));
    let rewritten = [("PET_MODULE", "the module is on the command line of the ranks")];
    let rewritten = rewritten.into_iter().filter(|_| program == Program::Module);
    left.chain(rewritten)
        .filter(|(name, _)| request.env.contains_key(*name))
        .map(|(name, reason)| Removed { name: name.into(), reason: reason.into() })
        .collect()
}

fn absolute(cwd: &str, path: &str) -> String {
    if path.starts_with('/') { path.into() } else { format!("{cwd}/{path}") }
}

/// The interpreter, if it can do what is asked.
fn check_python<'a>(request: &Request, facts: &'a Facts) -> Result<Option<&'a Python>, PlanError> {
    let Some(python) = &facts.python else {
        if request.needs_python() {
            return Err(PlanError::new("no Python was found").hint("--python PATH names one"));
        }
        return Ok(None);
    };
    let path = &python.path;
    if python.version < OLDEST_PYTHON {
        let ((major, minor), (old_major, old_minor)) = (python.version, OLDEST_PYTHON);
        let text = format!("{path} is Python {major}.{minor}; {old_major}.{old_minor} or newer is needed");
        return Err(PlanError::new(text).hint("--python PATH names another one"));
    }
    if request.local {
        return Ok(Some(python));
    }
    let Some(torch) = &python.torch else {
        return Err(PlanError::new(format!("{path} has no torch"))
            .hint(format!("install it: {path} -m pip install torch"))
            .hint("--python PATH names another Python; an active virtual environment is found by itself")
            .hint("--launcher local starts the ranks without torch, on one node"));
    };
    if torch_version(torch).is_some_and(|version| version < OLDEST_TORCH) {
        let (major, minor) = OLDEST_TORCH;
        return Err(PlanError::new(format!("{path} has torch {torch}; {major}.{minor} or newer is needed"))
            .hint(format!("{path} -m pip install --upgrade torch")));
    }
    let known = |name: &String| python.flags.as_ref().is_none_or(|flags| flags.contains(name));
    if let Some(unknown) = request.flags.keys().find(|name| !known(name)) {
        return Err(PlanError::new(format!(
            "--{unknown} is not known to torchrun of torch {torch} ({path})"
        ))
        .hint("leave it out, or use a newer torch"));
    }
    Ok(Some(python))
}

/// Major and minor number of a version such as `2.15.0+cu132`.
fn torch_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '+', 'a', 'b', 'r']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Ranks on this node, as far as it can be told without torch.
fn count_ranks(
    request: &Request,
    nproc: Nproc,
    facts: &Facts,
    python: Option<&Python>,
) -> Result<Option<u32>, PlanError> {
    let torch =
        python.and_then(|python| python.torch.as_deref()).filter(|_| !request.local).unwrap_or_default();
    // What torch cannot use does not count; other makers' GPUs are not for NVML to see.
    let without_cuda = torch.contains("+cpu");
    let foreign = torch.contains("+rocm") || torch.contains("+xpu");
    let gpus = if without_cuda { 0 } else { visible_gpus(request, facts.gpus) };
    let wrong = |why: &str| match request.setting("nproc-per-node") {
        Some(setting) => setting.wrong(why),
        None => PlanError::new(why),
    };
    match nproc {
        Nproc::Number(number) => Ok(Some(number)),
        Nproc::Cpu => Ok(Some(facts.cpus)),
        Nproc::Gpu | Nproc::Auto if foreign => Ok(None),
        Nproc::Auto => Ok(Some(if gpus > 0 { gpus } else { facts.cpus })),
        Nproc::Gpu if gpus > 0 => Ok(Some(gpus)),
        Nproc::Gpu => {
            let why = match facts.gpus {
                _ if without_cuda => format!("torch {torch} is built without CUDA"),
                0 => "no GPU was found".to_owned(),
                _ => "CUDA_VISIBLE_DEVICES hides every GPU".to_owned(),
            };
            Err(wrong(&why)
                .hint("--nproc-per-node auto takes the CPUs where there is no GPU; a number always works"))
        }
        Nproc::Xpu if request.local => Err(wrong("--launcher local cannot count XPUs").hint("give a number")),
        Nproc::Xpu => Ok(None),
    }
}

fn visible_gpus(request: &Request, all: u32) -> u32 {
    let Some(list) = request.env.get("CUDA_VISIBLE_DEVICES") else { return all };
    let named = list.split(',').map(str::trim).take_while(|id| !id.is_empty() && *id != "-1").count();
    all.min(named as u32)
}

/// What the built-in launcher cannot do is refused, not ignored.
fn check_local(request: &Request, settings: &Settings) -> Result<(), PlanError> {
    let lacking = |what: &str| {
        PlanError::new(format!("--launcher local has no {what}"))
            .hint("leave it out, or use --launcher torchrun")
    };
    if settings.nodes.1 > 1 {
        return Err(PlanError::new("--launcher local starts one node only")
            .hint("--launcher torchrun starts more, and needs torch"));
    }
    if settings.program == Program::Function {
        return Err(lacking("--run-path"));
    }
    let refused = |name: &&String| flag(name).is_none_or(|flag| !flag.local);
    request.flags.keys().find(refused).map_or(Ok(()), |name| Err(lacking(&format!("--{name}"))))
}
