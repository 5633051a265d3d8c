//! `elastictop drill`: a fault in a healthy rank, and the time until it is told.

use std::{
    io::{self, BufRead, IsTerminal},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;

use super::{
    block_on, demo, out,
    reach::{Greeted, Target, carry_out},
};
use crate::{
    domain::{
        alert::AlertKind,
        cause::CauseKind,
        command::Command,
        drill::{Fault, REFUSED, TAKEN},
        event::{Event, Fact},
        rank::JobState,
        state::{Rank, State},
        telling,
    },
    error::{Error, Result},
    wire::{link::Link, message::ToViewer},
};

/// How long a job may take until it trains.
const BEGINS_WITHIN: Duration = Duration::from_secs(180);
/// It must have trained this long before a pause means anything.
const WARM_UP: Duration = Duration::from_secs(5);
/// A rank that beats takes an order within some seconds.
const TAKEN_WITHIN: Duration = Duration::from_secs(12);
const POLL: Duration = Duration::from_millis(20);

const SIGKILL: i32 = 9;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

#[derive(Debug, Args)]
pub struct DrillArgs {
    /// hang: the rank sleeps; busy: it spins; gil: it holds Python's lock in C; read: it reads from a pipe that gives
    /// nothing; oom: it raises the error for memory; stop: SIGSTOP; kill: SIGKILL; zombie: all die and the agent sleeps
    #[arg(value_name = "FAULT")]
    fault: Fault,
    /// Global rank that is to have the fault
    #[arg(long, short, default_value_t = 1)]
    rank: u32,
    /// Id, name or start of the id of a running job; a demo that is started and ended for it if left out
    #[arg(long, short)]
    job: Option<String>,
    /// Seconds after which the rank goes on by itself, or is let go on
    #[arg(long = "for", value_name = "SEC", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Do not ask: for scripts
    #[arg(long)]
    yes: bool,
    /// Print the result as JSON (schema 1)
    #[arg(long)]
    json: bool,
    /// For the demo: --hang-after in seconds
    #[arg(long, value_name = "SEC", default_value_t = 30, conflicts_with = "job")]
    hang_after: u64,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    schema: u32,
    job: String,
    rank: u32,
    fault: Fault,
    /// Kind of the alert or cause that told it; null when nothing did.
    told: Option<String>,
    text: Option<String>,
    /// From the fault to its telling.
    seconds: Option<f64>,
}

/// `elastictop drill`.
pub fn drill(args: &DrillArgs) -> Result<u8> {
    if args.fault == Fault::Zombie && args.job.is_some() {
        return Err(Error::usage("the zombie deadlock cannot be made in a job that runs")
            .hint("leave --job out: a demo is started for it, with an agent that plays along"));
    }
    let (target, is_ours) = match &args.job {
        Some(job) => (Target::find(Some(job), None)?, false),
        None => (demo::start_for_drill(args.fault == Fault::Zombie, args.hang_after)?, true),
    };
    let result = block_on(run(args, &target, is_ours));
    if is_ours {
        // Whatever came of it, the demo goes.
        let stopped = block_on(async {
            let mut link = target.greet(false).await?.link;
            carry_out(&mut link, Command::Stop { now: true }).await
        });
        if let Err(error) = stopped.filter_over() {
            out::note(&error);
        }
    }
    result
}

trait FilterOver {
    fn filter_over(self) -> Result<()>;
}

impl FilterOver for Result<String> {
    /// A job that is over already needs no stopping.
    fn filter_over(self) -> Result<()> {
        match self {
            Err(error) if error.kind == crate::error::Kind::Job => Ok(()),
            other => other.map(drop),
        }
    }
}

async fn run(args: &DrillArgs, target: &Target, is_ours: bool) -> Result<u8> {
    let Greeted { mut link, mut state, .. } = target.greet(true).await?;
    let job = state.job.as_ref().map(|job| job.id.0.clone()).unwrap_or_default();
    wait_until_it_trains(&mut link, &mut state, args.rank).await?;
    if !is_ours && !args.yes {
        confirm(args, &job)?;
    }
    let began = inject(args, target, &mut link, &mut state).await?;
    let due = began + Duration::from_secs(args.seconds);
    let told = watch(&mut link, &mut state, args, due).await?;
    let told = told.map(|(at, kind, text)| (at.saturating_duration_since(began), kind, text));
    if args.fault == Fault::Stop {
        let mut other = target.greet(false).await?.link;
        carry_out(&mut other, Command::Signal { rank: Some(args.rank), signal: SIGCONT }).await?;
    }
    let outcome = Outcome {
        schema: crate::domain::report::SCHEMA,
        job,
        rank: args.rank,
        fault: args.fault,
        told: told.as_ref().map(|(_, kind, _)| kind.clone()),
        text: told.as_ref().map(|(.., text)| text.clone()),
        seconds: told.as_ref().map(|(time, ..)| (time.as_secs_f64() * 100.0).round() / 100.0),
    };
    print(args, &outcome, &state)?;
    Ok(u8::from(outcome.told.is_none()))
}

fn print(args: &DrillArgs, outcome: &Outcome, state: &State) -> Result<()> {
    if args.json {
        let text = serde_json::to_string(outcome);
        let text = text.map_err(|error| Error::environment(format!("cannot write JSON: {error}")))?;
        out::say(text)?;
        return Ok(());
    }
    let (fault, rank) = (args.fault, args.rank);
    let Outcome { told: Some(kind), text: Some(text), seconds: Some(seconds), .. } = outcome else {
        out::say(format_args!("{fault} on rank {rank}: nothing was told within {} s", args.seconds))?;
        return Ok(());
    };
    out::say(format_args!("{fault} on rank {rank}: told after {seconds:.1} s as {kind}"))?;
    out::say(format_args!("  {text}"))?;
    for alert in state.alerts.iter().filter(|alert| alert.text == *text) {
        for fact in &alert.evidence {
            out::say(format_args!("  - {fact}"))?;
        }
    }
    if fault.needs_cooperation() && fault != Fault::Oom && args.job.is_some() {
        out::say(format_args!("the rank goes on by itself {} s after the fault began", args.seconds))?;
    }
    Ok(())
}

/// Takes messages in until `is_there` finds what it waits for, or the time is over.
async fn follow<T>(
    link: &mut Link,
    state: &mut State,
    due: Instant,
    mut is_there: impl FnMut(&State, Option<&Event>) -> Option<T>,
) -> Result<Option<T>> {
    loop {
        if let Some(found) = is_there(state, None) {
            return Ok(Some(found));
        }
        let left = due.saturating_duration_since(Instant::now());
        let Ok(message) = tokio::time::timeout(left, link.incoming.recv()).await else {
            return Ok(None);
        };
        match message {
            Some(ToViewer::Events { events }) => {
                for event in &events {
                    state.apply(event);
                    if let Some(found) = is_there(state, Some(event)) {
                        return Ok(Some(found));
                    }
                }
            }
            Some(ToViewer::Snapshot { state: whole, .. }) => *state = *whole,
            Some(ToViewer::Bye { text }) => return Err(Error::environment(text)),
            Some(_) => {}
            None => return Err(Error::environment("the supervisor left")),
        }
    }
}

fn rank_of(state: &State, number: u32) -> Option<&Rank> {
    state.ranks.iter().find(|rank| rank.number() == number)
}

async fn wait_until_it_trains(link: &mut Link, state: &mut State, rank: u32) -> Result<()> {
    let due = Instant::now() + BEGINS_WITHIN;
    let mut first: Option<(Instant, u64)> = None;
    let trains = follow(link, state, due, |state, _| {
        if state.state.is_over() {
            return Some(Err(Error::job("the job is over")));
        }
        let known = rank_of(state, rank);
        if state.state == JobState::Running && known.is_none() {
            let text = format!("there is no rank {rank} on this node");
            return Some(Err(
                Error::usage(text).hint("--rank takes the global rank; elastictop status lists them")
            ));
        }
        let step = known.filter(|_| state.state == JobState::Running).and_then(|rank| rank.step)?;
        let (since, from) = *first.get_or_insert((Instant::now(), step));
        (since.elapsed() >= WARM_UP && step > from).then_some(Ok(()))
    });
    trains.await?.unwrap_or_else(|| {
        Err(Error::job(format!("rank {rank} told no steps: a drill needs a job that trains")))
    })
}

/// The name of rank and job must be typed: a wrong window is no excuse.
fn confirm(args: &DrillArgs, job: &str) -> Result<()> {
    if !io::stdin().is_terminal() {
        return Err(Error::usage("a drill in a running job asks first, and this is no terminal")
            .hint("--yes answers for scripts"));
    }
    let wanted = format!("r{} of {job}", args.rank);
    out::say(format_args!(
        "{} for at most {} s. To go on, type: {wanted}",
        telling::drill(args.fault, args.rank),
        args.seconds
    ))?;
    out::write("> ")?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|error| Error::environment(error.to_string()))?;
    if line.trim() == wanted { Ok(()) } else { Err(Error::usage("not confirmed: nothing was done")) }
}

