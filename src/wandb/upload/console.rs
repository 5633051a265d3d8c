//! The console: pieces of output become lines, each with its time, its rank and whether it is an error.

use std::collections::BTreeMap;

use serde_json::json;

use crate::{
    domain::time::Stamp,
    wandb::log::record::{Output, Timestamp},
};

/// Most characters of a line that W&B shows.
const LONGEST: usize = 4096;

/// Beginnings of lines that have not ended, by label and stream.
pub(super) type Open = BTreeMap<String, String>;

/// A finished line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    at: Timestamp,
    label: String,
    is_error: bool,
    text: String,
}

/// Adds a piece; gives the lines that it ends.
pub(super) fn feed(open: &mut Open, piece: &Output) -> Vec<Line> {
    let is_error = piece.output_type == Output::STDERR;
    let key = format!("{}{}", if is_error { 'e' } else { 'o' }, piece.label);
    let mut lines = Vec::new();
    let mut rest = piece.line.as_str();
    while let Some((text, after)) = rest.split_once('\n') {
        let begun = open.remove(&key).unwrap_or_default();
        let at = piece.timestamp.unwrap_or_default();
        let text = shown(&(begun + text));
        lines.push(Line { at, label: piece.label.clone(), is_error, text });
        rest = after;
    }
    if !rest.is_empty() {
        let begun = open.entry(key).or_default();
        begun.push_str(rest);
        // Of a progress bar only what follows the last return is seen; of a line without end, its beginning.
        if let Some(at) = begun.trim_end_matches('\r').rfind('\r') {
            begun.drain(..=at);
        }
        truncate(begun, 2 * LONGEST);
    }
    lines
}

/// The lines that never ended, once nothing more comes.
pub(super) fn flush(open: &mut Open, at: Timestamp) -> Vec<Line> {
    let open = std::mem::take(open);
    let line = |(key, text): (String, String)| Line {
        at,
        label: key.get(1..).unwrap_or_default().to_owned(),
        is_error: key.starts_with('e'),
        text: shown(&text),
    };
    open.into_iter().map(line).filter(|line| !line.text.is_empty()).collect()
}

/// What a terminal would show of a line: what follows the last return.
fn shown(text: &str) -> String {
    let text = text.trim_end_matches('\r');
    let mut text = text.rsplit('\r').next().unwrap_or_default().to_owned();
    truncate(&mut text, LONGEST);
    text
}

fn truncate(text: &mut String, most: usize) {
    if let Some((at, _)) = text.char_indices().nth(most) {
        text.truncate(at);
    }
}

impl Line {
    /// The line as the server wants it: a JSON object where it knows them.
    pub(super) fn wire(&self, structured: bool) -> String {
        let at = time(self.at);
        if !structured {
            let level = if self.is_error { "ERROR " } else { "" };
            let label = if self.label.is_empty() { String::new() } else { format!("[{}] ", self.label) };
            return format!("{level}{at} {label}{}", self.text);
        }
        let mut line = json!({"ts": at, "content": self.text});
        if self.is_error {
            line["level"] = "error".into();
        }
        if !self.label.is_empty() {
            line["label"] = self.label.as_str().into();
        }
        line.to_string()
    }

    /// The line as it stands in `output.log`.
    pub(super) fn plain(&self) -> String {
        match self.label.as_str() {
            "" => format!("{}\n", self.text),
            label => format!("[{label}] {}\n", self.text),
        }
    }
}

/// `2026-11-20T09:40:16.837042`, in UTC.
fn time(at: Timestamp) -> String {
    let micros = jiff::Timestamp::new(at.seconds, at.nanos);
    let micros = micros
        .unwrap_or_else(|_| jiff::Timestamp::from_millisecond(Stamp::from(at).0 as i64).unwrap_or_default());
    micros.strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(text: &str, label: &str, output_type: i32) -> Output {
        let timestamp = Some(Timestamp { seconds: 1_795_167_616, nanos: 837_042_000 });
        Output { output_type, timestamp, line: text.into(), label: label.into() }
    }

    #[test]
    fn pieces_become_lines() {
        let mut open = Open::new();
        let mut texts = |text: &str, label: &str| -> Vec<String> {
            feed(&mut open, &piece(text, label, Output::STDOUT)).into_iter().map(|line| line.text).collect()
        };
        assert_eq!(texts("one\ntw", ""), ["one"]);
        assert_eq!(texts("other\n", "rank1"), ["other"]);
        assert_eq!(texts("o\n\n", ""), ["two", ""]);
        assert_eq!(texts(" 10%\r 20%\r", ""), [""; 0]);
        assert_eq!(texts(" 30%\r\nend\r\n", ""), [" 30%", "end"]);
        assert_eq!(texts("left", ""), [""; 0]);
        let left = flush(&mut open, Timestamp::default());
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].text.as_str(), left[0].label.as_str()), ("left", ""));
    }

    #[test]
    fn lines_have_two_forms() {
        let lines = feed(&mut Open::new(), &piece("boo\n", "rank3", Output::STDERR));
        let structured =
            r#"{"content":"boo","label":"rank3","level":"error","ts":"2026-11-20T09:40:16.837042"}"#;
        assert_eq!(lines[0].wire(true), structured);
        assert_eq!(lines[0].wire(false), "ERROR 2026-11-20T09:40:16.837042 [rank3] boo");
        let lines = feed(&mut Open::new(), &piece("x\n", "", Output::STDOUT));
        assert_eq!(lines[0].wire(true), r#"{"content":"x","ts":"2026-11-20T09:40:16.837042"}"#);
        assert_eq!(lines[0].wire(false), "2026-11-20T09:40:16.837042 x");
        let lines = feed(&mut Open::new(), &piece(&format!("{}\n", "é".repeat(5000)), "", Output::STDOUT));
        assert_eq!(lines[0].text.chars().count(), 4096);
    }

    proptest! {
        #[test]
        fn cuts_between_pieces_do_not_matter(text in "[a-b\\r\\n]{0,60}", cut in 0..60_usize) {
            let cut = cut.min(text.len());
            let whole = feed(&mut Open::new(), &piece(&text, "", Output::STDOUT));
            let mut open = Open::new();
            let mut parts = feed(&mut open, &piece(&text[..cut], "", Output::STDOUT));
            parts.extend(feed(&mut open, &piece(&text[cut..], "", Output::STDOUT)));
            prop_assert_eq!(whole, parts);
        }
    }
}
