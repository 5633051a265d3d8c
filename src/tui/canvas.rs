//! What frames are drawn on. Most of a large screen is blank: it knows how far each row is drawn, and what lies behind is
//! neither cleared nor compared with what the terminal shows.

use ratatui::{
    buffer::{Buffer, Cell},
    layout::Rect,
    style::Style,
};

/// A buffer that is drawn on again and again.
#[derive(Clone, Debug)]
pub(crate) struct Canvas {
    buffer: Buffer,
    extent: Extent,
}

/// How far rows are drawn.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    /// The column behind the last drawn cell, for each row from the top.
    ends: Vec<u16>,
    /// What all cells from there on are; `None` while nothing is known of them.
    blank: Option<Cell>,
}

impl Canvas {
    /// Nothing is known of what the buffer holds.
    pub(crate) fn new(buffer: Buffer) -> Canvas {
        let ends = vec![buffer.area.right(); buffer.area.height.into()];
        Canvas { buffer, extent: Extent { ends, blank: None } }
    }

    pub(crate) fn area(&self) -> Rect {
        self.buffer.area
    }

    pub(crate) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    pub(crate) fn into_buffer(self) -> Buffer {
        self.buffer
    }

    pub(crate) fn extent(&self) -> &Extent {
        &self.extent
    }

    /// Begins a frame: all cells are like this one.
    pub(crate) fn clear(&mut self, blank: &Cell) {
        let Extent { ends, blank: before } = &mut self.extent;
        if before.as_ref() != Some(blank) {
            ends.fill(self.buffer.area.right());
            *before = Some(blank.clone());
        }
        let width = usize::from(self.buffer.area.width).max(1);
        let left = self.buffer.area.left();
        for (row, end) in self.buffer.content.chunks_mut(width).zip(ends) {
            row[..usize::from(*end - left)].fill(blank.clone());
            *end = left;
        }
    }

    /// The buffer, to draw on these cells.
    pub(crate) fn touch(&mut self, cells: Rect) -> &mut Buffer {
        let cells = cells.intersection(self.buffer.area);
        if !cells.is_empty() {
            let first = usize::from(cells.top() - self.buffer.area.top());
            for end in &mut self.extent.ends[first..first + usize::from(cells.height)] {
                *end = cells.right().max(*end);
            }
        }
        &mut self.buffer
    }

    /// Writes text into at most so many cells; where it ends.
    pub(crate) fn write(&mut self, (x, y): (u16, u16), text: &str, cells: usize, style: Style) -> u16 {
        let (end, _) = self.buffer.set_stringn(x, y, text, cells, style);
        self.touch(Rect { x, y, width: end - x, height: 1 });
        end
    }

    /// Whether all cells behind the ends are blank, as everything relies on.
    pub(crate) fn is_sound(&self) -> bool {
        let width = usize::from(self.buffer.area.width).max(1);
        let left = self.buffer.area.left();
        let mut rows = self.buffer.content.chunks(width).zip(&self.extent.ends);
        let blank = &self.extent.blank;
        rows.all(|(row, end)| row[usize::from(*end - left)..].iter().all(|cell| blank.as_ref() == Some(cell)))
    }
}

impl Extent {
    /// Where rows can differ between a frame with this extent and one with another: up to which column, for each row.
    pub(crate) fn with(&self, other: &Extent) -> Vec<u16> {
        let same = self.blank.is_some() && self.blank == other.blank;
        let ends = self.ends.iter().zip(&other.ends);
        ends.map(|(one, other)| if same { *one.max(other) } else { u16::MAX }).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ratatui::style::Color;

    use super::*;

    const AREA: Rect = Rect { x: 2, y: 1, width: 9, height: 4 };

    fn blank(ground: Color) -> Cell {
        let mut cell = Cell::EMPTY;
        cell.bg = ground;
        cell
    }

    proptest! {
        #[test]
        fn a_canvas_that_was_drawn_on_is_cleared_like_a_new_one(
            frames in prop::collection::vec((any::<bool>(), prop::collection::vec((0u16..14, 0u16..8, 0u16..6, 0u16..3), 0..6)), 1..6)
        ) {
            let mut canvas = Canvas::new(Buffer::filled(AREA, Cell::new("?")));
            let mut last: Option<(Buffer, Extent)> = None;
            for (is_dark, places) in frames {
                let blank = blank(if is_dark { Color::Black } else { Color::White });
                canvas.clear(&blank);
                let mut fresh = Buffer::filled(AREA, blank);
                for (x, y, width, height) in places {
                    let area = Rect { x, y, width, height }.intersection(AREA);
                    for buffer in [canvas.touch(area), &mut fresh] {
                        area.positions().for_each(|at| buffer[at].set_char('x').fg = Color::Red);
                    }
                }
                prop_assert_eq!(canvas.buffer(), &fresh);
                prop_assert!(canvas.is_sound());
                if let Some((before, extent)) = last {
                    let ends = extent.with(canvas.extent());
                    for at in AREA.positions().filter(|at| before[*at] != fresh[*at]) {
                        prop_assert!(at.x < ends[usize::from(at.y - AREA.y)]);
                    }
                }
                last = Some((fresh, canvas.extent().clone()));
            }
        }
    }
}
