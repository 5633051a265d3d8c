//! GPUs: cells of the table of ranks, a line about all of them, facts and charts of the one of a rank.

use std::time::Duration;

use ratatui::layout::Rect;

use super::{Pen, chart, pen::Piece};
use crate::{
    domain::{
        gpu::{
            GpuSource,
            fold::{Gpu, Gpus, Rates},
            leftover::LeftoverKind,
            words,
        },
        series::{Resolution, Series},
        state::{Rank, State},
        time::{Stamp, human},
    },
    tui::{
        app::{App, Zoom},
        text,
        theme::Role,
    },
};

/// Figures that are older than this are shown as old.
const STALE: Duration = Duration::from_secs(5);
/// Lower pages have a line for each figure instead of a chart.
const CHARTS_FROM: u16 = 9;
/// Cells of the history in the table.
const SPARK: usize = 12;
/// A line about all GPUs is drawn where the table has this many rows or more.
const LINE_FROM: u16 = 4;

/// A column of the table of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Utilisation.
    Util,
    /// The same over the last two minutes.
    History,
    /// Memory in use and in all.
    Memory,
    /// Temperature.
    Temperature,
    /// Power draw.
    Power,
}

/// Whether ranks of any node have GPUs, so that columns about them are worth their cells.
pub(crate) fn has_columns(app: &App) -> bool {
    let nodes = 0..app.nodes.len().max(1) as u32;
    nodes.filter_map(|node| app.state_of(node)?.gpus.as_ref()).any(|gpus| !gpus.ranks.is_empty())
}

/// The one node that is shown, if it is one.
fn shown_node(app: &App) -> Option<&State> {
    match app.zoom {
        Zoom::Fleet if !app.nodes.is_empty() => None,
        Zoom::Fleet => Some(&app.state),
        Zoom::Node | Zoom::Rank => app.state_of(app.node),
    }
}

fn is_stale(now: Stamp, state: &State, gpus: &Gpus) -> bool {
    gpus.at.is_some_and(|at| now.since(at) > STALE) && !state.state.is_over()
}

/// A cell about a rank's GPU; `None` is shown as a dash.
pub(crate) fn cell(app: &App, node: u32, rank: &Rank, figure: Figure) -> (Option<String>, Role) {
    let known = app.state_of(node).and_then(|state| Some((state, state.gpus.as_ref()?)));
    let Some((state, gpus)) = known else { return (None, Role::Dim) };
    let Some((gpu, ..)) = gpus.of_rank(rank.local_rank) else { return (None, Role::Dim) };
    let (sample, now) = (&gpu.sample, app.now_of(node));
    if sample.lost {
        let lost = (figure == Figure::Util).then(|| "lost".to_owned());
        return (lost, Role::Crit);
    }
    let trouble = sample.throttle.is_some_and(|bits| bits & words::TROUBLE != 0);
    let text = match figure {
        Figure::Util => sample.util_pct.map(|pct| pct.to_string()),
        Figure::Memory => memory(gpu),
        Figure::Temperature => sample.temp_c.map(|celsius| celsius.to_string()),
        Figure::Power => sample.power_mw.map(|milliwatts| (milliwatts / 1000).to_string()),
        // Ten seconds a cell: a line that moves every second costs a terminal far away more than it tells.
        Figure::History => Some(chart::spark(
            &gpu.history.util_pct.window(Resolution::TenSeconds, now, SPARK),
            100,
            app.glyphs,
        )),
    };
    let role = match figure {
        _ if is_stale(now, state, gpus) => Role::Stale,
        Figure::Temperature | Figure::Power if trouble => Role::Warn,
        Figure::History => Role::Dim,
        _ => Role::Text,
    };
    (text, role)
}

fn memory(gpu: &Gpu) -> Option<String> {
    let used = text::bytes(gpu.sample.mem_used_bytes?);
    let total = text::bytes(gpu.sample.mem_total_bytes?);
    // The unit of both is the same nearly always.
    let used = match (used.strip_suffix('G'), total.ends_with('G')) {
        (Some(bare), true) => bare.to_owned(),
        _ => used,
    };
    Some(format!("{used}/{total}"))
}

/// The rows of a table above the line about all GPUs, and that line.
pub(crate) fn split(app: &App, area: Rect) -> (Rect, Rect) {
    let is_short = area.height < LINE_FROM || area.height < app.overview.rows.len().min(8) as u16 + 2;
    let lines = u16::from(!is_short && !line(app).is_empty());
    let above = Rect { height: area.height - lines, ..area };
    (above, Rect { y: above.bottom(), height: lines, ..area })
}

