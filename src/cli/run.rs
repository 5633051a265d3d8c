//! `elastictop run`: plan, start a supervisor, watch.

use std::time::Duration;

use super::{
    block_on,
    config::{Layers, boolean},
    out, plain,
    reach::Target,
    run_args::RunArgs,
    screen::{self, ScreenArgs},
    wandb::{self, About},
};
use crate::{
    domain::{
        event::JobInfo,
        forward::Settings,
        id::JobId,
        launch::{self, LaunchPlan, Orphans, Request},
        replay::{Keep, parse_bytes},
    },
    error::{Error, Result},
    probe::{gpu, scan},
    supervisor::{
        child::Spec,
        core::Rules,
        detach, lock,
        place::Roots,
        preflight::{self, World},
        serve::{Address, Asked},
        session,
    },
};

/// What becomes of the terminal once the job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// The screen.
    Screen,
    /// One line per event, until the job is over.
    Plain,
    /// The end alone.
    Quiet,
    /// Nothing.
    Detach,
}

/// `elastictop run`.
pub fn run(args: &RunArgs, screen: &ScreenArgs) -> Result<u8> {
    let layers = Layers::find(args.made.0.clone())?;
    let request = filled_up(args.request(std::env::vars_os()), &layers)?;
    let watch = if args.detach {
        Watch::Detach
    } else if args.plain {
        Watch::Plain
    } else if args.wait {
        Watch::Quiet
    } else if screen::is_possible() {
        Watch::Screen
    } else {
        Watch::Plain
    };
    let python = args.python.clone().or_else(|| layers.get("run.python").map(|found| found.value));
    if args.dry_run {
        let planned = plan(&request, python.as_deref(), None)?;
        let serve = planned.serve(&layers)?;
        let text =
            show(&planned, planned.wandb(&request, Some(&layers))?.as_ref(), serve.as_ref(), args.json)?;
        out::say(text.trim_end())?;
        return Ok(0);
    }
    start(&request, python.as_deref(), None, watch, screen, Some(&layers))
}

/// What nobody typed may stand in variables and files.
fn filled_up(request: Request, layers: &Layers) -> Result<Request> {
    let span = |typed: Option<Duration>, key| match typed {
        Some(_) => Ok(typed),
        None => layers.parsed(key, launch::parse_span),
    };
    let yes = |typed: Option<bool>, key| match typed {
        Some(_) => Ok(typed),
        None => layers.parsed(key, boolean),
    };
    let orphans = |word: &str| match word {
        "keep" => Ok(Orphans::Keep),
        "end" => Ok(Orphans::End),
        _ => Err("is neither keep nor end"),
    };
    let usual = Keep::default();
    let before = layers.parsed("record.before", launch::parse_span)?;
    let bytes = layers.parsed("record.size", parse_bytes)?;
    Ok(Request {
        record: Keep {
            before_ms: before.map_or(usual.before_ms, |before| before.as_millis() as u64),
            bytes: bytes.unwrap_or(usual.bytes),
        },
        heartbeat_timeout: span(request.heartbeat_timeout, "run.nccl_heartbeat_timeout")?,
        collective_timeout: span(request.collective_timeout, "run.nccl_collective_timeout")?,
        async_error_handling: yes(request.async_error_handling, "run.nccl_async_error_handling")?,
        enable_monitoring: yes(request.enable_monitoring, "run.nccl_enable_monitoring")?,
        stop_grace: span(request.stop_grace, "run.stop_grace")?,
        gpu_wait: span(request.gpu_wait, "run.gpu_wait")?,
        orphans: match request.orphans {
            Some(orphans) => Some(orphans),
            None => layers.parsed("run.orphans", orphans)?,
        },
        hang_after: span(request.hang_after, "run.hang_after")?,
        stall_after: span(request.stall_after, "run.heartbeat_timeout")?,
        on_stall: match request.on_stall {
            Some(what) => Some(what),
            None => layers.parsed("run.on_stall", str::parse)?,
        },
        ..request
    })
}

