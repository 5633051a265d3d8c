//! Environments and flags in, decisions out.

use insta::assert_snapshot;

use super::*;
use crate::domain::resolve::{Base, RunMode};

fn about(nodes: (u32, u32)) -> About<'static> {
    About { id: "train-x3k9", name: "train", nodes, local_world_size: Some(2), rdzv_id: None }
}

fn layers(env: &[(&str, &str)], typed: &[(&'static str, &str)]) -> Layers {
    Layers {
        typed: typed.iter().map(|&(key, value)| (key, value.to_owned())).collect(),
        env: env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ..Layers::default()
    }
}

fn decided(env: &[(&str, &str)], typed: &[(&'static str, &str)]) -> Result<Option<Settings>> {
    decide(&layers(env, typed), about((1, 1)))
}

const KEY: (&str, &str) = ("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567");
const PROJECT: (&str, &str) = ("wandb.project", "llm");

#[test]
fn nothing_is_sent_unless_somebody_asks() {
    assert_eq!(decided(&[], &[]).unwrap(), None);
    assert_eq!(decided(&[("WANDB_BASE_URL", "https://w.example"), ("RUN_NAME", "r")], &[]).unwrap(), None);
    let on =
        |env: &[(&str, &str)], typed: &[(&'static str, &str)]| decided(env, typed).unwrap().unwrap().mode;
    assert_eq!(on(&[KEY], &[]), Mode::Online, "an exported key asks");
    assert_eq!(on(&[KEY, ("WANDB_PROJECT", "p")], &[]), Mode::Online);
    assert_eq!(on(&[KEY], &[("wandb.stop_button", "false")]), Mode::Online);
    assert_eq!(on(&[("ELASTICTOP_RUN_MODE", "new")], &[]), Mode::Offline);
}

#[test]
fn without_a_key_it_is_offline_and_says_so() {
    let settings = decided(&[], &[PROJECT, ("wandb.mode", "online")]).unwrap().unwrap();
    assert_eq!(settings.mode, Mode::Offline);
    assert!(hint(Some(&settings)).unwrap().contains("WANDB_API_KEY"));
    let asked = decided(&[KEY], &[PROJECT, ("wandb.mode", "offline")]).unwrap().unwrap();
    assert_eq!(hint(Some(&asked)).unwrap(), "W&B is offline: --wandb-mode offline");
    assert_eq!(hint(decided(&[KEY], &[PROJECT]).unwrap().as_ref()), None);
    let unusable = decided(&[("WANDB_API_KEY", "tooshort")], &[PROJECT]).unwrap();
    let said = hint(unusable.as_ref()).unwrap();
    assert!(said.starts_with("W&B is offline: the W&B API key in WANDB_API_KEY"), "{said}");
    assert!(!said.contains("tooshort"), "{said}");
    assert_eq!(hint(None), None);
}

#[test]
fn wandbs_mode_is_honoured_in_every_run_mode() {
    let words = [
        ("online", Mode::Online),
        ("run", Mode::Online),
        ("shared", Mode::Online),
        ("offline", Mode::Offline),
        ("dryrun", Mode::Offline),
        ("disabled", Mode::Disabled),
    ];
    for (word, wanted) in words {
        for run_mode in RunMode::ALL {
            let typed = [PROJECT, ("wandb.run_mode", run_mode.name())];
            let settings = decided(&[KEY, ("WANDB_MODE", word)], &typed).unwrap().unwrap();
            assert_eq!((settings.mode, settings.facts.run_mode), (wanted, run_mode), "{word}");
        }
    }
    let shared = decided(&[KEY, ("WANDB_MODE", "shared")], &[PROJECT]).unwrap().unwrap();
    assert_eq!(shared.facts.run_mode, RunMode::Shared);
    let typed = decided(&[KEY, ("WANDB_MODE", "disabled")], &[PROJECT, ("wandb.mode", "online")]);
    assert_eq!(typed.unwrap().unwrap().mode, Mode::Online, "what is typed wins");
}

#[test]
fn names_are_checked_before_anything_starts() {
    let wrong = [
        (("wandb.run_id", "a/b"), "'/'"),
        (("wandb.base", "a#b"), "'#'"),
        (("wandb.entity", "a/b"), "'/'"),
        (("wandb.sources", "files"), "lines, log, sdk, system and job"),
        (("wandb.stop_button", "x"), "neither true nor false"),
    ];
    for (typed, why) in wrong {
        let error = decided(&[KEY], &[typed]).unwrap_err();
        assert!(error.exit_code() == 2 && error.text.contains(why), "{typed:?}: {error}");
    }
    let long = "p".repeat(129);
    assert!(decided(&[KEY], &[("wandb.project", &long)]).unwrap_err().text.contains("129 characters"));
}

#[test]
fn a_run_has_a_name_that_all_nodes_know() {
    let base = |nodes, rdzv_id, env: &[(&str, &str)], typed: &[(&'static str, &str)]| {
        let about = About { rdzv_id, ..about(nodes) };
        decide(&layers(env, typed), about).map(|settings| settings.unwrap().plan().unwrap().base)
    };
    let project = [PROJECT];
    assert_eq!(base((1, 1), None, &[], &project).unwrap(), "train-x3k9-a0");
    assert_eq!(base((1, 4), Some("exp7"), &[], &project).unwrap(), "exp7-a0");
    assert_eq!(base((4, 4), Some("none"), &[("SLURM_JOB_ID", "71")], &project).unwrap(), "train-71-a0");
    assert_eq!(base((4, 4), None, &[], &[PROJECT, ("wandb.base", "b")]).unwrap(), "b");
    let error = base((2, 2), None, &[], &project).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("--run-name"), "{error}");
    let settings = decided(&[], &[PROJECT, ("wandb.action_name", "eval")]).unwrap().unwrap();
    assert!(matches!(settings.facts.base, Base::Names { run: Some(_), action: Some(_) }));
}

#[test]
fn a_dry_run_shows_the_tree_and_the_variables() {
    let typed = [PROJECT, ("wandb.entity", "team"), ("wandb.writer", "script"), ("wandb.run_name", "exp")];
    let settings = decided(&[KEY], &typed).unwrap();
    assert_snapshot!("dry_run", text(settings.as_ref()).unwrap());
    let document = json(settings.as_ref()).unwrap();
    assert_eq!(document["plan"]["runs"][0]["id"], "exp-a0");
    assert_eq!(document["rank_environments"][1]["set"]["WANDB_MODE"], "disabled");
    assert_eq!(json(None).unwrap(), Value::Null);
    assert!(text(None).unwrap().contains(OFF));
    assert!(!document.to_string().contains("WANDB_API_KEY"));
}
