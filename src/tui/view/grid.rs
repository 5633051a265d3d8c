//! Ranks or nodes as cells: where each lies, what it shows, and which is its neighbour.

use ratatui::layout::Rect;

use super::Pen;
use crate::{
    domain::{
        fleet::{Metric, NodeRow, RankId, RankRow},
        rank::RankState,
        suspicion::SUSPECT,
    },
    tui::{app::App, text, theme::Role, words},
};

/// How the overview draws, by the number of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// A row for each rank.
    Rows,
    /// A cell with a figure for each rank, a line for each node.
    Cells,
    /// A glyph for each rank.
    Glyphs,
    /// A glyph for each node: its worst rank.
    Nodes,
}

impl Scale {
    /// Of this many ranks.
    pub(crate) fn of(app: &App) -> Scale {
        match app.overview.fleet.ranks.len() {
            0..=16 => Scale::Rows,
            17..=128 => Scale::Cells,
            129..=1024 => Scale::Glyphs,
            _ => Scale::Nodes,
        }
    }
}

/// Nodes that share a line of their own when a node is a cell.
const RACK: usize = 16;

/// Where cells lie. Groups of cells (the ranks of a node, or the nodes of a rack) lie side by side as far as they fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    scale: Scale,
    area: Rect,
    label: u16,
    cell: u16,
    columns: usize,
    /// Groups side by side, and lines that each of them takes.
    blocks: usize,
    lines: usize,
    groups: usize,
    /// First line that is shown.
    first: usize,
}

impl Grid {
    /// A grid in `area`, scrolled so that the selected cell is shown.
    pub(super) fn of(app: &App, scale: Scale, area: Rect) -> Grid {
        let fleet = &app.overview.fleet;
        let largest = fleet.nodes.iter().map(|node| node.ranks().len()).max().unwrap_or(1).max(1);
        let label = app.overview.labels.widest.max(1) + 1;
        let room = usize::from(area.width.saturating_sub(label)).max(1);
        let (groups, most) = match scale {
            Scale::Nodes => (fleet.nodes.len().div_ceil(RACK), RACK),
            _ => (fleet.nodes.len(), largest),
        };
        let cell = match scale {
            Scale::Cells => *[8, 7, 6, 4].iter().find(|cell| most * **cell <= room).unwrap_or(&2),
            _ => 1,
        };
        let columns = most.min(room / cell).max(1);
        let lines = most.div_ceil(columns);
        let width = usize::from(label) + columns * cell + 2;
        let fitting = (usize::from(area.width) + 2) / width.max(1);
        let height = usize::from(area.height).max(1);
        let blocks = match scale {
            // A line for each node reads best: more only where the lines do not suffice.
            Scale::Cells | Scale::Rows => (groups * lines).div_ceil(height).clamp(1, fitting.max(1)),
            // Round numbers of nodes side by side.
            _ => *[32, 20, 16, 12, 10, 8, 6, 5, 4, 3, 2]
                .iter()
                .find(|blocks| **blocks <= fitting)
                .unwrap_or(&1),
        };
        let mut grid =
            Grid { scale, area, label, cell: cell as u16, columns, blocks, lines, groups, first: 0 };
        let at = grid.line_of(grid.selected(app));
        grid.first = super::first_shown(at, grid.height(), height).min(at);
        grid
    }

    /// Lines that it wants.
    pub(super) fn height(&self) -> usize {
        self.groups.div_ceil(self.blocks) * self.lines
    }

    /// Cells that it uses.
    pub(super) fn width(&self) -> u16 {
        let blocks = self.blocks.min(self.groups.max(1)) as u16;
        (blocks * (self.label + self.columns as u16 * self.cell + 2)).saturating_sub(2)
    }

    /// Group and position in it of the selected cell.
    fn selected(&self, app: &App) -> (usize, usize) {
        self.cell_of(app, app.selected_id())
    }

    fn cell_of(&self, app: &App, id: RankId) -> (usize, usize) {
        let node = id.node as usize;
        if self.scale == Scale::Nodes {
            return (node / RACK, node % RACK);
        }
        let first = app.overview.fleet.nodes.get(node).map_or(0, |node| node.ranks().start);
        (node, app.overview.fleet.position(id).map_or(0, |at| at - first))
    }