/// `--dry-run`.
fn show(
    planned: &Planned,
    settings: Option<&Settings>,
    serve: Option<&Address>,
    json: bool,
) -> Result<String> {
    if !json {
        let served = serve.map(|address| format!("\nFigures are served on {address}\n")).unwrap_or_default();
        return Ok(launch::render_text(&planned.plan) + &served + &wandb::text(settings)?);
    }
    let mut document = launch::render_json(&planned.plan);
    document["wandb"] = wandb::json(settings)?;
    document["serve"] = serve.map(Address::to_string).into();
    Ok(serde_json::to_string_pretty(&document).unwrap_or_default())
}

/// Starts what was asked for and watches it. `call_it` names a job that has no name of its own. Without layers W&B is
/// off, whatever the environment says.
pub fn start(
    request: &Request,
    python: Option<&str>,
    call_it: Option<&str>,
    watch: Watch,
    screen: &ScreenArgs,
    layers: Option<&Layers>,
) -> Result<u8> {
    // A theme that does not exist must not leave a job behind.
    let options = screen.options()?;
    let planned = plan(request, python, call_it)?;
    let settings = planned.wandb(request, layers)?;
    let serve = layers.map_or(Ok(None), asked_to_serve)?;
    let hint = wandb::hint(settings.as_ref());
    let id = planned.id.clone();
    let target = launch(request, planned, settings, serve)?;
    if let Target::Own { manifest, .. } = &target
        && let Some(address) = &manifest.serve
    {
        out::note(format_args!("figures are served on {address}"));
    }
    if let Some(warning) = session::warning() {
        out::note(format_args!("warning: {warning}"));
    }
    if let Some(hint) = hint {
        out::note(&hint);
    }
    match watch {
        Watch::Detach => {
            out::say(format_args!("started {id}; watch it with: elastictop attach {id}"))?;
            Ok(0)
        }
        Watch::Screen => block_on(screen::watch(&target, &options)),
        Watch::Plain | Watch::Quiet => block_on(plain::follow(&target, watch == Watch::Quiet, true)),
    }
}

fn launch(
    request: &Request,
    planned: Planned,
    settings: Option<Settings>,
    serve: Option<Asked>,
) -> Result<Target> {
    let Planned { roots, id, plan } = planned;
    detach::start(
        describe(&id, &plan, rdzv_id(request)),
        rules(request, &plan),
        spec(&plan),
        settings,
        serve,
    )?;
    let manifest = roots.job(&id).manifest();
    let manifest =
        manifest.map_err(|error| Error::io("cannot read", &roots.job(&id).manifest_path(), &error))?;
    Ok(Target::Own { roots, manifest: Box::new(manifest) })
}

/// Starts a job that nobody watches; W&B is off.
pub fn start_quietly(request: &Request, call_it: &str) -> Result<Target> {
    let planned = plan(request, None, Some(call_it))?;
    launch(request, planned, None, None)
}

struct Planned {
    roots: Roots,
    id: JobId,
    plan: LaunchPlan,
}

fn asked_to_serve(layers: &Layers) -> Result<Option<Asked>> {
    layers.parsed("run.serve", str::parse::<Asked>)
}

impl Planned {
    /// Where figures would be served, if somebody asked for that and it can be done.
    fn serve(&self, layers: &Layers) -> Result<Option<Address>> {
        let Some(asked) = asked_to_serve(layers)? else { return Ok(None) };
        let address = asked.address(&self.roots, &self.id)?;
        address.check()?;
        Ok(Some(address))
    }

    /// What becomes of metrics.
    fn wandb(&self, request: &Request, layers: Option<&Layers>) -> Result<Option<Settings>> {
        let Some(layers) = layers else { return Ok(None) };
        let about = About {
            id: &self.id.0,
            name: &self.plan.name,
            nodes: self.plan.nodes,
            local_world_size: self.plan.local_world_size,
            rdzv_id: rdzv_id(request),
        };
        wandb::decide(layers, about)
    }
}

