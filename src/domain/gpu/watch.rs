//! What is wrong with GPUs, as alerts. Late rather than wrong: a condition has to last before it is told.

use std::{collections::BTreeMap, time::Duration};

use super::{
    GpuSample, XidSeen,
    leftover::{self, Leftover},
    words,
};
use crate::domain::{
    alert::{Alert, AlertKind},
    telling::rank_tag,
    time::{Stamp, human},
};

/// Heat or power brake for this long is told.
const THROTTLED_FOR: Duration = Duration::from_secs(30);
/// … and is over when it was not seen for this long: it comes and goes in seconds.
const COOL_FOR: Duration = Duration::from_secs(30);
/// A GPU that does nothing for this long while its rank runs is told: a checkpoint or an evaluation on the CPU takes
/// minutes now and then.
const IDLE_FOR: Duration = Duration::from_secs(300);
/// A process with less memory than this has a context and no work to do.
const HOLDS_WORK: u64 = 1 << 30;
/// A leftover may be on its way out.
const LEFTOVER_FOR: Duration = Duration::from_secs(20);
/// An error of a GPU is news for this long.
const XID_FOR: Duration = Duration::from_secs(600);
/// Looks further apart than this do not belong together.
const MAX_GAP: Duration = Duration::from_secs(15);

/// One look at a rank and its GPUs.
#[derive(Clone, Debug)]
pub struct RankLook<'a> {
    /// Position on the node.
    pub local_rank: u32,
    /// Its global rank, if known.
    pub rank: Option<u32>,
    /// Its process.
    pub pid: i32,
    /// Whether it runs: not starting, stopped, waiting for others or being ended.
    pub is_running: bool,
    /// Its GPUs.
    pub gpus: Vec<&'a GpuSample>,
}

impl RankLook<'_> {
    /// Its name in a sentence: `r3`.
    fn tag(&self) -> String {
        rank_tag(self.rank, self.local_rank)
    }
}

/// What the machine tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Something is wrong.
    Raise(Alert),
    /// It is not any more.
    Clear(AlertKind, Option<u32>),
}

/// A condition that has to last.
#[derive(Clone, Copy, Debug)]
struct Lasting {
    since: Stamp,
    last: Stamp,
    told: bool,
}

/// Watches the GPUs of one job.
#[derive(Debug, Default)]
pub struct GpuWatch {
    looked: Option<Stamp>,
    lasting: BTreeMap<(AlertKind, Option<u32>), (Lasting, i32)>,
    xids: BTreeMap<Option<u32>, Stamp>,
}

impl GpuWatch {
    /// A look at all ranks that live, and at who holds memory and belongs to none.
    pub fn look(&mut self, now: Stamp, ranks: &[RankLook], leftovers: &[Leftover], out: &mut Vec<Output>) {
        let torn = self.looked.is_none_or(|last| now.since(last) > MAX_GAP);
        self.looked = Some(now);
        if torn {
            // Nobody knows what was in between: what was not told yet begins anew.
            self.lasting.retain(|_, (lasting, _)| lasting.told);
        }
        for rank in ranks {
            let throttled = rank.gpus.iter().find(|gpu| gpu.throttle.unwrap_or(0) & words::TROUBLE != 0);
            self.hold(now, AlertKind::Thermal, rank, throttled.map(|gpu| hot(rank, gpu)), out);
            self.hold(now, AlertKind::IdleGpu, rank, idle(rank), out);
        }
        let gone = |local: &Option<u32>| local.is_some_and(|l| ranks.iter().all(|r| r.local_rank != l));
        // The alerts of a rank that died were cleared with it.
        self.lasting.retain(|(_, local), _| !gone(local));
        let left = leftover::sentence(leftovers);
        let listed =
            || leftovers.iter().filter(|l| l.reason == leftover::LeftoverKind::DeadJob).map(evidence);
        let told = left.map(|text| (text, listed().collect()));
        self.last(now, (AlertKind::GpuLeftover, None), 0, told, (LEFTOVER_FOR, Duration::ZERO), out);
        let over: Vec<_> =
            self.xids.iter().filter(|(_, at)| now.since(**at) >= XID_FOR).map(|(who, _)| *who).collect();
        for who in over {
            self.xids.remove(&who);
            out.push(Output::Clear(AlertKind::Xid, who));
        }
    }

