//! Reading what ranks and agent write: lines into evidence, steps and last words.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use super::{
    core::Input,
    folder::JobDir,
    logbook::{Logbook, Origin},
};
use crate::{
    domain::{
        agent_line::AgentReader,
        beat::{Message, Shim},
        evidence::{self, ErrorFile, Tracebacks},
        id::ProcId,
        log::{Stream, is_server_word},
        sample::{MAX_LAST_LINE, Sighting},
        time::Stamp,
    },
    probe::proc,
};

/// Longest error file that is read, in bytes.
const MAX_ERROR_FILE: u64 = 1 << 20;

#[derive(Debug, Default)]
struct Wrote {
    lines: u64,
    last_line: Option<String>,
    /// With when it was written.
    step: Option<(u64, Stamp)>,
    /// Name of the last loss, and for how many lines in a row it has been no number.
    loss: Option<(String, u32)>,
}

/// What lines that came before mean for those that come.
#[derive(Debug, Default)]
pub struct Readers {
    /// Of the agent's own words.
    pub agent: AgentReader,
    /// Of what ranks and agent print, each stream of each process for itself.
    tracebacks: Tracebacks<(i32, Stream)>,
}

/// Reads what is new in the logs. Returns whether there is more than one look took.
pub fn read_logs(logbook: &mut Logbook, readers: &mut Readers, now: Stamp, inputs: &mut Vec<Input>) -> bool {
    let mut wrote: BTreeMap<i32, Wrote> = BTreeMap::new();
    let mut told = Vec::new();
    let more = logbook.look(now, |line| {
        let is_agent = line.origin.stream == Stream::Agent;
        let pid = (!is_agent).then_some(line.origin.pid);
        if is_agent {
            told.extend(readers.agent.line(line.text).into_iter().map(Input::AgentLine));
        }
        if let Some(proof) = readers.tracebacks.line((line.origin.pid, line.origin.stream), line.text) {
            told.push(Input::Mark { pid, proof, line: line.text.to_owned() });
        }
        let Some(pid) = pid else { return };
        let entry = wrote.entry(pid).or_default();
        entry.lines += 1;
        if let Some(row) = Row::read(line.text) {
            entry.step = row.step.map(|step| (step, line.at)).or(entry.step);
            if let Some((name, bad)) = row.loss {
                let before = entry.loss.take().map_or(0, |(_, rows)| rows);
                entry.loss = Some((name, if bad { before + 1 } else { 0 }));
            }
        }
        if !line.text.trim().is_empty() && !is_server_word(line.text) {
            entry.last_line = Some(cut(line.text));
        }
    });
    for (pid, wrote) in wrote {
        let Wrote { lines, last_line, step, loss } = wrote;
        inputs.push(Input::Wrote { pid, lines, last_line, step });
        inputs.extend(loss.map(|(name, rows)| Input::Loss { pid, name, rows }));
    }
    // A step after an error means that the error was survived. Of steps and errors that arrived together, the errors
    // came last: they end a rank more often than not.
    inputs.extend(told);
    more
}

fn cut(line: &str) -> String {
    evidence::cut(line, MAX_LAST_LINE).to_owned()
}

/// Unfinished last lines, where progress bars live.
pub fn unfinished_lines(logbook: &Logbook) -> Vec<Input> {
    let told = logbook.unfinished().into_iter();
    told.map(|(pid, line)| Input::Wrote { pid, lines: 0, last_line: Some(cut(&line)), step: None }).collect()
}

/// What a line of metrics tells: a JSON object with a step.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    /// A whole number called `step`, `_step` or `global_step`.
    step: Option<u64>,
    /// The first loss that is no number, else the first: its name, and whether it is NaN or infinite.
    loss: Option<(String, bool)>,
}

/// What stands for a number that is none while the line is read as JSON: no loss is that large.
const NO_NUMBER: f64 = 1e308;

impl Row {
    fn read(line: &str) -> Option<Row> {
        let line = line.trim();
        if !(line.starts_with('{') && line.ends_with('}') && line.contains("step\"")) {
            return None;
        }
        // Bare NaN and Infinity are common in training logs, and no JSON.
        let is_odd = line.contains("NaN") || line.contains("Infinity");
        let text =
            if is_odd { line.replace("NaN", "1e308").replace("Infinity", "1e308") } else { line.into() };
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        let step = ["step", "_step", "global_step"].iter().find_map(|key| value.get(key)?.as_u64());
        let mut losses = value.as_object()?.iter().filter_map(|(name, value)| {
            let is_loss = name.to_ascii_lowercase().contains("loss");
            // Python's json can be told to write null for NaN; that says nothing for sure.
            let bad = value.as_f64().map(|number| number.abs() >= NO_NUMBER);
            bad.or_else(|| Some(matches!(value.as_str()?, "1e308" | "-1e308" | "nan" | "inf" | "-inf")))
                .filter(|_| is_loss)
                .map(|bad| (name.clone(), bad))
        });
        let first = losses.next();
        let bad = first.clone().filter(|(_, bad)| *bad).or_else(|| losses.find(|(_, bad)| *bad));
        Some(Row { step, loss: bad.or(first) })
    }
}

