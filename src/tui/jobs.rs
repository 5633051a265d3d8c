//! The list of jobs, from which one is chosen.

use std::{future::Future, io, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use ratatui::{
    crossterm::event::{Event as TerminalEvent, KeyEvent, KeyEventKind},
    layout::Rect,
};
use tokio::time::{Instant, sleep_until};

use super::{
    Options,
    canvas::Canvas,
    keys::{Action, Keymap, Scope},
    run::{Surroundings, terminal},
    screen::Screen,
    text::{GlyphSet, Glyphs},
    theme::{ColorDepth, Role, Theme, Themes},
    view::Pen,
    words,
};
use crate::{
    domain::{rank::JobState, time::Stamp},
    error::{Error, Result},
};

/// How often the list is made anew.
const REFRESH: Duration = Duration::from_secs(2);

/// One job in the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobRow {
    /// What [`super::choose`] gives back for it.
    pub key: String,
    /// Id, or what stands for one.
    pub id: String,
    /// State, if it is known.
    pub state: Option<JobState>,
    /// Host name.
    pub node: String,
    /// Process id of the agent, while it runs.
    pub pid: Option<i32>,
    /// Ranks in the whole job, if known.
    pub world: Option<u32>,
    /// When it began, if known.
    pub started_at: Option<Stamp>,
    /// When it ended; `None` while it runs.
    pub ended_at: Option<Stamp>,
    /// User who runs it.
    pub owner: String,
    /// Whether elastictop did not start it.
    pub foreign: bool,
    /// One sentence about it.
    pub note: String,
}

/// The list as it is on screen.
#[derive(Debug)]
pub(crate) struct Jobs {
    rows: Option<Vec<JobRow>>,
    selected: usize,
    now: Stamp,
    theme: Theme,
    chosen: Theme,
    depth: ColorDepth,
    themes: Themes,
    keymap: Keymap,
    glyphs: Glyphs,
}

/// What a key did to the list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Picked {
    Nothing,
    Redraw,
    Leave,
    Job(String),
}

impl Jobs {
    pub(crate) fn new(options: &Options, now: Stamp) -> Jobs {
        Jobs {
            rows: None,
            selected: 0,
            now,
            theme: options.theme.at(options.color),
            chosen: options.theme.clone(),
            depth: options.color,
            themes: options.themes.clone(),
            keymap: Keymap::new(&options.keys).unwrap_or_default(),
            glyphs: GlyphSet::of(options.ascii),
        }
    }

    #[cfg(test)]
    pub(crate) fn unique_theme(&mut self) {
        self.theme = Theme::unique();
    }

    /// Takes a new list; the same job stays selected where it is still there.
    pub(crate) fn take(&mut self, rows: Vec<JobRow>, now: Stamp) {
        let key = self.row().map(|row| row.key.clone());
        self.selected = key
            .and_then(|key| rows.iter().position(|row| row.key == key))
            .unwrap_or_else(|| self.selected.min(rows.len().saturating_sub(1)));
        (self.rows, self.now) = (Some(rows), now);
    }

    fn row(&self) -> Option<&JobRow> {
        self.rows.as_ref()?.get(self.selected)
    }

    pub(crate) fn key(&mut self, event: &KeyEvent) -> Picked {
        let last = self.rows.as_ref().map_or(0, |rows| rows.len().saturating_sub(1));
        match self.keymap.lookup(event, Scope::Everywhere) {
            Some(Action::Down) => self.selected = (self.selected + 1).min(last),
            Some(Action::Up) => self.selected = self.selected.saturating_sub(1),
            Some(Action::First) => self.selected = 0,
            Some(Action::Last) => self.selected = last,
            Some(Action::PageDown | Action::HalfDown) => self.selected = (self.selected + 10).min(last),
            Some(Action::PageUp | Action::HalfUp) => self.selected = self.selected.saturating_sub(10),
            Some(Action::Enter | Action::Right) => {
                return self.row().map_or(Picked::Nothing, |row| Picked::Job(row.key.clone()));
            }
            Some(Action::Detach | Action::Interrupt | Action::Back) => return Picked::Leave,
            Some(Action::Theme) => {
                self.chosen = self.themes.after(&self.chosen.name);
                self.theme = self.chosen.at(self.depth);
            }
            Some(Action::Redraw) => return Picked::Redraw,
            _ => {}
        }
        Picked::Nothing
    }

    pub(crate) fn paint(&self, area: Rect, canvas: &mut Canvas) {
        let mut pen = Pen::new(canvas, &self.theme, self.glyphs);
        pen.clear();
        if area.height < 2 {
            return;
        }
        let count = self.rows.as_ref().map_or("looking".into(), |rows| match rows.len() {
            1 => "1 job".into(),
            count => format!("{count} jobs"),
        });
        let header = [("elastictop".into(), Role::Title), (format!("  {count} on this machine"), Role::Dim)];
        pen.pieces(1, 0, area.width.saturating_sub(1), &header);
        let foot = Rect { y: area.height - 1, height: 1, ..area };
        let hints = [
            (&[Action::Enter][..], "attach"),
            (&[Action::Down, Action::Up], "select"),
            (&[Action::Theme], "theme"),
            (&[Action::Detach], "leave"),
        ];
        let keys = |actions: &[Action]| {
            let keys: Vec<String> = actions.iter().filter_map(|action| self.keymap.shown(*action)).collect();
            keys.join(" ")
        };
        super::view::key_line(&mut pen, foot, &hints.map(|(actions, word)| (keys(actions), word)));
        let body = Rect { y: 2, height: area.height.saturating_sub(4), ..area };
        match &self.rows {
            None => {}
            Some(rows) if rows.is_empty() => {
                pen.text(2, body.y, area.width.saturating_sub(2), "No elastic job runs here.", Role::Text);
                let start = "Start one: elastictop run --nproc-per-node 2 train.py, or try: elastictop demo";
                pen.text(2, body.y + 1, area.width.saturating_sub(2), start, Role::Dim);
            }
            Some(rows) => self.table(&mut pen, rows, Rect { y: 1, height: body.height + 2, ..body }),
        }
    }