    /// The driver told of an error. `rank` has the GPU; `recovery` is what the driver wants done, if it says so.
    pub fn xid(
        &mut self,
        now: Stamp,
        seen: XidSeen,
        rank: Option<(u32, &str)>,
        recovery: Option<u32>,
    ) -> Option<Output> {
        if !words::is_alarming(seen.xid) {
            return None;
        }
        let local_rank = rank.map(|(local, _)| local);
        self.xids.insert(local_rank, now);
        let meaning = words::xid(seen.xid).map(|words| format!(": {words}")).unwrap_or_default();
        let gpu = seen.gpu.map_or("a GPU".to_owned(), |gpu| format!("GPU {gpu}"));
        let whose = rank.map(|(_, tag)| format!(" of {tag}")).unwrap_or_default();
        let mut evidence = vec![format!("the driver told of Xid {} by an event", seen.xid)];
        if words::is_hardware(seen.xid) {
            evidence
                .push("the hardware is at fault, not the job: a restart on this node may fail again".into());
        }
        evidence.extend(
            recovery
                .filter(|action| *action != 0)
                .map(|a| format!("the driver asks for: {}", words::recovery(a))),
        );
        Some(Output::Raise(Alert {
            kind: AlertKind::Xid,
            local_rank,
            since: now,
            text: format!("Xid {} on {gpu}{whose}{meaning}", seen.xid),
            evidence,
            acts_at: None,
        }))
    }

    /// A new group of ranks starts: what was wrong with ranks was cleared with them.
    pub fn restarted(&mut self) {
        self.lasting.retain(|(_, local), _| local.is_none());
        self.xids.retain(|local, _| local.is_none());
    }

    fn hold(
        &mut self,
        now: Stamp,
        kind: AlertKind,
        rank: &RankLook,
        seen: Option<(String, Vec<String>)>,
        out: &mut Vec<Output>,
    ) {
        let key = (kind, Some(rank.local_rank));
        if self.lasting.get(&key).is_some_and(|(_, pid)| *pid != rank.pid) {
            self.lasting.remove(&key);
        }
        let times = match kind {
            AlertKind::Thermal => (THROTTLED_FOR, COOL_FOR),
            _ => (IDLE_FOR, Duration::ZERO),
        };
        self.last(now, key, rank.pid, seen, times, out);
    }

    /// Tells of a condition that held for the first time of `times`, and of its end after the second.
    fn last(
        &mut self,
        now: Stamp,
        key: (AlertKind, Option<u32>),
        pid: i32,
        seen: Option<(String, Vec<String>)>,
        (raise_after, clear_after): (Duration, Duration),
        out: &mut Vec<Output>,
    ) {
        let Some((text, evidence)) = seen else {
            let over = |lasting: &Lasting| now.since(lasting.last) >= clear_after;
            if self.lasting.get(&key).is_some_and(|(lasting, _)| !lasting.told || over(lasting))
                && let Some((lasting, _)) = self.lasting.remove(&key)
                && lasting.told
            {
                out.push(Output::Clear(key.0, key.1));
            }
            return;
        };
        let new = Lasting { since: now, last: now, told: false };
        let (lasting, _) = self.lasting.entry(key).or_insert((new, pid));
        lasting.last = now;
        if lasting.told || now.since(lasting.since) < raise_after {
            return;
        }
        lasting.told = true;
        let since = lasting.since;
        let alert = Alert { kind: key.0, local_rank: key.1, since, text, evidence, acts_at: None };
        out.push(Output::Raise(alert));
    }
}

fn hot(rank: &RankLook, gpu: &GpuSample) -> (String, Vec<String>) {
    let bits = gpu.throttle.unwrap_or(0);
    let by = if bits & 0x60 == 0 { "the power brake" } else { "heat" };
    let mut evidence = vec![format!("reasons of the driver: {}", words::throttle(bits).join(", "))];
    evidence.extend(gpu.temp_c.map(|celsius| format!("{celsius} °C")));
    evidence.extend(gpu.sm_clock_mhz.map(|mhz| format!("{mhz} MHz")));
    (format!("GPU {} of {} is slowed down by {by}", gpu.index, rank.tag()), evidence)
}

/// All GPUs of a rank do nothing, while it holds memory that is worth work.
fn idle(rank: &RankLook) -> Option<(String, Vec<String>)> {
    let holds = |gpu: &GpuSample| {
        let held = gpu.procs.iter().flatten().filter(|proc| proc.pid == rank.pid);
        held.filter_map(|proc| proc.used_bytes).sum::<u64>()
    };
    let first = rank.gpus.first()?;
    if !rank.is_running || rank.gpus.iter().any(|gpu| gpu.util_pct != Some(0) || gpu.lost) {
        return None;
    }
    let held: u64 = rank.gpus.iter().map(|gpu| holds(gpu)).sum();
    (held >= HOLDS_WORK).then(|| {
        (
            format!("GPU {} of {} has done nothing for {}", first.index, rank.tag(), human(IDLE_FOR)),
            vec![
                format!("utilisation 0 % in every look for {}", human(IDLE_FOR)),
                format!("{} holds {:.1} GiB of its memory", rank.tag(), held as f64 / f64::from(1 << 30)),
            ],
        )
    })
}

