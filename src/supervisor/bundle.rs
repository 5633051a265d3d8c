//! One file with all that is known about a job, for whoever has to find out what went wrong. Secrets are taken out.
//!
//! Secrets are known from the environments and command lines of the job's living processes and of this one; what else
//! looks like one goes too, as the environment of a job that is over is gone.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};

use super::{
    folder::{JobDir, Manifest},
    forensic, journal,
    place::Roots,
    preflight::ask_python,
    recording::{Entry, Reader},
};
use crate::{
    domain::{
        event::Fact,
        flight::{
            Dump,
            analyse::analyse,
            pickle::{self, is_pickle},
            tell,
        },
        redact::{self, Secrets},
        report::Status,
        state::{Attempt, State},
        telling,
        time::Stamp,
    },
    probe::{
        flight::{MAX_DUMP, read_file},
        proc::{self, ROOT},
        ras,
        stack::Wanted,
    },
};

/// Most bytes of the end of a log that are taken.
const LOG_TAIL: u64 = 256 << 10;
/// Most bytes of the journal, of all its files together: what happened in weeks is less.
const JOURNAL_MOST: usize = 32 << 20;
/// Most ranks' logs, the newest first.
const MAX_LOGS: usize = 512;
/// How long the job's Python may take to tell its version.
const PYTHON_WITHIN: Duration = Duration::from_secs(10);

/// One file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Path in the bundle.
    pub name: String,
    /// What it is, in words.
    pub what: String,
    /// The text, without secrets.
    pub text: String,
}

/// Takes out what must not leave the machine, and keeps what may.
struct Gathering {
    secrets: Secrets,
    parts: Vec<Part>,
}

impl Gathering {
    fn add(&mut self, name: impl Into<String>, what: impl Into<String>, text: String) {
        // Known values first: what looks like a secret may cut one in two.
        let text = redact::unknown(&self.secrets.hide(text));
        self.parts.push(Part { name: name.into(), what: what.into(), text });
    }
}

/// All parts of a job. What cannot be read is left out; the part `README.txt` lists what is there.
pub fn gather(roots: &Roots, manifest: &Manifest, state: &State, now: Stamp) -> Vec<Part> {
    let dir = roots.job(&manifest.id);
    let ranks = forensic::living(state, Some(&roots.beat(&manifest.id)), None);
    let mut into = Gathering { secrets: secrets(&dir, manifest, &ranks), parts: Vec::new() };
    status(state, now, &mut into);
    events(&dir, &mut into);
    stacks_and_flight(&dir, &ranks, state, now, &mut into);
    nccl_ras(state, &mut into);
    logs(&dir, &mut into);
    let text = versions(&ranks);
    into.add("versions.txt", "elastictop, Python, torch, kernel, GPU driver", text);
    for rank in &ranks {
        environment(rank, &mut into);
    }
    if let Ok(text) = fs::read_to_string(dir.manifest_path()) {
        into.add("job.json", "what elastictop keeps about the job", text);
    }
    let mut parts = into.parts;
    parts.insert(0, contents(manifest, now, &parts));
    parts
}

/// Writes the parts to a gzipped tar file that only its owner can read, all or nothing.
///
/// # Errors
/// Those of writing.
pub fn write(path: &Path, job: &str, parts: &[Part]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
    let mut tar = tar::Builder::new(GzEncoder::new(&mut file, Compression::default()));
    for part in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(part.text.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, Path::new(job).join(&part.name), part.text.as_bytes())?;
    }
    tar.into_inner()?.finish()?;
    file.persist(path)?;
    Ok(())
}

