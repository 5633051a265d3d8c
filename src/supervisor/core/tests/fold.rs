//! Journals and reports of former versions: what was written once opens for ever.

use super::*;
use crate::{domain::report::Status, supervisor::journal};

const GOLDEN: &str = include_str!("../../../../tests/golden/journal-v1.jsonl");

fn fold(text: &str) -> State {
    let mut state = State::default();
    for line in text.lines() {
        state.apply(&journal::parse(line.as_bytes()).unwrap_or_else(|| panic!("cannot be read: {line}")));
    }
    state
}

fn kinds(text: &str) -> std::collections::BTreeSet<String> {
    let kind = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["kind"].as_str().unwrap().to_owned()
    };
    text.lines().map(kind).collect()
}

#[test]
fn the_golden_journal_holds_every_kind_of_fact() {
    let wanted = [
        "adopted",
        "agent_exited",
        "agent_started",
        "alert_cleared",
        "alert_raised",
        "cause_found",
        "command",
        "deadline",
        "group_started",
        "job_ended",
        "job_started",
        "job_state",
        "membership_changed",
        "note",
        "progress",
        "rank_exit_known",
        "rank_exited",
        "rank_placed",
        "rank_started",
        "rank_state",
        "restart",
    ];
    let kinds = kinds(GOLDEN);
    for kind in wanted {
        assert!(kinds.contains(kind), "{kind} is missing");
    }
}

#[test]
fn a_journal_of_the_first_version_opens_as_ever() {
    let whole = fold(GOLDEN);
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("journal-v1-state", serde_json::to_string_pretty(&whole).unwrap());
    });
    // What is written is what was read: no field changed its name or got lost.
    for line in GOLDEN.lines() {
        let event = journal::parse(line.as_bytes()).unwrap();
        let again: serde_json::Value = serde_json::from_slice(&journal::line(&event)).unwrap();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(line).unwrap());
    }
    // A viewer that comes gets the state as JSON, and goes on from there.
    let lines: Vec<_> = GOLDEN.lines().collect();
    for cut in 0..lines.len() {
        let early = serde_json::to_string(&fold(&lines[..cut].join("\n"))).unwrap();
        let mut state: State = serde_json::from_str(&early).unwrap();
        lines[cut..].iter().for_each(|line| state.apply(&journal::parse(line.as_bytes()).unwrap()));
        assert_eq!(state, whole, "cut after {cut}");
    }
}

#[test]
fn what_a_newer_version_wrote_is_passed_over() {
    let mut newer = String::new();
    for line in GOLDEN.lines() {
        newer.push_str(&line.replacen('{', r#"{"hue":{"deep":[1]},"#, 1));
        newer.push('\n');
        newer.push_str(
            r#"{"schema":1,"seq":0,"at":"2026-11-20T09:30:00.000Z","kind":"moon_phase","phase":3}"#,
        );
        newer.push('\n');
    }
    assert_eq!(fold(&newer), fold(GOLDEN));
    let state =
        r#"{"schema":1,"seq":1,"at":"2026-11-20T09:30:00.000Z","kind":"job_state","state":"levitating"}"#;
    assert_eq!(fold(state).state, crate::domain::rank::JobState::Unknown);
}

#[test]
fn a_status_has_exactly_the_promised_keys_and_null_for_what_nobody_knows() {
    let lines: Vec<_> = GOLDEN.lines().collect();
    let running = lines.iter().position(|line| line.contains("\"restart\"")).unwrap();
    for (name, text) in [
        ("status-empty", String::new()),
        ("status-running", lines[..running].join("\n")),
        ("status-over", GOLDEN.to_owned()),
    ] {
        let state = fold(&text);
        let status = Status::new(&state, state.at + Duration::from_secs(1));
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, serde_json::to_string_pretty(&status).unwrap());
        });
        let json = serde_json::to_value(&status).unwrap();
        let keys = |value: &serde_json::Value| {
            let keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.into_iter().collect::<std::collections::BTreeSet<_>>()
        };
        let want = |words: &str| words.split(' ').map(str::to_owned).collect();
        assert_eq!(keys(&json), want("schema job agent ranks gpus wandb alerts nodes"));
        let job =
            "id name state launcher attempt restarts max_restarts world_size started_at exit_code cause";
        assert_eq!(keys(&json["job"]), want(job));
        assert_eq!(keys(&json["agent"]), want("pid state"));
        let rank = "rank local_rank group_rank node pid state exit cpu_pct rss_bytes threads step heartbeat_age_s gpu \
            groups collective guard";
        for entry in json["ranks"].as_array().unwrap() {
            assert_eq!(keys(entry), want(rank));
        }
        for entry in json["alerts"].as_array().unwrap() {
            assert_eq!(keys(entry), want("kind rank since text evidence"));
        }
    }
}
