use proptest::prelude::*;

use super::*;

/// Files of the tests: payloads of any lengths, whose bytes tell which record they are from.
fn payload(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (number * 31 + at * 7) as u8).collect()
}

fn file(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<u64>) {
    let mut bytes = HEADER.to_vec();
    let ends = payloads.iter().map(|payload| {
        let at = bytes.len() as u64;
        let end = encode(&mut bytes, at, payload);
        assert_eq!(end, bytes.len() as u64);
        end
    });
    let ends = ends.collect();
    (bytes, ends)
}

#[derive(Debug, Default, PartialEq)]
struct Read {
    payloads: Vec<Vec<u8>>,
    damages: Vec<Damage>,
    end: u64,
    torn: u64,
}

fn drain(decoder: &mut Decoder, read: &mut Read) {
    while let Some(step) = decoder.advance() {
        match step {
            Step::Record { end, .. } => {
                assert_eq!(end, decoder.end());
                read.payloads.push(decoder.payload().to_vec());
            }
            Step::Damaged(damage) => read.damages.push(damage),
        }
    }
    (read.end, read.torn) = (decoder.end(), decoder.fed() - decoder.end());
}

fn read_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let (mut decoder, mut read) = (Decoder::at(0), Read::default());
    for piece in pieces {
        decoder.feed(piece);
        drain(&mut decoder, &mut read);
    }
    read
}

struct Sample {
    payloads: Vec<Vec<u8>>,
    bytes: Vec<u8>,
    ends: Vec<u64>,
}

/// Two files: one whose first block has too little room at its end for a chunk, and one with every kind of chunk.
fn samples() -> [Sample; 2] {
    let fill = BLOCK - HEADER.len() - 5 * CHUNK - 10 - 20 - 300;
    let [padded, filled] = [fill - 6, fill - 20];
    [vec![10, 0, 20, 300, padded, 40], vec![10, 0, 20, 300, filled, BLOCK + 30, 60, 70]].map(|lengths| {
        let payloads: Vec<_> =
            lengths.into_iter().enumerate().map(|(n, length)| payload(n, length)).collect();
        let (bytes, ends) = file(&payloads);
        Sample { payloads, bytes, ends }
    })
}

#[test]
fn records_lie_around_the_end_of_a_block_in_every_way() {
    for left in 0..20 {
        for length in (0..20).chain([BLOCK - 8, BLOCK - 7, BLOCK - 6, BLOCK, 2 * BLOCK]) {
            let fill = BLOCK - HEADER.len() - CHUNK - left;
            let payloads = [payload(0, fill), payload(1, length), payload(2, 5)];
            let (bytes, ends) = file(&payloads);
            assert_eq!(ends[0], (BLOCK - left) as u64);
            let read = read_pieces([&bytes[..]]);
            assert_eq!(read.payloads, payloads, "{length} bytes with {left} left in the block");
            assert_eq!((read.damages.len(), read.end, read.torn), (0, ends[2], 0));
            // Reading can begin at the end of each record.
            let mut decoder = Decoder::at(ends[0]);
            decoder.feed(&bytes[ends[0] as usize..]);
            let mut read = Read::default();
            drain(&mut decoder, &mut read);
            assert_eq!((&read.payloads[..], read.damages.len()), (&payloads[1..], 0));
        }
    }
}

#[test]
fn no_chunk_crosses_a_block_and_short_rests_are_zeros() {
    let mut kinds = Vec::new();
    for Sample { bytes, .. } in samples() {
        let mut at = HEADER.len();
        while at < bytes.len() {
            let left = BLOCK - at % BLOCK;
            if left < CHUNK {
                assert!(bytes[at..at + left].iter().all(|byte| *byte == 0));
                kinds.push(0);
                at += left;
                continue;
            }
            let length = usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
            assert!(CHUNK + length <= left, "the chunk at {at} has {length} bytes");
            kinds.push(bytes[at + 6]);
            at += CHUNK + length;
        }
        assert_eq!(at, bytes.len());
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, [0, FULL, FIRST, MIDDLE, LAST]);
}

