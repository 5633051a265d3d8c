//! Frames as bytes: what a terminal must be told so that it shows the next buffer instead of the last one.
//!
//! Thin lines are the reason for doing this here: one escape sequence for all that changes in a style, the shortest
//! move, and cells of one look drawn together when that is shorter. The order of cells does not matter inside of
//! a synchronised update.

use std::io::Write as _;

use ratatui::{
    buffer::{Buffer, Cell},
    layout::Rect,
    style::{Color, Modifier},
};

use super::picture::{Change, Look, PLAIN, Picture};

/// Up to so many changed cells both orders are tried.
const TRY_BOTH: usize = 3000;
/// As many unchanged cells are written again rather than jumped over.
const REWRITE: u16 = 4;

/// What turns a terminal into one that shows the next frame.
#[derive(Debug, Default)]
pub struct Turn {
    /// For the terminal; none when it shows the frame already. Its style is plain before and after.
    pub bytes: Vec<u8>,
    /// The rows in which something is written, from the top.
    pub(super) rows: Vec<u16>,
}

/// Turns what a terminal shows into the next frame, which has the same size.
pub fn encode(shown: &mut Picture, next: &Buffer) -> Turn {
    encode_up_to(shown, next, &vec![u16::MAX; next.area.height.into()])
}

/// The same where each row, from the top, can differ up to a column only.
pub(super) fn encode_up_to(shown: &mut Picture, next: &Buffer, ends: &[u16]) -> Turn {
    let (mut changes, wide) = shown.take(next, ends);
    if changes.is_empty() {
        return Turn::default();
    }
    let mut rows: Vec<u16> = changes.iter().map(|(_, y, _)| *y).collect();
    rows.dedup();
    rewrite(next, &wide, &mut changes);
    let straight = write(next, changes.iter().copied());
    if changes.len() > TRY_BOTH || !wide.is_empty() {
        return Turn { bytes: straight, rows };
    }
    let mut grouped = changes;
    let mut looks: Vec<Look> = Vec::new();
    grouped.sort_by_cached_key(|(_, _, cell)| {
        let look = Look::of(cell);
        looks.iter().position(|known| *known == look).unwrap_or_else(|| {
            looks.push(look);
            looks.len() - 1
        })
    });
    let grouped = write(next, grouped.into_iter());
    Turn { bytes: if grouped.len() < straight.len() { grouped } else { straight }, rows }
}

/// Erases the terminal to the blank that most of `next` is, and what it shows then.
///
/// Terminals fill what they erase with the ground of the moment, which saves nearly all bytes of a first frame; those
/// that do not are told apart by `in_colour`.
pub(crate) fn erase(next: &Buffer, in_colour: bool) -> (Vec<u8>, Picture) {
    let mut grounds: Vec<(Color, usize)> = Vec::new();
    for cell in next.content.iter().filter(|cell| cell.symbol() == " " && in_colour) {
        match grounds.iter_mut().find(|(ground, _)| *ground == cell.bg) {
            Some((_, count)) => *count += 1,
            None => grounds.push((cell.bg, 1)),
        }
    }
    let ground =
        grounds.into_iter().max_by_key(|(_, count)| *count).map_or(Color::Reset, |(ground, _)| ground);
    let mut bytes = b"\x1b[m".to_vec();
    let filled = Look { ground, ..PLAIN };
    if filled != PLAIN {
        set_look(&mut bytes, PLAIN, filled);
    }
    bytes.extend(b"\x1b[2J");
    if filled != PLAIN {
        bytes.extend(b"\x1b[m");
    }
    let mut blank = Cell::EMPTY;
    blank.bg = ground;
    (bytes, Picture::filled(next.area, &blank))
}

