//! Which ranks stand out among their peers, how much, and why in one line.
//!
//! In training all ranks do the same: what matters is the distance from the others, not the level. Each figure is
//! compared with the median of all ranks, in units of the median absolute deviation (a robust z: a few odd ranks do
//! not move it). States that are bad by themselves count whatever the peers do.

use super::time::human;
use std::{fmt::Write as _, time::Duration};

/// Steps of suspicion: 0 is quiet, 4 is bad.
pub const LEVELS: u8 = 5;
/// The level from which a rank is listed as a suspect.
pub const SUSPECT: u8 = 2;
/// Scores at which levels 1 to 4 begin.
const EDGES: [f32; 4] = [2.0, 3.5, 6.0, 12.0];
/// A level is left downwards only below this share of the score at which it began.
const HOLD: f32 = 0.8;
/// With fewer ranks that tell a figure, there are no peers to compare with.
const FEWEST: usize = 4;
/// Turns a median absolute deviation into the standard deviation of a normal distribution.
const MAD_TO_SIGMA: f32 = 1.4826;
/// A score that a throttled GPU has at least.
const THROTTLED: f32 = 4.0;

/// What is compared. `None` is unknown, and never suspicious.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Steps behind the rank that is furthest.
    pub step_lag: Option<f32>,
    /// Collectives behind the rank that is furthest.
    pub collective_lag: Option<f32>,
    /// Use of the GPU, 0 to 100.
    pub gpu_pct: Option<f32>,
    /// Power of the GPU in watts.
    pub power_w: Option<f32>,
    /// Clock of the GPU's multiprocessors in MHz.
    pub clock_mhz: Option<f32>,
    /// Whether heat, power or a brake holds the GPU's clock down.
    pub throttled: Option<bool>,
    /// Use of the CPU, 100 is one core.
    pub cpu_pct: Option<f32>,
}

/// A figure that has peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    StepLag,
    CollectiveLag,
    Gpu,
    Power,
    Clock,
    Cpu,
}

const KINDS: [Kind; 6] = [Kind::StepLag, Kind::CollectiveLag, Kind::Gpu, Kind::Power, Kind::Clock, Kind::Cpu];

impl Kind {
    fn of(self, figures: &Figures) -> Option<f32> {
        let value = match self {
            Kind::StepLag => figures.step_lag,
            Kind::CollectiveLag => figures.collective_lag,
            Kind::Gpu => figures.gpu_pct,
            Kind::Power => figures.power_w,
            Kind::Clock => figures.clock_mhz,
            Kind::Cpu => figures.cpu_pct,
        };
        value.filter(|value| value.is_finite())
    }

    /// The least spread that counts: smaller differences are noise however alike the peers are.
    fn floor(self, median: f32) -> f32 {
        match self {
            Kind::StepLag | Kind::CollectiveLag => 0.5,
            Kind::Gpu => 6.0,
            Kind::Power => (median * 0.06).max(5.0),
            Kind::Clock => (median * 0.03).max(10.0),
            // Data loading and Python make CPU shares differ much: only a rank far below stands out.
            Kind::Cpu => (median * 0.25).max(15.0),
        }
    }

    /// How far on the bad side a value lies: behind for lags, below for all else.
    fn excess(self, value: f32, median: f32) -> f32 {
        match self {
            Kind::StepLag | Kind::CollectiveLag => value - median,
            _ => median - value,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::StepLag => "steps behind",
            Kind::CollectiveLag => "collectives behind",
            Kind::Gpu => "GPU %",
            Kind::Power => "power W",
            Kind::Clock => "clock MHz",
            Kind::Cpu => "CPU %",
        }
    }

    fn words(self, value: f32, median: f32) -> String {
        let share = |name: &str| {
            if median <= 0.0 {
                format!("{name} {value:.0}, peers {median:.0}")
            } else {
                format!("{name} {:+.0} % against peers", (value / median - 1.0) * 100.0)
            }
        };
        match self {
            Kind::StepLag => format!("{value:.0} steps behind"),
            Kind::CollectiveLag => format!("{value:.0} collectives behind"),
            Kind::Gpu => format!("GPU {value:.0} %, peers {median:.0} %"),
            Kind::Power => share("power"),
            Kind::Clock => format!("clock {value:.0} MHz, peers {median:.0}"),
            Kind::Cpu => share("CPU"),
        }
    }
}

