//! The far end of a link to a recording: plays it to one viewer, as a supervisor tells of a job.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::tape::Tape;
use crate::{
    domain::{
        closeup::{CloseUp, Question, history::Histories},
        replay::{Control, Moved, Player},
        state::State,
        time::Stamp,
    },
    supervisor::{
        clock::Clock,
        desk,
        hub::{Hub, Said, ViewerId},
        logbook::Logbook,
    },
    wire::{
        link::Link,
        message::{ToSupervisor, ToViewer},
    },
};

/// Why commands are refused.
pub const REPLAY: &str = "this is a recording: nothing can be done to the job";
/// Most events that are played one by one; a longer way is taken at once.
const MOST: usize = 3000;
/// How far back the figures of ranks go, in seconds: as far as no more than so many samples of one rank have to be read,
/// which takes less than a second.
const BACK: [u64; 3] = [3600, 600, 60];
const MOST_SAMPLES: usize = 250_000;

struct Deck {
    tape: Tape,
    player: Player,
    clock: Clock,
    state: State,
    /// The state holds all up to here.
    shown: Stamp,
    hub: Hub,
    viewers: Vec<ViewerId>,
    no_logs: Logbook,
    /// The figures of all ranks, and as of when: who pauses looks at one rank after the other.
    figures: Option<(Stamp, Histories)>,
}

/// Plays a recording to one viewer until it leaves, from the beginning on or from `at`.
pub fn serve(tape: Tape, speed: u32, at: Option<Stamp>) -> Link {
    let (hub, mut said, link) = Hub::for_one();
    let mut clock = Clock::new(Stamp(0));
    let mut player = Player::new(clock.now(), tape.course().clone(), speed);
    if let Some(at) = at {
        player.handle(clock.now(), Control::Seek { at });
    }
    let shown = player.position();
    let state = tape.state_at(shown);
    let no_logs = Logbook::in_memory();
    let (viewers, figures) = (Vec::new(), None);
    let mut deck = Deck { tape, player, clock, state, shown, hub, viewers, no_logs, figures };
    tokio::spawn(async move { deck.run(&mut said).await });
    link
}

impl Deck {
    async fn run(&mut self, said: &mut mpsc::Receiver<(ViewerId, Said)>) {
        loop {
            let now = self.clock.now();
            let due = self.player.deadline().map(|due| Instant::now() + due.since(now));
            tokio::select! {
                heard = said.recv() => match heard {
                    Some((from, said)) => self.hear(from, said),
                    None => return,
                },
                () = sleep_until(due.unwrap_or_else(far)), if due.is_some() => {
                    let now = self.clock.now();
                    let moved = self.player.on_deadline(now);
                    self.show(moved);
                }
            }
            if self.hub.is_empty() {
                return;
            }
        }
    }

    fn hear(&mut self, from: ViewerId, said: Said) {
        let Said::Message(message) = said else {
            self.viewers.retain(|viewer| *viewer != from);
            return self.hub.remove(from);
        };
        match message {
            ToSupervisor::Replay { control } => {
                let now = self.clock.now();
                let moved = self.player.handle(now, control);
                self.show(moved);
            }
            ToSupervisor::Logs { id, query } if self.hub.keeps_up(from) => {
                let page = self.tape.lines.answer(&query, self.player.position());
                self.hub.send(from, &ToViewer::Logs { id, page });
            }
            ToSupervisor::LookAt { id, local_rank, question } => {
                let close_up = Box::new(self.look_at(local_rank, question));
                self.hub.send(from, &ToViewer::CloseUp { id, close_up });
            }
            message => {
                let is_hello = matches!(message, ToSupervisor::Hello { .. });
                let known = (&self.state, &self.no_logs);
                desk::answer(&mut self.hub, from, message, known, self.shown, Some(REPLAY));
                if is_hello {
                    self.viewers.push(from);
                    self.introduce(from);
                    self.tell_position(None);
                }
            }
        }
    }

    /// Figures are in a recording; what was asked of a process while it ran is not.
    fn look_at(&mut self, local_rank: u32, question: Question) -> CloseUp {
        let proc = self.state.rank(local_rank).map(|rank| rank.proc);
        let told = CloseUp { local_rank, proc, ..CloseUp::default() };
        match question {
            Question::History => {
                if self.figures.as_ref().is_none_or(|(at, _)| *at != self.shown) {
                    self.figures = Some((self.shown, self.read_figures()));
                }
                let figures = self.figures.as_ref().and_then(|(_, figures)| figures.of(local_rank));
                let history = figures.cloned().unwrap_or_default();
                CloseUp { history: Some(Box::new(history)), ..told }
            }
            _ => CloseUp { why_not: Some("a recording does not hold it".into()), ..told },
        }
    }

    fn read_figures(&self) -> Histories {
        let mut figures = Histories::default();
        let most = MOST_SAMPLES / self.state.ranks.len().max(1);
        for seconds in BACK {
            let after = Stamp(self.shown.0.saturating_sub(seconds * 1000));
            let Some(events) = self.tape.between(after, self.shown, most) else { continue };
            let mut state = self.tape.state_at(after);
            for event in &events {
                state.apply(event);
                figures.take(&state, event);
            }
            break;
        }
        figures
    }

    fn introduce(&mut self, to: ViewerId) {
        let course = self.tape.course();
        let recording = ToViewer::Recording {
            begin: course.begin(),
            end: course.end(),
            marks: course.marks.clone(),
            missing: self.tape.missing.clone(),
            redacted: self.tape.redacted,
        };
        self.hub.send(to, &recording);
    }

    fn show(&mut self, moved: Moved) {
        let to = self.player.position();
        let events = if to < self.shown { None } else { self.tape.between(self.shown, to, MOST) };
        self.shown = to;
        match events {
            Some(events) => {
                events.iter().for_each(|event| self.state.apply(event));
                self.hub.tell(&events);
                self.hub.flush(&self.state);
            }
            None => {
                self.state = self.tape.state_at(to);
                for viewer in self.viewers.clone() {
                    let state = Box::new(self.state.clone());
                    self.hub.send(viewer, &ToViewer::Snapshot { state, lost: 0 });
                }
            }
        }
        self.tell_position(moved.told);
    }

    fn tell_position(&mut self, told: Option<String>) {
        let (playing, speed) = (self.player.is_playing(), self.player.speed());
        let position = ToViewer::Position { at: self.player.position(), playing, speed, told };
        for viewer in self.viewers.clone() {
            self.hub.send(viewer, &position);
        }
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
