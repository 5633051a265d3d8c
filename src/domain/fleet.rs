//! All ranks of a job over all its nodes, as an overview needs them: numbers only, with levels that do not flicker.
//!
//! A fleet is made of the states of one or many nodes, and made anew when they change. It remembers the levels that
//! it gave, and nothing else.

use std::time::Duration;

use super::{
    cluster::shift,
    gpu::{fold::Gpus, words::TROUBLE},
    rank::{JobState, RankState},
    state::{Rank, State},
    suspicion::{self, Figures, Norms, SUSPECT},
    time::Stamp,
};

/// Heartbeats come once a second; one that is older than this is worth a look.
pub const STALE_BEAT: Duration = Duration::from_secs(5);

/// Figures of GPUs that are older than this are left out.
const STALE_GPU: Duration = Duration::from_secs(15);

/// Which rank: position of its node in the fleet, and its own on the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RankId {
    /// Index into [`Fleet::nodes`].
    pub node: u32,
    /// Position on the node.
    pub local: u32,
}

/// What is known of one node when a fleet is made.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// What its supervisor told.
    pub state: &'a State,
    /// What it is called; `None` means by its own host name.
    pub host: Option<&'a str>,
    /// How far its clock is ahead of the reader's, in milliseconds.
    pub ahead_ms: i64,
    /// How long nothing was heard of it; `None` while it answers.
    pub silent: Option<Duration>,
}

impl Source<'_> {
    /// A node that answers, with the reader's own clock.
    pub fn new(state: &State) -> Source<'_> {
        Source { state, host: None, ahead_ms: 0, silent: None }
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRow {
    /// Host name, or `?` before it is known.
    pub name: String,
    /// What the job does there.
    pub state: JobState,
    /// How long nothing was heard of it; `None` while it answers.
    pub silent: Option<Duration>,
    /// Its ranks in [`Fleet::ranks`].
    first: u32,
    count: u32,
    /// The highest level of its ranks.
    pub worst: u8,
    /// The rank that has it, as an index into [`Fleet::ranks`].
    pub worst_rank: Option<u32>,
}

impl NodeRow {
    /// Its ranks, as indices into [`Fleet::ranks`].
    pub fn ranks(&self) -> std::ops::Range<usize> {
        self.first as usize..(self.first + self.count) as usize
    }
}

/// One rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankRow {
    /// Which.
    pub id: RankId,
    /// Global rank, if known.
    pub rank: Option<u32>,
    /// What it is doing.
    pub state: RankState,
    /// Since when.
    pub since: Stamp,
    /// Whether it ended as it should.
    pub ended_well: bool,
    /// Whether the failure of its attempt began with it.
    pub is_cause: bool,
    /// What is compared with the peers.
    pub figures: Figures,
    /// Last step told.
    pub step: Option<u64>,
    /// When it told that, by the reader's clock.
    step_at: Option<Stamp>,
    /// Resident memory in bytes.
    pub rss_bytes: Option<u64>,
    /// Age of the last heartbeat, of a rank that lives.
    pub beat_age: Option<Duration>,
    /// How suspicious it is, in robust standard deviations; states that are bad by themselves have a score of 12 or more.
    pub score: f32,
    /// The same in five levels.
    pub level: u8,
    /// Step of the chosen metric, 0 to 4; `None` when it is not known.
    pub heat: Option<u8>,
}

impl RankRow {
    /// The number to show.
    pub fn number(&self) -> u32 {
        self.rank.unwrap_or(self.id.local)
    }

    /// Whether it failed: it is shown whatever the filter.
    pub fn has_failed(&self) -> bool {
        matches!(self.state, RankState::Zombie | RankState::Orphan)
            || self.state == RankState::Exited && !self.ended_well
    }
}

/// What the cells of the overview tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metric {
    /// Distance from the peers.
    #[default]
    Suspicion,
    /// Steps behind the furthest.
    StepLag,
    /// Use of the GPU.
    Gpu,
    /// Use of the CPU.
    Cpu,
    /// Resident memory, relative to the largest.
    Memory,
    /// Age of the last heartbeat.
    Beat,
}

