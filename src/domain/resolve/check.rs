//! W&B's rules for names, applied before anything starts.

use super::{Base, Facts, Given, Group};
use crate::domain::launch::PlanError;

/// What the SDK refuses in a run id.
const NOT_IN_IDS: &str = ":;,#?/'";
/// What W&B's documentation refuses beyond that, though its SDK does not.
const NOT_IN_IDS_BY_BOOK: &str = r"\%";
/// What W&B refuses in the name of a project.
const NOT_IN_PROJECTS: &str = r"/\#?%:";
/// Longest name of a project, group or run, in characters.
const LONGEST: usize = 128;
/// Longest tag, in characters.
const LONGEST_TAG: usize = 64;

/// Which ends of an id a text is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Both,
    First,
    Last,
}

/// A whole run id.
pub(super) fn id(id: &Given) -> Result<(), PlanError> {
    part(id, Ends::Both)
}

/// The base and what it is made of.
pub(super) fn base(base: &Base) -> Result<(), PlanError> {
    match base {
        Base::Whole(given) => id(given),
        Base::Names { run: Some(run), action } => {
            part(run, Ends::First)?;
            action.as_ref().map_or(Ok(()), |action| part(action, Ends::Last))
        }
        Base::Names { run: None, action } => action.as_ref().map_or(Ok(()), id),
    }
}

fn part(given: &Given, ends: Ends) -> Result<(), PlanError> {
    let text = &given.value;
    if text.is_empty() {
        return Err(given.wrong("is empty"));
    }
    let bad = |c: &char| NOT_IN_IDS.contains(*c) || c.is_control();
    if let Some(bad) = text.chars().find(bad) {
        return Err(given
            .wrong(format!("has {bad:?}, which W&B takes in no run id"))
            .hint("use letters, digits, '.', '_' and '-'"));
    }
    let first = text.chars().next().filter(|c| ends != Ends::Last && c.is_whitespace());
    let last = text.chars().last().filter(|c| ends != Ends::First && c.is_whitespace());
    match (first, last) {
        (Some(blank), _) => Err(given.wrong(format!("starts with {blank:?}, which W&B takes in no run id"))),
        (_, Some(blank)) => Err(given.wrong(format!("ends with {blank:?}, which W&B takes in no run id"))),
        _ => Ok(()),
    }
}

/// What is odd about an id that W&B's SDK takes.
pub(super) fn odd(id: &str) -> Option<String> {
    let odd = id.chars().find(|&c| NOT_IN_IDS_BY_BOOK.contains(c))?;
    Some(format!("{id} has {odd:?}, which W&B's documentation rules out in a run id"))
}

/// A group that was made of the base.
pub(super) fn made_group(group: &str) -> Result<(), PlanError> {
    match group.chars().count() {
        0..=LONGEST => Ok(()),
        long => Err(PlanError::new(format!(
            "the group {group} would have {long} characters; W&B takes at most {LONGEST}"
        ))
        .hint("give a shorter --wandb-base, or a --wandb-group")),
    }
}

/// All that is not an id.
pub(super) fn names(facts: &Facts) -> Result<(), PlanError> {
    if let Some(Group::Named(group)) = &facts.group {
        words(group, LONGEST)?;
    }
    if let Some(name) = &facts.name {
        words(name, LONGEST)?;
    }
    for short in facts.tags.iter().chain(&facts.job_type) {
        words(short, LONGEST_TAG)?;
    }
    if let Some(project) = &facts.project {
        words(project, LONGEST)?;
        without(project, NOT_IN_PROJECTS, "the name of a project")?;
    }
    if let Some(entity) = &facts.entity {
        words(entity, LONGEST)?;
        without(entity, "/", "the name of an entity")
            .map_err(|error| error.hint("the project goes into --wandb-project"))?;
    }
    Ok(())
}

fn words(given: &Given, longest: usize) -> Result<(), PlanError> {
    if given.value.trim().is_empty() {
        return Err(given.wrong("is empty"));
    }
    if let Some(bad) = given.value.chars().find(|c| c.is_control()) {
        return Err(given.wrong(format!("has {bad:?}")));
    }
    match given.value.chars().count() {
        long if long > longest => {
            Err(given.wrong(format!("has {long} characters; W&B takes at most {longest}")))
        }
        _ => Ok(()),
    }
}

fn without(given: &Given, refused: &str, what: &str) -> Result<(), PlanError> {
    match given.value.chars().find(|&c| refused.contains(c)) {
        Some(bad) => Err(given.wrong(format!("has {bad:?}, which W&B does not take in {what}"))),
        None => Ok(()),
    }
}
