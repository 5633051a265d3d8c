//! Rows of odd lines, and the same as serde_json finds in any line.

use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;

use super::*;

fn items(line: &str) -> Option<Vec<(String, String)>> {
    let row = Row::parse(line.as_bytes())?;
    Some(row.items.into_iter().map(|item| (item.key.into_owned(), item.value.to_owned())).collect())
}

fn row(line: &str) -> Vec<(String, String)> {
    items(line).unwrap_or_else(|| panic!("{line} is a row"))
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn values_stay_as_they_were_written() {
    assert_eq!(
        row(r#" {"loss": 0.10, "n":123456789012345678901234567890 , "x":NaN,"y": -Infinity,"z":Infinity} "#),
        pairs(&[
            ("loss", "0.10"),
            ("n", "123456789012345678901234567890"),
            ("x", "NaN"),
            ("y", "-Infinity"),
            ("z", "Infinity"),
        ])
    );
    assert_eq!(
        row(r#"{"d": {"x": [1, NaN, {"y": "}"}]}, "t": "a\"b\u00e4", "a\nb": null, "ü": true}"#),
        pairs(&[
            ("d", r#"{"x": [1, NaN, {"y": "}"}]}"#),
            ("t", r#""a\"b\u00e4""#),
            ("a\nb", "null"),
            ("ü", "true"),
        ])
    );
    assert_eq!(row("{\"a\":1}\r"), pairs(&[("a", "1")]));
}

#[test]
fn the_last_of_equal_keys_wins() {
    assert_eq!(row(r#"{"a":1,"b":2,"a":3,"\u0061":4}"#), pairs(&[("a", "4"), ("b", "2")]));
    let many: Vec<_> = (0..100).map(|n| format!("\"k{}\":{n}", n % 50)).collect();
    let many = row(&format!("{{{}}}", many.join(",")));
    assert_eq!(many.len(), 50);
    assert_eq!(many[7], ("k7".into(), "57".into()));
}

#[test]
fn what_is_no_object_is_no_row() {
    for line in [
        "",
        "{",
        "}",
        "{}",
        "{ }",
        "[1]",
        "1",
        "step 12",
        "{\"a\":1} x",
        "{\"a\":1}{\"b\":2}",
        "{a:1}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":+1}",
        "{\"a\":-}",
        "{\"a\":nan}",
        "{\"a\":-NaN}",
        "{\"a\":1,}",
        "{\"a\"}",
        "{'a':1}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":[1,]}",
        "{\"a\":\"tab\there\"}",
        "{\"a\":tru}",
        "{\"a\":1e}",
        "{\"a\":{\"b\":}}",
    ] {
        assert_eq!(items(line), None, "{line}");
    }
    assert_eq!(Row::parse(b"{\"a\":\"\xff\"}"), None);
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    assert_eq!(items(&deep), None);
}

#[test]
fn a_line_that_w_and_b_would_not_take_is_refused() {
    let line = |long: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(long - 8));
    assert!(Row::parse(line(LONGEST).as_bytes()).is_some());
    assert!(Row::parse(line(LONGEST + 1).as_bytes()).is_none());
}

#[test]
fn numbers_are_read_where_they_are_numbers() {
    let line = br#"{"step":12,"big":18446744073709551616,"f":1.5,"t":"7","n":NaN,"m":-3}"#;
    let mut row = Row::parse(line).unwrap();
    assert_eq!(
        [row.whole("step"), row.whole("f"), row.whole("t"), row.whole("big")],
        [Some(12), None, None, None]
    );
    assert_eq!(
        [row.number("f"), row.number("m"), row.number("n"), row.number("t")],
        [Some(1.5), Some(-3.0), None, None]
    );
    assert_eq!((row.take("f"), row.take("f"), row.items.len()), (Some("1.5"), None, 5));
}

/// Text that is JSON more often than not, with the words that only Python writes.
fn jsonish() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
        any::<u128>().prop_map(|n| n.to_string()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        prop::sample::select(vec!["true", "false", "null", "-0", "1E+5", "\"\\/\""]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|all| format!("[ {} ]", all.join(" ,"))),
            prop::collection::vec(("\\PC{0,6}", inner), 0..5).prop_map(|all| {
                let all: Vec<_> = all
                    .into_iter()
                    .map(|(key, value)| format!("{}:{value}", serde_json::to_string(&key).unwrap()))
                    .collect();
                format!("{{{}}}", all.join(", "))
            }),
        ]
    })
}

/// What serde_json makes of a line that knows no NaN.
fn reference(line: &str) -> Option<BTreeMap<String, Value>> {
    let map: BTreeMap<String, Value> = serde_json::from_str(line).ok()?;
    (!map.is_empty()).then_some(map)
}

fn values(line: &str) -> Option<BTreeMap<String, Value>> {
    let value = |text: String| serde_json::from_str(&text).unwrap_or(Value::String(text));
    Some(items(line)?.into_iter().map(|(key, text)| (key, value(text))).collect())
}

proptest! {
    #[test]
    fn any_object_is_read_as_serde_json_reads_it(line in jsonish()) {
        prop_assert_eq!(values(&line), reference(&line));
    }

    #[test]
    fn a_broken_object_is_refused_as_serde_json_refuses_it(
        line in jsonish(), at in any::<prop::sample::Index>(), new in "[\\x20-\\x7e]?"
    ) {
        let mut chars: Vec<char> = line.chars().collect();
        let at = at.index(chars.len());
        chars.splice(at..=at, new.chars());
        let broken: String = chars.into_iter().collect();
        prop_assume!(!broken.contains("NaN") && !broken.contains("Infinity"));
        // A number beyond f64 and half a surrogate pair are errors to serde_json, and text that passes here.
        prop_assume!(reference(&broken).is_some() || !broken.contains("\\u") && !broken.contains(['e', 'E']));
        prop_assert_eq!(values(&broken), reference(&broken));
    }

    #[test]
    fn words_of_python_pass_wherever_a_value_may_be(line in jsonish(), word in "NaN|-?Infinity") {
        let with = line.replace("null", &word);
        let back = |items: Option<Vec<(String, String)>>| {
            let back = |(key, value): (String, String)| (key.replace(&word, "null"), value.replace(&word, "null"));
            items.map(|items| items.into_iter().map(back).collect::<BTreeMap<_, _>>())
        };
        prop_assert_eq!(back(items(&with)), back(items(&line)));
    }

    #[test]
    fn any_bytes_are_read_without_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Row::parse(&line);
        let mut object = b"{\"a\":".to_vec();
        object.extend(line);
        object.push(b'}');
        let _ = Row::parse(&object);
    }
}

#[test]
fn messages_have_no_figures_of_their_own() {
    for (line, is_row) in [
        (r#"{"level":"info","msg":"starting step 3"}"#, false),
        (r#"{"ts":1764336000.5,"lineno":12,"msg":"loaded"}"#, false),
        (r#"{"msg":"done","ok":true,"left":null}"#, false),
        (r#"{"step":3}"#, true),
        (r#"{"step":3,"note":"x"}"#, true),
        (r#"{"msg":"epoch","loss":0.5}"#, true),
        (r#"{"loss":NaN}"#, true),
        (r#"{"loss":-Infinity}"#, true),
        (r#"{"hist":{"_type":"histogram"}}"#, true),
    ] {
        assert_eq!(Row::parse(line.as_bytes()).unwrap().has_figures(), is_row, "{line}");
    }
}
