//! How secrets are known in text when nobody has their values any more: by salted hashes.

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::HIDDEN;

/// Multiplier of the hash that rolls over a text.
const BASE: u32 = 0x0100_0193;
/// Bytes of SHA-256 that are kept.
const KEPT: usize = 16;

/// What is kept of the secrets of a job, so that they can be taken out of its logs after its environment is gone. None
/// of their values follows from it other than by guessing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Mixed into the hashes: those of two jobs have nothing to do with each other.
    salt: String,
    marks: Vec<Mark>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Length of the secret, in bytes.
    len: usize,
    /// Half of its rolling hash: most places of a text can be passed by without SHA-256.
    quick: u16,
    hash: [u8; KEPT],
}

impl Marks {
    /// The marks of these values; `salt` is to be another one for each job.
    pub fn of<'a>(values: impl IntoIterator<Item = &'a str>, salt: String) -> Marks {
        let mark = |value: &str| Mark {
            len: value.len(),
            quick: quick(value.bytes().fold(0, roll)),
            hash: hash(&salt, value.as_bytes()),
        };
        let mut marks: Vec<Mark> = values.into_iter().filter(|value| !value.is_empty()).map(mark).collect();
        // A value that holds another goes first.
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.len));
        Marks { salt, marks }
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// The text without the secrets.
    pub fn hide(&self, mut text: String) -> String {
        for same_length in self.marks.chunk_by(|a, b| a.len == b.len) {
            let mut from = 0;
            while let Some(at) = self.find(&text.as_bytes()[from..], same_length).map(|at| from + at) {
                let end = at + same_length[0].len;
                if !text.is_char_boundary(at) || !text.is_char_boundary(end) {
                    from = at + 1;
                    continue;
                }
                text.replace_range(at..end, HIDDEN);
                from = at + HIDDEN.len();
            }
        }
        text
    }

    /// Where the first secret of this length begins.
    fn find(&self, text: &[u8], same_length: &[Mark]) -> Option<usize> {
        let len = same_length.first()?.len.max(1);
        let oldest = BASE.wrapping_pow(len as u32 - 1);
        let mut rolling = text.get(..len)?.iter().copied().fold(0, roll);
        for at in 0..=text.len() - len {
            let window = &text[at..at + len];
            let is_it = |mark: &&Mark| mark.quick == quick(rolling);
            if same_length.iter().filter(is_it).any(|mark| mark.hash == hash(&self.salt, window)) {
                return Some(at);
            }
            if let Some(next) = text.get(at + len) {
                let without = rolling.wrapping_sub(u32::from(text[at]).wrapping_mul(oldest));
                rolling = roll(without, *next);
            }
        }
        None
    }
}

fn roll(hash: u32, byte: u8) -> u32 {
    hash.wrapping_mul(BASE).wrapping_add(u32::from(byte))
}

fn quick(rolling: u32) -> u16 {
    (rolling >> 16) as u16
}

fn hash(salt: &str, value: &[u8]) -> [u8; KEPT] {
    let salted = digest(&SHA256, &[salt.as_bytes(), &[0], value].concat());
    let mut kept = [0; KEPT];
    kept.copy_from_slice(&salted.as_ref()[..KEPT]);
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marks(values: &[&str]) -> Marks {
        let made = Marks::of(values.iter().copied(), "salt".into());
        let json = serde_json::to_string(&made).unwrap();
        for value in values {
            assert!(!json.contains(value), "{json}");
        }
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn secrets_are_found_without_their_values() {
        let marks = marks(&["hunter2SuperPw", "PwSepArg66", "hunter2SuperPw-and-more"]);
        for (text, shown) in [
            ("PwSepArg66", "[hidden]"),
            ("a hunter2SuperPw, PwSepArg66PwSepArg66 b", "a [hidden], [hidden][hidden] b"),
            ("hunter2SuperPw-and-more", "[hidden]"),
            ("hunter2SuperP", "hunter2SuperP"),
            ("ünïcode hunter2SuperPwü", "ünïcode [hidden]ü"),
            ("", ""),
        ] {
            assert_eq!(marks.hide(text.into()), shown);
        }
        assert_eq!(Marks::default().hide("text".into()), "text");
    }

    proptest! {
        #[test]
        fn marks_find_what_values_find(
            values in prop::collection::vec("[abü]{1,5}", 1..4), text in "[abüx]{0,40}",
        ) {
            let mut sorted = values.clone();
            sorted.sort_by_key(|value| std::cmp::Reverse(value.len()));
            let marks = Marks::of(values.iter().map(String::as_str), "salt".into());
            let hidden = marks.hide(text.clone());
            for value in &sorted {
                // What stands in a secret's place may hold letters of its own.
                prop_assert!(!hidden.replace(HIDDEN, "\u{0}").contains(value.as_str()), "{hidden}");
            }
            if !sorted.iter().any(|value| text.contains(value.as_str())) {
                prop_assert_eq!(hidden, text);
            }
        }
    }
}
