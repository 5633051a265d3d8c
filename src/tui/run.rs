//! The loop around the screen: keys, link, clock and signals in; frames and messages out.

use std::{future::Future, io, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt};
use ratatui::crossterm::event::{Event as TerminalEvent, KeyEventKind};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use super::{
    Connector, Ending,
    app::{App, Cmd, LinkState, Msg},
    budget::Budget,
    screen::Screen,
    view,
};
use crate::{
    domain::{command::Outcome, time::Stamp},
    error::{Error, Kind, Result},
    wire::{
        link::Link,
        message::{ToSupervisor, ToViewer},
    },
};

/// How often the loop does things by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Between two looks at the clock.
    pub(crate) tick: Duration,
    /// How long the first frame waits for something to show.
    pub(crate) first: Duration,
    /// Least time between two frames that no key asked for.
    pub(crate) frame: Duration,
    /// Wait before the first attempt to make a lost link anew; it doubles up to the longest.
    pub(crate) first_retry: Duration,
    /// The longest wait between two attempts.
    pub(crate) longest_retry: Duration,
    /// Bytes per second that frames may cost.
    pub(crate) budget: Option<u32>,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            tick: Duration::from_secs(1),
            first: Duration::from_millis(20),
            frame: Duration::from_millis(50),
            first_retry: Duration::from_millis(200),
            longest_retry: Duration::from_secs(5),
            budget: None,
        }
    }
}