/// Rows that the line about all GPUs adds to a table.
pub(crate) fn lines(app: &App) -> u16 {
    u16::from(!line(app).is_empty())
}

/// Draws the line about all GPUs.
pub(crate) fn draw_line(app: &App, pen: &mut Pen, area: Rect) {
    if area.height > 0 {
        pen.pieces(area.x + 1, area.y, area.width.saturating_sub(1), &line(app));
    }
}

/// Lines of the list of all GPUs of the node, its name included; none where there is no single node, or no GPU.
pub(crate) fn list_lines(app: &App) -> u16 {
    let gpus = shown_node(app).and_then(|state| state.gpus.as_ref());
    gpus.filter(|gpus| !gpus.gpus.is_empty()).map_or(0, |gpus| gpus.gpus.len() as u16 + 1)
}

/// Draws a line for each GPU of the node.
pub(crate) fn list(app: &App, pen: &mut Pen, area: Rect) {
    let known = shown_node(app).and_then(|state| Some((state, state.gpus.as_ref()?)));
    let Some((state, gpus)) = known.filter(|_| !area.is_empty()) else { return };
    let name = gpus.gpus[0].info.name.as_deref().unwrap_or("GPUs");
    let begin = area.x + pen.rule(area, name) + 1;
    let old = gpus
        .at
        .filter(|_| is_stale(app.now_of(app.node), state, gpus))
        .map(|at| human(app.now_of(app.node).since(at)));
    if let Some(why) = old.map(|age| format!("{age} old")).or_else(|| gpus.trouble.clone()) {
        pen.chip(begin, area.y, area.right().saturating_sub(begin), &why, Role::Stale);
    }
    let calm = if is_stale(app.now_of(app.node), state, gpus) { Role::Stale } else { Role::Text };
    for (gpu, y) in gpus.gpus.iter().zip(area.y + 1..area.bottom()) {
        let sample = &gpu.sample;
        let trouble = sample.throttle.is_some_and(|bits| bits & words::TROUBLE != 0);
        let heat = if trouble { Role::Warn } else { calm };
        let cells = [
            (format!("GPU {}", gpu.info.index), 7, Role::Dim),
            (with_unit(sample.util_pct, "%"), 5, calm),
            (memory(gpu).unwrap_or_else(|| "n/a".into()), 11, calm),
            (with_unit(sample.temp_c, "°C"), 6, heat),
            (with_unit(sample.power_mw.map(|milliwatts| milliwatts / 1000), "W"), 6, heat),
            (with_unit(sample.sm_clock_mhz, "MHz"), 9, Role::Dim),
        ];
        if sample.lost {
            pen.text(area.x + 1, y, 7, &cells[0].0, Role::Dim);
            pen.text(area.x + 10, y, area.width.saturating_sub(10), "lost: reset it, or reboot", Role::Crit);
            continue;
        }
        let mut x = area.x + 1;
        for (text, width, role) in cells {
            if x + width > area.right() {
                break;
            }
            pen.right(x, y, width, &text, role);
            x += width + 2;
        }
    }
}

fn with_unit(figure: Option<u32>, unit: &str) -> String {
    figure.map_or_else(|| "n/a".into(), |figure| format!("{figure} {unit}"))
}

