//! Where a value comes from: the first layer that has one. Each setting is looked up by itself, so that no layer
//! resets what it does not name.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    file::{self, ConfigFile},
    registry::{SETTINGS, Setting, setting},
    screen::Screen,
};
use crate::{
    domain::resolve::Given,
    error::{Error, Result},
};

/// Name of a project's file.
pub const PROJECT_FILE: &str = "elastictop.toml";
/// Names the user's file, in place of the usual one.
const NAMED: &str = "ELASTICTOP_CONFIG";

/// Layers, the highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// What was typed.
    Flag,
    /// `ELASTICTOP_*`.
    Own,
    /// `WANDB_*`, and what other tools set.
    Others,
    /// `elastictop.toml`.
    Project,
    /// The user's file.
    User,
    /// W&B's own settings.
    Wandb,
}

impl Layer {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Layer::Flag => "flag",
            Layer::Own => "elastictop_variable",
            Layer::Others => "variable",
            Layer::Project => "project_file",
            Layer::User => "user_file",
            Layer::Wandb => "wandb_file",
        }
    }
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The value.
    pub value: String,
    /// Which layer.
    pub layer: Layer,
    /// `--wandb-project`, `WANDB_PROJECT` or `elastictop.toml:3`.
    pub origin: String,
    /// The setting's name in that layer.
    name: &'static str,
}

impl Found {
    /// As the plan wants it; its errors name the place.
    pub fn given(&self) -> Given {
        match self.layer {
            Layer::Flag | Layer::Own | Layer::Others => Given::new(&*self.origin, &*self.value),
            _ => Given::new(format!("{} {}", self.origin, self.name), &*self.value),
        }
    }
}

/// All layers.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// What was typed, by key.
    pub typed: BTreeMap<&'static str, String>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The project's file.
    pub project: Option<ConfigFile>,
    /// The user's file.
    pub user: Option<ConfigFile>,
    /// W&B's own settings, of the user.
    pub wandb: Option<ConfigFile>,
    /// The same of the working directory, as `wandb init` leaves them.
    pub wandb_here: Option<ConfigFile>,
}

impl Layers {
    /// Those of this process, with what was typed.
    ///
    /// # Errors
    /// A file that cannot be read or has something wrong in it: exit code 2.
    pub fn find(typed: BTreeMap<&'static str, String>) -> Result<Layers> {
        let vars = std::env::vars_os();
        let env: BTreeMap<_, _> = vars
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let places = Places::find(&env)?;
        let read = |path: &Option<PathBuf>| path.as_deref().map_or(Ok(None), file::read);
        let user = read(&places.user)?;
        if let (None, Some(named)) = (&user, env.get(NAMED).filter(|named| !named.is_empty())) {
            return Err(Error::usage(format!("{NAMED} names {named}, and there is no such file"))
                .hint("elastictop config init writes it; without the variable the usual places count"));
        }
        Ok(Layers {
            typed,
            project: read(&places.project)?,
            user,
            wandb: places.wandb.as_deref().and_then(file::read_theirs),
            wandb_here: file::read_theirs(&wandb_folder(&env).join("settings")),
            env,
        })
    }

    /// What the files say to the screen: the project's before the user's.
    pub fn screen(&self) -> Screen {
        let of =
            |file: &Option<ConfigFile>| file.as_ref().map(|file| file.screen.clone()).unwrap_or_default();
        of(&self.project).over(of(&self.user))
    }

    /// The value of a setting; `None` when no layer has one.
    pub fn get(&self, key: &'static str) -> Option<Found> {
        let setting = setting(key);
        self.typed(setting).or_else(|| self.variable(setting)).or_else(|| self.in_files(setting))
    }

    /// A template that nobody filled in is no value.
    fn typed(&self, setting: &'static Setting) -> Option<Found> {
        let value = self.typed.get(setting.key).filter(|value| !value.starts_with("{{"))?;
        let origin = format!("--{}", setting.flag);
        Some(Found { value: value.clone(), layer: Layer::Flag, origin, name: setting.flag })
    }

