//! Stories: scripts of inputs, one a line with its time in seconds, and after each what comes out of it.
//!
//! They lie in `tests/stories/*.txt`; [`script`] says how they are written. With `UPDATE_STORIES=1` in the
//! environment the transcripts are written anew: read the difference.

mod fold;
mod gpus;
mod load;
mod random;
mod script;

use std::{fmt::Write, fs, path::PathBuf};

use self::script::Story;
use super::*;
use crate::domain::beat::Beat;

fn told(text: &str) -> String {
    let (mut story, mut lines) = (Story::default(), Vec::new());
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        lines.push(line.to_owned());
        if !line.is_empty() && !line.starts_with('#') {
            lines.extend(story.line(line).into_iter().map(|out| format!("  {out}")));
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn stories_unfold_as_written() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/supervisor/core/tests/stories");
    let mut stories: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    stories.sort();
    assert!(stories.len() >= 20, "the stories are gone");
    let mut wrong = String::new();
    for path in stories {
        let written = fs::read_to_string(&path).unwrap();
        let unfolded = told(&written);
        if written == unfolded {
            continue;
        }
        if std::env::var_os("UPDATE_STORIES").is_some() {
            fs::write(&path, &unfolded).unwrap();
        }
        let _ = write!(wrong, "\n== {}\n{unfolded}", path.file_name().unwrap().display());
    }
    assert!(wrong.is_empty(), "these stories unfold otherwise:\n{wrong}");
}
