//! Recordings: playing one on the screen or as lines, and writing one.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

use clap::Args;

use super::{
    block_on, out,
    reach::Target,
    screen::{self, ScreenArgs},
};
use crate::{
    domain::{
        launch::parse_span,
        replay::{REDACTED, parse_place},
        state::State,
        telling,
        time::{Stamp, human},
    },
    error::{Error, Result},
    probe::host::utc_offset_s,
    supervisor::{
        clock,
        folder::Manifest,
        recording::{self, Tape, Window},
    },
    tui,
};

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// A recording or journal, or a job: id, name or start of the id; the newest job if left out
    #[arg(value_name = "FILE|JOB")]
    what: Option<String>,
    /// Play so many times as fast: 1, 2, 5, 10, 60, 600
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=600))]
    speed: u32,
    /// Begin there: 40%, +5m, 12:34:56, 2026-11-21T08:03:38Z, or `alert` for the first one
    #[arg(long, value_name = "PLACE")]
    at: Option<String>,
    /// Print one line per event, with its time, instead of opening the screen
    #[arg(long)]
    plain: bool,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    /// Only the last part of it: 90, 15m, 2h
    #[arg(long, value_name = "SEC", value_parser = parse_span, conflicts_with_all = ["from", "to"])]
    last: Option<std::time::Duration>,
    /// From there on: 40%, +5m (after the beginning), 12:34:56, 2026-11-21T08:03:38Z
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    /// Up to there
    #[arg(long, value_name = "PLACE")]
    to: Option<String>,
    /// Leave out commands, names, paths, values of variables, all words and all log lines
    #[arg(long)]
    redact: bool,
    /// The file to write [default: JOB-TIME.etrec here]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// `elastictop replay`.
pub fn replay(args: &ReplayArgs, screen: &ScreenArgs) -> Result<u8> {
    let options = screen.options()?;
    let tape = open(args.what.as_deref())?;
    let course = tape.course();
    let first_alert = || course.marks.iter().find(|mark| mark.is_trouble()).map(|mark| mark.at);
    let at = match args.at.as_deref() {
        None => None,
        Some("alert") => {
            Some(first_alert().ok_or_else(|| Error::usage("--at alert: there is no alert in it"))?)
        }
        Some(text) => Some(place("--at", text, (course.begin(), course.end()))?),
    };
    tape.missing.iter().for_each(|missing| out::note(format_args!("warning: {missing}")));
    if args.plain || !screen::is_possible() {
        return Ok(print(&tape, at));
    }
    let name = tape.state_at(course.end()).job.map_or("the recording".into(), |job| job.id.0);
    let link = Mutex::new(Some(block_on_link(tape, args.speed, at)));
    block_on(async {
        let connector: tui::Connector = Box::new(move || {
            let made = link.lock().ok().and_then(|mut link| link.take());
            Box::pin(async move { made.map(|make| make()).ok_or_else(|| Error::job("the player has ended")) })
        });
        let (_, state) = tui::watch(connector, &options).await?;
        out::say(format_args!("left the replay of {name} at {}", state.at))?;
        Ok(0)
    })
}

type MakeLink = Box<dyn FnOnce() -> crate::wire::link::Link + Send>;

/// The player starts with the screen, inside of its event loop.
fn block_on_link(tape: Tape, speed: u32, at: Option<Stamp>) -> MakeLink {
    Box::new(move || recording::serve(tape, speed, at))
}

/// A file where one of this name lies, else a job.
fn open(what: Option<&str>) -> Result<Tape> {
    if let Some(path) = what.map(Path::new).filter(|path| path.exists()) {
        return Tape::read(path);
    }
    let looks_like_a_file = what.is_some_and(|what| what.contains('/') || what.ends_with(".etrec"));
    if let Some(what) = what.filter(|_| looks_like_a_file) {
        return Err(Error::usage(format!("there is no file {what}")));
    }
    match Target::find(what, None)? {
        Target::Own { roots, manifest } => Tape::of_job(&roots.job(&manifest.id)),
        Target::Foreign(_) => Err(foreign()),
    }
}

fn foreign() -> Error {
    Error::job("elastictop did not start that job: nobody records it")
        .hint("jobs started by elastictop run are recorded")
}

fn place(flag: &str, text: &str, (begin, end): (Stamp, Stamp)) -> Result<Stamp> {
    parse_place(text, begin, end, begin, utc_offset_s())
        .map_err(|why| Error::usage(format!("{flag}: {text:?} {why}")))
}

fn print(tape: &Tape, at: Option<Stamp>) -> u8 {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let (mut state, mut reads) = (State::default(), true);
    tape.each(|event| {
        state.apply(event);
        if reads
            && at.is_none_or(|at| event.at >= at)
            && let Some(sentence) = telling::event(&state, event)
        {
            reads = writeln!(out, "{}  {sentence}", event.at).is_ok();
        }
    });
    // Whoever reads may have seen enough.
    let _ = out.flush();
    0
}

/// `elastictop export`.
pub fn export(args: &ExportArgs) -> Result<u8> {
    let Target::Own { roots, manifest } = Target::find(args.job.as_deref(), None)? else {
        return Err(foreign());
    };
    let window = window(args, &manifest)?;
    let now = clock::wall().to_string().replace(':', "");
    let name = if args.redact { "recording" } else { manifest.id.0.as_str() };
    let output = args.output.clone().unwrap_or_else(|| format!("{name}-{now}.etrec").into());
    out::may_replace(&output)?;
    let exported = recording::export(&roots, &manifest, window, &output)?;
    let span = exported.span.map(|(first, last)| human(last.since(first))).unwrap_or_default();
    out::say(format_args!(
        "{}  {span}, {} events, {} log lines, {} kB",
        output.display(),
        exported.events,
        exported.lines,
        exported.bytes.div_ceil(1024)
    ))?;
    for missing in &exported.missing {
        out::say(format_args!("not in it: {missing}"))?;
    }
    if args.redact {
        out::say(format_args!("taken out: {REDACTED}"))?;
    } else {
        out::say(
            "Values of secrets are taken out; commands, names and log lines are in it. --redact leaves them out.",
        )?;
    }
    out::say(format_args!("elastictop replay {} plays it", output.display()))?;
    Ok(0)
}

fn window(args: &ExportArgs, manifest: &Manifest) -> Result<Window> {
    let begin = manifest.created_at;
    let end = if manifest.ended { manifest.seen_at } else { clock::wall() };
    let at = |flag: &str, text: &Option<String>| {
        text.as_deref().map(|text| place(flag, text, (begin, end))).transpose()
    };
    let from = match args.last {
        Some(last) => Some(Stamp(end.0.saturating_sub(last.as_millis() as u64))),
        None => at("--from", &args.from)?,
    };
    let to = at("--to", &args.to)?;
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        return Err(Error::usage(format!("--from {from} is not before --to {to}")));
    }
    // From before the beginning on is all of it.
    Ok(Window { from: from.filter(|from| *from > begin), to, redact: args.redact })
}
