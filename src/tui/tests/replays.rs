//! A recording on the screen: its line, its keys, its time.

use ratatui::crossterm::event::{KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

use super::{looks::paint, press, scripts::said};
use crate::{
    domain::{
        replay::{Control, Mark, MarkKind},
        time::Stamp,
    },
    tui::{
        app::{App, Cmd, Msg},
        fixture::{self, BEGIN},
    },
    wire::message::{ToSupervisor, ToViewer},
};

fn at(second: u64) -> Stamp {
    Stamp(BEGIN.0 + second * 1000)
}

fn hear(app: &mut App, message: ToViewer) {
    app.update(Msg::Heard(Box::new(message)));
}

fn position(second: u64, playing: bool, speed: u32, told: Option<&str>) -> ToViewer {
    ToViewer::Position { at: at(second), playing, speed, told: told.map(str::to_owned) }
}

/// A recording of ten minutes, at its fifth.
fn replay(size: (u16, u16)) -> App {
    let mut app = fixture::app(&fixture::healthy(4), size, Some("this is a recording: nothing can be done"));
    let mark = |second, kind, text: &str| Mark { at: at(second), kind, text: text.into() };
    hear(
        &mut app,
        ToViewer::Recording {
            begin: at(0),
            end: at(600),
            marks: vec![
                mark(120, MarkKind::Alert, "rank 3 hangs"),
                mark(200, MarkKind::Restart, "attempt 1 begins"),
                mark(480, MarkKind::Failure, "rank 3 failed"),
            ],
            missing: Vec::new(),
            redacted: false,
        },
    );
    hear(&mut app, position(300, true, 10, None));
    app
}

fn rows(app: &App, size: (u16, u16)) -> Vec<String> {
    let buffer = paint(app, size);
    let row = |y| (0..size.0).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..size.1).map(row).collect()
}

fn controls(cmds: &[Cmd]) -> Vec<Control> {
    let one = |cmd: &Cmd| match cmd {
        Cmd::Send(ToSupervisor::Replay { control }) => Some(*control),
        _ => None,
    };
    cmds.iter().filter_map(one).collect()
}

#[test]
fn the_line_says_where_it_is_and_what_is_worth_going_to() {
    let line = |size: (u16, u16)| rows(&replay(size), size)[usize::from(size.1) - 2].clone();
    let mut paused = replay((80, 24));
    hear(&mut paused, position(0, false, 1, None));
    let lines = [line((80, 24)), line((40, 12)), rows(&paused, (80, 24))[22].clone()];
    insta::assert_snapshot!("replay_line", lines.join("\n"));
    let keys = rows(&paused, (80, 24))[23].clone();
    assert!(keys.starts_with(" Space play  { } alert  [ ] step") && keys.ends_with("q leave"), "{keys}");
    assert!(rows(&paused, (80, 24))[1].ends_with(" replay"), "{:?}", rows(&paused, (80, 24))[1]);
}

#[test]
fn nothing_breaks_at_any_size() {
    for width in [1, 2, 5, 16, 17, 30, 41] {
        for height in [1, 2, 3, 4, 5, 6, 12] {
            rows(&replay((width, height)), (width, height));
        }
    }
}

#[test]
fn its_keys_go_to_the_player_and_only_in_a_recording() {
    use Control::{Faster, NextTrouble, PreviousTrouble, Skip, Slower, StepBack, StepForward, Toggle};
    let mut app = replay((80, 24));
    let cmds = press(&mut app, "<Space> ] . [ , + = - > < } {", &[]);
    let expected = [
        Toggle,
        StepForward,
        StepForward,
        StepBack,
        StepBack,
        Faster,
        Faster,
        Slower,
        Skip { ms: 60_000 },
        Skip { ms: -60_000 },
        NextTrouble,
        PreviousTrouble,
    ];
    let mut sent = controls(&cmds);
    sent.sort_by_key(|control| format!("{control:?}"));
    let mut wanted = expected.to_vec();
    wanted.sort_by_key(|control| format!("{control:?}"));
    assert_eq!(sent, wanted);
    // Those of the views go on to work.
    press(&mut app, "2", &[]);
    assert_eq!(controls(&press(&mut app, "}", &[])), [NextTrouble]);
    let mut live = fixture::app(&fixture::healthy(4), (80, 24), None);
    assert_eq!(controls(&press(&mut live, "<Space> } ]", &[])), []);
}

#[test]
fn a_place_is_typed_or_pressed_with_the_mouse() {
    let mut app = replay((80, 24));
    press(&mut app, ": s e e k", &[]);
    assert_eq!(app.candidates()[0].command, "seek");
    let cmds = press(&mut app, "<Space> 5 0 % <Enter>", &[]);
    assert_eq!(controls(&cmds), [Control::Seek { at: at(300) }]);
    press(&mut app, ": s e e k <Space> x <Enter>", &[]);
    assert!(said(&app).contains("is no place in a recording"), "{}", said(&app));
    let mut click = |column| {
        let kind = MouseEventKind::Down(MouseButton::Left);
        let event = MouseEvent { kind, column, row: 22, modifiers: KeyModifiers::NONE };
        controls(&app.update(Msg::Mouse(event)))
    };
    assert_eq!(click(0), [], "left of the bar");
    let [Control::Share { permille: first }] = click(17)[..] else { panic!("no place") };
    let [Control::Share { permille: last }] = click(60)[..] else { panic!("no place") };
    assert!(first == 0 && (900..=1000).contains(&last), "{first} {last}");
}

#[test]
fn its_time_is_the_recordings_and_the_job_cannot_be_touched() {
    let mut app = replay((80, 24));
    app.update(Msg::Tick(at(99_999)));
    assert_eq!(app.now, at(300), "the viewer's clock does not count");
    hear(&mut app, position(480, false, 10, Some("rank 3 failed")));
    assert_eq!((app.now, said(&app)), (at(480), "rank 3 failed"));
    let cmds = press(&mut app, "R Q x", &[]);
    assert!(cmds.is_empty() && said(&app).contains("this is a recording"), "{}", said(&app));
}

#[test]
fn what_is_missing_is_said_once() {
    let mut app = replay((80, 24));
    let missing = vec!["the file is cut off".to_owned()];
    let recording =
        ToViewer::Recording { begin: at(0), end: at(1), marks: Vec::new(), missing, redacted: true };
    hear(&mut app, recording);
    assert_eq!(said(&app), "the recording is not whole: the file is cut off");
    assert!(rows(&app, (80, 24))[1].ends_with("replay, redacted"));
}
