//! What is typed at the foot of the screen: commands that there are not, and what is looked for among events.

use super::scripts::{press, said};
use crate::tui::{
    app::{App, Cmd},
    fixture,
    keys::View,
};

fn veteran() -> App {
    fixture::app(&fixture::veteran(), (100, 30), None)
}

fn shown(app: &App) -> Vec<String> {
    app.found_events().0.iter().map(|line| line.text.clone()).collect()
}

#[test]
fn quit_is_a_command_and_what_is_none_is_told_with_what_there_is() {
    let mut app = veteran();
    assert!(press(&mut app, ": q <Enter>", &[]).contains(&Cmd::Leave));
    press(&mut app, ": t h e m e <Space> f o o <Enter>", &[]);
    assert!(said(&app).starts_with("no theme \"foo\"; there are default-dark"), "{}", said(&app));
    press(&mut app, ": s o r t <Space> w e i r d <Enter>", &[]);
    assert!(said(&app).starts_with("no sort \"weird\"; there are suspicion"), "{}", said(&app));
    press(&mut app, ": s e e k <Space> 4 0 % <Enter>", &[]);
    assert_eq!(said(&app), "seek is for recordings: elastictop replay");
}

#[test]
fn events_are_found_by_what_they_say() {
    let mut app = veteran();
    press(&mut app, "4", &[]);
    let all = shown(&app);
    press(&mut app, "/ R E S T A R T <Enter>", &[]);
    let found = shown(&app);
    assert!(!found.is_empty() && found.len() < all.len(), "{found:#?}");
    assert!(found.iter().all(|text| text.to_lowercase().contains("restart")), "{found:#?}");
    press(&mut app, "k", &[]);
    assert_eq!(
        app.found_events().1,
        found.len().saturating_sub(2),
        "the selection moves among what was found"
    );
    press(&mut app, "<Esc>", &[]);
    assert_eq!((shown(&app), app.view), (all, View::Events));
    press(&mut app, "/ z z z z <Esc>", &[]);
    assert_eq!(app.event_find, "");
}

#[test]
fn the_page_of_a_rank_leaves_the_order_of_the_overview_alone() {
    let mut app = veteran();
    let (order, metric) = (app.overview.order, app.overview.metric);
    press(&mut app, "<Enter> o m", &[]);
    assert_eq!((app.overview.order, app.overview.metric), (order, metric));
    assert!(said(&app).contains("Esc leads back"), "{}", said(&app));
}

#[test]
fn a_log_that_was_opened_from_a_page_leads_back_to_it() {
    let mut app = veteran();
    press(&mut app, "j <Enter> l", &[]);
    assert_eq!(app.view, View::Logs);
    press(&mut app, "<Esc>", &[]);
    assert!(app.view == View::Overview && app.detail() && app.selected == 1);
    press(&mut app, "<Esc> l <Esc>", &[]);
    assert!(app.view == View::Overview && !app.detail(), "one of the overview to the overview");
}
