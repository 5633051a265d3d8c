//! From the layers to what a plan follows from.

use super::layers::{Layer, Layers};
use crate::{
    domain::resolve::{Base, Facts, Given, Group, RankScope, RunMode, Topology},
    error::Result,
};

/// What the plan follows from. `name` stands in for the name of the run where nobody gave one.
///
/// # Errors
/// A value is none.
pub fn facts(layers: &Layers, topology: Topology, name: Option<Given>) -> Result<Facts> {
    let given = |key: &'static str| layers.get(key).map(|found| found.given());
    let tags = given("wandb.tags");
    let tags = tags.iter().flat_map(|tags| {
        let tag = |tag: &str| Given::new(tags.from.as_str(), tag.trim());
        tags.value.split(',').map(tag).filter(|tag| !tag.value.is_empty()).collect::<Vec<_>>()
    });
    let run_mode = layers.parsed("wandb.run_mode", str::parse::<RunMode>)?;
    let rank_scope = layers.parsed("wandb.rank_scope", str::parse::<RankScope>)?;
    Ok(Facts {
        run_mode: run_mode.or_else(|| shared_by_mode(layers)).unwrap_or_default(),
        rank_scope: rank_scope.unwrap_or_default(),
        topology,
        base: base(layers, name),
        parent_run: given("wandb.parent_run"),
        run_id: given("wandb.run_id"),
        group: given("wandb.group").map(|group| match group.value.as_str() {
            "" => Group::Base(group.from),
            _ => Group::Named(group),
        }),
        name: given("wandb.name"),
        tags: tags.collect(),
        notes: given("wandb.notes"),
        job_type: given("wandb.job_type"),
        sweep: given("wandb.sweep"),
        project: given("wandb.project"),
        entity: given("wandb.entity"),
        base_url: given("wandb.base_url"),
        app_url: given("wandb.app_url"),
    })
}

/// `WANDB_MODE=shared` asks for what the run mode `shared` does, unless somebody gives another run mode.
fn shared_by_mode(layers: &Layers) -> Option<RunMode> {
    layers.get("wandb.mode").filter(|mode| mode.value == "shared").map(|_| RunMode::Shared)
}

/// Base and names are one setting: of the two the one from the higher layer counts.
fn base(layers: &Layers, name: Option<Given>) -> Base {
    let [base, run, action] =
        ["wandb.base", "wandb.run_name", "wandb.action_name"].map(|key| layers.get(key));
    let names: Option<Layer> = [&run, &action].into_iter().flatten().map(|found| found.layer).min();
    match base {
        Some(base) if names.is_none_or(|names| base.layer <= names) => Base::Whole(base.given()),
        _ => Base::Names {
            run: run.map(|found| found.given()).or(name),
            action: action.map(|found| found.given()),
        },
    }
}
