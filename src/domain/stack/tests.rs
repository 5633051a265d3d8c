use proptest::prelude::*;

use super::*;

fn frame(name: &str, file: &str, line: u32) -> Frame {
    Frame { name: name.into(), file: file.into(), line }
}

const C10D: &str = "/v/site-packages/torch/distributed/distributed_c10d.py";

fn rank(rank: u32, frames: Vec<Frame>) -> RankStack {
    let main = Thread { is_main: true, frames, ..Thread::default() };
    let other =
        Thread { frames: vec![frame("run", "/usr/lib/python3.11/threading.py", 1)], ..Thread::default() };
    RankStack { rank, pid: 100 + rank as i32, read: Ok((Source::PySpy, vec![main, other])) }
}

fn waiting(line: u32) -> Vec<Frame> {
    vec![
        frame("all_reduce", C10D, 3000),
        frame("wrapper", "/v/site-packages/torch/distributed/c10d_logger.py", 83),
        frame("backward", "/home/x/train.py", line),
        frame("train_step", "/home/x/train.py", 30),
        frame("<module>", "/home/x/train.py", 50),
    ]
}

fn loading() -> Vec<Frame> {
    vec![
        frame("_read_shard", "/home/x/data.py", 7),
        frame("train_step", "/home/x/train.py", 29),
        frame("<module>", "/home/x/train.py", 50),
    ]
}

#[test]
fn the_odd_one_is_on_top() {
    let mut stacks: Vec<_> = (0..32).filter(|r| *r != 21).map(|r| rank(r, waiting(40 + r))).collect();
    stacks.push(rank(21, loading()));
    let folded = fold(&stacks);
    assert_eq!(folded.odd(), [21]);
    insta::assert_snapshot!(folded.text(), @r"
       1 × _read_shard ← train_step ← train.py  (data.py:7)    rank 21
      31 × all_reduce ← backward ← train_step ← train.py  (train.py:40)    ranks 0-20, 22-31

    rank 21, by py-spy:
      _read_shard (/home/x/data.py:7)
      train_step (/home/x/train.py:29)
      <module> (/home/x/train.py:50)
    ");
    assert_eq!(
        folded.summary(),
        "rank 21: _read_shard ← train_step ← train.py; ranks 0-20, 22-31: all_reduce ← backward ← train_step ← train.py"
    );
}

#[test]
fn of_two_ranks_the_one_in_no_collective_is_odd() {
    assert_eq!(fold(&[rank(0, waiting(1)), rank(1, loading())]).odd(), [1]);
    assert_eq!(fold(&[rank(0, loading()), rank(1, waiting(1))]).odd(), [0]);
    // Even when it is the others that are few.
    let many = [rank(0, waiting(1)), rank(1, loading()), rank(2, loading())];
    assert_eq!(fold(&many).odd(), [1, 2]);
    assert_eq!(fold(&[rank(0, waiting(1)), rank(1, waiting(2))]).odd(), [0_u32; 0]);
}

#[test]
fn four_thousand_ranks_fold_into_the_same_lines() {
    let stacks: Vec<_> =
        (0..4096).map(|r| if r == 3000 { rank(r, loading()) } else { rank(r, waiting(r)) }).collect();
    let folded = fold(&stacks);
    assert_eq!((folded.groups.len(), folded.odd()), (2, &[3000][..]));
    assert_eq!(folded.groups[1].ranks.len(), 4095);
    assert!(serde_json::to_vec(&folded).unwrap().len() < 64 << 10);
}

#[test]
fn who_gave_no_stack_is_told_with_the_reason() {
    let silent = |rank| RankStack { rank, pid: 1, read: Err("it does not answer".into()) };
    let folded = fold(&[rank(0, waiting(1)), silent(2), silent(1)]);
    assert_eq!(folded.failed, [Failed { ranks: vec![1, 2], why: "it does not answer".into() }]);
    assert!(folded.text().contains("no stack of ranks 1, 2: it does not answer"));
    assert_eq!(fold(&[]).text(), "no rank has a stack");
}

#[test]
fn all_threads_of_a_single_rank_are_kept() {
    let folded = fold(&[rank(3, loading())]);
    assert_eq!(folded.threads.len(), 2);
    assert!(folded.text().contains("MainThread\n  _read_shard (/home/x/data.py:7)"), "{}", folded.text());
}

#[test]
fn py_spy_is_read() {
    let json = r#"[{"pid":7,"thread_id":1,"thread_name":"Thread-1","os_thread_id":8,"active":true,"owns_gil":true,"frames":
        [{"name":"f","filename":"/x/a.py","module":null,"short_filename":"a.py","line":3,"locals":null,"is_entry":true}]},
        {"pid":7,"thread_id":2,"thread_name":"MainThread","os_thread_id":7,"active":false,"owns_gil":false,"frames":[]}]"#;
    let threads = of_py_spy(json.as_bytes(), 7).unwrap();
    assert_eq!(threads[0].frames, [frame("f", "/x/a.py", 3)]);
    assert_eq!((threads[0].is_main, threads[0].holds_gil), (false, Some(true)));
    assert!(threads[1].is_main);
    assert_eq!(of_py_spy(b"Error: x", 7), None);
}

#[test]
fn tracebacks_are_read() {
    let text = "Current thread 0x00007f4ddffff6c0 (most recent call first):\n  <no Python frame>\n\n\
                Thread 0x00007f4e1d (most recent call first):\n  File \"/x/t.py\", line 3 in run\n\n\
                Thread 0x00007f4e1c827b80 [name] (most recent call first):\n  File \"/x/a b.py\", line 14 in <lambda>\n  \
                File \"/x/a b.py\", line 20 in <module>\n";
    let threads = of_traceback(text);
    assert_eq!(threads.len(), 2);
    assert_eq!((threads[0].is_main, threads[1].is_main), (false, true));
    assert_eq!(threads[1].frames, [frame("<lambda>", "/x/a b.py", 14), frame("<module>", "/x/a b.py", 20)]);
}

#[test]
fn the_injected_thread_is_read() {
    let json = r#"{"threads":[{"is_main":true,"frames":[{"name":"C.f","filename":"a.py","line":2}]}]}"#;
    assert_eq!(of_thread(json.as_bytes()).unwrap()[0].frames, [frame("C.f", "a.py", 2)]);
    assert_eq!(of_thread(b"{}"), None);
}

proptest! {
    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "(Thread 0x|Current thread 0x|  File \"|\", line | in |[0-9a\n]){0,40}") {
        let _ = (of_py_spy(&bytes, 1), of_thread(&bytes), of_traceback(&String::from_utf8_lossy(&bytes)));
        prop_assert!(of_traceback(&text).iter().all(|thread| !thread.frames.is_empty()));
    }
}
