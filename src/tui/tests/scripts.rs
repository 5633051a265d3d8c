//! Scripts of keys and what they leave behind.

use proptest::prelude::*;
use ratatui::crossterm::event::{KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

use super::looks::{paint, picture};

use crate::{
    domain::{
        command::{Command, Outcome},
        log::{LogLine, LogQuery, answer},
        rank::JobState,
        time::Stamp,
    },
    tui::{
        app::{App, Cmd, Dialog, LinkState, Msg},
        fixture::{self, log_lines},
        fixture_page::{close_up, hung_stacks, stack_of},
        keys::{self, View},
    },
    wire::message::{ToSupervisor, ToViewer},
};

/// Presses keys; a supervisor that has `lines` answers log questions. What else was to be done comes back.
pub(in crate::tui) fn press(app: &mut App, script: &str, lines: &[LogLine]) -> Vec<Cmd> {
    let mut left = Vec::new();
    let mut todo: Vec<Cmd> = Vec::new();
    for key in keys::script(script) {
        todo.extend(app.update(Msg::Key(key)));
        settle(app, &mut todo, lines, &mut left);
    }
    left
}

/// Answers questions about logs and ranks until there are none.
fn settle(app: &mut App, todo: &mut Vec<Cmd>, lines: &[LogLine], left: &mut Vec<Cmd>) {
    while let Some(cmd) = todo.pop() {
        match cmd {
            Cmd::Send(ToSupervisor::Logs { id, query }) => {
                let page = answer(lines, &query);
                todo.extend(app.update(Msg::Heard(Box::new(ToViewer::Logs { id, page }))));
            }
            Cmd::Send(ToSupervisor::LookAt { id, local_rank, question }) => {
                let close_up = Box::new(close_up(&app.state, app.now, local_rank, question));
                todo.extend(app.update(Msg::Heard(Box::new(ToViewer::CloseUp { id, close_up }))));
            }
            Cmd::Send(ToSupervisor::Do { id, command: Command::Stacks { rank, by: None }, .. }) => {
                let stacks = rank.map_or_else(hung_stacks, stack_of);
                todo.extend(app.update(Msg::Heard(Box::new(ToViewer::Stacks { id, stacks }))));
                let outcome = Outcome::Done("taken".into());
                todo.extend(app.update(Msg::Heard(Box::new(ToViewer::Reply { id, outcome }))));
            }
            other => left.push(other),
        }
    }
}

fn four() -> App {
    fixture::app(&fixture::healthy(4), (80, 24), None)
}

pub(super) fn said(app: &App) -> &str {
    app.toast.as_ref().map_or("", |toast| &toast.text)
}

pub(super) fn order(cmds: &[Cmd]) -> Option<&Command> {
    cmds.iter().find_map(|cmd| match cmd {
        Cmd::Send(ToSupervisor::Do { command, .. }) => Some(command),
        _ => None,
    })
}

#[test]
fn keys_move_the_selection_and_stop_at_the_ends() {
    let mut app = four();
    for (script, selected) in [
        ("j j", 2),
        ("k", 1),
        ("G", 3),
        ("<Down>", 3),
        ("g", 0),
        ("<Up>", 0),
        ("<PgDn>", 3),
        ("<Ctrl-U> <Home>", 0),
    ] {
        press(&mut app, script, &[]);
        assert_eq!(app.selected, selected, "{script}");
    }
}

#[test]
fn enter_goes_in_and_escape_out() {
    let mut app = four();
    let lines = log_lines(100);
    press(&mut app, "j <Enter>", &lines);
    assert!(app.detail() && app.logs.local_rank == Some(1));
    assert!(app.logs.lines.iter().all(|line| line.local_rank == Some(1)) && !app.logs.lines.is_empty());
    press(&mut app, "j", &lines);
    assert_eq!((app.selected, app.logs.local_rank), (2, Some(2)), "the next rank and its log");
    press(&mut app, "l", &lines);
    assert_eq!((app.view, app.detail(), app.logs.local_rank), (View::Logs, false, Some(2)));
    press(&mut app, "<Esc>", &lines);
    assert_eq!(app.view, View::Overview);
    press(&mut app, "<Tab> <Tab>", &lines);
    assert_eq!(app.view, View::Timeline);
    press(&mut app, "<Shift-Tab> <Shift-Tab> <Shift-Tab>", &lines);
    assert_eq!(app.view, View::Runs);
    press(&mut app, "<Shift-Tab>", &lines);
    assert_eq!(app.view, View::Events);
}

#[test]
fn q_detaches_and_nothing_is_sent() {
    for script in ["q", "<F10>", "2 q", "<Enter> q", "? q"] {
        let cmds = press(&mut four(), script, &[]);
        assert_eq!(cmds, [Cmd::Leave], "{script}");
    }
}

#[test]
fn stopping_needs_the_number_of_ranks() {
    let mut app = four();
    assert_eq!(order(&press(&mut app, "Q <Enter>", &[])), None);
    assert_eq!(order(&press(&mut app, "3 <Enter>", &[])), None, "a wrong number");
    assert!(app.dialog.is_some());
    assert_eq!(order(&press(&mut app, "4 <Enter>", &[])), Some(&Command::Stop { now: false }));
    assert!(app.dialog.is_none());
    let mut app = four();
    assert_eq!(press(&mut app, "Q 4 <Esc>", &[]), []);
    assert!(app.dialog.is_none());
    let mut app = four();
    assert_eq!(press(&mut app, "Q <Ctrl-C>", &[]), [], "Ctrl-C leaves the question, not the job");
}

#[test]
fn a_second_stop_is_at_once() {
    let mut story = fixture::healthy(4);
    story.fact(crate::domain::event::Fact::JobState { state: JobState::TearingDown, deadline: None });
    let mut app = fixture::app(&story, (80, 24), None);
    assert_eq!(order(&press(&mut app, "Q 4 <Enter>", &[])), Some(&Command::Stop { now: true }));
}

#[test]
fn a_restart_is_confirmed_and_its_outcome_shown() {
    let mut app = four();
    assert_eq!(order(&press(&mut app, "R <Esc> R n", &[])), None, "nothing before it is confirmed");
    let cmds = press(&mut app, "R <Enter>", &[]);
    assert_eq!(order(&cmds), Some(&Command::Restart { attempt: None }));
    assert_eq!(said(&app), "restart: asked, waiting for the effect");
    let Some(Cmd::Send(ToSupervisor::Do { id, .. })) = cmds.first() else { panic!("{cmds:?}") };
    let outcome = Outcome::Refused("the job is ending".into());
    app.update(Msg::Heard(Box::new(ToViewer::Reply { id: *id, outcome })));
    assert_eq!(said(&app), "restart refused: the job is ending");
}

#[test]
fn a_signal_goes_to_the_selected_rank() {
    let mut app = four();
    let cmds = press(&mut app, "j j x j j <Enter>", &[]);
    assert_eq!(order(&cmds), Some(&Command::Signal { rank: Some(2), signal: 19 }));
}

#[test]
fn a_signal_never_reaches_another_process_than_the_one_seen() {
    let mut app = four();
    press(&mut app, "j x", &[]);
    assert!(matches!(app.dialog, Some(Dialog::Signal { .. })));
    let mut later = fixture::healthy(4);
    later.restart(crate::domain::event::Reason::Failure, None).ranks(true);
    let state = Box::new(later.state.clone());
    app.update(Msg::Heard(Box::new(ToViewer::Snapshot { state, lost: 0 })));
    assert_eq!(order(&press(&mut app, "<Enter>", &[])), None);
    assert_eq!(said(&app), "not sent: r1 has a new process since this dialog opened");
}

#[test]
fn zombies_are_kept_only_when_there_are_any() {
    let mut app = four();
    assert_eq!(press(&mut app, "K", &[]), []);
    assert_eq!(said(&app), "no zombie deadlock: nothing to keep");
    let mut app = fixture::app(&fixture::zombies(), (80, 24), None);
    assert_eq!(order(&press(&mut app, "K", &[])), Some(&Command::KeepZombies));
}

#[test]
fn what_cannot_be_done_says_why() {
    let mut app = fixture::app(&fixture::foreign(), (80, 24), Some("another user's job"));
    for key in ["Q", "R", "x", "K"] {
        assert_eq!(press(&mut app, key, &[]), [], "{key}");
        assert_eq!(said(&app), "read-only: another user's job", "{key}");
        assert!(app.dialog.is_none());
    }
    let mut app = fixture::app(&fixture::failed(), (80, 24), None);
    press(&mut app, "R", &[]);
    assert_eq!(said(&app), "the job is over");
    let mut app = four();
    app.update(Msg::Unlinked("gone".into()));
    press(&mut app, "Q", &[]);
    assert_eq!(said(&app), "no link to the supervisor now; the job goes on without it");
}

#[test]
fn a_command_that_lost_its_link_says_so() {
    let mut app = four();
    press(&mut app, "R y", &[]);
    app.update(Msg::Unlinked("gone".into()));
    assert_eq!(said(&app), "restart: the link went away before the answer came");
}

#[test]
fn toasts_go_away() {
    let mut app = four();
    press(&mut app, "<Ctrl-C>", &[]);
    assert_eq!(said(&app), "q detaches, the job goes on; Q stops the job");
    app.update(Msg::Tick(app.now + std::time::Duration::from_secs(60)));
    assert_eq!(said(&app), "");
}

#[test]
fn logs_follow_pause_and_page() {
    let (mut app, lines) = (four(), log_lines(3000));
    press(&mut app, "L", &lines);
    assert!(app.logs.follow && app.logs.selected().unwrap().n == 2999);
    press(&mut app, "k", &lines);
    assert!(!app.logs.follow && app.logs.selected().unwrap().n == 2998);
    // Far up: older pages come in without a gap.
    for _ in 0..60 {
        press(&mut app, "<PgUp>", &lines);
    }
    let numbers: Vec<u64> = app.logs.lines.iter().map(|line| line.n).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert_eq!(app.logs.selected().unwrap().n, 2998 - 60 * 18);
    press(&mut app, "g", &lines);
    assert_eq!(app.logs.selected().unwrap().n, 0);
    press(&mut app, "G", &lines);
    assert!(app.logs.follow && app.logs.selected().unwrap().n == 2999);
}

#[test]
fn following_asks_again_when_lines_grew_or_a_second_passed() {
    let mut story = fixture::healthy(4);
    let (mut app, lines) = (fixture::app(&story, (80, 24), None), log_lines(50));
    press(&mut app, "L", &lines);
    assert_eq!(app.update(Msg::Resize(80, 24)), [], "nothing new: nothing asked");
    let is_page =
        |cmd: &Cmd| matches!(cmd, Cmd::Send(ToSupervisor::Logs { query: LogQuery::Page { .. }, .. }));
    let asks = |cmds: &[Cmd]| cmds.iter().filter(|cmd| is_page(cmd)).count() == 1;
    let known = story.events.len();
    story.work(2000, 1.0);
    let events = story.events.split_off(known);
    let mut todo = app.update(Msg::Heard(Box::new(ToViewer::Events { events })));
    assert!(asks(&todo));
    let longer = log_lines(60);
    settle(&mut app, &mut todo, &longer, &mut Vec::new());
    assert_eq!(app.logs.selected().unwrap().n, 59, "the end is followed");
    assert!(asks(&app.update(Msg::Tick(story.now() + std::time::Duration::from_secs(2)))));
}

#[test]
fn a_paused_log_counts_what_arrives() {
    let mut story = fixture::healthy(4);
    let (mut app, lines) = (fixture::app(&story, (80, 24), None), log_lines(500));
    press(&mut app, "j l k", &lines);
    let before = story.state.rank(1).unwrap().lines;
    let known = story.events.len();
    story.work(2000, 1.0);
    let more = story.state.rank(1).unwrap().lines - before;
    let events = story.events.split_off(known);
    app.update(Msg::Heard(Box::new(ToViewer::Events { events })));
    assert!(more > 0 && app.logs.arrived == more);
    press(&mut app, "f", &lines);
    assert!(app.logs.follow && app.logs.arrived == 0);
}

#[test]
fn a_search_goes_to_matches_and_says_when_there_is_none() {
    let (mut app, lines) = (four(), log_lines(2000));
    press(&mut app, "L / S T E P <Space> 1 2 <Enter>", &lines);
    let text = |app: &App| app.logs.selected().unwrap().text.clone();
    assert!(text(&app).starts_with("step 12"), "the last one before the end: {}", text(&app));
    let first = app.logs.selected().unwrap().n;
    press(&mut app, "N", &lines);
    assert!(app.logs.selected().unwrap().n < first && text(&app).starts_with("step 12"));
    press(&mut app, "n", &lines);
    assert_eq!(app.logs.selected().unwrap().n, first);
    press(&mut app, "n", &lines);
    assert_eq!(app.logs.selected().unwrap().n, first, "there is none");
    assert!(said(&app).starts_with("no match of \"STEP 12\" after this"));
    press(&mut app, "/ q <Esc>", &lines);
    assert!(app.logs.input.is_none() && app.view == View::Logs, "q was typed, not obeyed");
    press(&mut app, "<Esc>", &lines);
    assert!(app.logs.search.is_none() && app.view == View::Logs, "first the search ends, then the view");
}

#[test]
fn a_search_goes_on_over_more_lines_than_one_answer_looks_through() {
    let (mut app, lines) = (four(), log_lines(150_000));
    assert!(lines.iter().map(|line| line.text.len()).sum::<usize>() > 2 * crate::domain::log::MAX_SEARCH);
    press(&mut app, "L / g r a d _ n o r m <Space> 1 <Enter>", &lines);
    assert!(said(&app).starts_with("no match of \"grad_norm 1\" before this"), "{}", said(&app));
    press(&mut app, "/ s t e p <Space> 1 <Space> <Enter>", &lines);
    assert_eq!(app.logs.selected().unwrap().n, 1);
    assert_eq!(app.logs.searched_to, None);
    // While it goes on, the line tells how far it is; who ends the search is asked nothing more.
    press(&mut app, "G / n o n e", &lines);
    let find = |cmds: &[Cmd]| {
        cmds.iter()
            .any(|cmd| matches!(cmd, Cmd::Send(ToSupervisor::Logs { query: LogQuery::Find { .. }, .. })))
    };
    let first = app.update(Msg::Key(keys::script("<Enter>")[0]));
    let [Cmd::Send(ToSupervisor::Logs { id, query })] = &first[..] else { panic!("{first:?}") };
    let page = answer(&lines, query);
    assert!(page.found.is_none() && page.next.is_some());
    let more = app.update(Msg::Heard(Box::new(ToViewer::Logs { id: *id, page: page.clone() })));
    assert!(find(&more) && app.logs.searched_to == page.next, "{more:?}");
    let buffer = paint(&app, (80, 24));
    assert!(picture(&buffer).contains("searching, line"), "{}", picture(&buffer));
    press(&mut app, "<Esc>", &lines);
    let [Cmd::Send(ToSupervisor::Logs { id, query })] = &more[..] else { panic!("{more:?}") };
    let last = app.update(Msg::Heard(Box::new(ToViewer::Logs { id: *id, page: answer(&lines, query) })));
    assert!(!find(&last) && app.logs.searched_to.is_none(), "{last:?}");
}

#[test]
fn the_first_error_is_found_in_the_attempt_before_when_this_one_has_none() {
    let mut story = fixture::healthy(4);
    story.crash(2, fixture::out_of_memory()).restart(crate::domain::event::Reason::Failure, None).ranks(true);
    let (mut app, lines) = (fixture::app(&story, (80, 24), None), log_lines(2000));
    press(&mut app, "L e", &lines);
    let line = app.logs.selected().unwrap();
    assert_eq!((line.n, line.attempt), (7, 0), "{line:?}");
    assert_eq!(said(&app), "first error of attempt 0");
}

#[test]
fn yank_takes_the_selected_line() {
    let (mut app, lines) = (four(), log_lines(100));
    assert_eq!(press(&mut app, "L k y", &lines), [Cmd::Yank(lines[98].text.clone())]);
    assert!(matches!(&press(&mut app, "4 y", &lines)[..], [Cmd::Yank(text)] if text == "job is running"));
}

#[test]
fn the_mouse_selects_and_scrolls() {
    let mut app = four();
    let event =
        |kind, column, row| Msg::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE });
    let click = MouseEventKind::Down(MouseButton::Left);
    app.update(event(click, 5, 5));
    assert_eq!(app.selected, 2, "the third row under the heading");
    app.update(event(click, 5, 5));
    assert!(app.detail(), "a second click goes in");
    app.update(event(click, 14, 1));
    assert_eq!(app.view, View::Logs);
    app.update(event(click, 1, 1));
    app.update(event(MouseEventKind::ScrollUp, 5, 5));
    assert_eq!(app.selected, 0);
}

