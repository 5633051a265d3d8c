//! Commands that print what is known about a job.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

use clap::Args;

use super::{
    block_on,
    nodes::{self, ReachArgs},
    out,
    reach::{Greeted, Target},
    wandb,
};
use crate::{
    cluster::Host,
    domain::{
        cluster::shift,
        event::{Event, Fact, Launcher},
        forward,
        log::{Anchor, LogFilter, LogLine, LogPage, LogQuery, MAX_PAGE, Stream},
        report::Status,
        state::State,
        telling,
        time::{Stamp, human},
    },
    error::{Error, Result},
    supervisor::{
        archive,
        aside::{self, Observer},
        clock,
        folder::Manifest,
        journal, lock,
        logbook::Logbook,
        place::Roots,
        recording::{Entry, Reader},
    },
    wire::message::{ToSupervisor, ToViewer},
};

/// How often a file that is followed is looked at.
const POLL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    /// A torchrun agent that elastictop did not start
    #[arg(long, conflicts_with_all = ["job", "relay"])]
    pid: Option<i32>,
    /// Print JSON (schema 1)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    /// Print one JSON object per line (schema 1)
    #[arg(long)]
    json: bool,
    /// Go on until the job is over
    #[arg(long, short)]
    follow: bool,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    /// Only this global rank
    #[arg(long, short)]
    rank: Option<u32>,
    /// Only this start of the group, counted from 0
    #[arg(long)]
    attempt: Option<u32>,
    /// Only the last lines
    #[arg(long, short = 'n')]
    lines: Option<usize>,
    /// Go on until the job is over
    #[arg(long, short)]
    follow: bool,
    /// Leave the agent's own lines out
    #[arg(long)]
    no_agent: bool,
    /// Also what is there because of elastictop: the agent's event records, a line of JSON for each rank that starts or ends,
    /// and a line of torch's server in each rank
    #[arg(long)]
    records: bool,
}

/// `elastictop status`.
pub fn status(args: &StatusArgs) -> Result<u8> {
    if let Some(hosts) = args.reach.hosts(args.job.as_deref())? {
        return status_of_nodes(hosts, args.json);
    }
    let target = Target::find(args.job.as_deref(), args.pid)?;
    let state = block_on(async {
        if let Target::Foreign(pid) = target {
            let mut observer = Observer::new(&aside::find_foreign(pid)?);
            // CPU use is the difference of two looks.
            tokio::time::sleep(Duration::from_millis(300)).await;
            observer.look();
            return Ok(observer.state().clone());
        }
        Ok(target.greet(false).await?.state)
    })?;
    let now = clock::wall();
    let text = if args.json { pretty(&Status::new(&state, now))? } else { describe(&state, now) };
    out::write(&format!("{text}\n"))?;
    Ok(0)
}

/// Exit code 1 when a node could not be asked: what is printed is not the whole job then.
fn status_of_nodes(hosts: Vec<Host>, json: bool) -> Result<u8> {
    let (_, gathered) = block_on(nodes::gather(hosts))?;
    let now = clock::wall();
    let mut missing = false;
    let mut text = String::new();
    for (link, state) in gathered.each() {
        let why = link.link.untold();
        missing |= why.is_some() && !state.state.is_over();
        let clock =
            link.clock.map(|clock| format!(", clock {:+} ms ±{} ms", clock.ahead_ms, clock.within_ms));
        text += &format!("== {}{}\n", link.host, clock.unwrap_or_default());
        match (why, state.job.is_some()) {
            (Some(why), false) => text += &format!("not reached: {why}\n"),
            (why, _) => {
                text += &why.map(|why| format!("! {why}\n")).unwrap_or_default();
                text += &format!("{}\n", describe(state, shift(now, -link.ahead_ms())));
            }
        }
    }
    if json {
        text = pretty(&gathered.status(now))? + "\n";
    }
    out::write(&text)?;
    Ok(u8::from(missing))
}

fn pretty(status: &Status) -> Result<String> {
    serde_json::to_string_pretty(status)
        .map_err(|error| Error::environment(format!("cannot write JSON: {error}")))
}

