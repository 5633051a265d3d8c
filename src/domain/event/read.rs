//! Reading events. What comes each second, the figures of all ranks, goes straight into place: facts are told apart by
//! a field of theirs, and serde keeps a copy of all fields of such types until it knows which one it is.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{Event, Fact};
use crate::domain::{gpu::GpuSample, sample::RankSample};

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Event, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Event;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
        let (mut seq, mut at, mut kind) = (None, None, String::new());
        let mut ranks: Option<Vec<RankSample>> = None;
        let mut gpus: Option<Vec<GpuSample>> = None;
        let mut rest = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            match (key.as_str(), kind.as_str()) {
                ("seq", _) => seq = Some(map.next_value()?),
                ("at", _) => at = Some(map.next_value()?),
                ("kind", _) => kind = map.next_value()?,
                ("ranks", "sample" | "progress") => ranks = Some(map.next_value()?),
                ("gpus", "gpu_sample" | "gpu_progress") => gpus = Some(map.next_value()?),
                _ => drop(rest.insert(key, map.next_value()?)),
            }
        }
        let fact = match (kind.as_str(), ranks, gpus) {
            ("sample", Some(ranks), _) => Fact::Sample { ranks },
            ("progress", Some(ranks), _) => Fact::Progress { ranks },
            ("gpu_sample", _, Some(gpus)) => Fact::GpuSample { gpus },
            ("gpu_progress", _, Some(gpus)) => Fact::GpuProgress { gpus },
            _ => {
                rest.insert("kind".into(), Value::String(kind));
                Fact::deserialize(Value::Object(rest)).map_err(A::Error::custom)?
            }
        };
        let seq = seq.ok_or_else(|| A::Error::missing_field("seq"))?;
        let at = at.ok_or_else(|| A::Error::missing_field("at"))?;
        Ok(Event { seq, at, fact })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Stamp;

    fn read(json: &str) -> Result<Event, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn the_order_of_fields_does_not_matter() {
        let sample = RankSample { local_rank: 3, lines: 7, cpu_ns: Some(5), ..RankSample::default() };
        let gpu = GpuSample { index: 2, util_pct: Some(50), ..GpuSample::default() };
        let facts = [
            Fact::Sample { ranks: vec![sample.clone()] },
            Fact::Progress { ranks: vec![sample] },
            Fact::GpuSample { gpus: vec![gpu.clone()] },
            Fact::GpuProgress { gpus: vec![gpu] },
            Fact::Note { text: "x".into() },
        ];
        for fact in facts {
            let event = Event { seq: 4, at: Stamp(9), fact };
            let json = serde_json::to_string(&event).unwrap();
            assert_eq!(read(&json).as_ref(), Ok(&event));
            // By name: what is told of the kind comes last.
            let Value::Object(fields) = serde_json::to_value(&event).unwrap() else { panic!("an object") };
            let mut fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            fields.sort_by_key(|field| field.starts_with("\"kind\""));
            assert_eq!(read(&format!("{{{}}}", fields.join(","))).as_ref(), Ok(&event));
        }
    }

    #[test]
    fn what_is_new_is_skipped_and_what_is_missing_is_told() {
        let at = serde_json::to_string(&Stamp(1_795_167_616_000)).unwrap();
        let read = |json: &str| read(&json.replace("AT", &at));
        let unknown = read(r#"{"seq":1,"at":AT,"kind":"of_tomorrow","x":[1]}"#).unwrap();
        assert_eq!(unknown.fact, Fact::Unknown);
        let with_more = read(r#"{"seq":0,"at":AT,"kind":"sample","new":{},"ranks":[]}"#).unwrap();
        assert_eq!(with_more.fact, Fact::Sample { ranks: Vec::new() });
        for (json, missing) in [
            (r#"{"at":AT,"kind":"sample","ranks":[]}"#, "seq"),
            (r#"{"seq":2,"kind":"sample","ranks":[]}"#, "at"),
            (r#"{"seq":2,"at":AT,"kind":"sample"}"#, "ranks"),
        ] {
            assert!(read(json).unwrap_err().contains(missing), "{json}");
        }
    }
}
