//! Files, variables and flags in, values and errors out.

use std::{collections::BTreeMap, fs};

use clap::{CommandFactory, Parser};
use insta::assert_snapshot;
use proptest::prelude::*;

use super::{
    file::{self, ConfigFile, parse, parse_theirs},
    layers::project_file,
    registry::{Kind, SETTINGS, setting},
    screen::Screen,
    *,
};
use crate::{
    cli::Cli,
    domain::resolve::{Base, RankScope, RunMode, Topology},
};

fn layers(project: &str, user: &str, env: &[(&str, &str)], typed: &[(&'static str, &str)]) -> Layers {
    let file = |path: &str, text: &str| {
        let (values, problems) = parse(text);
        assert_eq!(problems, []);
        Some(ConfigFile { path: path.into(), values, screen: Screen::default() })
    };
    Layers {
        typed: typed.iter().map(|&(key, value)| (key, value.to_owned())).collect(),
        env: env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        project: file("elastictop.toml", project),
        user: file("/home/me/.config/elastictop/config.toml", user),
        wandb: Some(ConfigFile {
            path: "/home/me/.config/wandb/settings".into(),
            values: parse_theirs("[default]\nentity = machine\nproject = machine\n"),
            screen: Screen::default(),
        }),
        wandb_here: None,
    }
}

#[test]
fn each_value_comes_from_the_highest_layer_that_has_one() {
    let project = "[wandb]\nproject = \"in-project\"\ntags = [\"a\", \"b\"]\n";
    let user =
        "[wandb]\nproject = \"in-user\"\nrun_mode = \"shared\"\nname = \"user's\"\n[run]\nstop_grace = 90\n";
    let env = [("WANDB_PROJECT", "exported"), ("ELASTICTOP_WANDB_PROJECT", "own"), ("WANDB_NAME", "")];
    let found =
        |layers: &Layers, key| layers.get(key).map(|found| format!("{} from {}", found.value, found.origin));
    let all = layers(project, user, &env, &[("wandb.project", "typed")]);
    let mut stack = vec![found(&all, "wandb.project").unwrap()];
    let mut less = all.clone();
    less.typed.clear();
    stack.push(found(&less, "wandb.project").unwrap());
    less.env.remove("ELASTICTOP_WANDB_PROJECT");
    stack.push(found(&less, "wandb.project").unwrap());
    less.env.clear();
    stack.push(found(&less, "wandb.project").unwrap());
    less.project = None;
    stack.push(found(&less, "wandb.project").unwrap());
    less.user = None;
    stack.push(found(&less, "wandb.project").unwrap());
    assert_snapshot!("stack", stack.join("\n"));
    // What `wandb init` leaves in a folder is nearer than what is of the machine.
    let values = parse_theirs("[default]\nproject = here\n");
    less.wandb_here = Some(ConfigFile { path: "wandb/settings".into(), values, screen: Screen::default() });
    assert_eq!(found(&less, "wandb.project").unwrap(), "here from wandb/settings:2");
    assert_eq!(found(&less, "wandb.entity").unwrap(), "machine from /home/me/.config/wandb/settings:2");

    assert_eq!(found(&all, "wandb.tags").unwrap(), "a,b from elastictop.toml:3");
    assert_eq!(found(&all, "run.stop_grace").unwrap(), "90 from /home/me/.config/elastictop/config.toml:6");
    assert_eq!(
        found(&all, "wandb.name").unwrap(),
        "user's from /home/me/.config/elastictop/config.toml:4",
        "empty"
    );
    assert_eq!(found(&all, "wandb.group"), None);
}

/// Flyte's inner `wandb_config(project=…)` sets the run mode back to `auto`. Here a layer resets nothing that it does
/// not name.
#[test]
fn a_higher_layer_resets_nothing_that_it_does_not_name() {
    let user = "[wandb]\nrun_mode = \"shared\"\nrank_scope = \"worker\"\nmode = \"offline\"\n";
    let layers = layers("[wandb]\nproject = \"p\"\n", user, &[("WANDB_ENTITY", "e")], &[("wandb.name", "n")]);
    let facts = facts(&layers, Topology::equal(2, 2).unwrap(), None).unwrap();
    assert_eq!((facts.run_mode, facts.rank_scope), (RunMode::Shared, RankScope::Worker));
    assert_eq!(layers.get("wandb.mode").unwrap().value, "offline");
    let values = [facts.project, facts.entity, facts.name].map(|given| given.unwrap().value);
    assert_eq!(values, ["p", "e", "n"]);
}

#[test]
fn of_base_and_names_the_higher_layer_counts() {
    let base = |project: &str, user: &str| {
        facts(&layers(project, user, &[], &[]), Topology::equal(1, 2).unwrap(), None).unwrap().base
    };
    let (whole, named) = ("[wandb]\nbase = \"b\"\n", "[wandb]\nrun_name = \"r\"\n");
    assert!(matches!(base(whole, named), Base::Whole(given) if given.value == "b"));
    assert!(matches!(base(named, whole), Base::Names { run: Some(run), .. } if run.value == "r"));
    assert!(matches!(base("", &format!("{whole}run_name = \"r\"\n")), Base::Whole(_)));
}

#[test]
fn errors_name_the_place_and_the_nearest_name() {
    let text = r#"
theme = "nord"
[wandb]
projct = "llm"
run_mode = "share"
api_key = "0123456789abcdef0123456789abcdef01234567"
stop_button = "perhaps"
project = ["a", "b"]
sources = ["lines", "files"]
[run]
stop_grace = "5 weeks"
theme = "nord"
[wnadb]
[ui.theme]
x = 1
"#;
    let (_, problems) = parse(text);
    let lines: Vec<_> = problems
        .iter()
        .map(|problem| {
            let hints: Vec<_> = problem.hint.iter().map(|hint| format!(" ({hint})")).collect();
            format!("{problem}{}", hints.concat())
        })
        .collect();
    assert_snapshot!("problems", lines.join("\n"));
    assert!(!lines.join("\n").contains("0123456789abcdef"), "the key is not repeated");
}

#[test]
fn a_file_that_is_no_toml_is_refused_at_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("elastictop.toml");
    fs::write(&path, "[wandb]\nproject = \n").unwrap();
    let error = file::read(&path).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.text.contains("elastictop.toml:2:"), "{}", error.text);
    assert!(file::read(&dir.path().join("none.toml")).unwrap().is_none());
}

