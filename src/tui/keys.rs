//! The key table: what a key does, where, and the words for it. Help and footer are made of it.

mod map;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

pub use map::KeyOverrides;
pub(crate) use map::Keymap;

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// One up.
    Up,
    /// One down.
    Down,
    /// To the left.
    Left,
    /// To the right.
    Right,
    /// To the first.
    First,
    /// To the last; in what grows, follow it.
    Last,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// Half a page up.
    HalfUp,
    /// Half a page down.
    HalfDown,
    /// Into the selected thing.
    Enter,
    /// Out of it.
    Back,
    /// To a view.
    View(View),
    /// To the next view.
    NextView,
    /// To the view before.
    PreviousView,
    /// Log of the selected rank.
    RankLog,
    /// Log of all ranks and the agent.
    MergedLog,
    /// Log of the next node.
    NextNodeLog,
    /// Log of the node before.
    PreviousNodeLog,
    /// Follow the end, or stop to.
    Follow,
    /// Search in the log.
    Search,
    /// Next match.
    NextMatch,
    /// Match before.
    PreviousMatch,
    /// First error of the attempt.
    FirstError,
    /// Break long lines, or do not.
    Wrap,
    /// Show the agent's own event records too, or do not.
    AgentRecords,
    /// One line for lines that are alike, or all of them.
    Fold,
    /// Next order of the ranks.
    Sort,
    /// Next metric of the cells.
    Metric,
    /// Show only some ranks.
    Filter,
    /// Type a command.
    Palette,
    /// Next tab of the rank's page.
    NextTab,
    /// Tab before.
    PreviousTab,
    /// Next length of time that the charts show.
    Span,
    /// Leave; the job goes on.
    Detach,
    /// Stop the job.
    Stop,
    /// Start the group anew.
    Restart,
    /// Send a signal to the selected rank.
    Signal,
    /// Read the stacks of all ranks, or of the one that is shown alone.
    Stacks,
    /// Keep the zombie watchdog from acting.
    KeepZombies,
    /// Processes that hold GPU memory and belong to no rank.
    Leftovers,
    /// Mouse on or off.
    Mouse,
    /// Next theme.
    Theme,
    /// Draw everything anew.
    Redraw,
    /// Copy the selected line to the clipboard of the terminal.
    Yank,
    /// Copy where the selected rank runs, and as what.
    YankWho,
    /// Why the job does not move on.
    Hang,
    /// Look at the next run mode.
    NextRunMode,
    /// Look at the next rank scope.
    NextRankScope,
    /// Play the recording, or pause.
    Play,
    /// To the next event of the recording.
    StepForward,
    /// To the event before.
    StepBack,
    /// Play faster.
    Faster,
    /// Play slower.
    Slower,
    /// A minute ahead.
    Ahead,
    /// A minute back.
    Behind,
    /// To the next alert or failure.
    NextAlert,
    /// To the alert or failure before.
    PreviousAlert,
    /// Help.
    Help,
    /// What people press who expect the terminal's own meaning.
    Interrupt,
}

/// A view of the job screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum View {
    /// Ranks, timeline and events.
    #[default]
    Overview,
    /// Log lines.
    Logs,
    /// One lane per attempt.
    Timeline,
    /// What happened.
    Events,
    /// Where the ranks are in their code; comes and goes with its key, and has no tab.
    Stacks,
    /// Runs in W&B.
    Runs,
    /// Why the job does not move on; comes and goes with its key, and has no tab.
    Hang,
}

impl Action {
    /// Its name in the palette and in the configuration: the variant's, in kebab case, such as `next-match`.
    pub(crate) fn name(self) -> String {
        let mut name = String::new();
        for c in format!("{self:?}").chars() {
            match c {
                ')' => {}
                '(' => name.push('-'),
                c => {
                    if c.is_uppercase() && !name.is_empty() && !name.ends_with('-') {
                        name.push('-');
                    }
                    name.extend(c.to_lowercase());
                }
            }
        }
        name
    }
}

impl View {
    /// All, in the order of their keys.
    pub(crate) const ALL: [View; 5] = [View::Overview, View::Logs, View::Timeline, View::Events, View::Runs];

