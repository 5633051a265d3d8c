//! `elastictop plan`: which rank would write to which W&B run, and why. Starts and contacts nothing.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    str::FromStr,
};

use clap::{Args, builder::PossibleValuesParser};

use crate::{
    domain::{
        launch::{PlanError, Request},
        resolve::{
            Base, Facts, Given, Group, MAX_RANKS, RankScope, RunMode, Topology, render_json, render_text,
            resolve,
        },
    },
    error::{Error, Result},
};

const MODES: [&str; 3] = [RunMode::Auto.name(), RunMode::Shared.name(), RunMode::New.name()];
const SCOPES: [&str; 2] = [RankScope::Global.name(), RankScope::Worker.name()];

/// Where values come from, below the options: the text above them is the command's own line.
const ENVIRONMENT: &str = "\
Starts and contacts nothing. Each option can come from the environment too: ELASTICTOP_RUN_MODE for --run-mode, \
ELASTICTOP_WANDB_GROUP for --wandb-group and so on; then W&B's own variables (WANDB_PROJECT, WANDB_ENTITY, \
WANDB_RUN_GROUP, WANDB_RUN_ID, WANDB_NAME, WANDB_TAGS), RUN_NAME and ACTION_NAME, PET_NNODES and \
PET_NPROC_PER_NODE. What is typed wins. Links follow WANDB_BASE_URL.";

/// Arguments of `plan`.
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
    /// auto: one rank logs for all; shared: all ranks write to one run; new: a run for each rank [default: auto]
    #[arg(long, alias = "run_mode", value_name = "MODE", value_parser = PossibleValuesParser::new(MODES))]
    run_mode: Option<String>,
    /// Apply that to the whole job, or to each node [default: global]
    #[arg(long, alias = "rank_scope", value_name = "SCOPE", value_parser = PossibleValuesParser::new(SCOPES))]
    rank_scope: Option<String>,
    /// Name of the run; ids begin with RUN-ACTION
    #[arg(long, alias = "run_name", value_name = "RUN", conflicts_with = "wandb_base")]
    run_name: Option<String>,
    /// Name of the action [default: a0]
    #[arg(long, alias = "action_name", value_name = "ACTION", conflicts_with = "wandb_base")]
    action_name: Option<String>,
    /// What ids begin with, in place of RUN-ACTION
    #[arg(long, alias = "wandb_base", value_name = "BASE")]
    wandb_base: Option<String>,
    /// Run of the job that starts this one; a single rank joins it
    #[arg(long, alias = "parent_run", value_name = "ID")]
    parent_run: Option<String>,
    /// Id of the run; with more than one rank what ids begin with
    #[arg(long, alias = "wandb_run_id", value_name = "ID")]
    wandb_run_id: Option<String>,
    /// Group of all runs; without a value the base
    #[arg(long, alias = "wandb_group", value_name = "GROUP", num_args = 0..=1, default_missing_value = "")]
    wandb_group: Option<String>,
    /// Display name of the runs
    #[arg(long, alias = "wandb_name", value_name = "NAME")]
    wandb_name: Option<String>,
    /// Tags of the runs
    #[arg(long, alias = "wandb_tags", value_name = "TAG,...")]
    wandb_tags: Option<String>,
    /// W&B project
    #[arg(long, alias = "wandb_project", value_name = "PROJECT")]
    wandb_project: Option<String>,
    /// W&B user or team
    #[arg(long, alias = "wandb_entity", value_name = "ENTITY")]
    wandb_entity: Option<String>,
    /// Print JSON (schema 1)
    #[arg(long)]
    json: bool,
}

/// `elastictop plan`.
pub fn plan(args: &PlanArgs) -> Result<u8> {
    let vars = std::env::vars_os();
    let env = vars.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let text = args.show(&env.collect())?;
    // A reader that has seen enough, such as `head`, is no failure.
    match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::environment(format!("cannot write the plan: {error}")))
        }
        _ => Ok(0),
    }
}

impl PlanArgs {
    /// What is printed in this environment.
    fn show(&self, env: &BTreeMap<String, String>) -> Result<String, PlanError> {
        let facts = self.facts(env)?;
        let plan = resolve(&facts)?;
        Ok(if self.json { render_json(&plan) } else { render_text(&plan, &facts) })
    }

