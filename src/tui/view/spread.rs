//! How figures are spread over thousands of ranks: how many do what, how far behind they are, and percentiles.

use std::{borrow::Cow, collections::BTreeMap};

use ratatui::layout::Rect;

use super::{Pen, pen::Piece};
use crate::{
    domain::{fleet::RankRow, time::human},
    tui::{app::App, text, theme::Role, words},
};

/// Lines that it takes.
pub(super) const HEIGHT: u16 = 6;

pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    if area.height < HEIGHT {
        return;
    }
    let half = if area.width >= 70 { area.width / 2 } else { area.width };
    lags(app, pen, Rect { width: half - 2, ..area });
    if half < area.width {
        percentiles(app, pen, Rect { x: area.x + half, width: area.width - half, ..area });
    }
}

/// Ranks by how many steps they are behind the furthest.
fn lags(app: &App, pen: &mut Pen, area: Rect) {
    pen.rule(area, "steps behind");
    let buckets = [("0", 0.5), ("1-2", 2.5), ("3-9", 9.5), ("10-99", 99.5), ("100+", f32::INFINITY)];
    let mut counts = [0_u32; 5];
    let lags = app.overview.fleet.ranks.iter().filter_map(|row| row.figures.step_lag);
    for lag in lags {
        let bucket = buckets.iter().position(|(_, below)| lag < *below).unwrap_or(4);
        counts[bucket] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let cells = area.width.saturating_sub(16);
    for (((name, _), count), y) in buckets.iter().zip(counts).zip(area.y + 1..) {
        pen.right(area.x + 1, y, 6, name, Role::Dim);
        // The largest bucket is known beforehand: by its logarithm the others can be seen too.
        let share = log2(count + 1) / log2(most + 1);
        let filled = if count == 0 { 0 } else { ((share * f64::from(cells)) as u16).max(1) };
        let role = match (*name, count) {
            ("0" | "1-2", _) => Role::Heat(1),
            _ => Role::Warn,
        };
        let bar = app.glyphs.full.repeat(usize::from(filled.min(cells)));
        pen.text(area.x + 8, y, cells, &bar, role);
        if count > 0 {
            pen.text(area.x + 9 + filled, y, 6, &count.to_string(), Role::Text);
        }
    }
}

/// The logarithm, near enough for a bar: straight between powers of two. `ln` would load the C library's mathematics, a
/// twentieth of all memory that a monitor needs.
fn log2(count: u32) -> f64 {
    let whole = count.ilog2();
    f64::from(whole) + f64::from(count) / f64::from(1_u32 << whole) - 1.0
}

/// Its name, what a rank tells of it, and how it is written.
type Figure = (&'static str, fn(&RankRow) -> Option<f32>, fn(f32) -> String);

/// States with their counts, and the percentiles of what is known.
fn percentiles(app: &App, pen: &mut Pen, area: Rect) {
    let fleet = &app.overview.fleet;
    pen.rule(area, "all ranks  p1 / p50 / p99");
    let figures: [Figure; 4] = [
        ("GPU %", |row| row.figures.gpu_pct, |value| format!("{value:.0}")),
        ("CPU %", |row| row.figures.cpu_pct, |value| format!("{value:.0}")),
        ("memory", |row| row.rss_bytes.map(|bytes| bytes as f32), |value| text::bytes(value as u64)),
        ("power W", |row| row.figures.power_w, |value| format!("{value:.0}")),
    ];
    let mut y = area.y + 1;
    let mut values: Vec<f32> = Vec::with_capacity(fleet.ranks.len());
    for (name, of, show) in figures {
        values.clear();
        values.extend(fleet.ranks.iter().filter_map(of));
        if values.is_empty() || y + 2 >= area.bottom() {
            continue;
        }
        let last = values.len() - 1;
        let mut at = |share: f32| {
            let at = (last as f32 * share).round() as usize;
            show(*values.select_nth_unstable_by(at, f32::total_cmp).1)
        };
        let line = [at(0.01), at(0.5), at(0.99)].join(" / ");
        pen.text(area.x + 1, y, 8, name, Role::Dim);
        pen.text(area.x + 10, y, area.width.saturating_sub(10), &line, Role::Text);
        y += 1;
    }
    pen.pieces(area.x + 1, area.bottom() - 2, area.width.saturating_sub(1), &states(app));
    pen.pieces(area.x + 1, area.bottom() - 1, area.width.saturating_sub(1), &silent(app));
}

/// `● run 4081  ▲ lag 11  ✖ exit 1 1`.
fn states(app: &App) -> Vec<Piece> {
    let mut counts: BTreeMap<(u8, Cow<str>), (u32, &'static str, Role)> = BTreeMap::new();
    for row in &app.overview.fleet.ranks {
        let Some(rank) = app.rank_at(row.id) else { continue };
        let look = words::rank_state(rank, app.glyphs);
        let gravity = match look.role {
            Role::Crit => 0,
            Role::Warn => 1,
            _ => 2,
        };
        counts.entry((gravity, look.word)).or_insert((0, look.glyph, look.role)).0 += 1;
    }
    let piece = |((_, word), (count, glyph, role)): ((u8, Cow<str>), (u32, &str, Role))| {
        [(format!("{glyph} {word} "), role), (format!("{count}  "), Role::Text)]
    };
    counts.into_iter().flat_map(piece).collect()
}

/// Nodes that say nothing.
fn silent(app: &App) -> Vec<Piece> {
    let ages: Vec<_> = app.overview.fleet.nodes.iter().filter_map(|node| node.silent).collect();
    match ages.iter().max() {
        None => vec![("all nodes answer".into(), Role::Dim)],
        Some(longest) => {
            vec![(format!("{} nodes silent, for up to {}", ages.len(), human(*longest)), Role::Stale)]
        }
    }
}
