//! A supervisor that keeps its link and says nothing.

use std::time::Duration;

use super::{
    looks::paint,
    scripts::{order, press, said},
};
use crate::{
    domain::{command::Command, time::Stamp},
    tui::{
        app::{App, Cmd, LinkState, Msg},
        fixture,
    },
    wire::message::{ToSupervisor, ToViewer},
};

fn four() -> App {
    fixture::app(&fixture::healthy(4), (80, 24), None)
}

fn late(seconds: u64) -> Stamp {
    fixture::healthy(4).now() + Duration::from_secs(seconds)
}

fn tick(app: &mut App, seconds: u64) -> Vec<Cmd> {
    app.update(Msg::Tick(late(seconds)))
}

fn asks(cmds: &[Cmd]) -> usize {
    cmds.iter().filter(|cmd| matches!(cmd, Cmd::Send(ToSupervisor::Clock { .. }))).count()
}

fn hear(app: &mut App) {
    app.update(Msg::Heard(Box::new(ToViewer::Clock { id: 1, now: late(0) })));
}

fn text(app: &App) -> String {
    let buffer = paint(app, (80, 24));
    let cells: Vec<_> = buffer.content.iter().map(ratatui::buffer::Cell::symbol).collect();
    cells.chunks(80).map(|row| row.concat() + "\n").collect()
}

#[test]
fn one_that_takes_a_new_link_and_says_nothing_over_it_is_silent_too() {
    let mut app = four();
    app.update(Msg::Unlinked("connection reset".into()));
    tick(&mut app, 20);
    assert_eq!(app.silence(), None, "there is no link to be silent");
    app.update(Msg::Linked);
    assert!(text(&app).contains("reconnecting"), "{}", text(&app));
    tick(&mut app, 22);
    tick(&mut app, 25);
    assert_eq!(app.silence(), Some(Duration::from_secs(5)));
    hear(&mut app);
    assert_eq!((app.link.clone(), app.silence()), (LinkState::Live, None));
}

#[test]
fn one_that_says_nothing_is_asked_and_then_called_silent() {
    let mut app = four();
    assert_eq!(asks(&tick(&mut app, 1)), 0);
    assert_eq!((asks(&tick(&mut app, 2)), asks(&tick(&mut app, 3))), (1, 0), "once");
    assert_eq!((app.link.clone(), app.silence()), (LinkState::Live, None));
    tick(&mut app, 6);
    assert_eq!(app.silence(), Some(Duration::from_secs(6)));
    let shown = text(&app);
    assert!(shown.contains("no answer for 6 s"), "{shown}");
    assert!(shown.contains("the supervisor has not answered for 6 s: all below is from before"), "{shown}");
    assert!(shown.contains("kill -CONT PID wakes it"), "{shown}");

    hear(&mut app);
    assert_eq!((app.link.clone(), app.silence()), (LinkState::Live, None));
    assert!(!text(&app).contains("no answer"));
}

#[test]
fn nothing_is_held_against_ranks_that_nobody_can_tell_of() {
    let mut app = four();
    let blamed = |app: &App| app.overview.fleet.suspects().len();
    tick(&mut app, 2);
    tick(&mut app, 60);
    assert_eq!(blamed(&app), 0);
    hear(&mut app);
    tick(&mut app, 61);
    assert_eq!(blamed(&app), 4, "it is there, and their heartbeats are a minute old");
}

#[test]
fn a_viewer_that_slept_blames_nobody() {
    let mut app = four();
    assert_eq!(asks(&tick(&mut app, 8 * 3600)), 1);
    assert_eq!(app.link, LinkState::Live);
    hear(&mut app);
    tick(&mut app, 8 * 3600 + 1);
    assert_eq!(app.link, LinkState::Live);
}

#[test]
fn a_silent_one_gets_no_orders_and_old_ones_do_not_hold() {
    let mut app = four();
    press(&mut app, "R", &[]);
    let cmds = press(&mut app, "y", &[]);
    assert_eq!(order(&cmds), Some(&Command::Restart { attempt: None }));
    let until = cmds.iter().find_map(|cmd| match cmd {
        Cmd::Send(ToSupervisor::Do { until, .. }) => *until,
        _ => None,
    });
    assert_eq!(until, Some(late(15)));
    tick(&mut app, 2);
    tick(&mut app, 5);
    assert_eq!(said(&app), "restart: no answer; it is not carried out after 15 s");

    press(&mut app, "R", &[]);
    assert!(app.dialog.is_none());
    assert!(said(&app).starts_with("the supervisor does not answer: nothing was sent"), "{}", said(&app));
}

#[test]
fn a_clock_that_was_set_forward_does_not_make_orders_old() {
    let mut app = four();
    let mut story = fixture::healthy(4);
    let known = story.events.len();
    story.wait(3600.0).work(2000, 1.0);
    let events = story.events.split_off(known);
    app.update(Msg::Heard(Box::new(ToViewer::Events { events })));
    let told = app.now;
    assert!(told.since(late(0)) >= Duration::from_secs(3600));
    press(&mut app, "R", &[]);
    let cmds = press(&mut app, "y", &[]);
    assert!(matches!(&cmds[..], [Cmd::Send(ToSupervisor::Do { until: Some(until), .. })]
        if *until == told + Duration::from_secs(15)));
}