/// Where wide characters come or go, cells lie over each other, and terminals differ about what is left of those that
/// are cut in half: such rows are written from end to end.
fn rewrite<'a>(next: &'a Buffer, rows: &[u16], changes: &mut Vec<Change<'a>>) {
    if rows.is_empty() {
        return;
    }
    changes.retain(|(_, y, _)| !rows.contains(y));
    for y in rows {
        let mut x = next.area.left();
        while x < next.area.right() {
            let cell = &next[(x, *y)];
            changes.push((x, *y, cell));
            x += super::text::width(cell.symbol()).max(1) as u16;
        }
    }
    changes.sort_by_key(|(x, y, _)| (*y, *x));
}

/// The bytes that write these cells of one row, whatever the terminal shows there.
pub(super) fn cells(next: &Buffer, area: Rect) -> Vec<u8> {
    let area = area.intersection(next.area);
    let mut cells = Vec::with_capacity(area.width.into());
    let mut x = area.left();
    while x < area.right() {
        let cell = &next[(x, area.y)];
        cells.push((x, area.y, cell));
        x += super::text::width(cell.symbol()).max(1) as u16;
    }
    write(next, cells.into_iter())
}

fn write<'a>(next: &Buffer, cells: impl Iterator<Item = (u16, u16, &'a Cell)>) -> Vec<u8> {
    let mut out = Vec::with_capacity(4096);
    let mut look = PLAIN;
    // Where the cursor is, once it is known.
    let mut cursor: Option<(u16, u16)> = None;
    for (x, y, cell) in cells {
        go_to(&mut out, next, &mut cursor, (x, y), look);
        let wanted = Look::of(cell);
        if wanted != look && !(cell.symbol() == " " && wanted.same_blank(look)) {
            set_look(&mut out, look, wanted);
            look = wanted;
        }
        out.extend(cell.symbol().as_bytes());
        let cells = super::text::width(cell.symbol()).max(1) as u16;
        // At the right edge terminals differ about where the cursor is.
        cursor = Some((x + cells, y)).filter(|(x, _)| *x < next.area.right());
    }
    if look != PLAIN {
        out.extend(b"\x1b[m");
    }
    out
}

/// Moves the cursor, by writing cells again where that is shorter than a jump.
fn go_to(out: &mut Vec<u8>, next: &Buffer, cursor: &mut Option<(u16, u16)>, to: (u16, u16), look: Look) {
    if *cursor == Some(to) {
        return;
    }
    if let Some((x, y)) = *cursor
        && y == to.1
        && x < to.0
    {
        let between = || (x..to.0).map(|x| &next[(x, y)]);
        let plain = |cell: &Cell| {
            cell.symbol().len() == 1
                && (Look::of(cell) == look || cell.symbol() == " " && Look::of(cell).same_blank(look))
        };
        if to.0 - x <= REWRITE && between().all(plain) {
            between().for_each(|cell| out.extend(cell.symbol().as_bytes()));
        } else if to.0 - x == 1 {
            out.extend(b"\x1b[C");
        } else {
            let _ = write!(out, "\x1b[{}C", to.0 - x);
        }
    } else {
        let _ = write!(out, "\x1b[{};{}H", to.1 + 1, to.0 + 1);
    }
    *cursor = Some(to);
}

const MODIFIERS: [(Modifier, u8); 8] = [
    (Modifier::BOLD, 1),
    (Modifier::DIM, 2),
    (Modifier::ITALIC, 3),
    (Modifier::UNDERLINED, 4),
    (Modifier::SLOW_BLINK, 5),
    (Modifier::REVERSED, 7),
    (Modifier::HIDDEN, 8),
    (Modifier::CROSSED_OUT, 9),
];

