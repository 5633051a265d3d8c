//! What is typed at the foot of the screen: a command by its name, or a filter.

use ratatui::crossterm::event::{Event as TerminalEvent, KeyCode, KeyEvent, KeyModifiers};
use tui_input::{Input, backend::crossterm::EventHandler};

use super::{App, Cmd};
use crate::{
    domain::{
        filter::{Filter, Mistake},
        fleet::{Metric, Order},
    },
    tui::{
        keys::{Action, Scope, View},
        theme::Role,
    },
};

/// What is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PromptKind {
    /// A command.
    Palette,
    /// A filter on ranks.
    Filter,
    /// What is looked for on a rank's page, or among events.
    Find,
}

/// A line while it is typed.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    pub(crate) kind: PromptKind,
    pub(crate) input: Input,
    /// The selected candidate.
    pub(crate) at: usize,
    /// What is wrong with what was typed.
    pub(crate) mistake: Option<Mistake>,
}

impl Prompt {
    pub(super) fn palette() -> Prompt {
        Prompt { kind: PromptKind::Palette, input: Input::default(), at: 0, mistake: None }
    }

    pub(super) fn filter(text: &str) -> Prompt {
        Prompt { kind: PromptKind::Filter, input: Input::new(text.into()), at: 0, mistake: None }
    }

    pub(super) fn find(text: &str) -> Prompt {
        Prompt { kind: PromptKind::Find, input: Input::new(text.into()), at: 0, mistake: None }
    }
}

/// What a command does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Deed {
    Act(Action),
    Theme(String),
    Sort(Order),
    Metric(Metric),
    /// More must be typed after it.
    Verb,
}

/// A command of the palette.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// What is typed for it.
    pub(crate) command: String,
    /// What it does.
    pub(crate) help: String,
    /// The key that does the same.
    pub(crate) key: Option<String>,
    /// Whether it changes the job.
    pub(crate) changes: bool,
    deed: Deed,
}