impl Metric {
    /// All, in the order in which a key goes through them.
    pub const ALL: [Metric; 6] =
        [Metric::Suspicion, Metric::StepLag, Metric::Gpu, Metric::Cpu, Metric::Memory, Metric::Beat];

    /// Its name on screen.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Suspicion => "suspicion",
            Metric::StepLag => "step lag",
            Metric::Gpu => "GPU %",
            Metric::Cpu => "CPU %",
            Metric::Memory => "memory",
            Metric::Beat => "heartbeat age",
        }
    }

    /// The value, in the unit of [`Metric::edges`].
    fn value(self, rank: &RankRow, largest_rss: u64) -> Option<f32> {
        match self {
            Metric::Suspicion => Some(rank.score),
            Metric::StepLag => rank.figures.step_lag,
            Metric::Gpu => rank.figures.gpu_pct,
            Metric::Cpu => rank.figures.cpu_pct,
            Metric::Memory => rank.rss_bytes.map(|bytes| bytes as f32 / largest_rss.max(1) as f32 * 100.0),
            Metric::Beat => rank.beat_age.map(|age| age.as_secs_f32()),
        }
    }

    /// Where steps 1 to 4 begin, and how far a value must pass an edge to change its step. Edges lie away from where
    /// healthy values are.
    fn edges(self) -> ([f32; 4], f32) {
        match self {
            Metric::Suspicion | Metric::StepLag => ([1.0, 3.0, 10.0, 30.0], 0.0),
            Metric::Gpu | Metric::Cpu => ([5.0, 20.0, 50.0, 80.0], 3.0),
            Metric::Memory => ([20.0, 40.0, 60.0, 85.0], 2.0),
            Metric::Beat => ([3.0, 5.0, 15.0, 60.0], 0.5),
        }
    }

    /// What the steps mean, from 0 to 4.
    pub fn legend(self) -> [&'static str; 5] {
        match self {
            Metric::Suspicion => ["alike", "slight", "odd", "suspect", "bad"],
            Metric::StepLag => ["0", "1", "3", "10", "30 steps behind"],
            Metric::Gpu | Metric::Cpu => ["<5", "5", "20", "50", "80 % or more"],
            Metric::Memory => ["<20", "20", "40", "60", "85 % of the largest"],
            Metric::Beat => ["<3", "3", "5", "15", "60 s and older"],
        }
    }
}

/// In which order ranks are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The most suspicious first; those that are alike by number.
    #[default]
    Suspicion,
    /// By global rank.
    Rank,
    /// The furthest behind first.
    Step,
    /// The busiest CPU first.
    Cpu,
    /// The largest first.
    Memory,
    /// The idlest GPU first.
    Gpu,
}

impl Order {
    /// All, in the order in which a key goes through them.
    pub const ALL: [Order; 6] =
        [Order::Suspicion, Order::Rank, Order::Step, Order::Cpu, Order::Memory, Order::Gpu];

    /// Its name on screen.
    pub fn name(self) -> &'static str {
        match self {
            Order::Suspicion => "suspicion",
            Order::Rank => "rank",
            Order::Step => "step",
            Order::Cpu => "cpu",
            Order::Memory => "memory",
            Order::Gpu => "gpu",
        }
    }

    /// Sorts indices into [`Fleet::ranks`]. Those that are alike stay in the order of the fleet.
    pub fn sort(self, ranks: &[RankRow], rows: &mut [u32]) {
        rows.sort_by_cached_key(|row| (self.key(&ranks[*row as usize]), *row));
    }

    /// Lowest first; what is not known last.
    fn key(self, row: &RankRow) -> u64 {
        const UNKNOWN: u64 = u64::MAX;
        let falling = |value: u64| (UNKNOWN - 1).saturating_sub(value);
        // Whole numbers, so that rows do not change places for a tenth.
        let whole = |value: f32| value.round() as u64;
        match self {
            Order::Suspicion => {
                u64::from(u8::MAX - row.level) << 2
                    | u64::from(!row.is_cause) << 1
                    | u64::from(!row.has_failed())
            }
            Order::Rank => row.rank.map_or(UNKNOWN, u64::from),
            Order::Step => row.step.unwrap_or(UNKNOWN),
            Order::Cpu => row.figures.cpu_pct.map_or(UNKNOWN, |share| falling(whole(share))),
            Order::Memory => row.rss_bytes.map_or(UNKNOWN, falling),
            Order::Gpu => row.figures.gpu_pct.map_or(UNKNOWN, whole),
        }
    }
}

