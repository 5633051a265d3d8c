//! What every view looks like, as text and as a map of roles, at four sizes.

use std::fmt::Write as _;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier},
};

use super::scripts::press;
use crate::{
    domain::{
        command::Command,
        rank::JobState,
        stack::{Frame, RankStack, Source, Thread, fold},
    },
    tui::{
        app::{App, Cmd, Msg},
        canvas::Canvas,
        fixture::{self, Story},
        fixture_page as page, fixture_runs as runs,
        jobs::{JobRow, Jobs},
        keys::{self, View},
        text::GlyphSet,
        theme::{ColorDepth, Theme},
        view,
    },
    wire::message::{ToSupervisor, ToViewer},
};

const SIZES: [(u16, u16); 4] = [(40, 12), (80, 24), (120, 40), (200, 50)];

/// One letter per role, in the order of the theme's slots; text itself is a dot.
const LETTERS: &[u8; 34] = b".d-=TaSoiwcskmelgggggHHHHH01234567";
const SELECTION: Color = Color::Indexed(6);

/// The screen at a size.
pub(super) fn paint(app: &App, size: (u16, u16)) -> Buffer {
    let area = Rect::new(0, 0, size.0, size.1);
    let mut canvas = Canvas::new(Buffer::empty(area));
    view::paint(app, area, &mut canvas);
    assert!(canvas.is_sound());
    canvas.into_buffer()
}

fn row_text(buffer: &Buffer, y: u16) -> String {
    let mut text = String::new();
    let mut skip = 0;
    for x in 0..buffer.area.width {
        let symbol = buffer[(x, y)].symbol();
        if skip == 0 {
            text.push_str(symbol);
        }
        skip = if skip > 0 { skip - 1 } else { crate::tui::text::width(symbol).saturating_sub(1) };
    }
    text.trim_end().to_owned()
}

/// The roles of a row; a selected row begins with `>`.
fn row_roles(buffer: &Buffer, y: u16) -> String {
    let cells = || (0..buffer.area.width).map(|x| &buffer[(x, y)]);
    let mark = if cells().any(|cell| cell.bg == SELECTION) { '>' } else { ' ' };
    let roles = cells().map(|cell| match cell.fg {
        _ if cell.symbol() == " " && !cell.modifier.contains(Modifier::REVERSED) => ' ',
        Color::Indexed(slot) => LETTERS[usize::from(slot)] as char,
        _ => '?',
    });
    let roles: String = roles.collect();
    format!("{mark}{}", roles.trim_end()).trim_end().to_owned()
}

pub(super) fn picture(buffer: &Buffer) -> String {
    let mut out = String::new();
    for y in 0..buffer.area.height {
        let _ = writeln!(out, "{}", row_text(buffer, y));
    }
    let _ = writeln!(out, "{}", "~".repeat(usize::from(buffer.area.width)));
    for y in 0..buffer.area.height {
        let _ = writeln!(out, "{}", row_roles(buffer, y));
    }
    out
}

struct Scene {
    name: &'static str,
    story: fn() -> Story,
    read_only: Option<&'static str>,
    /// Lines that the supervisor can answer with.
    lines: u64,
    keys: &'static str,
}

const fn scene(name: &'static str, story: fn() -> Story, keys: &'static str) -> Scene {
    Scene { name, story, read_only: None, lines: 300, keys }
}

const FOREIGN: &str = "not started by elastictop: it can only be watched";