/// One figure of a rank beside that of its peers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// What is compared, with its unit.
    pub name: &'static str,
    /// Of the rank.
    pub value: Option<f32>,
    /// The median of all; `None` when too few tell.
    pub median: Option<f32>,
    /// How far the rank is on the bad side, in robust standard deviations.
    pub apart: Option<f32>,
}

/// What is normal among the ranks: median and spread of every figure that enough of them tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Norms {
    known: [Option<(f32, f32)>; KINDS.len()],
}

impl Norms {
    /// Of these ranks. Order does not matter.
    pub fn of(figures: impl Iterator<Item = Figures>) -> Norms {
        let mut columns: [Vec<f32>; KINDS.len()] = Default::default();
        for figures in figures {
            KINDS.iter().zip(&mut columns).for_each(|(kind, column)| column.extend(kind.of(&figures)));
        }
        let known = std::array::from_fn(|at| {
            let (kind, values) = (KINDS[at], columns[at].as_mut_slice());
            if values.len() < FEWEST {
                return None;
            }
            let median = median(values);
            values.iter_mut().for_each(|value| *value = (*value - median).abs());
            let spread = self::median(values) * MAD_TO_SIGMA;
            Some((median, spread.max(kind.floor(median))))
        });
        Norms { known }
    }

    fn deviations(self, figures: &Figures) -> impl Iterator<Item = (Kind, f32, f32, f32)> {
        KINDS.into_iter().zip(self.known).filter_map(move |(kind, norm)| {
            let ((median, spread), value) = (norm?, kind.of(figures)?);
            Some((kind, kind.excess(value, median) / spread, value, median))
        })
    }

    /// How far a rank is from normal on the bad side, in robust standard deviations of its worst figure; 0 or more.
    pub fn score(self, figures: &Figures) -> f32 {
        let worst = self.deviations(figures).map(|(_, z, ..)| z).fold(0.0, f32::max);
        if figures.throttled == Some(true) { worst.max(THROTTLED) } else { worst }
    }

    /// Every figure beside what is normal.
    pub fn compare(self, figures: &Figures) -> [Comparison; KINDS.len()] {
        std::array::from_fn(|at| {
            let (kind, norm, value) = (KINDS[at], self.known[at], KINDS[at].of(figures));
            let apart = norm.zip(value).map(|((median, spread), value)| kind.excess(value, median) / spread);
            Comparison { name: kind.name(), value, median: norm.map(|(median, _)| median), apart }
        })
    }

    /// Why, the worst first: `power -31 % against peers, clock 1100 MHz, peers 1980`. Empty when nothing stands out.
    pub fn explain(self, figures: &Figures) -> String {
        let mut found: Vec<_> = self.deviations(figures).filter(|(_, z, ..)| *z >= EDGES[0]).collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut text = String::new();
        for (kind, _, value, median) in found {
            let _ = write!(text, "{}{}", if text.is_empty() { "" } else { "; " }, kind.words(value, median));
        }
        if figures.throttled == Some(true) {
            let _ = write!(text, "{}clocks held down", if text.is_empty() { "" } else { "; " });
        }
        text
    }
}

/// The level of a score, given the level before: it rises at once, and falls only when the score is clearly lower.
pub fn level(score: f32, before: u8) -> u8 {
    let reached = |share: f32| EDGES.iter().take_while(|edge| score >= **edge * share).count() as u8;
    let (up, hold) = (reached(1.0), reached(HOLD));
    if before <= up { up } else { before.min(hold) }
}

/// The step of a value among edges that rise, given the step before, with `margin` on either side of an edge: a value
/// that trembles at an edge does not change its step.
pub fn step(value: f32, edges: &[f32], margin: f32, before: Option<u8>) -> u8 {
    let at = |value: f32| edges.iter().take_while(|edge| value >= **edge).count() as u8;
    match before {
        None => at(value),
        Some(before) => before.clamp(at(value - margin), at(value + margin)),
    }
}

