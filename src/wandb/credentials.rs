//! Who the user is to W&B: the API key.
//!
//! A key is looked for in `WANDB_API_KEY`, then in the netrc file under the host of the server's address. Without one
//! nothing is sent. No text that is made here holds a key.

use std::{fmt, fs, path::PathBuf};

use crate::error::Error;

/// An API key. Neither `Debug` nor `Display` show it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

/// Fewest characters of a key, after a prefix that ends in `-`.
const SHORTEST: usize = 40;

impl ApiKey {
    /// A key as W&B makes them: at least 40 letters, digits and underscores after an optional `prefix-`, or a JSON web
    /// token.
    ///
    /// # Errors
    /// What is wrong with it, in words that do not show it.
    pub fn new(text: &str) -> Result<ApiKey, String> {
        let is_part = |part: &str| !part.is_empty() && part.chars().all(is_of_key);
        if text.split('.').count() == 3 && text.split('.').all(is_part) {
            return Ok(ApiKey(text.to_owned()));
        }
        let secret = text.split_once('-').map_or(text, |(_, secret)| secret);
        if let Some(bad) = text.chars().find(|c| !is_of_key(*c)) {
            let what = if bad.is_whitespace() { "a blank".to_owned() } else { format!("{bad:?}") };
            return Err(format!("has {what} in it; a key is made of letters, digits, '_' and '-'"));
        }
        match secret.chars().count() {
            0 => Err("is empty".to_owned()),
            short @ ..SHORTEST => Err(format!("has {short} characters; a key has at least {SHORTEST}")),
            _ => Ok(ApiKey(text.to_owned())),
        }
    }

    /// The key itself, for the header that carries it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

fn is_of_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// A key and where it was found: `WANDB_API_KEY`, or the path of the netrc file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The key.
    pub key: ApiKey,
    /// Where it was.
    pub from: String,
}

/// An environment: the value of a variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Looks for the key of the server at `base_url`; `Ok(None)` when there is none.
///
/// # Errors
/// There is something that cannot be a key, or the netrc file cannot be read.
pub fn find_key(environment: Environment<'_>, base_url: &str) -> Result<Option<Found>, Error> {
    let wrong = |from: &str, why: String| {
        Error::usage(format!("the W&B API key in {from} {why}"))
            .hint("copy it anew from https://wandb.ai/authorize, or leave it out: --wandb-mode offline")
    };
    if let Some(text) = environment("WANDB_API_KEY").filter(|text| !text.trim().is_empty()) {
        let key = ApiKey::new(text.trim()).map_err(|why| wrong("WANDB_API_KEY", why))?;
        return Ok(Some(Found { key, from: "WANDB_API_KEY".into() }));
    }
    let Some(host) = authority(base_url) else { return Ok(None) };
    for path in netrc_paths(environment) {
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("cannot read", &path, &error)),
        };
        if let Some(password) = password_for(&text, host) {
            let from = path.display().to_string();
            let key = ApiKey::new(&password).map_err(|why| wrong(&from, why))?;
            return Ok(Some(Found { key, from }));
        }
    }
    Ok(None)
}

/// What to do without a key.
pub fn no_key_hint(base_url: &str) -> String {
    let host = authority(base_url).unwrap_or("api.wandb.ai");
    format!(
        "set WANDB_API_KEY, or put \"machine {host} login user password KEY\" into ~/.netrc (wandb login does it)"
    )
}

/// Host and port of an address.
fn authority(url: &str) -> Option<&str> {
    let rest = url.trim().split_once("://")?.1;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = rest[..end].rsplit('@').next()?;
    (!authority.is_empty()).then_some(authority)
}

fn netrc_paths(environment: Environment<'_>) -> Vec<PathBuf> {
    if let Some(path) = environment("NETRC").filter(|path| !path.is_empty()) {
        let home = environment("HOME").unwrap_or_default();
        return vec![
            path.strip_prefix("~/")
                .map_or_else(|| PathBuf::from(&path), |rest| PathBuf::from(home).join(rest)),
        ];
    }
    let home = environment("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    home.map(|home| vec![home.join(".netrc"), home.join("_netrc")]).unwrap_or_default()
}

/// The password of a machine, or of `default`, in the text of a netrc file.
fn password_for(text: &str, machine: &str) -> Option<String> {
    let (mut found, mut default) = (None, None);
    let mut current = None;
    let mut tokens = Tokens { rest: text };
    while let Some(token) = tokens.next() {
        match token.as_str() {
            "machine" => current = tokens.next().map(|name| (name == machine, false)),
            "default" => current = Some((false, true)),
            "login" | "account" => _ = tokens.next(),
            "password" => {
                let password = tokens.next().filter(|password| !password.is_empty());
                match current {
                    Some((true, _)) if found.is_none() => found = password,
                    Some((_, true)) if default.is_none() => default = password,
                    _ => {}
                }
            }
            // A macro goes on up to an empty line.
            "macdef" => tokens.rest = tokens.rest.split_once("\n\n").map_or("", |(_, rest)| rest),
            _ => {}
        }
    }
    found.or(default)
}

/// Words of a netrc file: quotes and backslashes as in a shell, `#` begins a comment.
struct Tokens<'a> {
    rest: &'a str,
}

