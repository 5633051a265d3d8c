//! Faults, refusals and kills.

use std::{thread, time::Duration};

use elastictop::{
    domain::forward::RunState,
    wandb::{
        client::Client,
        credentials::ApiKey,
        log::Batch,
        upload::{Cursor, Uploads},
    },
};

use crate::{
    harness::*,
    wandb_server::{Fault, KEY, Server, What},
};

/// Each fault, on each kind of request, and every row arrives once.
#[test]
fn every_fault_is_survived() {
    let retry_after = |status, after: &str| What::Status { status, retry_after: Some(after.into()) };
    let faults = [
        What::Status { status: 500, retry_after: None },
        What::Status { status: 502, retry_after: None },
        What::Status { status: 408, retry_after: None },
        retry_after(429, "0.3"),
        retry_after(503, "Fri, 20 Nov 2026 09:41:00 GMT"),
        What::DropBefore,
        What::DropAfter,
        What::Slow { ms: 300 },
        What::Down { ms: 1500 },
        What::RateLimit { remaining: 1000.0, reset: 10.0 },
    ];
    let servers: Vec<_> = faults
        .into_iter()
        .map(|what| {
            let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
            for on in
                ["ServerFeatures", "RunResumeStatus", "UpsertBucket", "file_stream", "CreateRunFiles", "PUT"]
            {
                server.fail(Fault::once(on, what.clone()).times(2));
            }
            let mut log = Log::new(dir.path());
            log.rows(50);
            log.console("x\n", "");
            let uploads = uploads(&server);
            let upload = uploads.begin(log.job());
            (dir, server, log, uploads, upload, what)
        })
        .collect();
    for (_dir, server, mut log, uploads, upload, what) in servers {
        wait(&upload, "the first rows", |progress| progress.run.rows_acked == 50);
        upload.grew(log.rows(50));
        upload.grew(log.exit(2));
        drop(upload);
        assert!(uploads.finish(PATIENCE), "{what:?}");
        server.assert_sound();
        let store = server.store();
        assert!(store.faults > 0);
        let run = &store.runs[&key("run1")];
        assert_steps(run, 100);
        assert_eq!((run.complete, run.exit_code, run.files.len()), (true, Some(2), 3), "{what:?}");
    }
}

#[test]
fn rows_do_not_wait_for_storage() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    server.fail(Fault::once("PUT", What::Status { status: 503, retry_after: None }).times(0));
    let mut log = Log::new(dir.path());
    log.rows(50);
    log.exit(0);
    let uploads = uploads(&server);
    let upload = uploads.begin(log.job());
    server.wait_for("all rows", |store| {
        store.runs.get(&key("run1")).is_some_and(|run| run.history_lines() == 50 && !run.complete)
    });
    server.heal();
    drop(upload);
    assert!(uploads.finish(PATIENCE));
    server.assert_sound();
    let store = server.store();
    let run = &store.runs[&key("run1")];
    assert_steps(run, 50);
    assert_eq!((run.complete, run.exit_code, run.files.len()), (true, Some(0), 2));
}

#[test]
fn retry_after_is_waited_for_and_shown() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    server.fail(Fault::once("file_stream", What::Status { status: 429, retry_after: Some("2".into()) }));
    let mut log = Log::new(dir.path());
    log.rows(5);
    let uploads = uploads(&server);
    let upload = uploads.begin(log.job());
    let progress = wait(&upload, "a retry", |progress| progress.run.state == RunState::Retrying);
    assert!(progress.run.retry_at.is_some());
    assert_eq!(
        progress.run.last_error.as_deref(),
        Some("127.0.0.1 asks for fewer requests (429): failed on purpose")
    );
    let progress = wait(&upload, "the rows", |progress| progress.run.rows_acked == 5);
    assert_eq!((progress.run.last_error, progress.run.retry_at), (None, None));
    let times = server.store().stream_times.clone();
    assert!(times[1] - times[0] >= 2000, "{times:?}");
}

#[test]
fn a_refusal_is_said_and_nothing_is_lost() {
    for (entity, status, said) in [
        ("", 401, "127.0.0.1 does not know the API key (401); wandb login, or set WANDB_API_KEY"),
        ("forbidden", 403, "the API key may not write there (403); another --wandb-entity"),
        ("nobody", 404, "127.0.0.1 has no such entity or run (404); check --wandb-entity"),
    ] {
        let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
        let mut log = Log::in_entity(dir.path(), "run1", false, entity);
        log.rows(5);
        if status == 401 {
            server.fail(Fault::once("any", What::Status { status, retry_after: None }));
        }
        let progress = send(&server, log.job());
        assert_eq!(progress.run.state, RunState::Refused);
        let error = progress.run.last_error.unwrap();
        assert!(error.starts_with(said), "{error}");
        assert!(!error.contains(KEY));
        if status == 401 {
            // The user has logged in.
            assert_eq!(send(&server, log.job()).run.rows_acked, 5);
        }
    }
}