/// What surrounds the loop. In tests all of it is made up.
pub(crate) struct Surroundings<I, C, G, S> {
    /// Keys, mouse and size.
    pub(crate) input: I,
    /// The viewer's clock.
    pub(crate) clock: C,
    /// Whether the terminal is gone.
    pub(crate) hung_up: G,
    /// Resolves when the program is told to end.
    pub(crate) stop: S,
    /// How often.
    pub(crate) pace: Pace,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Link>> + Send>>;

/// Runs the job screen until the user leaves it. `link` is the first one; `connector` makes the others.
pub(crate) async fn run<I, C, G, S>(
    app: &mut App,
    screen: &mut Screen,
    link: Link,
    mut connector: Connector,
    around: Surroundings<I, C, G, S>,
) -> Result<Ending>
where
    I: Stream<Item = io::Result<TerminalEvent>> + Unpin,
    C: Fn() -> Stamp,
    G: Fn() -> bool,
    S: Future<Output = ()>,
{
    let Surroundings { mut input, clock, hung_up, stop, pace } = around;
    tokio::pin!(stop);
    let mut link = Some(link);
    let mut connecting: Option<Connecting> = None;
    let mut retry = Instant::now();
    let mut wait = pace.first_retry;
    let mut tick = ticks(pace.tick, pace.tick);
    let mut dirty = true;
    let begin = Instant::now();
    // A job that answers at once needs no screen without it before.
    let mut frame_at = begin + pace.first;
    let mut has_drawn = false;
    let mut budget = pace.budget.map(Budget::new);
    let mut inbox = vec![Msg::Tick(clock()), Msg::Linked];
    loop {
        // Keys are about what is there now. What nobody looks at yet can wait for the frame: of many nodes it is much.
        if inbox.iter().any(|msg| matches!(msg, Msg::Key(_) | Msg::Mouse(_))) {
            app.settle();
        }
        for msg in inbox.drain(..) {
            for cmd in app.update(msg) {
                match cmd {
                    Cmd::Send(message) => {
                        if let Some(refused) = send(link.as_ref(), message) {
                            app.update(refused);
                        }
                    }
                    Cmd::Leave => return Ok(ending(app)),
                    Cmd::Mouse(on) => screen.capture_mouse(on).map_err(|error| terminal(&error))?,
                    Cmd::Yank(text) => screen.yank(&text).map_err(|error| terminal(&error))?,
                    Cmd::Redraw => screen.forget(),
                }
            }
        }
        if dirty && Instant::now() >= frame_at {
            app.settle();
            if screen.is_broken() || hung_up() {
                return Ok(ending(app));
            }
            let drawn = screen
                .show(|area, canvas| view::paint(app, area, canvas))
                .map_err(|error| terminal(&error))?;
            // A terminal that is slow gets the next frame when it has taken this one.
            dirty = !drawn;
            has_drawn |= drawn;
            let mut wait = pace.frame;
            if let Some(budget) = budget.as_mut().filter(|_| drawn) {
                budget.spend(begin.elapsed(), screen.sent());
                wait = wait.max(budget.wait(begin.elapsed(), false));
                if budget.thrift() != app.thrift {
                    app.update(Msg::Thrift(budget.thrift()));
                }
            }
            frame_at = Instant::now() + wait;
        }
        let idle = link.is_none() && connecting.is_none() && !matches!(app.link, LinkState::Gone(_));
        tokio::select! {
            event = input.next() => match event {
                Some(Ok(event)) => {
                    if let TerminalEvent::Resize(columns, rows) = event {
                        screen.resize((columns, rows));
                    }
                    if let Some(msg) = message(event) {
                        inbox.push(msg);
                        let debt = budget.as_mut().map(|budget| budget.wait(begin.elapsed(), true));
                        (dirty, frame_at) = (true, Instant::now() + debt.unwrap_or_default());
                    }
                }
                Some(Err(_)) | None => return Ok(ending(app)),
            },
            heard = async { link.as_mut().expect("guarded").incoming.recv().await }, if link.is_some() => {
                if let Some(first) = heard {
                    wait = pace.first_retry;
                    // The clock is looked at with what comes each second, so that both are one frame. A clock that is
                    // only set back would still wake us where it stood.
                    tick = ticks(pace.tick + pace.tick / 4, pace.tick);
                    inbox.push(Msg::Clock(clock()));
                    inbox.push(Msg::Heard(Box::new(first)));
                    // What came together is drawn together.
                    while let Some(next) = link.as_mut().and_then(|link| link.incoming.try_recv().ok()) {
                        inbox.push(Msg::Heard(Box::new(next)));
                    }
                    let is_state = |msg: &Msg| matches!(msg, Msg::Heard(heard) if matches!(**heard, ToViewer::Snapshot { .. }));
                    if !has_drawn && inbox.iter().any(is_state) {
                        frame_at = Instant::now();
                    }
                } else {
                    link = None;
                    retry = Instant::now() + wait;
                    inbox.push(Msg::Unlinked("the supervisor closed the link".into()));
                }
                dirty = true;
            }
            result = async { connecting.as_mut().expect("guarded").await }, if connecting.is_some() => {
                connecting = None;
                dirty = true;
                match result {
                    Ok(made) => {
                        link = Some(made);
                        inbox.push(Msg::Linked);
                    }
                    // There is no such job any more, or it is over and its supervisor with it.
                    Err(error) if error.kind == Kind::Job || app.state.state.is_over() => {
                        inbox.push(Msg::GaveUp(error.text));
                    }
                    Err(error) => {
                        inbox.push(Msg::Unlinked(error.text));
                        wait = (wait * 2).min(pace.longest_retry);
                        retry = Instant::now() + wait;
                    }
                }
            }
            () = sleep_until(retry), if idle => connecting = Some(connector()),
            _ = tick.tick() => {
                inbox.push(Msg::Tick(clock()));
                dirty = true;
            }
            () = sleep_until(frame_at), if dirty => {}
            () = &mut stop => return Ok(ending(app)),
        }
    }
}

fn ticks(first: Duration, every: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + first, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// What a terminal event means to the app; `None` for what it does not care about.
fn message(event: TerminalEvent) -> Option<Msg> {
    match event {
        TerminalEvent::Key(key) if key.kind != KeyEventKind::Release => Some(Msg::Key(key)),
        TerminalEvent::Paste(text) => Some(Msg::Pasted(text)),
        TerminalEvent::Mouse(mouse) => Some(Msg::Mouse(mouse)),
        TerminalEvent::Resize(columns, rows) => Some(Msg::Resize(columns, rows)),
        _ => None,
    }
}

/// Sends, without waiting; what the app must hear when that is not possible.
fn send(link: Option<&Link>, message: ToSupervisor) -> Option<Msg> {
    let command = if let ToSupervisor::Do { id, .. } = &message { Some(*id) } else { None };
    let sent = link.is_some_and(|link| link.outgoing.try_send(message).is_ok());
    let id = command.filter(|_| !sent)?;
    let outcome = Outcome::Refused("the supervisor does not take messages now; try again".into());
    Some(Msg::Heard(Box::new(ToViewer::Reply { id, outcome })))
}

fn ending(app: &mut App) -> Ending {
    app.settle();
    match &app.link {
        _ if app.state.state.is_over() => Ending::Over,
        LinkState::Lost { text, .. } | LinkState::Gone(text) => Ending::Lost(text.clone()),
        LinkState::Live | LinkState::Connecting | LinkState::Silent { .. } => Ending::Detached,
    }
}

pub(super) fn terminal(error: &io::Error) -> Error {
    Error::environment(format!("cannot use the terminal: {error}"))
}