/// All ranks, by node and position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    /// In the order of the sources.
    pub nodes: Vec<NodeRow>,
    /// In the order of [`RankId`].
    pub ranks: Vec<RankRow>,
    /// What is normal.
    pub norms: Norms,
    /// What the cells tell.
    metric: Metric,
    /// What the ranks were given last, in the same order.
    given: Vec<Given>,
    former: Vec<Given>,
    front: Option<Front>,
}

/// What a rank was given, by which it is judged the next time. Kept apart from the rows: of thousands of ranks those are
/// more than a processor has at hand.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Given {
    id: RankId,
    level: u8,
    heat: Option<u8>,
}

/// Ranks are looked at once in this time.
const LOOK: Duration = Duration::from_millis(2500);

/// The rank that is furthest.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Front {
    step: u64,
    /// When it told that step.
    at: Option<Stamp>,
    /// Steps that the job makes in a second, as far as known.
    pace: f32,
}

impl Front {
    /// How far behind a rank is that told of `step` at `at`. Ranks are heard at different moments: what the job makes
    /// in between is no lag.
    fn lag(&self, step: u64, at: Option<Stamp>) -> f32 {
        let behind = self.step.saturating_sub(step) as f32;
        let between = self.at.zip(at).map_or(Duration::ZERO, |(front, at)| front.since(at).min(LOOK));
        if behind <= (self.pace * between.as_secs_f32()).ceil() { 0.0 } else { behind }
    }
}

/// Steps a second since the newest attempt's first.
fn pace(state: &State) -> Option<f32> {
    let attempt = state.attempts.back()?;
    let ((first, began), (last, at)) = attempt.first_step.zip(attempt.last_step.zip(attempt.last_step_at))?;
    let seconds = at.since(began).as_secs_f32();
    (seconds > 0.0).then(|| last.saturating_sub(first) as f32 / seconds)
}

