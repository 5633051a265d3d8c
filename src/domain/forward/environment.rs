//! What a rank's own `wandb` SDK is told: the variables under which an unmodified `wandb.init()` lands where the plan
//! wants it. What a script hard-codes wins over all of them, as the SDK has it.

use serde::{Deserialize, Serialize};

use super::{Mode, Settings, Source, Writer};
use crate::domain::{resolve::Rank, sample::Place};

/// Changes of an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankEnv {
    /// Variables to set.
    pub set: Vec<(String, String)>,
    /// Variables to take out.
    pub unset: Vec<String>,
}

/// What the plan does not know of a rank.
#[derive(Clone, Copy, Debug, Default)]
pub struct Around<'a> {
    /// `GROUP_WORLD_SIZE`.
    pub nodes: Option<u32>,
    /// The rank's own folder: the SDK keeps its files there.
    pub folder: Option<&'a str>,
    /// `CUDA_VISIBLE_DEVICES`.
    pub visible_gpus: Option<&'a str>,
}

impl RankEnv {
    fn put(&mut self, name: &str, value: impl Into<String>) {
        self.set.push((name.to_owned(), value.into()));
    }

    /// Sets it, or takes out what may be inherited.
    fn put_or_take(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.put(name, value),
            None => self.unset.push(name.to_owned()),
        }
    }
}

/// The variables of a rank. Nothing changes where the SDK is the script's own affair.
///
/// # Errors
/// Why the rank cannot be told where to log, in words: its number is not known, or there is no plan for it.
pub fn rank_env(settings: &Settings, place: &Place, around: Around<'_>) -> Result<RankEnv, String> {
    let mut env = RankEnv::default();
    let reads = settings.writer == Writer::Elastictop;
    if settings.mode == Mode::Disabled {
        env.put("WANDB_MODE", "disabled");
        env.put("ELASTICTOP_RANK_WRITER", "disabled");
        return Ok(env);
    }
    if reads && !settings.sources.has(Source::Sdk) {
        return Ok(env);
    }
    let settings = settings.at(place, around.nodes);
    let plan = settings.plan().map_err(|error| error.text)?;
    let number = place.rank.ok_or("RANK is no number")?;
    let rank = plan.seat(place).ok_or_else(|| {
        format!("there is a plan for {} ranks, and none for rank {number}", plan.ranks.len())
    })?;
    env.put("ELASTICTOP_RANK_WRITER", settings.writer.name());
    env.put_or_take("ELASTICTOP_RANK_RUN", rank.run_id.as_deref());
    // A service that a parent started would write for its children too, under the parent's settings.
    env.unset.push("WANDB_SERVICE".into());
    if let Some(folder) = around.folder {
        env.put("WANDB_DIR", folder);
    }
    if reads {
        to_be_read(&mut env);
    }
    if rank.logs {
        name_run(&mut env, &settings, rank, plan.suffix(rank.run_id.as_deref().unwrap_or_default()));
        if !reads {
            to_be_sent(&mut env, &settings, rank, around.visible_gpus);
        }
    } else if !reads {
        env.put("WANDB_MODE", "disabled");
        env.unset.push("WANDB_RUN_ID".into());
    }
    Ok(env)
}

/// The SDK keeps all in a file that grows every second, and elastictop reads it.
fn to_be_read(env: &mut RankEnv) {
    env.put("WANDB_MODE", "offline");
    env.put("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1");
    env.put("WANDB_SILENT", "true");
    // elastictop has these figures already.
    env.put("WANDB_X_DISABLE_STATS", "true");
    env.unset.push("WANDB_RESUME".into());
}

fn name_run(env: &mut RankEnv, settings: &Settings, rank: &Rank, suffix: &str) {
    let facts = &settings.facts;
    env.put_or_take("WANDB_RUN_ID", rank.run_id.as_deref());
    env.put_or_take("WANDB_RUN_GROUP", rank.group.as_deref());
    let given = [
        ("WANDB_PROJECT", &facts.project),
        ("WANDB_ENTITY", &facts.entity),
        ("WANDB_NOTES", &facts.notes),
        ("WANDB_JOB_TYPE", &facts.job_type),
        ("WANDB_SWEEP_ID", &facts.sweep),
        ("WANDB_BASE_URL", &facts.base_url),
    ];
    for (name, given) in given {
        if let Some(given) = given {
            env.put(name, &*given.value);
        }
    }
    if let Some(name) = &facts.name {
        env.put("WANDB_NAME", format!("{}{suffix}", name.value));
    }
    if !facts.tags.is_empty() {
        env.put("WANDB_TAGS", facts.tags.iter().map(|tag| tag.value.as_str()).collect::<Vec<_>>().join(","));
    }
}

fn to_be_sent(env: &mut RankEnv, settings: &Settings, rank: &Rank, visible_gpus: Option<&str>) {
    let online = settings.mode == Mode::Online;
    env.put(
        "WANDB_MODE",
        match (online, rank.shared) {
            (false, _) => "offline",
            (true, true) => "shared",
            (true, false) => "online",
        },
    );
    if online {
        // A restarted rank goes on where the run was.
        env.put("WANDB_RESUME", "allow");
    }
    if rank.shared && online {
        let primary = if rank.primary == Some(true) { "true" } else { "false" };
        env.put_or_take("WANDB_X_LABEL", rank.label.as_deref());
        env.put("WANDB_X_PRIMARY", primary);
        env.put("WANDB_X_UPDATE_FINISH_STATE", primary);
    }
    let each_rank_writes = settings.facts.run_mode != crate::domain::resolve::RunMode::Auto;
    if let Some(gpu) = gpu_of(rank.local_rank, visible_gpus).filter(|_| each_rank_writes) {
        // Else each rank would send the figures of all GPUs of its node.
        env.put("WANDB_X_STATS_GPU_DEVICE_IDS", format!("[{gpu}]"));
    }
}

/// The number that the driver gives to a rank's GPU; `None` where `CUDA_VISIBLE_DEVICES` has no numbers.
fn gpu_of(local_rank: u32, visible: Option<&str>) -> Option<u32> {
    let Some(visible) = visible else { return Some(local_rank) };
    let devices: Vec<_> = visible.split(',').map(str::trim).collect();
    let mine = match devices.as_slice() {
        [only] => only,
        several => several.get(local_rank as usize)?,
    };
    mine.parse().ok()
}

/// What is to be said when a rank begins a run, where the script writes: nothing, if it is the one of the plan. What a
/// script has in its source wins over the environment.
pub fn stray(settings: &Settings, place: &Place, found: &str) -> Option<String> {
    let plan = settings.plan().ok()?;
    let rank = plan.seat(place)?;
    let number = rank.rank;
    match &rank.run_id {
        Some(wanted) if wanted == found => None,
        Some(wanted) => Some(format!(
            "rank {number} writes to the W&B run {found}, not to {wanted}: its script gives wandb.init() an id of its own"
        )),
        None => Some(format!(
            "rank {number} writes to the W&B run {found}, and was to be silent: its script gives wandb.init() a mode of its own"
        )),
    }
}