#[test]
fn the_stop_button_is_seen() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    server.fail(Fault::once("file_stream", What::Stopped));
    let mut log = Log::new(dir.path());
    log.rows(5);
    assert!(send(&server, log.job()).stopped);
}

#[test]
fn long_lines_are_refused_with_a_count() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let mut log = Log::new(dir.path());
    log.rows(1);
    let long = format!("\"{}\"", "x".repeat(10_383_360));
    for (value, step) in [(long.as_str(), "1"), (&long[..long.len() - 90], "2")] {
        let value = if value.ends_with('"') { value.to_owned() } else { format!("{value}\"") };
        let mut batch = Batch::new();
        batch
            .row([("x", value.as_str()), ("_step", step), ("_timestamp", "1.5"), ("_runtime", "1.5")])
            .unwrap();
        log.writer.append(&batch).unwrap();
    }
    log.exit(0);
    let progress = send(&server, log.job());
    server.assert_sound();
    assert_eq!((progress.run.rows_acked, progress.run.rows_lost), (2, 1));
    assert_eq!(server.store().runs[&key("run1")].history_lines(), 2);
}

#[test]
fn old_servers_get_lines_of_text() {
    let dir = tempfile::tempdir().unwrap();
    let server =
        Server::with(crate::wandb_server::Options { structured_console: false, ..Default::default() });
    let mut log = Log::new(dir.path());
    log.console("hi\n", "rank0");
    send(&server, log.job());
    let store = server.store();
    assert_eq!(store.runs[&key("run1")].clients[""].console.lines, ["2026-11-20T09:40:16.000000 [rank0] hi"]);
}

#[test]
fn a_redirect_to_another_host_gets_no_key() {
    use std::io::{Read, Write};
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://localhost:{}/graphql", other.local_addr().unwrap().port());
    let url = format!("http://{}", first.local_addr().unwrap());
    let serve = |listener: std::net::TcpListener, answer: String| {
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
            while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
                let read = stream.read(&mut buffer).unwrap();
                seen.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&seen).to_lowercase()
        })
    };
    let redirect =
        format!("HTTP/1.1 307 T\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let first = serve(first, redirect);
    let other = serve(other, "HTTP/1.1 401 U\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into());
    let (dir, uploads) = (
        tempfile::tempdir().unwrap(),
        Uploads::start(Client::new(&url, &ApiKey::new(KEY).unwrap()).unwrap()).unwrap(),
    );
    let upload = uploads.begin(Log::new(dir.path()).job());
    wait(&upload, "a refusal", |progress| progress.run.state == RunState::Refused);
    assert!(first.join().unwrap().contains("authorization: basic"));
    assert!(!other.join().unwrap().contains("authorization"));
}

/// The sender dies 200 times at random moments while the server fails at random.
#[test]
fn a_sender_that_is_killed_again_and_again_sends_every_row_once() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    server.fail(Fault::once("any", What::DropAfter).chance(0.1));
    server.fail(Fault::once("any", What::DropBefore).chance(0.05));
    server.fail(Fault::once("any", What::Status { status: 503, retry_after: None }).chance(0.05));
    server.fail(Fault::once("any", What::Slow { ms: 3 }).chance(0.2));
    let mut log = Log::new(dir.path());
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..200 {
        let uploads = uploads(&server);
        let upload = uploads.begin(log.job());
        upload.grew(log.rows(random.u64(1..50)));
        upload.grew(log.console(&format!("line {round}\npart"), ""));
        if random.u8(..10) == 0 {
            let next = log.next_segment();
            upload.add_segment(next, log.writer.len());
        }
        upload.grew(log.stats("1"));
        thread::sleep(Duration::from_micros(random.u64(0..40_000)));
        // Ends the thread wherever it is, as a kill would.
        uploads.finish(Duration::ZERO);
    }
    server.heal();
    log.exit(0);
    let progress = send(&server, log.job());
    assert_eq!(progress.run.state, RunState::Finished);
    server.assert_sound();
    let store = server.store();
    let run = &store.runs[&key("run1")];
    assert_steps(run, log.rows);
    assert_eq!(run.clients[""].events.lines.len(), 200);
    assert_eq!(run.clients[""].console.lines.len(), 201);
    assert_eq!(Cursor::rows_acked(&log.job().cursor), Some(log.rows));
    eprintln!(
        "{} rows in {:?}, {} of them again",
        log.rows, store.requests, run.clients[""].history.repeated
    );
}
