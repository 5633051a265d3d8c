//! Questions that come before something is done to the job.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::{
    domain::{command::Command, gpu::leftover::Leftover, id::ProcId, state::Rank},
    tui::words,
};

/// The signals that the dialog offers, and what they do to a training script.
pub(crate) const SIGNALS: [(i32, &str); 8] = [
    (15, "asks it to end"),
    (9, "ends it at once"),
    (19, "freezes it"),
    (18, "lets it go on"),
    (10, "up to the script"),
    (12, "up to the script"),
    (2, "as Ctrl-C would"),
    (6, "ends it with a core dump"),
];

/// An open question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dialog {
    /// Stop the job?
    Stop {
        /// What was typed so far.
        typed: String,
        /// What must be typed: the number of ranks, or `stop` before there are any.
        expected: String,
        /// Whether it is already being stopped, and shall be killed now.
        now: bool,
        /// Whether something else was typed.
        is_wrong: bool,
    },
    /// Restart the group?
    Restart,
    /// Which signal?
    Signal {
        /// Position of the rank on the node.
        local_rank: u32,
        /// The process that was there when the dialog opened.
        proc: ProcId,
        /// The number that the supervisor knows it by.
        number: u32,
        /// Its name on screen.
        tag: String,
        /// The selected entry of [`SIGNALS`].
        at: usize,
    },
    /// Which process that is left over on a GPU shall end?
    Leftovers {
        /// Those that were there when the dialog opened.
        list: Vec<Leftover>,
        /// The selected one.
        at: usize,
    },
}

/// What a key made of a dialog.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stays.
    Open,
    /// It was left.
    Closed,
    /// Do it.
    Do(Command),
}

impl Dialog {
    pub(crate) fn stop(ranks: usize, now: bool) -> Dialog {
        let expected = if ranks == 0 { "stop".into() } else { ranks.to_string() };
        Dialog::Stop { typed: String::new(), expected, now, is_wrong: false }
    }

    pub(crate) fn signal(rank: &Rank) -> Dialog {
        Dialog::Signal {
            local_rank: rank.local_rank,
            proc: rank.proc,
            number: rank.number(),
            tag: words::rank_tag(rank.place.rank, rank.local_rank),
            at: 0,
        }
    }

    pub(crate) fn key(&mut self, event: &KeyEvent) -> Verdict {
        let interrupted = event.code == KeyCode::Char('c') && event.modifiers.contains(KeyModifiers::CONTROL);
        if event.code == KeyCode::Esc || interrupted {
            return Verdict::Closed;
        }
        match self {
            Dialog::Stop { typed, expected, now, is_wrong } => match event.code {
                KeyCode::Enter if typed == expected => return Verdict::Do(Command::Stop { now: *now }),
                KeyCode::Enter => {
                    *is_wrong = !typed.is_empty();
                    typed.clear();
                }
                KeyCode::Backspace => drop(typed.pop()),
                KeyCode::Char(c) if typed.len() < 8 && c.is_ascii_alphanumeric() => typed.push(c),
                _ => {}
            },
            Dialog::Restart => match event.code {
                KeyCode::Char('y') | KeyCode::Enter => {
                    return Verdict::Do(Command::Restart { attempt: None });
                }
                // Somebody types something else.
                KeyCode::Char(_) => return Verdict::Closed,
                _ => {}
            },
            Dialog::Signal { number, at, .. } => match event.code {
                KeyCode::Up | KeyCode::Char('k') => *at = at.saturating_sub(1),
                KeyCode::Down | KeyCode::Char('j') => *at = (*at + 1).min(SIGNALS.len() - 1),
                KeyCode::Char('q') => return Verdict::Closed,
                KeyCode::Enter => {
                    return Verdict::Do(Command::Signal { rank: Some(*number), signal: SIGNALS[*at].0 });
                }
                _ => {}
            },
            Dialog::Leftovers { list, at } => match event.code {
                KeyCode::Up | KeyCode::Char('k') => *at = at.saturating_sub(1),
                KeyCode::Down | KeyCode::Char('j') => *at = (*at + 1).min(list.len().saturating_sub(1)),
                KeyCode::Char('n' | 'N' | 'q') => return Verdict::Closed,
                KeyCode::Char('y' | 'Y') => {
                    if let Some(left) = list.get(*at) {
                        return Verdict::Do(Command::EndLeftover { proc: left.proc });
                    }
                }
                _ => {}
            },
        }
        Verdict::Open
    }
}
