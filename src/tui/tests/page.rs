//! The page of a rank, the hang view, and what earlier screens got wrong.

use std::time::Duration;

use super::{
    looks::paint,
    scripts::{press, said},
};
use crate::{
    domain::{
        closeup::Question,
        event::{Fact, Launcher, Reason},
        log::{LogLine, Stream},
        rank::JobState,
        sample::RankSample,
    },
    tui::{
        app::{App, Cmd, Msg, Tab},
        fixture::{self, Story},
        fixture_page as page,
        keys::{self, View},
        screen::{Screen, Sink},
        view,
    },
    wire::message::{ToSupervisor, ToViewer},
};

const SIZE: (u16, u16) = (80, 24);

pub(super) fn text(app: &App, size: (u16, u16)) -> String {
    let buffer = paint(app, size);
    let row = |y: u16| (0..size.0).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..size.1).map(|y| row(y).trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn questions(cmds: &[Cmd]) -> Vec<Question> {
    let of = |cmd: &Cmd| match cmd {
        Cmd::Send(ToSupervisor::LookAt { question, .. }) => Some(*question),
        _ => None,
    };
    cmds.iter().filter_map(of).collect()
}

fn key(app: &mut App, name: &str) -> Vec<Cmd> {
    keys::script(name).into_iter().flat_map(|key| app.update(Msg::Key(key))).collect()
}

fn yanked(cmds: &[Cmd]) -> Option<&str> {
    cmds.iter().find_map(|cmd| if let Cmd::Yank(text) = cmd { Some(text.as_str()) } else { None })
}

#[test]
fn a_page_asks_what_it_shows_once_and_again_when_nobody_answers() {
    let story = fixture::healthy(4);
    let mut app = fixture::app(&story, SIZE, None);
    assert_eq!(questions(&key(&mut app, "j")), []);
    assert_eq!(questions(&key(&mut app, "<Enter>")), [Question::History, Question::Process]);
    assert_eq!(questions(&key(&mut app, "t")), [Question::Environment]);
    let later = |ms| Msg::Tick(story.now() + Duration::from_millis(ms));
    assert_eq!(questions(&app.update(later(4900))), []);
    let again = app.update(later(5100));
    assert_eq!(questions(&again), [Question::History, Question::Process, Question::Environment]);
    // Another rank is another page.
    assert_eq!(questions(&key(&mut app, "j")).len(), 3);
    // A new link knows nothing of what the former one was asked.
    app.update(Msg::Unlinked("gone".into()));
    assert_eq!(questions(&app.update(later(20_000))), []);
}

#[test]
fn answers_stay_and_a_new_process_is_asked_anew() {
    let mut story = fixture::healthy(4);
    let mut app = fixture::app(&story, SIZE, None);
    assert_eq!(questions(&press(&mut app, "j <Enter> t", &[])), [], "all were answered");
    assert!(text(&app, SIZE).contains("RANK=1"));
    let known = story.events.len();
    story.crash(2, fixture::out_of_memory()).restart(Reason::Failure, None).ranks(true);
    let events = story.events.split_off(known);
    let cmds = app.update(Msg::Heard(Box::new(ToViewer::Events { events })));
    assert_eq!(questions(&cmds), [Question::Process, Question::Environment]);
    assert!(text(&app, SIZE).contains("asking"));
}

#[test]
fn what_is_heard_goes_into_the_charts_of_the_rank_that_is_shown() {
    let mut story = fixture::healthy(4);
    let mut app = fixture::app(&story, SIZE, None);
    press(&mut app, "<Enter>", &[]);
    let before = app.page.history.clone().unwrap();
    let sample = |local_rank| RankSample { local_rank, rss_bytes: Some(77 << 30), ..RankSample::default() };
    for (local_rank, changes) in [(1, false), (0, true)] {
        let known = story.events.len();
        story.wait(3.0).fact(Fact::Sample { ranks: vec![sample(local_rank)] });
        let events = story.events.split_off(known);
        app.update(Msg::Heard(Box::new(ToViewer::Events { events })));
        assert_eq!(app.page.history.as_ref() != Some(&before), changes, "rank {local_rank}");
    }
}

#[test]
fn figures_do_not_depend_on_how_many_events_come_together() {
    let story = || {
        let mut story = fixture::healthy(4);
        let known = story.events.len();
        for second in 1..30_u64 {
            let at = story.wait(1.0).now();
            let (step, rss) = (2000 + second * second, (4 + second) << 30);
            let sample = RankSample {
                step: Some(step),
                step_at: Some(at),
                rss_bytes: Some(rss),
                ..RankSample::default()
            };
            story.fact(Fact::Sample { ranks: vec![sample] });
        }
        let events = story.events.split_off(known);
        (fixture::healthy(4), events)
    };
    let figures = |portion: usize| {
        let (before, events) = story();
        let mut app = fixture::app(&before, SIZE, None);
        press(&mut app, "<Enter>", &[]);
        for part in events.chunks(portion) {
            app.update(Msg::Heard(Box::new(ToViewer::Events { events: part.to_vec() })));
        }
        app.page.history.clone().unwrap()
    };
    assert_eq!(figures(100), figures(1));
}

#[test]
fn the_cursor_goes_through_the_past_and_comes_back_to_the_present() {
    let mut app = fixture::app(&fixture::on_gpus(), (200, 50), None);
    press(&mut app, "j j j <Enter>", &[]);
    let live = text(&app, (200, 50));
    assert!(live.contains("now") && !live.contains("10 s ago"), "{live}");
    press(&mut app, "<Left>", &[]);
    let cell = view::page_axis(&app).resolution.cell_ms();
    assert_eq!(app.page.cursor.map(|at| app.now.0 - at.0), Some(cell));
    press(&mut app, "<Left> <Left> <Left> <Left>", &[]);
    let past = text(&app, (200, 50));
    assert_ne!(
        live.lines().find(|line| line.contains("GPU memory ")),
        past.lines().find(|line| line.contains("GPU memory "))
    );
    // The same time of another rank.
    let at = app.page.cursor;
    press(&mut app, "k", &[]);
    assert_eq!(app.page.cursor, at);
    for _ in 0..5 {
        press(&mut app, "<Right>", &[]);
    }
    assert_eq!((app.page.cursor, app.view), (None, View::Overview), "behind the newest is the present");
    for _ in 0..1000 {
        press(&mut app, "<Left>", &[]);
    }
    let axis = view::page_axis(&app);
    assert_eq!(app.page.cursor, Some(axis.oldest()));
    press(&mut app, "G", &[]);
    assert_eq!(app.page.cursor, None);
    let resolutions: Vec<_> = (0..3)
        .map(|_| {
            press(&mut app, "z", &[]);
            view::page_axis(&app).resolution.cell_ms()
        })
        .collect();
    assert_eq!(resolutions.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
}

#[test]
fn charts_need_no_gpu() {
    let mut app = fixture::app(&fixture::healthy(4), (120, 40), None);
    press(&mut app, "<Enter>", &[]);
    let shown = text(&app, (120, 40));
    for figure in ["step 1.00 s, 1.00 a second", "CPU ", "memory "] {
        assert!(shown.contains(figure), "{figure} in\n{shown}");
    }
}

#[test]
fn secrets_of_the_environment_are_hidden_and_drift_comes_first() {
    let mut app = fixture::app(&fixture::healthy(8), (120, 40), None);
    press(&mut app, "j j <Enter> t", &[]);
    let shown = text(&app, (120, 40));
    assert!(shown.contains("HF_TOKEN=[hidden]") && shown.contains("ada:[hidden]@proxy"), "{shown}");
    assert!(!shown.contains("hunter2") && !shown.contains("abcdefghij"), "{shown}");
    let first = shown.lines().find(|line| line.contains("odd     ")).unwrap();
    assert!(first.contains("NCCL_IB_HCA=mlx5_7"), "{first}");
    press(&mut app, "/ h o m e", &[]);
    let found = text(&app, (120, 40));
    assert!(found.contains("HOME=/home/ada") && !found.contains("NCCL_IB_HCA"), "{found}");
    press(&mut app, "<Enter> <Esc>", &[]);
    assert!(app.detail() && text(&app, (120, 40)).contains("NCCL_IB_HCA"), "Esc takes the search away first");
    press(&mut app, "<Esc>", &[]);
    assert!(!app.detail());
}

#[test]
fn stacks_of_one_rank_stay_on_its_page_and_those_of_all_on_the_hang_view() {
    let mut app = fixture::app(&page::hung(), (120, 40), None);
    press(&mut app, "<Enter> s", &[]);
    assert_eq!((app.tab, app.view, app.detail()), (Tab::Stack, View::Overview, true));
    assert!(text(&app, (120, 40)).contains("QueueFeederThread"));
    press(&mut app, "H s", &[]);
    assert_eq!(app.view, View::Hang);
    let shown = text(&app, (120, 40));
    assert!(shown.contains("1 × _read_shard") && shown.contains("7 × all_reduce"), "{shown}");
}

#[test]
fn who_restarts_one_node_of_several_is_told_what_that_does_to_the_others() {
    let mut app = fixture::app(&fixture::healthy(4), SIZE, None);
    press(&mut app, "R", &[]);
    let warning = "attach --nodes restarts all";
    assert!(app.dialog.is_some() && !text(&app, SIZE).contains(warning));
    press(&mut app, "<Esc>", &[]);
    app.state.world_size = Some(16);
    press(&mut app, "R", &[]);
    assert!(text(&app, SIZE).contains(warning), "{}", text(&app, SIZE));
}

#[test]
fn stacks_that_come_late_do_not_call_back_who_went_on() {
    let mut app = fixture::app(&page::hung(), (120, 40), None);
    let cmds = app.update(Msg::Key(keys::script("s")[0]));
    let Some(Cmd::Send(ToSupervisor::Do { id, .. })) = cmds.first() else { panic!("{cmds:?}") };
    let told = ToViewer::Stacks { id: *id, stacks: page::hung_stacks() };
    press(&mut app, "2", &[]);
    app.update(Msg::Heard(Box::new(told)));
    assert_eq!((app.view, said(&app)), (View::Logs, "stacks were taken; :view-stacks shows them"));
    press(&mut app, ": v i e w - s t a c k s <Enter>", &[]);
    assert!(app.view == View::Stacks && text(&app, (120, 40)).contains("_read_shard"));
}

#[test]
fn the_hang_view_names_the_rank_and_leads_to_it() {
    let mut app = fixture::app(&page::hung(), (120, 40), None);
    assert!(text(&app, (120, 40)).lines().last().unwrap().contains("H why it hangs"));
    press(&mut app, "G H", &[]);
    let shown = text(&app, (120, 40));
    for part in [
        "rank 3 sleeps and has not joined all_reduce #6650",
        "1 rank  at 6649",
        "7 ranks at 6650",
        "the collective's own time limit, in 7m 46s",
        "futex_do_wait",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    assert_eq!(app.selected, 3);
    press(&mut app, "<Enter>", &[]);
    assert!(app.detail() && app.selected == 3);
    let mut calm = fixture::app(&fixture::healthy(4), (120, 40), None);
    assert!(!text(&calm, (120, 40)).contains("why it hangs"));
    press(&mut calm, "H", &[]);
    assert!(text(&calm, (120, 40)).contains("no verdict"));
    press(&mut calm, "<Esc>", &[]);
    assert_eq!(calm.view, View::Overview);
}

#[test]
fn every_view_has_something_to_copy() {
    let lines = fixture::log_lines(50);
    for (story, script, says) in [
        (fixture::veteran as fn() -> Story, "y", "step "),
        (fixture::veteran, "Y", "rank 0, node gpu-node-03, pid "),
        (fixture::veteran, "<Enter> Y", "python -u train.py"),
        (fixture::veteran, "<Enter> y", "loss"),
        (fixture::veteran, "<Enter> t y", "NCCL_DEBUG=WARN"),
        (page::died, "j j <Enter> t t t y", "error.json"),
        (fixture::veteran, "L y", "worker group healthy"),
        (fixture::veteran, "3 g y", "ran out of CUDA memory"),
        (fixture::veteran, "4 y", "job is running"),
        (page::hung, "H y", "rank 3 sleeps"),
        (page::hung, "s y", "_read_shard"),
        (crate::tui::fixture_runs::each_rank, "5 j y", "https://"),
    ] {
        let mut app = fixture::app(&story(), (120, 40), None);
        let cmds = press(&mut app, script, &lines);
        let text = yanked(&cmds).unwrap_or_else(|| panic!("{script}: {}", said(&app)));
        assert!(text.contains(says), "{script}: {text}");
    }
}

const OFFERS: [&str; 7] = ["x signal", "x send", "R restart", "Q stop", "Q end", "s stack", "s takes"];

#[test]
fn screens_that_can_only_watch_offer_nothing_that_changes() {
    for (story, script) in [
        (page::hung as fn() -> Story, ""),
        (page::hung, "H"),
        (fixture::troubled, ""),
        (page::hung, "<Enter>"),
    ] {
        let mut app = fixture::app(&story(), (200, 50), Some("not started by elastictop"));
        press(&mut app, script, &[]);
        let shown = text(&app, (200, 50));
        for offer in OFFERS {
            assert!(!shown.contains(offer), "{offer:?} offered in\n{shown}");
        }
        let mut app = fixture::app(&story(), (200, 50), None);
        press(&mut app, script, &[]);
        let shown = text(&app, (200, 50));
        assert!(OFFERS.iter().any(|offer| shown.contains(offer)), "else this proves nothing");
    }
}

#[test]
fn a_failure_that_was_got_over_leaves_the_screen() {
    let mut story = fixture::healthy(4);
    story.crash(2, fixture::out_of_memory());
    story.restart(Reason::Failure, Some(fixture::out_of_memory())).ranks(true);
    // Below, the timeline and the events still have it.
    let banner = |story: &Story| {
        let shown = text(&fixture::app(story, SIZE, None), SIZE);
        shown.lines().nth(2).is_some_and(|line| line.contains("attempt 0 failed: r2 ran out"))
    };
    story.wait(200.0);
    assert!(banner(&story), "no step yet: nobody knows whether it works");
    story.work(50, 40.0);
    assert!(banner(&story), "it may fail at once again");
    story.wait(25.0);
    assert!(!banner(&story), "a minute of steps");
}

#[test]
fn the_way_out_of_everything_is_the_list_that_one_came_from() {
    let story = fixture::healthy(4);
    for from_list in [true, false] {
        let options = crate::tui::Options { from_list, ..fixture::options() };
        let mut app = App::new(&options, SIZE, story.now(), 0);
        app.update(Msg::Linked);
        app.update(Msg::Heard(Box::new(ToViewer::Snapshot {
            state: Box::new(story.state.clone()),
            lost: 0,
        })));
        let left = |cmds: Vec<Cmd>| cmds.contains(&Cmd::Leave);
        assert!(!left(press(&mut app, "<Enter> <Esc>", &[])));
        assert!(!left(press(&mut app, "L <Esc>", &[])));
        assert_eq!(left(press(&mut app, "<Esc>", &[])), from_list);
    }
}

#[test]
fn one_long_line_leaves_room_for_others_while_the_end_is_followed() {
    let line = |n: u64, text: String| LogLine {
        n,
        at: fixture::BEGIN,
        rank: Some(0),
        local_rank: Some(0),
        attempt: 0,
        stream: Stream::Out,
        text,
    };
    let mut lines: Vec<LogLine> = (0..40).map(|n| line(n, format!("line {n}"))).collect();
    lines[38].text = "x".repeat(20_000);
    let mut app = fixture::app(&fixture::healthy(4), SIZE, None);
    press(&mut app, "L w", &lines);
    let shown = text(&app, SIZE);
    assert!(shown.contains("line 39") && shown.contains("line 30") && shown.contains("more rows"), "{shown}");
    press(&mut app, "k", &lines);
    assert!(!text(&app, SIZE).contains("line 30"), "the selected line has the room once the log is paused");
}

/// Takes what is sent.
#[derive(Clone, Default)]
struct Tape(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Sink for Tape {
    fn is_idle(&self) -> bool {
        true
    }
    fn is_broken(&self) -> bool {
        false
    }
    fn send(&mut self, bytes: Vec<u8>) {
        *self.0.lock().unwrap() = bytes;
    }
}

#[test]
fn links_reach_the_terminal_only_where_they_are_wanted() {
    for links in [true, false] {
        let options = crate::tui::Options { links, ..fixture::options() };
        let story = crate::tui::fixture_runs::each_rank();
        let mut app = App::new(&options, (120, 40), story.now(), 0);
        app.update(Msg::Linked);
        app.update(Msg::Heard(Box::new(ToViewer::Snapshot {
            state: Box::new(story.state.clone()),
            lost: 0,
        })));
        press(&mut app, "5 j", &[]);
        let tape = Tape::default();
        let mut screen = Screen::new(Box::new(tape.clone()), (120, 40));
        let frame = |screen: &mut Screen, app: &App| {
            tape.0.lock().unwrap().clear();
            screen.show(|area, canvas| view::paint(app, area, canvas)).unwrap();
            String::from_utf8(tape.0.lock().unwrap().clone()).unwrap()
        };
        let first = frame(&mut screen, &app);
        assert_eq!(first.contains("\x1b]8;;https://"), links);
        assert_eq!(frame(&mut screen, &app), "", "nothing new is no byte, with links too");
        press(&mut app, "1", &[]);
        assert!(!frame(&mut screen, &app).contains("\x1b]8;;https://"));
    }
}

#[test]
fn what_a_change_of_the_members_ended_has_not_failed() {
    for (reason, how) in [(Reason::Membership, "attempt 0 ended: "), (Reason::Failure, "attempt 0 failed: ")]
    {
        let mut story = Story::new(4, Launcher::Torchrun);
        story.group().ranks(true).work(100, 60.0).crash(2, fixture::out_of_memory());
        match reason {
            Reason::Membership => {
                story.fact(Fact::MembershipChanged { attempt: 1, from: Some(4), world_size: Some(4) })
            }
            _ => story.restart(reason, None),
        };
        story.ranks(true).fact(Fact::JobState { state: JobState::Running, deadline: None }).wait(5.0);
        let shown = text(&fixture::app(&story, (120, 40), None), (120, 40));
        assert!(shown.lines().take(4).any(|line| line.contains(how)), "{shown}");
    }
}
