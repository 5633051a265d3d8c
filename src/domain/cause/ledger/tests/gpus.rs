//! Errors of GPUs among the evidence.

use super::*;

const OFF_THE_BUS: &str = "rank 1 failed with its GPU 5: the GPU has fallen off the bus (Xid 79)";

#[test]
fn a_gpu_that_failed_is_the_cause_of_what_its_rank_says() {
    let (transcript, cause) = run("
        10.0 xid 1 79
        10.4 1: RuntimeError: CUDA error: unspecified launch failure
        10.5 0: RuntimeError: Connection closed by peer [127.0.0.1]:4711
        10.6 exit 1 1
        10.6 verdict
        10.7 exit 0 1");
    assert_eq!(transcript, [format!("Gpu: {OFF_THE_BUS}"), format!("Gpu: {OFF_THE_BUS}")]);
    let cause = cause.unwrap();
    assert_eq!(cause.rank, Some(1));
    assert_eq!(cause.evidence[0], "Xid 79 on GPU 5 of rank 1: the GPU has fallen off the bus");
    assert!(cause.evidence[1].contains("rank 1 wrote: RuntimeError: CUDA error"), "{:?}", cause.evidence);
    let hint = cause.hint.unwrap();
    assert!(hint.starts_with("do not restart on this node before GPU 5 is mended"), "{hint}");
    assert!(hint.ends_with("the driver asks for: reboot the node"), "{hint}");
}

#[test]
fn the_drivers_word_may_come_after_the_end() {
    let script = "10.0 exit 1 -6\n10.0 verdict\n12.5 xid 1 48\n12.5 verdict";
    let (transcript, _) = run(script);
    assert_eq!(transcript[0], "Signal: rank 1 aborted (SIGABRT)");
    assert_eq!(
        transcript[1],
        "Gpu: rank 1 failed with its GPU 5: a memory error could not be corrected (Xid 48)"
    );
    assert!(verdict("10.0 exit 1 -6\n14.0 xid 1 48").contains("aborted"), "4 s later is another story");
}

#[test]
fn a_rank_that_hung_with_its_gpu_is_the_cause_of_timeouts_of_the_others() {
    let script = "
        10.0 xid 1 119
        600.0 0: RuntimeError: Timed out waiting 1800000ms for recv operation to complete
        600.2 exit 0 1
        600.3 closing 1 15
        600.4 exit 1 -15";
    let told = verdict(script);
    assert_eq!(
        told,
        "Gpu: rank 1 failed with its GPU 5: the GPU's system processor does not answer (Xid 119), and went on living"
    );
}

#[test]
fn an_error_of_the_script_stays_one() {
    let bug = "10.4 1: ValueError: bad batch\n10.5 exit 1 1";
    let plain = verdict(bug);
    // An Xid that the script itself made is evidence, no more.
    let (transcript, cause) = run(&format!("10.0 xid 1 31\n{bug}"));
    assert_eq!(transcript[0], plain);
    let facts = cause.unwrap().evidence;
    let touched =
        "Xid 31 on GPU 5 of rank 1, 400 ms before: a kernel of the job touched an address that is not mapped";
    assert!(facts.iter().any(|fact| fact == touched), "{facts:?}");
    // Long before, of another rank, after a wish, or a trace of the end itself.
    for other in ["10.0 user 1 9\n10.1 xid 1 79\n10.2 exit 1 -9", "10.0 xid 1 79\n10.1 stop\n10.5 exit 1 -15"]
    {
        assert!(!verdict(other).contains("Xid"), "{other}");
    }
    let long_before = format!("10.0 xid 1 79\n{}", bug.replace("10.", "100."));
    for script in [long_before, format!("{bug}\n10.6 xid 1 45"), format!("10.0 xid 1 63\n{bug}")] {
        assert_eq!(verdict(&script), plain, "{script}");
    }
}

#[test]
fn what_helps_depends_on_the_error() {
    let hint = |script: &str| run(script).1.unwrap().hint.unwrap();
    assert!(hint("10.0 xid-pending 1 63\n10.1 exit 1 1").starts_with("reset GPU 5 before the next start"));
    assert!(hint("10.0 xid 1 94\n10.1 exit 1 1").contains("took this process alone"));
    assert!(hint("10.0 xid 1 74\n10.1 exit 1 1").contains("do not restart on this node"));
}
