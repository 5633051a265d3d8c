//! The player: where in a recording the viewer stands, and how fast time goes there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Course, Mark};
use crate::domain::time::{Stamp, human};

/// How many seconds of the recording pass in one second.
pub const SPEEDS: [u32; 6] = [1, 2, 5, 10, 60, 600];
/// Between two moves while it plays in real time, in milliseconds.
const CALM_MS: u64 = 250;
/// The same while it plays faster.
const FAST_MS: u64 = 100;
/// A time without any event that is longer than this is not sat through, in milliseconds.
const GAP_MS: u64 = 10 * 60_000;
/// How much of such a time is played before its end, in milliseconds.
const BEFORE_MS: u64 = 1000;

/// What a viewer wants of the player.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "want", rename_all = "snake_case")]
pub enum Control {
    /// Play, or pause; at the end, play from the beginning.
    Toggle,
    /// To the next event, and pause there.
    StepForward,
    /// To the event before, and pause there.
    StepBack,
    /// The next higher speed.
    Faster,
    /// The next lower speed.
    Slower,
    /// So many milliseconds ahead, or back.
    Skip {
        /// Negative is back.
        ms: i64,
    },
    /// To this time.
    Seek {
        /// When.
        at: Stamp,
    },
    /// To a place between the ends.
    Share {
        /// In tenths of a percent.
        permille: u16,
    },
    /// To the next alert or failure, and pause there.
    NextTrouble,
    /// To the alert or failure before, and pause there.
    PreviousTrouble,
    /// A wish that a newer viewer sends.
    #[serde(other)]
    Unknown,
}

/// What a move was, for whoever has to show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Something to tell the viewer, in a sentence.
    pub told: Option<String>,
    /// Whether the place was chosen rather than played up to.
    pub jumped: bool,
}

/// The state of playing. Time outside of the recording comes in as `now`.
#[derive(Clone, Debug)]
pub struct Player {
    course: Course,
    position: Stamp,
    /// Index into [`SPEEDS`].
    speed: usize,
    playing: bool,
    /// Where playing began, and when that was.
    base: (Stamp, Stamp),
    moved_at: Stamp,
}

impl Player {
    /// At the beginning, playing. `speed` is a number of [`SPEEDS`], or the nearest below it is taken.
    pub fn new(now: Stamp, course: Course, speed: u32) -> Player {
        let position = course.begin();
        let speed = SPEEDS.iter().rposition(|known| *known <= speed).unwrap_or(0);
        Player { course, position, speed, playing: true, base: (position, now), moved_at: now }
    }

    /// Takes one wish in.
    pub fn handle(&mut self, now: Stamp, control: Control) -> Moved {
        let mut moved = self.on_deadline(now);
        match control {
            Control::Toggle if self.is_at_end() => {
                moved = self.jump(self.course.begin());
                self.playing = true;
            }
            Control::Toggle => self.playing = !self.playing,
            Control::StepForward | Control::StepBack => {
                self.playing = false;
                let (to, end) = match control {
                    Control::StepForward => (self.course.after(self.position), "the end"),
                    _ => (self.course.before(self.position), "the beginning"),
                };
                moved = match to {
                    Some(to) => self.jump(to),
                    None => told(format!("this is {end} of the recording")),
                };
            }
            Control::Faster => self.speed = (self.speed + 1).min(SPEEDS.len() - 1),
            Control::Slower => self.speed = self.speed.saturating_sub(1),
            Control::Skip { ms } => moved = self.jump(Stamp(self.position.0.saturating_add_signed(ms))),
            Control::Seek { at } => moved = self.jump(at),
            Control::Share { permille } => {
                let ms = self.course.length().as_millis() * u128::from(permille.min(1000)) / 1000;
                moved = self.jump(self.course.begin() + Duration::from_millis(ms as u64));
            }
            Control::NextTrouble | Control::PreviousTrouble => {
                let backwards = control == Control::PreviousTrouble;
                // Who goes to a failure wants to look at it.
                self.playing = false;
                moved = match self.course.trouble(self.position, backwards) {
                    Some(Mark { at, text, .. }) => {
                        let (at, text) = (*at, text.clone());
                        Moved { told: Some(text), ..self.jump(at) }
                    }
                    None if backwards => told("no alert or failure before this"),
                    None => told("no alert or failure after this"),
                };
            }
            Control::Unknown => {}
        }
        self.base = (self.position, now);
        self.moved_at = now;
        moved
    }

    /// When time alone moves it; `None` while it is paused.
    pub fn deadline(&self) -> Option<Stamp> {
        let pause = if self.speed() == 1 { CALM_MS } else { FAST_MS };
        self.playing.then(|| self.moved_at + Duration::from_millis(pause))
    }

    /// Moves to where it has played up to.
    pub fn on_deadline(&mut self, now: Stamp) -> Moved {
        if !self.playing {
            return Moved::default();
        }
        self.moved_at = now;
        let played = now.since(self.base.1).saturating_mul(self.speed());
        let to = (self.base.0 + played).min(self.course.end());
        if let Some(next) = self.course.after(self.position).filter(|next| *next > to) {
            let empty = next.since(self.course.before(next).unwrap_or(next));
            let left = next.since(to);
            if empty.as_millis() > u128::from(GAP_MS) && left > Duration::from_millis(BEFORE_MS) {
                self.position = Stamp(next.0 - BEFORE_MS);
                self.base = (self.position, now);
                let text = format!("went over {} in which nothing was recorded", human(left));
                return Moved { told: Some(text), jumped: true };
            }
        }
        self.position = to;
        if self.is_at_end() {
            self.playing = false;
        }
        Moved::default()
    }

    fn jump(&mut self, to: Stamp) -> Moved {
        self.position = to.clamp(self.course.begin(), self.course.end());
        Moved { told: None, jumped: true }
    }

    /// Where it is.
    pub fn position(&self) -> Stamp {
        self.position
    }

    /// How fast it plays.
    pub fn speed(&self) -> u32 {
        SPEEDS[self.speed]
    }

    /// Whether it plays.
    pub fn is_playing(&self) -> bool {
        self.playing
    }

    /// Times and marks.
    pub fn course(&self) -> &Course {
        &self.course
    }

    fn is_at_end(&self) -> bool {
        self.position >= self.course.end()
    }
}

fn told(text: impl Into<String>) -> Moved {
    Moved { told: Some(text.into()), jumped: false }
}
