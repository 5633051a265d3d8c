//! Rows of history as lines inside of a request. The usual row goes from its bytes in the file straight into the
//! request; only unusual ones are decoded.

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::wandb::log::record::{Kind, Record};

/// Longest line that W&B takes, in bytes.
pub(super) const LONGEST_LINE: usize = (10 << 20) - (100 << 10);

/// What a row's own step and time become: a run that goes on on the server continues both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Shift {
    /// Added to `_step`.
    pub(super) step: i64,
    /// Added to `_runtime`, in seconds.
    pub(super) runtime: f64,
}

/// Step and times of the last row, as JSON text; empty before the first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Last {
    pub(super) step: String,
    pub(super) timestamp: String,
    pub(super) runtime: String,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A row, which is in the request now.
    Row,
    /// A row that is too long, or that cannot be read.
    Lost,
    /// Not a row.
    Other,
}

/// Puts a record that is a row into `out`, as an element of a JSON list of strings.
pub(super) fn take(payload: &[u8], shift: Shift, last: &mut Last, out: &mut Vec<u8>) -> Taken {
    let Some(history) = history_of(payload) else { return Taken::Other };
    let start = out.len();
    let line = match fast(history, shift, last, out) {
        Some(raw) => Some(raw),
        None => {
            out.truncate(start);
            slow(payload, shift, last, out)
        }
    };
    if line.is_some_and(|raw| raw <= LONGEST_LINE) {
        return Taken::Row;
    }
    out.truncate(start);
    Taken::Lost
}

/// The step of a record that is a row, if it has one.
pub(super) fn step_of(payload: &[u8]) -> Option<i64> {
    history_of(payload)?;
    let Some(Kind::History(row)) = Record::decode(payload).ok()?.kind else { return None };
    let item = row.items.iter().find(|item| item.path() == ["_step"])?;
    item.json().parse().ok()
}

/// Whether a record is a row.
pub(super) fn is_row(payload: &[u8]) -> bool {
    history_of(payload).is_some()
}

/// The bytes of the row in a record that is one.
fn history_of(payload: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields(payload);
    loop {
        match fields.next()? {
            (2, Field::Bytes(history)) => return Some(history),
            // Its number, which comes before.
            (1, _) => {}
            _ => return None,
        }
    }
}

/// `None` for rows whose keys are nested or whose values have types; the length of the line otherwise.
fn fast(history: &[u8], shift: Shift, last: &mut Last, out: &mut Vec<u8>) -> Option<usize> {
    begin(out);
    let (mut raw, mut has_step, mut fields) = (2, false, Fields(history));
    while let Some((tag, field)) = fields.next() {
        let (1, Field::Bytes(item)) = (tag, field) else { return None };
        let (mut key, mut value) = (None, "");
        let mut parts = Fields(item);
        while let Some((tag, field)) = parts.next() {
            match (tag, field) {
                (2, Field::Bytes(text)) if key.is_none() => key = Some(std::str::from_utf8(text).ok()?),
                (16, Field::Bytes(text)) => value = std::str::from_utf8(text).ok()?,
                _ => return None,
            }
        }
        // What is left could not be read: another decoder has to say what it is.
        parts.is_empty().then_some(())?;
        let key = key?;
        let value = if value.is_empty() { "null" } else { value };
        has_step |= key == "_step";
        raw += member(key, value, raw > 2, shift, last, out);
    }
    (fields.is_empty() && has_step).then_some(())?;
    end(out);
    Some(raw)
}

fn slow(payload: &[u8], shift: Shift, last: &mut Last, out: &mut Vec<u8>) -> Option<usize> {
    let Some(Kind::History(mut row)) = Record::decode(payload).ok()?.kind else { return None };
    let is = |key: &str| row.items.iter().any(|item| item.path() == [key]);
    let missing = (!is("_step")).then(|| match row.step {
        Some(step) => step.num.to_string(),
        None => last.step.parse().map_or(0, |step: i64| step + 1 - shift.step).to_string(),
    });
    // Members of an object stay together: the fast way only has keys that stand for themselves.
    let is_nested = |item: &crate::wandb::log::record::HistoryItem| item.path().len() > 1;
    let nested: Vec<_> = row.items.iter().filter(|item| is_nested(item)).cloned().collect();
    row.items.retain(|item| !is_nested(item));
    begin(out);
    let mut raw = 2;
    for item in &row.items {
        let (key, value) = (item.path().first().map_or("", String::as_str), item.json());
        let value = if value.is_empty() { "null" } else { value.as_ref() };
        raw += member(key, value, raw > 2, shift, last, out);
    }
    if !nested.is_empty() {
        let inner = crate::wandb::log::record::History { items: nested, step: None }.json();
        let inner = inner.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or_default();
        raw += inner.len() + usize::from(raw > 2);
        if raw > inner.len() + 2 {
            out.push(b',');
        }
        escape(inner.as_bytes(), out);
    }
    if let Some(step) = missing {
        raw += member("_step", &step, raw > 2, shift, last, out);
    }
    end(out);
    Some(raw)
}

fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"{");
}

fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"}\"");
}

/// Adds one key and its value; gives how much longer the line got.
fn member(key: &str, value: &str, comma: bool, shift: Shift, last: &mut Last, out: &mut Vec<u8>) -> usize {
    let moved;
    let mut value = value;
    let remembered = match key {
        "_step" if shift.step != 0 => {
            moved =
                value.parse().map_or_else(|_| value.to_owned(), |step: i64| (step + shift.step).to_string());
            value = &moved;
            Some(&mut last.step)
        }
        "_runtime" if shift.runtime != 0.0 => {
            moved = value
                .parse()
                .map_or_else(|_| value.to_owned(), |time: f64| format!("{:?}", time + shift.runtime));
            value = &moved;
            Some(&mut last.runtime)
        }
        "_step" => Some(&mut last.step),
        "_timestamp" => Some(&mut last.timestamp),
        "_runtime" => Some(&mut last.runtime),
        _ => None,
    };
    if let Some(remembered) = remembered {
        remembered.clear();
        remembered.push_str(value);
    }
    if comma {
        out.push(b',');
    }
    let key_len = if key.bytes().all(is_plain) {
        out.extend_from_slice(b"\\\"");
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(b"\\\":");
        key.len() + 2
    } else {
        let key = crate::wandb::log::json::text(key);
        escape(key.as_bytes(), out);
        out.push(b':');
        key.len()
    };
    escape(value.as_bytes(), out);
    usize::from(comma) + key_len + 1 + value.len()
}

fn is_plain(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

/// JSON text as the inside of a JSON string. Ends of lines, which JSON only has between values, become blanks.
pub(super) fn escape(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| !is_plain(*byte)) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            special @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', special]),
            _ => out.push(b' '),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// The fields of a protobuf message.
struct Fields<'a>(&'a [u8]);

