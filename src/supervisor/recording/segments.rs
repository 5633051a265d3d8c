//! The files of a black box: their names say when they begin, how fine they are and whether they are kept.
//!
//! `0001795167616837-1-loose.jsonl.gz`: from that time on, every second, first to go. A `kept` one has the minutes
//! before a failure. What a file is follows from its name alone, so that a new supervisor needs nothing else.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};

use super::read::{Entry, Reader};
use crate::{
    domain::{
        event::{Event, Fact},
        replay::Header,
        report::SCHEMA,
        time::Stamp,
    },
    supervisor::journal,
};

/// Name of the folder in the job's.
pub const BOX: &str = "box";
const END: &str = ".jsonl.gz";
/// How the file is packed that grows: for half of the time of the default, one twentieth longer.
const LIVE: Compression = Compression::new(4);
/// Seconds between two samples in a file that was thinned once, and twice.
pub(super) const GRAINS: [u32; 3] = [1, 10, 60];

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    /// When its first sample was taken.
    pub(super) from: Stamp,
    /// Seconds between two samples, one of [`GRAINS`].
    pub(super) grain: u32,
    /// Whether it outlives the limits while others can go.
    pub(super) kept: bool,
    /// Its length.
    pub(super) bytes: u64,
    folder: PathBuf,
}

impl Segment {
    pub(super) fn new(folder: &Path, from: Stamp, kept: bool) -> Segment {
        Segment { from, grain: GRAINS[0], kept, bytes: 0, folder: folder.to_owned() }
    }

    pub(super) fn path(&self) -> PathBuf {
        let word = if self.kept { "kept" } else { "loose" };
        self.folder.join(format!("{:016}-{}-{word}{END}", self.from.0, self.grain))
    }

    fn parse(folder: &Path, name: &str, bytes: u64) -> Option<Segment> {
        let mut parts = name.strip_suffix(END)?.split('-');
        let (from, grain, word) = (parts.next()?, parts.next()?, parts.next()?);
        let kept = match word {
            "kept" => true,
            "loose" => false,
            _ => return None,
        };
        let from = Stamp(from.parse().ok()?);
        let grain = grain.parse().ok().filter(|grain| GRAINS.contains(grain))?;
        Some(Segment { from, grain, kept, bytes, folder: folder.to_owned() })
    }

    /// Makes it outlive the limits.
    pub(super) fn keep(&mut self) -> io::Result<()> {
        let before = self.path();
        self.kept = true;
        fs::rename(before, self.path())
    }

    /// Leaves one sample of many, so that the next grain holds. What it is afterwards.
    pub(super) fn thin(&self) -> io::Result<Option<Segment>> {
        let Some(grain) = GRAINS.into_iter().find(|grain| *grain > self.grain) else { return Ok(None) };
        let mut thinner = Segment { grain, ..self.clone() };
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        let mut packed = GzEncoder::new(&mut file, Compression::default());
        packed.write_all(&header_line())?;
        if let Ok(mut reader) = Reader::open(&self.path()) {
            let mut thinning = Thinning::new(grain);
            while let Some(Entry::Event(event)) = reader.read() {
                if let Some(event) = thinning.take(event) {
                    packed.write_all(&event_line(&event))?;
                }
            }
        }
        packed.finish()?;
        thinner.bytes = file.as_file().metadata()?.len();
        file.persist(thinner.path())?;
        fs::remove_file(self.path())?;
        Ok(Some(thinner))
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_file(self.path())
    }
}

/// All files of a folder, oldest first; a missing folder has none. Of one that was being thinned the finer one counts.
pub(super) fn list(folder: &Path) -> Vec<Segment> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<_> = entries
        .filter_map(|entry| {
            let bytes = entry.metadata().ok()?.len();
            Segment::parse(folder, entry.file_name().to_str()?, bytes)
        })
        .collect();
    all.sort();
    all.dedup_by_key(|segment| segment.from);
    all
}

/// Opens a new file and writes its first line.
pub(super) fn create(segment: &Segment) -> io::Result<GzEncoder<File>> {
    let file = File::options().create(true).truncate(true).write(true).open(segment.path())?;
    let mut packed = GzEncoder::new(file, LIVE);
    packed.write_all(&header_line())?;
    Ok(packed)
}

pub(super) fn header_line() -> Vec<u8> {
    let mut line = serde_json::to_vec(&Header::new(SCHEMA)).unwrap_or_default();
    line.push(b'\n');
    line
}

pub(super) fn event_line(event: &Event) -> Vec<u8> {
    let mut line = journal::line(event);
    line.push(b'\n');
    line
}

/// Lets one sample of each kind through for each stretch of time, with what those before it told once.
struct Thinning {
    grain_ms: u64,
    /// The last stretch that a kind of sample was let through for.
    let_through: BTreeMap<u8, u64>,
    last_lines: BTreeMap<u32, String>,
}

impl Thinning {
    fn new(grain: u32) -> Thinning {
        let grain_ms = u64::from(grain) * 1000;
        Thinning { grain_ms, let_through: BTreeMap::new(), last_lines: BTreeMap::new() }
    }

    fn take(&mut self, mut event: Event) -> Option<Event> {
        let kind = match &event.fact {
            Fact::Sample { .. } => 0,
            Fact::GpuSample { .. } => 1,
            Fact::WandbSample { .. } => 2,
            _ => return Some(event),
        };
        let stretch = event.at.0 / self.grain_ms;
        let is_new = self.let_through.get(&kind) != Some(&stretch);
        if let Fact::Sample { ranks } = &mut event.fact {
            for rank in ranks {
                match &rank.last_line {
                    Some(line) if !is_new => drop(self.last_lines.insert(rank.local_rank, line.clone())),
                    // A last line is told once.
                    None if is_new => rank.last_line = self.last_lines.remove(&rank.local_rank),
                    _ => {}
                }
            }
        }
        if is_new {
            self.let_through.insert(kind, stretch);
        }
        is_new.then_some(event)
    }
}
