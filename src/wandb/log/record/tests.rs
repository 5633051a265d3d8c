use proptest::prelude::*;

use super::*;
use crate::wandb::log::frame::{Decoder, Step as Framed};

/// A file that the real SDK 0.31.0 wrote offline.
const SDK: &[u8] = include_bytes!("../../../../tests/golden/sdk-0.31.0.wandb");

fn records() -> Vec<Record> {
    let mut decoder = Decoder::at(0);
    decoder.feed(SDK);
    let mut records = Vec::new();
    while let Some(step) = decoder.advance() {
        assert!(matches!(step, Framed::Record { .. }), "{step:?}");
        records.push(Record::decode(decoder.payload()).unwrap());
    }
    assert_eq!(decoder.end(), SDK.len() as u64);
    records
}

#[test]
fn a_file_of_the_sdk_is_understood() {
    let records = records();
    assert!(records.iter().map(|record| record.num).eq(1..=23));
    let kinds: Vec<_> = records.into_iter().filter_map(|record| record.kind).collect();
    assert_eq!(kinds.len(), 23);
    let Kind::Header(header) = &kinds[0] else { panic!("{:?}", kinds[0]) };
    assert_eq!(header.version_info.as_ref().unwrap().min_consumer, "0.70.0");
    let Kind::Run(run) = &kinds[1] else { panic!("{:?}", kinds[1]) };
    assert_eq!((run.run_id.as_str(), run.project.as_str(), run.display_name.as_str()), ("abc", "p", "n"));
    assert_eq!(Stamp::from(run.start_time.unwrap()).to_string(), "2026-11-21T11:32:14.297Z");
    let config: Vec<_> = run.config.iter().flat_map(|config| &config.update).collect();
    let config: Vec<_> = config.iter().map(|item| (item.path().join("."), item.json())).collect();
    assert_eq!(
        config,
        [("_wandb".into(), "{}"), ("lr".into(), "0.1"), ("nested".into(), "{\"a\":1}")]
            .map(|x: (String, _)| x)
    );
    let rows: Vec<_> = kinds
        .iter()
        .filter_map(|kind| if let Kind::History(row) = kind { Some(row) } else { None })
        .collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(
        rows[2].json(),
        "{\"d\":{\"x\":2},\"nan\":NaN,\"inf\":-Infinity,\"_timestamp\":1.7952607365011573e+09,\"_runtime\":2.192767092,\
         \"_step\":2,\"loss\":0.3333333333333333}"
    );
    let console: String = kinds
        .iter()
        .filter_map(|kind| if let Kind::Output(out) = kind { Some(out.line.as_str()) } else { None })
        .collect();
    assert_eq!(console, "hello ünï\n");
    assert_eq!(kinds.last(), Some(&Kind::Exit(Exit { exit_code: 0, runtime: 2 })));
}

#[test]
fn values_with_a_type_go_before_json_text() {
    let json = |value| HistoryItem { value: Some(value), value_json: "7".into(), ..Default::default() };
    let of = |value| json(value).json().into_owned();
    assert_eq!(of(Value::None(Empty {})), "null");
    assert_eq!(of(Value::Boolean(true)), "true");
    assert_eq!(of(Value::Integer(-3)), "-3");
    assert_eq!(of(Value::Number(0.1)), "0.1");
    assert_eq!(of(Value::Number(f64::NAN)), "NaN");
    assert_eq!(of(Value::Number(f64::NEG_INFINITY)), "-Infinity");
    assert_eq!(of(Value::Text("a\"ü\n".into())), "\"a\\\"ü\\n\"");
    assert_eq!(of(Value::Json("[NaN]".into())), "[NaN]");
    assert_eq!(HistoryItem::new(["a"], "7").json(), "7");
}

#[test]
fn what_a_newer_sdk_adds_is_skipped() {
    // Field 99 of the record, and a kind (24) that is not listed.
    let mut bytes = Record { num: 5, kind: None }.encode_to_vec();
    bytes.extend_from_slice(&[0x9a, 0x06, 2, b'h', b'i', 0xc2, 0x01, 0]);
    assert_eq!(Record::decode(&bytes[..]).unwrap(), Record { num: 5, kind: None });
}

#[test]
fn times_cross() {
    let at = Stamp(1_795_167_616_837);
    assert_eq!(Stamp::from(Timestamp::from(at)), at);
    assert_eq!(Stamp::from(Timestamp { seconds: -1, nanos: -1 }), Stamp(0));
    assert_eq!(Stamp::from(Timestamp { seconds: i64::MAX, nanos: i32::MAX }), Stamp(u64::MAX));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_record_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(record) = Record::decode(&bytes[..]) {
            let again = Record::decode(&record.encode_to_vec()[..]).unwrap();
            // Compared as text: NaN is not itself.
            prop_assert_eq!(format!("{again:?}"), format!("{record:?}"));
        }
    }

    #[test]
    fn rows_cross(items in prop::collection::vec((prop::collection::vec("[a-c/.é]{0,3}", 1..4), "[1-9][0-9]{0,2}|NaN|\"x\""), 0..20)) {
        let of = |items: &[(Vec<String>, String)]| {
            History::of(items.iter().map(|(path, json)| (path.iter().map(String::as_str), json.as_str())))
        };
        let row = of(&items);
        let record = Record { num: 1, kind: Some(Kind::History(row.clone())) };
        let read = Record::decode(&record.encode_to_vec()[..]).unwrap();
        prop_assert_eq!(&read, &record);
        let Some(Kind::History(read)) = read.kind else { unreachable!() };
        let back: Vec<_> = read.items.iter().map(|item| (item.path().to_vec(), item.json().into_owned())).collect();
        prop_assert_eq!(back, items);
        // As JSON it is what a parser of JSON takes it for.
        let plain = row.json().replace("NaN", "0");
        prop_assert!(serde_json::from_str::<serde_json::Value>(&plain).unwrap().is_object());
    }
}
