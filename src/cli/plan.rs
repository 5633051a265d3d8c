//! `elastictop plan`: which rank would write to which W&B run, and why. Starts and contacts nothing.

use std::collections::BTreeMap;

use clap::Args;

use super::{
    config::{Layers, PlanFlags, facts},
    out,
};
use crate::{
    domain::{
        launch::{PlanError, Request},
        resolve::{Facts, Given, MAX_RANKS, Topology, render_json, render_text, resolve},
    },
    error::Result,
};

/// Where values come from, below the options: the text above them is the command's own line.
const ENVIRONMENT: &str = "\
Starts and contacts nothing. Each option can come from the environment too: ELASTICTOP_RUN_MODE for --run-mode, \
ELASTICTOP_WANDB_GROUP for --wandb-group and so on; then W&B's own variables (WANDB_PROJECT, WANDB_ENTITY, \
WANDB_RUN_GROUP, WANDB_RUN_ID, WANDB_NAME, WANDB_TAGS), RUN_NAME and ACTION_NAME, PET_NNODES and \
PET_NPROC_PER_NODE; then from elastictop.toml, the user's file and W&B's settings (elastictop config print). What is \
typed wins. Links follow WANDB_BASE_URL.";

#[derive(Clone, Debug, Args)]
#[command(args_override_self = true, after_help = ENVIRONMENT)]
pub struct PlanArgs {
    /// Number of nodes, or the smallest and largest number [default: 1]
    #[arg(long, value_name = "N|MIN:MAX")]
    nnodes: Option<String>,
    /// Ranks on each node; for unequal nodes one number for each: 4,4,2 [default: 1]
    #[arg(long, alias = "nproc_per_node", value_name = "M")]
    nproc_per_node: Option<String>,
    /// Of MIN:MAX nodes, how many to plan for [default: MAX]
    #[arg(long, alias = "with_nodes", value_name = "N")]
    with_nodes: Option<u32>,
    #[command(flatten)]
    wandb: PlanFlags,
    /// Print JSON (schema 1)
    #[arg(long)]
    json: bool,
}

/// `elastictop plan`.
pub fn plan(args: &PlanArgs) -> Result<u8> {
    let text = args.show(&Layers::find(args.wandb.0.clone())?)?;
    out::say(text.trim_end())
}

impl PlanArgs {
    /// What is printed with these layers.
    fn show(&self, layers: &Layers) -> Result<String> {
        let facts = self.facts(layers)?;
        let plan = resolve(&facts)?;
        Ok(if self.json { render_json(&plan) } else { render_text(&plan, &facts) })
    }

    fn facts(&self, layers: &Layers) -> Result<Facts> {
        facts(layers, self.topology(&layers.env)?, None)
    }

    fn topology(&self, env: &BTreeMap<String, String>) -> Result<Topology, PlanError> {
        let typed = self.nnodes.iter().map(|nodes| ("nnodes".to_owned(), nodes.clone()));
        let request = Request { flags: typed.collect(), env: env.clone(), ..Request::default() };
        let (min, max) = request.nodes()?;
        let nodes = match self.with_nodes {
            Some(nodes) if !(min..=max).contains(&nodes) => {
                let why = format!("is not within {min} and {max}, which --nnodes allows");
                return Err(Given::new("--with-nodes", nodes.to_string()).wrong(why));
            }
            Some(nodes) => nodes,
            None => max,
        };
        let range = (min < max).then_some((min, max));
        let Some(ranks) = self.ranks(env) else {
            return Ok(Topology { range, ..Topology::equal(nodes, 1)? });
        };
        let numbers: Result<Vec<u32>, _> =
            ranks.value.split(',').map(|number| number.trim().parse::<u32>()).collect();
        match numbers.as_deref() {
            Ok(numbers) if numbers.contains(&0) => Err(ranks.wrong("at least one rank is needed")),
            Ok([each]) => Ok(Topology { range, ..Topology::equal(nodes, *each)? }),
            Ok(numbers) if numbers.len() == nodes as usize => {
                Ok(Topology { ranks_per_node: numbers.to_vec(), range })
            }
            Ok(numbers) => Err(ranks.wrong(format!("has {} numbers for {nodes} nodes", numbers.len()))),
            Err(_) if ["auto", "gpu", "cpu", "xpu"].contains(&ranks.value.trim()) => {
                Err(ranks.wrong("plan looks at no machine, so it needs a number"))
            }
            Err(_) => Err(ranks.wrong(format!(
                "is neither a number from 1 to {MAX_RANKS} nor one such number for each node: 4,4,2"
            ))),
        }
    }

    /// Ranks on each node, as they were typed or exported.
    fn ranks(&self, env: &BTreeMap<String, String>) -> Option<Given> {
        const VARIABLE: &str = "PET_NPROC_PER_NODE";
        let exported = || env.get(VARIABLE).filter(|value| !value.is_empty());
        match &self.nproc_per_node {
            Some(typed) => Some(Given::new("--nproc-per-node", typed.as_str())),
            None => Some(Given::new(VARIABLE, exported()?.as_str())),
        }
    }
}

#[cfg(test)]
mod tests;