/// The state of a job in some lines.
fn describe(state: &State, now: Stamp) -> String {
    let job = state.job.as_ref();
    let mut text = format!(
        "{}  {}  attempt {}  restarts {}  {} {}{}\n",
        job.map_or("?", |job| &job.id.0),
        telling::job_state(state.state),
        state.attempt(),
        telling::spent(state.restarts, job.and_then(|job| job.max_restarts)),
        if state.ended_at.is_some() { "ran" } else { "up" },
        state.started_at.map_or("n/a".into(), |at| human(state.ended_at.unwrap_or(now).since(at))),
        state.exit_code.map(|code| format!("  exit code {code}")).unwrap_or_default(),
    );
    for alert in &state.alerts {
        text += &format!("! {} (for {})\n", alert.text, human(now.since(alert.since)));
    }
    if let Some(cause) = &state.cause {
        text += &format!("cause: {}\n", cause.text);
        text += &cause.hint.as_ref().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
    }
    text += "RANK  PID      STATE        CPU%   RSS      STEP     BEAT\n";
    let or = |value: Option<String>| value.unwrap_or_else(|| "n/a".into());
    for rank in &state.ranks {
        let state = match rank.exit {
            Some(exit) => exit.to_string(),
            None => format!("{:?}", rank.state).to_lowercase(),
        };
        text += &format!(
            "{:<5} {:<8} {state:<12} {:<6} {:<8} {:<8} {}\n",
            rank.number(),
            rank.proc.pid,
            or(rank.cpu_pct.map(|pct| format!("{pct:.0}"))),
            or(rank.rss_bytes.map(|bytes| format!("{}M", bytes >> 20))),
            or(rank.step.map(|step| step.to_string())),
            or(rank.beat_at.map(|at| human(now.since(at)))),
        );
    }
    match &state.wandb {
        Some(wandb) => text += &forward::describe(wandb, now),
        None if job.is_some_and(|job| job.launcher != Launcher::Foreign) => {
            text += &format!("{}\n", wandb::OFF);
        }
        None => {}
    }
    text.trim_end().to_owned()
}

/// `elastictop events`.
pub fn events(args: &EventsArgs) -> Result<u8> {
    let (roots, manifest) = own(args.job.as_deref())?;
    let path = roots.job(&manifest.id).journal();
    let open = || File::open(&path).map_err(|error| Error::io("cannot open", &path, &error));
    let (mut state, mut rest, mut unreadable) = (State::default(), Vec::new(), 0_u64);
    let older = journal::files(&path);
    let mut file = open()?;
    for older in older.iter().filter(|older| **older != path) {
        let mut reader = Reader::open(older)?;
        while let Some(entry) = reader.read() {
            let Entry::Event(event) = entry else { continue };
            state.apply(&event);
            if !out::write(&text_of(&state, &event, &journal::line(&event), args.json))? {
                return Ok(0);
            }
        }
    }
    loop {
        // Asked first: what was moved aside before does not grow any more.
        let was_moved = args.follow && is_other(&file, &path);
        file.read_to_end(&mut rest).map_err(|error| Error::io("cannot read", &path, &error))?;
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let mut text = String::new();
        for line in rest[..whole].split(|byte| *byte == b'\n') {
            let Some(event) = journal::parse(line) else {
                unreadable += u64::from(!line.is_empty());
                continue;
            };
            state.apply(&event);
            text += &text_of(&state, &event, line, args.json);
        }
        rest.drain(..whole);
        if was_moved && rest.is_empty() {
            // The new one begins with what is known already.
            file = open()?;
        }
        if !out::write(&text)? || !args.follow || state.state.is_over() {
            // Of a running job it may be a record that is being written.
            if !rest.is_empty() && (manifest.ended || !lock::is_supervised(&roots, &manifest)) {
                out::note(format_args!(
                    "warning: the last record of the journal was cut off ({} bytes)",
                    rest.len()
                ));
            }
            if unreadable > 0 {
                out::note(format_args!("warning: {unreadable} records of the journal cannot be read"));
            }
            return Ok(0);
        }
        std::thread::sleep(POLL);
    }
}

/// An event as it is printed; nothing for a state that stands in for events.
fn text_of(state: &State, event: &Event, line: &[u8], json: bool) -> String {
    match telling::event(state, event) {
        _ if matches!(event.fact, Fact::Snapshot { .. }) => String::new(),
        _ if json => format!("{}\n", String::from_utf8_lossy(line)),
        Some(sentence) => format!("{}  {}\n", event.at, out::harmless(sentence)),
        None => String::new(),
    }
}

/// Whether another file lies at the path by now.
fn is_other(file: &File, path: &Path) -> bool {
    let number = |meta: io::Result<Metadata>| meta.ok().map(|meta| meta.ino());
    number(fs::metadata(path)).is_some_and(|there| Some(there) != number(file.metadata()))
}

