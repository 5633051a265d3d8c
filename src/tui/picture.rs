//! What a terminal shows, so that the next frame need not say it again.
//!
//! Kept in a third of the room of a [`Buffer`]: pictures are the largest part of what a monitor holds that is no program,
//! and each of them is gone through once a frame.

use std::hash::{DefaultHasher, Hasher as _};

use ratatui::{
    buffer::{Buffer, Cell},
    layout::Rect,
    style::{Color, Modifier},
};

/// What a cell looks like, besides its symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Look {
    pub(super) ink: Color,
    pub(super) ground: Color,
    pub(super) modifier: Modifier,
}

pub(super) const PLAIN: Look = Look { ink: Color::Reset, ground: Color::Reset, modifier: Modifier::empty() };

impl Look {
    #[inline]
    pub(super) fn of(cell: &Cell) -> Look {
        Look { ink: cell.fg, ground: cell.bg, modifier: cell.modifier }
    }

    /// Whether two looks show a blank alike.
    #[inline]
    pub(super) fn same_blank(self, other: Look) -> bool {
        let visible = Modifier::REVERSED | Modifier::UNDERLINED | Modifier::CROSSED_OUT;
        self.ground == other.ground && !(self.modifier | other.modifier).intersects(visible)
    }
}

/// Bytes of the longest symbol that is kept as it is.
const LONGEST: usize = 6;
/// Begins what is kept of a longer one, a flag or a syllable of many signs: forty bits of its hash. No text has this byte.
const HASHED: u8 = 0xff;
const BLANK: [u8; LONGEST] = [b' ', 0, 0, 0, 0, 0];

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    symbol: [u8; LONGEST],
    look: Look,
}

impl Seen {
    fn of(cell: &Cell) -> Seen {
        let mut symbol = [0; LONGEST];
        match cell.symbol().as_bytes() {
            // Most are one byte.
            [byte] => symbol[0] = *byte,
            bytes if bytes.len() <= LONGEST => symbol[..bytes.len()].copy_from_slice(bytes),
            bytes => {
                let mut hasher = DefaultHasher::new();
                hasher.write(bytes);
                symbol[0] = HASHED;
                symbol[1..].copy_from_slice(&hasher.finish().to_le_bytes()[..LONGEST - 1]);
            }
        }
        Seen { symbol, look: Look::of(cell) }
    }

    /// Whether a cell looks like this on a terminal. Asked of all cells of each frame.
    #[inline]
    fn is_like(&self, cell: &Cell) -> bool {
        let look = Look::of(cell);
        match cell.symbol().as_bytes() {
            b" " => self.symbol == BLANK && (self.look == look || self.look.same_blank(look)),
            [byte] => self.symbol == [*byte, 0, 0, 0, 0, 0] && self.look == look,
            _ => *self == Seen::of(cell),
        }
    }

    fn is_wide(&self) -> bool {
        let length = self.symbol.iter().position(|byte| *byte == 0).unwrap_or(LONGEST);
        // Nobody knows how wide a terminal takes a long one to be.
        length != 1
            && str::from_utf8(&self.symbol[..length]).map_or(true, |text| super::text::width(text) != 1)
    }
}

/// All cells of a terminal.
#[derive(Clone, Debug)]
pub struct Picture {
    area: Rect,
    cells: Vec<Seen>,
}

/// A cell that differs, and its place.
pub(super) type Change<'a> = (u16, u16, &'a Cell);

impl Picture {
    /// A terminal of this size whose cells are all like `cell`.
    pub fn filled(area: Rect, cell: &Cell) -> Picture {
        Picture { area, cells: vec![Seen::of(cell); area.area() as usize] }
    }

    /// Takes over what a frame of the same size shows, of each row up to its column in `ends`. Gives the cells that differ,
    /// row by row, and the rows in which wide characters come or go.
    pub(super) fn take<'a>(&mut self, next: &'a Buffer, ends: &[u16]) -> (Vec<Change<'a>>, Vec<u16>) {
        let width = usize::from(self.area.width).max(1);
        let rows = self.cells.chunks_mut(width).zip(next.content.chunks(width));
        let (mut changes, mut wide) = (Vec::new(), Vec::new());
        for (y, ((before, after), end)) in (self.area.y..).zip(rows.zip(ends)) {
            let columns = self.area.x..*end;
            for (x, (seen, cell)) in columns.zip(before.iter_mut().zip(after)) {
                if seen.is_like(cell) {
                    continue;
                }
                let now = Seen::of(cell);
                if (now.is_wide() || seen.is_wide()) && wide.last() != Some(&y) {
                    wide.push(y);
                }
                *seen = now;
                changes.push((x, y, cell));
            }
        }
        (changes, wide)
    }
}

impl From<&Buffer> for Picture {
    fn from(buffer: &Buffer) -> Picture {
        Picture { area: buffer.area, cells: buffer.content.iter().map(Seen::of).collect() }
    }
}
