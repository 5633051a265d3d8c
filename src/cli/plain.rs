//! One line per event: for pipes, schedulers, CI and screen readers.

use std::{
    io::{self, Write},
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::Receiver,
    time::timeout,
};

use super::{
    out,
    reach::{Greeted, Target},
};
use crate::{
    domain::{
        command::Command,
        event::{Event, Fact},
        forward::RunState,
        log::{Anchor, LogFilter, LogQuery},
        rank::JobState,
        state::State,
        telling::{self, count},
    },
    error::{Error, Kind, Result},
    wire::message::{ToSupervisor, ToViewer},
};

/// Lines of the failing rank that are shown at the end.
const LAST_LINES: u32 = 20;
/// Pause before a lost supervisor is looked for again.
const AGAIN: Duration = Duration::from_millis(500);
/// How often that is tried.
const TRIES: u32 = 20;
/// How long W&B and the disk may take for what is left when the job is over: a little longer than the supervisor tries.
const WRITTEN_WITHIN: Duration = Duration::from_secs(65);
/// How often it is looked whether the supervisor has written everything.
const LOOK: Duration = Duration::from_millis(20);

/// Follows a job until it is over, and gives its exit code. `quiet` prints the end alone.
///
/// Ctrl-C and SIGTERM stop the job for its `owner`, who started it here; anybody else just leaves.
///
/// # Errors
/// The supervisor is lost and cannot be replaced.
pub async fn follow(target: &Target, quiet: bool, owner: bool) -> Result<u8> {
    let told = |error| Error::environment(format!("cannot listen for signals: {error}"));
    let mut int = signal(SignalKind::interrupt()).map_err(told)?;
    let mut term = signal(SignalKind::terminate()).map_err(told)?;
    let mut printer = Printer { state: State::default(), printed: 0, quiet, readers: true };
    let (mut asked, mut failures) = (0, 0);
    loop {
        let Greeted { mut link, state, read_only } = match target.greet(true).await {
            Ok(greeted) => greeted,
            Err(error) if failures >= TRIES || error.kind == Kind::Job => return Err(error),
            Err(_) => {
                failures += 1;
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        failures = 0;
        printer.catch_up(state);
        let is_foreign = matches!(target, Target::Foreign(_));
        if let Some(why) = read_only.filter(|_| !is_foreign && !printer.state.state.is_over()) {
            // Files alone: nothing new will ever come.
            return Err(Error::environment(why));
        }
        while !printer.state.state.is_over() {
            // Who found what they looked for, as `grep -m1`, need not wait for the next event.
            if !owner && !out::is_read() {
                return Ok(0);
            }
            tokio::select! {
                message = link.incoming.recv() => match message {
                    Some(ToViewer::Events { events }) => printer.events(&events),
                    Some(ToViewer::Snapshot { state, .. }) => printer.catch_up(*state),
                    Some(ToViewer::Bye { .. }) | None => break,
                    Some(_) => {}
                },
                _ = int.recv() => if owner { ask_to_stop(&link.outgoing, &mut asked).await } else { return Ok(leave()) },
                _ = term.recv() => if owner { ask_to_stop(&link.outgoing, &mut asked).await } else { return Ok(leave()) },
            }
        }
        if printer.state.state.is_over() {
            if owner {
                // Who waits in a container ends it with this process: what is under way to W&B, or to the disk, would
                // be lost.
                tokio::select! {
                    _ = timeout(WRITTEN_WITHIN, all_is_written(target, &mut link.incoming, &mut printer)) => {}
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                }
                if let Ok(Greeted { state, .. }) = target.greet(false).await {
                    printer.catch_up(state);
                }
            }
            let last_lines = last_lines(target, &printer.state).await;
            printer.end(&last_lines);
            printer.runs();
            return Ok(exit_code(&printer.state));
        }
    }
}

/// Follows a job that is over until its supervisor has sent and written everything: its socket goes then.
async fn all_is_written(target: &Target, incoming: &mut Receiver<ToViewer>, printer: &mut Printer) {
    let Target::Own { manifest, .. } = target else { return };
    while manifest.socket.exists() {
        match timeout(LOOK, incoming.recv()).await {
            Ok(Some(ToViewer::Events { events })) => printer.events(&events),
            Ok(Some(ToViewer::Snapshot { state, .. })) => printer.catch_up(*state),
            Ok(Some(ToViewer::Bye { .. }) | None) => return,
            Ok(Some(_)) | Err(_) => {}
        }
    }
}

/// Who only came to look leaves the job alone.
fn leave() -> u8 {
    out::note("left; the job goes on");
    0
}

/// Ctrl-C ends the job as torchrun's would; a second one does not wait.
async fn ask_to_stop(outgoing: &tokio::sync::mpsc::Sender<ToSupervisor>, asked: &mut u64) {
    *asked += 1;
    let command = Command::Stop { now: *asked > 1 };
    // A link that is gone is made again by the caller; the next Ctrl-C goes through it.
    let _ = outgoing.send(ToSupervisor::Do { id: *asked, command, until: None }).await;
}

/// What `run --wait` exits with.
pub fn exit_code(state: &State) -> u8 {
    match (state.exit_code, state.state) {
        (Some(code), _) => code,
        (None, JobState::Done) => 0,
        (None, _) => 1,
    }
}

async fn last_lines(target: &Target, state: &State) -> Vec<String> {
    let Some(rank) = state.cause.as_ref().and_then(|cause| cause.rank) else { return Vec::new() };
    let Some(rank) = state.ranks.iter().find(|known| known.number() == rank) else { return Vec::new() };
    let filter = LogFilter { local_rank: Some(rank.local_rank), attempt: Some(rank.attempt) };
    let Ok(Greeted { mut link, .. }) = target.greet(false).await else { return Vec::new() };
    let query = LogQuery::Page { filter, anchor: Anchor::Tail, max: LAST_LINES };
    if link.outgoing.send(ToSupervisor::Logs { id: 0, query }).await.is_err() {
        return Vec::new();
    }
    while let Some(message) = link.incoming.recv().await {
        if let ToViewer::Logs { page, .. } = message {
            return page.lines.into_iter().map(|line| line.text).collect();
        }
    }
    Vec::new()
}

struct Printer {
    state: State,
    /// The last event that was printed.
    printed: u64,
    quiet: bool,
    /// Nobody reads any more: the job is waited for all the same.
    readers: bool,
}

impl Printer {
    /// A whole state: what happened before or meanwhile is printed once.
    fn catch_up(&mut self, state: State) {
        let missed: Vec<Event> =
            state.recent.iter().filter(|event| event.seq > self.printed).cloned().collect();
        self.state = state;
        missed.iter().for_each(|event| self.print(event));
    }

    fn events(&mut self, events: &[Event]) {
        for event in events {
            self.state.apply(event);
            self.print(event);
        }
    }

    fn print(&mut self, event: &Event) {
        self.printed = self.printed.max(event.seq);
        let is_end = matches!(event.fact, Fact::JobEnded { .. });
        if (self.quiet && !is_end) || matches!(event.fact, Fact::JobState { state, .. } if state.is_over()) {
            return;
        }
        if let Some(sentence) = telling::event(&self.state, event) {
            let at = event.at.to_string();
            self.say(&format!("{} {sentence}", at.get(11..19).unwrap_or(&at)));
        }
    }

    fn end(&mut self, last_lines: &[String]) {
        let Some(cause) = self.state.cause.clone().filter(|_| self.state.state == JobState::Failed) else {
            return;
        };
        for fact in &cause.evidence {
            self.say(&format!("  evidence: {fact}"));
        }
        if let Some(hint) = &cause.hint {
            self.say(&format!("  hint: {hint}"));
        }
        if let (Some(rank), false) = (cause.rank, last_lines.is_empty()) {
            self.say(&format!("  last lines of rank {rank}:"));
            last_lines.iter().for_each(|line| self.say(&format!("  | {line}")));
        }
    }

    /// Where the metrics are.
    fn runs(&mut self) {
        let Some(wandb) = self.state.wandb.clone() else { return };
        for (id, run) in &wandb.runs {
            if let Some(link) = run.link.as_ref().filter(|_| run.rows_logged > 0) {
                self.say(&format!("W&B: {id}: {} {link}", count(run.rows_acked as usize, "row")));
            }
            if run.state == RunState::Refused {
                let why = run.last_error.as_deref().unwrap_or("no reason was given");
                self.say(&format!("W&B: {id}: refused: {why}; elastictop sync sends what is kept here"));
            } else if let Some(left) = run.left_here().filter(|_| run.state != RunState::Local) {
                let why = run.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                self.say(&format!("W&B: {id}: not sent: {left}{why}"));
            }
        }
    }

    fn say(&mut self, line: &str) {
        if self.readers {
            let mut out = io::stdout().lock();
            self.readers = writeln!(out, "{line}").and_then(|()| out.flush()).is_ok();
        }
    }
}
