//! What a look at running processes shows. Raw: counters stay cumulative, rates come later from two samples.

use serde::{Deserialize, Serialize};

use super::{beat::GroupStatus, id::ProcId, time::Stamp, verdict::Standing};

/// One look at one rank.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RankSample {
    /// Position of the rank on its node.
    pub local_rank: u32,
    /// CPU time of all threads since the start of the process, in nanoseconds, from its CPU clock or `stat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ns: Option<u64>,
    /// Resident memory in bytes, from `/proc/PID/stat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    /// Threads, from `/proc/PID/stat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Last step that the rank told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// When `step` was told last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_at: Option<Stamp>,
    /// When the last heartbeat arrived, by the supervisor's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beat_at: Option<Stamp>,
    /// The process groups that it told of last; left out of what a journal keeps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupStatus>,
    /// Whether it waits in a collective, or others wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Box<Standing>>,
    /// The last line that the rank wrote, cut to [`MAX_LAST_LINE`] bytes; only present when it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_line: Option<String>,
    /// Lines that the rank has written since it started, on both streams.
    #[serde(default)]
    pub lines: u64,
}

/// Longest last line kept of a rank, in bytes.
pub const MAX_LAST_LINE: usize = 240;

/// The state of a process as the kernel tells it: field 3 of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// R, S, I and others that need no name of their own.
    Alive,
    /// T or t.
    Stopped,
    /// D.
    Blocked,
    /// Z or X.
    Dead,
}

impl Kernel {
    /// From the letter in `/proc/PID/stat`.
    pub fn from_letter(letter: char) -> Kernel {
        match letter {
            'T' | 't' => Kernel::Stopped,
            'D' => Kernel::Blocked,
            'Z' | 'X' | 'x' => Kernel::Dead,
            _ => Kernel::Alive,
        }
    }
}

/// What a rank's environment says of its place, all from `/proc/PID/environ`, a START event or a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// `RANK`.
    pub rank: Option<u32>,
    /// `LOCAL_RANK` as written; 0 everywhere under `--virtual-local-rank`.
    pub local_rank: Option<u32>,
    /// `GROUP_RANK`: the index of the worker (node).
    pub group_rank: Option<u32>,
    /// `WORLD_SIZE`.
    pub world_size: Option<u32>,
    /// `LOCAL_WORLD_SIZE`.
    pub local_world_size: Option<u32>,
    /// `TORCHELASTIC_RESTART_COUNT`.
    pub restart_count: Option<u32>,
    /// `TORCHELASTIC_MAX_RESTARTS`.
    pub max_restarts: Option<u32>,
    /// `TORCHELASTIC_RUN_ID`.
    pub run_id: Option<String>,
}

impl Place {
    /// The position on the node that no other rank of it shares.
    ///
    /// `LOCAL_RANK` is 0 on all ranks under `--virtual-local-rank`; with equal nodes the place follows from the
    /// global rank.
    pub fn slot(&self) -> Option<u32> {
        let derived = (|| {
            let before = self.group_rank?.checked_mul(self.local_world_size?)?;
            // With nodes of different sizes the ranks before this node cannot be counted this way.
            let is_even =
                self.world_size.is_none_or(|world| world.is_multiple_of(self.local_world_size.unwrap_or(1)));
            self.rank?.checked_sub(before).filter(|local| is_even && Some(*local) < self.local_world_size)
        })();
        match (self.local_rank, derived) {
            (Some(0) | None, Some(derived)) => Some(derived),
            (given, _) => given,
        }
    }

    /// Takes over what is not known yet. Returns whether that was anything.
    pub fn learn(&mut self, more: &Place) -> bool {
        let before = self.clone();
        self.rank = self.rank.or(more.rank);
        self.local_rank = self.local_rank.or(more.local_rank);
        self.group_rank = self.group_rank.or(more.group_rank);
        self.world_size = self.world_size.or(more.world_size);
        self.local_world_size = self.local_world_size.or(more.local_world_size);
        self.restart_count = self.restart_count.or(more.restart_count);
        self.max_restarts = self.max_restarts.or(more.max_restarts);
        self.run_id = self.run_id.take().or_else(|| more.run_id.clone());
        *self != before
    }
}

/// A rank that was seen for the first time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// The rank's process.
    pub proc: ProcId,
    /// The elastic agent that started it.
    pub agent_pid: i32,
    /// Where it stands.
    pub place: Place,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_local_ranks_do_not_collide() {
        let place = |rank, local, group| Place {
            rank: Some(rank),
            local_rank: Some(local),
            group_rank: Some(group),
            local_world_size: Some(2),
            ..Place::default()
        };
        assert_eq!([place(2, 0, 1).slot(), place(3, 0, 1).slot()], [Some(0), Some(1)]);
        assert_eq!(place(3, 1, 1).slot(), Some(1));
        assert_eq!(Place { local_rank: Some(5), ..Place::default() }.slot(), Some(5));
        assert_eq!(place(7, 0, 1).slot(), Some(0), "unequal nodes: the rank says nothing, LOCAL_RANK stands");
    }
}
