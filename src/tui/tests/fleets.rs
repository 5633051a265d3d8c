//! Jobs of many nodes on the screen: scales, zoom, filter, palette.

use std::fmt::Write as _;

use ratatui::{buffer::Buffer, layout::Rect};

use super::{
    fleet::Fleet,
    looks::{paint, picture},
    scripts::{press, said},
};
use crate::{
    domain::{
        cluster::NodeLink,
        fleet::RankId,
        log::{LogLine, LogPage, Stream},
        suspicion::SUSPECT,
        time::Stamp,
    },
    tui::{
        app::{App, Cmd, Msg, Zoom},
        canvas::Canvas,
        fixture,
        keys::View,
        picture::Picture,
        theme::Theme,
        view,
    },
    wire::message::{ToSupervisor, ToViewer},
};

fn app(fleet: &Fleet, size: (u16, u16)) -> App {
    fleet.app(&fixture::options(), size)
}

fn shown(app: &App, size: (u16, u16)) -> String {
    picture(&paint(app, size))
}

fn looks(name: &str, fleet: &Fleet, keys: &str, sizes: &[(u16, u16)]) {
    let mut pictures = String::new();
    for size in sizes {
        let mut app = app(fleet, *size);
        app.theme = Theme::unique();
        press(&mut app, keys, &[]);
        app.update(Msg::Tick(fleet.now()));
        let _ = writeln!(pictures, "== {}x{}\n{}", size.0, size.1, shown(&app, *size));
    }
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, pictures);
    });
}

const SIZES: [(u16, u16); 4] = [(40, 12), (80, 24), (120, 40), (200, 50)];

#[test]
fn every_scale_at_every_size() {
    looks("fleet_64", &Fleet::troubled(8, 8), "", &SIZES);
    looks("fleet_512", &Fleet::troubled(64, 8), "", &SIZES);
    looks("fleet_4096", &Fleet::troubled(512, 8), "", &[(80, 24), (200, 50)]);
    looks("fleet_512_healthy", &Fleet::healthy(64, 8), "", &[(120, 40)]);
    looks("fleet_node", &Fleet::troubled(64, 8), "<Down> <Enter>", &SIZES);
    looks("fleet_rank", &Fleet::troubled(64, 8), "<Down> <Enter> j <Enter> T T", &[(80, 24), (200, 50)]);
    looks("fleet_filter", &Fleet::troubled(8, 8), "/ l a g > 3 <Enter>", &[(80, 24), (120, 40)]);
    looks("filter_mistake", &Fleet::troubled(8, 8), "/ r a n k : 3 - x", &[(40, 12), (80, 24)]);
    looks("palette", &Fleet::healthy(8, 8), ": s o r", &[(40, 12), (80, 24)]);
}

#[test]
fn every_small_size_of_a_fleet_can_be_drawn() {
    for (nodes, ranks) in [(8, 8), (40, 8), (200, 8), (1, 100), (3, 300)] {
        let fleet = Fleet::troubled(nodes, ranks);
        let mut app = app(&fleet, (80, 24));
        for keys in ["", "<Enter>", ":", "<Esc> /", "<Esc> <Esc> <Down> <Right> <PgDn> G"] {
            press(&mut app, keys, &[]);
            for columns in [0, 1, 2, 5, 12, 20, 24, 60, 100] {
                for rows in [0, 1, 2, 3, 4, 6, 9, 14] {
                    app.update(Msg::Resize(columns, rows));
                    shown(&app, (columns, rows));
                }
            }
            app.update(Msg::Resize(80, 24));
        }
    }
}

#[test]
fn zoom_goes_in_and_out_and_keeps_the_selection() {
    let mut app = app(&Fleet::healthy(64, 8), (120, 40));
    press(&mut app, "<Right> <Right> <Right>", &[]);
    assert_eq!(app.selected_id(), RankId { node: 0, local: 3 });
    press(&mut app, ": g o t o <Space> 1 3 8 <Enter>", &[]);
    let r138 = RankId { node: 17, local: 2 };
    assert_eq!((app.selected_id(), app.zoom), (r138, Zoom::Fleet));
    press(&mut app, "<Enter>", &[]);
    assert_eq!((app.zoom, app.overview.rows.len()), (Zoom::Node, 8));
    press(&mut app, "<Enter>", &[]);
    assert_eq!((app.zoom, app.rank().unwrap().place.rank), (Zoom::Rank, Some(138)));
    press(&mut app, "<Esc> <Esc> <Esc>", &[]);
    assert_eq!((app.selected_id(), app.zoom, app.overview.rows.len()), (r138, Zoom::Fleet, 512));
}