    /// Its name on screen.
    pub(crate) fn name(self) -> &'static str {
        match self {
            View::Overview => "overview",
            View::Logs => "logs",
            View::Timeline => "timeline",
            View::Events => "events",
            View::Stacks => "stacks",
            View::Runs => "W&B",
            View::Hang => "hang",
        }
    }

    /// The view `steps` further, around the end.
    pub(crate) fn step(self, steps: usize) -> View {
        let at = View::ALL.iter().position(|view| *view == self).unwrap_or(0);
        View::ALL[(at + steps) % View::ALL.len()]
    }
}

/// Where a key has its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everywhere.
    Everywhere,
    /// Where a rank is selected: overview and rank detail.
    Ranks,
    /// In the log view.
    Logs,
    /// In the events view.
    Events,
    /// In the W&B view.
    Runs,
    /// In the hang view.
    Hang,
    /// In every view of a recording.
    Replay,
}

impl Scope {
    /// All, the most special last.
    pub(crate) const ALL: [Scope; 7] = [
        Scope::Everywhere,
        Scope::Ranks,
        Scope::Logs,
        Scope::Events,
        Scope::Runs,
        Scope::Hang,
        Scope::Replay,
    ];

    /// Heading in the help.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scope::Everywhere => "everywhere",
            Scope::Ranks => "on a rank",
            Scope::Logs => "in logs",
            Scope::Events => "in events",
            Scope::Runs => "in W&B",
            Scope::Hang => "in the hang view",
            Scope::Replay => "in a replay",
        }
    }
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Binding {
    /// Where.
    pub(crate) scope: Scope,
    /// Names of keys; the first ones are shown.
    pub(crate) keys: &'static [&'static str],
    /// What it does.
    pub(crate) action: Action,
    /// The same in words, for the help.
    pub(crate) help: &'static str,
    /// Whether it changes the job: dimmed on read-only links.
    pub(crate) changes: bool,
}

const fn key(scope: Scope, keys: &'static [&'static str], action: Action, help: &'static str) -> Binding {
    Binding { scope, keys, action, help, changes: false }
}

const fn change(scope: Scope, keys: &'static [&'static str], action: Action, help: &'static str) -> Binding {
    Binding { scope, keys, action, help, changes: true }
}

use Scope::{Events, Everywhere, Hang, Logs, Ranks, Replay, Runs};

