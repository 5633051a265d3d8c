//! Answers about one rank. Files of `/proc` may block while a process is in trouble, so they are read on threads.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use tokio::task::JoinSet;

use super::{
    folder::JobDir,
    hub::{Hub, ViewerId},
    logbook::Logbook,
    reading,
};
use crate::{
    domain::{
        closeup::{
            CloseUp, LAST_LINES, LastWords, Process, Question,
            environment::{Environment, Raw},
            history::Histories,
        },
        evidence::ErrorFile,
        id::ProcId,
        log::{Anchor, LogFilter, LogQuery, MAX_PAGE, Stream},
        redact::{self, Marks, Secrets},
        state::{Rank, State},
    },
    probe::{
        cgroup::MemoryGroup,
        proc::{self, ROOT},
    },
    wire::message::{ToSupervisor, ToViewer},
};

/// Most answers that are being looked up at a time.
const MOST: usize = 16;
/// Longest text of an `error.json` that is told, in bytes.
const MAX_ERROR_TEXT: usize = 64 << 10;

/// What is known of a job when a question comes.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The job.
    pub state: &'a State,
    /// What its ranks wrote.
    pub logbook: &'a Logbook,
    /// Their figures.
    pub histories: &'a Histories,
    /// Where its files are; `None` for a job of others.
    pub dir: Option<&'a JobDir>,
}

/// Answers that are being looked up.
#[derive(Debug, Default)]
pub struct CloseUps {
    tasks: JoinSet<(ViewerId, ToViewer)>,
}

impl CloseUps {
    /// Answers a question, at once or when a thread has the answer. Other messages are left alone.
    pub fn hear(&mut self, hub: &mut Hub, from: ViewerId, message: &ToSupervisor, known: Known<'_>) {
        let ToSupervisor::LookAt { id, local_rank, question } = *message else { return };
        let mut answer = CloseUp { local_rank, ..CloseUp::default() };
        let refuse = |mut answer: CloseUp, why: &str| {
            answer.why_not = Some(why.to_owned());
            ToViewer::CloseUp { id, close_up: Box::new(answer) }
        };
        let Some(rank) = known.state.rank(local_rank) else {
            return hub.send(from, &refuse(answer, "there is no such rank on this node"));
        };
        answer.proc = Some(rank.proc);
        if question == Question::History {
            answer.history = Some(Box::new(known.histories.of(local_rank).cloned().unwrap_or_default()));
            return hub.send(from, &ToViewer::CloseUp { id, close_up: Box::new(answer) });
        }
        if self.tasks.len() >= MOST {
            return hub.send(from, &refuse(answer, "too much is asked at the same time: try again"));
        }
        let look: Box<dyn FnOnce(&mut CloseUp) + Send> = match question {
            Question::Process => process_of(rank),
            Question::Environment => environment_of(rank, known.state),
            Question::LastWords => last_words_of(rank, known),
            Question::History | Question::Unknown => {
                return hub.send(from, &refuse(answer, "this supervisor is older than the viewer"));
            }
        };
        self.tasks.spawn_blocking(move || {
            look(&mut answer);
            (from, ToViewer::CloseUp { id, close_up: Box::new(answer) })
        });
    }

    /// The next answer that a thread has found. Never ends while there is none.
    pub async fn next(&mut self) -> (ViewerId, ToViewer) {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(found)) => return found,
                // A thread that panicked has no answer.
                Some(Err(_)) => {}
                None => std::future::pending::<()>().await,
            }
        }
    }
}

type Look = Box<dyn FnOnce(&mut CloseUp) + Send>;

fn is_there(proc: ProcId) -> bool {
    proc::identify(Path::new(ROOT), proc.pid) == Some(proc)
}

const GONE: &str = "its process is gone";

