use std::fs;

use super::*;
use crate::{
    domain::time::Stamp,
    wandb::log::{Batch, Writer, record::Kind},
};

struct Place {
    dir: tempfile::TempDir,
    writer: Writer,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::create(dir.path(), "ab", Stamp(0)).unwrap();
        Place { dir, writer }
    }

    fn log(&mut self, values: &[&str]) -> u64 {
        let mut batch = Batch::new();
        values.iter().try_for_each(|value| batch.row([("x", *value)])).unwrap();
        self.writer.append(&batch).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.writer.path().to_owned()
    }
}

fn values(entries: &[Entry]) -> Vec<String> {
    let value = |entry: &Entry| match entry {
        Entry::Record(Found { record: Record { kind: Some(Kind::History(row)), .. }, .. }) => {
            row.items[0].json().into_owned()
        }
        other => format!("{other:?}"),
    };
    entries.iter().map(value).collect()
}

fn look(tail: &mut Tail) -> (Vec<String>, bool) {
    let look = tail.poll().unwrap();
    assert!(look.exists && !look.more);
    assert_eq!(look.end, tail.end());
    (values(&look.entries), look.restarted)
}

#[test]
fn a_reader_starts_at_any_record_and_stops_at_what_is_committed() {
    let mut place = Place::new();
    let first = place.log(&["1"]);
    let second = place.log(&["2", "3"]);
    place.log(&["4"]);
    let mut reader = Reader::open(&place.path(), first).unwrap();
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_before(second).unwrap() {
        entries.push(entry);
    }
    assert_eq!((values(&entries), reader.end()), (vec!["2".into(), "3".into()], second));
    // It goes on once more is committed.
    assert_eq!(values(&[reader.next().unwrap().unwrap()]), ["4"]);
    place.log(&["5"]);
    assert_eq!(values(&[reader.next().unwrap().unwrap()]), ["5"]);
    assert!(reader.next().is_none() && reader.torn() == 0);
}

#[test]
fn what_is_no_record_is_told_and_left_out() {
    let mut place = Place::new();
    let end = place.log(&["1"]);
    let mut bytes = fs::read(place.path()).unwrap();
    // Field 2, a row, ends before it says so.
    let next = super::super::frame::encode(&mut bytes, end, &[0x12, 9, 0]);
    super::super::frame::encode(&mut bytes, next, &[0x08, 7]);
    fs::write(place.path(), bytes).unwrap();
    let mut reader = Reader::open(&place.path(), end).unwrap();
    let damage = Damage { offset: end, flaw: Flaw::NotARecord };
    assert_eq!(reader.next().unwrap().unwrap(), Entry::Damaged(damage));
    assert!(matches!(reader.next().unwrap().unwrap(), Entry::Record(found) if found.record.num == 7));
    assert_eq!(damage.to_string(), format!("at byte {end}: a record cannot be decoded"));
}

#[test]
fn a_tail_waits_for_its_file_and_sees_each_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later.wandb");
    let mut tail = Tail::new(path.clone(), 0);
    assert_eq!(tail.poll().unwrap(), Look::default());
    let mut place = Place::new();
    place.log(&["1", "2"]);
    let bytes = fs::read(place.path()).unwrap();
    let mut seen = Vec::new();
    // Byte by byte, as a slow writer might.
    for end in 0..=bytes.len() {
        fs::write(&path, &bytes[..end]).unwrap();
        let (new, restarted) = look(&mut tail);
        assert!(!restarted, "at {end}");
        seen.extend(new);
    }
    assert_eq!(seen, ["1", "2"]);
    let mut later = Tail::new(path, tail.end());
    assert_eq!(look(&mut later), (vec![], false));
}

#[test]
fn a_torn_tail_that_is_cut_off_and_written_anew_does_no_harm() {
    let mut place = Place::new();
    let end = place.log(&["1"]);
    place.log(&["2"]);
    let mut bytes = fs::read(place.path()).unwrap();
    bytes.truncate(end as usize + 9);
    fs::write(place.path(), &bytes).unwrap();
    let mut tail = Tail::new(place.path(), 0);
    assert_eq!(look(&mut tail), (vec!["1".into()], false));
    place.writer = Writer::reopen(&place.path(), end).unwrap();
    assert_eq!(look(&mut tail), (vec![], false));
    place.log(&["3"]);
    assert_eq!(look(&mut tail), (vec!["3".into()], false));
}

#[test]
fn a_file_cut_below_what_was_read_is_read_anew() {
    let mut place = Place::new();
    let first = place.log(&["1"]);
    place.log(&["2"]);
    let mut tail = Tail::new(place.path(), 0);
    assert_eq!(look(&mut tail), (vec!["1".into(), "2".into()], false));
    place.writer = Writer::reopen(&place.path(), first).unwrap();
    assert_eq!(look(&mut tail), (vec!["1".into()], true));
    place.log(&["3"]);
    assert_eq!(look(&mut tail), (vec!["3".into()], false));
}

#[test]
fn a_file_that_takes_the_place_of_another_is_read_after_the_rest_of_that() {
    let mut place = Place::new();
    place.log(&["1"]);
    let mut tail = Tail::new(place.path(), 0);
    assert_eq!(look(&mut tail), (vec!["1".into()], false));
    place.log(&["2"]);
    let mut other = Place::new();
    other.log(&["a"]);
    let new = place.dir.path().join("new");
    fs::copy(other.path(), &new).unwrap();
    fs::rename(&new, place.path()).unwrap();
    assert_eq!(look(&mut tail), (vec!["2".into()], false));
    assert_eq!(look(&mut tail), (vec!["a".into()], true));
    assert_eq!(look(&mut tail), (vec![], false));
    // One that is gone may come back.
    fs::remove_file(place.path()).unwrap();
    assert_eq!(look(&mut tail), (vec![], false));
    fs::copy(other.path(), place.path()).unwrap();
    assert_eq!(look(&mut tail), (vec!["a".into()], true));
}

#[test]
fn a_tail_takes_a_large_file_in_pieces() {
    let mut place = Place::new();
    let long = "1".repeat(700_000);
    place.log(&[&long, "2"]);
    let mut tail = Tail::new(place.path(), 0);
    let mut entries = Vec::new();
    loop {
        let look = tail.poll().unwrap();
        entries.extend(look.entries);
        if !look.more {
            break;
        }
    }
    assert_eq!(values(&entries), [long.as_str(), "2"]);
    assert_eq!(tail.end(), place.writer.len());
}