#[test]
fn clocks_that_differ_do_not_spoil_ages() {
    let story = fixture::healthy(4);
    let mut app = fixture::app(&story, (80, 24), None);
    // The supervisor's clock is an hour ahead of the viewer's.
    let hour = std::time::Duration::from_secs(3600);
    app.update(Msg::Tick(Stamp(story.now().0 - 3_600_000)));
    let welcome =
        ToViewer::Welcome { protocol: 1, version: "0.1.0".into(), now: story.now(), read_only: None };
    app.update(Msg::Heard(Box::new(welcome)));
    assert_eq!(app.now, story.now());
    app.update(Msg::Tick(Stamp(story.now().0 - 3_600_000 + 5000)));
    assert_eq!(app.now.since(story.now()).as_secs(), 5);
    assert!(app.now.since(story.now()) < hour);
}

#[test]
fn the_link_is_seen_to_come_and_go() {
    let mut app = four();
    assert_eq!(app.link, LinkState::Live);
    app.update(Msg::Unlinked("one".into()));
    app.update(Msg::Unlinked("two".into()));
    assert_eq!(app.link, LinkState::Lost { tries: 1, text: "two".into() });
    let hello = app.update(Msg::Linked);
    assert!(matches!(&hello[..], [Cmd::Send(ToSupervisor::Hello { watch: true, .. })]));
    let state = Box::new(fixture::healthy(2).state);
    press(&mut app, "G", &[]);
    app.update(Msg::Heard(Box::new(ToViewer::Snapshot { state, lost: 7 })));
    assert_eq!((&app.link, app.selected), (&LinkState::Live, 0), "the rank that was selected is no more");
    assert!(said(&app).contains("missed 7 events"));
}

