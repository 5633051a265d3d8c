//! What would end a rank whose heart stops: NCCL's own monitor, elastictop, or nobody.

use serde::{Deserialize, Serialize};

use super::{
    doing::Doing,
    policy::{OnStall, Policy},
};

/// NCCL's monitor ends a rank after this long unless it was told otherwise: torch's own default, in seconds.
const NCCL_DEFAULT_S: u64 = 480;

/// Who acts on a heart that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardedBy {
    /// The monitor of torch's older NCCL backend.
    NcclMonitor,
    /// elastictop, because of `--on-stall`.
    Elastictop,
    /// Nobody: elastictop tells, and that is all.
    #[serde(other)]
    Nobody,
}

/// What guards a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// The backends of its process groups: `gloo`, `nccl` (the older one), `nccl2`.
    pub backends: Vec<String>,
    /// Who acts.
    pub by: GuardedBy,
    /// After how many seconds.
    pub timeout_s: Option<u64>,
    /// What NCCL does when a collective runs into its time limit, as set; `None` where nothing is set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<(String, String)>,
}

/// What guards a rank, by its threads and what it was started with. `known` has the settings, which are read once.
pub(super) fn of(doing: &Doing, told: Vec<String>, known: Option<&Guard>, policy: &Policy) -> Guard {
    let settings = match known {
        Some(known) if doing.settings.is_empty() => known.settings.clone(),
        _ => doing.settings.clone(),
    };
    let has = |thread: &str| doing.threads.iter().any(|name| name.starts_with(thread));
    let set = |name: &str| settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let is_nccl = told.iter().any(|backend| backend.contains("nccl"));
    let legacy = has("pt_nccl_heartbt") || has("pt_nccl_watchdg");
    let mut backends: Vec<String> =
        told.iter().filter(|backend| !backend.contains("nccl")).flat_map(|b| parts(b)).collect();
    if legacy {
        backends.push("nccl".into());
    } else if is_nccl || has("pt_nccl2") {
        backends.push("nccl2".into());
    }
    if has("gloo") || has("pt_gloo") {
        backends.push("gloo".into());
    }
    backends.sort();
    backends.dedup();
    let monitors = set("TORCH_NCCL_ENABLE_MONITORING").is_none_or(|value| !is_off(value));
    let heartbeat = set("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC").and_then(|text| text.parse().ok());
    // The newer backend of torch 2.15 has no such monitor, whatever is set; later ones name its thread.
    let (by, timeout_s) = if (has("pt_nccl_heartbt") || has("pt_nccl2_heartbt")) && monitors {
        (GuardedBy::NcclMonitor, Some(heartbeat.unwrap_or(NCCL_DEFAULT_S)))
    } else if policy.on_stall == OnStall::Restart {
        (GuardedBy::Elastictop, policy.acts_after().map(|after| after.as_secs()))
    } else {
        (GuardedBy::Nobody, None)
    };
    Guard { backends, by, timeout_s, settings }
}

/// `cpu:gloo,cuda:nccl` has one part for each device.
fn parts(backend: &str) -> Vec<String> {
    backend.split(',').map(|part| part.rsplit(':').next().unwrap_or(part).to_owned()).collect()
}

fn is_off(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "0" | "n" | "no" | "f" | "false")
}

impl Guard {
    /// In one sentence.
    pub fn text(&self) -> String {
        let after = self.timeout_s.map(|s| format!(" after {s} s")).unwrap_or_default();
        match self.by {
            GuardedBy::NcclMonitor => format!("NCCL's monitor ends the rank{after}"),
            GuardedBy::Elastictop => format!("elastictop restarts the group{after}"),
            GuardedBy::Nobody => "no watchdog ends it".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(threads: &[&str], told: &[&str], settings: &[(&str, &str)], on_stall: OnStall) -> Guard {
        let doing = Doing {
            threads: threads.iter().map(|&name| name.to_owned()).collect(),
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Doing::default()
        };
        let told = told.iter().map(|&name| name.to_owned()).collect();
        of(&doing, told, None, &Policy { on_stall, ..Policy::default() })
    }

    #[test]
    fn the_older_backend_has_a_monitor_with_the_time_that_was_set() {
        let threads = ["pt_nccl_heartbt", "pt_nccl_watchdg"];
        let told = guard(&threads, &["nccl"], &[("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "300")], OnStall::Warn);
        assert_eq!((told.by, told.timeout_s), (GuardedBy::NcclMonitor, Some(300)));
        assert_eq!(told.backends, ["nccl"]);
        let plain = guard(&threads, &["nccl"], &[], OnStall::Restart);
        assert_eq!((plain.by, plain.timeout_s), (GuardedBy::NcclMonitor, Some(480)));
        let off = guard(&threads, &["nccl"], &[("TORCH_NCCL_ENABLE_MONITORING", "0")], OnStall::Warn);
        assert_eq!(off.by, GuardedBy::Nobody);
    }

    #[test]
    fn the_newer_backend_and_gloo_have_none() {
        let set = [("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "300")];
        let newer = guard(&["NCCL RAS"], &["cpu:gloo,cuda:nccl"], &set, OnStall::Warn);
        assert_eq!((newer.by, newer.backends.last().map(String::as_str)), (GuardedBy::Nobody, Some("nccl2")));
        let gloo = guard(&["gloo_tcp_loop", "pt_gloo_runloop"], &["gloo"], &[], OnStall::Restart);
        assert_eq!((gloo.by, gloo.timeout_s), (GuardedBy::Elastictop, Some(300)));
        assert_eq!(gloo.text(), "elastictop restarts the group after 300 s");
    }
}