#[test]
fn a_tail_torn_at_any_byte_costs_nothing_before_it() {
    for Sample { payloads, bytes, ends } in samples() {
        for cut in 0..=bytes.len() {
            let kept = ends.iter().filter(|end| **end <= cut as u64).count();
            let read = read_pieces([&bytes[..cut]]);
            assert_eq!(read.payloads, payloads[..kept], "cut at {cut}");
            let header = if cut < HEADER.len() { 0 } else { HEADER.len() as u64 };
            assert_eq!(read.end, kept.checked_sub(1).map_or(header, |last| ends[last]), "cut at {cut}");
            assert_eq!((read.damages.len(), read.end + read.torn), (0, cut as u64), "cut at {cut}");
        }
    }
}

#[test]
fn a_flipped_byte_costs_at_most_what_lies_in_its_block_and_is_told() {
    for Sample { payloads, mut bytes, ends } in samples() {
        let starts: Vec<u64> = [HEADER.len() as u64].into_iter().chain(ends.iter().copied()).collect();
        for at in 0..bytes.len() {
            let mask = [0x01, 0x80, 0xff, 0x10][at % 4];
            bytes[at] ^= mask;
            let read = read_pieces([&bytes[..]]);
            bytes[at] ^= mask;
            // Records keep their order, and none is made up.
            let mut left = payloads.iter();
            assert!(read.payloads.iter().all(|payload| left.any(|known| known == payload)), "flipped {at}");
            let lost = payloads.len() - read.payloads.len();
            assert!(lost == 0 || !read.damages.is_empty() || read.torn > 0, "flipped {at}: nothing told");
            // Whatever does not touch the block of the flip is there.
            let block = (at / BLOCK * BLOCK) as u64..((at / BLOCK + 1) * BLOCK) as u64;
            for (n, payload) in payloads.iter().enumerate() {
                let touches = starts[n] < block.end && ends[n] > block.start;
                assert!(touches || read.payloads.contains(payload), "flipped {at}: record {n} is lost");
            }
        }
    }
}

#[test]
fn a_flip_in_a_payload_costs_one_record() {
    let [_, Sample { payloads, mut bytes, ends }] = samples();
    let at = ends[3] as usize - 1;
    bytes[at] ^= 4;
    let read = read_pieces([&bytes[..]]);
    assert_eq!(read.payloads, [&payloads[..3], &payloads[4..]].concat());
    assert_eq!(read.damages, [Damage { offset: ends[2], flaw: Flaw::Checksum }]);
}

#[test]
fn a_record_without_its_end_is_told_where_it_begins() {
    let long = payload(1, BLOCK);
    let (mut bytes, _) = file(&[payload(0, 9), long]);
    bytes.truncate(BLOCK);
    let begins = (HEADER.len() + CHUNK + 9) as u64;
    encode(&mut bytes, BLOCK as u64, b"next");
    let read = read_pieces([&bytes[..]]);
    assert_eq!(read.payloads, [payload(0, 9), b"next".to_vec()]);
    assert_eq!(read.damages, [Damage { offset: begins, flaw: Flaw::Fragment }]);
}

#[test]
fn an_end_without_its_record_is_told_once() {
    let (bytes, ends) = file(&[payload(0, 3 * BLOCK), payload(1, 8)]);
    let mut cut = HEADER.to_vec();
    // The first block is as if it had never been written: an empty record and nothing else.
    encode(&mut cut, HEADER.len() as u64, &payload(2, BLOCK - HEADER.len() - CHUNK));
    cut.extend_from_slice(&bytes[BLOCK..]);
    let read = read_pieces([&cut[..]]);
    assert_eq!((read.payloads.len(), read.end), (2, ends[1]));
    assert_eq!(read.damages, [Damage { offset: BLOCK as u64, flaw: Flaw::Fragment }]);
}

