//! What on a drawn screen leads somewhere: web addresses wherever they stand, the run of the selected line or rank, and
//! files in stacks.
//!
//! Links are found in what is drawn, so whatever lies over something else takes its links away, and an address leads to
//! what can be read there. One that was cut is only a link when its rest is known.

use ratatui::buffer::Buffer;

use crate::tui::{
    app::{App, Tab},
    keys::View,
    links::{self, Link},
    text,
};

/// All links of a drawn screen; none where the terminal shall have none.
pub(super) fn find(app: &App, buffer: &Buffer) -> Vec<Link> {
    if !app.links || app.thrift != crate::tui::Thrift::None {
        return Vec::new();
    }
    let known = known(app);
    let has_files = match app.view {
        View::Stacks => true,
        View::Overview => app.detail() && matches!(app.tab, Tab::Stack | Tab::Error),
        _ => false,
    };
    let node = app.overview.fleet.nodes.get(app.node as usize).map_or("", |node| node.name.as_str());
    let mut found = Vec::new();
    for y in buffer.area.top()..buffer.area.bottom() {
        let row = Row::of(buffer, y);
        for (from, to) in words(&row.text) {
            let word = &row.text[from..to];
            let address = web(word, &known, app.glyphs.cut)
                .or_else(|| Some(known.iter().find(|(shown, _)| shown == word)?.1.clone()))
                .or_else(|| file(word, node, &known).filter(|_| has_files));
            found.extend(address.map(|address| row.link(y, from, to, address)));
        }
    }
    found
}

/// What is shown in a short form, and where it leads.
fn known(app: &App) -> Vec<(String, String)> {
    let mut known = Vec::new();
    let mut add = |shown: &str, address: Option<String>| {
        known.extend(address.map(|address| (shown.to_owned(), address)));
    };
    if app.view == View::Runs
        && let Some(tree) = app.run_tree()
        && let Some(line) = tree.lines.get(app.run_cursor(&tree))
        && let Some(link) = tree.link(line)
    {
        add(link, links::web(link));
        if let Some(run) = tree.run_of(line) {
            add(&run.id, links::web(link));
        }
    }
    if app.detail()
        && let Some(wandb) = app.wandb()
        && let Some(number) = app.rank().and_then(|rank| rank.place.rank)
        && let Ok(plan) = wandb.settings.plan()
        && let Some(id) = plan.ranks.get(number as usize).and_then(|rank| rank.run_id.clone())
        && let Some(row) = wandb.rows(&plan).into_iter().find(|row| row.id == id)
    {
        add(&id, row.link.as_deref().and_then(links::web));
    }
    if let Some(Ok(words)) = &app.page.last_words
        && let Some(path) = &words.file
    {
        let node = app.overview.fleet.nodes.get(app.node as usize).map_or("", |node| node.name.as_str());
        add(path, links::file(node, path));
    }
    known
}

/// A web address, whole, or cut and known.
fn web(word: &str, known: &[(String, String)], cut: &str) -> Option<String> {
    if !word.starts_with("https://") && !word.starts_with("http://") {
        return None;
    }
    match word.strip_suffix(cut) {
        Some(part) => {
            known.iter().find(|(shown, _)| shown.starts_with(part)).map(|(_, address)| address.clone())
        }
        // Punctuation of the sentence around it.
        None => links::web(word.trim_end_matches(['.', ',', ';', ')', ']', '\'', '"'])),
    }
}

/// `/x/train.py:40`, or the beginning of a path that is known.
fn file(word: &str, node: &str, known: &[(String, String)]) -> Option<String> {
    let bare = word.trim_matches(['(', ')', ',', '"']);
    if !bare.starts_with('/') || bare.len() < 4 {
        return None;
    }
    if let Some((_, address)) = known.iter().find(|(shown, _)| shown.starts_with(bare)) {
        return Some(address.clone());
    }
    let (path, line) = bare.rsplit_once(':')?;
    line.parse::<u32>().ok()?;
    links::file(node, path)
}

/// Where words begin and end.
fn words(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let base = text.as_ptr() as usize;
    text.split([' ', '│', '|']).filter(|word| word.len() > 3).map(move |word| {
        let from = word.as_ptr() as usize - base;
        (from, from + word.len())
    })
}

/// The text of a row, and in which column each of its bytes stands.
struct Row {
    text: String,
    columns: Vec<u16>,
}

impl Row {
    fn of(buffer: &Buffer, y: u16) -> Row {
        let mut row = Row { text: String::with_capacity(buffer.area.width.into()), columns: Vec::new() };
        let mut x = buffer.area.left();
        while x < buffer.area.right() {
            let symbol = buffer[(x, y)].symbol();
            row.text.push_str(symbol);
            row.columns.extend(std::iter::repeat_n(x, symbol.len()));
            x += text::width(symbol).max(1) as u16;
        }
        row.columns.push(x);
        row
    }

    fn link(&self, y: u16, from: usize, to: usize, address: String) -> Link {
        let x = self.columns[from];
        Link { x, y, cells: self.columns[to] - x, address }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{layout::Rect, style::Style};

    use super::*;
    use crate::tui::{canvas::Canvas, fixture, tests::press, view};

    fn shown(lines: &[&str]) -> (Buffer, App) {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 60, lines.len() as u16));
        for (y, line) in lines.iter().enumerate() {
            buffer.set_string(0, y as u16, line, Style::new());
        }
        let mut app = fixture::app(&fixture::healthy(4), (80, 24), None);
        app.links = true;
        (buffer, app)
    }

    #[test]
    fn addresses_are_found_where_they_stand_and_cut_ones_are_none() {
        let (buffer, mut app) =
            shown(&["漢 at https://h/a?b=1, yes", "https://h/cu…", "javascript:x /a/b.py:40"]);
        let found = find(&app, &buffer);
        assert_eq!(found, [Link { x: 6, y: 0, cells: 16, address: "https://h/a?b=1".into() }]);
        app.view = View::Stacks;
        let found = find(&app, &buffer);
        assert_eq!(found[1].address, format!("file://{}/a/b.py", app.overview.fleet.nodes[0].name));
        app.links = false;
        assert_eq!(find(&app, &buffer), []);
    }

    #[test]
    fn what_lies_over_a_link_takes_it_away() {
        let lines: Vec<_> = fixture::log_lines(20)
            .into_iter()
            .map(|line| crate::domain::log::LogLine { text: "see https://h/x".into(), ..line })
            .collect();
        let mut app = fixture::app(&fixture::healthy(4), (80, 24), None);
        app.links = true;
        press(&mut app, "L d", &lines);
        let paint = |app: &App| {
            let area = Rect::new(0, 0, 80, 24);
            view::paint(app, area, &mut Canvas::new(Buffer::empty(area)))
        };
        assert!(paint(&app).len() > 15);
        press(&mut app, "?", &lines);
        assert_eq!(paint(&app), []);
    }
}
