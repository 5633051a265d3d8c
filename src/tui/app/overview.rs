//! The ranks of all nodes as the overview shows them: levels, order, filter, and which of them is selected.

use super::{App, labels::Labels};
use crate::{
    domain::{
        filter::{Filter, NUMBERS, Subject},
        fleet::{Fleet, Metric, Order, RankId, RankRow, Source},
        state::Rank,
    },
    tui::words,
};

/// How far the overview is gone into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Zoom {
    /// All nodes.
    #[default]
    Fleet,
    /// The node of the selected rank.
    Node,
    /// The selected rank.
    Rank,
}

/// What the overview is made of.
#[derive(Debug, Default)]
pub(crate) struct Overview {
    pub(crate) fleet: Fleet,
    pub(crate) labels: Labels,
    pub(crate) metric: Metric,
    pub(crate) order: Order,
    pub(crate) filter: Filter,
    /// The ranks that the filter lets through, in order, as indices into the fleet; at the zoom that holds.
    pub(crate) rows: Vec<u32>,
    /// Whether something was heard since the ranks were looked at.
    pub(super) is_behind: bool,
    /// Whether somebody has chosen the selected rank.
    pub(super) is_chosen: bool,
}

impl Overview {
    /// The rows that are shown.
    pub(crate) fn shown(&self) -> impl Iterator<Item = &RankRow> {
        self.rows.iter().filter_map(|row| self.fleet.ranks.get(*row as usize))
    }
}

impl App {
    /// Which rank is selected.
    pub(crate) fn selected_id(&self) -> RankId {
        RankId { node: self.node, local: self.selected }
    }

    pub(crate) fn select(&mut self, id: RankId) {
        (self.node, self.selected) = (id.node, id.local);
        self.overview.is_chosen = true;
    }

    /// All that is known of a rank of the fleet.
    pub(crate) fn rank_at(&self, id: RankId) -> Option<&Rank> {
        self.state_of(id.node)?.rank(id.local)
    }

    /// Looks at all ranks if something was heard since the last look: once for all that came together.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.overview.is_behind) {
            self.join_nodes();
            if !self.nodes.is_empty() {
                self.count_log_lines();
            }
            self.look_at_ranks();
        }
    }

    /// Looks at all ranks anew, after something was heard or time went by.
    pub(crate) fn look_at_ranks(&mut self) {
        self.overview.is_behind = false;
        let now = self.now;
        let own = Source { silent: self.silence(), ..Source::new(&self.state) };
        let alone = self.nodes.is_empty().then_some(own);
        let several = self.nodes.iter().map(|node| Source {
            state: &node.state,
            host: Some(&node.status.host),
            ahead_ms: node.status.ahead_ms(),
            silent: node.status.link.silent_since().map(|since| now.since(since)),
        });
        let Overview { fleet, labels, metric, .. } = &mut self.overview;
        fleet.refresh(now, *metric, alone.into_iter().chain(several));
        labels.keep_up(&fleet.nodes);
        self.list_ranks();
        self.keep_selection();
        self.tell_what_happened();
    }

    /// Filters and orders the rows anew.
    pub(super) fn list_ranks(&mut self) {
        let fleet = &self.overview.fleet;
        let of_node = (self.zoom != super::Zoom::Fleet && fleet.nodes.len() > 1).then_some(self.node);
        let mut rows = std::mem::take(&mut self.overview.rows);
        rows.clear();
        let fits = |row: &RankRow| of_node.is_none_or(|node| row.id.node == node) && self.lets_through(row);
        rows.extend((0_u32..).zip(&fleet.ranks).filter(|(_, row)| fits(row)).map(|(at, _)| at));
        self.overview.order.sort(&fleet.ranks, &mut rows);
        self.overview.rows = rows;
    }

    /// Whether the filter lets a rank through; one that failed is shown whatever the filter.
    pub(crate) fn lets_through(&self, row: &RankRow) -> bool {
        let filter = &self.overview.filter;
        if filter.is_empty() || row.has_failed() {
            return true;
        }
        let Some(rank) = self.rank_at(row.id) else { return false };
        let look = words::rank_state(rank, self.glyphs);
        let mut numbers = [None; NUMBERS.len()];
        for ((name, _), number) in NUMBERS.iter().zip(&mut numbers) {
            *number = match *name {
                "gpu" => row.figures.gpu_pct.map(f64::from),
                "cpu" => row.figures.cpu_pct.map(f64::from),
                "mem" => row.rss_bytes.map(|bytes| bytes as f64),
                "step" => row.step.map(|step| step as f64),
                "lag" => row.figures.step_lag.map(f64::from),
                "beat" => row.beat_age.map(|age| age.as_secs_f64()),
                "level" => Some(f64::from(row.level)),
                "power" => row.figures.power_w.map(f64::from),
                "clock" => row.figures.clock_mhz.map(f64::from),
                _ => None,
            };
        }
        filter.matches(&Subject {
            rank: row.number(),
            local: row.id.local,
            node: &self.overview.fleet.nodes[row.id.node as usize].name,
            state: (&look.word, look.letter),
            texts: [
                rank.last_line.as_deref().unwrap_or_default(),
                rank.detail.as_deref().unwrap_or_default(),
                "",
            ],
            numbers,
        })
    }

    fn keep_selection(&mut self) {
        let fleet = &self.overview.fleet;
        // Ranks become known in any order: until somebody chooses one, the first of them is selected.
        let is_chosen = self.overview.is_chosen || self.zoom != super::Zoom::Fleet;
        if is_chosen && fleet.rank(self.selected_id()).is_some() {
            return;
        }
        let first = fleet.ranks.first().map(|row| row.id);
        if first.is_none() {
            self.zoom = super::Zoom::Fleet;
        }
        self.select(first.unwrap_or_default());
        self.overview.is_chosen = false;
    }
}
