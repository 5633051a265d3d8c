//! What is known of a run besides its rows: who it is, its config, its metrics' definitions, its machine. All of it is
//! folded from records, kept in the cursor, and sent by UpsertBucket and as files.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::tree::Tree;
use crate::{
    domain::time::Stamp,
    wandb::log::{
        json,
        record::{self, Changes, Metric, Telemetry},
    },
};

/// The SDK whose protocol is spoken here: W&B's server and pages look at it. Used where a file does not say which SDK
/// wrote it.
const SPOKEN: &str = "0.31.0";

/// The run as its records have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct About {
    pub(super) id: String,
    pub(super) entity: String,
    pub(super) project: String,
    group: String,
    job_type: String,
    name: String,
    notes: String,
    tags: Vec<String>,
    sweep: String,
    host: String,
    repo: String,
    commit: String,
    /// When it started, in seconds since the epoch.
    pub(super) started: f64,
    /// Seconds that earlier parts of it ran.
    pub(super) earlier: f64,
    /// Values of `_wandb.t` by number.
    telemetry: Map<String, Value>,
    /// `define_metric`, in the order in which it was called.
    metrics: Vec<Defined>,
    /// Contents of `wandb-metadata.json`.
    pub(super) metadata: Option<Value>,
    config: Tree,
}

/// A metric's definition. Numbers are those of the protocol's fields, which the server wants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Defined {
    name: String,
    glob: String,
    step: String,
    options: Vec<u8>,
    summary: Vec<u8>,
}

impl About {
    /// The run's own record; that of a later segment changes what it names.
    pub(super) fn run(&mut self, run: &record::Run) {
        let put = |to: &mut String, from: &str| {
            if !from.is_empty() {
                from.clone_into(to);
            }
        };
        put(&mut self.id, &run.run_id);
        put(&mut self.entity, &run.entity);
        put(&mut self.project, &run.project);
        put(&mut self.group, &run.run_group);
        put(&mut self.job_type, &run.job_type);
        put(&mut self.name, &run.display_name);
        put(&mut self.notes, &run.notes);
        put(&mut self.sweep, &run.sweep_id);
        put(&mut self.host, &run.host);
        if !run.tags.is_empty() {
            self.tags.clone_from(&run.tags);
        }
        if let Some(git) = &run.git {
            put(&mut self.repo, &git.remote_url);
            put(&mut self.commit, &git.commit);
        }
        if let Some(at) = run.start_time {
            self.started = Stamp::from(at).0 as f64 / 1000.0;
        }
        self.earlier = f64::from(run.runtime);
        if let Some(telemetry) = &run.telemetry {
            self.telemetry(telemetry);
        }
        if let Some(config) = &run.config {
            self.config(config);
        }
    }

    /// A record of versions.
    pub(super) fn telemetry(&mut self, telemetry: &Telemetry) {
        for (number, value) in [
            ("4", &telemetry.python_version),
            ("5", &telemetry.cli_version),
            ("12", &telemetry.core_version),
            ("13", &telemetry.platform),
        ] {
            if !value.is_empty() {
                self.telemetry.insert(number.into(), value.as_str().into());
            }
        }
    }

    /// Changes of the config.
    pub(super) fn config(&mut self, changes: &Changes) {
        changes.update.iter().for_each(|item| self.config.set(item.path(), item.json()));
        changes.remove.iter().for_each(|item| self.config.remove(item.path()));
    }

    /// A definition of a metric; a later one of the same name takes the place of the first.
    pub(super) fn metric(&mut self, metric: &Metric) {
        let chosen = |flags: &[(u8, bool)]| flags.iter().filter(|(_, on)| *on).map(|(n, _)| *n).collect();
        let options = metric.options.unwrap_or_default();
        let summary = metric.summary.unwrap_or_default();
        let defined = Defined {
            name: metric.name.clone(),
            glob: metric.glob_name.clone(),
            step: metric.step_metric.clone(),
            options: chosen(&[(1, options.step_sync), (2, options.hidden), (3, options.defined)]),
            summary: chosen(&[
                (1, summary.min),
                (2, summary.max),
                (3, summary.mean),
                (4, summary.best),
                (5, summary.last),
                (6, summary.none),
                (8, summary.first),
            ]),
        };
        let same = |known: &&mut Defined| known.name == defined.name && known.glob == defined.glob;
        match self.metrics.iter_mut().find(same) {
            Some(known) => *known = defined,
            None => self.metrics.push(defined),
        }
    }