/// All keys. Scopes other than [`Scope::Everywhere`] come first when a key is looked up.
pub(crate) const TABLE: &[Binding] = &[
    key(Everywhere, &["?", "F1"], Action::Help, "this help"),
    key(Everywhere, &["q", "F10"], Action::Detach, "detach: leave the screen, the job goes on"),
    key(Everywhere, &["1"], Action::View(View::Overview), "overview"),
    key(Everywhere, &["2"], Action::View(View::Logs), "logs"),
    key(Everywhere, &["3"], Action::View(View::Timeline), "restart timeline"),
    key(Everywhere, &["4"], Action::View(View::Events), "events"),
    key(Everywhere, &["5", "W"], Action::View(View::Runs), "W&B: runs and how far they are"),
    key(Everywhere, &["Tab"], Action::NextView, "next view"),
    key(Everywhere, &["Shift-Tab"], Action::PreviousView, "view before"),
    key(Everywhere, &["j", "Down"], Action::Down, "down"),
    key(Everywhere, &["k", "Up"], Action::Up, "up"),
    key(Everywhere, &["Left", "h"], Action::Left, "left"),
    key(Everywhere, &["Right", "l"], Action::Right, "right"),
    key(Everywhere, &["g", "Home"], Action::First, "first"),
    key(Everywhere, &["G", "End"], Action::Last, "last, and follow"),
    key(Everywhere, &["PgUp", "Ctrl-B"], Action::PageUp, "page up"),
    key(Everywhere, &["PgDn", "Ctrl-F"], Action::PageDown, "page down"),
    key(Everywhere, &["Ctrl-U"], Action::HalfUp, "half a page up"),
    key(Everywhere, &["Ctrl-D"], Action::HalfDown, "half a page down"),
    key(Everywhere, &["Enter"], Action::Enter, "into the selected"),
    key(Everywhere, &["Esc", "Backspace"], Action::Back, "out of it"),
    key(Everywhere, &["L"], Action::MergedLog, "log of all ranks, merged"),
    key(Everywhere, &["s"], Action::Stacks, "stacks: where the ranks are in their code"),
    key(Everywhere, &["H"], Action::Hang, "why the job does not move on: the hang view"),
    key(Everywhere, &["y"], Action::Yank, "copy the selected line or tab (OSC 52)"),
    key(Everywhere, &["Y"], Action::YankWho, "copy node, pid and command of the selected rank"),
    key(Everywhere, &["M"], Action::Mouse, "mouse on or off"),
    key(Everywhere, &["C"], Action::Theme, "next theme"),
    key(Everywhere, &["Ctrl-L", "F5"], Action::Redraw, "draw anew"),
    key(Everywhere, &[":"], Action::Palette, "commands by name"),
    change(Everywhere, &["R"], Action::Restart, "restart the group, no restart spent"),
    change(Everywhere, &["K"], Action::KeepZombies, "keep zombies: stop the watchdog"),
    change(Everywhere, &["X"], Action::Leftovers, "processes left over on GPUs: list and end them"),
    change(Everywhere, &["Q"], Action::Stop, "stop the job"),
    key(Everywhere, &["Ctrl-C"], Action::Interrupt, "says how to leave or stop"),
    key(Ranks, &["l"], Action::RankLog, "log of the selected rank"),
    key(Ranks, &["/", "F4"], Action::Filter, "filter: rank:3-7 state:wait cpu>90 node:n03 ~text"),
    key(Ranks, &["o", "F6"], Action::Sort, "next order: suspicion, rank, step, cpu, memory, gpu"),
    key(Ranks, &["m"], Action::Metric, "next metric of the cells"),
    key(Ranks, &["t"], Action::NextTab, "next tab of a rank's page"),
    key(Ranks, &["T"], Action::PreviousTab, "tab before"),
    key(Ranks, &["z"], Action::Span, "next length of time in the charts of a rank"),
    change(Ranks, &["x", "F9"], Action::Signal, "signal to the selected rank"),
    key(Logs, &["f"], Action::Follow, "follow the end, or pause"),
    key(Logs, &["/", "F3"], Action::Search, "search"),
    key(Logs, &["n"], Action::NextMatch, "next match"),
    key(Logs, &["N"], Action::PreviousMatch, "match before"),
    key(Logs, &["e"], Action::FirstError, "first error of the attempt"),
    key(Logs, &["t"], Action::NextNodeLog, "log of the next node"),
    key(Logs, &["T"], Action::PreviousNodeLog, "log of the node before"),
    key(Logs, &["w"], Action::Wrap, "wrap long lines, or cut them"),
    key(Logs, &["d"], Action::Fold, "fold lines that are alike, or show all"),
    key(Logs, &["a"], Action::AgentRecords, "show or hide the agent's event records"),
    key(Events, &["/", "F3"], Action::Filter, "show only events with this text"),
    key(Hang, &["l"], Action::RankLog, "log of the odd rank"),
    change(Hang, &["x", "F9"], Action::Signal, "signal to the odd rank"),
    key(Runs, &["m"], Action::NextRunMode, "look at the next run mode; Enter applies it"),
    key(Runs, &["s"], Action::NextRankScope, "look at the next rank scope; Enter applies it"),
    key(Replay, &["Space"], Action::Play, "play, or pause"),
    key(Replay, &["]", "."], Action::StepForward, "to the next event"),
    key(Replay, &["[", ","], Action::StepBack, "to the event before"),
    key(Replay, &["+", "="], Action::Faster, "faster: 1, 2, 5, 10, 60, 600 times"),
    key(Replay, &["-"], Action::Slower, "slower"),
    key(Replay, &[">"], Action::Ahead, "a minute ahead"),
    key(Replay, &["<"], Action::Behind, "a minute back"),
    key(Replay, &["}"], Action::NextAlert, "to the next alert or failure"),
    key(Replay, &["{"], Action::PreviousAlert, "to the alert or failure before"),
];

/// Whether a scope has this action.
pub(crate) fn is_of(action: Action, scope: Scope) -> bool {
    TABLE.iter().any(|binding| binding.action == action && binding.scope == scope)
}

