//! Configuration files: TOML of ours, and W&B's own settings, which are INI.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{
    registry::{Kind, SETTINGS, Setting},
    screen::{self, Screen},
};
use crate::{
    domain::near::nearest,
    error::{Error, Result},
};

/// A value in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The value as text.
    pub text: String,
    /// Its line, counted from 1.
    pub line: usize,
}

/// What is wrong at one place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line and column, counted from 1.
    pub at: (usize, usize),
    /// What is wrong: one sentence without a full stop.
    pub text: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.at.0, self.at.1, self.text)
    }
}

/// The values of a file, by key.
pub type Values = BTreeMap<&'static str, Located>;

/// A file that was read.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says.
    pub values: Values,
    /// What it says to the screen.
    pub screen: Screen,
}

/// Reads one of elastictop's own files; `None` when there is none.
///
/// # Errors
/// It cannot be read, or something in it is wrong: a usage error that names the first place.
pub fn read(path: &Path) -> Result<Option<ConfigFile>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::usage(format!("cannot read {}: {error}", path.display()))),
    };
    let (values, problems) = parse(&text);
    match problems.into_iter().next() {
        None => Ok(Some(ConfigFile { path: path.to_owned(), values, screen: Screen::parse(&text) })),
        Some(problem) => {
            let error = Error::usage(format!("{}:{problem}", path.display()));
            Err(problem
                .hint
                .into_iter()
                .fold(error, Error::hint)
                .hint(format!("elastictop config validate {} shows all that is wrong", path.display())))
        }
    }
}

/// The values of a file, and what is wrong in it.
pub fn parse(text: &str) -> (Values, Vec<Problem>) {
    let place = |offset: usize| {
        let before = (0..=offset.min(text.len())).rev().find_map(|end| text.get(..end)).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut problems: Vec<_> = errors
        .iter()
        .map(|error| Problem {
            at: place(error.span().map_or(0, |span| span.start)),
            text: error.message().replace('\n', ", "),
            hint: None,
        })
        .collect();
    let mut values = Values::new();
    for (section, inside) in table.get_ref() {
        let at = place(section.span().start);
        let name = section.get_ref().as_ref();
        match inside.get_ref() {
            DeValue::Table(inside) if is_section(name) => {
                for (key, value) in inside {
                    let at = place(key.span().start);
                    let key = format!("{name}.{}", key.get_ref());
                    match value_of(&key, value.get_ref(), place(value.span().start), at) {
                        Ok((setting, text)) => {
                            values.insert(setting.key, Located { text, line: at.0 });
                        }
                        Err(problem) => problems.push(problem),
                    }
                }
            }
            DeValue::Table(inside) if screen::SECTIONS.contains(&name) => {
                problems.extend(screen::problems(text, name).into_iter().map(|text| {
                    let at = named_in(&text, inside).map_or(at, &place);
                    Problem { at, text, hint: None }
                }));
            }
            _ => problems.push(unknown(name, at)),
        }
    }
    problems.sort_by_key(|problem| problem.at);
    (values, problems)
}

/// Where the key stands, of a table and the tables in it, that a sentence names first.
fn named_in(sentence: &str, table: &DeTable<'_>) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || "_-".contains(c);
    let mut found: Option<(usize, usize)> = None;
    let mut tables = vec![table];
    while let Some(table) = tables.pop() {
        for (key, value) in table {
            let said = sentence.split(|c| !is_word(c)).position(|word| word == key.get_ref().as_ref());
            if let Some(said) = said.filter(|said| found.is_none_or(|(best, _)| *said < best)) {
                found = Some((said, key.span().start));
            }
            if let DeValue::Table(inside) = value.get_ref() {
                tables.push(inside);
            }
        }
    }
    found.map(|(_, at)| at)
}

fn is_section(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.key.split_once('.').is_some_and(|(section, _)| section == name))
}

fn value_of(
    key: &str,
    value: &DeValue<'_>,
    value_at: (usize, usize),
    key_at: (usize, usize),
) -> Result<(&'static Setting, String), Problem> {
    let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
        return Err(unknown(key, key_at));
    };
    let wrong = |text: String| Problem { at: value_at, text: format!("{key} {text}"), hint: None };
    let text = text_of(value, setting).map_err(wrong)?;
    setting.refuse(&text).map_err(|why| wrong(format!("= {text:?} {why}")))?;
    Ok((setting, text))
}

/// A value as it would be typed.
fn text_of(value: &DeValue<'_>, setting: &Setting) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.as_str().to_owned()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(yes) => Ok(yes.to_string()),
        DeValue::Array(items) if setting.kind == Kind::List => {
            let item = |item: &DeValue<'_>| match item {
                DeValue::String(text) if !text.contains(',') => Ok(text.to_string()),
                _ => Err("is a list of something else than words without commas".to_owned()),
            };
            Ok(items.iter().map(|value| item(value.get_ref())).collect::<Result<Vec<_>, _>>()?.join(","))
        }
        DeValue::Array(_) => Err("is a list, and takes one value".into()),
        DeValue::Datetime(_) => Err("is a date".into()),
        DeValue::Table(_) => Err("is a table, and takes a value".into()),
    }
}

/// A key that is none; a secret is never repeated.
fn unknown(key: &str, at: (usize, usize)) -> Problem {
    let name = key.rsplit('.').next().unwrap_or(key);
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    if ["apikey", "wandbapikey", "key", "token", "password", "secret"]
        .contains(&plain.to_ascii_lowercase().as_str())
    {
        let text = format!("{name} is a secret, which does not belong into a file that may be shared");
        let hint = "the key goes into the variable WANDB_API_KEY, or into ~/.netrc with wandb login";
        return Problem { at, text, hint: Some(hint.into()) };
    }
    let keys = || SETTINGS.iter().map(|setting| setting.key);
    let sections = || keys().filter_map(|key| key.split_once('.').map(|(section, _)| section));
    let same_name = |known: &&str| known.rsplit('.').next() == Some(name);
    let near = match key.split_once('.') {
        Some(_) => nearest(key, keys()).or_else(|| keys().find(same_name)),
        None => keys().find(same_name).or_else(|| nearest(key, sections())),
    };
    let hint = match near {
        Some(near) if near.contains('.') => {
            let (section, name) = near.split_once('.').unwrap_or_default();
            format!("did you mean {name} in [{section}]?")
        }
        Some(section) => format!("did you mean [{section}]?"),
        None => "elastictop config print lists all settings".into(),
    };
    let what = if key.contains('.') { "setting" } else { "section" };
    let shown = key.escape_debug();
    Problem { at, text: format!("there is no {what} {shown}"), hint: Some(hint) }
}

/// Reads W&B's own settings: `[default]` and `key = value`. What it cannot make sense of it leaves out, as the file is
/// somebody else's.
pub fn read_theirs(path: &Path) -> Option<ConfigFile> {
    let text = fs::read_to_string(path).ok()?;
    Some(ConfigFile { path: path.to_owned(), values: parse_theirs(&text), screen: Screen::default() })
}

/// The values in a text of that kind.
pub fn parse_theirs(text: &str) -> Values {
    let mut values = Values::new();
    let mut inside = false;
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.starts_with('[') {
            inside = line == "[default]";
        }
        let Some((name, value)) = line.split_once(['=', ':']).filter(|_| inside) else { continue };
        let (name, value) = (name.trim(), value.trim());
        let Some(setting) = SETTINGS.iter().find(|setting| setting.theirs == Some(name)) else { continue };
        if !value.is_empty() && setting.refuse(value).is_ok() {
            values.insert(setting.key, Located { text: value.to_owned(), line: number });
        }
    }
    values
}