    /// Machine and program.
    pub(super) fn environment(&mut self, machine: &record::Environment) {
        let mut all = Map::new();
        let mut put = |key: &str, value: Value| {
            let is_empty = value.is_null() || value == json!("") || value == json!(0) || value == json!([]);
            if !is_empty {
                all.insert(key.into(), value);
            }
        };
        put("os", machine.os.as_str().into());
        put("python", machine.python.as_str().into());
        put("startedAt", machine.started_at.map(|at| Stamp::from(at).to_string()).into());
        put("args", machine.args.clone().into());
        put("program", machine.program.as_str().into());
        if let Some(git) = &machine.git {
            put("git", json!({"remote": git.remote_url, "commit": git.commit}));
        }
        put("root", machine.root.as_str().into());
        put("host", machine.host.as_str().into());
        put("username", machine.username.as_str().into());
        put("executable", machine.executable.as_str().into());
        put("cpu_count", machine.cpu_count.into());
        put("cpu_count_logical", machine.cpu_count_logical.into());
        put("gpu", machine.gpu_type.as_str().into());
        put("gpu_count", machine.gpu_count.into());
        put("cudaVersion", machine.cuda_version.as_str().into());
        put("writerId", machine.writer_id.as_str().into());
        self.metadata = Some(Value::Object(all));
    }

    /// Keeps what the server has and nobody set anew. `config` is the server's own form.
    pub(super) fn keep(&mut self, config: &str, tags: &Value, notes: &Value) {
        let old: Map<String, Value> = serde_json::from_str(config).unwrap_or_default();
        for (key, value) in old.into_iter().filter(|(key, _)| key != "_wandb") {
            if let Some(value) = value.get("value") {
                self.config.set_missing(&key, &value.to_string());
            }
        }
        if self.tags.is_empty() {
            let tags = tags.as_array().into_iter().flatten();
            self.tags = tags.filter_map(|tag| Some(tag.as_str()?.to_owned())).collect();
        }
        if let (true, Some(notes)) = (self.notes.is_empty(), notes.as_str()) {
            notes.clone_into(&mut self.notes);
        }
    }

    /// Variables of UpsertBucket; those that are empty stay as they are on the server.
    pub(super) fn upsert(&self, writer: &str, with_config: bool) -> Value {
        let or_null = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
        let config = if with_config { self.wire_config(writer).into() } else { Value::Null };
        json!({
            "id": null,
            "name": self.id,
            "project": or_null(&self.project),
            "entity": or_null(&self.entity),
            "groupName": or_null(&self.group),
            "displayName": or_null(&self.name),
            "notes": or_null(&self.notes),
            "commit": or_null(&self.commit),
            "config": config,
            "host": or_null(&self.host),
            "program": self.metadata.as_ref().map_or(Value::Null, |data| data["program"].clone()),
            "repo": or_null(&self.repo),
            "jobType": or_null(&self.job_type),
            "sweep": or_null(&self.sweep),
            "tags": if self.tags.is_empty() { Value::Null } else { json!(self.tags) },
        })
    }

    /// The config as the server wants it: `{"key": {"value": …}}`.
    fn wire_config(&self, writer: &str) -> String {
        let mut text = format!("{{\"_wandb\":{{\"value\":{}}}", self.own(writer));
        for (key, value) in self.config.top().filter(|(key, _)| *key != "_wandb") {
            text += &format!(",{}:{{\"value\":{value}}}", json::text(key));
        }
        text + "}"
    }

    /// Contents of `config.yaml`. JSON is YAML but for numbers that are none.
    pub(super) fn yaml(&self, writer: &str) -> String {
        let mut text = format!("_wandb:\n    value: {}\n", self.own(writer));
        for (key, value) in self.config.top().filter(|(key, _)| *key != "_wandb") {
            let value = match value.as_str() {
                "NaN" => ".nan",
                "Infinity" => ".inf",
                "-Infinity" => "-.inf",
                value => value,
            };
            text += &format!("{}:\n    value: {value}\n", json::text(key));
        }
        text
    }