#[test]
fn rows_of_several_nodes_lead_to_their_node_first() {
    let mut app = app(&Fleet::healthy(2, 4), (120, 40));
    press(&mut app, "G <Enter>", &[]);
    assert_eq!((app.zoom, app.node, app.overview.rows.len()), (Zoom::Node, 1, 4));
    press(&mut app, "<Enter> <Esc>", &[]);
    assert_eq!(app.zoom, Zoom::Node);
    press(&mut app, "<Esc>", &[]);
    assert_eq!((app.zoom, app.selected_id()), (Zoom::Fleet, RankId { node: 1, local: 3 }));
}

#[test]
fn cells_have_neighbours_on_all_sides() {
    for (nodes, size) in [(8, (120, 40)), (64, (120, 40)), (512, (200, 50)), (64, (40, 12))] {
        let mut app = app(&Fleet::healthy(nodes, 8), size);
        press(&mut app, ": g o t o <Space> 2 0 <Enter>", &[]);
        let begin = app.selected_id();
        for there_and_back in ["<Down> <Up>", "<Right> <Left>", "<Down> <Right> <Left> <Up>"] {
            press(&mut app, there_and_back, &[]);
            // Where a node is a cell, its worst rank is the one that is selected.
            assert_eq!(app.selected_id().node, begin.node, "{nodes} {there_and_back}");
        }
        press(&mut app, "<Down>", &[]);
        assert_ne!(app.selected_id().node, begin.node, "{nodes}");
        press(&mut app, "G", &[]);
        assert_eq!(app.selected_id().node, nodes - 1);
        press(&mut app, "g", &[]);
        assert_eq!(app.selected_id().node, 0);
    }
}

#[test]
fn a_click_selects_the_cell_under_it() {
    use ratatui::crossterm::event::{KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
    for (nodes, size) in [(8, (120, 40)), (64, (200, 50)), (512, (200, 50))] {
        let mut app = app(&Fleet::healthy(nodes, 8), size);
        let mut seen = std::collections::BTreeSet::new();
        for row in 0..size.1 {
            for column in 0..size.0 {
                if let Some(view::Hit::Rank(id)) = view::hit(&app, size, column, row) {
                    seen.insert(id);
                }
            }
        }
        let cells = if nodes == 512 { 512 } else { nodes as usize * 8 };
        assert_eq!(seen.len(), cells, "every cell can be clicked");
        let (column, row) = (0..size.1)
            .flat_map(|row| (0..size.0).map(move |column| (column, row)))
            .find(|(column, row)| {
                view::hit(&app, size, *column, *row) == seen.last().map(|id| view::Hit::Rank(*id))
            })
            .unwrap();
        let kind = MouseEventKind::Down(MouseButton::Left);
        app.update(Msg::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }));
        assert_eq!(Some(&app.selected_id()), seen.last());
    }
}

#[test]
fn a_filter_keeps_what_failed_and_says_what_is_wrong() {
    let fleet = Fleet::troubled(64, 8);
    let mut app = app(&fleet, (120, 40));
    press(&mut app, "/ r a n k : 3 - 7 <Enter>", &[]);
    let numbers = |app: &App| {
        let mut numbers: Vec<u32> = app.overview.shown().map(crate::domain::fleet::RankRow::number).collect();
        numbers.sort_unstable();
        numbers
    };
    let failed = 512 / 4 + 2;
    assert_eq!(numbers(&app), [3, 4, 5, 6, 7, failed], "a rank that failed is shown whatever the filter");
    press(&mut app, "<Esc>", &[]);
    assert_eq!(app.overview.rows.len(), 512);
    press(&mut app, "/ l a g > x <Enter>", &[]);
    let mistake = app.prompt.as_ref().unwrap().mistake.as_ref().unwrap();
    assert_eq!(mistake.column, 4);
    press(&mut app, "<Backspace> 3 <Enter>", &[]);
    assert!(app.prompt.is_none());
    let lagging: Vec<_> = app.overview.shown().filter(|row| row.figures.step_lag > Some(3.0)).collect();
    assert!(lagging.len() > 8 && lagging.len() + 1 >= app.overview.rows.len());
}

