//! What `run` decides about metrics before anything starts.
//!
//! W&B is on when somebody asks for it: by a flag, a variable of W&B or of elastictop, a setting in a file of
//! elastictop's, or an exported API key. Nobody's data is sent because the machine once logged in.

use std::fmt::Write;

use serde_json::{Value, json};

use super::config::{Layers, boolean, facts, wandb_mode};
use crate::{
    domain::{
        forward::{Around, Mode, Settings, Sources, Writer, rank_env},
        launch::quote,
        resolve::{Given, Plan, Topology, render_json, render_text},
        sample::Place,
    },
    error::{Error, Result},
    wandb::{
        client::CLOUD,
        credentials::{find_key, no_key_hint},
    },
};

/// What says that W&B is off, and how it comes on.
pub const OFF: &str = "W&B is off: nothing asks for it; --wandb-project PROJECT forwards metrics";

/// What is known of the job when its metrics are planned.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Its id, unique on this machine.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Smallest and largest number of nodes.
    pub nodes: (u32, u32),
    /// Ranks on this node; `None` when only torch can count them.
    pub local_world_size: Option<u32>,
    /// What all nodes agree on: `--rdzv-id`.
    pub rdzv_id: Option<&'a str>,
}

/// The settings of a job; `None` when nobody asks for W&B, and the SDK stays the script's own affair.
///
/// # Errors
/// A value is none, a name breaks W&B's rules, or what stands where the API key should is none: exit code 2.
pub fn decide(layers: &Layers, about: About<'_>) -> Result<Option<Settings>> {
    let key_is_exported = layers.env.get("WANDB_API_KEY").is_some_and(|key| !key.is_empty());
    if layers.asks_for_wandb().is_none() && !key_is_exported {
        return Ok(None);
    }
    let asked = layers.parsed("wandb.mode", wandb_mode)?;
    let from = layers.get("wandb.mode").map(|found| found.given().to_string());
    let (mode, why_not_online) = match asked {
        Some(mode @ (Mode::Disabled | Mode::Offline)) => (mode, from),
        Some(Mode::Online) | None => match no_key(layers) {
            None => (Mode::Online, None),
            Some(why) => {
                (Mode::Offline, Some(format!("{why}; elastictop sync sends later what is kept now")))
            }
        },
    };
    let settings = Settings {
        mode,
        why_not_online,
        writer: layers.parsed("wandb.writer", str::parse::<Writer>)?.unwrap_or_default(),
        sources: layers.parsed("wandb.sources", str::parse::<Sources>)?.unwrap_or_default(),
        stop_button: layers.parsed("wandb.stop_button", boolean)?.unwrap_or(true),
        facts: facts(layers, topology(about)?, name(layers, about)?)?,
    };
    settings.plan()?;
    Ok(Some(settings))
}

/// Why there is no key, and where one could come from; `None` when there is one.
fn no_key(layers: &Layers) -> Option<String> {
    let server = layers.get("wandb.base_url").map_or_else(|| CLOUD.to_owned(), |found| found.value);
    match find_key(&|name| layers.env.get(name).cloned(), &server) {
        Ok(Some(_)) => None,
        Ok(None) => Some(format!("no API key was found: {}", no_key_hint(&server))),
        // A variable that the job may never use is no reason not to start it.
        Err(error) => Some(error.text),
    }
}

/// As many nodes as there may be; each rank tells later how many there are.
fn topology(about: About<'_>) -> Result<Topology> {
    let (min, max) = about.nodes;
    let range = (min < max).then_some((min, max));
    Ok(Topology { range, ..Topology::equal(max, about.local_world_size.unwrap_or(1))? })
}