fn scenes() -> Vec<Scene> {
    vec![
        scene("healthy_4", || fixture::healthy(4), "j"),
        scene("healthy_8", || fixture::healthy(8), ""),
        scene("healthy_64", || fixture::healthy(64), "G"),
        scene("veteran", fixture::veteran, ""),
        scene("restarting", fixture::restarting, ""),
        scene("failed", fixture::failed, ""),
        scene("orphaned", fixture::orphaned, ""),
        scene("zombies", fixture::zombies, ""),
        scene("troubled", fixture::troubled, "j j j"),
        Scene { read_only: Some(FOREIGN), ..scene("foreign", fixture::foreign, "") },
        Scene { read_only: Some(FOREIGN), ..scene("refused", fixture::foreign, "Q") },
        scene("odd_text", fixture::odd_text, ""),
        scene("rank", fixture::veteran, "j j <Enter>"),
        scene("rank_troubled", fixture::troubled, "j <Enter>"),
        scene(
            "rank_cursor",
            fixture::on_gpus,
            "j j j <Enter> <Left> <Left> <Left> <Left> <Left> <Left> <Left> <Left> <Left> <Left>",
        ),
        scene("rank_env", || fixture::healthy(8), "j j <Enter> t"),
        scene("rank_env_found", || fixture::healthy(8), "j j <Enter> t / n c c l <Enter>"),
        scene("rank_stack", page::hung, "<Enter> t t s"),
        scene("rank_error", page::died, "j j <Enter> t t t"),
        scene("rank_collectives", page::hung, "<Enter> t t t t"),
        Scene { read_only: Some(FOREIGN), ..scene("rank_foreign", fixture::foreign, "<Enter> t t") },
        scene("hang", page::hung, "H"),
        scene("hang_stacks", page::hung, "H s"),
        scene("hang_none", || fixture::healthy(4), "H"),
        Scene { read_only: Some(FOREIGN), ..scene("hang_watched", page::hung, "") },
        scene("gpus", fixture::on_gpus, ""),
        scene("gpus_rank", fixture::on_gpus, "j j j <Enter>"),
        scene("gpus_rank_tab", fixture::on_gpus, "j j j <Enter> T"),
        scene("gpus_leftovers", fixture::on_gpus, "X j"),
        scene("gpus_none", fixture::without_gpus, ""),
        scene("logs_merged", fixture::veteran, "L"),
        scene("logs_error", fixture::veteran, "L k e"),
        scene("logs_search", fixture::veteran, "j l / s t e p <Space> 1 2 <Enter> w"),
        scene("logs_typing", fixture::veteran, "L / l o s s"),
        scene("logs_wrapped", fixture::veteran, "l g w"),
        Scene { lines: 0, ..scene("logs_empty", || fixture::healthy(4), "L") },
        scene("timeline", fixture::veteran, "3 g"),
        scene("timeline_failed", fixture::failed, "3"),
        scene("events", fixture::veteran, "4 k k"),
        scene("runs", runs::each_rank, "5 j j"),
        scene("runs_offline", runs::offline, "5"),
        scene("runs_script", runs::script, "5 j"),
        scene("runs_many", runs::many, "5 j j"),
        scene("runs_preview", runs::each_rank, "5 s"),
        scene("runs_preview_script", runs::script, "5 m"),
        scene("runs_off", || fixture::healthy(4), "5"),
        Scene { read_only: Some(FOREIGN), ..scene("runs_foreign", fixture::foreign, "5") },
        scene("help", || fixture::healthy(4), "?"),
        scene("stop", || fixture::healthy(4), "Q 4"),
        scene("restart", || fixture::healthy(4), "R"),
        scene("signal", || fixture::healthy(4), "j x j j"),
    ]
}

fn shown(scene: &Scene, size: (u16, u16)) -> App {
    let lines = fixture::log_lines(scene.lines);
    let mut app = fixture::app(&(scene.story)(), size, scene.read_only);
    press(&mut app, scene.keys, &lines);
    app
}

#[test]
fn every_view_at_every_size() {
    for scene in scenes() {
        let mut pictures = String::new();
        for size in SIZES {
            let mut app = shown(&scene, size);
            app.theme = Theme::unique();
            let _ = writeln!(pictures, "== {}x{}\n{}", size.0, size.1, picture(&paint(&app, size)));
        }
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(scene.name, pictures);
        });
    }
}

#[test]
fn a_lost_link_is_seen_and_what_is_shown_is_marked_stale() {
    let size = (80, 24);
    let story = fixture::healthy(4);
    let mut app = fixture::app(&story, size, None);
    app.update(Msg::Unlinked("no route to host".into()));
    app.update(Msg::Unlinked("no route to host".into()));
    app.update(Msg::Tick(story.now() + std::time::Duration::from_secs(12)));
    app.theme = Theme::unique();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("reconnecting", picture(&paint(&app, size)));
    });
}

#[test]
fn stacks_show_the_odd_rank_first() {
    let size = (80, 24);
    let mut app = fixture::app(&fixture::healthy(4), size, None);
    let cmds = app.update(Msg::Key(keys::script("s")[0]));
    let Some(Cmd::Send(ToSupervisor::Do { id, command, .. })) = cmds.first() else { panic!("{cmds:?}") };
    assert_eq!(*command, Command::Stacks { rank: None, by: None });
    let frame = |name: &str, file: &str, line| Frame { name: name.into(), file: file.into(), line };
    let waiting = vec![
        frame("all_reduce", "/v/torch/distributed/distributed_c10d.py", 3000),
        frame("train_step", "/home/x/train.py", 30),
    ];
    let loading = vec![frame("_read_shard", "/home/x/data.py", 7), frame("<module>", "/home/x/train.py", 50)];
    let stack = |rank, frames| RankStack {
        rank,
        pid: 1,
        read: Ok((Source::PySpy, vec![Thread { is_main: true, frames, ..Thread::default() }])),
    };
    let mut stacks = vec![stack(0, waiting.clone()), stack(1, loading), stack(2, waiting)];
    stacks.push(RankStack {
        rank: 3,
        pid: 1,
        read: Err("py-spy: not installed (pip install py-spy)".into()),
    });
    let told = ToViewer::Stacks { id: *id, stacks: fold(&stacks) };
    app.update(Msg::Heard(Box::new(told)));
    app.theme = Theme::unique();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("stacks", picture(&paint(&app, size)));
    });
    app.glyphs = GlyphSet::of(true);
    assert!(paint(&app, size).content.iter().all(|cell| cell.symbol().is_ascii()));
    press(&mut app, "G <Esc>", &[]);
    assert_eq!(app.view, View::Overview);
}