    fn line_of(&self, (group, at): (usize, usize)) -> usize {
        group / self.blocks * self.lines + at / self.columns
    }

    /// Column among all cells side by side.
    fn column_of(&self, (group, at): (usize, usize)) -> usize {
        group % self.blocks * self.columns + at % self.columns
    }

    /// Where a cell is drawn; `None` when it is scrolled out.
    fn place(&self, group: usize, at: usize) -> Option<(u16, u16)> {
        let line = self.line_of((group, at)).checked_sub(self.first)?;
        let block = (group % self.blocks) as u16 * (self.label + self.columns as u16 * self.cell + 2);
        let x = self.area.x + block + self.label + (at % self.columns) as u16 * self.cell;
        (line < usize::from(self.area.height)).then_some((x, self.area.y + line as u16))
    }

    /// The rank of a cell: itself, or the worst of its node.
    fn rank_of(&self, app: &App, group: usize, at: usize) -> Option<RankId> {
        let fleet = &app.overview.fleet;
        let row = if self.scale == Scale::Nodes {
            fleet.nodes.get(group * RACK + at)?.worst_rank? as usize
        } else {
            fleet.nodes.get(group)?.ranks().nth(at)?
        };
        fleet.ranks.get(row).map(|row| row.id)
    }

    /// The rank at a cell of the screen.
    pub(super) fn at(&self, app: &App, x: u16, y: u16) -> Option<RankId> {
        let width = self.label + self.columns as u16 * self.cell + 2;
        let (column, line) = (x.checked_sub(self.area.x)?, y.checked_sub(self.area.y)?);
        let in_block = (column % width).checked_sub(self.label)?;
        let line = usize::from(line) + self.first;
        let group = line / self.lines * self.blocks + usize::from(column / width);
        let at = line % self.lines * self.columns + usize::from(in_block / self.cell);
        (usize::from(column / width) < self.blocks && usize::from(in_block / self.cell) < self.columns)
            .then(|| self.rank_of(app, group, at))?
    }

    /// The rank so many cells or lines further.
    pub(super) fn neighbour(&self, app: &App, by: i64, sideways: bool) -> Option<RankId> {
        let fleet = &app.overview.fleet;
        let (group, at) = self.selected(app);
        if sideways || by == i64::MIN || by == i64::MAX {
            let cells = if self.scale == Scale::Nodes { fleet.nodes.len() } else { fleet.ranks.len() };
            let here = match self.scale {
                Scale::Nodes => group * RACK + at,
                _ => fleet.position(app.selected_id()).unwrap_or(0),
            };
            let to = (here as i64).saturating_add(by).clamp(0, cells.saturating_sub(1) as i64) as usize;
            let row = if self.scale == Scale::Nodes { fleet.nodes[to].worst_rank? as usize } else { to };
            return fleet.ranks.get(row).map(|row| row.id);
        }
        let column = self.column_of((group, at));
        let last = self.height().saturating_sub(1) as i64;
        let line = (self.line_of((group, at)) as i64).saturating_add(by).clamp(0, last) as usize;
        // The last line may be shorter.
        (0..=column).rev().find_map(|column| {
            let group = line / self.lines * self.blocks + column / self.columns;
            self.rank_of(app, group, line % self.lines * self.columns + column % self.columns)
        })
    }

    pub(super) fn draw(&self, app: &App, pen: &mut Pen) {
        let selected = self.selected(app);
        for group in 0..self.groups {
            self.draw_group(app, pen, group, selected);
        }
    }

