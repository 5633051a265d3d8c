//! What can be learnt about runs besides forwarding them: under which entity they are, and which ones appear where
//! the script writes.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;
use tokio::sync::oneshot;

use super::Supervisor;
use crate::{
    domain::{
        forward::{Mode, Settings, Writer, stray},
        id::ProcId,
    },
    supervisor::{core::Input, forward::Told},
    wandb::{
        client::{CLOUD, Client, documents::VIEWER},
        credentials::find_key,
        sdk,
    },
};

/// What is being learnt.
#[derive(Debug, Default)]
pub(super) struct Script {
    entity: Option<oneshot::Receiver<String>>,
    /// Ranks whose run was found.
    found: BTreeSet<ProcId>,
}

impl Script {
    /// The entity, once the server has told it. Never comes when nobody asked, or nobody answers.
    pub(super) async fn entity(&mut self) -> String {
        if let Some(answer) = &mut self.entity {
            let told = answer.await;
            self.entity = None;
            if let Ok(entity) = told {
                return entity;
            }
        }
        std::future::pending().await
    }
}

impl Supervisor {
    /// Where nobody named an entity, W&B takes the key's own: links need its name. The job does not wait for it.
    pub(super) fn ask_for_entity(&mut self) {
        let Some(settings) = self.core.state().wandb.as_ref().map(|wandb| &wandb.settings) else { return };
        if settings.mode != Mode::Online || settings.facts.entity.is_some() {
            return;
        }
        match client(settings) {
            Ok(client) => {
                let (tell, told) = oneshot::channel();
                self.script.entity = Some(told);
                tokio::spawn(async move {
                    match client.query(VIEWER, Value::Object(serde_json::Map::new()), None).await {
                        Ok(data) => {
                            if let Some(entity) = data["viewer"]["entity"].as_str() {
                                // Nobody listens any more once the job is over.
                                let _ = tell.send(entity.to_owned());
                            }
                        }
                        Err(failure) => tracing::info!("links stay unknown: {}", failure.text),
                    }
                });
            }
            Err(why) => tracing::info!("links stay unknown: {why}"),
        }
    }

    /// Looks which runs ranks have begun, until each has begun one: values in a script win over the environment.
    pub(super) fn look_for_runs(&mut self) {
        let state = self.core.state();
        let Some(wandb) = &state.wandb else { return };
        if wandb.settings.writer != Writer::Script || wandb.settings.mode == Mode::Disabled {
            return;
        }
        let (mut notes, mut found) = (Vec::new(), Vec::new());
        for rank in state.ranks.iter().filter(|rank| !self.script.found.contains(&rank.proc)) {
            let folder = self.dir.rank(rank.proc);
            let Ok(files) = sdk::files(&folder) else { continue };
            let Some(id) = files.last().and_then(|file| run_id(&file.path)) else { continue };
            found.push(rank.proc);
            notes.extend(stray(&wandb.settings, &rank.place, &id));
        }
        self.script.found.extend(found);
        notes.into_iter().for_each(|text| self.handle(Input::Forward(Told::Note(text))));
    }
}

fn client(settings: &Settings) -> Result<Client, String> {
    let base_url = settings.facts.base_url.as_ref().map_or(CLOUD, |given| given.value.as_str());
    let environment = |name: &str| std::env::var(name).ok();
    let found = find_key(&environment, base_url).map_err(|error| error.text)?.ok_or("there is no API key")?;
    Client::new(base_url, &found.key).map_err(|error| error.text)
}

/// `run-ID.wandb`
fn run_id(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    Some(name.strip_prefix("run-")?.strip_suffix(".wandb")?.to_owned())
}