/// The secrets of the job's processes, dead ones too, and of whoever makes the bundle.
pub(super) fn secrets(dir: &JobDir, manifest: &Manifest, ranks: &[Wanted]) -> Secrets {
    let pids = ranks.iter().map(|rank| rank.proc.pid).chain(manifest.agent.map(|agent| agent.pid));
    let (mut env, mut words): (Vec<(String, String)>, Vec<String>) = (std::env::vars().collect(), Vec::new());
    for pid in pids {
        env.extend(proc::whole_env(Path::new(ROOT), pid).unwrap_or_default());
        words.extend(proc::read_cmdline(Path::new(ROOT), pid));
    }
    Secrets::new(env.iter().map(|(name, value)| (name.as_str(), value.as_str())), &words)
        .and(dir.read_secret_marks().unwrap_or_default())
}

/// Whether it is known what must be taken out of a job's files before they leave the machine.
///
/// # Errors
/// It is not.
pub fn check_secrets(dir: &JobDir) -> crate::error::Result<()> {
    dir.read_secret_marks().map(drop).map_err(|error| {
        error.hint("elastictop export --redact leaves out all words and lines, and needs not know")
    })
}

fn status(state: &State, now: Stamp, into: &mut Gathering) {
    if let Ok(text) = serde_json::to_string_pretty(&Status::new(state, now)) {
        into.add("status.json", "state, ranks and alerts, as elastictop status --json", text);
    }
    let mut lines = Vec::new();
    for alert in &state.alerts {
        lines.push(format!("! {} (since {})", alert.text, alert.since));
        lines.extend(alert.evidence.iter().map(|line| format!("    {line}")));
    }
    if let Some(cause) = &state.cause {
        lines.push(format!("cause: {}", cause.text));
        lines.extend(cause.evidence.iter().map(|line| format!("    {line}")));
        lines.extend(cause.hint.iter().map(|hint| format!("    hint: {hint}")));
    }
    if let Some(hang) = state.attempts.back().and_then(Attempt::ended_in) {
        lines.push(format!("the last group ended in a hang: {} (since {})", hang.text, hang.since));
        lines.extend(hang.evidence.iter().map(|line| format!("    {line}")));
    }
    if lines.is_empty() {
        lines.push("nothing is known to be wrong".into());
    }
    into.add("verdict.txt", "what is wrong, as elastictop sees it", lines.join("\n") + "\n");
}

fn events(dir: &JobDir, into: &mut Gathering) {
    let mut state = State::default();
    let mut told = String::new();
    // What was lost of the journal is missing in both files alike.
    let (mut lines, mut cut) = (VecDeque::new(), 0);
    let mut kept = 0;
    for file in journal::files(&dir.journal()) {
        let Ok(mut reader) = Reader::open(&file) else { continue };
        let mut is_first = true;
        while let Some(entry) = reader.read() {
            let Entry::Event(event) = entry else { continue };
            state.apply(&event);
            let repeats = matches!(event.fact, Fact::Snapshot { .. });
            // Each file but the oldest begins with what the one before it led to.
            let known = std::mem::take(&mut is_first) && repeats && !lines.is_empty();
            if let Some(sentence) = telling::event(&state, &event).filter(|_| !repeats) {
                told += &format!("{}  {sentence}\n", event.at);
            }
            if known {
                continue;
            }
            let line = journal::line(&event);
            kept += line.len() + 1;
            lines.push_back(line);
            while kept > JOURNAL_MOST {
                let Some(oldest) = lines.pop_front() else { break };
                kept -= oldest.len() + 1;
                cut += 1;
            }
        }
    }
    into.add("events.txt", "what happened, in sentences", told);
    let mut text = String::with_capacity(kept);
    for line in lines {
        text += &String::from_utf8_lossy(&line);
        text.push('\n');
    }
    let what = match cut {
        0 => "the same, one JSON object per line".to_owned(),
        cut => format!("the same, one JSON object per line; the first {cut} are left out"),
    };
    into.add("journal.jsonl", what, text);
}

