//! Values that stand for files, as images, tables and sounds. The files stay on this machine; without them
//! such a value would be a broken picture.

use std::borrow::Cow;

use crate::{domain::forward::row::Row, wandb::log::json};

/// Whether a text may hold such a value, told without parsing it.
pub(super) fn may_be_in(text: &str) -> bool {
    text.contains("\"_type\"")
}

/// JSON text without the values in it that stand for files; `None` when nothing is left.
pub(super) fn without(text: String) -> Option<String> {
    if !may_be_in(&text) {
        return Some(text);
    }
    let kept = prune(&text)?;
    Some(kept.into_owned())
}

/// Parsing stops at a depth of its own, so that this does too.
fn prune(text: &str) -> Option<Cow<'_, str>> {
    let Some(row) = Row::parse(text.as_bytes()) else { return Some(Cow::Borrowed(text)) };
    if is_file(&row) {
        return None;
    }
    let kept: Vec<_> =
        row.items.iter().filter_map(|item| Some((item.key.as_ref(), prune(item.value)?))).collect();
    if kept.is_empty() {
        return None;
    }
    Some(Cow::Owned(json::object(kept.iter().map(|(key, value)| ([*key], value.as_ref())))))
}

/// Whether an object is the SDK's word for a file, or for several.
fn is_file(row: &Row<'_>) -> bool {
    let has = |key| row.get(key).is_some();
    has("_type") && ["path", "filenames", "artifact_path", "_latest_artifact_path"].into_iter().any(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> Option<String> {
        without(text.to_owned())
    }

    #[test]
    fn files_go_and_all_else_stays() {
        let image = r#"{"_type":"image-file","path":"media/a.png","size":1}"#;
        let hist = r#"{"_type":"histogram","bins":[0,1],"values":[NaN]}"#;
        assert_eq!(kept(image), None);
        assert_eq!(kept(&format!(r#"{{"a":{image}}}"#)), None);
        assert_eq!(
            kept(&format!(r#"{{"x":1, "deep":{{"a":{image},"y":Infinity}},"h":{hist},"é\"":2}}"#)).unwrap(),
            format!(r#"{{"x":1,"deep":{{"y":Infinity}},"h":{hist},"é\"":2}}"#)
        );
        for same in [r#"{"text":"\"_type\""}"#, hist, "1", r#"[{"_type":1}]"#, r#""_type""#] {
            assert_eq!(kept(same).as_deref(), Some(same));
        }
    }
}
