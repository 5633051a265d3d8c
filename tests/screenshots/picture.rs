//! A terminal's screen as SVG.

/// Width and height of a cell, and the margin, in pixels. 14 px of a monospaced font are 8.4 px wide.
const CELL: (f64, f64) = (8.4, 18.0);
const MARGIN: f64 = 10.0;

/// The screen as a picture: cells of one look form a run, whose place and length are given. So columns stay in line
/// whatever font the reader has.
pub fn svg(screen: &vt100::Screen) -> String {
    let (rows, columns) = screen.size();
    let (width, height) = (f64::from(columns.get()) * CELL.0, f64::from(rows.get()) * CELL.1);
    let (width, height) = (width + 2.0 * MARGIN, height + 2.0 * MARGIN);
    // The margin has the theme's own colour.
    let paper = screen.cell(0, 0).map_or(PAPER.to_owned(), |cell| look(cell).background);
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" width=\"{width:.0}\">\n\
         <style>text {{ font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; \
         white-space: pre }}</style>\n<rect width=\"100%\" height=\"100%\" rx=\"5\" fill=\"{paper}\"/>\n"
    );
    for row in 0..rows.get() {
        let cells: Vec<_> = (0..columns.get()).filter_map(|column| screen.cell(row, column)).collect();
        let y = MARGIN + f64::from(row) * CELL.1;
        let mut column = 0;
        for run in cells.chunk_by(|a, b| look(a) == look(b)) {
            let (x, length) = (MARGIN + f64::from(column) * CELL.0, run.len() as f64 * CELL.0);
            column += u16::try_from(run.len()).unwrap();
            let look = look(run[0]);
            if look.background != paper {
                let fill = &look.background;
                picture += &format!(
                    "<rect x=\"{x:.1}\" y=\"{y:.0}\" width=\"{length:.1}\" height=\"18\" fill=\"{fill}\"/>\n"
                );
            }
            picture += &text(run, x, y + 13.5, &look);
        }
    }
    picture + "</svg>\n"
}

/// The words of a run, each at its place: blanks between them need no font.
fn text(run: &[&vt100::Cell], x: f64, y: f64, look: &Look) -> String {
    let mut text = String::new();
    let mut column = 0;
    for word in run.chunk_by(|a, b| is_blank(a) == is_blank(b)) {
        let (x, length) = (x + f64::from(column) * CELL.0, word.len() as f64 * CELL.0);
        column += u16::try_from(word.len()).unwrap();
        if is_blank(word[0]) {
            continue;
        }
        let letters: String = word.iter().map(|cell| cell.contents()).collect();
        // Letters of a monospaced font only need their places; what is drawn as blocks must meet its neighbour.
        let stretch = if letters.is_ascii() { "" } else { " lengthAdjust=\"spacingAndGlyphs\"" };
        let letters = letters.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let Look { ink, style, .. } = look;
        text += &format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" textLength=\"{length:.1}\"{stretch} fill=\"{ink}\"{style}>{letters}</text>\n"
        );
    }
    text
}

fn is_blank(cell: &vt100::Cell) -> bool {
    !cell.is_wide_continuation() && cell.contents().trim().is_empty()
}

/// What cells of one run have in common.
#[derive(PartialEq)]
struct Look {
    ink: String,
    background: String,
    style: String,
}

/// The colours of a terminal without a theme.
const INK: &str = "#d0d4dc";
const PAPER: &str = "#101218";

fn look(cell: &vt100::Cell) -> Look {
    let ink = hex(cell.fgcolor()).unwrap_or_else(|| INK.to_owned());
    let paper = hex(cell.bgcolor()).unwrap_or_else(|| PAPER.to_owned());
    let (ink, background) = if cell.inverse() { (paper, ink) } else { (ink, paper) };
    let mut style = String::new();
    for (is_so, attribute) in [
        (cell.bold(), " font-weight=\"bold\""),
        (cell.italic(), " font-style=\"italic\""),
        (cell.underline(), " text-decoration=\"underline\""),
        (cell.dim(), " opacity=\"0.6\""),
    ] {
        style += if is_so { attribute } else { "" };
    }
    Look { ink, background, style }
}

/// A colour; the first sixteen as a dark terminal would show them. `None` is the terminal's own.
fn hex(color: vt100::Color) -> Option<String> {
    const NAMED: [&str; 16] = [
        "#20232a", "#e0606a", "#6fbf85", "#d9b95c", "#6ea3f0", "#b98ae8", "#5cc0c0", "#c8ccd4", "#6b7280",
        "#ff7b85", "#7fcf9a", "#e8c468", "#7fb4ff", "#cba2f2", "#7fd8d8", "#f4f6fa",
    ];
    match color {
        vt100::Color::Default => None,
        vt100::Color::Rgb(r, g, b) => Some(format!("#{r:02x}{g:02x}{b:02x}")),
        vt100::Color::Idx(index @ 0..16) => Some(NAMED[usize::from(index)].to_owned()),
        vt100::Color::Idx(index @ 16..232) => {
            let level = |step: u8| if step == 0 { 0 } else { 55 + 40 * step };
            let cube = index - 16;
            let (r, g, b) = (level(cube / 36), level(cube / 6 % 6), level(cube % 6));
            Some(format!("#{r:02x}{g:02x}{b:02x}"))
        }
        vt100::Color::Idx(index) => {
            let gray = 8 + 10 * (index - 232);
            Some(format!("#{gray:02x}{gray:02x}{gray:02x}"))
        }
    }
}
