//! The settings as text, JSON and a file to begin with.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    layers::{Found, Layers, PROJECT_FILE, Places},
    registry::{Kind, SETTINGS, Setting},
};
use crate::domain::report::SCHEMA;

/// Each setting, its value and where it comes from.
pub(super) fn text(layers: &Layers) -> String {
    let rows: Vec<[String; 3]> = SETTINGS
        .iter()
        .map(|setting| {
            let (value, origin) = match (layers.get(setting.key), setting.default) {
                (Some(found), _) => (shown(&found), found.origin + &complaint(layers, setting)),
                (None, Some(default)) => (default.to_owned(), "default".to_owned()),
                (None, None) => ("-".to_owned(), "not set".to_owned()),
            };
            [setting.key.to_owned(), value, origin]
        })
        .collect();
    let width = |column: usize, most: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).min(most)
    };
    let (keys, values) = (width(0, 40), width(1, 48));
    let mut text = String::from(
        "# highest first: flags, ELASTICTOP_*, WANDB_*, project file, user file, W&B's settings\n",
    );
    for [key, value, origin] in &rows {
        let _ = writeln!(text, "{key:keys$}  {value:values$}  {origin}");
    }
    text
}

/// The same for machines.
pub(super) fn json(layers: &Layers) -> String {
    let path =
        |file: &Option<super::file::ConfigFile>| file.as_ref().map(|file| file.path.display().to_string());
    let setting = |setting: &Setting| {
        let found = layers.get(setting.key);
        let problem = found.as_ref().and_then(|found| setting.refuse(&found.value).err());
        json!({
            "key": setting.key,
            "value": found.as_ref().map(shown),
            "layer": found.as_ref().map_or("default", |found| found.layer.name()),
            "origin": found.as_ref().map(|found| found.origin.clone()),
            "default": setting.default,
            "flag": format!("--{}", setting.flag),
            "variables": setting.variables,
            "help": setting.help,
            "problem": problem,
        })
    };
    let document = json!({
        "schema": SCHEMA,
        "files": {
            "project": path(&layers.project),
            "user": path(&layers.user),
            "wandb": path(&layers.wandb),
        },
        "settings": SETTINGS.iter().map(setting).collect::<Vec<Value>>(),
    });
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// A value that may be shown: addresses may hold a password.
fn shown(found: &Found) -> String {
    let value: String = found.value.chars().flat_map(char::escape_debug).collect();
    match value.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or(rest)) {
        Some(authority) if authority.contains('@') => "(hidden: it holds a password)".into(),
        _ => value,
    }
}

fn complaint(layers: &Layers, setting: &Setting) -> String {
    let wrong = layers.get(setting.key).and_then(|found| setting.refuse(&found.value).err());
    wrong.map(|why| format!("  (cannot be used: it {why})")).unwrap_or_default()
}

/// A file in which every setting is explained and commented out.
pub(super) fn template() -> String {
    let mut text = format!(
        "# Settings of elastictop. What is typed and what is exported goes before what stands here;\n\
         # a project's {PROJECT_FILE} goes before the user's file. elastictop config print shows what holds, and why.\n\
         # W&B's API key does not belong here: export WANDB_API_KEY, or use wandb login.\n"
    );
    let mut last = "";
    for setting in SETTINGS {
        let Some((section, name)) = setting.key.split_once('.') else { continue };
        if section != last {
            let _ = write!(text, "\n[{section}]\n");
            last = section;
        }
        let _ = write!(text, "# {}\n# {name} = {}\n", setting.help_with_default(), example(setting));
    }
    text
}

fn example(setting: &Setting) -> String {
    match (setting.kind, setting.default) {
        (Kind::Bool, _) => "true".into(),
        (Kind::Word(words), _) => format!("{:?}", words[0]),
        (Kind::List, Some(default)) => format!("{:?}", default.split(',').collect::<Vec<_>>()),
        (Kind::List, None) => "[]".into(),
        (Kind::Text, Some(default)) if setting.refuse(default).is_ok() && !default.contains(' ') => {
            format!("{default:?}")
        }
        (Kind::Text, _) if setting.value == "SEC" => "\"10m\"".into(),
        (Kind::Text, _) => "\"\"".into(),
    }
}

/// Where the files lie.
pub(super) fn places(places: &Places) -> String {
    let there = |path: &std::path::Path| if path.is_file() { "" } else { "  (there is none)" };
    let mut text = String::new();
    let _ = match &places.project {
        Some(path) => writeln!(text, "project  {}", path.display()),
        None => writeln!(text, "project  {PROJECT_FILE}, here or above  (there is none)"),
    };
    for (what, path) in [("user   ", &places.user), ("W&B's  ", &places.wandb)] {
        if let Some(path) = path {
            let _ = writeln!(text, "{what}  {}{}", path.display(), there(path));
        }
    }
    text
}
