//! The W&B view: keys in, orders and selections out.

use std::collections::BTreeMap;

use super::scripts::{order, press, said};
use crate::{
    domain::{
        command::Command,
        event::Fact,
        forward::{RunProgress, RunState},
        resolve::{RankScope, RunMode},
    },
    tui::{
        app::{App, Cmd, Key},
        fixture, fixture_runs as runs,
        keys::View,
    },
};

fn app(story: &fixture::Story) -> App {
    fixture::app(story, (80, 24), None)
}

#[test]
fn another_combination_is_looked_at_before_it_is_asked_for() {
    let mut app = app(&runs::each_rank());
    assert_eq!(order(&press(&mut app, "5 m", &[])), None);
    assert_eq!(app.runs.preview, Some((RunMode::Auto, RankScope::Worker)));
    press(&mut app, "s", &[]);
    assert_eq!(app.runs.preview, Some((RunMode::Auto, RankScope::Global)));
    let wanted = Command::SetWandb { run_mode: Some(RunMode::Auto), rank_scope: Some(RankScope::Global) };
    assert_eq!(order(&press(&mut app, "<Enter>", &[])), Some(&wanted));
    assert_eq!(app.runs.preview, None);
    assert_eq!(order(&press(&mut app, "<Enter>", &[])), None, "once is enough");
}

#[test]
fn esc_leaves_what_is_looked_at_and_then_the_view() {
    let mut app = app(&runs::each_rank());
    press(&mut app, "W m <Esc>", &[]);
    assert_eq!((app.view, app.runs.preview), (View::Runs, None));
    press(&mut app, "<Esc>", &[]);
    assert_eq!(app.view, View::Overview);
    press(&mut app, "5 m m m", &[]);
    assert_eq!(app.runs.preview, None, "once around is what there is");
}

#[test]
fn where_the_script_writes_the_next_step_begins_at_what_waits() {
    let mut app = app(&runs::script());
    press(&mut app, "5 m", &[]);
    assert_eq!(app.runs.preview, Some((RunMode::Auto, RankScope::Global)), "new is what waits");
}

#[test]
fn that_rows_do_not_reach_the_server_is_seen_from_every_view() {
    let tabs = |story: &fixture::Story| {
        let screen = super::page::text(&app(story), (80, 24));
        screen.lines().nth(1).unwrap_or_default().to_owned()
    };
    assert!(tabs(&runs::each_rank()).contains("5 W&B ✖"), "one is refused: {}", tabs(&runs::each_rank()));
    assert!(!tabs(&runs::offline()).contains("W&B ■"), "it was not to be sent");
    let mut story = runs::each_rank();
    let retrying = |last_ack_at| RunProgress {
        state: RunState::Retrying,
        last_error: Some("503".into()),
        last_ack_at,
        ..RunProgress::default()
    };
    let now = story.now();
    for (last_ack_at, is_told) in [(Some(now), false), (None, true)] {
        let known = app(&story).state.wandb.unwrap_or_else(|| panic!("W&B is on")).runs;
        let runs: BTreeMap<_, _> = known.into_keys().map(|id| (id, retrying(last_ack_at))).collect();
        story.fact(Fact::WandbSample { runs, ranks: Vec::new() });
        assert_eq!(tabs(&story).contains("5 W&B ▲"), is_told, "{}", tabs(&story));
    }
}

#[test]
fn nothing_is_changed_where_nothing_can_be() {
    let mut app = fixture::app(&runs::each_rank(), (80, 24), Some("for a test"));
    assert_eq!(order(&press(&mut app, "5 m <Enter>", &[])), None);
    assert!(said(&app).contains("read-only"), "{}", said(&app));
    let mut app = self::app(&fixture::healthy(4));
    assert_eq!(order(&press(&mut app, "5 m <Enter> j G y", &[])), None);
    assert_eq!(app.runs.preview, None);
}

#[test]
fn the_link_of_the_selected_line_is_copied() {
    let copied = |keys: &str| {
        let mut app = app(&runs::each_rank());
        press(&mut app, keys, &[]).into_iter().find_map(|cmd| match cmd {
            Cmd::Yank(text) => Some(text),
            _ => None,
        })
    };
    let pages = "https://wandb.ai/team/llm";
    assert_eq!(copied("5 y").unwrap(), format!("{pages}/groups/llama-7b-x3k9-a0-worker-0"));
    assert_eq!(copied("5 j j y").unwrap(), format!("{pages}/runs/llama-7b-x3k9-a0-worker-0-rank-1"));
    let mut app = app(&runs::offline());
    assert!(press(&mut app, "5 y", &[]).is_empty(), "no entity, no link");
}

#[test]
fn the_selection_stays_with_its_run_when_the_plan_changes() {
    let mut app = app(&runs::each_rank());
    press(&mut app, "5 G", &[]);
    assert_eq!(app.runs.selected, Some(Key::Run("llama-7b-x3k9-a0".into())));
    let mut wandb = app.state.wandb.clone().unwrap();
    wandb.settings = wandb.settings.with((RunMode::Auto, RankScope::Global));
    app.state.wandb = Some(wandb);
    let tree = app.run_tree().unwrap();
    assert_eq!(app.run_cursor(&tree), 0, "the run that had left is in the plan again");
    assert_eq!(tree.rows.iter().filter(|row| row.has_left()).count(), 4);
}
