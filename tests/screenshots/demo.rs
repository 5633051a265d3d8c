//! The demo: eight ranks, one of which fails once. Needs nothing but the program.

use crate::{ALL, ESC, LARGE, SMALL, Stage, USUAL, WIDE, stage::Screen};

const START: &str = "./elastictop demo --ranks=8 --steps=100000 --step-ms=50 --crash-step=160";

pub fn pictures() {
    let Some(stage) = Stage::new() else { return };
    let mut screen = stage.open(START, LARGE);
    screen.until("eight ranks at step 40", |text| all_at(text, 40));
    screen.take("overview", &ALL);
    screen.until("the restart", |text| text.contains("restarts 1/3") && steps(text).len() == 8);
    screen.until("ranks at step 190", |text| all_at(text, 190));
    screen.take("restart", &[USUAL, WIDE]);
    views(&mut screen);
    rank(&mut screen);
    screen.close();
    in_other_looks(&stage);
    stage.run("./elastictop stop");
    replay(&stage);
}

fn views(screen: &mut Screen) {
    screen.go("x", "Signal to");
    screen.take("signal", &[USUAL]);
    screen.leave(ESC, "Signal to");
    screen.go("Q", "Stop");
    screen.take("stop", &[USUAL]);
    screen.leave(ESC, "leave it running");
    screen.go("?", "─ keys ─");
    screen.take("help", &[USUAL, LARGE]);
    screen.leave(ESC, "─ keys ─");
    screen.go(":the", "theme");
    screen.take("palette", &[USUAL]);
    screen.leave(ESC, "─ command ─");
    screen.press("3");
    screen.until("the timeline", |text| !text.contains("LAST LINE") && text.contains("goodput"));
    screen.go("k", " cause ");
    screen.take("timeline", &[SMALL, USUAL, LARGE]);
    screen.go("4", "agent started");
    screen.take("events", &[USUAL, WIDE]);
    screen.go("2", "\"loss\"");
    screen.take("logs", &[SMALL, USUAL, LARGE]);
    screen.press("e");
    screen.until("the error", |text| text.contains("Error: injected") && !text.contains("FOLLOW"));
    screen.take("error", &[USUAL, WIDE]);
}

fn rank(screen: &mut Screen) {
    screen.press("1g\r");
    screen.until("the page of a rank", |text| {
        // The word about the error stays for some seconds.
        text.contains("a second") && text.contains("\"loss\"") && text.contains("other ranks")
    });
    screen.take("rank", &ALL);
    screen.press(&format!("{ESC}[D").repeat(8));
    screen.until("a cursor in the past", |text| text.contains(" s ago ") || text.contains(" s ago"));
    screen.take("rank-cursor", &[WIDE]);
    screen.press("G");
    screen.go("t", "compared with");
    screen.take("rank-env", &[USUAL, WIDE]);
    screen.go("tt", "standard error");
    screen.take("rank-error", &[WIDE]);
    screen.go("ttt", "this rank");
    screen.take("rank-peers", &[WIDE]);
}

/// The same screens for other eyes.
fn in_other_looks(stage: &Stage) {
    for (name, flags, views) in [
        ("light", "--theme=default-light", &["overview", "timeline", "logs", "rank"][..]),
        ("mono", "--color=never", &["overview", "timeline", "rank"]),
        ("ascii", "--color=16 --ascii", &["overview", "rank"]),
    ] {
        let mut screen = stage.open(&format!("./elastictop attach {flags}"), LARGE);
        screen.until("all ranks", |text| text.contains("restarts 1/3") && steps(text).len() == 8);
        for view in views {
            match *view {
                "timeline" => screen.go("3", "goodput"),
                "logs" => screen.go("2", "\"loss\""),
                "rank" => screen.go("1\r", "a second"),
                _ => {}
            }
            screen.take(&format!("{name}-{view}"), &[if *view == "rank" { WIDE } else { USUAL }]);
        }
        screen.close();
    }
}

/// The job again, from what it left.
fn replay(stage: &Stage) {
    let mut screen = stage.open("./elastictop replay demo --at alert", LARGE);
    screen.until("the first failure", |text| text.contains("replay") && steps(text).len() == 8);
    screen.take("replay", &[USUAL, LARGE]);
    screen.close();
}

/// Whether eight ranks have got to a step.
fn all_at(text: &str, least: u64) -> bool {
    steps(text).iter().filter(|step| **step >= least).count() == 8
}

/// What stands in the STEP column of each row of ranks.
pub fn steps(text: &str) -> Vec<u64> {
    let Some(header) = text.lines().find(|line| line.contains("RANK") && line.contains("STEP")) else {
        return Vec::new();
    };
    let end = header[..header.find("STEP").unwrap()].chars().count() + "STEP".len();
    let rows = text.lines().skip_while(|line| *line != header).skip(1);
    let step = |line: &str| line.chars().take(end).collect::<String>().split(' ').next_back()?.parse().ok();
    rows.map_while(step).collect()
}
