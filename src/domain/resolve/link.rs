//! Links to W&B's pages, from resolved values only: a link that could be dead is none.

use std::fmt::Write;

use super::{Facts, Given};
use crate::domain::launch::PlanError;

/// W&B's own pages.
const PAGES: &str = "https://wandb.ai";

/// Where the pages of a project are.
pub(super) struct Links {
    /// `https://wandb.ai/entity/project`, or why there is none.
    project: Result<String, String>,
}

impl Links {
    /// # Errors
    /// An address is none.
    pub(super) fn new(facts: &Facts) -> Result<Links, PlanError> {
        let pages = match (&facts.app_url, &facts.base_url) {
            (Some(app), _) => Address::read(app)?.to_string(),
            (None, Some(api)) => Address::read(api)?.pages(),
            (None, None) => PAGES.to_owned(),
        };
        let project = match (&facts.entity, &facts.project) {
            (Some(entity), Some(project)) => segment(&entity.value)
                .zip(segment(&project.value))
                .map(|(entity, project)| format!("{pages}/{entity}/{project}"))
                .ok_or_else(|| "\".\" and \"..\" name no page".to_owned()),
            (None, Some(_)) => Err("no entity was given: --wandb-entity or WANDB_ENTITY".to_owned()),
            (Some(_), None) => Err("no project was given: --wandb-project or WANDB_PROJECT".to_owned()),
            (None, None) => {
                Err("no entity and no project were given: --wandb-entity, --wandb-project".to_owned())
            }
        };
        Ok(Links { project })
    }

    /// The page of a run.
    pub(super) fn run(&self, id: &str) -> Option<String> {
        Some(format!("{}/runs/{}", self.project.as_ref().ok()?, segment(id)?))
    }

    /// The page of a group.
    pub(super) fn group(&self, name: &str) -> Option<String> {
        Some(format!("{}/groups/{}", self.project.as_ref().ok()?, segment(name)?))
    }

    /// Why there are no links.
    pub(super) fn into_unknown(self) -> Option<String> {
        self.project.err()
    }
}

/// The page of a run on the server at `base_url`; `None` when there is none that can be named.
pub fn run_link(base_url: &Given, entity: &Given, project: &Given, id: &str) -> Option<String> {
    let pages = Address::read(base_url).ok()?.pages();
    let (entity, project) = (segment(&entity.value)?, segment(&project.value)?);
    Some(format!("{pages}/{entity}/{project}/runs/{}", segment(id)?))
}

/// A name as a part of a path. `.` and `..` cannot be one: browsers resolve them, escaped or not.
fn segment(name: &str) -> Option<String> {
    if matches!(name, "" | "." | "..") {
        return None;
    }
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    Some(text)
}

/// An address of a server, in pieces.
struct Address<'a> {
    scheme: &'static str,
    host: String,
    /// `:8080` or nothing.
    port: &'a str,
    /// Path without a slash at the end.
    path: &'a str,
}

impl Address<'_> {
    /// The value is not repeated in errors: it may hold a password.
    fn read(given: &Given) -> Result<Address<'_>, PlanError> {
        let wrong = |why: &str| Err(PlanError::new(format!("{} {why}", given.from)));
        let Some((scheme, rest)) = given.value.trim().split_once("://") else {
            return wrong("is no http:// or https:// address");
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => "http",
            "https" => "https",
            _ => return wrong("is no http:// or https:// address"),
        };
        if let Some(bad) = rest.chars().find(|c| !c.is_ascii_graphic() || r#"?#"<>\^`{|}"#.contains(*c)) {
            return wrong(&format!("has {bad:?}, which has no place in the address of a server"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return wrong("has a user name or password before an '@'; the key goes into WANDB_API_KEY");
        }
        let end_of_host = authority.find(']').map_or(0, |at| at + 1);
        let colon = authority[end_of_host..].find(':').map_or(authority.len(), |at| end_of_host + at);
        let (host, port) = authority.split_at(colon);
        if host.is_empty() {
            return wrong("has no host");
        }
        if !port.is_empty() && port[1..].parse::<u16>().is_err() {
            return wrong("has no port number after its ':'");
        }
        Ok(Address { scheme, host: host.to_ascii_lowercase(), port, path: path.trim_end_matches('/') })
    }

    /// Where the pages of the server with this API are.
    fn pages(mut self) -> String {
        match self.host.as_str() {
            "api.wandb.ai" | "api.forge.coreweave.com" => return PAGES.to_owned(),
            "api.wandb.test" => self.host = "app.wandb.test".into(),
            host => match host.strip_prefix("api.") {
                Some(rest) if rest.starts_with("wandb.") => self.host = rest.to_owned(),
                Some(rest) => self.host = format!("app.{rest}"),
                None => {}
            },
        }
        self.to_string()
    }
}

impl std::fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}{}", self.scheme, self.host, self.port, self.path)
    }
}