    fn table(&self, pen: &mut Pen, rows: &[JobRow], area: Rect) {
        let room = usize::from(area.height.saturating_sub(1));
        let first = super::view::first_shown(self.selected, rows.len(), room);
        let columns = columns(area.width);
        for (column, x, cells) in &columns {
            pen.text(*x, area.y, *cells, column, Role::Title);
        }
        for ((n, row), y) in rows.iter().enumerate().skip(first).take(room).zip(area.y + 1..) {
            for (column, x, cells) in &columns {
                let (text, role) = self.cell(row, column);
                pen.text(*x, y, *cells, &text, role);
            }
            if n == self.selected {
                pen.over(Rect { y, height: 1, ..area }, Role::Selection);
                pen.text(area.x, y, 1, self.glyphs.cursor, Role::Accent);
            }
        }
    }

    fn cell(&self, row: &JobRow, column: &str) -> (String, Role) {
        let missing = || ("-".to_owned(), Role::Dim);
        match column {
            "STATE" => row.state.map_or_else(missing, |state| {
                let look = words::job_state(state, self.glyphs);
                (format!("{} {}", look.glyph, look.word), look.role)
            }),
            "JOB" => (row.id.clone(), if row.foreign { Role::Dim } else { Role::Text }),
            "RANKS" => row.world.map_or_else(missing, |world| (world.to_string(), Role::Text)),
            "UP" => row.started_at.map_or_else(missing, |at| {
                (super::text::span(row.ended_at.unwrap_or(self.now).since(at)), Role::Text)
            }),
            "PID" => row.pid.map_or_else(missing, |pid| (pid.to_string(), Role::Dim)),
            "NODE" => (row.node.clone(), Role::Dim),
            "OWNER" => (row.owner.clone(), Role::Dim),
            _ if row.foreign && row.note.is_empty() => {
                ("read-only: not started by elastictop".into(), Role::Dim)
            }
            _ => (row.note.clone(), Role::Dim),
        }
    }
}

/// Heading, place and cells of what is shown at this width.
fn columns(width: u16) -> Vec<(&'static str, u16, u16)> {
    const COLUMNS: [(&str, u16, u16); 8] = [
        ("STATE", 17, 0),
        ("JOB", 22, 0),
        ("RANKS", 5, 56),
        ("UP", 7, 48),
        ("PID", 8, 100),
        ("NODE", 14, 120),
        ("OWNER", 10, 110),
        ("NOTE", 12, 64),
    ];
    let mut x = 1;
    let shown = COLUMNS.iter().filter(|(_, _, least)| width >= *least);
    shown
        .map(|(name, cells, _)| {
            let cells = match *name {
                "NOTE" => width.saturating_sub(x),
                // A wide screen has room for whole ids.
                "JOB" if width >= 120 => 36,
                _ => (*cells).min(width.saturating_sub(x)),
            };
            let place = (*name, x, cells);
            x += cells + 1;
            place
        })
        .collect()
}

/// Runs the list until a job is chosen or the user leaves.
pub(crate) async fn run<I, C, G, S>(
    jobs: &mut Jobs,
    screen: &mut Screen,
    refresh: Arc<dyn Fn() -> Vec<JobRow> + Send + Sync>,
    around: Surroundings<I, C, G, S>,
) -> Result<Option<String>>
where
    I: Stream<Item = io::Result<TerminalEvent>> + Unpin,
    C: Fn() -> Stamp,
    G: Fn() -> bool,
    S: Future<Output = ()>,
{
    let Surroundings { mut input, clock, hung_up, stop, .. } = around;
    tokio::pin!(stop);
    let look = || {
        let refresh = Arc::clone(&refresh);
        tokio::task::spawn_blocking(move || refresh())
    };
    let mut looking = Some(look());
    let mut look_at = Instant::now() + REFRESH;
    loop {
        if screen.is_broken() || hung_up() {
            return Ok(None);
        }
        let draw = |area, canvas: &mut Canvas| {
            jobs.paint(area, canvas);
            Vec::new()
        };
        screen.show(draw).map_err(|error| terminal(&error))?;
        tokio::select! {
            event = input.next() => match event {
                Some(Ok(TerminalEvent::Key(key))) if key.kind != KeyEventKind::Release => match jobs.key(&key) {
                    Picked::Nothing => {}
                    Picked::Redraw => screen.forget(),
                    Picked::Leave => return Ok(None),
                    Picked::Job(key) => return Ok(Some(key)),
                },
                Some(Ok(TerminalEvent::Resize(columns, rows))) => screen.resize((columns, rows)),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok(None),
            },
            rows = async { looking.as_mut().expect("guarded").await }, if looking.is_some() => {
                looking = None;
                let rows = rows.map_err(|error| Error::environment(format!("cannot list jobs: {error}")))?;
                jobs.take(rows, clock());
            }
            () = sleep_until(look_at) => {
                look_at = Instant::now() + REFRESH;
                if looking.is_none() {
                    looking = Some(look());
                }
            }
            () = &mut stop => return Ok(None),
        }
    }
}