/// The files that a rank writes to, kept so that they outlive their folder where that is possible: torchrun deletes
/// the logs of a group at membership changes. The shim does this for scripts; function mode has no shim.
pub fn keep_logs(dir: &JobDir, sighting: &Sighting) -> [Option<PathBuf>; 2] {
    let folder = dir.rank(sighting.proc);
    let (out, err) = proc::log_paths(Path::new(proc::ROOT), sighting.proc.pid);
    let told = told_by_shim(&folder);
    let keep = |name: &str, seen: Option<PathBuf>, told: Option<PathBuf>| {
        let link = folder.join(name);
        if link.is_file() {
            return Some(link);
        }
        let seen = seen.filter(|path| *path != dir.agent_out() && *path != dir.agent_err());
        let Some(path) = seen else { return told };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        // Another file system: the file is held open while the rank lives, and lost with its folder after that.
        let linked = made.is_ok() && fs::hard_link(&path, &link).is_ok();
        // The shim may have been faster by a moment: the same file must not be known by two names.
        if linked || link.is_file() { Some(link) } else { Some(path) }
    };
    let (told_out, told_err) = told.map_or((None, None), |shim| (shim.out, shim.err));
    [keep("stdout.log", out, told_out), keep("stderr.log", err, told_err)]
}

/// All ranks that the shim wrote down, in the order of their start.
pub fn ranks_on_disk(dir: &JobDir) -> Vec<Sighting> {
    let folders = fs::read_dir(dir.ranks()).into_iter().flatten().flatten();
    let mut ranks: Vec<_> = folders
        .filter_map(|folder| told_by_shim(&folder.path()))
        .map(|shim| Sighting { proc: shim.proc(), agent_pid: shim.agent_pid, place: shim.place })
        .collect();
    // Two groups can start within one tick of the kernel's clock.
    ranks.sort_by_key(|rank| (rank.proc.start, rank.place.restart_count, rank.proc.pid));
    ranks
}

fn told_by_shim(folder: &Path) -> Option<Shim> {
    match Message::parse(&fs::read(folder.join("rank.json")).ok()?)? {
        Message::Shim(shim) => Some(shim),
        _ => None,
    }
}

/// Adds a rank's files to the logbook.
pub fn add_rank(
    logbook: &mut Logbook,
    paths: [Option<PathBuf>; 2],
    sighting: &Sighting,
    local_rank: u32,
    attempt: u32,
) {
    for (path, stream) in paths.into_iter().zip([Stream::Out, Stream::Err]) {
        let Some(path) = path else { continue };
        let (rank, pid) = (sighting.place.rank, sighting.proc.pid);
        logbook.add(Origin { rank, local_rank: Some(local_rank), attempt, pid, stream, path });
    }
}

/// Adds the agent's files to the logbook.
pub fn add_agent(logbook: &mut Logbook, dir: &JobDir) {
    [dir.agent_err(), dir.agent_out()].into_iter().for_each(|path| add_shared(logbook, path));
}

/// Adds a file that agent and ranks write to together.
pub fn add_shared(logbook: &mut Logbook, path: PathBuf) {
    logbook.add(Origin { rank: None, local_rank: None, attempt: 0, pid: 0, stream: Stream::Agent, path });
}

/// Where a rank of this job leaves its `error.json`, as its shim told.
pub fn error_file_of(dir: &JobDir, proc: ProcId) -> Option<PathBuf> {
    told_by_shim(&dir.rank(proc))?.error_file
}

/// What a rank wrote into its error file before it died.
pub fn last_words(dir: &JobDir, proc: ProcId, seen: Option<PathBuf>) -> Option<Input> {
    let mut file = File::open(error_file_of(dir, proc).or(seen)?).ok()?;
    let written = file.metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    let mut bytes = Vec::new();
    file.by_ref().take(MAX_ERROR_FILE).read_to_end(&mut bytes).ok()?;
    let message = ErrorFile::parse(&bytes)?.message;
    Some(Input::ErrorFile {
        pid: proc.pid,
        message,
        written: Stamp(u64::try_from(written.as_millis()).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_losses_are_found_in_json_lines_alone() {
        let row = |step: Option<u64>, loss: Option<(&str, bool)>| {
            Some(Row { step, loss: loss.map(|(name, bad)| (name.to_owned(), bad)) })
        };
        for (line, read) in [
            (r#"{"step": 12, "loss": NaN}"#, row(Some(12), Some(("loss", true)))),
            (r#"{"step": 12, "loss": 0.5}"#, row(Some(12), Some(("loss", false)))),
            (r#"{"_step": 3}"#, row(Some(3), None)),
            (r#"{"global_step": 4, "x": -Infinity}"#, row(Some(4), None)),
            (r#"{"step": 4, "a_loss": 1, "val_Loss": -Infinity}"#, row(Some(4), Some(("val_Loss", true)))),
            (r#"{"step": 4, "loss": "nan", "lossless": true}"#, row(Some(4), Some(("loss", true)))),
            (r#"{"step": "12"}"#, row(None, None)),
            ("step 12", None),
            (r#"{"step": 12"#, None),
            (r#"{"steps": 12}"#, None),
        ] {
            assert_eq!(Row::read(line), read, "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_survived(text: String) {
            let _ = Row::read(&text);
            let _ = Row::read(&format!("{{\"step\": 1, \"loss\": {text}}}"));
        }
    }
}