    fn draw_group(&self, app: &App, pen: &mut Pen, group: usize, selected: (usize, usize)) {
        let fleet = &app.overview.fleet;
        let cells = match self.scale {
            Scale::Nodes => RACK.min(fleet.nodes.len() - group * RACK),
            _ => fleet.nodes[group].ranks().len(),
        };
        let first_node = if self.scale == Scale::Nodes { group * RACK } else { group };
        if let Some((x, y)) = self.place(group, 0) {
            let label = app.overview.labels.of(first_node as u32);
            let has_selected = selected.0 == group;
            let worst = self.scale != Scale::Nodes && fleet.nodes[group].worst >= SUSPECT;
            let role = match (has_selected, worst) {
                (true, _) => Role::Accent,
                (_, true) => Role::Warn,
                _ => Role::Dim,
            };
            pen.right(x - self.label, y, self.label - 1, label, role);
        }
        for at in 0..cells {
            let Some((x, y)) = self.place(group, at) else { continue };
            let selected = selected == (group, at);
            if self.scale == Scale::Nodes {
                let node = &fleet.nodes[group * RACK + at];
                let (glyph, role) = node_look(app, node);
                pen.glyph(x, y, glyph, role);
            } else {
                let row = &fleet.ranks[fleet.nodes[group].ranks().start + at];
                self.draw_rank(app, pen, row, (x, y));
            }
            if selected && self.cell > 2 {
                pen.over(Rect { x, y, width: self.cell - 1, height: 1 }, Role::Selection);
            } else if selected {
                pen.over(Rect { x, y, width: 1, height: 1 }, Role::Accent);
                pen.invert(Rect { x, y, width: 1, height: 1 });
            }
        }
    }

    fn draw_rank(&self, app: &App, pen: &mut Pen, row: &RankRow, (x, y): (u16, u16)) {
        let (glyph, mut role) = rank_look(app, row);
        let hidden = !app.lets_through(row);
        if hidden {
            role = Role::Border;
        }
        if self.scale == Scale::Glyphs {
            return pen.glyph(x, y, if hidden { app.glyphs.ramp[0] } else { glyph }, role);
        }
        let look = app.rank_at(row.id).map(|rank| words::rank_state(rank, app.glyphs));
        let state = look.as_ref().map_or("?", |look| look.glyph);
        let loud = look.as_ref().is_some_and(|look| !matches!(look.role, Role::Ok | Role::Dim));
        if self.scale == Scale::Cells && !hidden && role == Role::Border {
            // Figures are read: quiet, but not as faint as a glyph may be.
            role = Role::Dim;
        }
        let state_role = match look {
            Some(look) if loud && !hidden => look.role,
            _ => role,
        };
        pen.glyph(x, y, state, state_role);
        if self.cell > 2 {
            // The narrowest cells have no room for a blank.
            let gap = u16::from(self.cell > 4);
            let room = self.cell - 2 - gap;
            let value = figure(app, row);
            let value = if text::width(&value) > usize::from(room) { String::new() } else { value };
            pen.text(x + 1 + gap, y, room, &value, if loud && !hidden { Role::Dim } else { role });
        }
    }
}

/// What is written in a cell: the metric, or what is most telling where it is suspicion.
pub(super) fn figure(app: &App, row: &RankRow) -> String {
    let dash = || "-".to_owned();
    let lag = || {
        row.figures
            .step_lag
            .map_or_else(dash, |lag| if lag < 0.5 { "0".into() } else { format!("-{lag:.0}") })
    };
    let share = |value: Option<f32>| value.map_or_else(dash, |value| format!("{value:.0}"));
    if !row.state.is_alive() {
        return dash();
    }
    match app.overview.metric {
        Metric::Suspicion if row.figures.gpu_pct.is_some() => share(row.figures.gpu_pct),
        Metric::Suspicion | Metric::StepLag => lag(),
        Metric::Gpu => share(row.figures.gpu_pct),
        Metric::Cpu => share(row.figures.cpu_pct),
        Metric::Memory => row.rss_bytes.map_or_else(dash, text::bytes),
        Metric::Beat => row.beat_age.map_or_else(dash, |age| match age.as_secs() {
            seconds @ 0..100 => format!("{seconds}s"),
            seconds => format!("{}m", seconds / 60),
        }),
    }
}

/// Glyph and role of one rank; what is bad by itself shows its state, all else the step of the metric.
pub(super) fn rank_look(app: &App, row: &RankRow) -> (&'static str, Role) {
    let node = &app.overview.fleet.nodes[row.id.node as usize];
    if node.silent.is_some() {
        return ("?", Role::Stale);
    }
    let own = matches!(
        row.state,
        RankState::Zombie
            | RankState::Orphan
            | RankState::GilStuck
            | RankState::Exited
            | RankState::Stopped
            | RankState::Blocked
            | RankState::Starting
            | RankState::Init
            | RankState::Unknown
    );
    if own && let Some(rank) = app.rank_at(row.id) {
        let look = words::rank_state(rank, app.glyphs);
        return (look.glyph, look.role);
    }
    match row.heat {
        Some(step) => (app.glyphs.ramp[usize::from(step.min(4))], heat_role(app.overview.metric, step)),
        None => ("?", Role::Dim),
    }
}

