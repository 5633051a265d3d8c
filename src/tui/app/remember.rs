//! What was chosen and is chosen again the next time; and what a thin line does to the looks.

use super::App;
use crate::{
    domain::fleet::{Metric, Order},
    tui::{
        budget::Thrift,
        layout::Layout,
        theme::{ColorDepth, Role},
    },
};

impl App {
    /// Looks as they were left the last time. The theme was chosen before there was a screen.
    pub(super) fn take_layout(&mut self) {
        let Layout { order, metric, wrap, fold, .. } = &self.layout;
        let named = |name: &Option<String>, known: &str| name.as_deref() == Some(known);
        let ordered = Order::ALL.into_iter().find(|known| named(order, known.name()));
        let measured = Metric::ALL.into_iter().find(|known| named(metric, known.name()));
        self.overview.order = ordered.unwrap_or_default();
        self.overview.metric = measured.unwrap_or_default();
        self.logs.wrap = wrap.unwrap_or(self.logs.wrap);
        self.logs.fold = fold.unwrap_or(self.logs.fold);
    }

    /// What to remember: what differs from how a screen begins, and what was remembered before.
    pub(crate) fn layout(&self) -> Layout {
        let mut layout = self.layout.clone();
        if self.theme_was_chosen {
            layout.theme = Some(self.chosen_theme.name.clone());
        }
        let keep = |known: &Option<String>, name: &str, usual: bool| {
            if usual && known.is_none() { None } else { Some(name.to_owned()) }
        };
        let (order, metric) = (self.overview.order, self.overview.metric);
        layout.order = keep(&layout.order, order.name(), order == Order::default());
        layout.metric = keep(&layout.metric, metric.name(), metric == Metric::default());
        let flag = |known: Option<bool>, now: bool, usual: bool| {
            known.map(|_| now).or((now != usual).then_some(now))
        };
        layout.wrap = flag(layout.wrap, self.logs.wrap, false);
        layout.fold = flag(layout.fold, self.logs.fold, true);
        if self.mouse_was_chosen {
            layout.mouse = Some(self.mouse);
        }
        layout
    }

    /// Whether the mouse is captured.
    pub(crate) fn mouse(&self) -> bool {
        self.mouse
    }

    /// Makes the screen plainer.
    pub(super) fn save(&mut self, thrift: Thrift) {
        self.thrift = thrift;
        self.theme = self.chosen_theme.at(self.shown_depth());
        let how = match thrift {
            Thrift::None => return,
            Thrift::Plain => "fewer colours and no charts: the line is thin (--budget)",
            Thrift::Plainest => "no colours: the line is thin (--budget)",
        };
        self.say(Role::Info, how);
    }

    /// The colours that are used: what the terminal has, or fewer on a thin line.
    pub(super) fn shown_depth(&self) -> ColorDepth {
        match self.thrift {
            Thrift::None => self.depth,
            Thrift::Plain => self.depth.min(ColorDepth::Ansi256),
            Thrift::Plainest => ColorDepth::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tui::{
        app::Msg,
        budget::Thrift,
        fixture,
        layout::Layout,
        tests::press,
        theme::{ColorDepth, Role},
    };

    #[test]
    fn only_choices_are_remembered() {
        let mut app = fixture::app(&fixture::healthy(4), (80, 24), None);
        assert_eq!(app.layout(), Layout::default());
        press(&mut app, "o C L w", &[]);
        let layout = app.layout();
        let wanted = Layout {
            theme: Some("default-light".into()),
            order: Some("rank".into()),
            wrap: Some(true),
            ..Layout::default()
        };
        assert_eq!(layout, wanted);
        let options = crate::tui::Options { layout: layout.clone(), ..fixture::options() };
        let mut later = crate::tui::App::new(&options, (80, 24), fixture::BEGIN, 0);
        assert_eq!(later.layout(), layout);
        press(&mut later, "L w M", &[]);
        assert_eq!(later.layout(), Layout { wrap: Some(false), mouse: Some(true), ..layout });
    }

    #[test]
    fn a_thin_line_takes_colours_away() {
        let mut app = fixture::app(&fixture::healthy(4), (80, 24), None);
        let before = app.theme.style(Role::Crit);
        app.update(Msg::Thrift(Thrift::Plain));
        assert_ne!(app.theme.style(Role::Crit), before);
        app.update(Msg::Thrift(Thrift::Plainest));
        assert_eq!(app.shown_depth(), ColorDepth::None);
        press(&mut app, "C", &[]);
        assert_eq!(app.theme.style(Role::Crit).fg, Some(ratatui::style::Color::Reset), "another theme too");
    }
}
