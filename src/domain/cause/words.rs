//! The verdict in words: one sentence, the facts behind it, and what to try next.

use std::time::Duration;

use super::{
    Cause, CauseKind,
    ledger::{Blame, Finding, Ledger, SIGABRT, SIGKILL, Standing},
    rank::{Note, Rank},
    xid,
};
use crate::domain::{
    evidence::{MAX_TEXT, Mark, UNNAMED, cut},
    exit::{Exit, signal_name},
    time::human,
};

/// Most facts listed.
const MAX_EVIDENCE: usize = 8;

/// Kind, sentence without the name of the rank, hint.
type Said = (CauseKind, String, Option<&'static str>);

pub(super) fn cause(ledger: &Ledger, blame: &Blame) -> Cause {
    let mut cause = match blame {
        Blame::Rank(found) => of_rank(ledger, found),
        Blame::Stop => {
            let by = ledger.stop.as_ref().map_or("somebody", |(_, by)| by);
            let text = format!("stopped on request of {by}");
            Cause { rank: None, kind: CauseKind::Stopped, text, evidence: Vec::new(), hint: None }
        }
        Blame::Agent => of_agent(ledger),
    };
    if ledger.deadlock.is_some() {
        cause.evidence.insert(0, cause.text.clone());
        cause.text = match blame {
            Blame::Rank(found) => format!(
                "all ranks of this node were dead and the agent did not notice; {} failed first",
                found.rank.name()
            ),
            _ => "all ranks of this node were dead and the agent did not notice".into(),
        };
        cause.kind = CauseKind::ZombieDeadlock;
        cause.hint = Some(
            "ranks that die while the agent collects their results leave it waiting for ever; \
             starting a script with torchrun instead of a function avoids it"
                .into(),
        );
    }
    cause.evidence.truncate(MAX_EVIDENCE);
    cause
}

fn of_rank(ledger: &Ledger, found: &Finding) -> Cause {
    let rank = found.rank;
    let (kind, what, hint) = match found.xid {
        Some(note) => xid::say(note),
        None => {
            let (kind, what, hint) = of_words(ledger, found);
            let note = found.note.filter(|note| !found.exit_counts && note.says_where());
            let at = note.and_then(|note| note.proof.at.as_ref());
            let at = at.map(|at| format!(", at {at}")).unwrap_or_default();
            (kind, what + &at, hint.map(str::to_owned))
        }
    };
    let text = if found.standing == Standing::Stale {
        format!("{} {what}, and went on living", rank.name())
    } else {
        format!("{} {what}", rank.name())
    };
    Cause { rank: rank.global, kind, text, evidence: evidence(ledger, found), hint }
}

fn of_words(ledger: &Ledger, found: &Finding) -> Said {
    let rank = found.rank;
    match (found.standing, found.note) {
        (Standing::Early, _) => left_early(ledger),
        (Standing::Terminated, _) => (
            CauseKind::Signal,
            "was ended by SIGTERM from outside: neither the agent nor elastictop sent it".into(),
            Some(
                "look for who may end processes here: a batch system at its time limit, a container's stop, a user",
            ),
        ),
        (Standing::Unseen, _) => {
            (CauseKind::Unknown, "ended while nobody looked; its exit code is not known".into(), None)
        }
        (_, Some(note)) if !found.exit_counts => by_mark(ledger, rank, note),
        _ => by_exit(ledger, rank),
    }
}

fn by_mark(ledger: &Ledger, rank: &Rank, note: &Note) -> Said {
    let mark = note.mark();
    let limit = |ms: Option<u64>| {
        ms.map_or_else(String::new, |ms| format!(" of {}", human(Duration::from_millis(ms))))
    };
    match mark {
        Mark::NcclTimeout { op, seq, timeout_ms } => {
            let op = op.as_deref().unwrap_or("a collective");
            let seq = seq.map_or_else(String::new, |seq| format!(" number {seq}"));
            (
                CauseKind::CollectiveTimeout,
                format!("waited in {op}{seq} longer than NCCL's time limit{}", limit(*timeout_ms)),
                Some(
                    "a rank that did not report a timeout did not join the collective: look at its last lines and stack; \
                     if the step is only slow (checkpoint, evaluation, uneven data), raise --nccl-collective-timeout",
                ),
            )
        }
        Mark::GlooTimeout { timeout_ms } => (
            CauseKind::CollectiveTimeout,
            format!("waited in a gloo collective longer than its time limit{}", limit(*timeout_ms)),
            Some(
                "another rank did not join the collective: look for one that is stopped, stuck or in another branch of the \
                 code; a longer limit goes into init_process_group(timeout=…)",
            ),
        ),
        Mark::WatchdogStuck { seconds } => (
            CauseKind::CollectiveTimeout,
            format!(
                "was ended by NCCL's heartbeat monitor: its watchdog made no progress{}",
                seconds.map_or_else(String::new, |seconds| format!(
                    " for {}",
                    human(Duration::from_secs(seconds))
                ))
            ),
            Some(
                "the watchdog hangs in a CUDA or NCCL call, or waits for Python's lock: look at the rank's stack; \
                 --nccl-heartbeat-timeout sets the limit",
            ),
        ),
        Mark::PeerGone { .. } | Mark::PeerTimeout => (
            CauseKind::Unknown,
            "lost the connection to a peer, and no rank of this node failed before it".into(),
            Some(
                "the cause is on another node: look at the ranks there (where nodes may join: also one that joined)",
            ),
        ),
        Mark::Rendezvous => (
            CauseKind::Rendezvous,
            "could not connect to its peers or their store".into(),
            Some(
                "check MASTER_ADDR and the firewall; after a restart this is also what an old store does: set \
                 TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, as elastictop does for jobs that it starts",
            ),
        ),
        Mark::PortInUse { port } => (
            CauseKind::Rendezvous,
            format!(
                "could not listen on a port that is taken{}",
                port.map_or_else(String::new, |port| format!(": {port}"))
            ),
            Some(
                "another job, or ranks left over from one, hold the port: end them, or choose another --master-port",
            ),
        ),
        Mark::NcclError => (
            CauseKind::Exception,
            "failed in NCCL".into(),
            Some("run again with NCCL_DEBUG=WARN: NCCL then says which call failed and why"),
        ),
        Mark::OomGpu { size } => (
            CauseKind::OomGpu,
            size.as_ref().map_or_else(
                || "ran out of GPU memory".into(),
                |size| format!("ran out of GPU memory: it tried to allocate {size}"),
            ),
            Some(
                "make the batch or the sequence smaller, checkpoint activations, or shard the model; if much is reserved \
                 but not allocated, set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True; see that no other process holds \
                 memory of this GPU",
            ),
        ),
        Mark::CudaError { what } => (
            CauseKind::CudaError,
            format!("failed with a CUDA error: {what}"),
            Some(
                "CUDA reports errors late: run again with CUDA_LAUNCH_BLOCKING=1 to see the call; an assert or illegal \
                 access often is an index out of range; on one GPU only, look for Xid messages in the kernel's log",
            ),
        ),
        Mark::HostMemory => (CauseKind::OomHost, "could not get host memory".into(), Some(OOM_HINT)),
        Mark::LoaderDied { signal } => {
            let is_oom = signal.as_deref() == Some("Killed") && ledger.oom_rose(rank).is_some();
            let how = signal.as_ref().map_or_else(String::new, |signal| format!(" by a signal: {signal}"));
            (
                if is_oom { CauseKind::OomHost } else { CauseKind::Exception },
                format!("lost a data-loader worker that was ended{how}"),
                Some(
                    "Killed means host memory, Bus error means that /dev/shm is full: use fewer workers or a smaller \
                     prefetch_factor; with num_workers=0 the error shows where it happens",
                ),
            )
        }
        Mark::ShmFull => (
            CauseKind::Exception,
            "ran out of shared memory (/dev/shm)".into(),
            Some(
                "make /dev/shm larger (docker run --shm-size, an emptyDir of medium Memory), or use fewer data-loader workers",
            ),
        ),
        Mark::DiskFull => (
            CauseKind::Exception,
            "found no space left on a disk".into(),
            Some("see df -h and df -i for the checkpoint, cache and /tmp folders; a quota says the same"),
        ),
        Mark::ModuleMissing { module } => (
            CauseKind::Exception,
            format!("found no Python module {module}"),
            Some("install it into the Python that runs the ranks, or choose another Python with --python"),
        ),
        Mark::Mismatch { .. } => (
            CauseKind::Exception,
            "called another collective than its peers".into(),
            Some("ranks took different branches: compare what they do before this call"),
        ),
        Mark::Exception { class, message, .. } => {
            let raised = note.proof.raised().filter(|_| class != UNNAMED);
            let sentence = raised.unwrap_or_else(|| format!("failed: {message}"));
            (CauseKind::Exception, sentence, exception_hint(class, message))
        }
        Mark::Fatal { what } => (
            CauseKind::Signal,
            format!("crashed: {what}"),
            Some("the lines before it in the rank's log show the Python stack of every thread"),
        ),
        Mark::Terminate { class } => (
            CauseKind::Signal,
            class.as_ref().map_or_else(
                || "was aborted by a C++ exception that nobody caught".into(),
                |class| format!("was aborted by a C++ exception that nobody caught: {class}"),
            ),
            Some("the what() line after it in the rank's log says more"),
        ),
        Mark::Panic => (CauseKind::ExitCode, "panicked".into(), None),
        Mark::GilHeld | Mark::TakenDown => (CauseKind::Unknown, "was ended by NCCL's watchdog".into(), None),
    }
}

const OOM_HINT: &str = "host memory ran out: fewer data-loader workers, a smaller prefetch_factor, no second copy of the \
                        data set per rank, or a higher memory limit for the job";

fn exception_hint(class: &str, message: &str) -> Option<&'static str> {
    let last = class.rsplit('.').next().unwrap_or(class);
    match last {
        _ if message.contains("Too many open files") => {
            Some("raise ulimit -n, or call torch.multiprocessing.set_sharing_strategy(\"file_system\")")
        }
        "KeyboardInterrupt" => Some("somebody pressed Ctrl-C or sent SIGINT"),
        "FileNotFoundError" => {
            Some("check the path, and that this node sees the same file system as the others")
        }
        "UnpicklingError" => Some("the checkpoint may be cut off: try the one before it"),
        _ => None,
    }
}

