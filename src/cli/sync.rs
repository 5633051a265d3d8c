//! `elastictop sync`: sends what is still local, of a job or of any run on disk.

pub(super) mod find;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal, Write},
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use self::find::{Found, Part};
use super::{config::Layers, out};
use crate::{
    domain::{
        forward::{RunProgress, RunState},
        time::{Stamp, human},
    },
    error::{Error, Result},
    supervisor::{clock, folder::JobDir, journal},
    wandb::{
        client::{CLOUD, Client},
        credentials::{find_key, no_key_hint},
        upload::{Cursor, Progress, Upload, Uploads},
    },
};

/// How often the line on the terminal is drawn anew.
const DRAW: Duration = Duration::from_millis(100);
/// So long without an answer from the server, it gives up.
const PATIENCE: Duration = Duration::from_secs(300);
/// Cells of the bar.
const BAR: usize = 24;

#[derive(Debug, Args)]
pub struct SyncArgs {
    /// Id, name or start of the id of a job; or a job's folder, a W&B run's folder, a folder of such, or a `.wandb` file.
    /// The newest job if left out
    #[arg(value_name = "JOB|DIR")]
    what: Option<String>,
}

/// A run that is being sent.
struct Sent {
    run: String,
    upload: Upload,
    /// Rows in its files, and how many of them were sent before.
    rows: u64,
    before: u64,
}

/// `elastictop sync`: exit code 0 when nothing is left, 1 when something was refused or did not get through.
pub fn sync(args: &SyncArgs) -> Result<u8> {
    let mut found = find::find(args.what.as_deref())?;
    if found.parts.is_empty() {
        out::note(format_args!("{}: there is nothing to send", found.name));
        return Ok(0);
    }
    let client = connect(&found)?;
    let uploads = Uploads::start(client)
        .map_err(|error| Error::environment(format!("cannot start sending: {error}")))?;
    let mut is_whole = true;
    for round in rounds(std::mem::take(&mut found.parts)) {
        let mut sent: Vec<_> = round.into_iter().map(|part| begin(&uploads, part)).collect();
        wait(&mut sent);
        for one in &sent {
            is_whole &= tell(one);
        }
    }
    uploads.finish(Duration::ZERO);
    for (run, what) in found.dir.iter().flat_map(left_out) {
        out::note(format_args!(
            "{run}: not sent: {what}: W&B's own wandb sync does, from the files of the rank"
        ));
    }
    Ok(u8::from(!is_whole))
}

/// What was logged to the runs of a job and is not forwarded: files, media, artifacts.
pub(super) fn left_out(dir: &JobDir) -> Vec<(String, String)> {
    let state = journal::read(&dir.journal(), |_| {}).map(|past| past.state).unwrap_or_default();
    not_forwarded(state.wandb.map(|wandb| wandb.runs).unwrap_or_default())
}

fn not_forwarded(runs: BTreeMap<String, RunProgress>) -> Vec<(String, String)> {
    // System metrics are elastictop's own, and nothing of the script's.
    let is_theirs = |what: &String| !what.starts_with("system metrics");
    let of_run = |(id, run): (String, RunProgress)| {
        let what: Vec<String> = run.not_forwarded.into_iter().filter(is_theirs).collect();
        (!what.is_empty()).then(|| (id, what.join(", ")))
    };
    runs.into_iter().filter_map(of_run).collect()
}

fn connect(found: &Found) -> Result<Client> {
    let layers = Layers::find(BTreeMap::new())?;
    let base_url = match &found.base_url {
        Some(url) => url.clone(),
        None => layers.get("wandb.base_url").map_or_else(|| CLOUD.to_owned(), |found| found.value),
    };
    let key = find_key(&|name| std::env::var(name).ok(), &base_url)?;
    let key = key.ok_or_else(|| Error::usage("no W&B API key was found").hint(no_key_hint(&base_url)))?;
    Client::new(&base_url, &key.key)
}

/// Clients of the same run go one after the other, as they wrote.
fn rounds(parts: Vec<Part>) -> Vec<Vec<Part>> {
    let mut rounds: Vec<(BTreeSet<String>, Vec<Part>)> = Vec::new();
    for part in parts {
        let run = part.run.clone();
        match rounds.iter_mut().find(|(runs, _)| !runs.contains(&run)) {
            Some((runs, round)) => {
                runs.insert(run);
                round.push(part);
            }
            None => rounds.push((BTreeSet::from([run]), vec![part])),
        }
    }
    rounds.into_iter().map(|(_, round)| round).collect()
}

/// How many rows of a job are on disk alone.
///
/// # Errors
/// Files that cannot be read.
pub(super) fn unsent(dir: &JobDir) -> Result<u64> {
    let left = |part: &Part| part.rows().saturating_sub(Cursor::rows_acked(&part.job.cursor).unwrap_or(0));
    Ok(find::unsent(dir)?.iter().map(left).sum())
}

