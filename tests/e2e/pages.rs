//! What is asked about one rank, answered from its real process; and a job whose folder is removed.

use std::fs;

use serde_json::{Value, json};

use crate::{
    harness::{Job, Lab, living, script},
    viewers::Raw,
};

/// Asks, and hears on until the answer is there.
fn ask(raw: &mut Raw, id: u64, local_rank: u32, question: &str) -> Value {
    raw.say(&json!({"m": "look_at", "id": id, "local_rank": local_rank, "question": question}))
        .expect("a supervisor that listens");
    loop {
        let message = raw.hear().expect("an answer");
        if message["m"] == "close_up" && message["id"] == id {
            return message["close_up"].clone();
        }
    }
}

#[test]
fn a_rank_is_told_of_as_its_process_is() {
    let lab = Lab::new();
    // Rank 1 is not as the others: one variable more, another value of a second, a secret of its own.
    let odd = "MY_HCA=mlx5_7 MY_MORE=1 MY_TOKEN=sesame-open-1 PROXY=http://me:sesame-open-1@host";
    let rank = format!(
        "if [ $RANK = 1 ]; then exec env {odd} sh -c 'while [ ! -e end ]; do sleep 0.1; done'; else \
         exec env MY_HCA=mlx5_0 sh -c 'while [ ! -e end ]; do sleep 0.1; done'; fi"
    );
    let words = ["--launcher", "local", "--nproc-per-node", "3", "--no-python", "sh", "-c", &rank];
    let job = lab.start("job", &words);
    let pids = living(&job.wait_for_ranks(3));
    let mut raw = Raw::hello(&job);
    // The shells become what they are a moment after they were seen.
    let mut id = 0;
    let environment = loop {
        id += 1;
        let told = ask(&mut raw, id, 1, "environment")["environment"].clone();
        if told.to_string().contains("MY_MORE") && told.to_string().contains("mlx5_0") {
            break told;
        }
    };
    assert!(!environment.to_string().contains("sesame"), "{environment:#}");
    let of = |name: &str| {
        let variables = environment["variables"].as_array().expect("variables");
        variables.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    assert_eq!((&of("MY_HCA")["standing"], &of("MY_HCA")["value"]), (&"odd".into(), &"mlx5_7".into()));
    assert_eq!(of("MY_HCA")["others"], json!([[[0, 2], "mlx5_0"]]));
    assert_eq!(
        (&of("MY_MORE")["standing"], &of("MY_MORE")["others"]),
        (&"odd".into(), &json!([[[0, 2], null]]))
    );
    assert_eq!(of("MY_TOKEN")["value"], "[hidden]");
    assert_eq!((&of("RANK")["standing"], &of("WORLD_SIZE")["standing"]), (&"own".into(), &"alike".into()));

    let process = ask(&mut raw, 1001, 2, "process");
    assert_eq!(process["proc"]["pid"], pids[2]);
    let process = &process["process"];
    assert_eq!(process["parent"], job.status()["agent"]["pid"]);
    assert_eq!(process["cwd"], fs::canonicalize(lab.dir()).expect("a folder").to_str().expect("a name"));
    assert!(process["command"].to_string().contains("while [ ! -e end ]"), "{process:#}");
    let group = fs::read_to_string(format!("/proc/{}/cgroup", pids[2])).expect("a living rank");
    let told = process["cgroup"].as_str().expect("a control group");
    assert!(group.lines().any(|line| line.ends_with(&format!(":{told}"))), "{told} of {group}");

    let history = loop {
        id += 1;
        let told = ask(&mut raw, 2000 + id, 0, "history")["history"].clone();
        if told["cpu_pct"][0][3].as_array().is_some_and(|cells| cells.len() > 2) {
            break told;
        }
        raw.hear();
    };
    assert!(history["rss_mib"][0][3].as_array().is_some_and(|cells| !cells.is_empty()), "{history:#}");
    let nobody = ask(&mut raw, 3001, 7, "environment");
    assert!(nobody["why_not"].to_string().contains("no such rank"), "{nobody:#}");
    lab.touch("end");
    job.wait_for_end();
}

#[test]
fn the_last_words_of_a_rank_are_what_torch_wrote() {
    let Some(lab) = Lab::with_torch() else { return };
    let job = lab.start(
        "job",
        &["--nproc-per-node", "2", "--max-restarts", "0", &script("raise_then_peer.py"), "--record"],
    );
    let mut raw = Raw::hello(&job);
    let status = job.wait_for_end();
    let guilty = status["job"]["cause"]["rank"].as_u64().expect("a guilty rank") as u32;
    let told = ask(&mut raw, 1, guilty, "last_words")["last_words"].clone();
    assert!(told["file"].as_str().is_some_and(|file| file.ends_with("/error.json")), "{told:#}");
    let text = told["text"].as_str().expect("what torch wrote");
    assert!(text.contains("bad batch") && text.contains("Traceback"), "{text}");
    assert!(told["stderr"].to_string().contains("bad batch"), "{told:#}");
    let environment = ask(&mut raw, 2, guilty, "environment");
    assert!(environment["why_not"].to_string().contains("its process is gone"), "{environment:#}");
    // Long after the end, from the files.
    let archive = lab.must(&["status", &job.id, "--json"]);
    assert!(archive.contains("\"failed\""), "{archive}");
}

fn storage_alert(message: &Value) -> Option<String> {
    let events = message["events"].as_array()?;
    let alert = events.iter().find(|event| event["alert"]["kind"] == "storage")?;
    Some(alert["alert"]["text"].to_string())
}

#[test]
fn who_watches_a_job_is_told_that_its_folder_was_removed() {
    let lab = Lab::new();
    let job: Job = lab.start("job", &["--launcher", "local", "--no-python", "sleep", "1000"]);
    let ranks = living(&job.wait_for_ranks(1));
    let mut raw = Raw::hello(&job);
    fs::remove_dir_all(job.dir()).expect("the job's folder");
    let text = loop {
        if let Some(text) = storage_alert(&raw.hear().expect("a supervisor that goes on")) {
            break text;
        }
    };
    assert!(
        text.contains("was removed") && text.contains(&job.id) && text.contains("the job goes on"),
        "{text}"
    );
    assert!(crate::harness::kernel_state(ranks[0]).is_some());
    raw.say(&json!({"m": "do", "id": 9, "command": {"do": "stop", "now": true}})).expect("it listens");
    while raw.hear().is_some_and(|message| !(message["m"] == "reply" && message["id"] == 9)) {}
}