#[test]
fn a_bad_value_in_a_layer_names_the_layer() {
    let wrong = |env: &[(&str, &str)]| {
        let layers = layers("", "", env, &[]);
        facts(&layers, Topology::equal(1, 1).unwrap(), None).unwrap_err().to_string()
    };
    assert!(
        wrong(&[("ELASTICTOP_RUN_MODE", "share")]).contains("ELASTICTOP_RUN_MODE=share: is none of auto")
    );
}

#[test]
fn what_init_writes_is_good_and_names_every_setting() {
    let text = show::template();
    assert_eq!(parse(&text), (BTreeMap::default(), Vec::new()), "all is commented out");
    // With every example switched on it is good still, but for those that are empty.
    let on: String = text
        .lines()
        .map(|line| {
            match line.strip_prefix("# ").filter(|rest| rest.contains(" = ") && !rest.contains("\"\"")) {
                Some(example) => format!("{example}\n"),
                None => format!("{line}\n"),
            }
        })
        .collect();
    let (values, problems) = parse(&on);
    assert_eq!(problems, [], "{on}");
    assert!(values.len() > SETTINGS.len() / 2);
    for setting in SETTINGS {
        let name = setting.key.split_once('.').unwrap().1;
        assert!(text.contains(&format!("# {name} = ")), "{} is not in the file", setting.key);
    }
}

#[test]
fn print_shows_values_origins_and_no_password() {
    let project = "[wandb]\nproject = \"llm\"\n";
    let env = [("WANDB_BASE_URL", "https://me:secret@wandb.example"), ("ELASTICTOP_RUN_MODE", "share")];
    let layers = layers(project, "", &env, &[]);
    let text = show::text(&layers);
    assert_snapshot!("print", text);
    let json: serde_json::Value = serde_json::from_str(&show::json(&layers)).unwrap();
    assert_eq!(json["schema"], 1);
    let of =
        |key: &str| json["settings"].as_array().unwrap().iter().find(|s| s["key"] == key).unwrap().clone();
    assert_eq!(of("wandb.project")["origin"], "elastictop.toml:2");
    assert_eq!(of("wandb.group")["value"], serde_json::Value::Null);
    assert!(of("wandb.run_mode")["problem"].as_str().unwrap().contains("none of"));
    assert!(!text.contains("secret") && !json.to_string().contains("secret"));
}