#[test]
fn the_palette_finds_commands_by_parts_of_their_names() {
    let mut app = app(&Fleet::healthy(8, 8), (120, 40));
    for (typed, first) in [
        ("t h e m e <Space> n o", "theme nord"),
        ("z o m b", "keep-zombies"),
        ("t i m e", "view-timeline"),
        ("c p u", "sort cpu"),
        ("g o", "goto"),
    ] {
        press(&mut app, &format!(": {typed}"), &[]);
        assert_eq!(app.candidates()[0].command, first, "{typed}");
        press(&mut app, "<Esc>", &[]);
    }
    press(&mut app, ": t h e m e <Space> n o <Enter>", &[]);
    assert_eq!(app.theme.name, "nord");
    press(&mut app, ": v i e w - t i <Enter>", &[]);
    assert_eq!(app.view, View::Timeline);
    press(&mut app, ": s o r t <Tab> <Enter>", &[]);
    assert!(app.prompt.is_none());
    press(&mut app, ": x y z z y <Enter>", &[]);
    assert!(app.toast.as_ref().unwrap().text.contains("no command"));
    press(&mut app, ": g o t o <Space> 9 9 9 <Enter>", &[]);
    assert!(app.toast.as_ref().unwrap().text.contains("there is no rank 999"));
}

#[test]
fn suspects_come_first() {
    let fleet = Fleet::troubled(64, 8);
    let app = app(&fleet, (200, 50));
    let rows: Vec<_> = app.overview.shown().collect();
    assert!(rows.iter().map(|row| row.level).is_sorted_by(|a, b| a >= b));
    assert!(rows[0].has_failed() && rows[0].level == 4);
    let suspects = rows.iter().filter(|row| row.level >= SUSPECT);
    assert!(suspects.clone().count() >= 10);
    for row in suspects {
        assert!(!app.overview.fleet.reason(fleet.now(), row).is_empty(), "{row:?}");
    }
    assert!(Fleet::healthy(64, 8).app(&fixture::options(), (80, 24)).overview.fleet.suspects().is_empty());
}

#[test]
fn a_node_that_falls_silent_is_shown_with_its_age() {
    let fleet = Fleet::healthy(8, 8);
    let mut app = app(&fleet, (120, 40));
    let told = |app: &App, silent: Option<usize>| {
        let mut nodes: Vec<_> = app.nodes.iter().map(|node| node.status.clone()).collect();
        if let Some(node) = silent {
            nodes[node].link = NodeLink::Lost {
                since: Stamp(app.now.0 - 12_000),
                tries: 3,
                why: "ssh: connect to host gpu-n003: No route to host".into(),
            };
        }
        Msg::Heard(Box::new(ToViewer::Nodes { nodes }))
    };
    let lost = told(&app, Some(3));
    let live = told(&app, None);
    app.update(lost);
    app.settle();
    let quiet: Vec<bool> = app.overview.fleet.nodes.iter().map(|node| node.silent.is_some()).collect();
    assert_eq!(quiet, [false, false, false, true, false, false, false, false]);
    let text = shown(&app, (120, 40));
    assert!(text.contains("gpu-n003 silent"), "{text}");
    app.update(live);
    app.settle();
    assert!(app.overview.fleet.nodes[3].silent.is_none(), "it is back");
}

/// A screen that takes in a second of events, and the bytes of the frame that follows.
struct Line {
    app: App,
    shown: Picture,
    next: Canvas,
}

impl Line {
    fn new(fleet: &Fleet, size: (u16, u16)) -> Line {
        let app = app(fleet, size);
        let next = Canvas::new(Buffer::empty(Rect::new(0, 0, size.0, size.1)));
        Line { app, shown: Picture::from(next.buffer()), next }
    }

