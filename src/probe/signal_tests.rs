use std::{
    io::{BufRead, BufReader},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, Stdio},
};

use super::*;

const TERM: i32 = 15;

fn sh(script: &str) -> (Child, ProcId) {
    let mut child = Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let proc = proc::identify(Path::new(ROOT), child.id() as i32).unwrap();
    (child, proc)
}

#[test]
fn a_signal_reaches_the_process_that_was_meant_and_no_other() {
    let (mut child, proc) = sh("echo; read x; read x");
    let other = ProcId { start: proc.start + 1, ..proc };
    for sent in [signal(other, TERM), signal_group(other, TERM), signal(ProcId { pid: 0, start: 0 }, TERM)] {
        assert!(proc::is_gone(&sent.unwrap_err()));
    }
    for bad in [0, -1, 999] {
        assert_eq!(signal(proc, bad).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    signal(proc, TERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(TERM));
    assert!(proc::is_gone(&signal(proc, TERM).unwrap_err()));
}

#[test]
fn a_group_signal_reaches_the_children_too() {
    let (mut child, proc) = sh("exec 3<&0; sh -c 'echo; read x; read x' <&3 & wait");
    signal_group(proc, 9).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    // The grandchild held the pipe: its end is the end of all who had it.
    assert_eq!(BufReader::new(child.stdout.take().unwrap()).lines().count(), 0);
}

#[test]
fn a_session_whose_leader_is_gone_can_still_be_ended() {
    let mut child = Command::new("setsid")
        .args(["sh", "-c", "exec 3<&0; sh -c 'echo $$; read x; :' <&3 & wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let root = Path::new(ROOT);
    let leader = proc::identify(root, child.id() as i32).unwrap();
    let left = open_pidfd(proc::identify(root, line.trim().parse().unwrap()).unwrap()).unwrap();
    // To wait closes the input, which would end the other one too.
    let held = child.stdin.take();
    signal(leader, 9).unwrap();
    child.wait().unwrap();
    signal_group(leader, 9).unwrap();
    let mut ends = [rustix::event::PollFd::new(&left, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut ends, None).unwrap();
    drop(held);
    assert!(proc::is_gone(&signal_group(leader, 9).unwrap_err()), "a zombie is nobody");
}

#[test]
fn a_process_that_leads_no_group_does_not_lend_its_group() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let proc = proc::identify(Path::new(ROOT), child.id() as i32).unwrap();
    assert_eq!(signal_group(proc, TERM).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_end_wakes_who_waits_and_leaves_the_zombie() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut child, proc) = sh("echo; read x; exit 4");
        let pidfd = open_pidfd(proc).unwrap();
        let end = exited(&pidfd);
        tokio::pin!(end);
        let is_early = tokio::select! { biased; _ = &mut end => true, () = std::future::ready(()) => false };
        assert!(!is_early, "it lives");
        drop(child.stdin.take());
        end.await.unwrap();
        assert_eq!(proc::exit_of_zombie(Path::new(ROOT), proc), Some(crate::domain::exit::Exit::Code(4)));
        assert!(open_pidfd(proc).is_ok(), "a zombie can be opened");
        child.wait().unwrap();
        let told = exit_of_reaped(&pidfd);
        assert!(told.is_none_or(|exit| exit == Exit::Code(4)), "{told:?} is not how it ended");
        assert!(proc::is_gone(&open_pidfd(proc).unwrap_err()));
    });
}
