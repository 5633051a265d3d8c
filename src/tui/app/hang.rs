//! The hang view: which rank it is about, and what leads out of it.

use super::{App, Cmd, Prompt, Tab, Zoom};
use crate::{
    domain::{alert::Alert, fleet::RankId, rank::RankState, state::Rank},
    tui::{
        keys::{Action, View},
        theme::Role,
        words,
    },
};

impl App {
    /// Alerts about ranks that wait for each other, over all nodes, the gravest first; each with its node.
    pub(crate) fn hang_alerts(&self) -> Vec<(u32, &Alert)> {
        let nodes = 0..self.nodes.len().max(1) as u32;
        let mut found: Vec<_> = nodes
            .filter_map(|node| Some((node, self.state_of(node)?)))
            .flat_map(|(node, state)| state.alerts.iter().map(move |alert| (node, alert)))
            .filter(|(_, alert)| alert.kind.is_about_waiting())
            .collect();
        found.sort_by_key(|(node, alert)| (words::gravity(alert.kind), alert.since, *node));
        found
    }

    /// What the last group ended in, on the nodes whose part of the job is over.
    pub(crate) fn past_hangs(&self) -> Vec<(u32, &Alert)> {
        let nodes = 0..self.nodes.len().max(1) as u32;
        let over = nodes.filter_map(|node| Some((node, self.state_of(node)?)));
        over.filter(|(_, state)| state.state.is_over())
            .filter_map(|(node, state)| Some((node, state.attempts.back()?.ended_in()?)))
            .collect()
    }

    /// The rank that the gravest of them names, or that others wait for.
    pub(crate) fn odd_rank(&self) -> Option<(RankId, &Rank)> {
        let named = self.hang_alerts().into_iter().chain(self.past_hangs()).find_map(|(node, alert)| {
            let id = RankId { node, local: alert.local_rank? };
            Some((id, self.rank_at(id)?))
        });
        named.or_else(|| {
            let mut rows = self.overview.fleet.ranks.iter();
            let row = rows.find(|row| row.state == RankState::Lagging)?;
            Some((row.id, self.rank_at(row.id)?))
        })
    }

    pub(super) fn show_hang(&mut self) {
        if let Some((id, _)) = self.odd_rank() {
            self.select(id);
        }
        self.go(View::Hang);
        self.hang_first = 0;
    }

    /// To the page of the odd rank.
    pub(super) fn enter_odd_rank(&mut self) {
        let Some((id, _)) = self.odd_rank() else {
            return self.say(Role::Info, "no rank is odd");
        };
        self.select(id);
        self.view = View::Overview;
        self.zoom = Zoom::Fleet;
        self.enter_rank();
    }

    /// Search on a rank's page: in its environment, or in its log.
    pub(super) fn find_on_page(&mut self, cmds: &mut Vec<Cmd>) {
        if self.tab == Tab::Env {
            self.prompt = Some(Prompt::find(&self.page.find));
        } else {
            self.act(Action::RankLog, cmds);
            if self.view == View::Logs {
                self.logs.start_search();
            }
        }
    }

    /// Pages and ends move the tab, not the selection.
    pub(super) fn scroll_page(&mut self, action: Action) {
        let page = i64::from(self.size.1 / 3).max(1);
        match action {
            Action::PageUp => self.scroll_tab(-page),
            Action::PageDown => self.scroll_tab(page),
            Action::HalfUp => self.scroll_tab(-(page / 2).max(1)),
            Action::HalfDown => self.scroll_tab((page / 2).max(1)),
            Action::First => self.scroll_tab(i64::MIN),
            _ => {
                self.page.cursor = None;
                self.scroll_tab(i64::MAX);
            }
        }
    }
}
