//! A relay between viewers and nodes; both nodes are this machine, under folders of their own.

use rustix::process::Signal;

use crate::{
    harness::{Lab, PATIENCE, finish, kill, wait_until},
    terminal::Terminal,
};

const JOB: [&str; 9] =
    ["run", "--detach", "--name", "rj", "--launcher", "local", "--nproc-per-node", "2", "--no-python"];

#[test]
fn a_relay_holds_the_links_and_is_found_again_after_its_end() {
    let lab = Lab::new();
    for host in ["n01", "n02"] {
        let mut run = lab.elastictop();
        run.env("ELASTICTOP_DIR", lab.path(host)).args(JOB).args(["sleep", "1000"]);
        assert_eq!(finish(&mut run).0, 0);
    }
    let dir = lab.dir().display();
    let via = format!("env ELASTICTOP_DIR={dir}/{{host}} {} proxy {{job}}", env!("CARGO_BIN_EXE_elastictop"));
    let nodes = ["rj", "--nodes", "n[01-02]", "--via", &via];
    let start = || {
        let relay = lab.spawn("relay", lab.elastictop().arg("relay").args(nodes));
        wait_until("the relay listens", PATIENCE, || {
            lab.read("relay.out").contains("watch over it").then_some(())
        });
        relay
    };
    let mut relay = start();
    let (code, _, error) = lab.run(&[&["relay"], &nodes[..]].concat());
    assert!(code == 3 && error.contains("a relay serves at"), "{code} {error}");

    let mut screen = Terminal::open(&lab, &["attach", "rj", "--relay"]);
    let is_whole = |text: &str| {
        let rows =
            |host: &str| text.lines().filter(|line| line.contains(host) && line.contains("● run ")).count();
        text.contains("nodes 2") && (rows("n01"), rows("n02")) == (2, 2) && !text.contains("reconnecting")
    };
    wait_until("all ranks", PATIENCE, || is_whole(&screen.text()).then_some(()));

    kill(relay.id() as i32, Signal::TERM);
    assert_eq!(relay.wait().expect("an end").code(), Some(0));
    screen.wait_for("reconnecting");
    let mut relay = start();
    wait_until("all ranks again", PATIENCE, || is_whole(&screen.text()).then_some(()));
    screen.press("q");
    assert_eq!(screen.wait(), 0);

    let status = lab.must(&["status", "rj", "--relay"]);
    assert!(status.contains("== n01") && status.contains("== n02"), "{status}");
    let stopped = lab.must(&["stop", "rj", "--now", "--relay"]);
    assert!(stopped.contains("on all 2 nodes"), "{stopped}");
    kill(relay.id() as i32, Signal::TERM);
    relay.wait().expect("an end");
    let (code, _, error) = lab.run(&["stop", "rj", "--relay"]);
    assert!(code == 1 && error.contains("no relay serves at"), "{code} {error}");
}

#[test]
fn relays_below_a_relay_are_watched_as_one_job() {
    let lab = Lab::new();
    for host in ["n01", "n02"] {
        let mut run = lab.elastictop();
        run.env("ELASTICTOP_DIR", lab.path(host)).args(JOB).args(["sleep", "1000"]);
        assert_eq!(finish(&mut run).0, 0);
    }
    let (dir, program) = (lab.dir().display(), env!("CARGO_BIN_EXE_elastictop"));
    let via = |what: &str| format!("env ELASTICTOP_DIR={dir}/{{host}} {program} proxy {what} {{job}}");
    let (nodes, relays) = (via(""), via("--relay"));
    let start = |name: &str, words: &[&str]| {
        let mut command = lab.elastictop();
        if name != "top" {
            command.env("ELASTICTOP_DIR", lab.path(name));
        }
        let relay = lab.spawn(name, command.args(["relay", "rj"]).args(words));
        let out = format!("{name}.out");
        wait_until("the relay listens", PATIENCE, || lab.read(&out).contains("watch over it").then_some(()));
        relay
    };
    let left = start("left", &["--nodes", "n01", "--via", &nodes]);
    let right = start("right", &["--nodes", "n02", "--via", &nodes]);
    let below = ["--nodes", "left,right", "--via", &relays];
    let top = start("top", &[&["--relays"], &below[..]].concat());

    let is_whole = |text: &str| {
        let rows =
            |host: &str| text.lines().filter(|line| line.contains(host) && line.contains("● run ")).count();
        text.contains("nodes 2") && (rows("n01"), rows("n02")) == (2, 2) && !text.contains("reconnecting")
    };
    let mut screen = Terminal::open(&lab, &["attach", "rj", "--relay"]);
    wait_until("all ranks", PATIENCE, || is_whole(&screen.text()).then_some(()));
    screen.press("q");
    assert_eq!(screen.wait(), 0);
    // The same without the relay above.
    let mut screen = Terminal::open(&lab, &[&["attach", "rj", "--relay"], &below[..]].concat());
    wait_until("all ranks", PATIENCE, || is_whole(&screen.text()).then_some(()));

    kill(left.id() as i32, Signal::TERM);
    screen.wait_for("n01 silent ");
    // What cannot be reached is named, and the rest of the job is stopped.
    let stop = [&["stop", "rj", "--now", "--relay"], &below[..]].concat();
    let (code, _, error) = lab.run(&stop);
    assert!(code == 1 && error.contains("done on 1 of 2 nodes only; not reached: left"), "{code} {error}");
    let mut again = start("left", &["--nodes", "n01", "--via", &nodes]);
    lab.must(&stop);
    let status = lab.must(&[&["status", "rj", "--relay"], &below[..]].concat());
    assert_eq!(status.matches("stopped").count(), 2, "{status}");
    screen.press("q");
    for mut relay in [left, right, top] {
        kill(relay.id() as i32, Signal::TERM);
        relay.wait().expect("an end");
    }
    kill(again.id() as i32, Signal::TERM);
    again.wait().expect("an end");
}