/// One sequence for all that differs.
fn set_look(out: &mut Vec<u8>, from: Look, to: Look) {
    let mut codes: Vec<u8> = Vec::with_capacity(48);
    let mut from = from;
    if !to.modifier.contains(from.modifier) {
        // What is switched off needs a code each, and bold and dim share theirs.
        codes.extend(b"0;");
        from = PLAIN;
    }
    for (modifier, code) in MODIFIERS {
        if to.modifier.contains(modifier) && !from.modifier.contains(modifier) {
            let _ = write!(codes, "{code};");
        }
    }
    if to.ink != from.ink {
        color(&mut codes, to.ink, 30);
    }
    if to.ground != from.ground {
        color(&mut codes, to.ground, 40);
    }
    codes.pop();
    // A lone reset is shortest without its number.
    if codes == b"0" {
        codes.clear();
    }
    out.extend(b"\x1b[");
    out.extend(codes);
    out.push(b'm');
}

/// `base` is 30 for ink and 40 for ground.
fn color(codes: &mut Vec<u8>, color: Color, base: u8) {
    let named = |n: u8| base + n;
    let bright = |n: u8| base + 60 + n;
    let code = match color {
        Color::Reset => base + 9,
        Color::Black => named(0),
        Color::Red => named(1),
        Color::Green => named(2),
        Color::Yellow => named(3),
        Color::Blue => named(4),
        Color::Magenta => named(5),
        Color::Cyan => named(6),
        Color::Gray => named(7),
        Color::DarkGray => bright(0),
        Color::LightRed => bright(1),
        Color::LightGreen => bright(2),
        Color::LightYellow => bright(3),
        Color::LightBlue => bright(4),
        Color::LightMagenta => bright(5),
        Color::LightCyan => bright(6),
        Color::White => bright(7),
        Color::Indexed(index) => {
            let _ = write!(codes, "{};5;{index};", base + 8);
            return;
        }
        Color::Rgb(r, g, b) => {
            let _ = write!(codes, "{};2;{r};{g};{b};", base + 8);
            return;
        }
    };
    let _ = write!(codes, "{code};");
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use proptest::prelude::*;
    use ratatui::style::Style;

    use super::*;

    const SIZE: (u16, u16) = (24, 6);

    fn any_style() -> impl Strategy<Value = Style> {
        let colors =
            vec![Color::Reset, Color::Red, Color::LightBlue, Color::Indexed(100), Color::Rgb(1, 20, 255)];
        let modifiers = vec![
            Modifier::empty(),
            Modifier::BOLD,
            Modifier::REVERSED | Modifier::ITALIC,
            Modifier::UNDERLINED,
            Modifier::BOLD | Modifier::REVERSED,
        ];
        let color = proptest::sample::select(colors);
        (color.clone(), color, proptest::sample::select(modifiers))
            .prop_map(|(ink, ground, modifier)| Style::new().fg(ink).bg(ground).add_modifier(modifier))
    }

    fn any_buffer() -> impl Strategy<Value = Buffer> {
        let piece = (0..SIZE.0, 0..SIZE.1, "[a-z ▁█漢]{0,9}", any_style());
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| {
            let mut buffer = Buffer::empty(Rect::new(0, 0, SIZE.0, SIZE.1));
            for (x, y, text, style) in pieces {
                buffer.set_stringn(x, y, text, usize::from(SIZE.0 - x), style);
            }
            buffer
        })
    }

    /// What a terminal shows, cell by cell.
    fn shown(parser: &vt100::Parser) -> Vec<String> {
        let cells = (0..SIZE.1).flat_map(|y| (0..SIZE.0).map(move |x| (x, y)));
        let look = |(x, y): (u16, u16)| {
            let cell = parser.screen().cell(y, x).unwrap();
            let text = if cell.contents().is_empty() { " " } else { cell.contents() };
            if cell.is_wide_continuation() {
                return String::new();
            }
            // Of a blank only the ground is seen.
            let ink = (cell.fgcolor(), cell.bold(), cell.italic());
            let seen = if text == " " && !cell.inverse() && !cell.underline() { None } else { Some(ink) };
            format!("{text} {:?} {:?} {} {}", cell.bgcolor(), seen, cell.inverse(), cell.underline())
        };
        cells.map(look).collect()
    }

    fn empty(area: Rect) -> Picture {
        Picture::filled(area, &Cell::EMPTY)
    }

    fn terminal() -> vt100::Parser {
        vt100::Parser::new(NonZero::new(SIZE.1).unwrap(), NonZero::new(SIZE.0).unwrap(), 0)
    }

    proptest! {
        #[test]
        fn the_terminal_shows_what_was_drawn(buffers in proptest::collection::vec(any_buffer(), 1..6)) {
            let mut last = empty(buffers[0].area);
            let mut parser = terminal();
            for next in &buffers {
                parser.process(&encode(&mut last, next).bytes);
                let mut whole = terminal();
                whole.process(&encode(&mut empty(next.area), next).bytes);
                prop_assert_eq!(shown(&parser), shown(&whole));
            }
            let last = buffers[buffers.len() - 1].clone();
            // And the whole is what ratatui's own backend makes of it.
            let mut bytes = Vec::new();
            let blank = Buffer::empty(last.area);
            ratatui::backend::Backend::draw(
                &mut ratatui::backend::CrosstermBackend::new(&mut bytes),
                blank.diff(&last).into_iter(),
            ).unwrap();
            let mut other = terminal();
            other.process(&bytes);
            prop_assert_eq!(shown(&parser), shown(&other));
        }
    }

    #[test]
    fn a_first_frame_costs_what_is_on_it() {
        let mut next = Buffer::empty(Rect::new(0, 0, SIZE.0, SIZE.1));
        next.set_style(next.area, Style::new().bg(Color::Rgb(20, 30, 40)).fg(Color::White));
        next.set_string(3, 2, "four", Style::new().fg(Color::Red));
        for in_colour in [true, false] {
            let (mut bytes, mut blank) = erase(&next, in_colour);
            bytes.extend(encode(&mut blank, &next).bytes);
            assert_eq!(bytes.len() < 80, in_colour, "{} bytes", bytes.len());
            let mut parser = terminal();
            parser.process(b"\x1b[31;42mwhat was there before\x1b[H");
            parser.process(&bytes);
            let mut whole = terminal();
            whole.process(&encode(&mut empty(next.area), &next).bytes);
            assert_eq!(shown(&parser), shown(&whole));
        }
    }

    #[test]
    fn nothing_new_is_no_byte_and_one_cell_is_few() {
        let mut last = Buffer::empty(Rect::new(0, 0, 200, 50));
        let mut shown = Picture::from(&last);
        assert!(encode(&mut shown, &last).bytes.is_empty());
        last[(120, 30)].set_symbol("7");
        assert_eq!(encode(&mut shown, &last).bytes, b"\x1b[31;121H7");
    }

    #[test]
    fn a_symbol_too_long_to_be_kept_is_known_again() {
        let mut next = Buffer::empty(Rect::new(0, 0, SIZE.0, SIZE.1));
        let mut shown = empty(next.area);
        for flag in ["🇩🇪", "🇩🇰"] {
            next[(3, 2)].set_symbol(flag);
            let bytes = encode(&mut shown, &next).bytes;
            assert!(String::from_utf8_lossy(&bytes).contains(flag));
            assert!(encode(&mut shown, &next).bytes.is_empty(), "nothing new is no byte");
        }
        next[(3, 2)].set_symbol("x");
        assert!(encode(&mut shown, &next).bytes.contains(&b'x'));
    }

    #[test]
    fn cells_of_one_look_are_drawn_together() {
        let last = Buffer::empty(Rect::new(0, 0, 200, 50));
        let mut next = last.clone();
        let looks = [Style::new().fg(Color::Rgb(10, 20, 30)), Style::new().fg(Color::Rgb(200, 100, 30))];
        for n in 0..40_u16 {
            next[(n * 4 % 190, n)].set_symbol("█").set_style(looks[usize::from(n % 2)]);
        }
        let bytes = encode(&mut Picture::from(&last), &next).bytes;
        assert!(bytes.len() < 40 * 12 + 60, "{} bytes", bytes.len());
    }
}
