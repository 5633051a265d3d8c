//! Jobs of many nodes, which no single machine can run: their states are made up, the screen is the real one.

use std::time::Duration;

use elastictop::tui::{App, Msg, Options, Picture, Theme, Themes, draw, encode};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::{
    ALL, LARGE, Size, USUAL, WIDE,
    fleet::{Fleet, options},
    pty::parser,
    stage::save,
};

pub fn pictures() {
    let fleets = [8, 64, 512].map(|nodes| Fleet::troubled(nodes, 8));
    let [small, middle, large] = &fleets;
    for fleet in &fleets {
        for size in ALL {
            take(&format!("ranks-{}", fleet.nodes * 8), fleet, "default-dark", size, "");
        }
    }
    for size in [USUAL, LARGE] {
        take("node", middle, "default-dark", size, ":goto 131\n\n");
    }
    take("filter", middle, "default-dark", USUAL, "/lag>5\n");
    take("filter-typed", middle, "default-dark", USUAL, "/lag>5 nod:n0");
    take("metric", small, "default-dark", WIDE, "mmm");
    take("light-512", middle, "default-light", WIDE, "");
    take("light-4096", large, "default-light", LARGE, "");
    take("mono-512", middle, "mono", WIDE, "");
    take("mono-64", small, "mono", USUAL, "");
    take("ascii-64", small, "ascii", USUAL, "");
    for theme in Themes::default().names() {
        take(&format!("theme-{theme}"), small, theme, (100, 24), ":goto 22\n");
    }
}

/// A picture of a made-up job, after these keys.
fn take(name: &str, fleet: &Fleet, theme: &str, size: Size, keys: &str) {
    let (theme, ascii) = if theme == "ascii" { ("mono", true) } else { (theme, false) };
    let options = Options { theme: Theme::load(theme).unwrap(), ascii, ..options() };
    let mut app: App = fleet.app(&options, size);
    for c in keys.chars() {
        let code = if c == '\n' { KeyCode::Enter } else { KeyCode::Char(c) };
        app.update(Msg::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }
    app.update(Msg::Tick(fleet.now() + Duration::from_secs(10)));
    app.update(Msg::Tick(fleet.now()));
    let backend = ratatui::backend::TestBackend::new(size.0, size.1);
    let mut terminal = ratatui::Terminal::new(backend).unwrap();
    let next = terminal.draw(|frame| draw(&app, frame)).unwrap().buffer.clone();
    let mut empty = Picture::from(&ratatui::buffer::Buffer::empty(next.area));
    let mut parser = parser(size);
    parser.process(&encode(&mut empty, &next).bytes);
    save(parser.screen(), name, size);
}
