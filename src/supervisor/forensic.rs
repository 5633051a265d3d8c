//! What is taken of the ranks when something is wrong: stacks and flight recorders. Blocks: run it on a thread.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::{folder::JobDir, shim::write_atomically};
use crate::{
    domain::{
        flight::tell::Unreadable,
        id::ProcId,
        rank::list,
        stack::{Source, Stacks, fold},
        state::State,
        time::Stamp,
    },
    probe::{
        flight, proc,
        stack::{self, Wanted},
    },
};

/// The living ranks of this node, or the one with this global rank. `beat` is the socket that they beat to; `None` for
/// a job that elastictop did not start.
pub fn living(state: &State, beat: Option<&Path>, rank: Option<u32>) -> Vec<Wanted> {
    let ranks = state.ranks.iter().filter(|one| one.state.is_alive()).map(|one| (one.number(), one.proc));
    wanted(ranks.filter(|(number, _)| rank.is_none_or(|rank| rank == *number)), beat)
}

/// Ranks to be looked at: their numbers and processes.
pub fn wanted(ranks: impl IntoIterator<Item = (u32, ProcId)>, beat: Option<&Path>) -> Vec<Wanted> {
    let one = |(rank, proc)| Wanted { rank, proc, beat: beat.map(Path::to_owned) };
    ranks.into_iter().map(one).collect()
}

/// The stacks of these ranks, folded. Takes up to some seconds for ranks that do not answer.
pub fn stacks(wanted: &[Wanted], by: Option<Source>) -> Stacks {
    fold(&stack::take(wanted, by))
}

/// What a dump left in a folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Dumped {
    /// The folder: `stacks.json`, `stacks.txt`, and `rank_N.json` for the flight recorder of each rank.
    pub folder: PathBuf,
    /// The stacks.
    pub stacks: Stacks,
    /// Files with flight recorders.
    pub flight: Vec<PathBuf>,
    /// Ranks whose recorder could not be read.
    pub silent: Vec<Unreadable>,
}

impl Dumped {
    /// One sentence.
    pub fn summary(&self) -> String {
        let silent =
            if self.silent.is_empty() { String::new() } else { format!(", {} without", self.silent.len()) };
        format!("stacks and {} flight recorders{silent} in {}", self.flight.len(), self.folder.display())
    }
}

/// Takes stacks and flight recorders of these ranks and leaves them in `JOB/dumps/TIME`. For a job that hangs: takes up
/// to about ten seconds when ranks do not answer.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn dump(job: &JobDir, wanted: &[Wanted], world_size: Option<u32>, now: Stamp) -> io::Result<Dumped> {
    let folder = job.dumps().join(now.to_string().replace(':', ""));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let (flight, silent) = take_flight(&folder, wanted, world_size, now)?;
    let stacks = stacks(wanted, None);
    write_atomically(&folder.join("stacks.json"), &serde_json::to_vec_pretty(&stacks)?)?;
    write_atomically(&folder.join("stacks.txt"), format!("{}\n", stacks.text()).as_bytes())?;
    Ok(Dumped { folder, stacks, flight, silent })
}

/// The newest folder that [`dump`] left.
pub fn newest_dump(job: &JobDir) -> Option<PathBuf> {
    // Their names are times.
    fs::read_dir(job.dumps()).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).max()
}

/// The address of NCCL's RAS, as the living ranks of this node have it.
pub fn ras_addr(state: &State) -> Option<String> {
    ras_addr_of(living(state, None, None).iter().map(|rank| rank.proc))
}

/// The same of these ranks: the first that has one.
pub fn ras_addr_of(ranks: impl IntoIterator<Item = ProcId>) -> Option<String> {
    let env = |rank: ProcId| proc::whole_env(Path::new(proc::ROOT), rank.pid);
    let of = |env: Vec<(String, String)>| Some(env.into_iter().find(|(name, _)| name == "NCCL_RAS_ADDR")?.1);
    ranks.into_iter().filter_map(env).find_map(of)
}

/// The flight recorders of living ranks, as files in `folder`, and who gave none.
///
/// # Errors
/// A file that cannot be written.
pub fn take_flight(
    folder: &Path,
    wanted: &[Wanted],
    world_size: Option<u32>,
    now: Stamp,
) -> io::Result<(Vec<PathBuf>, Vec<Unreadable>)> {
    let (mut files, mut silent) = (Vec::new(), Vec::new());
    for live in flight::take(wanted, world_size, now.0.saturating_mul(1_000_000)) {
        let dumps = match live.dumps {
            Ok(dumps) => dumps,
            Err(why) => {
                silent.push(Unreadable { what: list(&[live.rank]), why });
                continue;
            }
        };
        for (at, dump) in dumps.iter().enumerate() {
            // The number of the rank is the last before the first point.
            let more = if at == 0 { String::new() } else { format!(".{at}") };
            let path = folder.join(format!("rank_{}{more}.json", live.rank));
            write_atomically(&path, dump.as_bytes())?;
            files.push(path);
        }
    }
    Ok((files, silent))
}
