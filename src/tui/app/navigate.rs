//! Going into things, out of them, and from one to the next.

use super::{App, Zoom};
use crate::{
    domain::filter::Filter,
    tui::{keys::View, theme::Role, view},
};

impl App {
    pub(super) fn go(&mut self, view: View) {
        if self.detail() {
            self.zoom_to(Zoom::Fleet);
        }
        (self.view, self.from_page) = (view, false);
    }

    fn zoom_to(&mut self, zoom: Zoom) {
        self.zoom = zoom;
        self.list_ranks();
    }

    pub(super) fn enter(&mut self) {
        if self.view != View::Overview || self.rank().is_none() {
            return;
        }
        match self.zoom {
            Zoom::Fleet if self.overview.fleet.nodes.len() > 1 => self.zoom_to(Zoom::Node),
            Zoom::Fleet | Zoom::Node => self.enter_rank(),
            Zoom::Rank => {}
        }
    }

    pub(super) fn enter_rank(&mut self) {
        self.page.first = 0;
        self.zoom_to(Zoom::Rank);
        self.open_log(Some(self.selected));
    }

    /// The log of a rank of the selected node, or of all ranks there.
    pub(super) fn open_log(&mut self, local_rank: Option<u32>) {
        self.open_log_of(self.node, local_rank);
    }

    fn open_log_of(&mut self, node: u32, local_rank: Option<u32>) {
        if self.log_node != node {
            // What another node was asked is not answered by this one.
            (self.logs, self.log_node) = (std::mem::take(&mut self.logs).anew(local_rank), node);
        }
        self.logs.open(local_rank);
        self.count_log_lines();
    }

    /// The merged log of the node so many places further, around the end.
    pub(super) fn turn_log(&mut self, places: usize) {
        if self.nodes.len() < 2 {
            return self.say(Role::Info, "no other node is watched here");
        }
        let node = (self.log_node as usize + places) % self.nodes.len();
        self.open_log_of(node as u32, None);
        self.go(View::Logs);
    }

    /// Out of whatever is open; false when nothing was.
    pub(super) fn back(&mut self) -> bool {
        match (self.view, self.zoom) {
            (View::Overview, Zoom::Rank) if !self.page.find.is_empty() => self.page.find.clear(),
            (View::Events, _) if !self.event_find.is_empty() => self.event_find.clear(),
            (View::Overview, Zoom::Rank) => {
                self.page.cursor = None;
                let several = self.overview.fleet.nodes.len() > 1;
                self.zoom_to(if several { Zoom::Node } else { Zoom::Fleet });
            }
            (View::Overview, Zoom::Node) => self.zoom_to(Zoom::Fleet),
            (View::Overview, Zoom::Fleet) if !self.overview.filter.is_empty() => {
                self.filter_by(Filter::default());
            }
            (View::Overview, Zoom::Fleet) => return false,
            (View::Runs, _) if self.runs.preview.take().is_some() => {}
            (View::Logs, _) if self.logs.end_search() => {}
            (View::Logs, _) if self.from_page => {
                self.go(View::Overview);
                self.enter_rank();
            }
            _ => self.view = View::Overview,
        }
        true
    }

    /// Lets only some ranks through; one of them is selected.
    pub(super) fn filter_by(&mut self, filter: Filter) {
        self.overview.filter = filter;
        self.list_ranks();
        let selected = self.selected_id();
        let is_shown = self.overview.shown().any(|row| row.id == selected);
        let first = self.overview.shown().next().map(|row| row.id);
        if let Some(first) = first.filter(|_| !is_shown) {
            self.select(first);
        }
    }

    /// Selects the rank with this number, over all nodes; false when there is none.
    pub(super) fn go_to_rank(&mut self, number: u32) -> bool {
        let found = self.overview.fleet.ranks.iter().find(|row| row.number() == number).map(|row| row.id);
        if let Some(id) = found {
            self.view = View::Overview;
            self.select(id);
            self.list_ranks();
        }
        found.is_some()
    }

    /// Left and right: in a grid to the next rank, in a log along its lines.
    pub(super) fn sideways(&mut self, by: i64) {
        if self.view == View::Overview && self.detail() {
            self.move_cursor(by);
        } else if self.view == View::Overview {
            self.step_ranks(by, true);
        } else {
            self.logs.shift_by(by as isize * 8);
        }
    }

    fn step_ranks(&mut self, by: i64, sideways: bool) {
        let to = view::neighbour(self, self.size, by, sideways).or_else(|| {
            let rows = &self.overview.rows;
            let ranks = &self.overview.fleet.ranks;
            let at = rows.iter().position(|row| ranks[*row as usize].id == self.selected_id());
            // One that the filter hides is as good as before the first.
            let to = at.map_or(0, |at| moved(at, if sideways { 0 } else { by }, rows.len()));
            rows.get(to).map(|row| ranks[*row as usize].id)
        });
        if let Some(id) = to {
            self.select(id);
        }
    }

    /// Moves what is selected; `i64::MIN` and `MAX` mean the ends.
    pub(super) fn step(&mut self, by: i64) {
        match self.view {
            View::Overview => {
                self.step_ranks(by, false);
                if self.detail() {
                    self.open_log(Some(self.selected));
                }
            }
            View::Logs => self.logs.step(by),
            View::Runs => self.step_runs(by),
            View::Timeline => {
                let lanes = &self.state.attempts;
                let last = lanes.len().saturating_sub(1);
                let at = self.lane.and_then(|n| lanes.iter().position(|lane| lane.n == n)).unwrap_or(last);
                let to = moved(at, by, lanes.len());
                self.lane = lanes.get(to).filter(|_| to < last).map(|lane| lane.n);
            }
            View::Hang => {
                self.hang_first = moved(self.hang_first, by, view::hang_length(self, self.size));
            }
            View::Stacks => {
                self.stacks.first = moved(self.stacks.first, by, view::stacks_length(self, self.size));
            }
            View::Events => {
                let (lines, at) = self.found_events();
                let to = moved(at, by, lines.len());
                self.event = lines.get(to).filter(|_| to + 1 < lines.len()).map(|line| line.seq);
            }
        }
    }

    /// What the key that copies would copy.
    pub(crate) fn line_to_yank(&self) -> Option<String> {
        let line = match self.view {
            View::Overview if self.detail() => self.page_to_yank(),
            View::Overview => {
                let said = self.rank().and_then(|rank| rank.last_line.clone());
                said.filter(|line| !line.is_empty()).or_else(|| self.rank().map(|rank| self.who_is(rank)))
            }
            View::Hang => Some(view::hang_text(self)),
            View::Logs => self.logs.selected().map(|line| line.text.clone()),
            View::Runs => self.link_to_yank(),
            View::Timeline => {
                let lanes = &self.state.attempts;
                let lane = self.lane.and_then(|n| lanes.iter().find(|lane| lane.n == n)).or(lanes.back());
                lane.and_then(|lane| lane.cause.as_ref()).map(|cause| cause.text.clone())
            }
            View::Stacks => self.stacks.stacks.as_ref().map(crate::domain::stack::Stacks::summary),
            View::Events => {
                let (lines, at) = self.found_events();
                lines.get(at).map(|line| line.text.clone())
            }
        }?;
        (!line.is_empty()).then_some(line)
    }
}

/// The index `by` further, within the ends; `i64::MIN` and `MAX` mean the ends.
pub(super) fn moved(at: usize, by: i64, len: usize) -> usize {
    (at as i64).saturating_add(by).clamp(0, len.saturating_sub(1) as i64) as usize
}