fn any_msg() -> impl Strategy<Value = Msg> {
    let table: Vec<&str> = keys::TABLE.iter().flat_map(|binding| binding.keys.iter().copied()).collect();
    let stories: Vec<fn() -> fixture::Story> = vec![
        fixture::veteran,
        fixture::failed,
        fixture::zombies,
        fixture::troubled,
        fixture::odd_text,
        || fixture::healthy(1),
    ];
    prop_oneof![
        12 => proptest::sample::select(table).prop_map(|key| Msg::Key(keys::script(&format!("<{key}>"))[0])),
        3 => "[a-z0-9/ ]".prop_map(|key| {
            let key = if key == " " { "<Space>".to_owned() } else { key };
            Msg::Key(keys::script(&key)[0])
        }),
        1 => (0..250_u16, 0..80_u16).prop_map(|(columns, rows)| Msg::Resize(columns, rows)),
        1 => (0..10_000_u64).prop_map(|late| Msg::Tick(Stamp(fixture::BEGIN.0 + late * 997))),
        1 => Just(Msg::Linked),
        1 => Just(Msg::Unlinked("gone".into())),
        1 => Just(Msg::GaveUp("gone".into())),
        2 => proptest::sample::select(stories).prop_map(|story| {
            Msg::Heard(Box::new(ToViewer::Snapshot { state: Box::new(story().state), lost: 0 }))
        }),
        1 => (0..5_u64, 0..300_u64).prop_map(|(id, count)| {
            let page = answer(&log_lines(count), &LogQuery::Page {
                filter: crate::domain::log::LogFilter::default(),
                anchor: crate::domain::log::Anchor::Tail,
                max: 100,
            });
            Msg::Heard(Box::new(ToViewer::Logs { id, page }))
        }),
        1 => (0..250_u16, 0..80_u16).prop_map(|(column, row)| Msg::Mouse(MouseEvent {
            kind: MouseEventKind::Down(MouseButton::Left),
            column,
            row,
            modifiers: KeyModifiers::NONE,
        })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_messages_breaks_the_screen(
        msgs in proptest::collection::vec(any_msg(), 1..60),
        lines in 0..200_u64,
        size in (0..130_u16, 0..45_u16),
    ) {
        let mut app = fixture::app(&fixture::veteran(), size, None);
        let mut size = size;
        let lines = log_lines(lines);
        for msg in msgs {
            if let Msg::Resize(columns, rows) = msg {
                size = (columns, rows);
            }
            let mut todo = app.update(msg);
            // A supervisor that answers, but not for ever.
            todo.truncate(4);
            settle(&mut app, &mut todo, &lines, &mut Vec::new());
            paint(&app, size);
        }
    }
}

#[test]
fn who_is_left_over_on_a_gpu_is_ended_after_a_confirmation() {
    let mut app = fixture::app(&fixture::on_gpus(), (80, 24), None);
    let left = app.state.gpus.as_ref().map(|gpus| gpus.leftovers[1].proc).expect("a leftover");
    assert_eq!(order(&press(&mut app, "X j", &[])), None);
    assert!(matches!(app.dialog, Some(Dialog::Leftovers { at: 1, .. })));
    assert_eq!(order(&press(&mut app, "y", &[])), Some(&Command::EndLeftover { proc: left }));
    assert_eq!(order(&press(&mut app, "X <Esc> y", &[])), None);
    let mut none = four();
    press(&mut none, "X", &[]);
    assert!(none.dialog.is_none() && said(&none).contains("who holds GPU memory is not known"));
}

#[test]
fn pasted_text_gives_no_orders_and_goes_where_text_is_typed() {
    let mut app = four();
    let paste = |app: &mut App, text: &str| app.update(Msg::Pasted(text.into()));
    assert_eq!(order(&paste(&mut app, "R\r")), None);
    assert!(app.dialog.is_none() && said(&app).contains("pasted text"), "{}", said(&app));
    press(&mut app, "R", &[]);
    assert_eq!(order(&paste(&mut app, "y\r")), None);
    assert!(app.dialog.is_some());
    assert_eq!(order(&press(&mut app, "<Enter>", &[])), Some(&Command::Restart { attempt: None }));
    // A word that begins with R, and has a y in it.
    assert_eq!(order(&press(&mut app, "R e t r y", &[])), None);
    assert!(app.dialog.is_none());
    press(&mut app, "/", &[]);
    paste(&mut app, "rank:1\nq");
    press(&mut app, "<Enter>", &[]);
    assert_eq!(app.overview.shown().count(), 1);
}

#[test]
fn bytes_over_links_are_asked_for_while_a_rank_is_shown() {
    let asks = |cmds: &[Cmd]| cmds.iter().filter(|cmd| **cmd == Cmd::Send(ToSupervisor::Traffic)).count();
    let mut app = fixture::app(&fixture::on_gpus(), (80, 24), None);
    assert_eq!(asks(&press(&mut app, "j k", &[])), 0);
    assert_eq!(asks(&press(&mut app, "<Enter> j k", &[])), 1);
    let later = |app: &App, seconds| Msg::Tick(app.now + std::time::Duration::from_secs(seconds));
    let tick = later(&app, 4);
    assert_eq!(asks(&app.update(tick)), 0);
    let tick = later(&app, 2);
    assert_eq!(asks(&app.update(tick)), 1);
    press(&mut app, "<Esc>", &[]);
    let tick = later(&app, 60);
    assert_eq!(asks(&app.update(tick)), 0);
}

#[test]
fn the_first_rank_is_selected_until_one_is_chosen() {
    let story = fixture::healthy(4);
    let mut app = fixture::app(&story, (80, 24), None);
    let see = |app: &mut App, ranks: &[u32]| {
        let mut state = story.state.clone();
        state.ranks.retain(|rank| ranks.contains(&rank.local_rank));
        app.update(Msg::Heard(Box::new(ToViewer::Snapshot { state: Box::new(state), lost: 0 })));
        app.selected
    };
    // They become known in any order.
    assert_eq!((see(&mut app, &[2]), see(&mut app, &[1, 2]), see(&mut app, &[0, 1, 2, 3])), (2, 1, 0));
    see(&mut app, &[2]);
    press(&mut app, "j", &[]);
    assert_eq!(see(&mut app, &[0, 1, 2, 3]), 2);
}
