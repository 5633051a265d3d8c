//! How long a job may make no progress, and what is done about it then.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// No progress for this long is a hang, unless something else was asked for or learned.
pub const HANG_AFTER: Duration = Duration::from_secs(30);
/// After this long without progress elastictop acts, where it was told to act.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(300);

/// What is done about a job whose progress has stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStall {
    /// Nothing but an alert.
    #[default]
    Warn,
    /// What can be learned of the ranks is written down.
    Dump,
    /// The same, then the agent is ended and started anew, as often as the restart budget allows.
    Restart,
}

impl FromStr for OnStall {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<OnStall, &'static str> {
        match word {
            "warn" => Ok(OnStall::Warn),
            "dump" => Ok(OnStall::Dump),
            "restart" => Ok(OnStall::Restart),
            _ => Err("is none of warn, dump and restart"),
        }
    }
}

impl fmt::Display for OnStall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnStall::Warn => "warn",
            OnStall::Dump => "dump",
            OnStall::Restart => "restart",
        })
    }
}

/// `--hang-after`, `--heartbeat-timeout` and `--on-stall`. Kept in the manifest for a supervisor that takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Milliseconds without progress before that is called a hang. Other verdicts take their pace from it too.
    pub hang_after_ms: u64,
    /// Milliseconds without progress before elastictop acts.
    pub heartbeat_timeout_ms: u64,
    /// What it does then.
    pub on_stall: OnStall,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            hang_after_ms: HANG_AFTER.as_millis() as u64,
            heartbeat_timeout_ms: HEARTBEAT_TIMEOUT.as_millis() as u64,
            on_stall: OnStall::Warn,
        }
    }
}

impl Policy {
    /// The least time without progress that is a hang.
    pub fn hang_after(&self) -> Duration {
        Duration::from_millis(self.hang_after_ms.max(1000))
    }

    /// After how long without progress elastictop acts; never before it would call it a hang.
    pub fn acts_after(&self) -> Option<Duration> {
        let after = Duration::from_millis(self.heartbeat_timeout_ms).max(self.hang_after());
        (self.on_stall != OnStall::Warn).then_some(after)
    }
}