impl App {
    /// Commands that fit what was typed, the best first.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let typed = self.prompt.as_ref().map_or("", |prompt| prompt.input.value()).to_lowercase();
        let mut fitting: Vec<_> = self
            .commands()
            .into_iter()
            .filter_map(|candidate| Some((fit(&typed, &candidate)?, candidate)))
            .collect();
        fitting.sort_by_key(|(fit, _)| *fit);
        fitting.into_iter().map(|(_, candidate)| candidate).collect()
    }

    fn commands(&self) -> Vec<Candidate> {
        let plain = |command: String, help: &str, deed| Candidate {
            command,
            help: help.to_owned(),
            key: None,
            changes: false,
            deed,
        };
        let mut all: Vec<Candidate> = Vec::new();
        for (binding, mut keys) in self.keymap.lines() {
            let command = binding.action.name();
            let is_off = binding.scope == Scope::Replay && self.replay.is_none();
            if is_off || binding.action == Action::Palette || all.iter().any(|known| known.command == command)
            {
                continue;
            }
            all.push(Candidate {
                command,
                help: binding.help.to_owned(),
                key: keys.next().map(str::to_owned),
                changes: binding.changes,
                deed: Deed::Act(binding.action),
            });
        }
        all.push(plain(
            "quit".into(),
            "detach: leave the screen, the job goes on",
            Deed::Act(Action::Detach),
        ));
        let runs = Deed::Act(Action::View(View::Runs));
        all.push(plain("wandb".into(), "runs in W&B and how far they are", runs));
        if self.stacks.stacks.is_some() {
            let deed = Deed::Act(Action::View(View::Stacks));
            all.push(plain("view-stacks".into(), "the stacks that were taken last", deed));
        }
        all.push(plain("goto".into(), "goto 37: select the rank with this number", Deed::Verb));
        if self.replay.is_some() {
            let help = "seek 40%, +5m, -30s, 12:34:56: go to a place in the recording";
            all.push(plain("seek".into(), help, Deed::Verb));
        }
        for order in Order::ALL {
            all.push(plain(format!("sort {}", order.name()), "order of the ranks", Deed::Sort(order)));
        }
        for metric in Metric::ALL.into_iter().filter(|metric| self.overview.fleet.knows(*metric)) {
            let name = metric.name().replace(' ', "-").replace('%', "share").to_lowercase();
            all.push(plain(format!("metric {name}"), "what the cells tell", Deed::Metric(metric)));
        }
        for theme in self.themes.names() {
            all.push(plain(format!("theme {theme}"), "colours", Deed::Theme(theme.to_owned())));
        }
        all
    }

    pub(super) fn prompt_key(&mut self, event: &KeyEvent, cmds: &mut Vec<Cmd>) {
        let Some(mut prompt) = self.prompt.take() else { return };
        let interrupted = event.code == KeyCode::Char('c') && event.modifiers.contains(KeyModifiers::CONTROL);
        match event.code {
            _ if event.code == KeyCode::Esc || interrupted => {
                if prompt.kind == PromptKind::Find {
                    self.sought().clear();
                }
                return;
            }
            KeyCode::Backspace if prompt.input.value().is_empty() => return,
            KeyCode::Up => prompt.at = prompt.at.saturating_sub(1),
            KeyCode::Down => prompt.at += 1,
            KeyCode::Enter if prompt.kind == PromptKind::Find => return,
            KeyCode::Enter => return self.submit(prompt, cmds),
            KeyCode::Tab if prompt.kind == PromptKind::Palette => {
                self.prompt = Some(prompt.clone());
                if let Some(chosen) = self.candidates().get(prompt.at) {
                    let blank = if chosen.deed == Deed::Verb { " " } else { "" };
                    prompt.input = Input::new(format!("{}{blank}", chosen.command));
                    prompt.at = 0;
                }
            }
            _ => {
                let before = prompt.input.value().to_owned();
                prompt.input.handle_event(&TerminalEvent::Key(*event));
                if prompt.input.value() != before {
                    prompt.at = 0;
                }
            }
        }
        prompt.mistake = match prompt.kind {
            PromptKind::Filter => Filter::parse(prompt.input.value()).err(),
            PromptKind::Palette => None,
            PromptKind::Find => {
                // What fits is shown while it is typed.
                prompt.input.value().clone_into(self.sought());
                self.page.first = 0;
                None
            }
        };
        self.prompt = Some(prompt);
        if self.prompt.as_ref().is_some_and(|prompt| prompt.kind == PromptKind::Palette) {
            let last = self.candidates().len().saturating_sub(1);
            self.prompt.iter_mut().for_each(|prompt| prompt.at = prompt.at.min(last));
        }
    }

    /// What is looked for where the screen is.
    fn sought(&mut self) -> &mut String {
        if self.view == View::Events { &mut self.event_find } else { &mut self.page.find }
    }

    fn submit(&mut self, prompt: Prompt, cmds: &mut Vec<Cmd>) {
        let typed = prompt.input.value().trim().to_owned();
        if prompt.kind == PromptKind::Filter {
            return self.submit_filter(prompt, &typed);
        }
        if let Some(text) = typed.strip_prefix("filter ") {
            return self.submit_filter(Prompt::filter(text.trim()), text.trim());
        }
        if let Some(number) = typed.strip_prefix("goto ") {
            let number = number.trim().trim_start_matches('r');
            return match number.parse() {
                Ok(rank) if self.go_to_rank(rank) => {}
                Ok(rank) => self.say(Role::Warn, format!("there is no rank {rank}")),
                Err(_) => self.say(Role::Warn, format!("goto needs the number of a rank, not {number:?}")),
            };
        }
        if let Some(place) = typed.strip_prefix("seek ").filter(|_| self.replay.is_some()) {
            return self.seek_to(place, cmds);
        }
        let at = prompt.at;
        self.prompt = Some(prompt);
        let chosen = self.candidates().into_iter().nth(at);
        self.prompt = None;
        match chosen.map(|chosen| (chosen.deed, chosen.command)) {
            None if typed.is_empty() => {}
            None => self.say(Role::Warn, self.no_such(&typed)),
            Some((Deed::Act(action), _)) => self.act(action, cmds),
            Some((Deed::Sort(order), _)) => self.sort(order),
            Some((Deed::Metric(metric), _)) => self.measure(metric),
            Some((Deed::Theme(name), _)) => match self.themes.load(&name) {
                Ok(theme) => self.wear(theme),
                Err(error) => self.say(Role::Warn, error.text),
            },
            Some((Deed::Verb, command)) => {
                let mut prompt = Prompt::palette();
                prompt.input = Input::new(format!("{command} "));
                self.prompt = Some(prompt);
            }
        }
    }

    /// Why nothing fits what was typed.
    fn no_such(&self, typed: &str) -> String {
        let (verb, rest) = typed.split_once(' ').unwrap_or((typed, ""));
        let ends: Vec<String> = self
            .commands()
            .into_iter()
            .filter_map(|known| Some(known.command.strip_prefix(verb)?.strip_prefix(' ')?.to_owned()))
            .collect();
        match verb {
            "seek" => "seek is for recordings: elastictop replay".into(),
            _ if !ends.is_empty() => format!("no {verb} {rest:?}; there are {}", ends.join(", ")),
            _ => format!("no command {typed:?}; : lists them"),
        }
    }

    fn submit_filter(&mut self, mut prompt: Prompt, text: &str) {
        match Filter::parse(text) {
            Ok(filter) => {
                self.view = View::Overview;
                self.filter_by(filter);
                if self.overview.rows.is_empty() {
                    self.say(Role::Info, "no rank fits this filter; Esc takes it away");
                }
            }
            Err(mistake) => {
                prompt.mistake = Some(mistake);
                self.prompt = Some(prompt);
            }
        }
    }
}

/// How well a candidate fits what was typed, the smaller the better; `None` when it does not.
fn fit(typed: &str, candidate: &Candidate) -> Option<(u8, usize)> {
    let command = &candidate.command;
    let words = || typed.split_whitespace();
    if typed.is_empty() || command.starts_with(typed.trim_end()) {
        return Some((0, if typed.is_empty() { 0 } else { command.len() }));
    }
    if words().all(|word| command.contains(word)) {
        return Some((1, command.len()));
    }
    if words().all(|word| command.contains(word) || candidate.help.to_lowercase().contains(word)) {
        return Some((2, command.len()));
    }
    // The letters in their order, such as `nm` for `next-match`.
    let mut letters = command.chars();
    let scattered = typed.chars().filter(|c| !c.is_whitespace()).all(|c| letters.any(|letter| letter == c));
    scattered.then_some((3, command.len()))
}
