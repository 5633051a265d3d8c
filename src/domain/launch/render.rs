//! `--dry-run`: the plan as text to read and paste, and as JSON. Secrets are hidden in both.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Added, LaunchPlan, Who};
use crate::domain::redact;

/// A word as a POSIX shell takes it.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What would be started, for a person: a command to paste, then each addition with its reason, then what was left alone.
pub fn render_text(plan: &LaunchPlan) -> String {
    let mut words: Vec<String> = vec!["env".into()];
    words.extend(plan.env_remove.iter().map(|removed| format!("-u {}", removed.name)));
    words.extend(plan.env.iter().map(|added| quote(&format!("{}={}", added.name, shown(added)))));
    let mut text = words.join(" \\\n    ");
    text.push_str(" \\\n");
    text.push_str(&plan.display.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "));
    text.push('\n');

    let flag = |added: &Added| match added.value.as_str() {
        "" => added.name.clone(),
        _ => format!("{}={}", added.name, shown(added)),
    };
    table(&mut text, "Added flags", plan.flags.iter().map(|added| (flag(added), added.reason.clone())));
    let variable = |added: &Added| (format!("{}={}", added.name, shown(added)), added.reason.clone());
    table(&mut text, "Added variables", plan.env.iter().map(variable));
    let removed = plan.env_remove.iter().map(|removed| (removed.name.clone(), removed.reason.clone()));
    table(&mut text, "Removed variables", removed);
    let kept = plan.kept.iter().map(|kept| {
        let who = match kept.who {
            Who::Flag => "you typed it",
            Who::Environment => "from the environment",
        };
        (format!("{}={}", kept.name, kept.value), format!("{who}; else {}", kept.instead_of))
    });
    table(&mut text, "Left as you set it", kept);
    table(&mut text, "Notes", plan.notes.iter().map(|note| (note.clone(), String::new())));
    text
}

fn shown(added: &Added) -> &str {
    redact::value(&added.name, &added.value)
}

fn table(text: &mut String, title: &str, rows: impl Iterator<Item = (String, String)>) {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}:");
    for (what, why) in rows {
        let _ = writeln!(text, "  {what}");
        if !why.is_empty() {
            let _ = writeln!(text, "      {why}");
        }
    }
}

/// The same as one JSON object, `"schema": 1`. Durations are in seconds; unknown is null.
pub fn render_json(plan: &LaunchPlan) -> Value {
    let added = |added: &Added| json!({"name": added.name, "value": shown(added), "reason": added.reason});
    json!({
        "schema": 1,
        "name": plan.name,
        "launcher": plan.launcher,
        "command": plan.display,
        "cwd": plan.cwd,
        "local_world_size": plan.local_world_size,
        "min_nodes": plan.nodes.0,
        "max_nodes": plan.nodes.1,
        "max_restarts": plan.max_restarts,
        "monitor_interval_s": plan.monitor_interval.as_secs_f64(),
        "stop_grace_s": plan.stop_grace.as_secs_f64(),
        "gpu_wait_s": plan.gpu_wait.as_secs_f64(),
        "orphans": plan.orphans,
        "log_dir": plan.agent_log_dir,
        "nccl_ras_addr": plan.ras_addr,
        "function_mode": plan.function_mode,
        "added_flags": plan.flags.iter().map(added).collect::<Vec<_>>(),
        "added_env": plan.env.iter().map(added).collect::<Vec<_>>(),
        "removed_env": plan.env_remove,
        "kept": plan.kept,
        "notes": plan.notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for (word, quoted) in
            [("a-b/c=1", "a-b/c=1"), ("", "''"), ("it's", r"'it'\''s'"), ("$x", "'$x'"), ("~", "'~'")]
        {
            assert_eq!(quote(word), quoted);
        }
    }
}
