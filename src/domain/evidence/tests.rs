use proptest::prelude::*;

use super::*;

/// One line, and what it proves in short.
const LINES: &str = r"
[rank1]: ValueError: bad batch                                             => Exception ValueError|bad batch
ValueError: bad batch                                                      => Exception ValueError|bad batch
torch.distributed.elastic.X.WorkerError: x: y                              => Exception torch.distributed.elastic.X.WorkerError|x: y
KeyboardInterrupt                                                          => Exception KeyboardInterrupt|
subprocess.TimeoutExpired: Command 'x' timed out                           => Exception subprocess.TimeoutExpired|Command 'x' timed out
step 3: ValueError: caught and logged                                      => -
loss 2.3 error 0.1                                                         => -
Errors so far: 0                                                           => -
INFO:root:Error: no                                                        => -
ErrorRate: 3                                                               => -
    raise ValueError('x')                                                  => -
[rank0]:[E1120 09:31:09.120 ProcessGroupNCCL.cpp:632] [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=21, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600043 milliseconds before timing out. => NcclTimeout ALLREDUCE 21 600000
[rank0]:[E1120 09:31:09.120 x.cpp:1] [TC][rank=0][name=default] Operation timed out after 30000 ms => NcclTimeout - - 30000
Aborting process on rank 3 due to timeout - NCCL                           => NcclTimeout - - -
ProcessGroupNCCL's watchdog got stuck for 480 seconds without making progress => WatchdogStuck 480
[rank1]: RuntimeError: [/x/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 10000ms for recv operation to complete => GlooTimeout 10000
[rank0]: RuntimeError: [/x/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:41823 => PeerGone 127.0.0.1:41823
Read error [10.0.0.7]:5: Connection reset by peer                          => PeerGone -
torch.distributed.DistNetworkError: failed to recv, got 0 bytes            => PeerGone -
NCCL WARN socketProgress: Connection closed by remote peer node7<40100>    => PeerGone node7
last error: remote process exited or there was a network error             => PeerGone -
Observed flight recorder dump signal from another rank via TCPStore.       => PeerTimeout
RuntimeError: Gloo connectFullMesh failed with [x/tcp/pair.cc:144] no error => Rendezvous
torch.distributed.DistStoreError: Timed out after 61 seconds waiting for clients. 1/2 clients joined. => Rendezvous
[W1120 09:31:09.1 socket.cpp:755] The server socket has failed to bind to [::]:29500 (errno: 98 - Address already in use). => PortInUse 29500
The server socket has failed to listen on any local network address. port: 29501, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use => PortInUse 29501
OSError: [Errno 98] Address already in use                                 => PortInUse -
torch.distributed.DistBackendError: NCCL error in: ../x.cpp:2020, unhandled system error => NcclError
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB => OomGpu 2.00 GiB
RuntimeError: CUDA error: out of memory                                    => OomGpu -
RuntimeError: CUDA error: device-side assert triggered                     => CudaError device-side assert triggered
MemoryError                                                                => HostMemory
numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8 GiB        => HostMemory
OSError: [Errno 12] Cannot allocate memory                                 => HostMemory
what():  std::bad_alloc                                                    => HostMemory
RuntimeError: DataLoader worker (pid 123) is killed by signal: Killed.     => LoaderDied Killed
RuntimeError: DataLoader worker (pid(s) 123) exited unexpectedly           => LoaderDied -
ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm). => ShmFull
RuntimeError: unable to write to file </torch_1_2>: No space left on device (28) => DiskFull
RuntimeError: unable to allocate shared memory(shm) for file </torch_1>    => ShmFull
OSError: [Errno 28] No space left on device: '/ckpt/x.pt'                  => DiskFull
ModuleNotFoundError: No module named 'flash_attn.ops'                      => ModuleMissing flash_attn.ops
/opt/venv/bin/python3.11: No module named nosuchmod                        => ModuleMissing nosuchmod
RuntimeError: Detected mismatch between collectives on ranks. Rank 0 is running collective: CollectiveFingerPrint(SequenceNumber=3, OpType=ALLREDUCE => Mismatch 0
Fatal Python error: Segmentation fault                                     => Fatal Segmentation fault
terminate called after throwing an instance of 'c10::DistBackendError'     => Terminate c10::DistBackendError
terminate called after terminate called after throwing an instance of 'c10::Error' => Terminate c10::Error
thread 'main' panicked at src/main.rs:3:5:                                 => Panic
Could not acquire GIL within 300 ms on exit                                => GilHeld
To avoid data inconsistency, we are taking the entire process down.        => TakenDown
";

fn short(mark: Option<Mark>) -> String {
    fn or_dash<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(|| "-".into(), |value| value.to_string())
    }
    let Some(mark) = mark else { return "-".into() };
    let name = format!("{mark:?}");
    let name = name.split([' ', '{']).next().unwrap_or_default().to_owned();
    let rest = match mark {
        Mark::NcclTimeout { op, seq, timeout_ms } => {
            format!("{} {} {}", or_dash(op), or_dash(seq), or_dash(timeout_ms))
        }
        Mark::GlooTimeout { timeout_ms } => or_dash(timeout_ms),
        Mark::WatchdogStuck { seconds } => or_dash(seconds),
        Mark::PeerGone { peer } => or_dash(peer),
        Mark::PortInUse { port } => or_dash(port),
        Mark::OomGpu { size } => or_dash(size),
        Mark::CudaError { what } | Mark::Fatal { what } => what,
        Mark::LoaderDied { signal } => or_dash(signal),
        Mark::ModuleMissing { module } => module,
        Mark::Mismatch { rank } => or_dash(rank),
        Mark::Exception { class, message, .. } => format!("{class}|{message}"),
        Mark::Terminate { class } => or_dash(class),
        _ => return name,
    };
    format!("{name} {rest}").trim_end().to_owned()
}

#[test]
fn each_line_proves_what_it_says_and_no_more() {
    let wrong: Vec<_> = LINES
        .lines()
        .filter(|row| !row.is_empty())
        .filter_map(|row| {
            let (line, expected) = row.rsplit_once("=>").expect("line => proof");
            let found = short(read_line(line.trim_end()));
            (found != expected.trim())
                .then(|| format!("{}\n  found {found}\n  not {}", line.trim_end(), expected.trim()))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_pattern_can_be_reached_through_the_trigger() {
    // A line that a pattern fits and the trigger does not would never be tried.
    for row in LINES.lines().filter(|row| row.contains("=>")) {
        let line = row.rsplit_once("=>").map_or(row, |(line, _)| line.trim_end());
        if PATTERNS.iter().any(|(pattern, _)| pattern.is_match(line)) {
            assert!(TRIGGER.is_match(line), "{line}");
        }
    }
}

#[test]
fn a_message_of_many_lines_gives_its_most_telling() {
    let message = "DistBackendError: NCCL error in: x.cpp:20, remote process exited or there was a network error\n\
                   ncclRemoteError: A call failed possibly due to a network error";
    assert_eq!(short(Mark::of_message(message)), "PeerGone -");
    assert_eq!(short(Mark::of_message("ValueError: a\nOSError: b")), "Exception ValueError|a");
    assert_eq!(Mark::of_message("no error at all"), None);
}

#[test]
fn error_files_are_read_in_both_shapes_and_bad_ones_are_none() {
    let file = br#"{"message": {"message": "ValueError: bad", "extraInfo": {"py_callstack": "Traceback", "timestamp": "1795167059"}}}"#;
    assert_eq!(
        ErrorFile::parse(file),
        Some(ErrorFile {
            message: "ValueError: bad".into(),
            py_callstack: Some("Traceback".into()),
            timestamp: Some(Stamp(1_795_167_059_000)),
        })
    );
    let plain =
        ErrorFile::parse(br#"{"message": "SIGKILL", "timestamp": 3}"#).expect("a text is a message too");
    assert_eq!((plain.message.as_str(), plain.timestamp), ("SIGKILL", Some(Stamp(3000))));
    for bad in [&b""[..], b"{", b"[]", b"{\"message\": 3}", b"\xff\xfe", b"{\"message\": {}}"] {
        assert_eq!(ErrorFile::parse(bad), None);
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "(?s).{0,300}") {
        read_line(&text);
        Mark::of_message(&text);
        ErrorFile::parse(text.as_bytes());
    }

    #[test]
    fn no_mangled_line_panics(row in 0usize..50, cut_at in 0usize..300, junk in "\\PC{0,6}") {
        let line = LINES.lines().filter(|row| row.contains("=>")).nth(row).unwrap_or_default();
        let (head, tail) = line.split_at(cut_at.min(line.len()));
        read_line(&format!("{head}{junk}{tail}"));
        read_line(head);
    }

    #[test]
    fn what_is_kept_is_bounded(letter in "[a-zé]", times in 0usize..20_000) {
        let line = format!("ValueError: {}", letter.repeat(times));
        let Some(Mark::Exception { message, .. }) = read_line(&line) else { panic!() };
        prop_assert!(message.len() <= MAX_TEXT);
    }
}

/// Not a benchmark to rely on, but a number to look at: `cargo test --release -- --ignored --nocapture read_line_costs`.
#[test]
#[ignore = "prints a number"]
#[allow(clippy::disallowed_methods)]
fn read_line_costs() {
    let lines = [
        "[2026-11-20 09:31:09,123] INFO step 1203 loss 2.3312 lr 3.0e-4 tokens/s 183221 mfu 0.41",
        "  0%|          | 12/100000 [00:03<8:12:33,  3.38it/s]",
        "/usr/lib/python3.11/site-packages/torch/utils/data/x.py:12: UserWarning: something is deprecated",
        "epoch=3 step=1203",
    ];
    read_line("warm up: CUDA error: x");
    let begin = std::time::Instant::now();
    let mut hits = 0;
    for _ in 0..250_000 {
        hits += lines.iter().filter(|line| read_line(std::hint::black_box(line)).is_some()).count();
    }
    println!("{} ns per line, {hits} hits", begin.elapsed().as_nanos() / 1_000_000);
}
