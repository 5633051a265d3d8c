//! Rows a second into and out of a `.wandb` file.
//!
//! `cargo bench --bench log`: rows of 1 and of 10 metrics with step and times, in batches of 100 as they come from a
//! few ranks, on the disk of the temporary folder.

use std::{hint::black_box, path::Path};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use elastictop::{
    domain::time::Stamp,
    wandb::log::{
        Batch, Entry, Reader, Writer,
        record::{History, Kind},
    },
};

/// Rows of a batch.
const BATCH: usize = 100;
/// Rows of a file that is read.
const ROWS: usize = 20_000;
/// A file that gets longer is begun anew.
const LONGEST: u64 = 64 << 20;

/// Keys and values of one row.
fn items(metrics: usize) -> Vec<(String, String)> {
    let own = (0..metrics).map(|n| (format!("train/metric_{n}"), format!("{}", 1.0 / (n + 3) as f64)));
    let times = [("_step", "12345"), ("_timestamp", "1795167616.837"), ("_runtime", "812.125")];
    own.chain(times.map(|(key, json)| (key.to_owned(), json.to_owned()))).collect()
}

fn push(batch: &mut Batch, items: &[(String, String)]) {
    batch.row(items.iter().map(|(key, json)| (key.as_str(), json.as_str()))).expect("a short row");
}

fn write(dir: &Path, metrics: usize) -> Writer {
    let mut writer = Writer::create(dir, "bench", Stamp(0)).expect("a file");
    let (items, mut batch) = (items(metrics), Batch::new());
    for _ in 0..ROWS / BATCH {
        batch.clear();
        (0..BATCH).for_each(|_| push(&mut batch, &items));
        writer.append(&batch).expect("room on the disk");
    }
    writer
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Elements(BATCH as u64));
    for metrics in [1, 10] {
        let dir = tempfile::tempdir().expect("a folder");
        let mut writer = Writer::create(dir.path(), "bench", Stamp(0)).expect("a file");
        let (items, mut batch) = (items(metrics), Batch::new());
        group.bench_function(format!("{metrics} metrics"), |b| {
            b.iter(|| {
                if writer.len() > LONGEST {
                    writer = Writer::reopen(writer.path(), 0).expect("the same file");
                }
                batch.clear();
                (0..BATCH).for_each(|_| push(&mut batch, black_box(&items)));
                writer.append(&batch).expect("room on the disk")
            });
        });
    }
    group.finish();
}

/// Reads a file and gives what `each` makes of its entries, added up.
fn sum(path: &Path, mut each: impl FnMut(&History) -> usize) -> usize {
    let reader = Reader::open(path, 0).expect("the file");
    let of_entry = |entry| match entry {
        Ok(Entry::Record(found)) => match found.record.kind {
            Some(Kind::History(row)) => each(&row),
            other => panic!("no row: {other:?}"),
        },
        other => panic!("no record: {other:?}"),
    };
    reader.map(of_entry).sum()
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Elements(ROWS as u64));
    for metrics in [1, 10] {
        let dir = tempfile::tempdir().expect("a folder");
        let writer = write(dir.path(), metrics);
        assert_eq!(sum(writer.path(), |_| 1), ROWS);
        group.bench_function(format!("{metrics} metrics, bytes"), |b| {
            b.iter(|| {
                let mut reader = Reader::open(writer.path(), 0).expect("the file");
                let mut bytes = 0;
                while reader.step(u64::MAX).expect("a readable file").is_some() {
                    bytes += reader.payload().len();
                }
                bytes
            });
        });
        group.bench_function(format!("{metrics} metrics, records"), |b| {
            b.iter(|| sum(writer.path(), |row| row.items.len()));
        });
        group.bench_function(format!("{metrics} metrics, JSON"), |b| {
            b.iter(|| sum(writer.path(), |row| row.json().len()));
        });
    }
    group.finish();
}

criterion_group!(benches, append, read);
criterion_main!(benches);