/// The name of a key as the table spells it.
pub(crate) fn name(event: &KeyEvent) -> String {
    let base = match event.code {
        KeyCode::Char(' ') => "Space".into(),
        KeyCode::Char(c) if event.modifiers.contains(KeyModifiers::CONTROL) => {
            c.to_ascii_uppercase().to_string()
        }
        KeyCode::Char(c) => c.to_string(),
        KeyCode::Up => "Up".into(),
        KeyCode::Down => "Down".into(),
        KeyCode::Left => "Left".into(),
        KeyCode::Right => "Right".into(),
        KeyCode::Home => "Home".into(),
        KeyCode::End => "End".into(),
        KeyCode::PageUp => "PgUp".into(),
        KeyCode::PageDown => "PgDn".into(),
        KeyCode::Enter => "Enter".into(),
        KeyCode::Esc => "Esc".into(),
        KeyCode::Backspace => "Backspace".into(),
        KeyCode::Tab => "Tab".into(),
        KeyCode::BackTab => return "Shift-Tab".into(),
        KeyCode::F(n) => format!("F{n}"),
        _ => String::new(),
    };
    if event.modifiers.contains(KeyModifiers::ALT) {
        // Esc and a key pressed in haste arrive as Alt and the key: no binding may hang on that.
        return format!("Alt-{base}");
    }
    if event.modifiers.contains(KeyModifiers::CONTROL) { format!("Ctrl-{base}") } else { base }
}

/// The key events of a script such as `j j <Enter> Q 4 <Esc>`.
#[cfg(test)]
pub(crate) fn script(text: &str) -> Vec<KeyEvent> {
    let key = |word: &str| {
        let word = word.strip_prefix('<').and_then(|word| word.strip_suffix('>')).unwrap_or(word);
        let (word, modifiers) = match word.strip_prefix("Ctrl-") {
            Some(rest) => (rest.to_lowercase(), KeyModifiers::CONTROL),
            None => (word.to_owned(), KeyModifiers::NONE),
        };
        let mut chars = word.chars();
        let code = match (word.as_str(), chars.next(), chars.next()) {
            ("Up", ..) => KeyCode::Up,
            ("Down", ..) => KeyCode::Down,
            ("Left", ..) => KeyCode::Left,
            ("Right", ..) => KeyCode::Right,
            ("Home", ..) => KeyCode::Home,
            ("End", ..) => KeyCode::End,
            ("PgUp", ..) => KeyCode::PageUp,
            ("PgDn", ..) => KeyCode::PageDown,
            ("Enter", ..) => KeyCode::Enter,
            ("Esc", ..) => KeyCode::Esc,
            ("Backspace", ..) => KeyCode::Backspace,
            ("Tab", ..) => KeyCode::Tab,
            ("Shift-Tab", ..) => KeyCode::BackTab,
            ("Space", ..) => KeyCode::Char(' '),
            (_, Some('F'), Some(_)) => KeyCode::F(word[1..].parse().expect("a function key")),
            (_, Some(c), None) => KeyCode::Char(c),
            _ => panic!("no key {word:?}"),
        };
        KeyEvent::new(code, modifiers)
    };
    text.split_whitespace().map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_two_meanings_in_one_place_and_all_can_be_typed() {
        let keymap = Keymap::default();
        for scope in Scope::ALL {
            let mut seen = std::collections::BTreeSet::new();
            for binding in TABLE.iter().filter(|binding| binding.scope == scope) {
                for key in binding.keys {
                    assert!(seen.insert(key), "{key} twice {}", scope.name());
                    let event = script(&format!("<{key}>"))[0];
                    assert_eq!(keymap.lookup(&event, scope), Some(binding.action), "{key}");
                    // Some terminals report Shift with capital letters.
                    let shifted = KeyEvent::new(event.code, event.modifiers | KeyModifiers::SHIFT);
                    assert_eq!(keymap.lookup(&shifted, scope), Some(binding.action), "shift {key}");
                }
            }
        }
    }

    #[test]
    fn keys_that_change_the_job_are_upper_case_or_open_a_dialog() {
        for binding in TABLE.iter().filter(|binding| binding.changes && binding.action != Action::Signal) {
            assert!(binding.keys[0].chars().all(char::is_uppercase), "{:?}", binding.keys);
        }
    }
}