/// What is said where nothing that a rank wrote proves anything.
const WITHOUT_A_WORD: &str = " and did not say why";

impl Cause {
    /// With the last line that its rank wrote, where nothing is known to be the reason: `sys.exit("…")` leaves no more.
    #[must_use]
    pub fn quoting(mut self, last_line: Option<&str>) -> Cause {
        // A row of metrics is no reason.
        let line = last_line.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('{'));
        if let (Some(line), Some(told)) = (line, self.text.strip_suffix(WITHOUT_A_WORD)) {
            self.text = format!("{told}; its last line: {}", cut(line, MAX_TEXT));
        }
        self
    }
}

fn by_exit(ledger: &Ledger, rank: &Rank) -> Said {
    let Some(exit) = rank.exit else {
        return (CauseKind::Unknown, "ended and nobody saw how".into(), None);
    };
    let behind = if matches!(exit, Exit::Code(_)) { format!(" ({exit})") } else { String::new() };
    if let Some((_, signal, by)) = rank.sent_by_us() {
        let name = name_of(*signal);
        return (
            CauseKind::Signal,
            format!("was ended by {name}, sent by {by} from elastictop{behind}"),
            None,
        );
    }
    let Some(signal) = exit.signal_behind() else {
        let said = format!("ended with {exit}{WITHOUT_A_WORD}");
        return (
            CauseKind::ExitCode,
            said,
            Some(
                "its last lines may tell; put @record on the main function to get the traceback into error.json",
            ),
        );
    };
    let (kind, what, hint): (_, String, _) = match signal {
        SIGKILL => return by_kill(ledger, rank, &behind),
        SIGABRT => (
            CauseKind::Signal,
            "aborted (SIGABRT)".into(),
            Some(
                "an assertion in C++, a CUDA error or NCCL's watchdog ends a process like this: its standard error \
                 should say which",
            ),
        ),
        11 => (
            CauseKind::Signal,
            "crashed with a segmentation fault (SIGSEGV)".into(),
            Some(
                "set PYTHONFAULTHANDLER=1 to get the Python stack; a C++ extension built for another torch or CUDA is the \
                 usual reason",
            ),
        ),
        7 => (
            CauseKind::Signal,
            "crashed with a bus error (SIGBUS)".into(),
            Some(
                "usually /dev/shm is full, or a mapped file was cut: see df -h /dev/shm, make it larger (--shm-size)",
            ),
        ),
        4 => (
            CauseKind::Signal,
            "crashed on an illegal instruction (SIGILL)".into(),
            Some("a library was built for another CPU than this node's"),
        ),
        _ => (CauseKind::Signal, format!("was ended by {} from outside", name_of(signal)), None),
    };
    (kind, what + &behind, hint)
}