fn stacks_and_flight(dir: &JobDir, ranks: &[Wanted], state: &State, now: Stamp, into: &mut Gathering) {
    let mut dumps: Vec<Dump> = Vec::new();
    let mut unreadable = Vec::new();
    if !ranks.is_empty()
        && let Ok(folder) = tempfile::tempdir()
        && let Ok((files, silent)) = forensic::take_flight(folder.path(), ranks, state.world_size, now)
    {
        unreadable = silent;
        add_flight("flight-now", "the flight recorders, read just now", &files, &mut dumps, into);
        let stacks = forensic::stacks(ranks, None);
        into.add("stacks.txt", "where the ranks are in their code, read just now", stacks.text());
        if let Ok(text) = serde_json::to_string_pretty(&stacks) {
            into.add("stacks.json", "the same as JSON", text);
        }
    }
    for folder in files_in(&dir.dumps()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut of_then = Vec::new();
        let files: Vec<_> = files_in(&folder).into_iter().filter(|path| !is_named(path, "stacks")).collect();
        add_flight(&format!("dumps/{name}"), "taken when the job hung", &files, &mut of_then, into);
        for file in ["stacks.txt", "stacks.json"] {
            if let Ok(text) = fs::read_to_string(folder.join(file)) {
                into.add(format!("dumps/{name}/{file}"), "stacks, taken when the job hung", text);
            }
        }
        if dumps.is_empty() {
            dumps = of_then;
        }
    }
    for path in files_in(&dir.root).iter().filter(|path| is_named(path, "stall-")) {
        if let Ok(text) = fs::read_to_string(path) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            into.add(format!("dumps/{name}"), "processes and threads, noted when the job hung", text);
        }
    }
    let mut left = Vec::new();
    add_flight("flight", "left by torch itself", &files_in(&dir.flight()), &mut left, into);
    if dumps.is_empty() {
        dumps = left;
    }
    if !dumps.is_empty() || !unreadable.is_empty() {
        let text = tell::text(&analyse(&dumps), &unreadable, &[]);
        into.add("diagnosis.txt", "the flight recorders compared, as elastictop diagnose", text);
    }
}

/// Dumps as JSON, whatever they were: secrets can be taken out of text alone.
fn add_flight(
    to: &str,
    what: &str,
    files: &[std::path::PathBuf],
    dumps: &mut Vec<Dump>,
    into: &mut Gathering,
) {
    for path in files {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Ok(dump) = read_file(path, None) else { continue };
        let Some(text) = as_json(path) else { continue };
        dumps.push(dump);
        let name = name.strip_suffix(".json").unwrap_or(name);
        into.add(format!("{to}/{name}.json"), what, text);
    }
}

fn as_json(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_DUMP).read_to_end(&mut bytes).ok()?;
    if is_pickle(&bytes) {
        Some(pickle::read(&bytes).ok()?.to_string())
    } else {
        String::from_utf8(bytes).ok()
    }
}

fn nccl_ras(state: &State, into: &mut Gathering) {
    // Gloo has none, and says so by refusing the connection at once.
    if let Some(addr) = forensic::ras_addr(state)
        && let Ok(answer) = ras::ask(&addr)
    {
        into.add("nccl-ras.txt", "what NCCL's own health service says", answer.raw);
    }
}

fn logs(dir: &JobDir, into: &mut Gathering) {
    for (path, what) in [
        (dir.agent_out(), "agent.out"),
        (dir.agent_err(), "agent.err"),
        (dir.supervisor_log(), "supervisor.log"),
    ] {
        if let Some(text) = tail(&path, LOG_TAIL).filter(|text| !text.is_empty()) {
            into.add(format!("logs/{what}"), "the end of it", text);
        }
    }
    let mut ranks = super::reading::ranks_on_disk(dir);
    ranks.reverse();
    for rank in ranks.into_iter().take(MAX_LOGS) {
        let folder = dir.rank(rank.proc);
        let number = rank.place.rank.or(rank.place.slot());
        let number = number.map_or_else(|| "unknown".into(), |number| number.to_string());
        for name in ["stdout.log", "stderr.log"] {
            if let Some(text) = tail(&folder.join(name), LOG_TAIL).filter(|text| !text.is_empty()) {
                let name = format!("logs/rank_{number}.pid_{}.{name}", rank.proc.pid);
                into.add(name, format!("the end of rank {number}'s log"), text);
            }
        }
    }
}