    /// What W&B keeps for itself in a run's config. Without `t` a run cannot be resumed.
    fn own(&self, writer: &str) -> Value {
        // Where something else than the SDK wrote the file, its name and version are no version of the SDK.
        let is_version =
            |value: &&Value| value.as_str().is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()));
        let or_spoken = |number: &str| {
            self.telemetry.get(number).filter(is_version).cloned().unwrap_or_else(|| SPOKEN.into())
        };
        let mut telemetry = self.telemetry.clone();
        for number in ["5", "12"] {
            telemetry.insert(number.into(), or_spoken(number));
        }
        telemetry
            .entry("13")
            .or_insert_with(|| format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH).into());
        telemetry.entry("3").or_insert_with(|| json!([]));
        let mut own = json!({"cli_version": or_spoken("5"), "t": telemetry, "m": self.wire_metrics()});
        if let Some(python) = self.telemetry.get("4") {
            own["python_version"] = python.clone();
        }
        if let Some(metadata) = &self.metadata {
            own["e"] = json!({writer: metadata});
        }
        own
    }

    /// Definitions as numbered fields; an x axis is named by its place in the list, counted from 1.
    fn wire_metrics(&self) -> Value {
        let mut all: Vec<Defined> = self.metrics.clone();
        for metric in &self.metrics {
            if !metric.step.is_empty() && !all.iter().any(|known| known.name == metric.step) {
                all.push(Defined { name: metric.step.clone(), ..Defined::default() });
            }
        }
        let wire = |metric: &Defined| {
            let mut fields = json!({"6": metric.options, "7": metric.summary});
            for (number, text) in [("1", &metric.name), ("2", &metric.glob)] {
                if !text.is_empty() {
                    fields[number] = text.as_str().into();
                }
            }
            if let Some(at) = all.iter().position(|step| !metric.step.is_empty() && step.name == metric.step)
            {
                fields["5"] = (at + 1).into();
            }
            fields
        };
        all.iter().map(wire).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wandb::log::record::{MetricOptions, MetricSummary, Run};

    fn about() -> About {
        let mut about = About::default();
        about.run(&Run {
            run_id: "r".into(),
            config: Some(Changes::of([
                (vec!["lr"], "0.1"),
                (vec!["o", "x"], "NaN"),
                (vec!["n"], "Infinity"),
            ])),
            ..Run::default()
        });
        about
    }

    #[test]
    fn metrics_are_written_as_the_sdk_writes_them() {
        let mut about = about();
        let options = MetricOptions { step_sync: true, hidden: false, defined: true };
        let summary = MetricSummary { min: true, ..MetricSummary::default() };
        about.metric(&Metric {
            name: "loss".into(),
            step_metric: "epoch".into(),
            options: Some(options),
            summary: Some(summary),
            ..Metric::default()
        });
        let hidden = MetricOptions { hidden: true, ..MetricOptions::default() };
        about.metric(&Metric { glob_name: "val/*".into(), options: Some(hidden), ..Metric::default() });
        about.metric(&Metric { glob_name: "val/*".into(), options: Some(hidden), ..Metric::default() });
        assert_eq!(
            about.wire_metrics(),
            json!([
                {"1": "loss", "5": 3, "6": [1, 3], "7": [1]},
                {"2": "val/*", "6": [2], "7": []},
                {"1": "epoch", "6": [], "7": []},
            ])
        );
    }

    #[test]
    fn the_config_is_wrapped_and_old_keys_stay() {
        let mut about = about();
        about.keep(
            r#"{"lr":{"value":9},"old":{"desc":null,"value":[1]},"_wandb":{"value":{"t":{}}}}"#,
            &json!(["t"]),
            &Value::Null,
        );
        let text = about.wire_config("w").replace("NaN", "null").replace("Infinity", "0");
        let mut config: Value = serde_json::from_str(&text).unwrap();
        let own = config["_wandb"]["value"].take();
        assert!(own["t"]["5"].is_string() && own["t"]["13"].is_string());
        assert_eq!(
            config,
            json!({
                "_wandb": {"value": null}, "lr": {"value": 0.1}, "n": {"value": 0},
                "o": {"value": {"x": null}}, "old": {"value": [1]},
            })
        );
        assert_eq!(about.upsert("w", false)["tags"], json!(["t"]));
        assert!(about.yaml("w").ends_with(
            "\"n\":\n    value: .inf\n\"o\":\n    value: {\"x\":NaN}\n\"old\":\n    value: [1]\n"
        ));
    }
}