fn by_kill(ledger: &Ledger, rank: &Rank, behind: &str) -> Said {
    if ledger.oom_rose(rank).is_some() {
        let what = format!("was killed by the kernel's out-of-memory killer{behind}");
        return (CauseKind::OomHost, what, Some(OOM_HINT));
    }
    let (counter, hint) = if ledger.oom_looked(rank) {
        (
            "the cgroup's oom_kill counter did not move",
            "somebody or something outside killed it: a user, a batch system, or the out-of-memory killer of another \
             cgroup, which the kernel's log would show",
        )
    } else {
        (
            "the cgroup's oom_kill counter cannot be read",
            "if nobody killed it, the kernel's out-of-memory killer did: its log (dmesg) would say so",
        )
    };
    (
        CauseKind::Signal,
        format!(
            "was killed by SIGKILL from outside{behind}: not by the agent, not by elastictop, and {counter}"
        ),
        Some(hint),
    )
}

fn left_early(ledger: &Ledger) -> Said {
    let others = ledger.ranks.iter().filter(|other| !other.exit.is_some_and(Exit::is_success)).count();
    (
        CauseKind::LeftEarly,
        format!(
            "left early with exit code 0 while {others} other{} went on",
            if others == 1 { "" } else { "s" }
        ),
        Some(
            "ranks must make the same number of steps: uneven data, an early return or sys.exit on one rank; \
             Join() or drop_last helps against uneven data",
        ),
    )
}