/// Makes the fault; gives when it began.
async fn inject(args: &DrillArgs, target: &Target, link: &mut Link, state: &mut State) -> Result<Instant> {
    let rank = Some(args.rank);
    let command = match args.fault {
        Fault::Stop => Command::Signal { rank, signal: SIGSTOP },
        Fault::Kill => Command::Signal { rank, signal: SIGKILL },
        Fault::Zombie => Command::Signal { rank: None, signal: SIGKILL },
        fault => Command::Drill { rank: args.rank, fault, seconds: args.seconds },
    };
    // A link of its own: the answer must not be lost among events.
    let mut other = target.greet(false).await?.link;
    let began = Instant::now();
    carry_out(&mut other, command).await?;
    if !args.fault.needs_cooperation() {
        return Ok(began);
    }
    let Some(folder) = folder(target, state, args.rank) else { return Ok(began) };
    let due = Instant::now() + TAKEN_WITHIN;
    while Instant::now() < due {
        if folder.join(TAKEN).exists() {
            return Ok(Instant::now());
        }
        if folder.join(REFUSED).exists() {
            return Err(Error::job(format!("rank {} refused the order", args.rank))
                .hint("ELASTICTOP_DRILL=0 in its environment forbids drills"));
        }
        // Messages wait in the link meanwhile.
        tokio::time::sleep(POLL).await;
    }
    let _ = link;
    Err(Error::job(format!("rank {} did not take the order", args.rank))
        .hint("only Python ranks started by elastictop and those of the demo can"))
}