/// All GPUs of the node in one line, or why there are none; nothing while nobody has asked.
fn line(app: &App) -> Vec<Piece> {
    let known = shown_node(app).and_then(|state| Some((state, state.gpus.as_ref()?)));
    let Some((state, gpus)) = known else { return Vec::new() };
    if gpus.gpus.is_empty() {
        let why = gpus.trouble.as_deref().unwrap_or("there is none");
        // That there is no driver says enough; the page of a rank has all of it.
        let why = if gpus.source == GpuSource::None { why.split(':').next().unwrap_or(why) } else { why };
        return vec![("GPU n/a: ".into(), Role::Dim), (why.into(), Role::Dim)];
    }
    let mut pieces = vec![(format!("{} GPUs", gpus.gpus.len()), Role::Title)];
    if let (1, Some(name)) = (gpus.gpus.len(), &gpus.gpus[0].info.name) {
        pieces[0].0.clone_from(name);
    }
    let samples = || gpus.gpus.iter().map(|gpu| &gpu.sample);
    let mut say = |what: Option<String>, role| {
        pieces.extend(what.map(|what| (format!("{}{what}", app.glyphs.dot), role)));
    };
    say(range(samples().filter_map(|sample| sample.util_pct)).map(|range| format!("{range} %")), Role::Text);
    let used: Option<u64> = samples().map(|sample| sample.mem_used_bytes).sum();
    let total: Option<u64> = samples().map(|sample| sample.mem_total_bytes).sum();
    say(
        used.zip(total).map(|(used, total)| format!("{}/{}", text::bytes(used), text::bytes(total))),
        Role::Text,
    );
    say(range(samples().filter_map(|sample| sample.temp_c)).map(|range| format!("{range} °C")), Role::Text);
    let watts: Option<u32> = samples().map(|sample| sample.power_mw).sum();
    say(watts.map(|milliwatts| format!("{} W", milliwatts / 1000)), Role::Text);
    let lost = samples().filter(|sample| sample.lost).count();
    say((lost > 0).then(|| format!("{lost} lost")), Role::Crit);
    let throttled = samples().filter(|sample| sample.throttle.unwrap_or(0) & words::TROUBLE != 0).count();
    say((throttled > 0).then(|| format!("{throttled} slowed by heat or brake")), Role::Warn);
    let left = gpus.leftovers.iter().filter(|left| left.reason == LeftoverKind::DeadJob).count();
    say((left > 0).then(|| format!("{left} left over: X")), Role::Warn);
    if is_stale(app.now_of(app.node), state, gpus) {
        let age = gpus.at.map(|at| human(app.now_of(app.node).since(at))).unwrap_or_default();
        say(Some(format!("{age} old, the driver does not answer")), Role::Stale);
    } else {
        say(gpus.trouble.clone(), Role::Warn);
    }
    say(gpus.foreign_pids.then(|| "other pid namespace".into()), Role::Dim);
    pieces
}

/// `97`, or `88-99`.
fn range(values: impl Iterator<Item = u32> + Clone) -> Option<String> {
    let (least, most) = (values.clone().min()?, values.max()?);
    Some(if least == most { least.to_string() } else { format!("{least}-{most}") })
}

/// The GPU of a rank, as facts with a label each.
pub(crate) fn facts(app: &App, rank: &Rank) -> Vec<(&'static str, Piece)> {
    let known = app.state_of(app.node).and_then(|state| Some((state, state.gpus.as_ref()?)));
    let Some((state, gpus)) = known else { return Vec::new() };
    let Some((gpu, count, source)) = gpus.of_rank(rank.local_rank) else {
        let why = match &gpus.trouble {
            Some(trouble) => format!("n/a: {trouble}"),
            None if gpus.foreign_pids => "n/a: the driver names processes of another pid namespace".into(),
            None => "none is known to be this rank's".into(),
        };
        return vec![("GPU", (why, Role::Dim))];
    };
    let (info, sample) = (&gpu.info, &gpu.sample);
    let name = info.name.clone().unwrap_or_default();
    let more = if count > 1 { format!(", first of {count}") } else { String::new() };
    let mut facts = vec![("GPU", (format!("{} {name}{more}", info.index), Role::Text))];
    let known_by = ("found", (source.words().to_owned(), Role::Dim));
    if sample.lost {
        facts.push(("", ("lost: reset it, or reboot".into(), Role::Crit)));
        facts.push(known_by);
        return facts;
    }
    let n_a = |text: Option<String>| text.unwrap_or_else(|| "n/a".into());
    let role = if is_stale(app.now_of(app.node), state, gpus) { Role::Stale } else { Role::Text };
    facts.push(("use", (n_a(sample.util_pct.map(|pct| format!("{pct} %"))), role)));
    let own = gpu.held_by(rank.proc.pid).map(|bytes| format!(", own {}", text::bytes(bytes)));
    let used = sample.mem_used_bytes.zip(sample.mem_total_bytes);
    let used = n_a(used.map(|(used, total)| format!("{} of {}", text::bytes(used), text::bytes(total))));
    facts.push(("GPU memory", (format!("{used}{}", own.unwrap_or_default()), role)));
    facts.push(("heat", heat(gpu, role)));
    let clock = |mhz: Option<u32>| n_a(mhz.map(|mhz| mhz.to_string()));
    let clocks = format!("SM {}, memory {} MHz", clock(sample.sm_clock_mhz), clock(sample.mem_clock_mhz));
    facts.push(("clocks", (clocks, role)));
    facts.push(("slowed by", held_down(gpu)));
    facts.push(("health", health(gpu)));
    facts.push(("links", (links(gpu.rates), Role::Dim)));
    facts.push(known_by);
    for part in &info.mig {
        let look = sample.mig.iter().find(|look| look.index == part.index);
        let used = look.and_then(|look| look.mem_used_bytes.zip(look.mem_total_bytes));
        let used = n_a(used.map(|(used, total)| format!("{} of {}", text::bytes(used), text::bytes(total))));
        facts.push(("MIG", (format!("{} {}, {used}", part.index, part.name.as_deref().unwrap_or("")), role)));
    }
    facts
}

