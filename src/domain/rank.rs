//! What a rank or a job can be doing.

use serde::{Deserialize, Serialize};

/// The life of one rank, as far as it can be seen from outside and from its heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankState {
    /// The process exists; nothing has been heard from it yet.
    #[default]
    Starting,
    /// It beats, and has not made a process group or a step yet.
    Init,
    /// It works.
    Running,
    /// It has joined a collective that others have not joined.
    Waiting,
    /// Others wait for it in a collective.
    Lagging,
    /// Stopped by SIGSTOP or a debugger: state T of the kernel.
    Stopped,
    /// In uninterruptible sleep: state D of the kernel, on two samples or more.
    Blocked,
    /// Alive, but its heartbeat thread gets no turn: something holds Python's lock.
    GilStuck,
    /// Dead and not reaped by its agent: state Z of the kernel.
    Zombie,
    /// Alive after its agent died.
    Orphan,
    /// Gone.
    Exited,
    /// A kind that a newer elastictop wrote.
    #[serde(other)]
    Unknown,
}

impl RankState {
    /// Whether the process can still run code.
    pub fn is_alive(self) -> bool {
        !matches!(self, RankState::Zombie | RankState::Exited)
    }
}

/// The life of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// The agent exists or is about to; not all ranks have started.
    #[default]
    Starting,
    /// All ranks of this node have started.
    Running,
    /// A rank failed, or a user asked: the group is being started anew.
    Restarting,
    /// A node joined or left: the group is being started anew without spending a restart.
    MembershipChange,
    /// The group or the whole job is being ended, with a time limit.
    TearingDown,
    /// All ranks are dead and the agent does not notice.
    ZombieDeadlock,
    /// The agent is dead; ranks live.
    Orphaned,
    /// Ended with success.
    Done,
    /// Ended without success.
    Failed,
    /// Ended because somebody asked for it.
    Stopped,
    /// A kind that a newer elastictop wrote.
    #[serde(other)]
    Unknown,
}

impl JobState {
    /// Whether nothing of the job will change any more.
    pub fn is_over(self) -> bool {
        matches!(self, JobState::Done | JobState::Failed | JobState::Stopped)
    }

    /// Whether the running group will not make another step.
    pub fn ends_group(self) -> bool {
        matches!(
            self,
            JobState::Restarting
                | JobState::MembershipChange
                | JobState::TearingDown
                | JobState::ZombieDeadlock
        )
    }
}

/// Numbers of ranks for a sentence: `rank 3`, `ranks 0-6, 9`, `ranks 0, 2, 4, 6, 8, 10 and 20 more`.
pub fn list(ranks: &[u32]) -> String {
    const MOST: usize = 6;
    let mut sorted = ranks.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut spans: Vec<(u32, u32)> = Vec::new();
    for rank in &sorted {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == *rank => *last = *rank,
            _ => spans.push((*rank, *rank)),
        }
    }
    let hidden: u64 = spans.iter().skip(MOST).map(|(first, last)| u64::from(last - first) + 1).sum();
    let shown = spans.iter().take(MOST).map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}-{last}"),
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    let more = if hidden > 0 { format!(" and {hidden} more") } else { String::new() };
    format!("rank{} {shown}{more}", if sorted.len() == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn lists_of_ranks_are_short() {
        assert_eq!(list(&[3]), "rank 3");
        assert_eq!(list(&[4, 0, 1, 2, 2, 9, 8]), "ranks 0-2, 4, 8, 9");
        assert_eq!(list(&(0..4096).collect::<Vec<_>>()), "ranks 0-4095");
        let even: Vec<_> = (0..20).step_by(2).collect();
        assert_eq!(list(&even), "ranks 0, 2, 4, 6, 8, 10 and 4 more");
    }
}