fn of_agent(ledger: &Ledger) -> Cause {
    let exit = ledger.agent_exit.and_then(|(_, exit)| exit);
    let mut evidence: Vec<_> = exit.map(|exit| format!("agent: {exit}")).into_iter().collect();
    let telling = ledger
        .agent_marks
        .iter()
        .filter(|note| note.mark().weight() == crate::domain::evidence::Weight::Primary)
        .reduce(|best, note| if note.mark().detail() > best.mark().detail() { note } else { best });
    evidence.extend(telling.map(|note| format!("the agent wrote: {}", note.line)));
    let nobody = Rank::default();
    let (kind, text, hint) = if let Some((_, signal)) = ledger.death_signal {
        (
            CauseKind::Agent,
            format!("the elastic agent got {} from outside and ended all ranks", name_of(signal)),
            Some(
                "look for who may end processes here: a batch system at its time limit, a container's stop, a user",
            ),
        )
    } else if let Some(Exit::Signal(signal)) = exit {
        (
            CauseKind::Agent,
            format!("the elastic agent was ended by {}", name_of(signal)),
            (signal == SIGKILL)
                .then_some("if nobody killed it, the kernel's log (dmesg) may name its out-of-memory killer"),
        )
    } else if let Some(note) = telling {
        let (kind, what, hint) = by_mark(ledger, &nobody, note);
        let kind = if kind == CauseKind::Rendezvous { kind } else { CauseKind::Agent };
        (kind, format!("the elastic agent {what}"), hint)
    } else if let Some(exit) = exit.filter(|exit| !exit.is_success()) {
        (
            CauseKind::Agent,
            format!("the elastic agent ended with {exit}, and no rank of this node had failed before"),
            Some("its own last lines are in the agent's log"),
        )
    } else {
        (CauseKind::Agent, "the elastic agent ended and nobody saw how".into(), None)
    };
    Cause { rank: None, kind, text, evidence, hint: hint.map(str::to_owned) }
}