impl Fleet {
    /// Looks at all nodes anew. Levels depend on those before, so that they do not flicker.
    pub fn refresh<'a>(&mut self, now: Stamp, metric: Metric, sources: impl Iterator<Item = Source<'a>>) {
        if self.metric != metric {
            self.given.iter_mut().for_each(|given| given.heat = None);
            self.metric = metric;
        }
        std::mem::swap(&mut self.former, &mut self.given);
        self.ranks.clear();
        self.front = self.take_nodes(now, sources);
        self.compare();
        self.judge(metric);
    }

    /// Takes over what all nodes tell; gives the rank that is furthest.
    fn take_nodes<'a>(&mut self, now: Stamp, sources: impl Iterator<Item = Source<'a>>) -> Option<Front> {
        let (mut count, mut fastest) = (0, 0.0_f32);
        let mut furthest: Option<(u64, Option<Stamp>)> = None;
        for (n, source) in sources.enumerate() {
            let first = self.ranks.len();
            let over = source.state.state.is_over();
            let there = shift(now, -source.ahead_ms);
            fastest = pace(source.state).map_or(fastest, |pace| pace.max(fastest));
            let cause = source.state.attempts.back().and_then(|attempt| attempt.cause.as_ref()?.rank);
            let gpus = source.state.gpus.as_ref().filter(|_| !over);
            for rank in &source.state.ranks {
                let mut row = row(there, &source, n as u32, rank);
                row.is_cause = cause.is_some() && cause == row.rank && !row.state.is_alive();
                if let Some(gpus) = gpus {
                    take_gpu(there, gpus, &mut row);
                }
                if let Some(step) = row.step
                    && furthest.is_none_or(|(front, _)| step >= front)
                {
                    furthest = Some((step, row.step_at));
                }
                self.ranks.push(row);
            }
            self.put_node(n, first as u32, &source);
            count = n + 1;
        }
        self.nodes.truncate(count);
        furthest.map(|(step, at)| Front { step, at, pace: fastest })
    }

    fn put_node(&mut self, n: usize, first: u32, source: &Source) {
        let own = source.state.job.as_ref().map_or("?", |job| job.node.as_str());
        let name = source.host.unwrap_or(own);
        let row = NodeRow {
            name: String::new(),
            state: source.state.state,
            silent: source.silent,
            first,
            count: self.ranks.len() as u32 - first,
            worst: 0,
            worst_rank: None,
        };
        match self.nodes.get_mut(n) {
            Some(known) => {
                let mut kept = std::mem::take(&mut known.name);
                if kept != name {
                    name.clone_into(&mut kept);
                }
                *known = NodeRow { name: kept, ..row };
            }
            None => self.nodes.push(NodeRow { name: name.to_owned(), ..row }),
        }
    }

    /// Learns how far behind each rank is, and what is normal.
    fn compare(&mut self) {
        let front = self.front;
        let figures = self.ranks.iter_mut().filter_map(|rank| {
            let lag = front.zip(rank.step).map(|(front, step)| front.lag(step, rank.step_at));
            rank.figures.step_lag = lag;
            // A rank that is gone, or not there yet, is no peer.
            rank.state.is_alive().then_some(rank.figures)
        });
        self.norms = Norms::of(figures);
    }

    fn judge(&mut self, metric: Metric) {
        let largest = match metric {
            Metric::Memory => self.ranks.iter().filter_map(|rank| rank.rss_bytes).max().unwrap_or(0),
            _ => 0,
        };
        let mut former = self.former.iter().peekable();
        self.given.clear();
        for (at, rank) in self.ranks.iter_mut().enumerate() {
            while former.next_if(|before| before.id < rank.id).is_some() {}
            let before = former.peek().filter(|before| before.id == rank.id);
            let of_peers = if rank.state.is_alive() { self.norms.score(&rank.figures) } else { 0.0 };
            rank.score = of_peers.max(own_score(rank));
            rank.level = suspicion::level(rank.score, before.map_or(0, |before| before.level));
            let (edges, margin) = metric.edges();
            rank.heat = match metric {
                Metric::Suspicion => Some(rank.level),
                _ if !rank.state.is_alive() => None,
                _ => metric
                    .value(rank, largest)
                    .map(|value| suspicion::step(value, &edges, margin, before.and_then(|b| b.heat))),
            };
            self.given.push(Given { id: rank.id, level: rank.level, heat: rank.heat });
            let node = &mut self.nodes[rank.id.node as usize];
            if node.worst_rank.is_none() || rank.level > node.worst {
                (node.worst, node.worst_rank) = (rank.level, Some(at as u32));
            }
        }
    }

    /// The rank, if it is there.
    pub fn rank(&self, id: RankId) -> Option<&RankRow> {
        self.position(id).map(|at| &self.ranks[at])
    }

    /// Its index in [`Fleet::ranks`].
    pub fn position(&self, id: RankId) -> Option<usize> {
        self.ranks.binary_search_by_key(&id, |rank| rank.id).ok()
    }

    /// The highest step of all ranks.
    pub fn furthest(&self) -> Option<u64> {
        self.front.map(|front| front.step)
    }

    /// Ranks worth a look, as indices; the worst first.
    pub fn suspects(&self) -> Vec<u32> {
        let mut rows: Vec<u32> =
            (0..self.ranks.len() as u32).filter(|row| self.ranks[*row as usize].level >= SUSPECT).collect();
        Order::Suspicion.sort(&self.ranks, &mut rows);
        rows
    }

    /// Why a rank is suspicious, in one line; empty when it is not.
    pub fn reason(&self, now: Stamp, rank: &RankRow) -> String {
        let since = super::time::human(now.since(rank.since));
        let own = match rank.state {
            RankState::Zombie => format!("dead and not reaped for {since}"),
            RankState::Exited if rank.ended_well => return String::new(),
            RankState::Exited => format!("gone for {since}"),
            RankState::Orphan => format!("its agent is dead for {since}"),
            RankState::Stopped => format!("stopped for {since}"),
            RankState::Blocked => format!("in uninterruptible sleep for {since}"),
            RankState::GilStuck => format!("something holds Python's lock for {since}"),
            RankState::Lagging => format!("others wait for it for {since}"),
            _ => match rank.beat_age.filter(|age| *age >= STALE_BEAT) {
                Some(age) => suspicion::silence(age),
                None => String::new(),
            },
        };
        let peers = if rank.state.is_alive() { self.norms.explain(&rank.figures) } else { String::new() };
        match (own.is_empty(), peers.is_empty()) {
            (false, false) => format!("{own}; {peers}"),
            _ => own + &peers,
        }
    }

    /// Whether any rank tells this metric.
    pub fn knows(&self, metric: Metric) -> bool {
        metric == Metric::Suspicion || self.ranks.iter().any(|rank| metric.value(rank, 1).is_some())
    }
}

