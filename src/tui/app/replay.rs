//! A recording on the screen: what is known of it, and the keys that move in it.

use ratatui::crossterm::event::KeyEvent;

use super::{App, Cmd};
use crate::{
    domain::{
        replay::{Control, Mark, parse_place},
        time::Stamp,
    },
    tui::{
        keys::{Action, Scope},
        theme::Role,
    },
    wire::message::{ToSupervisor, ToViewer},
};

/// What `<` and `>` go over, in milliseconds.
const SKIP_MS: i64 = 60_000;

/// The recording that is played.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Replay {
    pub(crate) begin: Stamp,
    pub(crate) end: Stamp,
    pub(crate) marks: Vec<Mark>,
    pub(crate) redacted: bool,
    pub(crate) at: Stamp,
    pub(crate) playing: bool,
    pub(crate) speed: u32,
}

impl Replay {
    /// Where a time is between the ends, in tenths of a percent.
    pub(crate) fn permille(&self, at: Stamp) -> u16 {
        let length = self.end.since(self.begin).as_millis().max(1);
        (at.since(self.begin).as_millis() * 1000 / length).min(1000) as u16
    }
}

impl App {
    /// What a key means here; in a recording its own keys come first.
    pub(super) fn meaning(&self, event: &KeyEvent) -> Option<Action> {
        let replayed = self.replay.as_ref().and_then(|_| {
            let action = self.keymap.lookup(event, Scope::Replay)?;
            crate::tui::keys::is_of(action, Scope::Replay).then_some(action)
        });
        replayed.or_else(|| self.keymap.lookup(event, self.scope()))
    }

    pub(super) fn heard_of_replay(&mut self, message: ToViewer) {
        match message {
            ToViewer::Recording { begin, end, marks, missing, redacted } => {
                let at = self.now;
                self.replay = Some(Replay { begin, end, marks, redacted, at, playing: false, speed: 1 });
                if let Some(missing) = missing.first() {
                    self.say(Role::Warn, format!("the recording is not whole: {missing}"));
                }
            }
            ToViewer::Position { at, playing, speed, told } => {
                if let Some(replay) = &mut self.replay {
                    (replay.at, replay.playing, replay.speed) = (at, playing, speed);
                    self.now = at;
                    self.look_at_ranks();
                }
                if let Some(told) = told {
                    self.say(Role::Info, told);
                }
            }
            _ => {}
        }
    }

    /// After a whole new state: in a recording another time is shown, and the log of then.
    pub(super) fn after_jump(&mut self) {
        if self.replay.is_some() {
            self.logs.step(i64::MAX);
            self.page.cursor = None;
        }
    }

    pub(super) fn play(&mut self, action: Action, cmds: &mut Vec<Cmd>) {
        let control = match action {
            Action::Play => Control::Toggle,
            Action::StepForward => Control::StepForward,
            Action::StepBack => Control::StepBack,
            Action::Faster => Control::Faster,
            Action::Slower => Control::Slower,
            Action::Ahead => Control::Skip { ms: SKIP_MS },
            Action::Behind => Control::Skip { ms: -SKIP_MS },
            Action::NextAlert => Control::NextTrouble,
            Action::PreviousAlert => Control::PreviousTrouble,
            _ => return,
        };
        self.seek(control, cmds);
    }

    pub(super) fn seek(&mut self, control: Control, cmds: &mut Vec<Cmd>) {
        if self.replay.is_none() {
            return self.say(Role::Info, "this is a live job; elastictop replay JOB plays what was recorded");
        }
        // What was said of another moment.
        self.toast = None;
        cmds.push(Cmd::Send(ToSupervisor::Replay { control }));
    }

    /// Goes to a place that was typed.
    pub(super) fn seek_to(&mut self, place: &str, cmds: &mut Vec<Cmd>) {
        let (begin, end) =
            self.replay.as_ref().map_or((self.now, self.now), |replay| (replay.begin, replay.end));
        match parse_place(place, begin, end, self.now, self.offset_s) {
            Ok(at) => self.seek(Control::Seek { at }, cmds),
            Err(why) => self.say(Role::Warn, format!("{place:?} {why}")),
        }
    }
}
