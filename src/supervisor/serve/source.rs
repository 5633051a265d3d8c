//! What the pages are made of: the state, asked for as a viewer asks, and the journal.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{
    domain::{exposition::Own, id::ProcId, state::State},
    error::Result,
    probe::proc,
    wire::{
        link::Link,
        message::{PROTOCOL, ToSupervisor, ToViewer},
    },
};

/// How old an answer may be: whatever is asked how often, the supervisor is asked twice a second at most.
const FRESH: Duration = Duration::from_millis(500);
/// How long the supervisor may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of events in one answer.
const MOST: usize = 4 << 20;

/// Makes a link to the job.
pub type Connector = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Link>> + Send>> + Send + Sync>;

/// Whose facts are served.
pub struct About {
    /// Reaches the job.
    pub connect: Connector,
    /// Whether the link is kept: one that begins with a search through all processes is.
    pub keeps_link: bool,
    /// The job's journal, if it has one.
    pub journal: Option<PathBuf>,
    /// Processes of elastictop, each with what it is.
    pub own: Vec<(&'static str, ProcId)>,
}

impl std::fmt::Debug for About {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("About")
            .field("journal", &self.journal)
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

/// Answers what pages ask for.
#[derive(Debug)]
pub(super) struct Source {
    about: About,
    /// One question at a time; who comes meanwhile gets the same answer.
    known: Mutex<Known>,
    /// Where the journal was read up to last: a reader that goes on from there need not begin anew.
    place: std::sync::Mutex<Place>,
}

#[derive(Debug, Default)]
struct Known {
    answer: Option<(Instant, Arc<State>)>,
    link: Option<Link>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    seq: u64,
    offset: u64,
}

impl Source {
    pub(super) fn new(about: About) -> Source {
        Source { about, known: Mutex::default(), place: std::sync::Mutex::default() }
    }

    /// The state of the job, not older than [`FRESH`]. The error is a sentence.
    pub(super) async fn state(&self) -> Result<Arc<State>, String> {
        let mut known = self.known.lock().await;
        if let Some((at, state)) = &known.answer
            && (at.elapsed() < FRESH || state.state.is_over())
        {
            return Ok(state.clone());
        }
        let link = known.link.take();
        let (state, link) = timeout(PATIENCE, self.ask(link))
            .await
            .map_err(|_| format!("the supervisor does not answer within {} s", PATIENCE.as_secs()))??;
        let state = Arc::new(state);
        known.answer = Some((Instant::now(), state.clone()));
        known.link = link.filter(|_| self.about.keeps_link);
        Ok(state)
    }

    async fn ask(&self, link: Option<Link>) -> Result<(State, Option<Link>), String> {
        if let Some(mut link) = link
            && let Some(state) = ask(&mut link).await?
        {
            return Ok((state, Some(link)));
        }
        let mut link = (self.about.connect)().await.map_err(|error| error.text)?;
        match ask(&mut link).await? {
            Some(state) => Ok((state, Some(link))),
            None => Err("the supervisor left without an answer".into()),
        }
    }

    /// What elastictop itself uses. A process that is gone is left out.
    pub(super) fn own(&self) -> Vec<Own> {
        let look = |proc: ProcId| proc::Watch::open(Path::new(proc::ROOT), proc).ok()?.sample().ok();
        let figures = |(process, proc): &(&'static str, ProcId)| {
            let look = look(*proc)?;
            Some(Own { process, cpu_ns: look.cpu_ns, rss_bytes: look.rss_bytes })
        };
        self.about.own.iter().filter_map(figures).collect()
    }

