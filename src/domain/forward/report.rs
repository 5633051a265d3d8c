//! W&B in `status`: as JSON, and as lines to read.

use serde::Serialize;

use super::{Mode, RunRow, RunState, Wandb, Writer};
use crate::domain::{
    resolve::{RankScope, RunMode},
    time::{Stamp, ago},
};

/// `wandb` in `status --json`.
#[derive(Debug, Serialize)]
pub struct WandbReport {
    /// Whether rows are sent.
    pub mode: Mode,
    /// Why they are not, where they are not.
    pub why_not_online: Option<String>,
    /// Who writes.
    pub writer: Writer,
    /// How ranks and runs belong together.
    pub run_mode: RunMode,
    /// What that is applied to.
    pub rank_scope: RankScope,
    /// Run mode and rank scope that hold from the next restart on.
    pub pending: Option<(RunMode, RankScope)>,
    /// Project, as it was given.
    pub project: Option<String>,
    /// User or team, as it was given.
    pub entity: Option<String>,
    /// Runs of the plan, then those that left it.
    pub runs: Vec<RunReport>,
}

/// A run in `status --json`. Figures are null where elastictop does not write the run on this node.
#[derive(Debug, Serialize)]
pub struct RunReport {
    /// Its id.
    pub id: String,
    /// Its group.
    pub group: Option<String>,
    /// What it is doing.
    pub state: Option<RunState>,
    /// Global ranks that write to it; none when it left the plan.
    pub ranks: Vec<u32>,
    /// Rows of history in its files.
    pub rows_logged: Option<u64>,
    /// Rows of history that the server has.
    pub rows_acked: Option<u64>,
    /// Rows that wait to be sent.
    pub backlog_rows: Option<u64>,
    /// Rows that could not be kept.
    pub rows_lost: Option<u64>,
    /// Seconds since the server last took something.
    pub last_ack_age_s: Option<f64>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Seconds until it is tried again.
    pub retry_in_s: Option<f64>,
    /// Its page.
    pub link: Option<String>,
    /// Its newest file, below the job's folder.
    pub file: Option<String>,
    /// What is not forwarded, in words.
    pub not_forwarded: Vec<String>,
}

impl WandbReport {
    /// As of `now`.
    pub fn new(wandb: &Wandb, now: Stamp) -> WandbReport {
        let settings = &wandb.settings;
        let given =
            |given: &Option<crate::domain::resolve::Given>| given.as_ref().map(|given| given.value.clone());
        let rows = settings.plan().map(|plan| wandb.rows(&plan)).unwrap_or_default();
        WandbReport {
            mode: settings.mode,
            why_not_online: settings.why_not_online.clone(),
            writer: settings.writer,
            run_mode: settings.facts.run_mode,
            rank_scope: settings.facts.rank_scope,
            pending: wandb.pending,
            project: given(&settings.facts.project),
            entity: given(&settings.facts.entity),
            runs: rows.into_iter().map(|row| RunReport::new(row, now)).collect(),
        }
    }
}

impl RunReport {
    fn new(row: RunRow, now: Stamp) -> RunReport {
        let progress = row.progress.as_ref();
        let seconds = |at: Stamp| (now.since(at).as_secs_f64() * 1000.0).round() / 1000.0;
        RunReport {
            state: progress.map(|progress| progress.state),
            rows_logged: progress.map(|progress| progress.rows_logged),
            rows_acked: progress.map(|progress| progress.rows_acked),
            backlog_rows: progress.map(super::RunProgress::backlog),
            rows_lost: progress.map(|progress| progress.rows_lost),
            last_ack_age_s: progress.and_then(|progress| progress.last_ack_at).map(seconds),
            last_error: progress.and_then(|progress| progress.last_error.clone()),
            retry_in_s: progress.and_then(|progress| progress.retry_at).map(|at| at.since(now).as_secs_f64()),
            file: progress.and_then(|progress| progress.file.clone()),
            not_forwarded: progress.map(|progress| progress.not_forwarded.clone()).unwrap_or_default(),
            id: row.id,
            group: row.group,
            ranks: row.ranks,
            link: row.link,
        }
    }
}

/// W&B for a person: how it stands, then a line for each run.
pub fn describe(wandb: &Wandb, now: Stamp) -> String {
    let settings = &wandb.settings;
    let mut text = format!("W&B: {}\n", settings.sentence());
    if let (Mode::Offline, Some(why)) = (settings.mode, &settings.why_not_online) {
        text += &format!("  {why}\n");
    }
    if let Some((mode, scope)) = wandb.pending {
        text += &format!("  from the next restart on: {mode}/{scope}\n");
    }
    if settings.mode == Mode::Disabled {
        return text;
    }
    for row in settings.plan().map(|plan| wandb.rows(&plan)).unwrap_or_default() {
        let ranks: Vec<_> = row.ranks.iter().take(8).map(u32::to_string).collect();
        let more = row.ranks.len().saturating_sub(8);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let whose =
            if row.has_left() { "left the plan".into() } else { format!("rank {}{more}", ranks.join(",")) };
        let figures = row.progress.as_ref().map(|progress| figures(progress, now)).unwrap_or_default();
        let link = row.link.map(|link| format!("  {link}")).unwrap_or_default();
        text += &format!("  {}  {whose}{figures}{link}\n", row.id);
        if let Some(error) = row.progress.and_then(|progress| progress.last_error) {
            text += &format!("    {error}\n");
        }
    }
    text
}

/// `  sending, 120 rows, 3 wait, last ack 2 s ago`
fn figures(progress: &super::RunProgress, now: Stamp) -> String {
    let mut text = format!("  {}, {} rows", progress.state.word(), progress.rows_logged);
    if progress.backlog() > 0 {
        text += &format!(", {} wait", progress.backlog());
    }
    if progress.rows_lost > 0 {
        text += &format!(", {} lost", progress.rows_lost);
    }
    if let Some(at) = progress.last_ack_at {
        text += &format!(", last ack {}", ago(now.since(at)));
    }
    text
}
