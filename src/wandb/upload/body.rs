//! The body of a file_stream request.

use super::row::escape;

/// Lines of one file, as elements of a JSON list.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    count: u64,
}

impl Lines {
    /// Adds a line.
    pub(super) fn push(&mut self, line: &str) {
        let out = self.open();
        out.push(b'"');
        // The line may hold any text; `escape` is for JSON text alone.
        if line.bytes().any(|byte| byte < 0x20) {
            out.pop();
            out.extend_from_slice(crate::wandb::log::json::text(line).as_bytes());
        } else {
            escape(line.as_bytes(), out);
            out.push(b'"');
        }
        self.count += 1;
    }

    /// Where an element can be added; [`Lines::added`] or [`Lines::not_added`] must follow.
    pub(super) fn open(&mut self) -> &mut Vec<u8> {
        if self.count > 0 {
            self.bytes.push(b',');
        }
        &mut self.bytes
    }

    /// An element was added.
    pub(super) fn added(&mut self) {
        self.count += 1;
    }

    /// No element was added.
    pub(super) fn not_added(&mut self) {
        if self.count > 0 {
            self.bytes.pop();
        }
    }

    /// Number of lines.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// What a request holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Body {
    /// Lines with the offset of the first.
    pub(super) history: (u64, Lines),
    pub(super) events: (u64, Lines),
    pub(super) console: (u64, Lines),
    /// The whole summary.
    pub(super) summary: Option<String>,
    /// Names of files that are stored now.
    pub(super) uploaded: Vec<String>,
    /// The exit code, when the run is complete with this.
    pub(super) complete: Option<i32>,
}

impl Body {
    /// Whether it says nothing: a heartbeat.
    pub(super) fn is_empty(&self) -> bool {
        let lines = self.history.1.count + self.events.1.count + self.console.1.count;
        lines == 0 && self.summary.is_none() && self.uploaded.is_empty() && self.complete.is_none()
    }

    /// Bytes of the lines so far.
    pub(super) fn len(&self) -> usize {
        self.history.1.len() + self.events.1.len() + self.console.1.len()
    }

    /// The request as JSON.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        let mut summary = Lines::default();
        self.summary.iter().for_each(|line| summary.push(line));
        let files = [
            ("wandb-history.jsonl", self.history),
            ("wandb-events.jsonl", self.events),
            ("output.log", self.console),
            ("wandb-summary.json", (0, summary)),
        ];
        let mut out =
            Vec::with_capacity(files.iter().map(|(_, (_, lines))| lines.len() + 64).sum::<usize>() + 64);
        let mut separator = "{\"files\":{";
        for (name, (offset, lines)) in files.into_iter().filter(|(_, (_, lines))| lines.count > 0) {
            out.extend_from_slice(separator.as_bytes());
            out.extend_from_slice(format!("\"{name}\":{{\"offset\":{offset},\"content\":[").as_bytes());
            out.extend_from_slice(&lines.bytes);
            out.extend_from_slice(b"]}");
            separator = ",";
        }
        let has_files = !out.is_empty();
        out.extend_from_slice(if has_files { b"}" } else { b"{" });
        let mut comma = if has_files { "," } else { "" };
        if !self.uploaded.is_empty() {
            let names = serde_json::json!(self.uploaded);
            out.extend_from_slice(format!("{comma}\"uploaded\":{names}").as_bytes());
            comma = ",";
        }
        if let Some(code) = self.complete {
            out.extend_from_slice(format!("{comma}\"complete\":true,\"exitcode\":{code}").as_bytes());
        }
        out.push(b'}');
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(body: Body) -> Value {
        serde_json::from_slice(&body.into_bytes()).unwrap()
    }

    #[test]
    fn bodies_are_json() {
        assert_eq!(read(Body::default()), json!({}));
        let mut body = Body { summary: Some(r#"{"a":"b\n"}"#.into()), complete: Some(3), ..Body::default() };
        body.history.0 = 7;
        body.history.1.push(r#"{"a":1}"#);
        body.history.1.push("x\ty");
        body.uploaded.push("config.yaml".into());
        assert_eq!(
            read(body),
            json!({
                "files": {
                    "wandb-history.jsonl": {"offset": 7, "content": [r#"{"a":1}"#, "x\ty"]},
                    "wandb-summary.json": {"offset": 0, "content": [r#"{"a":"b\n"}"#]},
                },
                "uploaded": ["config.yaml"], "complete": true, "exitcode": 3,
            })
        );
        let uploaded = Body { uploaded: vec!["x".into()], ..Body::default() };
        assert_eq!(read(uploaded), json!({"uploaded": ["x"]}));
        assert_eq!(
            read(Body { complete: Some(0), ..Body::default() }),
            json!({"complete": true, "exitcode": 0})
        );
    }

    proptest! {
        #[test]
        fn any_line_comes_out_as_it_went_in(lines in proptest::collection::vec(".{0,20}", 1..4)) {
            let mut body = Body::default();
            lines.iter().for_each(|line| body.console.1.push(line));
            prop_assert_eq!(&read(body)["files"]["output.log"]["content"], &json!(lines));
        }
    }
}