enum Field<'a> {
    Number,
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `None` at the end, and before what cannot be read.
    fn next(&mut self) -> Option<(u32, Field<'a>)> {
        let (key, rest) = varint(self.0)?;
        let tag = u32::try_from(key >> 3).ok()?;
        let (field, rest) = match key & 7 {
            0 => (Field::Number, varint(rest)?.1),
            2 => {
                let (length, rest) = varint(rest)?;
                let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                (Field::Bytes(bytes), rest)
            }
            _ => return None,
        };
        self.0 = rest;
        Some((tag, field))
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (n, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * n as u32).min(63);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[n + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wandb::log::record::{History, HistoryItem, Step, Value};

    fn payload(history: History) -> Vec<u8> {
        Record { num: 300, kind: Some(Kind::History(history)) }.encode_to_vec()
    }

    /// The line, and what became of the record.
    fn line(payload: &[u8], shift: Shift) -> (Taken, Option<String>) {
        let (mut out, mut last) = (Vec::new(), Last { step: "6".into(), ..Last::default() });
        let taken = take(payload, shift, &mut last, &mut out);
        (taken, serde_json::from_slice(&out).ok())
    }

    fn of(items: &[(&str, &str)]) -> Vec<u8> {
        payload(History::of(items.iter().map(|(key, value)| ([*key], *value))))
    }

    #[test]
    fn rows_become_lines() {
        let row =
            of(&[("loss", "0.25"), ("we\"ird", "\"a\\\\b\\\"c\""), ("n", "NaN"), ("e", ""), ("_step", "7")]);
        let (taken, text) = line(&row, Shift::default());
        assert_eq!(taken, Taken::Row);
        assert_eq!(text.unwrap(), r#"{"loss":0.25,"we\"ird":"a\\b\"c","n":NaN,"e":null,"_step":7}"#);
        let row = of(&[("_step", "7"), ("_runtime", "1.5")]);
        let (_, text) = line(&row, Shift { step: 100, runtime: 10.0 });
        assert_eq!(text.unwrap(), r#"{"_step":107,"_runtime":11.5}"#);
    }

    #[test]
    fn unusual_rows_are_lines_too() {
        let mut row = History::of([(vec!["d", "x"], "1"), (vec!["a"], "2"), (vec!["d", "y"], "3")]);
        row.items.push(HistoryItem {
            key: "typed".into(),
            value: Some(Value::Integer(-4)),
            ..HistoryItem::default()
        });
        let (_, text) = line(&payload(row.clone()), Shift::default());
        assert_eq!(
            text.unwrap(),
            r#"{"a":2,"typed":-4,"d":{"x":1,"y":3},"_step":7}"#,
            "the step after the last"
        );
        row.step = Some(Step { num: 40 });
        let (_, text) = line(&payload(row), Shift { step: 2, runtime: 0.0 });
        assert!(text.unwrap().ends_with(r#""_step":42}"#));
        let (_, text) = line(&of(&[("a\nb", "{\n\"x\": 1}"), ("_step", "1")]), Shift::default());
        assert_eq!(text.unwrap(), "{\"a\\nb\":{ \"x\": 1},\"_step\":1}");
    }

    #[test]
    fn what_is_no_row_or_too_long_is_said() {
        let other = Record { num: 1, kind: Some(Kind::Exit(crate::wandb::log::record::Exit::default())) };
        assert_eq!(line(&other.encode_to_vec(), Shift::default()), (Taken::Other, None));
        let with = |bytes: usize| of(&[("x", &format!("\"{}\"", "y".repeat(bytes))), ("_step", "1")]);
        let rest = r#"{"x":"","_step":1}"#.len();
        assert_eq!(line(&with(LONGEST_LINE - rest), Shift::default()).0, Taken::Row);
        assert_eq!(line(&with(LONGEST_LINE - rest + 1), Shift::default()), (Taken::Lost, None));
    }

    #[test]
    fn steps_are_found() {
        assert_eq!(step_of(&of(&[("a", "1"), ("_step", "12")])), Some(12));
        assert_eq!(step_of(&of(&[("a", "1")])), None);
    }

    proptest! {
        #[test]
        fn both_ways_give_the_same_row(
            items in proptest::collection::btree_map("\\PC{0,8}|.{0,4}", "-?[0-9]{1,5}|NaN|\"[a-z]{0,5}\"", 0..6),
        ) {
            let mut items: Vec<_> = items.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            items.push(("_step", "3"));
            let bytes = of(&items);
            let (mut one, mut two) = (Vec::new(), Vec::new());
            let (mut last, mut last_slow) = (Last::default(), Last::default());
            let fast = fast(history_of(&bytes).unwrap(), Shift::default(), &mut last, &mut one);
            let slow = slow(&bytes, Shift::default(), &mut last_slow, &mut two);
            prop_assert!(fast.is_some());
            prop_assert_eq!((fast, last, one), (slow, last_slow, two));
        }

        #[test]
        fn the_length_is_that_of_the_line(text in ".{0,40}") {
            let value = serde_json::to_string(&text).unwrap();
            let bytes = of(&[(&text, &value), ("_step", "3")]);
            let (mut out, mut last) = (Vec::new(), Last::default());
            let raw = fast(history_of(&bytes).unwrap(), Shift::default(), &mut last, &mut out).unwrap();
            let line: String = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(raw, line.len());
            let row: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(&row[&text], &text);
        }

        #[test]
        fn any_bytes_give_a_line_or_none(mut bytes in proptest::collection::vec(any::<u8>(), 0..60), at in 0..40_usize) {
            let (_, _) = line(&bytes, Shift::default());
            let mut row = of(&[("loss", "0.5"), ("_step", "3")]);
            bytes.truncate(3);
            let at = at % row.len();
            row.splice(at..(at + bytes.len()).min(row.len()), bytes);
            let (mut out, mut last) = (Vec::new(), Last::default());
            if take(&row, Shift::default(), &mut last, &mut out) == Taken::Row {
                prop_assert!(serde_json::from_slice::<String>(&out).is_ok());
            } else {
                prop_assert!(out.is_empty());
            }
        }
    }
}
