//! What `export --redact` takes out of events, fact by fact: a new fact has to be thought of here to compile.
//!
//! States and snapshots need no rule of their own: they are folded from events that went through here.

use std::collections::BTreeMap;

use crate::domain::{
    alert::Alert,
    beat::GroupStatus,
    cause::Cause,
    command::{Command, Outcome},
    event::{Event, Fact, JobInfo},
    gpu::{GpuInfo, GpuSample, leftover::Leftover},
    id::JobId,
    sample::{Place, RankSample},
    telling,
    verdict::Standing,
};

/// What is taken out, for whoever is told.
pub const WHAT: &str = "job, host and user names, commands, paths, environment values, log lines, the words of alerts, \
                        causes, notes and commands, process group names, W&B settings and runs, GPU serials";

/// Takes the words out of events. Names that must stay apart get numbers.
#[derive(Debug, Default)]
pub struct Redaction {
    groups: BTreeMap<String, usize>,
}

impl Redaction {
    /// The event as it may be handed on; `None` for what is left out altogether.
    pub fn event(&mut self, mut event: Event) -> Option<Event> {
        match &mut event.fact {
            Fact::JobStarted { job } => *job = without_names(job),
            Fact::RankStarted { place, .. } | Fact::RankPlaced { place, .. } => forget_run(place),
            // The words hold names of groups and paths; the state says what kind of thing it does.
            Fact::RankState { detail, .. } => *detail = None,
            Fact::RankGuarded { guard, .. } => guard.settings.clear(),
            Fact::Restart { cause, .. } | Fact::JobEnded { cause, .. } => {
                cause.iter_mut().for_each(forget_cause);
            }
            Fact::CauseFound { cause, .. } => forget_cause(cause),
            Fact::AlertRaised { alert } => forget_alert(alert),
            Fact::Adopted { text, .. } => "a new supervisor took over".clone_into(text),
            Fact::Ordered { command, by } => {
                "somebody".clone_into(by);
                forget_command(command);
            }
            Fact::Command { command, by, outcome } => {
                "somebody".clone_into(by);
                forget_command(command);
                match outcome {
                    Outcome::Done(text) => "done".clone_into(text),
                    Outcome::Refused(text) => "no".clone_into(text),
                }
            }
            Fact::Note { text } => "a note that was taken out".clone_into(text),
            Fact::Sample { ranks } | Fact::Progress { ranks } => {
                ranks.iter_mut().for_each(|rank| self.sample(rank));
            }
            Fact::Gpus { trouble, gpus, .. } => {
                trouble.iter_mut().for_each(|text| "taken out".clone_into(text));
                gpus.iter_mut().for_each(forget_serials);
            }
            Fact::GpuLeftovers { leftovers } => leftovers.iter_mut().for_each(forget_leftover),
            Fact::GpuProgress { gpus } | Fact::GpuSample { gpus } => {
                gpus.iter_mut().for_each(forget_processes);
            }
            // Names of projects, runs and groups are all there is to them.
            Fact::WandbPlanned { .. }
            | Fact::WandbProgress { .. }
            | Fact::WandbSample { .. }
            | Fact::Snapshot { .. }
            | Fact::Unknown => return None,
            Fact::AgentStarted { .. }
            | Fact::RankExited { .. }
            | Fact::RankExitKnown { .. }
            | Fact::GroupStarted { .. }
            | Fact::MembershipChanged { .. }
            | Fact::JobState { .. }
            | Fact::Deadline { .. }
            | Fact::AlertCleared { .. }
            | Fact::GpuRanks { .. }
            | Fact::GpuXid { .. }
            | Fact::AgentExited { .. } => {}
        }
        Some(event)
    }

    fn sample(&mut self, sample: &mut RankSample) {
        sample.last_line = None;
        for group in &mut sample.groups {
            self.group(group);
        }
        if let Some(Standing { group, .. }) = sample.standing.as_deref_mut() {
            *group = self.name(group);
        }
    }

    fn group(&mut self, group: &mut GroupStatus) {
        group.name = self.name(&group.name);
        group.desc = group.desc.as_ref().map(|desc| self.name(desc));
        if let Some(op) = &mut group.op {
            op.shape = None;
        }
    }

    /// torch's own names stay; a script's become `group-1` and so on.
    fn name(&mut self, name: &str) -> String {
        let is_torchs = name.is_empty()
            || name.starts_with("default")
            || name == "undefined"
            || name.bytes().all(|byte| byte.is_ascii_digit());
        if is_torchs && name.len() < 24 {
            return name.to_owned();
        }
        let next = self.groups.len() + 1;
        format!("group-{}", self.groups.entry(name.to_owned()).or_insert(next))
    }
}

fn without_names(job: &JobInfo) -> JobInfo {
    JobInfo {
        id: JobId("job".into()),
        name: "job".into(),
        launcher: job.launcher,
        node: "node".into(),
        command: Vec::new(),
        cwd: String::new(),
        max_restarts: job.max_restarts,
        local_world_size: job.local_world_size,
        nodes: job.nodes,
        rdzv_id: None,
        uid: 0,
    }
}

fn forget_run(place: &mut Place) {
    place.run_id = None;
}

fn forget_cause(cause: &mut Cause) {
    let kind = serde_json::to_value(cause.kind).ok();
    let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or("unknown").replace('_', " ");
    let who = cause.rank.map(|rank| format!("rank {rank}: ")).unwrap_or_default();
    cause.text = format!("{who}{kind}");
    cause.evidence.clear();
    cause.hint = None;
}

fn forget_alert(alert: &mut Alert) {
    let who = alert.local_rank.map(|local| format!(" (local rank {local})")).unwrap_or_default();
    alert.text = format!("{}{who}", telling::alert_word(alert.kind));
    alert.evidence.clear();
}

fn forget_command(command: &mut Command) {
    if let Command::EndLeftover { proc } = command {
        proc.start = 0;
    }
}

fn forget_serials(gpu: &mut GpuInfo) {
    gpu.uuid = None;
    gpu.pci_bus_id = None;
    gpu.mig.iter_mut().for_each(|part| part.uuid = None);
}

fn forget_leftover(leftover: &mut Leftover) {
    "a process".clone_into(&mut leftover.command);
    leftover.uid = None;
}

fn forget_processes(gpu: &mut GpuSample) {
    gpu.procs = None;
}
