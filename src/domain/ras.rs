//! What NCCL's own health service (RAS) tells: communicators, who is in them, and how many collectives each rank has
//! launched.
//!
//! Written to NCCL's documented JSON (2.28.7 and newer) and never run against NCCL hardware. What a version leaves out
//! or adds does no harm. Counts are of launches, not of completions, and move while a job runs: a difference means
//! something only when it stays over several looks.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::rank;

/// Longest text that is kept, in bytes.
const MAX_TEXT: usize = 256;

/// An answer in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ras {
    /// NCCL's version, as it tells it; empty where it does not.
    pub nccl_version: String,
    /// Communicators.
    pub communicators: Vec<Communicator>,
}

/// One communicator: a process group's connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Communicator {
    /// What tells it from others.
    pub hash: String,
    /// Ranks that belong to it.
    pub size: u64,
    /// Ranks that answered.
    pub ranks: Vec<Member>,
    /// Ranks that did not.
    pub missing: Vec<Missing>,
}

/// A rank in a communicator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Number in the communicator; not the global rank.
    pub rank: u32,
    /// Host.
    pub host: String,
    /// Process id on that host.
    pub pid: i64,
    /// GPU by NVML's number, if told.
    pub nvml_dev: Option<u64>,
    /// NCCL's error code of what runs asynchronously; 0 is none.
    pub async_error: i64,
    /// Whether it is being aborted.
    pub aborted: bool,
    /// Collectives launched, by their names.
    pub counts: BTreeMap<String, u64>,
}

/// A rank that did not answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Number in the communicator.
    pub rank: u32,
    /// Host.
    pub host: String,
    /// Process id on that host.
    pub pid: i64,
    /// Whether NCCL has given it up.
    pub considered_dead: bool,
}

/// Ranks of a communicator that launched less than the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// The communicator.
    pub hash: String,
    /// Name of the collective, as NCCL has it: `AllReduce`.
    pub op: String,
    /// Numbers in the communicator, with the count of each.
    pub behind: BTreeMap<u32, u64>,
    /// The count of the others.
    pub most: u64,
    /// One sentence.
    pub text: String,
}

impl Ras {
    /// Reads an answer; `None` when it is no JSON of RAS.
    pub fn parse(bytes: &[u8]) -> Option<Ras> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let communicators = value.get("communicators")?.as_array()?.iter().map(communicator).collect();
        Some(Ras { nccl_version: text(value.get("nccl_version")), communicators })
    }

    /// Where ranks have launched different numbers of the same collective.
    pub fn lags(&self) -> Vec<Lag> {
        self.communicators.iter().flat_map(Communicator::lags).collect()
    }

    /// What there is, in lines.
    pub fn text(&self) -> String {
        let mut lines =
            vec![format!("NCCL {}, {} communicators", self.nccl_version, self.communicators.len())];
        for of in &self.communicators {
            lines.push(format!("{}: {} of {} ranks answer", of.hash, of.ranks.len(), of.size));
            lines.extend(of.lags().into_iter().map(|lag| format!("  {}", lag.text)));
            for missing in &of.missing {
                let state = if missing.considered_dead { "given up by NCCL" } else { "does not answer" };
                lines.push(format!(
                    "  rank {} (pid {} on {}) {state}",
                    missing.rank, missing.pid, missing.host
                ));
            }
            let broken = of.ranks.iter().filter(|member| member.async_error != 0 || member.aborted);
            lines.extend(broken.map(|member| {
                let what = if member.aborted { "is being aborted" } else { "has an error" };
                format!(
                    "  rank {} (pid {} on {}) {what}, code {}",
                    member.rank, member.pid, member.host, member.async_error
                )
            }));
        }
        lines.join("\n")
    }
}

impl Communicator {
    fn lags(&self) -> Vec<Lag> {
        let mut ops: Vec<&String> = self.ranks.iter().flat_map(|member| member.counts.keys()).collect();
        ops.sort_unstable();
        ops.dedup();
        let count = |member: &Member, op: &String| member.counts.get(op).copied().unwrap_or(0);
        let lag = |op: &String| {
            let most = self.ranks.iter().map(|member| count(member, op)).max()?;
            let behind: BTreeMap<u32, u64> = self
                .ranks
                .iter()
                .map(|member| (member.rank, count(member, op)))
                .filter(|(_, count)| *count < most)
                .collect();
            let (least, ranks) = (*behind.values().min()?, behind.keys().copied().collect::<Vec<_>>());
            let has = if ranks.len() == 1 { "has" } else { "have" };
            let text = format!(
                "{} of {} {has} launched {op} {least} times, others {most}",
                rank::list(&ranks),
                self.hash
            );
            Some(Lag { hash: self.hash.clone(), op: op.clone(), behind, most, text })
        };
        ops.into_iter().filter_map(lag).collect()
    }
}