    fn facts(&self, env: &BTreeMap<String, String>) -> Result<Facts, PlanError> {
        let sources = Sources { env };
        let find = |flag, typed: &Option<String>, variables: &[&str]| {
            sources.find(flag, typed.as_deref(), variables)
        };
        let run = find("--run-name", &self.run_name, &["ELASTICTOP_RUN_NAME", "RUN_NAME"]);
        let action = find("--action-name", &self.action_name, &["ELASTICTOP_ACTION_NAME", "ACTION_NAME"]);
        let names_typed = [&run, &action].into_iter().flatten().any(Given::is_typed);
        let base = match find("--wandb-base", &self.wandb_base, &["ELASTICTOP_WANDB_BASE"]) {
            // The two are one setting: a typed name goes before a base from the environment.
            Some(base) if base.is_typed() || !names_typed => Base::Whole(base),
            _ => Base::Names { run, action },
        };
        let group = find("--wandb-group", &self.wandb_group, &["ELASTICTOP_WANDB_GROUP", "WANDB_RUN_GROUP"]);
        let tags = find("--wandb-tags", &self.wandb_tags, &["ELASTICTOP_WANDB_TAGS", "WANDB_TAGS"]);
        let tags = tags.iter().flat_map(|tags| {
            let tag = |tag: &str| Given::new(tags.from.as_str(), tag.trim());
            tags.value.split(',').map(tag).filter(|tag| !tag.value.is_empty()).collect::<Vec<_>>()
        });
        Ok(Facts {
            run_mode: word(find("--run-mode", &self.run_mode, &["ELASTICTOP_RUN_MODE"]))?,
            rank_scope: word(find("--rank-scope", &self.rank_scope, &["ELASTICTOP_RANK_SCOPE"]))?,
            topology: self.topology(env)?,
            base,
            parent_run: find("--parent-run", &self.parent_run, &["ELASTICTOP_PARENT_RUN"]),
            run_id: find("--wandb-run-id", &self.wandb_run_id, &["ELASTICTOP_WANDB_RUN_ID", "WANDB_RUN_ID"]),
            group: group.map(|group| match group.value.as_str() {
                "" => Group::Base(group.from),
                _ => Group::Named(group),
            }),
            name: find("--wandb-name", &self.wandb_name, &["ELASTICTOP_WANDB_NAME", "WANDB_NAME"]),
            tags: tags.collect(),
            project: find(
                "--wandb-project",
                &self.wandb_project,
                &["ELASTICTOP_WANDB_PROJECT", "WANDB_PROJECT"],
            ),
            entity: find("--wandb-entity", &self.wandb_entity, &["ELASTICTOP_WANDB_ENTITY", "WANDB_ENTITY"]),
            base_url: sources.variable(&["ELASTICTOP_WANDB_BASE_URL", "WANDB_BASE_URL"]),
            app_url: sources.variable(&["ELASTICTOP_WANDB_APP_URL", "WANDB_APP_URL"]),
        })
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
        let sources = Sources { env };
        let Some(ranks) =
            sources.find("--nproc-per-node", self.nproc_per_node.as_deref(), &["PET_NPROC_PER_NODE"])
        else {
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
}

/// Reads a word from the list of those allowed.
fn word<T: FromStr<Err = String> + Default>(given: Option<Given>) -> Result<T, PlanError> {
    given.map_or_else(|| Ok(T::default()), |given| given.value.parse().map_err(|why| given.wrong(why)))
}

/// Where values come from, the first that has one.
struct Sources<'a> {
    env: &'a BTreeMap<String, String>,
}

impl Sources<'_> {
    /// What was typed, else the first variable that is set. A template that nobody filled in is no value.
    fn find(&self, flag: &str, typed: Option<&str>, variables: &[&str]) -> Option<Given> {
        match typed.filter(|value| !value.starts_with("{{")) {
            Some(value) => Some(Given::new(flag, value)),
            None => self.variable(variables),
        }
    }

    /// The first of these variables that is set to something.
    fn variable(&self, names: &[&str]) -> Option<Given> {
        let set = |name: &&str| self.env.get(*name).filter(|value| !value.is_empty());
        names.iter().find_map(|name| Some(Given::new(*name, set(name)?.as_str())))
    }
}

#[cfg(test)]
mod tests;