fn process_of(rank: &Rank) -> Look {
    let proc = rank.proc;
    Box::new(move |answer| {
        let root = Path::new(ROOT);
        let facts = proc::read_facts(root, proc.pid).filter(|_| is_there(proc));
        let Some(facts) = facts else {
            answer.why_not = Some(GONE.into());
            return;
        };
        let group = MemoryGroup::of(root, proc.pid);
        answer.process = Some(Process {
            parent: Some(facts.ppid),
            command: redact::command(&proc::read_cmdline(root, proc.pid)),
            cwd: proc::cwd(root, proc.pid).map(|path| path.display().to_string()),
            cgroup: crate::probe::cgroup::path_of(root, proc.pid),
            group_bytes: group.as_ref().and_then(MemoryGroup::used_bytes),
            group_limit_bytes: group.as_ref().and_then(MemoryGroup::limit_bytes),
            oom_kills: group.as_ref().and_then(MemoryGroup::oom_kills),
        });
    })
}

fn environment_of(rank: &Rank, state: &State) -> Look {
    let (proc, own_place) = (rank.proc, rank.local_rank);
    let peers: Vec<(u32, ProcId)> = state
        .ranks
        .iter()
        .filter(|peer| peer.local_rank != own_place && peer.state.is_alive())
        .map(|peer| (peer.number(), peer.proc))
        .collect();
    Box::new(move |answer| {
        let read = |proc: ProcId| -> Option<Raw> {
            proc::whole_env(Path::new(ROOT), proc.pid).filter(|raw| !raw.is_empty() && is_there(proc))
        };
        let Some(own) = read(proc) else {
            let why = if is_there(proc) { "it may not be read: the process is another user's" } else { GONE };
            answer.why_not = Some(format!("{why}; environments are not kept, as they may hold secrets"));
            return;
        };
        let (mut others, mut unread) = (Vec::new(), Vec::new());
        for (number, proc) in peers {
            match read(proc) {
                Some(raw) => others.push((number, raw)),
                None => unread.push(number),
            }
        }
        answer.environment = Some(Environment::compare(&own, &others, unread));
    })
}

fn last_words_of(rank: &Rank, known: Known<'_>) -> Look {
    let filter = LogFilter { local_rank: Some(rank.local_rank), attempt: Some(rank.attempt) };
    let page = known.logbook.answer(&LogQuery::Page { filter, anchor: Anchor::Tail, max: MAX_PAGE });
    let written = page.lines.into_iter().filter(|line| line.stream == Stream::Err).map(|line| line.text);
    let mut stderr: Vec<String> = written.collect();
    stderr.drain(..stderr.len().saturating_sub(LAST_LINES));
    let told = known.dir.and_then(|dir| reading::error_file_of(dir, rank.proc));
    let marks = known.dir.and_then(|dir| dir.read_secret_marks().ok()).unwrap_or_default();
    let (proc, agent) = (rank.proc, known.state.agent.as_ref().map(|agent| agent.proc.pid));
    Box::new(move |answer| {
        let file = told.or_else(|| seen_error_file(proc, agent?));
        let text = file.as_ref().and_then(|path| error_text(path, marks));
        let file = file.map(|path| path.display().to_string());
        answer.last_words = Some(LastWords { file, text, stderr });
    })
}

/// Where a living rank would leave its `error.json`, by its environment.
fn seen_error_file(proc: ProcId, agent: i32) -> Option<PathBuf> {
    let root = Path::new(ROOT);
    let env = proc::read_env(root, proc.pid).filter(|_| is_there(proc))?;
    proc::error_file(&env, &proc::cwd(root, agent)?)
}

/// What an `error.json` says, without secrets.
fn error_text(path: &Path, marks: Marks) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_ERROR_TEXT as u64).read_to_end(&mut bytes).ok()?;
    let whole = match ErrorFile::parse(&bytes) {
        Some(ErrorFile { message, py_callstack: Some(stack), .. }) => format!("{message}\n{stack}"),
        Some(ErrorFile { message, .. }) => message,
        None => String::from_utf8_lossy(&bytes).into_owned(),
    };
    let env: Raw = std::env::vars().collect();
    let secrets = Secrets::new(env.iter().map(|(name, value)| (name.as_str(), value.as_str())), &[]);
    Some(redact::unknown(&secrets.and(marks).hide(whole)))
}