#[test]
fn before_anything_is_known() {
    let mut app = App::new(&fixture::options(), (80, 24), fixture::BEGIN, 0);
    app.theme = Theme::unique();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("connecting", picture(&paint(&app, (80, 24))));
    });
}

#[test]
fn ascii_is_ascii() {
    for scene in scenes() {
        let mut app = shown(&scene, (120, 40));
        app.glyphs = GlyphSet::of(true);
        let buffer = paint(&app, (120, 40));
        let odd = buffer.content.iter().find(|cell| !cell.symbol().is_ascii());
        assert_eq!(odd.map(|cell| cell.symbol().to_owned()), None, "{}", scene.name);
    }
}

#[test]
fn nothing_on_screen_is_a_control_character() {
    for scene in scenes() {
        for size in SIZES {
            let buffer = paint(&shown(&scene, size), size);
            assert!(
                buffer.content.iter().all(|cell| !cell.symbol().contains(char::is_control)),
                "{}",
                scene.name
            );
        }
    }
}

#[test]
fn every_small_size_can_be_drawn() {
    for scene in scenes() {
        let mut app = shown(&scene, (80, 24));
        for columns in 0..=20 {
            for rows in 0..=20 {
                app.update(Msg::Resize(columns, rows));
                paint(&app, (columns, rows));
            }
        }
    }
}

fn job_rows() -> Vec<JobRow> {
    let row = |id: &str, state: Option<JobState>, pid, foreign| {
        let over = state.is_some_and(JobState::is_over);
        JobRow {
            key: id.into(),
            id: id.into(),
            state,
            node: "gpu-node-03".into(),
            pid: Some(pid).filter(|_| !over),
            world: state.map(|_| 8),
            started_at: state.map(|_| fixture::BEGIN),
            ended_at: over.then_some(fixture::BEGIN + std::time::Duration::from_secs(605)),
            owner: "ada".into(),
            foreign,
            note: String::new(),
        }
    };
    vec![
        row("llama-7b-x3k9", Some(JobState::Running), 48_211, false),
        row("vit-large-p0q2", Some(JobState::Failed), 51_002, false),
        row("train-60412", None, 60_412, true),
    ]
}

#[test]
fn the_list_of_jobs() {
    let mut options = fixture::options();
    let mut pictures = String::new();
    let mut jobs = Jobs::new(&options, fixture::BEGIN);
    options.color = ColorDepth::None;
    jobs.unique_theme();
    let later = fixture::BEGIN + std::time::Duration::from_secs(7300);
    for rows in [Vec::new(), job_rows()] {
        jobs.take(rows, later);
        for size in SIZES {
            let area = Rect::new(0, 0, size.0, size.1);
            let mut canvas = Canvas::new(Buffer::empty(area));
            jobs.paint(area, &mut canvas);
            let _ = writeln!(pictures, "== {}x{}\n{}", size.0, size.1, picture(canvas.buffer()));
        }
    }
    for script in ["?", "? /", "l l a m a <Enter>", "/ x x", "<Esc>"] {
        keys::script(script).iter().for_each(|key| drop(jobs.key(key)));
        let mut canvas = Canvas::new(Buffer::empty(Rect::new(0, 0, 80, 16)));
        jobs.paint(Rect::new(0, 0, 80, 16), &mut canvas);
        let _ = writeln!(pictures, "== {script}\n{}", picture(canvas.buffer()));
    }
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("jobs", pictures);
    });
    for columns in 0..=20 {
        for rows in 0..=20 {
            let area = Rect::new(0, 0, columns, rows);
            jobs.paint(area, &mut Canvas::new(Buffer::empty(area)));
        }
    }
}

/// Writes every scene as a terminal would get it: `ELASTICTOP_SCREENS=DIR cargo test write_screens -- --ignored`.
#[test]
#[ignore = "writes files to look at"]
fn write_screens() {
    use ratatui::backend::{Backend, CrosstermBackend};
    let folder =
        std::path::PathBuf::from(std::env::var_os("ELASTICTOP_SCREENS").expect("ELASTICTOP_SCREENS"));
    let theme = std::env::var("ELASTICTOP_THEME").unwrap_or("default-dark".into());
    for scene in scenes() {
        for size in SIZES {
            let mut app = shown(&scene, size);
            app.theme = Theme::load(&theme).unwrap();
            let buffer = paint(&app, size);
            let mut bytes = Vec::new();
            let blank = Buffer::empty(buffer.area);
            CrosstermBackend::new(&mut bytes).draw(blank.diff(&buffer).into_iter()).unwrap();
            std::fs::write(folder.join(format!("{}@{}x{}.ansi", scene.name, size.0, size.1)), bytes).unwrap();
        }
    }
}