fn evidence(ledger: &Ledger, found: &Finding) -> Vec<String> {
    let rank = found.rank;
    let name = rank.name();
    let mut facts = xid::facts(ledger, found);
    if let Some(note) = found.note {
        let source = if note.from_file { "error.json says" } else { "wrote" };
        facts.push(format!("{name} {source}: {}", note.line));
    }
    if let Some(exit) = rank.exit {
        facts.push(format!("{name}: {exit}"));
    } else if rank.exited.is_none() {
        facts.push(format!("{name} was still alive"));
    }
    if let Some((before, after)) = ledger.oom_rose(rank) {
        facts.push(format!("oom_kill in the cgroup's memory.events rose from {before} to {after}"));
    }
    let others = || ledger.ranks.iter().filter(|other| other.local != rank.local);
    let ended = others().filter(|other| other.was_ended_by_agent()).map(Rank::number);
    if let Some(list) = ranges(ended) {
        facts.push(format!("the agent ended {list} afterwards"));
    }
    let same = others().filter(|other| {
        found.note.is_some_and(|note| other.notes.iter().any(|known| known.mark() == note.mark()))
    });
    if let Some(list) = ranges(same.map(Rank::number)) {
        facts.push(format!("{list} reported the same"));
    }
    for other in others() {
        if facts.len() + 1 >= MAX_EVIDENCE {
            break;
        }
        let Some(note) =
            other.notes.iter().find(|note| found.note.is_none_or(|mine| mine.mark() != note.mark()))
        else {
            continue;
        };
        let when = if note.at >= found.at {
            format!("{} later", human(note.at.since(found.at)))
        } else {
            format!("{} before", human(found.at.since(note.at)))
        };
        facts.push(format!("{}, {when}: {}", other.name(), note.line));
    }
    let guess = ledger.agents_guess.and_then(|pid| ledger.ranks.iter().find(|rank| rank.pid == Some(pid)));
    if let Some(guess) = guess.filter(|guess| guess.local != rank.local) {
        facts.push(format!("torchrun names {} instead", guess.name()));
    }
    facts
}

impl Rank {
    fn number(&self) -> u32 {
        self.global.unwrap_or(self.local)
    }
}

/// `rank 3`, `ranks 0-2, 5`.
fn ranges(numbers: impl Iterator<Item = u32>) -> Option<String> {
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for number in &numbers {
        match parts.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(*number) => *end = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let parts: Vec<_> = parts
        .into_iter()
        .map(|(start, end)| if start == end { start.to_string() } else { format!("{start}-{end}") })
        .collect();
    match numbers.len() {
        0 => None,
        1 => Some(format!("rank {}", parts[0])),
        _ => Some(format!("ranks {}", parts.join(", "))),
    }
}

fn name_of(signal: i32) -> String {
    signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}