fn folder(target: &Target, state: &State, rank: u32) -> Option<PathBuf> {
    let Target::Own { roots, manifest } = target else { return None };
    let proc = rank_of(state, rank)?.proc;
    let ranks: &Path = &roots.job(&manifest.id).ranks();
    Some(ranks.join(format!("{}-{}", proc.pid, proc.start)))
}

/// The alert or cause that tells of the fault, and when it came.
async fn watch(
    link: &mut Link,
    state: &mut State,
    args: &DrillArgs,
    due: Instant,
) -> Result<Option<(Instant, String, String)>> {
    let local = rank_of(state, args.rank).map(|rank| rank.local_rank);
    follow(link, state, due, |_, event| {
        let (kind, text) = match &event?.fact {
            Fact::AlertRaised { alert } if tells(args.fault, alert.kind) => {
                let is_it = alert.local_rank.is_none() || alert.local_rank == local;
                (is_it.then(|| word(alert.kind))?, alert.text.clone())
            }
            Fact::CauseFound { cause, .. } if ends(args.fault, cause.kind) => {
                (word(cause.kind), cause.text.clone())
            }
            _ => return None,
        };
        Some((Instant::now(), kind, text))
    })
    .await
}

/// As in JSON.
fn word(kind: impl Serialize) -> String {
    serde_json::to_value(kind).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn tells(fault: Fault, kind: AlertKind) -> bool {
    match fault {
        Fault::Hang | Fault::Busy => kind == AlertKind::Hang,
        Fault::Gil => kind == AlertKind::GilStuck,
        Fault::Read => kind == AlertKind::BlockedIo,
        Fault::Stop => kind == AlertKind::Stopped,
        Fault::Zombie => kind == AlertKind::ZombieDeadlock,
        Fault::Oom => kind == AlertKind::Oom,
        Fault::Kill | Fault::Unknown => false,
    }
}

fn ends(fault: Fault, kind: CauseKind) -> bool {
    match fault {
        Fault::Kill => matches!(kind, CauseKind::Signal | CauseKind::Stopped),
        Fault::Oom => matches!(kind, CauseKind::OomHost | CauseKind::OomGpu),
        _ => false,
    }
}