impl Iterator for Tokens<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                break;
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
        let (mut token, mut quote, mut chars) = (String::new(), None, self.rest.char_indices());
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match (c, quote) {
                (c, Some(open)) if c == open => quote = None,
                ('\\', _) => token.extend(chars.next().map(|(_, c)| c)),
                ('"' | '\'', None) => quote = Some(c),
                (c, None) if c.is_whitespace() => {
                    end = at;
                    break;
                }
                _ => token.push(c),
            }
        }
        let is_end = self.rest.is_empty();
        self.rest = &self.rest[end..];
        (!is_end).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn keys_are_checked_and_never_shown() {
        let key = ApiKey::new(KEY).unwrap();
        assert_eq!(format!("{key:?} {key}"), "ApiKey(hidden) hidden");
        for good in [&format!("local-{KEY}"), &format!("{KEY}{KEY}"), "ab.c_d.e-f"] {
            ApiKey::new(good).unwrap();
        }
        for (bad, why) in [
            ("", "is empty"),
            ("local-", "is empty"),
            ("topsecret", "has 9 characters; a key has at least 40"),
            ("top secret", "has a blank in it; a key is made of letters, digits, '_' and '-'"),
            ("top$ecret", "has '$' in it; a key is made of letters, digits, '_' and '-'"),
        ] {
            let said = ApiKey::new(bad).unwrap_err();
            assert_eq!(said, why);
            assert!(bad.is_empty() || !said.contains(bad));
        }
    }

    #[test]
    fn the_variable_goes_before_the_file_and_the_file_is_asked_for_its_host() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().to_str().unwrap().to_owned();
        let other = KEY.replace('0', "9");
        fs::write(format!("{home}/.netrc"), format!("machine api.wandb.ai login user password {other}"))
            .unwrap();
        let find = |variable: &'static str, url| {
            let home = home.clone();
            let environment = move |name: &str| match name {
                "HOME" => Some(home.clone()),
                "WANDB_API_KEY" => Some(variable.to_owned()),
                _ => None,
            };
            find_key(&environment, url)
        };
        let cloud = "https://api.wandb.ai";
        assert_eq!(find(KEY, cloud).unwrap().unwrap().from, "WANDB_API_KEY");
        let found = find("", cloud).unwrap().unwrap();
        assert_eq!((found.key.reveal(), found.from), (other.as_str(), format!("{home}/.netrc")));
        assert_eq!(find("", "https://wandb.example.org:8080/x").unwrap(), None);
        let error = find("tooshort", cloud).unwrap_err();
        assert_eq!(error.text, "the W&B API key in WANDB_API_KEY has 8 characters; a key has at least 40");
    }

    #[test]
    fn netrc_files_of_all_kinds_are_read() {
        let of = |text: &str| password_for(text, "host");
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of("machine other password a machine host\n login u\n password b\n"), some("b"));
        assert_eq!(of("default login u password d"), some("d"));
        assert_eq!(of("default password d machine host password b"), some("b"));
        assert_eq!(of("# machine host password no\nmachine host account x password 'a b'"), some("a b"));
        assert_eq!(of("machine \"host\" login user password a\\ b"), some("a b"));
        assert_eq!(of("macdef init\nmachine host password no\n\nmachine host password yes"), some("yes"));
        assert_eq!(of("machine host login u"), None);
        assert_eq!(of("machine host password ''"), None);
        assert_eq!(of("machine"), None);
    }

    proptest! {
        #[test]
        fn any_netrc_file_is_survived(text in "[ \\n\"'\\\\#a-z]{0,80}|(machine|host|password|macdef|default| |\\n){0,20}") {
            let _ = password_for(&text, "host");
        }

        #[test]
        fn what_is_said_of_a_bad_key_does_not_show_it(text in "[a-z0-9$ ]{12,60}") {
            if let Err(said) = ApiKey::new(&text) {
                prop_assert!(!said.contains(&text[..12]));
            }
        }
    }
}
