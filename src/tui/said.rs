//! What a rank said last, made short: the figures of a line of JSON without its braces.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// Names that have a column of their own.
const TOLD: [&str; 5] = ["step", "_step", "global_step", "rank", "local_rank"];

/// `loss 0.003207  lr 0.05` of `{"step":786,"loss":0.0032071234,"lr":0.05}`. `None` when the line is nothing of the kind.
pub(crate) fn figures(line: &str) -> Option<String> {
    let line = line.trim();
    if !line.starts_with('{') || !line.ends_with('}') {
        return None;
    }
    let Pairs(pairs) = serde_json::from_str(line).ok()?;
    let shown: Vec<String> = pairs
        .iter()
        .filter(|(name, _)| !TOLD.contains(&name.as_str()))
        .filter_map(|(name, value)| Some(format!("{name} {}", short(value)?)))
        .collect();
    (!shown.is_empty()).then(|| shown.join("  "))
}

/// A value in a few cells; nothing of what holds others.
fn short(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("null".into()),
        Value::Bool(value) => Some(value.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(match number.as_f64() {
            Some(value) if number.is_f64() => digits(value),
            _ => number.to_string(),
        }),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// Four digits that count.
fn digits(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e7).contains(&size) {
        return format!("{value:.2e}");
    }
    // The zeros that a small number begins with do not count.
    let scientific = format!("{value:.3e}");
    let exponent: i32 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let text = format!("{value:.*}", (3 - exponent).max(0) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Names and values in the order of the line.
struct Pairs(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pairs, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(name) = map.next_key()? {
                    // More than this no row has room for.
                    if pairs.len() < 16 {
                        pairs.push((name, map.next_value()?));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Pairs(pairs))
            }
        }
        from.deserialize_map(All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_in_their_order_and_short() {
        let line =
            r#"{"step":786,"loss":0.0032071234,"samples_per_s":1275.71,"rank":0,"lr":0.05,"of":{"a":1}}"#;
        assert_eq!(figures(line).as_deref(), Some("loss 0.003207  samples_per_s 1276  lr 0.05"));
        assert_eq!(
            figures(r#" {"epoch": 3, "ok": true, "who": "ada"} "#).as_deref(),
            Some("epoch 3  ok true  who ada")
        );
    }

    #[test]
    fn other_lines_stay_as_they_are() {
        for line in ["", "step 3 loss 0.1", "{\"step\": 3}", "{\"loss\": 0.", "{broken}", "{}"] {
            assert_eq!(figures(line), None, "{line}");
        }
    }

    #[test]
    fn numbers_have_four_digits() {
        let all = [0.0, 0.5, 1.0, -12.3456, 0.000_123_456, 3e-5, 1.5e9, 99_999.4].map(digits);
        assert_eq!(all, ["0", "0.5", "1", "-12.35", "0.0001235", "3.00e-5", "1.50e9", "99999"]);
    }
}