#[test]
fn a_record_that_is_too_long_is_refused_and_the_next_is_read() {
    let payloads = [payload(0, 3 * BLOCK + 1), payload(1, 3 * BLOCK), payload(2, 5)];
    let (bytes, _) = file(&payloads);
    let mut decoder = Decoder { longest: 3 * BLOCK, ..Decoder::at(0) };
    let mut read = Read::default();
    for piece in bytes.chunks(1000) {
        decoder.feed(piece);
        drain(&mut decoder, &mut read);
        assert!(decoder.partial.len() <= 3 * BLOCK && decoder.buffer.len() <= BLOCK + 1000);
    }
    assert_eq!(read.payloads, payloads[1..]);
    assert_eq!(read.damages, [Damage { offset: HEADER.len() as u64, flaw: Flaw::TooLong }]);
}

#[test]
fn zeros_in_place_of_records_are_told_once_a_block() {
    let (mut bytes, ends) = file(&[payload(0, 100)]);
    bytes.resize(3 * BLOCK, 0);
    encode(&mut bytes, 3 * BLOCK as u64, b"next");
    let read = read_pieces([&bytes[..]]);
    assert_eq!(read.payloads, [payload(0, 100), b"next".to_vec()]);
    let offsets: Vec<_> = read.damages.iter().map(|damage| damage.offset).collect();
    assert_eq!(offsets, [ends[0], BLOCK as u64, 2 * BLOCK as u64]);
}

#[test]
fn what_is_no_such_file_is_told() {
    let read = read_pieces([&b"{\"loss\": 1}\n"[..]]);
    assert_eq!(read.damages[0], Damage { offset: 0, flaw: Flaw::Header });
    assert!(read.payloads.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_of_any_size_give_the_same(
        lengths in prop::collection::vec(prop_oneof![0..100_usize, 32_700..32_800_usize, 0..100_000_usize], 0..8),
        cuts in prop::collection::vec(1..50_000_usize, 1..40),
    ) {
        let payloads: Vec<_> = lengths.iter().enumerate().map(|(n, length)| payload(n, *length)).collect();
        let (bytes, _) = file(&payloads);
        let (mut rest, mut pieces) = (&bytes[..], Vec::new());
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        let read = read_pieces(pieces);
        prop_assert_eq!(read.payloads, payloads);
        prop_assert_eq!((read.damages.len(), read.end), (0, bytes.len() as u64));
    }

    #[test]
    fn any_bytes_end_and_keep_memory_small(
        mut bytes in prop::collection::vec(any::<u8>(), 0..100_000),
        has_header: bool,
        types in prop::collection::vec((any::<prop::sample::Index>(), 0..5_u8), 0..200),
    ) {
        if has_header && bytes.len() > HEADER.len() {
            bytes[..HEADER.len()].copy_from_slice(&HEADER);
        }
        // Random bytes alone rarely look like chunks.
        for (at, kind) in types {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = kind;
            }
        }
        let mut decoder = Decoder::at(0);
        let mut steps = 0;
        for piece in bytes.chunks(4096) {
            decoder.feed(piece);
            while decoder.advance().is_some() {
                steps += 1;
            }
            prop_assert!(decoder.buffer.len() <= BLOCK + 4096);
        }
        prop_assert!(steps <= bytes.len() / CHUNK + 1);
        prop_assert_eq!(decoder.fed() , bytes.len() as u64);
    }

    #[test]
    fn any_mixture_of_damages_leaves_the_rest(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let [_, Sample { payloads, mut bytes, .. }] = samples();
        for (at, mask) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let read = read_pieces(bytes.chunks(10_000));
        let mut left = payloads.iter();
        prop_assert!(read.payloads.iter().all(|payload| left.any(|known| known == payload)));
    }
}
