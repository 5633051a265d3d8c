//! Lines in any portions, in any order, once.

use std::{fs, io::Write};

use proptest::prelude::*;

use super::*;
use crate::domain::log::{MAX_PAGE_BYTES, Needle};

fn origin(dir: &Path, local_rank: u32, attempt: u32) -> Origin {
    let path = dir.join(format!("{attempt}-{local_rank}"));
    let pid = 100 + local_rank as i32;
    Origin { rank: Some(local_rank), local_rank: Some(local_rank), attempt, pid, stream: Stream::Out, path }
}

fn write(path: &Path, text: &str) {
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn look(book: &mut Logbook) -> Vec<String> {
    let mut lines = Vec::new();
    book.look(Stamp(1), |line| lines.push(format!("{}:{}", line.origin.local_rank.unwrap(), line.text)));
    lines
}

fn texts(page: LogPage) -> Vec<String> {
    page.lines.into_iter().map(|line| line.text).collect()
}

fn page(anchor: Anchor, local_rank: Option<u32>, max: u32) -> LogQuery {
    LogQuery::Page { filter: LogFilter { local_rank, attempt: None }, anchor, max }
}

#[test]
fn lines_are_merged_by_arrival_and_paged_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = Logbook::open(&dir.path().join("index"), true).unwrap();
    let (a, b) = (origin(dir.path(), 0, 0), origin(dir.path(), 1, 0));
    write(&a.path, "a1\na2\nunfini");
    book.add(a.clone());
    book.add(b.clone());
    assert_eq!(look(&mut book), ["0:a1", "0:a2"]);
    assert_eq!(book.unfinished(), [(100, "unfini".to_owned())]);
    write(&b.path, "b1\nValueError: b2\n");
    write(&a.path, "shed\n");
    assert_eq!(look(&mut book), ["0:unfinished", "1:b1", "1:ValueError: b2"]);
    assert_eq!(texts(book.answer(&page(Anchor::Tail, None, 2))), ["b1", "ValueError: b2"]);
    assert_eq!(texts(book.answer(&page(Anchor::Before(3), None, 2))), ["a2", "unfinished"]);
    assert_eq!(texts(book.answer(&page(Anchor::From(1), Some(0), 9))), ["a2", "unfinished"]);
    let find = |needle, backwards| {
        let filter = LogFilter::default();
        book.answer(&LogQuery::Find { filter, from: None, backwards, needle }).found
    };
    assert_eq!(find(Needle::Error, false), Some(4));
    assert_eq!(find(Needle::Text("A".into()), true), Some(4));
    assert_eq!(find(Needle::Text("A2".into()), true), Some(1));
    assert_eq!(find(Needle::Text("none".into()), false), None);
}

#[test]
fn an_answer_ends_before_it_is_long_and_says_where_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = Logbook::open(&dir.path().join("index"), true).unwrap();
    let a = origin(dir.path(), 0, 0);
    let long = "x".repeat(8000);
    let written: Vec<String> = (0..1200).map(|n| format!("{n} {long}")).collect();
    write(&a.path, &format!("{}\n", written.join("\n")));
    book.add(a);
    while !look(&mut book).is_empty() {}

    let (mut read, mut from, mut pages) = (Vec::new(), Some(0), 0);
    while let Some(at) = from {
        let page = book.answer(&page(Anchor::From(at), None, 1000));
        assert!(page.lines.iter().map(|line| line.text.len()).sum::<usize>() < MAX_PAGE_BYTES + 8192);
        (from, pages) = (page.next, pages + 1);
        read.extend(texts(page));
    }
    assert!(read == written && pages > 10, "{} lines in {pages} pages", read.len());
    let (mut read, mut anchor) = (Vec::new(), Some(Anchor::Tail));
    while let Some(at) = anchor {
        let page = book.answer(&page(at, None, 1000));
        anchor = page.next.map(Anchor::Before);
        read.splice(0..0, texts(page));
    }
    assert!(read == written, "{} lines backwards", read.len());

    let find = |from, backwards, text: &str| {
        let (filter, needle) = (LogFilter::default(), Needle::Text(text.into()));
        book.answer(&LogQuery::Find { filter, from, backwards, needle })
    };
    let first = find(None, false, "1199 X");
    assert_eq!((first.found, first.next.is_some()), (None, true), "4 MiB hold about 524 lines");
    let second = find(first.next, false, "1199 X");
    let last = find(second.next, false, "1199 X");
    assert_eq!((second.found, last.found, last.next), (None, Some(1199), None));
    let first = find(None, true, "0 X");
    assert_eq!((first.found, first.next), (Some(1190), None), "the nearest");
    let none = find(Some(100), true, "none");
    assert_eq!((none.found, none.next), (None, None), "looked through to the first line");
}

