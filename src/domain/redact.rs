//! Keeping secrets off the screen, the journal, the dry run and what is handed on.

mod marks;

use std::sync::{Arc, LazyLock};

use regex::Regex;

pub use marks::Marks;

/// What is shown in a secret's place.
pub const HIDDEN: &str = "[hidden]";

/// Whether a variable or option of this name holds a secret.
pub fn is_secret_name(name: &str) -> bool {
    let upper = name.to_ascii_uppercase().replace('-', "_");
    ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "APIKEY", "ACCESS_KEY", "PRIVATE_KEY", "CREDENTIAL"]
        .iter()
        .any(|word| upper.contains(word))
}

/// The value as it may be shown.
pub fn value<'a>(name: &str, value: &'a str) -> &'a str {
    if is_secret_name(name) && !value.is_empty() { HIDDEN } else { value }
}

/// A command line as it may be shown: `--api-key X`, `--token=X` and `HF_TOKEN=X` lose their values.
pub fn command<S: AsRef<str>>(words: &[S]) -> Vec<String> {
    let mut hide_next = false;
    words
        .iter()
        .map(|word| {
            let word = word.as_ref();
            if std::mem::take(&mut hide_next) && !word.starts_with('-') {
                return HIDDEN.to_owned();
            }
            match word.split_once('=') {
                Some((name, secret)) if is_secret_name(name) && !secret.is_empty() => {
                    format!("{name}={HIDDEN}")
                }
                None if word.starts_with('-') && is_secret_name(word) => {
                    hide_next = true;
                    word.to_owned()
                }
                _ => word.to_owned(),
            }
        })
        .collect()
}

/// Shortest value that is looked for in text: shorter ones, such as `1`, are in every line.
const SHORTEST: usize = 8;

/// The secret values of one job, to be taken out of what it writes.
#[derive(Clone, Default)]
pub struct Secrets {
    values: Vec<String>,
    /// Of those whose values nobody has any more.
    marks: Arc<Marks>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.values.len())
    }
}

impl Secrets {
    /// The values of variables and options whose names tell that they are secret.
    pub fn new<'a>(env: impl IntoIterator<Item = (&'a str, &'a str)>, command: &[String]) -> Secrets {
        let named = env.into_iter().filter(|(name, _)| is_secret_name(name)).map(|(_, value)| value);
        let shown = self::command(command);
        let differ =
            command.iter().zip(&shown).filter(|(real, shown)| real != shown).map(|(real, _)| real.as_str());
        let of_options = differ.map(|word| word.split_once('=').map_or(word, |(_, value)| value));
        let mut values: Vec<_> =
            named.chain(of_options).filter(|value| value.len() >= SHORTEST).map(str::to_owned).collect();
        // The same as it stands in JSON.
        let escaped: Vec<_> =
            values.iter().map(|value| escape(value)).filter(|text| !values.contains(text)).collect();
        values.extend(escaped);
        // A value that holds another goes first.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        values.dedup();
        Secrets { values, marks: Arc::default() }
    }

    /// These, and those that have left these marks.
    pub fn and(self, marks: Marks) -> Secrets {
        Secrets { marks: Arc::new(marks), ..self }
    }

    /// What to keep of them.
    pub fn marks(&self, salt: String) -> Marks {
        Marks::of(self.values.iter().map(String::as_str), salt)
    }

    /// Whether any of them is in a text.
    pub fn are_in(&self, text: &str) -> bool {
        self.values.iter().any(|value| !value.is_empty() && text.contains(value.as_str()))
    }

    /// The text without the secrets.
    pub fn hide(&self, mut text: String) -> String {
        for value in self.values.iter().filter(|value| !value.is_empty()) {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), HIDDEN);
            }
        }
        if self.marks.is_empty() { text } else { self.marks.hide(text) }
    }
}