/// The name of the meeting, if the user gave one: then it is the same on all nodes.
fn rdzv_id(request: &Request) -> Option<&str> {
    request.flags.get("rdzv-id").or_else(|| request.env.get("PET_RDZV_ID")).map(String::as_str)
}

fn plan(request: &Request, python: Option<&str>, call_it: Option<&str>) -> Result<Planned> {
    let roots = Roots::find()?;
    let name = free_name(&roots, request, call_it)?;
    let id = JobId(format!("{name}-{}", random_letters()));
    let dir = roots.job(&id);
    let world = World {
        gpus: gpu::count().unwrap_or(0),
        run_id: id.0.clone(),
        elastictop: dir.program(),
        beat_socket: roots.beat(&id),
        job_dir: dir.root,
        ras_port: preflight::free_port()
            .map_err(|error| Error::environment(format!("the kernel gives no free port: {error}")))?,
    };
    let facts = preflight::look(request, python, world)?;
    let request = Request { name: Some(name), ..request.clone() };
    Ok(Planned { roots, id, plan: launch::plan(&request, &facts)? })
}

/// The name that the user gave, if no running job has it; else one made of the script's with a number if need be.
fn free_name(roots: &Roots, request: &Request, call_it: Option<&str>) -> Result<String> {
    let wanted = request.job_name()?;
    let wanted = call_it.filter(|_| request.name.is_none()).map_or(wanted, str::to_owned);
    let node = scan::node_name();
    let running: Vec<_> = roots.all().into_iter().filter(|job| !job.ended && job.node == node).collect();
    let taken = |name: &str| running.iter().find(|job| job.name == name && lock::is_supervised(roots, job));
    match (taken(&wanted), &request.name) {
        (None, _) => Ok(wanted),
        (Some(job), Some(_)) => Err(Error::usage(format!("a job named {wanted:?} is running: {}", job.id))
            .hint(format!("watch it with elastictop attach {}, or give another --name", job.id))),
        (Some(_), None) => {
            let stem: String = wanted.chars().take(crate::domain::id::MAX_NAME - 5).collect();
            let mut numbered = (2..).map(|n| format!("{stem}-{n}"));
            Ok(numbered.find(|name| taken(name).is_none()).unwrap_or(wanted))
        }
    }
}

fn random_letters() -> String {
    const LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0; 4];
    let read = std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    if read.is_err() {
        bytes = std::process::id().to_le_bytes();
    }
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}

fn describe(id: &JobId, plan: &LaunchPlan, rdzv_id: Option<&str>) -> JobInfo {
    JobInfo {
        id: id.clone(),
        name: plan.name.clone(),
        launcher: plan.launcher,
        node: scan::node_name(),
        command: plan.asked.clone(),
        cwd: plan.cwd.clone(),
        max_restarts: Some(plan.max_restarts),
        local_world_size: plan.local_world_size,
        nodes: plan.nodes,
        rdzv_id: rdzv_id.map(str::to_owned),
        uid: rustix::process::getuid().as_raw(),
    }
}

fn rules(request: &Request, plan: &LaunchPlan) -> Rules {
    Rules {
        monitor_interval_ms: u64::try_from(plan.monitor_interval.as_millis()).unwrap_or(u64::MAX),
        stop_grace_ms: u64::try_from(plan.stop_grace.as_millis()).unwrap_or(u64::MAX),
        end_orphans: plan.orphans == Orphans::End,
        expects_beats: !plan.function_mode && !request.script_is_program(),
        policy: request.policy(),
        gpu_wait_ms: u64::try_from(plan.gpu_wait.as_millis()).unwrap_or(u64::MAX),
        record: request.record,
    }
}

fn spec(plan: &LaunchPlan) -> Spec {
    Spec {
        argv: plan.argv.clone(),
        cwd: plan.cwd.clone(),
        env: plan.env.iter().map(|added| (added.name.clone(), added.value.clone())).collect(),
        env_remove: plan.env_remove.iter().map(|removed| removed.name.clone()).collect(),
        env_is_whole: false,
    }
}