/// The end of a text file, from the first whole line on: half a line could hold half a secret.
fn tail(path: &Path, most: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let from = length.saturating_sub(most);
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).ok()?;
    let whole = if from == 0 { 0 } else { bytes.iter().position(|byte| *byte == b'\n')? + 1 };
    Some(String::from_utf8_lossy(&bytes[whole..]).into_owned())
}

fn versions(ranks: &[Wanted]) -> String {
    let mut lines = vec![format!("elastictop {}", env!("CARGO_PKG_VERSION"))];
    let python = ranks.first().and_then(|rank| {
        let program = proc::read_cmdline(Path::new(ROOT), rank.proc.pid).into_iter().next()?;
        ask_python(Path::new(&program), Path::new("/"), PYTHON_WITHIN).ok()
    });
    match python {
        Some(python) => {
            let (major, minor) = python.version;
            lines.push(format!("python {major}.{minor} ({})", python.executable));
            lines.push(format!("torch {}", python.torch.unwrap_or_else(|| "none".into())));
        }
        None => lines.push("python and torch: n/a, as no rank lives that runs Python".into()),
    }
    let system = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    lines.push(format!("{} {} {}", text(system.sysname()), text(system.release()), text(system.machine())));
    let driver = fs::read_to_string("/proc/driver/nvidia/version").ok();
    lines.push(driver.map_or_else(|| "NVIDIA driver: none".into(), |driver| driver.trim().to_owned()));
    lines.join("\n")
}

fn environment(rank: &Wanted, into: &mut Gathering) {
    let Some(mut env) = proc::whole_env(Path::new(ROOT), rank.proc.pid) else { return };
    env.sort();
    let command = redact::command(&proc::read_cmdline(Path::new(ROOT), rank.proc.pid)).join(" ");
    let lines = env.iter().map(|(name, value)| format!("{name}={}", redact::value(name, value)));
    let text = format!("# pid {}: {command}\n{}", rank.proc.pid, lines.collect::<Vec<_>>().join("\n"));
    into.add(format!("environment/rank_{}.txt", rank.rank), "command and variables", text);
}

fn contents(manifest: &Manifest, now: Stamp, parts: &[Part]) -> Part {
    let mut text = format!(
        "Job {} on {}, bundled at {now} by elastictop {}.\n\n",
        manifest.id,
        manifest.node,
        env!("CARGO_PKG_VERSION")
    );
    for part in parts {
        text += &format!("{:<40} {:>9}  {}\n", part.name, part.text.len(), part.what);
    }
    text += &format!("\nSecrets, and what looks like one, are replaced by {}.\n", redact::HIDDEN);
    Part { name: "README.txt".into(), what: "what is in here".into(), text }
}

fn files_in(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn is_named(path: &Path, start: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_begins_with_a_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "secret-one\nsecret-two\nthree\n").unwrap();
        assert_eq!(tail(&path, 100).unwrap(), "secret-one\nsecret-two\nthree\n");
        assert_eq!(tail(&path, 12).unwrap(), "three\n");
        assert_eq!(tail(&path, 4).unwrap(), "");
    }

    #[test]
    fn a_bundle_holds_its_parts_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.tar.gz");
        let mut into =
            Gathering { secrets: Secrets::new([("A_TOKEN", "swordfish!")], &[]), parts: Vec::new() };
        into.add("logs/x", "a log", "say swordfish! and 0123456789abcdef0123456789abcdef01234567\n".into());
        write(&path, "job", &into.parts).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(File::open(&path).unwrap()));
        let mut entry = tar.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str().unwrap(), "job/logs/x");
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, "say [hidden] and [hidden]\n");
    }
}
