use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

use super::*;
use crate::domain::{report::SCHEMA, state::State, time::Stamp};

fn note(seq: u64) -> Event {
    Event { seq, at: Stamp(1_795_167_600_000 + seq), fact: Fact::Note { text: format!("note {seq}") } }
}

fn lines(count: u64) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(&Header::new(SCHEMA)).unwrap();
    bytes.push(b'\n');
    for seq in 1..=count {
        bytes.extend(journal::line(&note(seq)));
        bytes.push(b'\n');
    }
    bytes
}

/// As a black box writes: flushed after each line.
fn packed(text: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        packed.write_all(line).unwrap();
        packed.flush().unwrap();
    }
    packed.finish().unwrap()
}

fn open(bytes: Vec<u8>, longest: usize, most: u64) -> Result<Reader> {
    Reader::new(Box::new(io::Cursor::new(bytes)), longest, most)
}

/// All events, and what could not be read.
fn read(bytes: Vec<u8>) -> (Vec<Event>, Trouble) {
    let Ok(mut reader) = open(bytes, LONGEST, MOST) else { return (Vec::new(), Trouble::default()) };
    let mut events = Vec::new();
    while let Some(Entry::Event(event)) = reader.read() {
        events.push(event);
    }
    (events, reader.trouble().clone())
}

#[test]
fn plain_and_packed_recordings_and_journals_open_alike() {
    let whole: Vec<_> = (1..=3).map(note).collect();
    let text = lines(3);
    let body = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for bytes in [text.clone(), packed(&text), text[body..].to_vec(), packed(&text[body..])] {
        assert_eq!(read(bytes), (whole.clone(), Trouble::default()));
    }
    // Members that follow each other, as `cat` makes them.
    assert_eq!(read([packed(&text[..body]), packed(&text[body..])].concat()).0, whole);
}

#[test]
fn every_cut_gives_a_beginning_and_says_so() {
    let whole: Vec<_> = (1..=6).map(note).collect();
    for bytes in [lines(6), packed(&lines(6))] {
        let mut most = 0;
        for cut in 0..bytes.len() {
            let (events, trouble) = read(bytes[..cut].to_vec());
            assert!(whole.starts_with(&events), "cut at {cut}");
            assert!(events.len() >= most, "cut at {cut}: fewer than a shorter file gives");
            most = events.len();
            let between = bytes[0] == b'{' && cut > 0 && bytes[cut - 1] == b'\n';
            assert_eq!(trouble.ended.is_none(), between || cut == 0, "cut at {cut}: {trouble:?}");
        }
        assert!(most >= 5, "only the last line is lost");
    }
}

#[test]
fn newer_and_empty_files_are_refused_in_words() {
    assert!(open(Vec::new(), LONGEST, MOST).unwrap_err().text.contains("empty"));
    let newer = Header { recording: FORMAT + 1, version: "9.9.9".into(), ..Header::new(SCHEMA) };
    let mut line = serde_json::to_vec(&newer).unwrap();
    line.push(b'\n');
    let error = open(line, LONGEST, MOST).unwrap_err();
    assert!(error.text.contains("format 2") && error.text.contains("9.9.9"), "{error}");
    assert!(!error.hints.is_empty());
}

#[test]
fn kinds_and_fields_of_the_future_are_skipped_and_counted() {
    let text = br#"{"recording":1,"schema":1,"version":"1.0","colour":"blue"}
{"schema":1,"seq":1,"at":"2026-11-20T09:40:16.837Z","kind":"from_the_future","x":1}
{"schema":1,"seq":2,"at":"2026-11-20T09:40:16.837Z","kind":"note","text":"t","mood":"good"}
{"stack":{"rank":3}}
"#;
    let (events, trouble) = read(text.to_vec());
    assert_eq!(events.len(), 1);
    assert_eq!((trouble.unknown, trouble.unreadable), (1, 1));
    assert_eq!(trouble.sentences().len(), 2);
}

#[test]
fn a_bomb_unpacks_to_no_more_than_the_limit() {
    let zeros = vec![0_u8; 64 << 20];
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&lines(2)).unwrap();
    packed.write_all(&zeros).unwrap();
    let bomb = packed.finish().unwrap();
    assert!(bomb.len() < 200_000);
    let mut reader = open(bomb, 1 << 20, 8 << 20).unwrap();
    assert!(reader.read().is_some() && reader.read().is_some());
    assert!(reader.read().is_none());
    assert!(reader.line.capacity() <= 2 << 20, "no line of zeros is held");
    assert!(reader.trouble().ended.as_ref().unwrap().contains("more than"), "{:?}", reader.trouble());
}

#[test]
fn a_line_that_is_too_long_costs_itself_alone() {
    let long = journal::line(&Event { fact: Fact::Note { text: "x".repeat(5000) }, ..note(9) });
    let text = [lines(1), long, b"\n".to_vec(), journal::line(&note(2)), b"\n".to_vec()].concat();
    let mut reader = open(text, 1000, MOST).unwrap();
    let mut seen = Vec::new();
    while let Some(Entry::Event(event)) = reader.read() {
        seen.push(event.seq);
    }
    assert_eq!((seen, reader.trouble().unreadable), (vec![1, 2], 1));
}

#[test]
fn numbers_of_ranks_that_nobody_has_make_no_state() {
    let line = |local: u64| {
        format!(
            r#"{{"schema":1,"seq":1,"at":"2026-11-20T09:40:16.837Z","kind":"rank_started","pid":1,"start":1,"agent_pid":1,"local_rank":{local},"attempt":0,"place":{{}}}}"#
        )
    };
    assert!(parse(line(4095).as_bytes()).is_some());
    assert!(parse(line(4_000_000_000).as_bytes()).is_none());
}

proptest! {
    #[test]
    fn flipped_bytes_cost_what_they_hit(at in any::<prop::sample::Index>(), flip in 1_u8..=255, pack: bool) {
        let text = lines(8);
        let mut bytes = if pack { packed(&text) } else { text };
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let (events, _) = read(bytes);
        let mut state = State::default();
        events.iter().for_each(|event| state.apply(event));
        if !pack {
            // Its own line, and the next when it was the end of one.
            let same = events.iter().filter(|event| **event == note(event.seq)).count();
            prop_assert!(same >= 6, "{same}");
        }
    }

    #[test]
    fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..500), gzip: bool) {
        let bytes = if gzip { [&[0x1f, 0x8b, 8, 0][..], &bytes].concat() } else { bytes };
        let _ = read(bytes);
    }
}
