//! The box that asks before something is done to the job.

use ratatui::layout::Rect;

use super::{Pen, pen::Piece};
use crate::{
    domain::gpu::leftover::{Leftover, LeftoverKind},
    tui::{
        app::{App, Dialog, SIGNALS},
        text,
        theme::Role,
        words,
    },
};

pub(super) fn draw(app: &App, dialog: &Dialog, pen: &mut Pen, area: Rect) {
    let (title, role, lines) = content(app, dialog);
    let cells = |line: &Vec<Piece>| line.iter().map(|(piece, _)| text::width(piece)).sum::<usize>();
    let longest = lines.iter().map(cells).max().unwrap_or(0).max(title.len() + 4) as u16;
    // The footer below stays: it says how to leave.
    let room = Rect { height: area.height.saturating_sub(1), ..area };
    let (width, height) = ((longest + 4).min(room.width), (lines.len() as u16 + 2).min(room.height));
    let place =
        Rect { x: room.x + (room.width - width) / 2, y: room.y + (room.height - height) / 2, width, height };
    let inner = pen.boxed(place, &title, role);
    for (line, y) in lines.iter().zip(inner.top()..inner.bottom()) {
        pen.pieces(inner.x + 1, y, inner.width.saturating_sub(1), line);
        let selected = matches!(dialog, Dialog::Signal { at, .. } | Dialog::Leftovers { at, .. }
            if y == inner.top() + *at as u16);
        if selected {
            pen.over(Rect { y, height: 1, ..inner }, Role::Selection);
            pen.text(inner.x, y, 1, pen.glyphs.cursor, Role::Accent);
        }
    }
}

fn content(app: &App, dialog: &Dialog) -> (String, Role, Vec<Vec<Piece>>) {
    let text = |what: &str| vec![(what.to_owned(), Role::Text)];
    let dim = |what: &str| vec![(what.to_owned(), Role::Dim)];
    let warn = |what: &str| vec![(what.to_owned(), Role::Warn)];
    let keys = |pairs: &[(&str, &str)]| -> Vec<Piece> {
        pairs
            .iter()
            .flat_map(|(key, does)| [(format!("{key} "), Role::Key), (format!("{does}   "), Role::Dim)])
            .collect()
    };
    let name = app.state.job.as_ref().map_or("the job", |job| &job.name);
    match dialog {
        Dialog::Stop { typed, expected, now, is_wrong } => {
            let (title, effect) = if *now {
                (format!("End {name} now"), &["SIGKILL to agent and ranks, at once."][..])
            } else {
                (
                    format!("Stop {name}"),
                    &["SIGTERM to the agent,", "SIGKILL after its grace time (--stop-grace)."][..],
                )
            };
            let ask = match expected.parse::<usize>() {
                Ok(1) => "1 rank ends. Type 1, Enter: ".to_owned(),
                Ok(count) => format!("{count} ranks end. Type {count}, Enter: "),
                Err(_) => format!("Type {expected}, Enter: "),
            };
            let question = vec![(ask, Role::Text), (format!("{typed:_<4}"), Role::Key)];
            let mut lines: Vec<_> = effect.iter().map(|line| text(line)).collect();
            if *is_wrong {
                lines.push(vec![(format!("That was not {expected}: nothing was stopped."), Role::Warn)]);
            }
            lines.extend([question, Vec::new(), keys(&[("Esc", "leaves the job running")])]);
            (title, Role::Crit, lines)
        }
        Dialog::Restart => {
            let what = match app.all_ranks().count() {
                1 => "1 rank ends and starts anew".to_owned(),
                ranks => format!("{ranks} ranks end and start anew"),
            };
            let mut lines = vec![text(&what), text("from the last checkpoint."), dim("No restart is spent.")];
            if app.nodes.is_empty() && app.state.has_other_nodes() {
                lines.extend(["This node alone: the others go on", "without it, or end with it;"].map(warn));
                lines.push(warn("attach --nodes restarts all."));
            }
            lines.extend([Vec::new(), keys(&[("Enter", "restart"), ("Esc", "leave it")])]);
            (format!("Restart the group of {name}"), Role::Warn, lines)
        }
        Dialog::Signal { tag, proc, .. } => {
            let mut lines: Vec<Vec<Piece>> = SIGNALS
                .iter()
                .map(|(signal, does)| {
                    let name = words::signal_word(*signal);
                    vec![
                        (format!(" {:<5}", name.trim_start_matches("SIG")), Role::Text),
                        (format!("{signal:>3}  "), Role::Dim),
                        ((*does).to_owned(), Role::Dim),
                    ]
                })
                .collect();
            lines.push(Vec::new());
            lines.push(keys(&[("Enter", "send"), ("Esc", "leave")]));
            (format!("Signal to {tag}, pid {proc}"), Role::Warn, lines)
        }
        Dialog::Leftovers { list, .. } => {
            let mut lines: Vec<Vec<Piece>> = list.iter().map(leftover).collect();
            lines.push(Vec::new());
            lines.push(dim("SIGTERM first, SIGKILL when asked again. Only your own."));
            lines.push(keys(&[("y", "end the selected one"), ("Esc", "leave")]));
            ("Hold GPU memory, belong to no rank".into(), Role::Warn, lines)
        }
    }
}

fn leftover(left: &Leftover) -> Vec<Piece> {
    let gpus = left.gpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let bytes = left.used_bytes.map_or("n/a".into(), text::bytes);
    let why = match left.reason {
        LeftoverKind::DeadJob => ("dead job", Role::Warn),
        LeftoverKind::Other => ("other", Role::Dim),
    };
    vec![
        (format!(" {:<8}", left.proc.pid), Role::Text),
        (format!("GPU {gpus:<4} {bytes:>5}  "), Role::Text),
        (format!("{:<9}", why.0), why.1),
        (left.command.clone(), Role::Dim),
    ]
}