/// `no heartbeat for 12 s`.
pub fn silence(age: Duration) -> String {
    format!("no heartbeat for {}", human(age))
}

/// The middle of the values, which are reordered; 0 of none.
fn median(values: &mut [f32]) -> f32 {
    let middle = values.len() / 2;
    if values.is_empty() {
        return 0.0;
    }
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fleet(odd: Figures) -> (Norms, Figures) {
        let usual = |n: u16| Figures {
            step_lag: Some(0.0),
            gpu_pct: Some(96.0 + f32::from(n % 3)),
            power_w: Some(640.0 + f32::from(n)),
            clock_mhz: Some(1980.0),
            ..Figures::default()
        };
        let mut all: Vec<_> = (0..63).map(usual).collect();
        all.push(odd);
        (Norms::of(all.iter().copied()), odd)
    }

    #[test]
    fn a_rank_that_does_less_than_its_peers_stands_out_and_says_why() {
        let hot = Figures {
            step_lag: Some(0.0),
            gpu_pct: Some(55.0),
            power_w: Some(440.0),
            clock_mhz: Some(1100.0),
            throttled: Some(true),
            ..Figures::default()
        };
        let (norms, hot) = fleet(hot);
        assert!(level(norms.score(&hot), 0) == 4, "{}", norms.score(&hot));
        assert_eq!(
            norms.explain(&hot),
            "clock 1100 MHz, peers 1980; GPU 55 %, peers 97 %; power -34 % against peers; clocks held down"
        );
    }

    #[test]
    fn usual_noise_and_unknown_figures_are_quiet() {
        let (norms, usual) = fleet(Figures {
            step_lag: Some(0.0),
            gpu_pct: Some(93.0),
            power_w: Some(630.0),
            ..Figures::default()
        });
        assert_eq!((level(norms.score(&usual), 0), norms.explain(&usual)), (0, String::new()));
        assert!(norms.score(&Figures::default()).abs() < f32::EPSILON);
        let three = [Figures { step_lag: Some(900.0), ..Figures::default() }; 3];
        assert!(Norms::of(three.iter().copied()).score(&three[0]).abs() < f32::EPSILON, "three are no peers");
    }

    #[test]
    fn being_better_than_the_peers_is_no_reason() {
        let (norms, fast) =
            fleet(Figures { power_w: Some(900.0), clock_mhz: Some(2400.0), ..Figures::default() });
        assert!(norms.score(&fast).abs() < f32::EPSILON);
    }

    #[test]
    fn levels_rise_at_once_and_fall_late() {
        assert_eq!([0.0, 2.0, 3.5, 6.0, 99.0].map(|score| level(score, 0)), [0, 1, 2, 3, 4]);
        assert_eq!(level(5.9, 3), 3, "just below where it began: it stays");
        assert_eq!(level(4.7, 3), 2);
        assert_eq!(level(1.7, 1), 1);
        assert_eq!(level(0.0, 4), 0);
    }

    #[test]
    fn steps_do_not_tremble() {
        let edges = [5.0, 20.0, 50.0, 80.0];
        let mut seen = Vec::new();
        let mut now = None;
        for value in [81.0, 79.0, 81.5, 78.0, 76.0, 79.0, 83.5] {
            now = Some(step(value, &edges, 3.0, now));
            seen.extend(now);
        }
        assert_eq!(seen, [4, 4, 4, 4, 3, 3, 4]);
    }

    proptest! {
        #[test]
        fn any_figures_have_a_score(values in proptest::collection::vec((any::<f32>(), any::<f32>()), 0..40)) {
            let all: Vec<_> = values
                .iter()
                .map(|(lag, power)| Figures { step_lag: Some(*lag), power_w: Some(*power), ..Figures::default() })
                .collect();
            let norms = Norms::of(all.iter().copied());
            for figures in &all {
                prop_assert!(norms.score(figures) >= 0.0);
                prop_assert!(level(norms.score(figures), 3) < LEVELS);
                norms.explain(figures);
            }
        }
    }
}