    fn variable(&self, setting: &'static Setting) -> Option<Found> {
        setting.variables.iter().find_map(|name| {
            let value = self.env.get(*name).filter(|value| !value.is_empty() && !value.starts_with("{{"))?;
            let layer = if name.starts_with("ELASTICTOP_") { Layer::Own } else { Layer::Others };
            Some(Found { value: value.clone(), layer, origin: (*name).to_owned(), name })
        })
    }

    fn in_files(&self, setting: &'static Setting) -> Option<Found> {
        let files = [
            (Layer::Project, &self.project),
            (Layer::User, &self.user),
            (Layer::Wandb, &self.wandb_here),
            (Layer::Wandb, &self.wandb),
        ];
        files.into_iter().find_map(|(layer, file)| {
            let file = file.as_ref()?;
            let located = file.values.get(setting.key)?;
            let origin = format!("{}:{}", file.path.display(), located.line);
            let name = setting.key.split_once('.').map_or(setting.key, |(_, name)| name);
            Some(Found { value: located.text.clone(), layer, origin, name })
        })
    }

    /// What says that somebody wants W&B: the first such value. W&B's own settings are for the whole machine, and a
    /// name or an address alone is none.
    pub fn asks_for_wandb(&self) -> Option<Found> {
        let is_flag = |found: &Found| found.layer == Layer::Flag;
        SETTINGS
            .iter()
            .filter(|setting| setting.key.starts_with("wandb."))
            .filter_map(|setting| Some((setting, self.get(setting.key)?)))
            .find(|(setting, found)| is_flag(found) || setting.asks && found.layer != Layer::Wandb)
            .map(|(_, found)| found)
    }

    /// A value that is read by `parse`.
    ///
    /// # Errors
    /// The value is none: the error names the place.
    pub fn parsed<T, E: std::fmt::Display>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>> {
        let Some(found) = self.get(key) else { return Ok(None) };
        parse(&found.value).map(Some).map_err(|why| Error::from(found.given().wrong(why)))
    }
}

/// Where W&B's SDK keeps what is of a working directory.
fn wandb_folder(env: &BTreeMap<String, String>) -> PathBuf {
    let folder = env.get("WANDB_DIR").filter(|folder| !folder.is_empty());
    PathBuf::from(folder.map_or("", String::as_str)).join("wandb")
}

/// Where the files would lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The project's, if there is one.
    pub project: Option<PathBuf>,
    /// The user's, whether there is one or not.
    pub user: Option<PathBuf>,
    /// W&B's own, whether there is one or not.
    pub wandb: Option<PathBuf>,
}

impl Places {
    /// In this environment.
    ///
    /// # Errors
    /// There is no working directory.
    pub fn find(env: &BTreeMap<String, String>) -> Result<Places> {
        let cwd = std::env::current_dir().map_err(|error| {
            Error::usage(format!("cannot use the current directory: {error}")).hint("cd to another one")
        })?;
        let named = |name: &str| env.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = named("HOME");
        let config = named("XDG_CONFIG_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| Some(home.as_ref()?.join(".config")));
        let user = named(NAMED).or_else(|| Some(config.as_ref()?.join("elastictop/config.toml")));
        let wandb = named("WANDB_CONFIG_DIR").or_else(|| Some(home.as_ref()?.join(".config/wandb")));
        Ok(Places {
            project: project_file(&cwd, home.as_deref()).filter(|found| Some(found) != user.as_ref()),
            user,
            wandb: wandb.map(|folder| folder.join("settings")),
        })
    }
}

/// The nearest `elastictop.toml`: in the working directory or a folder above it, up to the root of the git
/// repository, or else up to the home folder. Outside of both only the working directory counts: what lies in `/tmp`
/// is anybody's.
pub fn project_file(cwd: &Path, home: Option<&Path>) -> Option<PathBuf> {
    let repository = cwd.ancestors().find(|folder| folder.join(".git").exists());
    let top = repository.or(home.filter(|home| cwd.starts_with(home))).unwrap_or(cwd);
    let folders = cwd.ancestors().take_while(|folder| folder.starts_with(top));
    folders.map(|folder| folder.join(PROJECT_FILE)).find(|file| file.is_file())
}
