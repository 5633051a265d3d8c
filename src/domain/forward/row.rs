//! One line of a rank into one row of metrics, without loss: values stay the text that the rank wrote.
//!
//! Numbers of any size and the bare `NaN`, `Infinity` and `-Infinity` of Python's `json` pass as they are, which is
//! what W&B takes too. No tree of values is built: a row costs little more than looking at its bytes once.

use std::{borrow::Cow, collections::HashMap};

/// Longest line that can become a row, in bytes: W&B takes 10 MiB less 100 KiB, and the row gets step and times.
pub const LONGEST: usize = (10 << 20) - (100 << 10) - (1 << 10);
/// Deepest nesting of a row: whoever reads it later may go down by recursion.
const DEEPEST: u32 = 100;
/// Up to this many keys are compared with each other to find doubles; more are hashed.
const FEW: usize = 16;

/// One metric of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// Its name, escapes resolved.
    pub key: Cow<'a, str>,
    /// Its value, as JSON text that may be or hold `NaN`, `Infinity` or `-Infinity`.
    pub value: &'a str,
}

/// The metrics of one line, in its order; of a key that came twice the last value, as Python has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row<'a> {
    /// All of them, each key once.
    pub items: Vec<Item<'a>>,
}

impl<'a> Row<'a> {
    /// The row that a line is: a JSON object with at least one key. `None` for all other lines, and for those longer
    /// than [`LONGEST`].
    pub fn parse(line: &'a [u8]) -> Option<Row<'a>> {
        let line = line.trim_ascii();
        // Most lines of a log are no rows: they are told by their ends.
        if line.first() != Some(&b'{') || line.last() != Some(&b'}') || line.len() > LONGEST {
            return None;
        }
        let text = std::str::from_utf8(line).ok()?;
        let mut scan = Scan { text, at: 1 };
        let mut items = Vec::with_capacity(8);
        scan.object(0, Some(&mut items))?;
        if scan.at != text.len() || items.is_empty() {
            return None;
        }
        let mut row = Row { items };
        row.last_wins();
        Some(row)
    }

    /// Whether there is a figure in it, or a step. Messages of structured logs are objects too, and the numbers that they
    /// have say when and where they were written.
    pub fn has_figures(&self) -> bool {
        const OF_MESSAGES: [&str; 12] = [
            "time",
            "ts",
            "timestamp",
            "created",
            "pid",
            "process",
            "thread",
            "line",
            "lineno",
            "level",
            "levelno",
            "rank",
        ];
        let is_figure = |value: &str| !value.starts_with(['"', 't', 'f', 'n']);
        self.items.iter().any(|item| is_figure(item.value) && !OF_MESSAGES.contains(&&*item.key))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.items.iter().find(|item| item.key == key).map(|item| item.value)
    }

    /// The value of a key that is a whole number, not below zero; `100.0` is one too.
    pub fn whole(&self, key: &str) -> Option<u64> {
        let value = self.get(key)?;
        value.strip_suffix(".0").unwrap_or(value).parse().ok()
    }

    /// The value of a key that is a finite number.
    pub fn number(&self, key: &str) -> Option<f64> {
        let value = self.get(key)?;
        let is_number = value.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        value.parse().ok().filter(|number: &f64| is_number && number.is_finite())
    }

    /// Takes a key out and gives its value.
    pub fn take(&mut self, key: &str) -> Option<&'a str> {
        let at = self.items.iter().position(|item| item.key == key)?;
        Some(self.items.remove(at).value)
    }

    fn last_wins(&mut self) {
        let items = &self.items;
        let has_doubles = if items.len() <= FEW {
            (1..items.len()).any(|n| items[..n].iter().any(|before| before.key == items[n].key))
        } else {
            let mut seen = std::collections::HashSet::with_capacity(items.len());
            !items.iter().all(|item| seen.insert(item.key.as_ref()))
        };
        if !has_doubles {
            return;
        }
        let mut places: HashMap<Cow<'a, str>, usize> = HashMap::new();
        let mut kept: Vec<Item<'a>> = Vec::with_capacity(items.len());
        for item in std::mem::take(&mut self.items) {
            match places.get(&item.key) {
                Some(at) => kept[*at].value = item.value,
                None => {
                    places.insert(item.key.clone(), kept.len());
                    kept.push(item);
                }
            }
        }
        self.items = kept;
    }
}

/// A place in a text that may be JSON. All steps give `None` when it is not.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn byte(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    /// After the opening brace; stops after the closing one.
    fn object(&mut self, depth: u32, mut items: Option<&mut Vec<Item<'a>>>) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        self.blanks();
        if self.byte(b'}').is_some() {
            return Some(());
        }
        loop {
            self.blanks();
            self.byte(b'"')?;
            let from = self.at;
            let is_escaped = self.string()?;
            let name = &self.text[from..self.at - 1];
            self.blanks();
            self.byte(b':')?;
            self.blanks();
            let from = self.at;
            self.value(depth)?;
            let value = &self.text[from..self.at];
            if let Some(items) = &mut items {
                items.push(Item { key: if is_escaped { resolve(name) } else { Cow::Borrowed(name) }, value });
            }
            self.blanks();
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// After the opening bracket; stops after the closing one.
    fn array(&mut self, depth: u32) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        self.blanks();
        if self.byte(b']').is_some() {
            return Some(());
        }
        loop {
            self.blanks();
            self.value(depth)?;
            self.blanks();
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    fn value(&mut self, depth: u32) -> Option<()> {
        match self.peek()? {
            b'"' => {
                self.at += 1;
                self.string().map(drop)
            }
            b'{' => {
                self.at += 1;
                self.object(depth + 1, None)
            }
            b'[' => {
                self.at += 1;
                self.array(depth + 1)
            }
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            b'N' => self.word("NaN"),
            b'I' => self.word("Infinity"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.text.as_bytes()[self.at..].starts_with(word.as_bytes()).then(|| self.at += word.len())
    }

    fn number(&mut self) -> Option<()> {
        if self.byte(b'-').is_some() && self.peek()? == b'I' {
            return self.word("Infinity");
        }
        if self.byte(b'0').is_none() {
            self.digits()?;
        }
        if self.byte(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }

    /// After the opening quote; stops after the closing one. Says whether there are escapes in it.
    fn string(&mut self) -> Option<bool> {
        let mut is_escaped = false;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(is_escaped);
                }
                b'\\' => {
                    is_escaped = true;
                    self.at += 1;
                    self.escape()?;
                }
                0..0x20 => return None,
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        let letter = self.peek()?;
        self.at += 1;
        match letter {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }
}

/// A name with its escapes resolved; half of a surrogate pair, which stands for no character, stays as it was written.
fn resolve(name: &str) -> Cow<'_, str> {
    serde_json::from_str(&format!("\"{name}\"")).map_or(Cow::Borrowed(name), Cow::Owned)
}

#[cfg(test)]
mod tests;