/// `elastictop logs`.
pub fn logs(args: &LogsArgs) -> Result<u8> {
    let (roots, manifest) = own(args.job.as_deref())?;
    let dir = roots.job(&manifest.id);
    let book = archive::open_logs(&dir)?;
    if let Err(error) = dir.read_secret_marks() {
        out::note(format_args!("elastictop: {}: what ranks printed of them is shown", error.text));
    }
    let filter = LogFilter { local_rank: None, attempt: args.attempt };
    let wanted = |line: &LogLine| {
        args.rank.is_none_or(|rank| line.rank.or(line.local_rank) == Some(rank))
            && !(args.no_agent && line.stream == Stream::Agent)
            && (args.records || !line.is_bookkeeping())
    };
    let mut from = 0;
    let (mut kept, mut is_any) = (Vec::new(), false);
    if let Some(most) = args.lines {
        (kept, from) = last_lines(&book, &filter, most, wanted);
        is_any = !kept.is_empty() || most == 0;
    }
    while args.lines.is_none() {
        let query = LogQuery::Page { filter: filter.clone(), anchor: Anchor::From(from), max: MAX_PAGE };
        let page = book.answer(&query);
        let Some(last) = page.lines.last() else { break };
        from = last.n + 1;
        let text: String = page.lines.iter().filter(|line| wanted(line)).map(tagged).collect();
        is_any |= !text.is_empty();
        if !out::write(&text)? {
            return Ok(0);
        }
    }
    if !is_any {
        let of = [("rank", args.rank), ("attempt", args.attempt)];
        let of: Vec<_> = of.into_iter().filter_map(|(what, n)| Some(format!(" of {what} {}", n?))).collect();
        out::note(format_args!("{} has no lines{} yet", manifest.id, of.concat()));
    }
    if !out::write(&kept.iter().map(tagged).collect::<String>())? || !args.follow || manifest.ended {
        return Ok(0);
    }
    let target = Target::Own { roots, manifest: Box::new(manifest) };
    block_on(follow_logs(&target, &filter, from, wanted))?;
    Ok(0)
}

/// The last lines that are wanted, oldest first, and the number of the line that comes next.
fn last_lines(
    book: &Logbook,
    filter: &LogFilter,
    most: usize,
    wanted: impl Fn(&LogLine) -> bool,
) -> (Vec<LogLine>, u64) {
    let (mut kept, mut anchor, mut next) = (Vec::new(), Anchor::Tail, None);
    while kept.len() < most {
        let page = book.answer(&LogQuery::Page { filter: filter.clone(), anchor, max: MAX_PAGE });
        next.get_or_insert(page.end);
        let Some(first) = page.lines.first() else { break };
        anchor = Anchor::Before(first.n);
        kept.extend(page.lines.into_iter().rev().filter(&wanted).take(most - kept.len()));
    }
    kept.reverse();
    (kept, next.unwrap_or_default())
}

async fn follow_logs(
    target: &Target,
    filter: &LogFilter,
    mut from: u64,
    wanted: impl Fn(&LogLine) -> bool,
) -> Result<()> {
    let Greeted { mut link, mut state, .. } = target.greet(true).await?;
    let mut over = false;
    loop {
        let query = LogQuery::Page { filter: filter.clone(), anchor: Anchor::From(from), max: MAX_PAGE };
        if link.outgoing.send(ToSupervisor::Logs { id: 0, query }).await.is_err() {
            return Ok(());
        }
        let Some(page) = next_page(&mut link.incoming, &mut state).await else { return Ok(()) };
        from = page.lines.last().map_or(from, |line| line.n + 1);
        let text: String = page.lines.iter().filter(|line| wanted(line)).map(tagged).collect();
        if !out::write(&text)? {
            return Ok(());
        }
        if page.lines.is_empty() {
            // One more question after the end: the last lines may have come with it.
            if over {
                return Ok(());
            }
            over = state.state.is_over();
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn next_page(
    incoming: &mut tokio::sync::mpsc::Receiver<ToViewer>,
    state: &mut State,
) -> Option<LogPage> {
    loop {
        match incoming.recv().await? {
            ToViewer::Logs { page, .. } => return Some(page),
            ToViewer::Events { events } => events.iter().for_each(|event| state.apply(event)),
            ToViewer::Snapshot { state: fresh, .. } => *state = *fresh,
            ToViewer::Bye { .. } => return None,
            _ => {}
        }
    }
}

fn tagged(line: &LogLine) -> String {
    let text = out::harmless(&line.text);
    match (line.stream, line.local_rank) {
        (Stream::Agent, _) | (_, None) => format!("agent | {text}\n"),
        (_, Some(local)) => format!("{:<5} | {text}\n", telling::rank_tag(line.rank, local)),
    }
}

fn own(job: Option<&str>) -> Result<(Roots, Manifest)> {
    match Target::find(job, None)? {
        Target::Own { roots, manifest } => Ok((roots, *manifest)),
        Target::Foreign(_) => {
            Err(Error::job("elastictop did not start that job: it has no journal and no log index of it")
                .hint("elastictop attach --pid PID shows what can be seen"))
        }
    }
}
