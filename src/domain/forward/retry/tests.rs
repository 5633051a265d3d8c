use std::fmt::Write;

use proptest::prelude::*;

use super::*;

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn waits_double_up_to_a_minute() {
    let waits =
        |random| (1..=7).map(|n| Backoff::default().wait(n, random).as_secs_f64()).collect::<Vec<_>>();
    assert_eq!(waits(0.0), [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
    assert_eq!(waits(1.0), [2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0]);
}

#[test]
fn retry_after_is_exact() {
    let now = Stamp(1_795_167_600_000);
    assert_eq!(retry_after("7", now), Some(secs(7.0)));
    assert_eq!(retry_after(" 0.25 ", now), Some(secs(0.25)));
    assert_eq!(retry_after("Fri, 20 Nov 2026 09:41:00 GMT", now), Some(secs(60.0)));
    assert_eq!(retry_after("Fri, 20 Nov 2026 09:30:00 GMT", now), Some(Duration::ZERO), "a date in the past");
    for neither in ["", "soon", "-1", "NaN", "1e99", "2026-11-20"] {
        assert_eq!(retry_after(neither, now), None, "{neither}");
    }
}

#[test]
fn statuses_are_judged() {
    let of = |call| {
        let all = [
            200, 204, 302, 400, 401, 402, 403, 404, 405, 408, 409, 410, 413, 418, 422, 429, 500, 501, 502,
            599,
        ];
        all.map(|status| (status, judge(call, status)))
            .into_iter()
            .filter(|(_, verdict)| *verdict == Verdict::Again)
            .map(|(status, _)| status)
            .collect::<Vec<_>>()
    };
    assert_eq!(of(Call::FileStream), [405, 408, 418, 429, 500, 502, 599]);
    assert_eq!(of(Call::Storage), of(Call::FileStream));
    assert_eq!(of(Call::Upsert), [405, 408, 409, 418, 429, 500, 502, 599]);
    assert_eq!(judge(Call::Query, 200), Verdict::Done);
    assert_eq!(judge(Call::FileStream, 401), Verdict::Refused);
}

/// A script of what happens, and what is due after each step.
fn transcript(script: &[(&str, f64)]) -> String {
    let (mut pace, mut now, mut text) = (Pace::default(), Duration::ZERO, String::new());
    for (what, value) in script {
        match *what {
            "send" => {
                now = secs(*value);
                pace.sent(now);
            }
            "done" => pace.done(None),
            "limit" => pace.done(Some(RateLimit { remaining: *value, reset: 10.0 })),
            "fail" => _ = pace.failed(now, None, *value),
            "asked" => _ = pace.failed(now, Some(secs(*value)), 0.5),
            other => panic!("{other}"),
        }
        let due = [Waiting::Nothing, Waiting::Some, Waiting::Much].map(|w| pace.due(w).as_secs_f64());
        writeln!(text, "{what} {value}: {due:?}").unwrap();
    }
    text
}

#[test]
fn a_transcript_of_pace() {
    let text = transcript(&[
        ("send", 0.0),
        ("done", 0.0),
        ("send", 10.0),
        ("fail", 0.0),
        ("send", 12.0),
        ("fail", 1.0),
        ("send", 17.0),
        ("asked", 0.7),
        ("send", 17.7),
        ("done", 0.0),
    ]);
    assert_eq!(
        text,
        "send 0: [30.0, 1.5, 0.5]\n\
         done 0: [30.0, 1.5, 0.5]\n\
         send 10: [40.0, 11.5, 10.5]\n\
         fail 0: [12.0, 12.0, 12.0]\n\
         send 12: [12.0, 12.0, 12.0]\n\
         fail 1: [17.0, 17.0, 17.0]\n\
         send 17: [17.0, 17.0, 17.0]\n\
         asked 0.7: [17.7, 17.7, 17.7]\n\
         send 17.7: [17.7, 17.7, 17.7]\n\
         done 0: [47.7, 19.2, 18.2]\n"
    );
    let first = Pace::default();
    assert_eq!(first.due(Waiting::Some), Duration::ZERO, "the first rows go at once");
}

#[test]
fn a_tight_limit_slows_down_and_a_wide_one_does_not() {
    let due = |remaining: f64| {
        let mut pace = Pace::default();
        for n in 0..10 {
            pace.sent(secs(f64::from(n)));
            pace.done(Some(RateLimit { remaining, reset: 10.0 }));
        }
        pace.due(Waiting::Much).saturating_sub(secs(9.0))
    };
    assert_eq!(due(1000.0), LEAST_GAP, "two a second at most, whatever the server allows");
    assert_eq!(due(5.0), secs(2.0), "five in ten seconds");
    assert_eq!(due(0.0), secs(10.0), "never slower than one in ten seconds");
    let mut pace = Pace::default();
    (0..4).for_each(|_| pace.done(Some(RateLimit { remaining: 0.0, reset: 10.0 })));
    (0..9).for_each(|_| pace.done(Some(RateLimit { remaining: 0.0, reset: 0.5 })));
    pace.sent(Duration::ZERO);
    assert_eq!(pace.due(Waiting::Much), LEAST_GAP, "too few answers, and windows that end at once");
}

proptest! {
    #[test]
    fn any_header_is_survived(text in ".{0,40}", now in 0_u64..1 << 45) {
        let _ = retry_after(&text, Stamp(now));
    }

    #[test]
    fn any_limit_is_survived(limits in proptest::collection::vec((any::<f64>(), any::<f64>()), 0..20)) {
        let mut pace = Pace::default();
        pace.sent(Duration::ZERO);
        for (remaining, reset) in limits {
            pace.done(Some(RateLimit { remaining, reset }));
            prop_assert!((LEAST_GAP..=secs(10.0)).contains(&pace.due(Waiting::Much)));
        }
    }
}