fn escape(value: &str) -> String {
    let quoted = serde_json::Value::from(value).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// What looks like a secret, whosever it is: keys of well-known services, 40 hexadecimal digits (W&B keys; hashes of
/// commits look the same), passwords in addresses, and what stands behind a name that tells of one.
///
/// For text that leaves the machine after its job's environment is gone: it takes out too much rather than too little.
pub fn unknown(text: &str) -> String {
    static KEY: LazyLock<Regex> = LazyLock::new(|| {
        let keys = [
            r"[0-9a-fA-F]{40}",
            r"(?:wandb_v[0-9]+|local)[-_][0-9A-Za-z_-]{20,}",
            r"hf_[0-9A-Za-z]{20,}",
            r"sk-[0-9A-Za-z_-]{20,}",
            r"gh[pousr]_[0-9A-Za-z]{20,}",
            r"glpat-[0-9A-Za-z_-]{20,}",
            r"xox[abprs]-[0-9A-Za-z-]{10,}",
            r"(?:AKIA|ASIA)[0-9A-Z]{16}",
            r"eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}",
        ];
        Regex::new(&keys.join("|")).expect("a pattern that compiles")
    });
    static NAMED: LazyLock<Regex> = LazyLock::new(|| {
        behind("TOKEN|SECRET|PASSWORD|PASSWD|API[-_]?KEY|ACCESS[-_]KEY|PRIVATE[-_]KEY|CREDENTIAL", 8)
    });
    // Passwords are short; behind `token` and `secret` shorter words are mostly words.
    static PASSWORD: LazyLock<Regex> = LazyLock::new(|| behind("PASSWORD|PASSWD", 3));
    static ADDRESS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(://[^/\s:@]*:)[^@/\s]+@").expect("a pattern that compiles"));
    let text = NAMED.replace_all(text, format!("${{1}}{HIDDEN}"));
    let text = PASSWORD.replace_all(&text, format!("${{1}}{HIDDEN}"));
    let text = ADDRESS.replace_all(&text, format!("${{1}}{HIDDEN}@"));
    KEY.replace_all(&text, HIDDEN).into_owned()
}

/// What stands behind one of these names, in quotes or not; unquoted, at least so many characters of it.
fn behind(names: &str, least: u32) -> Regex {
    // What is hidden already begins with a bracket.
    let more = least - 1;
    let value = format!(r#"(?:\\?"[^"]{{4,}}|'[^']{{4,}}|[^\s"',;)}}\]\[][^\s"',;)}}\]]{{{more},}})"#);
    // Upper and lower case of ASCII: tables for all of Unicode are not compiled in.
    Regex::new(&format!(r#"((?i-u:{names})[0-9A-Za-z_-]*\\?["']?\s*[=:]\s*){value}"#))
        .expect("a pattern that compiles")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_values_are_taken_out_of_text() {
        let words = ["--hf-token=abcdefgh1", "--lr=0.00000001"].map(str::to_owned);
        let secrets = Secrets::new(
            [("WANDB_API_KEY", "0123456789"), ("HOME", "/home/someone"), ("X_TOKEN", "1")],
            &words,
        );
        assert_eq!(
            secrets.hide("key 0123456789, abcdefgh1 1 /home/someone".into()),
            "key [hidden], [hidden] 1 /home/someone"
        );
        assert_eq!(format!("{secrets:?}"), "2 secrets");
    }

    #[test]
    fn what_looks_like_a_secret_goes_and_the_rest_stays() {
        let key = "0123456789abcdef0123456789abcdef01234567";
        for text in [
            format!("key is {key}."),
            format!("WANDB_API_KEY={key}"),
            r#"{"api_key": "not-so-plain value"}"#.into(),
            r#"{\"db_password\": \"hunter2hunter2\"}"#.into(),
            "my_token: abcdefgh".into(),
            "could not connect (user=me password=hunter2)".into(),
            "--hf-token=abcdefgh".into(),
            "https://me:hunter2@host/x".into(),
            "hf_abcdefghijklmnopqrstuvwxyz and AKIAABCDEFGHIJKLMNOP".into(),
        ] {
            let hidden = unknown(&text);
            assert!(hidden.contains(HIDDEN), "{text}");
            for secret in [key, "not-so-plain", "hunter2", "abcdefgh", "AKIAA"] {
                assert!(!hidden.contains(secret), "{hidden}");
            }
        }
        for text in [
            "step 12 loss 0.3",
            "tokens: 512",
            "password: ",
            "password=[hidden]",
            "max_tokens=4096",
            "https://host:80/a",
            "0123abcd",
        ] {
            assert_eq!(unknown(text), text);
        }
    }

    #[test]
    fn secrets_in_json_go_too() {
        let secrets = Secrets::new([("MY_SECRET", "a\"b\\c\u{7}defg")], &[]);
        let json = serde_json::json!({"line": "x a\"b\\c\u{7}defg y"}).to_string();
        assert_eq!(secrets.hide(json), r#"{"line":"x [hidden] y"}"#);
    }

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let shown = command(&[
            "train.py",
            "--hf-token",
            "abc",
            "--api_key=k",
            "WANDB_API_KEY=x",
            "--lr",
            "1e-3",
            "--token",
            "--x",
        ]);
        assert_eq!(
            shown,
            [
                "train.py",
                "--hf-token",
                HIDDEN,
                "--api_key=[hidden]",
                "WANDB_API_KEY=[hidden]",
                "--lr",
                "1e-3",
                "--token",
                "--x"
            ]
        );
        assert_eq!(value("MY_SECRET_X", "v"), HIDDEN);
        assert_eq!(value("WANDB_PROJECT", "v"), "v");
    }
}