#[test]
fn the_project_file_is_looked_for_up_to_the_repository_or_home() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    for folder in ["home/plain/deep", "home/repo/.git", "home/repo/a/b", "outside/deep"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    let home = at("home");
    let found = |cwd: &str| project_file(&at(cwd), Some(&home)).map(|path| path.parent().unwrap().to_owned());
    fs::write(at("home/elastictop.toml"), "").unwrap();
    fs::write(at("outside/elastictop.toml"), "").unwrap();
    assert_eq!(found("home/plain/deep"), Some(at("home")));
    assert_eq!(found("home/repo/a/b"), None, "not above the repository");
    assert_eq!(found("outside/deep"), None, "outside of home only the working directory counts");
    assert_eq!(found("outside"), Some(at("outside")));
    fs::write(at("home/repo/elastictop.toml"), "").unwrap();
    fs::write(at("home/repo/a/elastictop.toml"), "").unwrap();
    assert_eq!(found("home/repo/a/b"), Some(at("home/repo/a")), "the nearest");
    assert_eq!(found("home/repo"), Some(at("home/repo")));
}

#[test]
fn wandbs_own_settings_are_read_leniently() {
    let values = parse_theirs(
        "; x\n[other]\nproject = no\n[default]\nentity=team\nproject: llm\nmode = sometimes\n=\n",
    );
    let found: Vec<_> = values.iter().map(|(key, found)| (*key, found.text.as_str(), found.line)).collect();
    assert_eq!(found, [("wandb.entity", "team", 5), ("wandb.project", "llm", 6)]);
}

/// Flags, help and checks come from one place: what `run` has by itself says the same.
#[test]
fn the_flags_are_those_of_the_registry() {
    let mut command = Cli::command();
    command.build();
    let run = command.find_subcommand("run").unwrap();
    for setting in SETTINGS.iter().filter(|setting| !setting.key.starts_with("ui.")) {
        let flag = run.get_arguments().find(|arg| arg.get_long() == Some(setting.flag));
        let flag = flag.unwrap_or_else(|| panic!("run has no --{}", setting.flag));
        assert_eq!(flag.get_help().unwrap().to_string(), setting.help_with_default(), "--{}", setting.flag);
        let names = flag.get_value_names().unwrap();
        assert_eq!(names[0].as_str(), setting.value, "--{}", setting.flag);
    }
    assert!(
        Cli::try_parse_from(["elastictop", "run", "--wandb_project", "p", "--run_mode=new", "t.py"]).is_ok()
    );
}

#[test]
fn settings_are_sound() {
    let mut seen = std::collections::BTreeSet::new();
    for setting in SETTINGS {
        assert!(setting.key.split_once('.').is_some(), "{}", setting.key);
        for name in setting.variables.iter().chain([&setting.key]) {
            assert!(seen.insert(*name), "{name} twice");
        }
        assert!(setting.variables[0].starts_with("ELASTICTOP_"), "{}", setting.key);
        if let Kind::Word(words) = setting.kind {
            words.iter().for_each(|word| assert_eq!(setting.refuse(word), Ok(()), "{word}"));
            assert!(setting.refuse("no such word").is_err(), "{}", setting.key);
        }
    }
    assert_eq!(setting("ui.theme").flag, "theme");
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "\\PC{0,200}|(\\[?wandb\\]?|\n|=|\"|project|'|\\{|#| ){0,40}") {
        let (_, problems) = parse(&text);
        for problem in problems {
            prop_assert!(problem.at.0 >= 1 && problem.at.1 >= 1);
            prop_assert!(problem.at.0 <= text.split('\n').count());
        }
        parse_theirs(&text);
    }
}