fn heat(gpu: &Gpu, role: Role) -> Piece {
    let sample = &gpu.sample;
    let mut parts = Vec::new();
    parts.extend(sample.temp_c.map(|celsius| format!("{celsius} °C")));
    parts.extend(sample.power_mw.map(|milliwatts| match sample.power_limit_mw {
        Some(limit) => format!("{} of {} W", milliwatts / 1000, limit / 1000),
        None => format!("{} W", milliwatts / 1000),
    }));
    let role = if sample.throttle.unwrap_or(0) & words::TROUBLE == 0 { role } else { Role::Warn };
    if parts.is_empty() { ("n/a".into(), Role::Dim) } else { (parts.join(", "), role) }
}

/// Why the clocks are not higher.
fn held_down(gpu: &Gpu) -> Piece {
    let Some(bits) = gpu.sample.throttle else { return ("n/a".into(), Role::Dim) };
    let role = if bits & words::TROUBLE == 0 { Role::Dim } else { Role::Warn };
    let reasons = words::throttle(bits);
    (if reasons.is_empty() { "nothing".into() } else { reasons.join(", ") }, role)
}

fn health(gpu: &Gpu) -> Piece {
    let sample = &gpu.sample;
    let mut parts = Vec::new();
    let mut is_bad = false;
    if let Some(count) = sample.ecc_uncorrected {
        parts.push(format!("ECC {count} uncorrected"));
        is_bad |= count > 0;
    }
    parts.extend(sample.ecc_corrected.filter(|count| *count > 0).map(|count| format!("{count} corrected")));
    if let Some(rows) = sample.remapped {
        let note = match (rows.failed, rows.pending) {
            (true, _) => ", remapping failed",
            (_, true) => ", remapping waits for a reset",
            _ => "",
        };
        parts.push(format!("remapped rows {}{note}", rows.correctable + rows.uncorrectable));
        is_bad |= rows.failed || rows.pending;
    }
    if let Some(action) = sample.recovery.filter(|action| *action != 0) {
        parts.push(format!("driver wants: {}", words::recovery(action)));
        is_bad = true;
    }
    match (parts.is_empty(), is_bad) {
        (true, _) => ("n/a".into(), Role::Dim),
        (_, true) => (parts.join(", "), Role::Crit),
        _ => (parts.join(", "), Role::Dim),
    }
}

fn links(rates: Option<Rates>) -> String {
    let Some(rates) = rates else { return "n/a".into() };
    let rate =
        |rate: Option<f32>| rate.map_or("n/a".into(), |rate| format!("{}/s", text::bytes(rate as u64)));
    let pair = |name: &str, tx: Option<f32>, rx: Option<f32>| match (tx, rx) {
        (None, None) => format!("{name} n/a"),
        _ => format!("{name} out {} in {}", rate(tx), rate(rx)),
    };
    format!(
        "{}, {}",
        pair("PCIe", rates.pcie_tx, rates.pcie_rx),
        pair("NVLink", rates.nvlink_tx, rates.nvlink_rx)
    )
}

/// The GPU of a rank, once anything was seen of it.
fn seen<'a>(app: &'a App, rank: &Rank) -> Option<(&'a State, &'a Gpu)> {
    let state = app.state_of(app.node)?;
    let (gpu, ..) = state.gpus.as_ref()?.of_rank(rank.local_rank)?;
    let is_seen = !gpu.history.temp_c.is_empty() || !gpu.history.util_pct.is_empty();
    is_seen.then_some((state, gpu))
}

/// Draws a rank's GPU over time.
pub(crate) fn page(app: &App, rank: &Rank, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    match seen(app, rank) {
        Some((_, gpu)) if area.height < CHARTS_FROM => sparks(app, gpu, pen, area),
        Some((state, gpu)) => charts(app, state, gpu, pen, area),
        None => {
            let text = "nothing was seen of a GPU of this rank";
            pen.text(area.x, area.y, area.width, text, Role::Dim);
        }
    }
}