fn communicator(value: &Value) -> Communicator {
    let list = |name| value.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice).iter();
    Communicator {
        hash: text(value.get("hash")),
        size: number(value.get("size")).unwrap_or(0),
        ranks: list("ranks").map(member).collect(),
        missing: list("missing_ranks").map(missing).collect(),
    }
}

fn member(value: &Value) -> Member {
    let status = |name: &str| value.get("status").and_then(|status| status.get(name));
    let counts = value.get("collective_counts").and_then(Value::as_object);
    Member {
        rank: number(value.get("rank")).unwrap_or(0) as u32,
        host: text(value.get("host")),
        pid: value.get("pid").and_then(Value::as_i64).unwrap_or(0),
        nvml_dev: number(value.get("nvml_dev")),
        async_error: status("async_error").and_then(Value::as_i64).unwrap_or(0),
        aborted: is_on(status("abort_flag")),
        counts: counts
            .into_iter()
            .flatten()
            .filter_map(|(name, count)| Some((clean(name), number(Some(count))?)))
            .collect(),
    }
}

fn missing(value: &Value) -> Missing {
    Missing {
        rank: number(value.get("rank")).unwrap_or(0) as u32,
        host: text(value.get("host")),
        pid: value.get("pid").and_then(Value::as_i64).unwrap_or(0),
        considered_dead: is_on(value.get("status").and_then(|status| status.get("considered_dead"))),
    }
}

fn is_on(value: Option<&Value>) -> bool {
    value.is_some_and(|value| {
        value.as_bool().unwrap_or(false) || value.as_i64().is_some_and(|number| number != 0)
    })
}

fn number(value: Option<&Value>) -> Option<u64> {
    value.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()))
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => clean(text),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn clean(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The fields as NCCL documents them.
    const ANSWER: &str = r#"{"nccl_version": "2.30.7", "communicators_count": 1, "communicators": [{
        "hash": "0xcf264af5", "secondary_hash": "0x1", "size": 4, "ranks_count": 3, "missing_ranks_count": 1,
        "ranks": [
          {"rank": 0, "host": "a", "pid": 10, "cuda_dev": 0, "nvml_dev": 0,
           "status": {"init_state": 0, "async_error": 0, "finalize_called": false, "destroy_flag": false, "abort_flag": false},
           "collective_counts": {"Broadcast": 1, "AllReduce": 6650}},
          {"rank": 1, "host": "a", "pid": 11, "nvml_dev": 1, "status": {"async_error": 3},
           "collective_counts": {"Broadcast": 1, "AllReduce": 6649}},
          {"rank": 2, "host": "b", "pid": 12, "nvml_dev": 0, "status": {}, "collective_counts": {"Broadcast": 1, "AllReduce": 6650}}],
        "missing_ranks": [{"rank": 3, "host": "b", "pid": 13, "status": {"unresponsive": true, "considered_dead": false}}]}],
        "ras": {"collection_time_sec": 0.1, "timeouts_count": 0}}"#;

    #[test]
    fn counts_tell_who_is_behind() {
        let ras = Ras::parse(ANSWER.as_bytes()).unwrap();
        let lags = ras.lags();
        assert_eq!(lags.len(), 1);
        assert_eq!(lags[0].text, "rank 1 of 0xcf264af5 has launched AllReduce 6649 times, others 6650");
        assert_eq!((lags[0].behind.clone(), lags[0].most), (BTreeMap::from([(1, 6649)]), 6650));
        let text = ras.text();
        for line in [
            "3 of 4 ranks answer",
            "rank 3 (pid 13 on b) does not answer",
            "rank 1 (pid 11 on a) has an error, code 3",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn text_of_old_versions_is_no_json() {
        assert_eq!(Ras::parse(b"NCCL version 2.24.3 compiled with CUDA 12.8\nJob summary\n===\n"), None);
        assert_eq!(Ras::parse(b"{}"), None);
    }

    proptest! {
        #[test]
        fn no_answer_does_harm(cut in 0..ANSWER.len(), from in "[0-9a-z\":{}\\[\\],]{1,3}", to in "[0-9a-z\":{}\\[\\],-]{0,5}") {
            let _ = Ras::parse(&ANSWER.as_bytes()[..cut]);
            if let Some(ras) = Ras::parse(ANSWER.replace(&from, &to).as_bytes()) {
                let _ = (ras.text(), ras.lags());
            }
        }
    }
}