    fn frame(&mut self) -> usize {
        view::paint(&self.app, self.next.area(), &mut self.next);
        crate::tui::encode(&mut self.shown, self.next.buffer()).bytes.len()
    }

    fn second(&mut self, fleet: &mut Fleet) {
        let events = fleet.second();
        self.app.update(Msg::Tick(fleet.now()));
        for msg in Fleet::messages(events) {
            self.app.update(msg);
        }
        self.app.settle();
    }
}

#[test]
fn a_frame_of_4096_ranks_costs_what_changed() {
    let size = (200, 50);
    let mut fleet = Fleet::healthy(512, 8);
    let mut line = Line::new(&fleet, size);
    line.second(&mut fleet);
    let whole = line.frame();
    assert!(whole < 16_000, "the first frame: {whole} bytes");
    assert_eq!(line.frame(), 0, "nothing changed");
    line.second(&mut fleet);
    let quiet = line.frame();
    assert!(quiet <= 250, "a quiet second: {quiet} bytes");
    // One rank in a hundred changes its level, each on a node of its own.
    for round in 1..4_u64 {
        let ranks = (0..41_u32).map(|n| n * 97 + 3);
        fleet.slow = ranks.map(|rank| (rank, (u64::from(rank) + round) % 3)).collect();
        let levels =
            |line: &Line| line.app.overview.fleet.ranks.iter().map(|row| row.level).collect::<Vec<_>>();
        let before = levels(&line);
        line.second(&mut fleet);
        let changed = levels(&line).iter().zip(&before).filter(|(now, before)| now != before).count();
        assert!(changed >= 25, "{changed} changed");
        let bytes = line.frame();
        assert!(bytes <= 1024, "{changed} of 4096 ranks changed their level: {bytes} bytes");
    }
}

#[test]
fn the_log_of_another_node_is_a_key_away() {
    let mut app = app(&Fleet::healthy(3, 2), (80, 24));
    let asked = |cmds: Vec<Cmd>| {
        cmds.into_iter().find_map(|cmd| match cmd {
            Cmd::Send(ToSupervisor::To { node, message }) => match *message {
                ToSupervisor::Logs { id, .. } => Some((node, id)),
                _ => None,
            },
            _ => None,
        })
    };
    let host = |app: &App, node: usize| app.nodes[node].status.host.clone();
    let (_, id) = asked(press(&mut app, "L", &[])).unwrap();
    let (node, other) = asked(press(&mut app, "t", &[])).unwrap();
    assert_eq!((node, app.log_node), (1, 1));
    let title = format!("merged log, node {} (2 of 3)", host(&app, 1));
    assert!(shown(&app, (80, 24)).contains(&title), "{}", shown(&app, (80, 24)));
    // What the first node was asked is answered now, and is not the second one's.
    for (node, id, text) in [(0, id, "of the first"), (1, other, "of the second")] {
        let line = LogLine {
            n: 0,
            at: Stamp(1_000),
            attempt: 0,
            local_rank: Some(0),
            rank: Some(0),
            stream: Stream::Out,
            text: text.into(),
        };
        let page = LogPage { lines: vec![line], end: 1, ..LogPage::default() };
        let message = Box::new(ToViewer::Logs { id, page });
        app.update(Msg::Heard(Box::new(ToViewer::From { node, message })));
    }
    let texts: Vec<&str> = app.logs.lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, ["of the second"]);
    // Around the end, backwards, and by name.
    for (keys, node) in [("t", 2), ("t", 0), ("T", 2), (": p r e v i o u s - n o d e <Enter>", 1)] {
        press(&mut app, keys, &[]);
        assert_eq!((app.view, app.log_node), (View::Logs, node), "{keys}");
    }
    // One that cannot be reached is not waited for.
    app.nodes[2].status.link = NodeLink::Gone { why: "No route to host".into() };
    press(&mut app, "t", &[]);
    assert!(shown(&app, (80, 24)).contains("cannot be asked for lines: No route to host"));

    let mut alone = fixture::app(&fixture::healthy(4), (80, 24), None);
    press(&mut alone, "L t", &[]);
    assert_eq!((alone.view, said(&alone)), (View::Logs, "no other node is watched here"));
}