fn evidence(leftover: &Leftover) -> String {
    let gpus = leftover.gpus.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let bytes = leftover.used_bytes.map(|bytes| format!(", {:.1} GiB", bytes as f64 / f64::from(1 << 30)));
    format!("pid {} on GPU {gpus}{}: {}", leftover.proc, bytes.unwrap_or_default(), leftover.command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{gpu::GpuProc, gpu::leftover::LeftoverKind, id::ProcId};

    const HOT: u64 = 0x40;

    struct Story {
        watch: GpuWatch,
        told: Vec<String>,
    }

    impl Story {
        fn new() -> Story {
            Story { watch: GpuWatch::default(), told: Vec::new() }
        }

        fn put(&mut self, second: u64, out: Vec<Output>) {
            self.told.extend(out.into_iter().map(|output| match output {
                Output::Raise(alert) => format!("{second} {}", alert.text),
                Output::Clear(kind, local) => format!("{second} over {kind:?} {local:?}"),
            }));
        }

        fn look(&mut self, second: u64, util: u32, throttle: u64, is_running: bool) {
            let gpu = GpuSample {
                index: 3,
                util_pct: Some(util),
                throttle: Some(throttle),
                procs: Some(vec![GpuProc { pid: 7, used_bytes: Some(2 << 30), gpu_instance_id: None }]),
                ..GpuSample::default()
            };
            let rank = RankLook { local_rank: 1, rank: Some(9), pid: 7, is_running, gpus: vec![&gpu] };
            let mut out = Vec::new();
            self.watch.look(Stamp(second * 1000), &[rank], &[], &mut out);
            self.put(second, out);
        }
    }

    #[test]
    fn heat_is_told_when_it_lasts_and_is_over_when_it_stays_away() {
        let mut story = Story::new();
        // Ten seconds of heat now and then are no news.
        for second in 0..200 {
            story.look(second, 90, if second % 20 < 10 { HOT } else { 0x4 }, true);
        }
        assert_eq!(story.told, Vec::<String>::new());
        // Seldom away once it is told: still the same heat.
        for second in 200..330 {
            let cool = second > 280 || second > 240 && second % 10 == 0;
            story.look(second, 90, if cool { 0 } else { HOT }, true);
        }
        assert_eq!(story.told, ["230 GPU 3 of r9 is slowed down by heat", "309 over Thermal Some(1)"]);
    }

    #[test]
    fn a_gpu_is_idle_only_while_its_rank_runs_and_holds_work() {
        let mut story = Story::new();
        for second in 0..299 {
            story.look(second, 0, 0x1, true);
        }
        story.look(299, 1, 0, true);
        for second in 300..900 {
            story.look(second, 0, 0x1, !(500..=550).contains(&second));
        }
        story.look(900, 12, 0, true);
        assert_eq!(story.told, ["851 GPU 3 of r9 has done nothing for 5m 00s", "900 over IdleGpu Some(1)"]);
    }

    #[test]
    fn a_hole_between_looks_proves_nothing() {
        let mut story = Story::new();
        story.look(0, 50, HOT, true);
        story.look(100, 50, HOT, true);
        assert_eq!(story.told, Vec::<String>::new());
    }

    #[test]
    fn leftovers_get_time_to_leave() {
        let mut story = Story::new();
        let left = |reason| Leftover {
            proc: ProcId { pid: 5, start: 1 },
            uid: Some(0),
            command: "python train.py".into(),
            reason,
            gpus: vec![0],
            used_bytes: Some(3 << 30),
        };
        for second in 0..60 {
            let all =
                if second < 40 { vec![left(LeftoverKind::DeadJob)] } else { vec![left(LeftoverKind::Other)] };
            let mut out = Vec::new();
            story.watch.look(Stamp(second * 1000), &[], &all, &mut out);
            story.put(second, out);
        }
        assert_eq!(
            story.told,
            ["20 process 5 of a job that is over holds 3.0 GiB of GPU 0", "40 over GpuLeftover None"]
        );
    }

    #[test]
    fn xids_say_what_they_mean_and_age() {
        let mut story = Story::new();
        let seen = |xid| XidSeen { gpu: Some(3), xid };
        assert_eq!(story.watch.xid(Stamp(0), seen(45), Some((1, "r9")), None), None);
        let Some(Output::Raise(alert)) = story.watch.xid(Stamp(0), seen(79), Some((1, "r9")), Some(2)) else {
            panic!("no alert")
        };
        assert_eq!(alert.text, "Xid 79 on GPU 3 of r9: the GPU has fallen off the bus");
        assert_eq!(alert.evidence[2], "the driver asks for: reboot the node");
        story.look(599, 5, 0, true);
        story.look(600, 5, 0, true);
        assert_eq!(story.told, ["600 over Xid Some(1)"]);
    }
}