/// A line for each figure, over the last two minutes: what there is room for on a low screen.
fn sparks(app: &App, gpu: &Gpu, pen: &mut Pen, area: Rect) {
    let sample = &gpu.sample;
    let (history, total) = (&gpu.history, sample.mem_total_bytes.map_or(1, |bytes| (bytes >> 20) as u32));
    let limit = sample.power_limit_mw.map_or(1000, |milliwatts| milliwatts / 1000);
    let lines = [
        ("use", &history.util_pct, 100),
        ("memory", &history.mem_mib, total),
        ("power", &history.power_w, limit),
        ("heat", &history.temp_c, 100),
    ];
    let cells = usize::from(area.width.saturating_sub(8)).min(Resolution::Second.cells());
    for ((label, series, max), y) in lines.into_iter().zip(area.top()..area.bottom()) {
        pen.text(area.x, y, area.width, label, Role::Dim);
        let values = series.window(Resolution::Second, app.now_of(app.node), cells);
        pen.text(area.x + 8, y, cells as u16, &chart::spark(&values, max, app.glyphs), Role::Accent);
    }
}

/// Four charts over each other and their axis.
fn charts(app: &App, state: &State, gpu: &Gpu, pen: &mut Pen, area: Rect) {
    let end = state.ended_at.unwrap_or(app.now_of(app.node));
    let span = state.started_at.map_or(0, |began| end.since(began).as_millis() as u64);
    // Rather the last two thirds well than all of it in a corner.
    let resolution = Resolution::for_span(span * 2 / 3);
    // Two values for each cell, and no cells that no value can reach.
    let width = area.width.min(resolution.cells() as u16 / 2);
    let count = usize::from(width) * 2;
    let window = |series: &Series| series.window(resolution, end, count);
    let ago = |at: crate::domain::time::Stamp| {
        let cells = end.0 / resolution.cell_ms() - at.0.min(end.0) / resolution.cell_ms();
        count.checked_sub(1 + cells as usize)
    };
    let restarts = state.attempts.iter().skip(1).filter_map(|attempt| ago(attempt.started_at));
    let rules: Vec<usize> = restarts.collect();
    let sample = &gpu.sample;
    let (limit_w, total_mib) = (
        sample.power_limit_mw.map_or(1000, |milliwatts| milliwatts / 1000),
        sample.mem_total_bytes.map_or(1, |bytes| (bytes >> 20) as u32),
    );
    let now = |value: Option<String>| value.unwrap_or_else(|| "n/a".into());
    let power = now(sample.power_mw.map(|milliwatts| format!("{} W", milliwatts / 1000)));
    let clock = now(sample.sm_clock_mhz.map(|mhz| format!("{mhz} MHz")));
    let marks: Vec<bool> =
        window(&gpu.history.throttled_pct).iter().map(|share| share.is_some_and(|share| share > 0)).collect();
    let figures: [(String, &Series, u32, String, &[bool]); 4] = [
        (
            format!("use {}", now(sample.util_pct.map(|pct| format!("{pct} %")))),
            &gpu.history.util_pct,
            100,
            "100 %".into(),
            &[],
        ),
        (
            format!("memory {}", now(sample.mem_used_bytes.map(text::bytes))),
            &gpu.history.mem_mib,
            total_mib,
            now(sample.mem_total_bytes.map(text::bytes)),
            &[],
        ),
        (format!("power {power}, SM {clock}"), &gpu.history.power_w, limit_w, format!("{limit_w} W"), &marks),
        (
            format!("temperature {}", now(sample.temp_c.map(|celsius| format!("{celsius} °C")))),
            &gpu.history.temp_c,
            100,
            "100 °C".into(),
            &[],
        ),
    ];
    let each = (area.height.saturating_sub(1) / 4).min(8);
    for (n, (title, series, max, scale, marks)) in figures.iter().enumerate() {
        let place = Rect { y: area.y + n as u16 * each, height: each, width, ..area };
        let (values, max) = (window(series), *max);
        chart::draw(pen, place, &chart::Chart { title, values: &values, max, scale, rules: &rules, marks });
    }
    let axis = area.y + 4 * each;
    let back = human(Duration::from_millis(resolution.cell_ms() * count as u64));
    pen.text(area.x, axis, width, &format!("{back} ago"), Role::Dim);
    pen.right(area.x, axis, width, if state.ended_at.is_some() { "end" } else { "now" }, Role::Dim);
    if !rules.is_empty() {
        let text = format!("{} restart", app.glyphs.bar);
        pen.text(area.x + width / 2 - 5, axis, width / 2, &text, Role::Dim);
    }
}
