//! The only way onto the buffer: text that is cleaned and cut, inside of the buffer, in a role.

use ratatui::{
    buffer::Cell,
    layout::Rect,
    style::{Modifier, Style},
};

use crate::tui::{
    canvas::Canvas,
    text::{self, Glyphs},
    theme::{Role, Theme},
};

/// Draws text in roles. What lies outside of the buffer is left out.
pub(crate) struct Pen<'a> {
    canvas: &'a mut Canvas,
    theme: &'a Theme,
    pub(crate) glyphs: Glyphs,
}

/// A piece of a line.
pub(crate) type Piece = (String, Role);

impl<'a> Pen<'a> {
    pub(crate) fn new(canvas: &'a mut Canvas, theme: &'a Theme, glyphs: Glyphs) -> Pen<'a> {
        Pen { canvas, theme, glyphs }
    }

    /// Writes into at most `cells` from (x, y) on; how many cells it took.
    pub(crate) fn text(&mut self, x: u16, y: u16, cells: u16, what: &str, role: Role) -> u16 {
        self.styled(x, y, cells, what, role, Modifier::empty())
    }

    /// One of our own glyphs, which takes one cell: many of them are drawn, so it goes the short way.
    pub(crate) fn glyph(&mut self, x: u16, y: u16, glyph: &'static str, role: Role) {
        let place = Rect { x, y, width: 1, height: 1 };
        if let Some(cell) = self.canvas.touch(place).cell_mut((x, y)) {
            cell.set_symbol(glyph).set_style(self.theme.style(role));
        }
    }

    /// The same, reversed and with a blank at both ends: a chip.
    pub(crate) fn chip(&mut self, x: u16, y: u16, cells: u16, what: &str, role: Role) -> u16 {
        self.styled(x, y, cells, &format!(" {what} "), role, Modifier::REVERSED)
    }

    /// A chip for what wants a look, plain text for what is as it should be.
    pub(crate) fn badge(&mut self, x: u16, y: u16, cells: u16, what: &str, role: Role) -> u16 {
        match role {
            Role::Warn | Role::Crit | Role::Stale => self.chip(x, y, cells, what, role),
            _ => self.text(x, y, cells, &format!("{what} "), role),
        }
    }

    fn styled(&mut self, x: u16, y: u16, cells: u16, what: &str, role: Role, extra: Modifier) -> u16 {
        let area = self.canvas.area();
        if x < area.x || x >= area.right() || y < area.y || y >= area.bottom() {
            return 0;
        }
        let cells = cells.min(area.right() - x);
        let mut style = self.theme.style(Role::Text).patch(self.theme.style(role)).add_modifier(extra);
        // What lay there before, a faint rule say, leaves nothing behind.
        style.sub_modifier = Modifier::all().difference(style.add_modifier);
        // Most text is plain and has room; it needs no look at where characters begin.
        if what.len() <= usize::from(cells) && text::is_plain(what) {
            let buffer = self.canvas.touch(Rect { x, y, width: what.len() as u16, height: 1 });
            let first = buffer.index_of(x, y);
            for (cell, byte) in buffer.content[first..].iter_mut().zip(what.bytes()) {
                cell.set_char(char::from(byte)).set_style(style);
            }
            return what.len() as u16;
        }
        let what = text::clean(what, self.glyphs);
        let what = text::cut(&what, usize::from(cells), self.glyphs);
        self.canvas.write((x, y), &what, usize::from(cells), style) - x
    }

    /// The same, ending at the right end of the cells.
    pub(crate) fn right(&mut self, x: u16, y: u16, cells: u16, what: &str, role: Role) {
        let taken = (text::width(what) as u16).min(cells);
        self.text(x + (cells - taken), y, taken, what, role);
    }

    /// Pieces one after the other; how many cells they took.
    pub(crate) fn pieces(&mut self, x: u16, y: u16, cells: u16, pieces: &[Piece]) -> u16 {
        let mut taken = 0;
        for (what, role) in pieces {
            taken += self.text(x + taken, y, cells - taken, what, *role);
        }
        taken
    }

    /// The name of a pane and a line to its right end; where the line begins.
    pub(crate) fn rule(&mut self, area: Rect, name: &str) -> u16 {
        if area.is_empty() {
            return 0;
        }
        let taken = self.text(area.x + 1, area.y, area.width.saturating_sub(1), name, Role::Title) + 2;
        let rest = area.width.saturating_sub(taken);
        let line = self.glyphs.line;
        (area.x + taken..area.x + taken + rest).for_each(|x| self.glyph(x, area.y, line, Role::Border));
        taken
    }

    fn blank(&self) -> Cell {
        let mut blank = Cell::EMPTY;
        blank.set_style(self.theme.style(Role::Text));
        blank
    }

    /// Begins a frame: blanks everywhere, on the theme's ground.
    pub(crate) fn clear(&mut self) {
        let blank = self.blank();
        self.canvas.clear(&blank);
    }

    /// Blanks, on the theme's ground.
    pub(crate) fn fill(&mut self, area: Rect) {
        let blank = self.blank();
        let buffer = self.canvas.touch(area);
        area.intersection(buffer.area).positions().for_each(|at| buffer[at] = blank.clone());
    }

    /// Lays a role over what is drawn.
    pub(crate) fn over(&mut self, area: Rect, role: Role) {
        let (style, plain) = (self.theme.style(role), self.theme.style(Role::Text));
        let buffer = self.canvas.touch(area);
        if style.add_modifier.contains(Modifier::REVERSED) {
            // Reversed, the colours of single cells would become blocks of their own.
            buffer.set_style(area, plain);
        }
        buffer.set_style(area, style);
    }

    /// Turns ink and ground around, for what is too small to be seen otherwise.
    pub(crate) fn invert(&mut self, area: Rect) {
        self.canvas.touch(area).set_style(area, Style::new().add_modifier(Modifier::REVERSED));
    }

    /// An empty box with a title, on top of what is drawn; the inside.
    pub(crate) fn boxed(&mut self, area: Rect, title: &str, role: Role) -> Rect {
        let area = area.intersection(self.canvas.area());
        self.fill(area);
        if area.width < 2 || area.height < 2 {
            return Rect { width: 0, height: 0, ..area };
        }
        let inner = area.inner(ratatui::layout::Margin::new(1, 1));
        let [top_left, top_right, bottom_left, bottom_right] = self.glyphs.corners;
        let line = self.glyphs.line.repeat(usize::from(inner.width));
        self.text(area.x, area.y, area.width, &format!("{top_left}{line}{top_right}"), role);
        let bottom = area.bottom() - 1;
        self.text(area.x, bottom, area.width, &format!("{bottom_left}{line}{bottom_right}"), role);
        for y in inner.top()..inner.bottom() {
            self.text(area.x, y, 1, self.glyphs.bar, role);
            self.text(area.right() - 1, y, 1, self.glyphs.bar, role);
        }
        self.text(area.x + 2, area.y, inner.width.saturating_sub(2), &format!(" {title} "), Role::Title);
        inner
    }
}
