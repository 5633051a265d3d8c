//! What a viewer chose, remembered for the next one: a small file that may be missing, old or broken.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

/// Choices that outlive a screen. What is not there was never chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Layout {
    /// Name of the theme.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub theme: Option<String>,
    /// Order of the ranks, by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// Metric of the cells, by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Whether long lines of logs are broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrap: Option<bool>,
    /// Whether lines of logs that are alike share a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fold: Option<bool>,
    /// Whether the mouse is captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mouse: Option<bool>,
}

impl Layout {
    /// From its file. What cannot be read is as if it had never been chosen.
    pub fn load(path: &Path) -> Layout {
        let text = fs::read_to_string(path).unwrap_or_default();
        // One field that cannot be read must not cost the others.
        let table: toml::Table = text.parse().unwrap_or_default();
        let text = |name: &str| table.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        let flag = |name: &str| table.get(name).and_then(toml::Value::as_bool);
        Layout {
            theme: text("theme"),
            order: text("order"),
            metric: text("metric"),
            wrap: flag("wrap"),
            fold: flag("fold"),
            mouse: flag("mouse"),
        }
    }

    /// Into its file, whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be made or written to.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let file = tempfile::NamedTempFile::new_in(folder)?;
        let text = toml::to_string(self).map_err(io::Error::other)?;
        fs::write(file.path(), text)?;
        file.persist(path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_survive_and_a_broken_file_costs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/screen.toml");
        assert_eq!(Layout::load(&path), Layout::default());
        let chosen = Layout { theme: Some("nord".into()), wrap: Some(true), ..Layout::default() };
        chosen.save(&path).unwrap();
        chosen.save(&path).unwrap();
        assert_eq!(Layout::load(&path), chosen);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no file is left over");
        fs::write(&path, "theme = 7\norder = \"step\"\nfrom_the_future = [1]").unwrap();
        assert_eq!(Layout::load(&path), Layout { order: Some("step".into()), ..Layout::default() });
        fs::write(&path, "\u{0}\u{1} no toml = =").unwrap();
        assert_eq!(Layout::load(&path), Layout::default());
    }
}
