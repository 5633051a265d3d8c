//! Figures over time: a line of blocks, and charts of braille dots that share a time axis.

use ratatui::layout::Rect;

use super::Pen;
use crate::tui::{text::Glyphs, theme::Role};

/// Heights of one cell, lowest first. The lowest is a value too: nothing at all means that none is known.
const BLOCKS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
const ASCII_BLOCKS: [&str; 8] = ["_", ".", ":", "-", "=", "+", "*", "#"];

/// Bits of a braille cell from the bottom up: left column, right column.
const DOTS: [[u32; 4]; 2] = [[0x40, 0x04, 0x02, 0x01], [0x80, 0x20, 0x10, 0x08]];
const BRAILLE: u32 = 0x2800;

/// One cell for each value, the newest last.
pub(crate) fn spark(values: &[Option<u32>], max: u32, glyphs: Glyphs) -> String {
    let blocks = if glyphs.ascii { &ASCII_BLOCKS } else { &BLOCKS };
    let one = |value: &Option<u32>| value.map_or(" ", |value| blocks[height(value, max, 8) - 1]);
    values.iter().map(one).collect()
}

/// How many of `steps` a value fills; at least one.
fn height(value: u32, max: u32, steps: u32) -> usize {
    let part = u64::from(value.min(max)) * u64::from(steps);
    (part.div_ceil(u64::from(max.max(1))) as usize).clamp(1, steps as usize)
}

/// One figure over time.
pub(crate) struct Chart<'a> {
    /// What it is, and its newest value.
    pub(crate) title: &'a str,
    /// Two for each column of cells, the newest last.
    pub(crate) values: &'a [Option<u32>],
    /// The value at the upper edge.
    pub(crate) max: u32,
    /// The same in words.
    pub(crate) scale: &'a str,
    /// Places of vertical rules among the values: something began anew.
    pub(crate) rules: &'a [usize],
    /// Values that want a look; empty when none does.
    pub(crate) marks: &'a [bool],
}

/// Draws a title and the chart below it.
pub(crate) fn draw(pen: &mut Pen, area: Rect, chart: &Chart) {
    if area.height < 2 || area.width < 4 {
        return;
    }
    let taken = pen.text(area.x, area.y, area.width, chart.title, Role::Text);
    pen.right(area.x + taken, area.y, area.width - taken, chart.scale, Role::Dim);
    // Colour alone must not tell: marks have a line of their own.
    let ticks = u16::from(chart.marks.contains(&true) && area.height > 2);
    let plot = Rect { y: area.y + 1, height: area.height - 1 - ticks, ..area };
    for column in 0..plot.width {
        let at = usize::from(column) * 2;
        let pair = [chart.values.get(at).copied().flatten(), chart.values.get(at + 1).copied().flatten()];
        let marked = chart.marks.iter().skip(at).take(2).any(|mark| *mark);
        let role = if marked { Role::Warn } else { Role::Accent };
        for row in 0..plot.height {
            let y = plot.bottom() - 1 - row;
            pen.text(plot.x + column, y, 1, &cell(pair, chart.max, (row, plot.height), pen.glyphs), role);
        }
        if ticks > 0 && marked {
            pen.text(plot.x + column, plot.bottom(), 1, pen.glyphs.warn, Role::Warn);
        }
    }
    for rule in chart.rules {
        let x = plot.x + (rule / 2) as u16;
        for y in plot.top()..plot.bottom() {
            if x < plot.right() {
                pen.text(x, y, 1, pen.glyphs.bar, Role::Border);
            }
        }
    }
}

/// What a cell shows of two values, `row` rows above the bottom of so many.
fn cell(pair: [Option<u32>; 2], max: u32, (row, rows): (u16, u16), glyphs: Glyphs) -> String {
    let (row, rows) = (usize::from(row), u32::from(rows));
    if glyphs.ascii {
        let value = pair.into_iter().flatten().max();
        return value.filter(|value| height(*value, max, rows) > row).map_or(" ", |_| "#").into();
    }
    let dots = pair.iter().zip(DOTS).map(|(value, bits)| {
        let filled = value.map_or(0, |value| height(value, max, rows * 4)).saturating_sub(row * 4).min(4);
        bits[..filled].iter().sum::<u32>()
    });
    match dots.sum() {
        0 => " ".into(),
        dots => char::from_u32(BRAILLE + dots).unwrap_or(' ').to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::text::GlyphSet;

    #[test]
    fn a_value_of_zero_is_not_nothing() {
        let values = [None, Some(0), Some(50), Some(100), Some(500)];
        assert_eq!(spark(&values, 100, GlyphSet::of(false)), " ▁▄██");
        assert_eq!(spark(&values, 100, GlyphSet::of(true)), " _-##");
        assert_eq!(spark(&[Some(0)], 0, GlyphSet::of(true)), "_");
    }

    #[test]
    fn dots_fill_from_the_bottom() {
        let unicode = GlyphSet::of(false);
        assert_eq!(cell([Some(100), None], 100, (0, 1), unicode), "⡇");
        assert_eq!(cell([Some(0), Some(50)], 100, (0, 1), unicode), "⣠");
        assert_eq!(cell([Some(50), Some(50)], 100, (1, 2), unicode), " ");
        assert_eq!(cell([Some(51), Some(50)], 100, (1, 2), unicode), "⡀");
        assert_eq!(cell([Some(51), None], 100, (1, 2), GlyphSet::of(true)), "#");
    }
}
