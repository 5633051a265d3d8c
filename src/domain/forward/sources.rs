//! Where rows come from, each switchable.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One place that rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// JSON objects that a rank prints, one a line.
    Lines,
    /// `elastictop.log()`.
    Log,
    /// The rank's own `wandb` SDK, which writes into the job's folder instead of sending.
    Sdk,
    /// Figures of GPUs, CPUs and memory.
    System,
    /// What elastictop itself sees of the job: restarts, heartbeats, lag.
    Job,
}

impl Source {
    /// All.
    pub const ALL: [Source; 5] = [Source::Lines, Source::Log, Source::Sdk, Source::System, Source::Job];

    /// The word on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Source::Lines => "lines",
            Source::Log => "log",
            Source::Sdk => "sdk",
            Source::System => "system",
            Source::Job => "job",
        }
    }
}

/// Those that are on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sources(BTreeSet<Source>);

impl Default for Sources {
    fn default() -> Sources {
        Sources(Source::ALL.into())
    }
}

impl Sources {
    /// Whether this one is on.
    pub fn has(&self, source: Source) -> bool {
        self.0.contains(&source)
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            0 => f.write_str("none"),
            all if all == Source::ALL.len() => f.write_str("all"),
            _ => f.write_str(&self.0.iter().map(|source| source.name()).collect::<Vec<_>>().join(",")),
        }
    }
}

impl FromStr for Sources {
    type Err = String;

    /// `all`, `none`, or a list such as `lines,log`.
    fn from_str(text: &str) -> Result<Sources, String> {
        let source = |word: &str| Source::ALL.into_iter().find(|source| source.name() == word);
        match text.trim() {
            "all" => return Ok(Sources::default()),
            "none" => return Ok(Sources(BTreeSet::new())),
            _ => {}
        }
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let found: Result<BTreeSet<_>, _> = words.map(|word| source(word).ok_or(word)).collect();
        match found {
            Ok(found) if !found.is_empty() => Ok(Sources(found)),
            Ok(_) => Err("names no source; they are lines, log, sdk, system and job, or all, or none".into()),
            Err(word) => Err(format!(
                "{word:?} is no source; they are lines, log, sdk, system and job, or all, or none"
            )),
        }
    }
}