/// What names the run where nobody does: the job's id, which no other job has; with more than one node something that
/// all nodes know.
fn name(layers: &Layers, about: About<'_>) -> Result<Option<Given>> {
    let named = ["wandb.base", "wandb.run_name", "wandb.run_id"].iter().any(|key| layers.get(key).is_some());
    if named {
        return Ok(None);
    }
    if about.nodes.1 == 1 {
        return Ok(Some(Given::new("the job's id", about.id)));
    }
    if let Some(id) = about.rdzv_id.filter(|id| !["", "none"].contains(id)) {
        return Ok(Some(Given::new("--rdzv-id", id)));
    }
    match layers.env.get("SLURM_JOB_ID").filter(|id| !id.is_empty()) {
        Some(id) => Ok(Some(Given::new("SLURM_JOB_ID", format!("{}-{id}", about.name)))),
        None => Err(Error::usage("several nodes write to W&B, and have no name for the run in common")
            .hint("give --run-name NAME, the same on each node and another for each job")),
    }
}

/// What is said once when a job starts; `None` when all is as it was asked for.
pub fn hint(settings: Option<&Settings>) -> Option<String> {
    let settings = settings.filter(|settings| settings.mode == Mode::Offline)?;
    let why = settings.why_not_online.as_ref()?;
    Some(format!("W&B is offline: {why}"))
}

/// For `--dry-run`: where metrics would go, and what the ranks' own SDK is told.
pub fn text(settings: Option<&Settings>) -> Result<String> {
    let Some(settings) = settings else { return Ok(format!("\nW&B:\n  {OFF}\n")) };
    let plan = settings.plan()?;
    let why = settings.why_not_online.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    let mut text = format!("\nW&B: {}{why}, written by {}\n", settings.mode, settings.writer);
    if settings.writer == Writer::Elastictop {
        let stops = if settings.stop_button { "stops the job" } else { "does nothing" };
        let _ = writeln!(text, "  sources {}; the stop button on W&B's page {stops}", settings.sources);
    }
    for line in render_text(&plan, &settings.facts).lines() {
        let _ = writeln!(text, "{}", format!("  {line}").trim_end());
    }
    for (who, env) in told(settings, &plan) {
        let _ = writeln!(text, "\nVariables of {who}:");
        for (name, value) in env.set {
            let _ = writeln!(text, "  {}", quote(&format!("{name}={value}")));
        }
        for name in env.unset {
            let _ = writeln!(text, "  -u {name}");
        }
    }
    Ok(text)
}

/// The same for machines; null when W&B is off.
pub fn json(settings: Option<&Settings>) -> Result<Value> {
    let Some(settings) = settings else { return Ok(Value::Null) };
    let plan = settings.plan()?;
    let tree: Value = serde_json::from_str(&render_json(&plan)).unwrap_or_default();
    let environments = told(settings, &plan).into_iter().map(|(who, env)| {
        let set: serde_json::Map<_, _> =
            env.set.into_iter().map(|(name, value)| (name, value.into())).collect();
        json!({ "of": who, "set": set, "unset": env.unset })
    });
    Ok(json!({
        "mode": settings.mode,
        "why_not_online": settings.why_not_online,
        "writer": settings.writer,
        "sources": settings.sources,
        "stop_button": settings.stop_button,
        "plan": tree,
        "rank_environments": environments.collect::<Vec<_>>(),
    }))
}

/// What one rank that logs and one that is silent are told; their folder is not known yet.
fn told(settings: &Settings, plan: &Plan) -> Vec<(String, crate::domain::forward::RankEnv)> {
    let [logs, silent] = [true, false].map(|logs| plan.ranks.iter().find(|rank| rank.logs == logs));
    let env = |rank: &crate::domain::resolve::Rank| {
        let place = Place {
            rank: Some(rank.rank),
            local_rank: Some(rank.local_rank),
            group_rank: Some(rank.worker_index),
            world_size: Some(plan.ranks.len() as u32),
            local_world_size: settings.facts.topology.ranks_per_node.get(rank.worker_index as usize).copied(),
            ..Place::default()
        };
        let around = Around { folder: Some("(the rank's folder)"), ..Around::default() };
        let who = if rank.logs { "logs" } else { "is silent" };
        Some((format!("rank {}, which {who}", rank.rank), rank_env(settings, &place, around).ok()?))
    };
    logs.into_iter().chain(silent).filter_map(env).filter(|(_, env)| !env.set.is_empty()).collect()
}

#[cfg(test)]
mod tests;