/// How bad a state is by itself, on the scale of the score.
fn own_score(rank: &RankRow) -> f32 {
    match rank.state {
        RankState::Zombie | RankState::Orphan | RankState::GilStuck => 20.0,
        RankState::Exited if !rank.ended_well => 20.0,
        RankState::Stopped | RankState::Blocked => 13.0,
        RankState::Lagging => 8.0,
        _ if rank.beat_age.is_some_and(|age| age >= 12 * STALE_BEAT) => 7.0,
        _ if rank.beat_age.is_some_and(|age| age >= STALE_BEAT) => 4.0,
        _ => 0.0,
    }
}

/// `now` is by the node's clock. Of a node that tells nothing any more, ages of heartbeats mean nothing.
fn row(now: Stamp, source: &Source, node: u32, rank: &Rank) -> RankRow {
    let alive = rank.state.is_alive();
    let frozen = source.silent.is_some() || source.state.state.is_over();
    // Who told of groups and stands in none is with the others.
    let standing = rank.standing.as_ref().map(|standing| standing.behind as f32);
    let behind = standing.or((!rank.groups.is_empty()).then_some(0.0)).filter(|_| alive);
    RankRow {
        id: RankId { node, local: rank.local_rank },
        rank: rank.place.rank,
        state: rank.state,
        since: shift(rank.state_since, source.ahead_ms),
        // SIGTERM is how the agent ends the peers of a rank that failed.
        ended_well: rank.exit.is_some_and(|exit| exit.is_success() || exit == super::exit::Exit::Signal(15)),
        is_cause: false,
        figures: Figures { collective_lag: behind, cpu_pct: rank.cpu_pct, ..Figures::default() },
        step: rank.step,
        step_at: rank.step_at.map(|at| shift(at, source.ahead_ms)),
        rss_bytes: rank.rss_bytes.filter(|_| alive),
        beat_age: rank.beat_at.filter(|_| alive && !frozen).map(|at| now.since(at)),
        score: 0.0,
        level: 0,
        heat: None,
    }
}

/// What the driver tells of a rank's first GPU, unless that is old: a driver that hangs says nothing new.
fn take_gpu(now: Stamp, gpus: &Gpus, row: &mut RankRow) {
    let fresh = gpus.at.is_some_and(|at| now.since(at) < STALE_GPU);
    let Some((gpu, ..)) = gpus.of_rank(row.id.local).filter(|_| fresh && row.state.is_alive()) else {
        return;
    };
    let sample = &gpu.sample;
    let figures = &mut row.figures;
    figures.gpu_pct = sample.util_pct.map(|share| share as f32);
    figures.power_w = sample.power_mw.map(|milliwatts| milliwatts as f32 / 1000.0);
    figures.clock_mhz = sample.sm_clock_mhz.map(|clock| clock as f32);
    figures.throttled = sample.throttle.map(|bits| bits & TROUBLE != 0);
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
