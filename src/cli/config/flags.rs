//! The flags that the registry makes, for `plan` and for `run`.

use std::{collections::BTreeMap, sync::LazyLock};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, builder::PossibleValuesParser};

use super::registry::{Kind, SETTINGS, Setting};

/// What was typed of W&B's settings that a plan follows from, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanFlags(pub BTreeMap<&'static str, String>);

/// What was typed of all settings whose flags of `run` the registry makes, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFlags(pub BTreeMap<&'static str, String>);

fn settings(all: bool) -> impl Iterator<Item = &'static Setting> {
    let is_made = |setting: &Setting| setting.is_flag || setting.key.starts_with("wandb.");
    SETTINGS.iter().filter(move |setting| setting.plans || all && is_made(setting))
}

/// Help and the other spelling of each flag; here because clap wants texts that live for ever.
static TEXTS: LazyLock<BTreeMap<&str, (String, String)>> = LazyLock::new(|| {
    let text = |setting: &Setting| (setting.help_with_default(), setting.flag.replace('-', "_"));
    SETTINGS.iter().map(|setting| (setting.key, text(setting))).collect()
});

fn arg(setting: &'static Setting) -> Arg {
    let (help, underscored) = &TEXTS[setting.key];
    let arg = Arg::new(setting.key)
        .long(setting.flag)
        .alias(underscored.as_str())
        .value_name(setting.value)
        .help(help.as_str())
        .action(ArgAction::Set)
        .help_heading(if setting.is_flag { "Options of elastictop" } else { "Options for W&B" });
    let arg = match setting.kind {
        Kind::Word(words) => arg.value_parser(PossibleValuesParser::new(words)),
        _ => arg.value_parser(|text: &str| Ok::<_, String>(text.to_owned())),
    };
    match setting.key {
        "wandb.run_name" | "wandb.action_name" => arg.conflicts_with("wandb.base"),
        "wandb.group" => arg.num_args(0..=1).default_missing_value(""),
        _ => arg,
    }
}

fn typed(matches: &ArgMatches, all: bool) -> BTreeMap<&'static str, String> {
    let read =
        |setting: &'static Setting| Some((setting.key, matches.get_one::<String>(setting.key)?.clone()));
    settings(all).filter_map(read).collect()
}

macro_rules! flags {
    ($name:ident, $all:literal) => {
        impl Args for $name {
            fn augment_args(command: Command) -> Command {
                settings($all).fold(command, |command, setting| command.arg(arg(setting)))
            }

            fn augment_args_for_update(command: Command) -> Command {
                Self::augment_args(command)
            }
        }

        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok($name(typed(matches, $all)))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0.extend(typed(matches, $all));
                Ok(())
            }
        }
    };
}

flags!(PlanFlags, false);
flags!(RunFlags, true);
