//! Keeping secrets off the screen, the journal and the dry run.

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

#[cfg(test)]
mod tests {
    use super::*;

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