/// A node shows its worst rank.
fn node_look(app: &App, node: &NodeRow) -> (&'static str, Role) {
    match node.worst_rank.and_then(|row| app.overview.fleet.ranks.get(row as usize)) {
        _ if node.silent.is_some() => ("?", Role::Stale),
        Some(row) if app.overview.metric == Metric::Suspicion => rank_look(app, row),
        Some(_) => {
            let rows = &app.overview.fleet.ranks[node.ranks()];
            let worst = rows.iter().filter(|row| app.lets_through(row));
            let failed = worst.clone().find(|row| row.has_failed());
            let shown = failed.or_else(|| match app.overview.metric {
                // Idle is the alarm, not busy.
                Metric::Gpu | Metric::Cpu => worst.min_by_key(|row| row.heat.unwrap_or(u8::MAX)),
                _ => worst.max_by_key(|row| row.heat),
            });
            shown.map_or((app.glyphs.ramp[0], Role::Border), |row| rank_look(app, row))
        }
        None => ("?", Role::Dim),
    }
}

/// Suspicion ends in the colours of alarm; other metrics are neither good nor bad.
pub(super) fn heat_role(metric: Metric, step: u8) -> Role {
    match (metric, step) {
        (Metric::Suspicion, 0) => Role::Border,
        (Metric::Suspicion, 1) => Role::Heat(2),
        (Metric::Suspicion, 2) => Role::Heat(4),
        (Metric::Suspicion, 3) => Role::Warn,
        (Metric::Suspicion, _) => Role::Crit,
        (_, step) => Role::Heat(step),
    }
}

/// What glyphs, colours and figures mean.
pub(super) fn legend(app: &App, scale: Scale, pen: &mut Pen, area: Rect) {
    let metric = app.overview.metric;
    let mut x = area.x;
    let room = |x: u16| area.right().saturating_sub(x);
    let words = metric.legend();
    let all: usize = words.iter().map(|word| text::width(word) + 4).sum();
    let gap = if all - 2 > usize::from(area.width) { " " } else { "  " };
    for (step, word) in (0_u8..).zip(words) {
        let (glyph, role) = match (scale, heat_role(metric, step)) {
            // Their glyph is the state.
            (Scale::Cells, Role::Border) => (app.glyphs.start, Role::Dim),
            (Scale::Cells, role) => (app.glyphs.start, role),
            (_, role) => (app.glyphs.ramp[usize::from(step)], role),
        };
        if text::width(word) + 2 > usize::from(room(x)) {
            break;
        }
        x += pen.text(x, area.y, room(x), glyph, role);
        x += pen.text(x, area.y, room(x), &format!(" {word}{gap}"), Role::Dim);
    }
    let key = app.keymap.shown(crate::tui::keys::Action::Metric).unwrap_or_default();
    let what = match scale {
        Scale::Cells if metric != Metric::Suspicion => "",
        Scale::Cells if app.overview.fleet.knows(Metric::Gpu) => "GPU %",
        Scale::Cells => "steps behind",
        Scale::Rows => "",
        Scale::Glyphs => "a rank each",
        Scale::Nodes => "a node each",
    };
    let gap = if what.is_empty() { "" } else { "  " };
    let hint = [
        (format!("{what}{gap}"), Role::Dim),
        (format!("{key} "), Role::Key),
        (metric.name().to_owned(), Role::Text),
    ];
    // What a cell is goes first where there is no room.
    for hint in [&hint[..], &hint[1..]] {
        let cells: usize = hint.iter().map(|(piece, _)| text::width(piece)).sum();
        if usize::from(room(x)) > cells {
            pen.pieces(area.right().saturating_sub(cells as u16 + 1), area.y, cells as u16, hint);
            break;
        }
    }
}