#[test]
fn a_new_supervisor_goes_on_where_the_old_one_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index");
    let a = origin(dir.path(), 0, 0);
    write(&a.path, "1\n2\n");
    let mut book = Logbook::open(&index, true).unwrap();
    book.add(a.clone());
    look(&mut book);
    book.close();
    write(&a.path, "3\n");
    let mut book = Logbook::open(&index, true).unwrap();
    book.add(a);
    assert_eq!(look(&mut book), ["0:3"]);
    assert_eq!(texts(book.answer(&page(Anchor::Tail, None, 9))), ["1", "2", "3"]);
}

#[test]
fn a_deleted_file_stays_readable_and_a_last_line_without_end_counts() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = Logbook::open(&dir.path().join("index"), true).unwrap();
    let a = origin(dir.path(), 0, 0);
    write(&a.path, "1\nlast");
    book.add(a.clone());
    fs::remove_file(&a.path).unwrap();
    look(&mut book);
    book.close_rank(100);
    assert_eq!(look(&mut book), ["0:last"]);
    assert_eq!(texts(book.answer(&page(Anchor::Tail, None, 9))), ["1", "last"]);
}

#[test]
fn what_children_of_a_dead_rank_write_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = Logbook::open(&dir.path().join("index"), true).unwrap();
    let a = origin(dir.path(), 0, 0);
    write(&a.path, "1\n");
    book.add(a.clone());
    look(&mut book);
    book.close_rank(100);
    assert!(look(&mut book).is_empty());
    fs::OpenOptions::new().append(true).open(&a.path).unwrap().write_all(b"late\n").unwrap();
    assert_eq!(look(&mut book), ["0:late"]);
}

#[test]
fn progress_bars_and_colours_read_as_text() {
    for (raw, shown) in [
        ("10%\r50%\r", "50%"),
        ("\u{1b}[31mred\u{1b}[0m", "red"),
        ("a\tb\u{7}", "a    b"),
        ("\u{1b}]0;title\u{7}text", "text"),
        ("\u{1b}]8;;http://x\u{1b}\\link", "link"),
        ("windows\r", "windows"),
        ("", ""),
    ] {
        assert_eq!(clean(raw.as_bytes()), shown, "{raw:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_in_any_portions_give_each_line_once(
        portions in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..40), 0..8)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Logbook::open(&dir.path().join("index"), true).unwrap();
        let a = origin(dir.path(), 0, 0);
        fs::write(&a.path, "").unwrap();
        book.add(a.clone());
        let mut arrived = Vec::new();
        for portion in &portions {
            fs::OpenOptions::new().append(true).open(&a.path).unwrap().write_all(portion).unwrap();
            book.look(Stamp(1), |line| arrived.push(line.text.to_owned()));
        }
        book.close_rank(100);
        book.look(Stamp(1), |line| arrived.push(line.text.to_owned()));
        let all = portions.concat();
        let expected: Vec<_> = if all.is_empty() { Vec::new() } else { split(&all).map(clean).collect() };
        prop_assert_eq!(&arrived, &expected);
        prop_assert_eq!(texts(book.answer(&page(Anchor::From(0), None, 1000))), expected);
    }
}