fn begin(uploads: &Uploads, part: Part) -> Sent {
    let rows = part.rows();
    let before = Cursor::rows_acked(&part.job.cursor).unwrap_or(0);
    let upload = uploads.begin(part.job);
    upload.add_segment(part.newest, part.committed);
    upload.close();
    Sent { run: part.run, upload, rows, before }
}

/// Waits until all are over, or the server is silent for too long. Shows how far they are on a terminal.
fn wait(sent: &mut [Sent]) {
    let is_terminal = std::io::stderr().is_terminal();
    let (mut last, mut moved_at) = (None, Instant::now());
    while !sent.iter().all(|one| one.upload.progress().over) {
        let progress: Vec<Progress> = sent.iter().map(|one| one.upload.progress()).collect();
        let acks: Vec<_> = progress.iter().map(|progress| progress.run.last_ack_at).collect();
        if last.as_ref() != Some(&acks) {
            (last, moved_at) = (Some(acks), Instant::now());
        }
        if moved_at.elapsed() > PATIENCE {
            break;
        }
        if is_terminal {
            draw(&line(sent, &progress, clock::wall()));
        }
        thread::sleep(DRAW);
    }
    if is_terminal {
        draw("");
    }
}

/// One line: a bar, rows, and what is waited for.
fn line(sent: &[Sent], progress: &[Progress], now: Stamp) -> String {
    let all: u64 = sent.iter().map(|one| one.rows).sum();
    let done: u64 = progress.iter().map(|progress| progress.run.rows_acked + progress.run.rows_lost).sum();
    let filled = if all == 0 { 0 } else { (done.min(all) as usize * BAR) / all as usize };
    let bar: String = (0..BAR).map(|cell| if cell < filled { '#' } else { '.' }).collect();
    let runs = if sent.len() == 1 { sent[0].run.clone() } else { format!("{} runs", sent.len()) };
    let trouble = progress.iter().find_map(|progress| {
        let wait = human(progress.run.retry_at?.since(now));
        Some(format!("  again in {wait}: {}", progress.run.last_error.as_deref()?))
    });
    format!("{runs}  [{bar}]  {done} of {all} rows{}", trouble.unwrap_or_default())
}

fn draw(text: &str) {
    let width = crossterm::terminal::size().map_or(80, |(columns, _)| usize::from(columns)).saturating_sub(1);
    let shown: String = text.chars().take(width).collect();
    let mut out = std::io::stderr().lock();
    // Nobody may look any more; the sending goes on.
    let _ = write!(out, "\r\x1b[K{shown}").and_then(|()| out.flush());
}

/// Says what became of a run; false when something is left.
fn tell(one: &Sent) -> bool {
    let Progress { run, .. } = one.upload.progress();
    let rows = |n: u64| if n == 1 { "1 row".to_owned() } else { format!("{n} rows") };
    let new = run.rows_acked.saturating_sub(one.before);
    let left = one.rows.saturating_sub(run.rows_acked + run.rows_lost);
    let link = run.link.as_deref().map(|link| format!("  {link}")).unwrap_or_default();
    let is_whole = left == 0 && matches!(run.state, RunState::Finished | RunState::Sending);
    let said = match run.state {
        RunState::Waiting if run.last_error.is_none() && one.rows == 0 => "holds no run yet".to_owned(),
        _ if !is_whole => {
            let why = run.last_error.as_deref().unwrap_or("W&B did not answer");
            format!("{} sent, {} left: {why}", rows(new), rows(left))
        }
        _ if new == 0 => format!("nothing was left to send ({})", rows(run.rows_acked)),
        _ => format!("{} sent", rows(new)),
    };
    out::note(format_args!("{}: {said}{link}", one.run));
    if is_whole && run.state == RunState::Sending {
        out::note(format_args!("{}: its file has no end; W&B will show the run as crashed", one.run));
    }
    if run.rows_lost > 0 {
        out::note(format_args!("{}: {} too long or unreadable", one.run, rows(run.rows_lost)));
    }
    if !run.not_forwarded.is_empty() {
        out::note(format_args!("{}: not sent: {}", one.run, run.not_forwarded.join(", ")));
    }
    is_whole || one.rows == 0 && run.last_error.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_logged_and_is_not_forwarded_is_told_and_nothing_else() {
        let run = |what: &[&str]| RunProgress {
            not_forwarded: what.iter().map(|what| (*what).to_owned()).collect(),
            ..RunProgress::default()
        };
        let runs = BTreeMap::from([
            ("one".to_owned(), run(&["1 artifact", "2 media files"])),
            ("two".to_owned(), run(&["system metrics: no rank of this node logs"])),
            ("three".to_owned(), run(&[])),
        ]);
        assert_eq!(not_forwarded(runs), [("one".to_owned(), "1 artifact, 2 media files".to_owned())]);
    }
}
