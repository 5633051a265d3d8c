//! The loop with made-up surroundings: a far end that follows a script, and a terminal emulator that shows the bytes.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, stream};
use ratatui::crossterm::event::Event as TerminalEvent;
use tokio::sync::mpsc;

use crate::{
    domain::{command::Command, command::Outcome, event::Fact, time::Stamp},
    error::Error,
    tui::{
        Connector, Ending,
        app::App,
        fixture::{self, Story, log_lines},
        jobs::{self, JobRow, Jobs},
        keys,
        run::{Pace, Surroundings, run},
        screen::{Screen, Sink},
    },
    wire::{
        link::{FarEnd, Link},
        message::{PROTOCOL, ToSupervisor, ToViewer},
    },
};

const SIZE: (u16, u16) = (80, 24);
/// All that is slow for people is fast here.
const PACE: Pace = Pace {
    tick: Duration::from_millis(5),
    first: Duration::from_millis(1),
    frame: Duration::from_millis(1),
    first_retry: Duration::from_millis(2),
    longest_retry: Duration::from_millis(8),
    budget: None,
};

/// A terminal emulator behind the screen; it can stop reading.
#[derive(Clone)]
struct Glass {
    parser: Arc<Mutex<vt100::Parser>>,
    reads: Arc<AtomicBool>,
    frames: Arc<AtomicUsize>,
    waiting: Arc<Mutex<Vec<u8>>>,
}

impl Glass {
    fn new() -> Glass {
        Glass {
            parser: Arc::new(Mutex::new(vt100::Parser::new(cells(SIZE.1), cells(SIZE.0), 0))),
            reads: Arc::new(AtomicBool::new(true)),
            frames: Arc::default(),
            waiting: Arc::default(),
        }
    }

    fn text(&self) -> String {
        self.parser.lock().unwrap().screen().contents()
    }

    fn read_on(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap());
        self.parser.lock().unwrap().process(&waiting);
        self.reads.store(true, Ordering::SeqCst);
    }
}

impl Sink for Glass {
    fn is_idle(&self) -> bool {
        self.waiting.lock().unwrap().is_empty()
    }
    fn is_broken(&self) -> bool {
        false
    }
    fn send(&mut self, bytes: Vec<u8>) {
        assert!(
            bytes.starts_with(b"\x1b[?2026h") && bytes.ends_with(b"\x1b[?2026l"),
            "one synchronised update"
        );
        self.frames.fetch_add(1, Ordering::SeqCst);
        if self.reads.load(Ordering::SeqCst) {
            self.parser.lock().unwrap().process(&bytes);
        } else {
            self.waiting.lock().unwrap().extend(bytes);
        }
    }
}

fn cells(count: u16) -> std::num::NonZero<u16> {
    std::num::NonZero::new(count).expect("not zero")
}

type Keys = mpsc::UnboundedSender<TerminalEvent>;

fn keyboard() -> (Keys, impl Stream<Item = io::Result<TerminalEvent>> + Unpin) {
    let (keys, presses) = mpsc::unbounded_channel();
    let input = stream::unfold(presses, |mut presses: mpsc::UnboundedReceiver<_>| async {
        presses.recv().await.map(|event| (Ok(event), presses))
    });
    (keys, Box::pin(input))
}

fn press(keys: &Keys, script: &str) {
    for key in keys::script(script) {
        keys.send(TerminalEvent::Key(key)).unwrap();
    }
}

/// A clock that stands where the story does, and goes on with tokio's.
fn clock(story: &Story) -> impl Fn() -> Stamp + use<> {
    let (begin, from) = (story.now(), tokio::time::Instant::now());
    move || begin + from.elapsed()
}

