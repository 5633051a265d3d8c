//! The list of jobs, from which one is chosen.

use std::{future::Future, io, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use ratatui::{
    crossterm::event::{Event as TerminalEvent, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
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

/// Keys at the foot.
const HINTS: [(&[Action], &str); 6] = [
    (&[Action::Enter], "attach"),
    (&[Action::Down, Action::Up], "select"),
    (&[Action::Filter], "filter"),
    (&[Action::Theme], "theme"),
    (&[Action::Help], "help"),
    (&[Action::Detach], "leave"),
];
/// All keys of the list.
const HELP: [(&[Action], &str); 7] = [
    (&[Action::Enter], "open the job's screen; Esc there leads back"),
    (&[Action::Down, Action::Up], "select; with PgDn, PgUp, g and G further"),
    (&[Action::Filter], "show only jobs with this in their id, node, owner or note"),
    (&[Action::Back], "take the filter away, or leave"),
    (&[Action::Theme], "next theme"),
    (&[Action::Redraw], "draw anew"),
    (&[Action::Detach], "leave; nothing happens to any job"),
];

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
    all: Option<Vec<JobRow>>,
    /// Key of the selected one; the first that is shown until one is selected.
    selected: Option<String>,
    /// What jobs must say to be shown.
    sought: String,
    /// Whether that is being typed.
    is_typing: bool,
    shows_help: bool,
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
            all: None,
            selected: None,
            sought: String::new(),
            is_typing: false,
            shows_help: false,
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

    /// Selects this one when the list comes.
    pub(crate) fn point_at(&mut self, key: Option<String>) {
        self.selected = key;
    }

    /// Takes a new list; the same job stays selected where it is still there.
    pub(crate) fn take(&mut self, rows: Vec<JobRow>, now: Stamp) {
        let at = self.at();
        (self.all, self.now) = (Some(rows), now);
        if !self.rows().any(|row| Some(&row.key) == self.selected.as_ref()) {
            self.select(at);
        }
    }

    /// Those that are shown.
    fn rows(&self) -> impl Iterator<Item = &JobRow> {
        let fits = |row: &&JobRow| {
            if self.sought.is_empty() {
                return true;
            }
            let text = format!("{} {} {} {}", row.id, row.node, row.owner, row.note).to_lowercase();
            text.contains(&self.sought.to_lowercase())
        };
        self.all.iter().flatten().filter(fits)
    }

    /// The place of the selected one among those that are shown.
    fn at(&self) -> usize {
        self.rows().position(|row| Some(&row.key) == self.selected.as_ref()).unwrap_or(0)
    }

    fn select(&mut self, at: usize) {
        let last = self.rows().count().saturating_sub(1);
        let key = self.rows().nth(at.min(last)).map(|row| row.key.clone());
        self.selected = key;
    }

    /// A key while a filter is typed.
    fn typed(&mut self, event: &KeyEvent) {
        match event.code {
            KeyCode::Esc => (self.is_typing, self.sought) = (false, String::new()),
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Backspace if self.sought.pop().is_none() => self.is_typing = false,
            KeyCode::Char('c') if event.modifiers.contains(KeyModifiers::CONTROL) => {
                (self.is_typing, self.sought) = (false, String::new());
            }
            KeyCode::Char(c) => self.sought.push(c),
            _ => {}
        }
        self.select(self.at());
    }

    pub(crate) fn key(&mut self, event: &KeyEvent) -> Picked {
        if self.is_typing {
            self.typed(event);
            return Picked::Nothing;
        }
        let at = self.at();
        let action = self.keymap.lookup(event, Scope::Events);
        if std::mem::take(&mut self.shows_help) && action != Some(Action::Detach) {
            return Picked::Nothing;
        }
        match action {
            Some(Action::Down) => self.select(at + 1),
            Some(Action::Up) => self.select(at.saturating_sub(1)),
            Some(Action::First) => self.select(0),
            Some(Action::Last) => self.select(usize::MAX),
            Some(Action::PageDown | Action::HalfDown) => self.select(at + 10),
            Some(Action::PageUp | Action::HalfUp) => self.select(at.saturating_sub(10)),
            Some(Action::Enter | Action::Right) => {
                return self.rows().nth(at).map_or(Picked::Nothing, |row| Picked::Job(row.key.clone()));
            }
            Some(Action::Filter) => self.is_typing = true,
            Some(Action::Help) => self.shows_help = true,
            Some(Action::Back) if !self.sought.is_empty() => {
                self.sought.clear();
                self.select(self.at());
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
        let count =
            self.all.as_ref().map_or("looking".into(), |all| match (all.len(), self.rows().count()) {
                (1, 1) => "1 job".into(),
                (count, shown) if count == shown => format!("{count} jobs"),
                (count, shown) => format!("{shown} of {count} jobs"),
            });
        let mut header =
            vec![("elastictop".into(), Role::Title), (format!("  {count} on this machine"), Role::Dim)];
        if !self.sought.is_empty() && !self.is_typing {
            header.push((format!("  /{} ", self.sought), Role::Key));
        }
        pen.pieces(1, 0, area.width.saturating_sub(1), &header);
        self.foot(&mut pen, Rect { y: area.height - 1, height: 1, ..area });
        let body = Rect { y: 2, height: area.height.saturating_sub(4), ..area };
        match &self.all {
            None => {}
            Some(all) if all.is_empty() => {
                pen.text(2, body.y, area.width.saturating_sub(2), "No elastic job runs here.", Role::Text);
                let start = "Start one: elastictop run --nproc-per-node 2 train.py, or try: elastictop demo";
                pen.text(2, body.y + 1, area.width.saturating_sub(2), start, Role::Dim);
            }
            Some(_) => self.table(&mut pen, Rect { y: 1, height: body.height + 2, ..body }),
        }
        if self.shows_help {
            self.help(&mut pen, area);
        }
    }

    /// What is typed, or what can be pressed.
    fn foot(&self, pen: &mut Pen, area: Rect) {
        if self.is_typing {
            let x = area.x + pen.text(area.x, area.y, area.width, "/", Role::Key);
            let x = x + pen.text(x, area.y, area.right().saturating_sub(x), &self.sought, Role::Text);
            pen.invert(Rect { x, y: area.y, width: 1, height: 1 }.intersection(area));
            return;
        }
        let keys = HINTS.map(|(actions, word)| (self.keys(actions), word));
        super::view::key_line(pen, area, &keys);
    }

    fn keys(&self, actions: &[Action]) -> String {
        let keys: Vec<String> = actions.iter().filter_map(|action| self.keymap.shown(*action)).collect();
        keys.join(" ")
    }

    fn help(&self, pen: &mut Pen, area: Rect) {
        let height = (HELP.len() as u16 + 2).min(area.height.saturating_sub(1));
        let inner =
            pen.boxed(Rect { y: area.height - 1 - height, height, ..area }, "keys", Role::BorderFocus);
        for ((actions, words), y) in HELP.iter().zip(inner.top()..inner.bottom()) {
            pen.text(inner.x + 1, y, inner.width.saturating_sub(1), &self.keys(actions), Role::Key);
            pen.text(inner.x + 12, y, inner.width.saturating_sub(12), words, Role::Text);
        }
    }

    fn table(&self, pen: &mut Pen, area: Rect) {
        let room = usize::from(area.height.saturating_sub(1));
        let (selected, count) = (self.at(), self.rows().count());
        let first = super::view::first_shown(selected, count, room);
        if count == 0 {
            pen.text(2, area.y + 2, area.width.saturating_sub(2), "no job says that", Role::Dim);
        }
        let columns = columns(area.width);
        for (column, x, cells) in &columns {
            pen.text(*x, area.y, *cells, column, Role::Title);
        }
        for ((n, row), y) in self.rows().enumerate().skip(first).take(room).zip(area.y + 1..) {
            for (column, x, cells) in &columns {
                let (text, role) = self.cell(row, column);
                pen.text(*x, y, *cells, &text, role);
            }
            if n == selected {
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