    /// The lines of the journal with events after `since`, as many as fit into an answer; `None` when the job has no
    /// journal.
    pub(super) fn events(&self, since: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(path) = &self.about.journal else { return Ok(None) };
        // A reader that panicked leaves a place that is as good as any.
        let mut place = self.place.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let file = File::open(path)?;
        let known = *place;
        let from = if known.seq <= since && known.offset <= file.metadata()?.len() {
            known
        } else {
            Place::default()
        };
        let (bytes, end) = read_after(file, since, from)?;
        *place = end;
        Ok(Some(bytes))
    }
}

/// Asks once; `None` when nobody is there any more.
async fn ask(link: &mut Link) -> Result<Option<State>, String> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let hello = ToSupervisor::Hello { protocol: PROTOCOL, version, viewer: "metrics".into(), watch: false };
    if link.outgoing.send(hello).await.is_err() {
        return Ok(None);
    }
    while let Some(message) = link.incoming.recv().await {
        match message {
            ToViewer::Snapshot { state, .. } => return Ok(Some(*state)),
            ToViewer::Bye { text } => return Err(text),
            _ => {}
        }
    }
    Ok(None)
}

/// Whole lines with a number above `since`, and the place after them.
fn read_after(mut file: File, since: u64, from: Place) -> io::Result<(Vec<u8>, Place)> {
    #[derive(Deserialize)]
    struct Numbered {
        seq: u64,
    }
    file.seek(SeekFrom::Start(from.offset))?;
    let (mut reader, mut place) = (BufReader::with_capacity(64 << 10, file), from);
    let (mut bytes, mut line) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        // A record that is being written is for the next time.
        if !line.ends_with(b"\n") || (!bytes.is_empty() && bytes.len() + length > MOST) {
            return Ok((bytes, place));
        }
        if let Ok(Numbered { seq }) = serde_json::from_slice(&line) {
            place.seq = seq;
            if seq > since {
                bytes.extend_from_slice(&line);
            }
        }
        place.offset += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(journal: Option<PathBuf>) -> Source {
        let nobody = || -> Pin<Box<dyn Future<Output = Result<Link>> + Send>> {
            Box::pin(async { Err(crate::error::Error::job("nobody")) })
        };
        Source::new(About { connect: Box::new(nobody), keeps_link: false, journal, own: Vec::new() })
    }

    fn seqs(bytes: &[u8]) -> Vec<u64> {
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap())
            .collect()
    }

    #[test]
    fn events_go_on_from_any_number_whatever_was_asked_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let line = |seq: u64| format!("{{\"schema\":1,\"seq\":{seq},\"kind\":\"note\"}}\n");
        let text: String = (1..=5).map(line).collect();
        std::fs::write(&path, format!("{text}{{\"schema\":1,\"seq\":6")).unwrap();
        let source = source(Some(path.clone()));
        let after = |since| seqs(&source.events(since).unwrap().unwrap());
        assert_eq!(after(0), [1, 2, 3, 4, 5], "the torn one waits");
        assert_eq!(after(5), [0; 0]);
        std::fs::write(&path, format!("{text}{}", line(6))).unwrap();
        assert_eq!(after(5), [6]);
        assert_eq!(after(2), [3, 4, 5, 6], "back again");
        assert_eq!(after(u64::MAX), [0; 0]);
        assert_eq!(after(5), [6]);
        std::fs::write(&path, line(1)).unwrap();
        assert_eq!(after(0), [1], "a shorter file");
    }

    #[test]
    fn a_long_journal_comes_in_parts_of_bounded_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let filler = "x".repeat(100_000);
        let lines = (1..=100).map(|seq| format!("{{\"seq\":{seq},\"text\":\"{filler}\"}}\n"));
        let text = lines.collect::<Vec<_>>().concat();
        std::fs::write(&path, text).unwrap();
        let source = source(Some(path));
        let (mut since, mut parts) = (0, 0);
        loop {
            let bytes = source.events(since).unwrap().unwrap();
            assert!(bytes.len() <= MOST);
            let Some(last) = seqs(&bytes).last().copied() else { break };
            (since, parts) = (last, parts + 1);
        }
        assert_eq!((since, parts), (100, 3));
    }

    #[test]
    fn no_journal_and_no_supervisor_are_told() {
        let source = source(None);
        assert!(source.events(0).unwrap().is_none());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert_eq!(runtime.block_on(source.state()).unwrap_err(), "nobody");
    }
}