async fn greet(far: &mut FarEnd, story: &Story) {
    let Some(ToSupervisor::Hello { protocol: PROTOCOL, watch: true, .. }) = far.incoming.recv().await else {
        panic!("no hello")
    };
    let welcome =
        ToViewer::Welcome { protocol: PROTOCOL, version: "0.1.0".into(), now: story.now(), read_only: None };
    far.outgoing.send(welcome).await.unwrap();
    let snapshot = ToViewer::Snapshot { state: Box::new(story.state.clone()), lost: 0 };
    far.outgoing.send(snapshot).await.unwrap();
}

/// Waits until the glass shows something.
async fn until(glass: &Glass, what: &str) {
    for _ in 0..10_000 {
        if glass.text().contains(what) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("no {what:?} on\n{}", glass.text());
}

fn on_one_thread(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
}

fn no_way_back() -> Connector {
    Box::new(|| Box::pin(async { Err(Error::environment("nobody listens")) }))
}

#[test]
fn a_session_from_hello_to_detach() {
    on_one_thread(async {
        let mut story = fixture::healthy(4);
        let (link, mut far) = Link::pair();
        let glass = Glass::new();
        let mut screen = Screen::new(Box::new(glass.clone()), SIZE);
        let mut app = App::new(&fixture::options(), SIZE, story.now(), 0);
        let (keys, input) = keyboard();
        let around = Surroundings {
            input,
            clock: clock(&story),
            hung_up: || false,
            stop: std::future::pending(),
            pace: PACE,
        };
        let viewer = run(&mut app, &mut screen, link, no_way_back(), around);
        let supervisor = async {
            greet(&mut far, &story).await;
            until(&glass, "running").await;
            let known = story.events.len();
            story.fact(Fact::Note { text: "checkpoint written".into() });
            let events = story.events.split_off(known);
            far.outgoing.send(ToViewer::Events { events }).await.unwrap();
            until(&glass, "checkpoint written").await;
            press(&keys, "j R y");
            let Some(ToSupervisor::Do { id, command: Command::Restart { .. }, .. }) =
                far.incoming.recv().await
            else {
                panic!("no restart")
            };
            let outcome = Outcome::Done("4 ranks were restarted".into());
            far.outgoing.send(ToViewer::Reply { id, outcome }).await.unwrap();
            until(&glass, "restart: 4 ranks were restarted").await;
            press(&keys, "l");
            let Some(ToSupervisor::Logs { id, query }) = far.incoming.recv().await else {
                panic!("no question")
            };
            let page = crate::domain::log::answer(&log_lines(100), &query);
            far.outgoing.send(ToViewer::Logs { id, page }).await.unwrap();
            until(&glass, "step 96 loss").await;
            press(&keys, "q");
        };
        let (ending, ()) = tokio::join!(viewer, supervisor);
        assert_eq!(ending.unwrap(), Ending::Detached);
    });
}

#[test]
fn a_lost_link_is_made_anew_and_the_state_stays_on_screen() {
    on_one_thread(async {
        let story = fixture::healthy(4);
        let (first, mut far) = Link::pair();
        let (second, mut back) = Link::pair();
        let glass = Glass::new();
        let mut screen = Screen::new(Box::new(glass.clone()), SIZE);
        let mut app = App::new(&fixture::options(), SIZE, story.now(), 0);
        let (keys, input) = keyboard();
        let around = Surroundings {
            input,
            clock: clock(&story),
            hung_up: || false,
            stop: std::future::pending(),
            pace: PACE,
        };
        let tries = Arc::new(AtomicUsize::new(0));
        let (mut second, counted) = (Some(second), Arc::clone(&tries));
        let connector: Connector = Box::new(move || {
            let made = if counted.fetch_add(1, Ordering::SeqCst) == 4 { second.take() } else { None };
            Box::pin(async { made.ok_or_else(|| Error::environment("nobody listens")) })
        });
        let viewer = run(&mut app, &mut screen, first, connector, around);
        let glass_again = glass.clone();
        let supervisor = async {
            greet(&mut far, &story).await;
            until(&glass, "running").await;
            let lost_at = tokio::time::Instant::now();
            drop(far);
            until(&glass, "reconnecting").await;
            assert!(glass.text().contains("llama-7b-x3k9"), "the state stays");
            greet(&mut back, &story).await;
            assert!(
                lost_at.elapsed() >= Duration::from_millis(2 + 4 + 8 + 8 + 8),
                "it waits longer each time"
            );
            while glass_again.text().contains("reconnecting") {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            press(&keys, "q");
        };
        let (ending, ()) = tokio::join!(viewer, supervisor);
        assert_eq!(ending.unwrap(), Ending::Detached);
        assert_eq!(tries.load(Ordering::SeqCst), 5);
    });
}

#[test]
fn leaving_without_a_link_does_not_claim_that_the_job_goes_on() {
    on_one_thread(async {
        let story = fixture::healthy(4);
        let (link, mut far) = Link::pair();
        let glass = Glass::new();
        let mut screen = Screen::new(Box::new(glass.clone()), SIZE);
        let mut app = App::new(&fixture::options(), SIZE, story.now(), 0);
        let (keys, input) = keyboard();
        let around = Surroundings {
            input,
            clock: clock(&story),
            hung_up: || false,
            stop: std::future::pending(),
            pace: PACE,
        };
        let connector: Connector = Box::new(|| Box::pin(async { Err(Error::job("there is no such job")) }));
        let viewer = run(&mut app, &mut screen, link, connector, around);
        let supervisor = async {
            greet(&mut far, &story).await;
            until(&glass, "running").await;
            drop(far);
            until(&glass, "link lost").await;
            press(&keys, "q");
        };
        let (ending, ()) = tokio::join!(viewer, supervisor);
        assert_eq!(ending.unwrap(), Ending::Lost("there is no such job".into()));
    });
}

#[test]
fn a_job_that_ends_stays_on_screen() {
    on_one_thread(async {
        let story = fixture::failed();
        let (link, mut far) = Link::pair();
        let glass = Glass::new();
        let mut screen = Screen::new(Box::new(glass.clone()), SIZE);
        let mut app = App::new(&fixture::options(), SIZE, story.now(), 0);
        let (keys, input) = keyboard();
        let around = Surroundings {
            input,
            clock: clock(&story),
            hung_up: || false,
            stop: std::future::pending(),
            pace: PACE,
        };
        let viewer = run(&mut app, &mut screen, link, no_way_back(), around);
        let supervisor = async {
            greet(&mut far, &story).await;
            until(&glass, "failed, exit code 1").await;
            far.outgoing.send(ToViewer::Bye { text: "the job is over".into() }).await.unwrap();
            drop(far);
            tokio::time::sleep(Duration::from_millis(60)).await;
            assert!(!glass.text().contains("reconnecting"));
            press(&keys, "q");
        };
        let (ending, ()) = tokio::join!(viewer, supervisor);
        assert_eq!(ending.unwrap(), Ending::Over);
    });
}

#[test]
fn a_terminal_that_does_not_read_gets_the_newest_frame_when_it_does() {
    on_one_thread(async {
        let mut story = fixture::healthy(4);
        let (link, mut far) = Link::pair();
        let glass = Glass::new();
        let mut screen = Screen::new(Box::new(glass.clone()), SIZE);
        let mut app = App::new(&fixture::options(), SIZE, story.now(), 0);
        let (keys, input) = keyboard();
        let around = Surroundings {
            input,
            clock: clock(&story),
            hung_up: || false,
            stop: std::future::pending(),
            pace: PACE,
        };
        let viewer = run(&mut app, &mut screen, link, no_way_back(), around);
        let supervisor = async {
            greet(&mut far, &story).await;
            until(&glass, "running").await;
            glass.reads.store(false, Ordering::SeqCst);
            let before = glass.frames.load(Ordering::SeqCst);
            for n in 0..500 {
                let known = story.events.len();
                story.fact(Fact::Note { text: format!("note {n}") });
                let events = story.events.split_off(known);
                far.outgoing.send(ToViewer::Events { events }).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(
                glass.frames.load(Ordering::SeqCst),
                before + 1,
                "one frame waits, the others are left out"
            );
            glass.read_on();
            until(&glass, "note 499").await;
            press(&keys, "q");
        };
        let (ending, ()) = tokio::join!(viewer, supervisor);
        assert_eq!(ending.unwrap(), Ending::Detached);
    });
}

#[test]
fn a_healthy_job_costs_few_frames_and_no_bytes_where_nothing_changed() {
    on_one_thread(async {
        let story = fixture::failed();
        let (link, mut far) = Link::pair();
        let glass = Glass::new();
        let mut screen = Screen::new(Box::new(glass.clone()), SIZE);
        let mut app = App::new(&fixture::options(), SIZE, story.now(), 0);
        let (keys, input) = keyboard();
        let around = Surroundings {
            input,
            clock: clock(&story),
            hung_up: || false,
            stop: std::future::pending(),
            pace: PACE,
        };
        let viewer = run(&mut app, &mut screen, link, no_way_back(), around);
        let supervisor = async {
            greet(&mut far, &story).await;
            until(&glass, "failed, exit code 1").await;
            let before = glass.frames.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(60)).await;
            assert_eq!(glass.frames.load(Ordering::SeqCst), before, "a job that is over does not change");
            press(&keys, "q");
        };
        let (ending, ()) = tokio::join!(viewer, supervisor);
        assert_eq!(ending.unwrap(), Ending::Over);
    });
}

#[test]
fn the_end_of_terminal_or_program_detaches() {
    on_one_thread(async {
        for how in 0..3 {
            let story = fixture::healthy(4);
            let (link, mut far) = Link::pair();
            let glass = Glass::new();
            let mut screen = Screen::new(Box::new(glass.clone()), SIZE);
            let mut app = App::new(&fixture::options(), SIZE, story.now(), 0);
            let (keys, input) = keyboard();
            let stop = tokio::sync::Notify::new();
            let gone = AtomicBool::new(false);
            let around = Surroundings {
                input,
                clock: clock(&story),
                hung_up: || gone.load(Ordering::SeqCst),
                stop: stop.notified(),
                pace: PACE,
            };
            let viewer = run(&mut app, &mut screen, link, no_way_back(), around);
            let supervisor = async {
                greet(&mut far, &story).await;
                until(&glass, "running").await;
                match how {
                    0 => drop(keys),
                    1 => gone.store(true, Ordering::SeqCst),
                    _ => stop.notify_one(),
                }
                far
            };
            let (ending, _far) = tokio::join!(viewer, supervisor);
            assert_eq!(ending.unwrap(), Ending::Detached, "{how}");
        }
    });
}

#[test]
fn a_job_is_chosen_from_a_list_that_renews_itself() {
    on_one_thread(async {
        let row = |id: &str| JobRow {
            key: format!("key of {id}"),
            id: id.into(),
            owner: "ada".into(),
            ..JobRow::default()
        };
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&looks);
        let refresh = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            vec![row("first-a1b2"), row("second-c3d4")]
        });
        let glass = Glass::new();
        let mut screen = Screen::new(Box::new(glass.clone()), SIZE);
        let mut jobs = Jobs::new(&fixture::options(), fixture::BEGIN);
        let (keys, input) = keyboard();
        let around = Surroundings {
            input,
            clock: || fixture::BEGIN,
            hung_up: || false,
            stop: std::future::pending(),
            pace: PACE,
        };
        let list = jobs::run(&mut jobs, &mut screen, refresh, around);
        let user = async {
            until(&glass, "2 jobs on this machine").await;
            press(&keys, "j <Enter>");
        };
        let (chosen, ()) = tokio::join!(list, user);
        assert_eq!(chosen.unwrap().as_deref(), Some("key of second-c3d4"));
        assert_eq!(looks.load(Ordering::SeqCst), 1);
    });
}
