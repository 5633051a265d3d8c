//! One request to W&B's server at a time, and what its answer means. Nothing is tried twice here.
//!
//! The key goes to the host of the base URL alone: storage addresses never get it, and a redirect to another host
//! loses it.

pub mod documents;
mod tls;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{
    Body, Response, Url,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde::Deserialize;
use serde_json::{Value, json};

use self::documents::Document;
use super::credentials::ApiKey;
use crate::{
    domain::{
        forward::retry::{Call, RateLimit, Verdict, judge, retry_after},
        time::Stamp,
    },
    error::Error,
};

/// W&B's own server.
pub const CLOUD: &str = "https://api.wandb.ai";

/// Time for one GraphQL request.
const QUERY_TIME: Duration = Duration::from_secs(30);
/// Time for one file_stream request.
const STREAM_TIME: Duration = Duration::from_secs(180);
/// Time without a byte until a connection to storage counts as dead.
const STORAGE_SILENCE: Duration = Duration::from_secs(60);
/// Time to connect.
const CONNECT_TIME: Duration = Duration::from_secs(20);
/// Most characters that are repeated of what a server says.
const LONGEST_REASON: usize = 300;

/// A way to one server with one key. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    base: Url,
    authorization: HeaderValue,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Whether to try again.
    pub verdict: Verdict,
    /// How long the server asks to wait.
    pub wait: Option<Duration>,
    /// The status, if there was an answer.
    pub status: Option<u16>,
    /// What failed and why, and what to do about it if anything can be done.
    pub text: String,
}

/// Where a run is on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct RunPath {
    /// Entity.
    pub entity: String,
    /// Project.
    pub project: String,
    /// The run's id.
    pub run: String,
}

/// What a file_stream request was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Taken {
    /// Whether somebody pressed the stop button on the run's page.
    pub stopped: bool,
    /// What the server says about its limit.
    pub limit: Option<RateLimit>,
}

impl Client {
    /// A way to the server at `base_url`. Honours `HTTPS_PROXY` and its kin, and the variables of `tls`.
    ///
    /// # Errors
    /// The address is none, or no certificates can be loaded.
    pub fn new(base_url: &str, key: &ApiKey) -> Result<Client, Error> {
        let base: Url = base_url.trim().trim_end_matches('/').parse().map_err(|error| {
            Error::usage(format!("WANDB_BASE_URL is no address: {error}"))
                .hint(format!("W&B's own is {CLOUD}"))
        })?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(Error::usage("WANDB_BASE_URL is no http:// or https:// address"));
        }
        let http = tls::trusting(reqwest::Client::builder())?
            .user_agent(concat!("elastictop/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIME)
            .read_timeout(STREAM_TIME)
            .build()
            .map_err(|error| Error::environment(format!("cannot prepare connections: {}", told(&error))))?;
        let mut authorization =
            HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("api:{}", key.reveal()))))
                .map_err(|_| Error::usage("the W&B API key cannot be put into a header"))?;
        authorization.set_sensitive(true);
        Ok(Client { inner: Arc::new(Inner { http, base, authorization }) })
    }

    /// The address of the server's API.
    pub fn base_url(&self) -> &str {
        self.inner.base.as_str()
    }

    /// The server, as it is shown.
    pub fn host(&self) -> &str {
        self.inner.base.host_str().unwrap_or_default()
    }

    /// Sends a document, and gives what is under `data`. `client` is the id of a client in shared mode.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn query(
        &self,
        document: Document,
        variables: Value,
        client: Option<&str>,
    ) -> Result<Value, Failure> {
        let call = if document == documents::UPSERT_BUCKET { Call::Upsert } else { Call::Query };
        let body = json!({"query": document.text, "variables": variables, "operationName": document.name});
        let mut request = self
            .inner
            .http
            .post(self.at(&["graphql"]))
            .timeout(QUERY_TIME)
            .header(AUTHORIZATION, &self.inner.authorization)
            .json(&body);
        if let Some(client) = client {
            request =
                request.header("X-WANDB-USE-ASYNC-FILESTREAM", "true").header("X-WANDB-CLIENT-ID", client);
        }
        let what = document.name;
        let answer = self.checked(call, what, request.send().await).await?;
        let mut body: Value = answer.json().await.map_err(|error| self.unreachable(what, &error))?;
        if let Some(message) = body["errors"][0]["message"].as_str() {
            let text = format!("W&B refused {what}: {}", short(message));
            return Err(Failure { verdict: Verdict::Refused, wait: None, status: Some(200), text });
        }
        Ok(body["data"].take())
    }

    /// Sends the body of a file_stream request.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn stream(&self, run: &RunPath, body: Vec<u8>, client: Option<&str>) -> Result<Taken, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            stopped: Option<bool>,
        }
        let place = self.at(&["files", &run.entity, &run.project, &run.run, "file_stream"]);
        let mut request = self
            .inner
            .http
            .post(place)
            .timeout(STREAM_TIME)
            .header(AUTHORIZATION, &self.inner.authorization)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        if let Some(client) = client {
            request = request
                .header("X-WANDB-USE-ASYNC-FILESTREAM", "true")
                .header("X-WANDB-ASYNC-CLIENT-ID", client);
        }
        let answer = self.checked(Call::FileStream, "file_stream", request.send().await).await?;
        let limit = rate_limit(answer.headers());
        // The rows are taken whatever else the answer says; a broken one is asked for again, which does no harm.
        let body = answer.bytes().await.map_err(|error| self.unreachable("file_stream", &error))?;
        let stopped = serde_json::from_slice::<Answer>(&body).ok().and_then(|answer| answer.stopped);
        Ok(Taken { stopped: stopped.unwrap_or(false), limit })
    }

    /// Puts a file to a storage address, with the headers that came with it (`Name:value`) and never with the key.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn put(&self, url: &str, headers: &[String], body: Body, length: u64) -> Result<(), Failure> {
        let mut all = HeaderMap::new();
        for (name, value) in headers.iter().filter_map(|header| header.split_once(':')) {
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name.trim()), HeaderValue::try_from(value.trim()))
            {
                all.insert(name, value);
            }
        }
        all.insert(CONTENT_LENGTH, length.into());
        let request = self.inner.http.put(url).headers(all).body(body).send();
        // The deadline counts silence, not the whole upload, which may be long.
        let answer = tokio::time::timeout(STORAGE_SILENCE.max(transfer_time(length)), request).await;
        let Ok(answer) = answer else {
            let text = "W&B's storage does not answer".to_owned();
            return Err(Failure { verdict: Verdict::Again, wait: None, status: None, text });
        };
        self.checked(Call::Storage, "storing a file", answer).await.map(drop)
    }

    fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.inner.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    async fn checked(
        &self,
        call: Call,
        what: &str,
        answer: reqwest::Result<Response>,
    ) -> Result<Response, Failure> {
        let answer = answer.map_err(|error| self.unreachable(what, &error))?;
        let status = answer.status();
        let verdict = judge(call, status.as_u16());
        if verdict == Verdict::Done {
            return Ok(answer);
        }
        let wait =
            answer.headers().get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now()));
        let reason = reason(&answer.bytes().await.unwrap_or_default());
        let status = status.as_u16();
        let text =
            format!("{}{}", self.meaning(what, status), reason.map(|r| format!(": {r}")).unwrap_or_default());
        Err(Failure { verdict, wait, status: Some(status), text })
    }

    /// What a status means to the user.
    fn meaning(&self, what: &str, status: u16) -> String {
        let host = self.host();
        match status {
            401 => format!("{host} does not know the API key (401); wandb login, or set WANDB_API_KEY"),
            403 => "the API key may not write there (403); another --wandb-entity or --wandb-project, or ask its owner"
                .to_owned(),
            404 => format!("{host} has no such entity or run (404); check --wandb-entity and WANDB_BASE_URL"),
            429 => format!("{host} asks for fewer requests (429)"),
            500.. => format!("{host} has a problem of its own ({status})"),
            _ => format!("{host} refused {what} ({status})"),
        }
    }

    fn unreachable(&self, what: &str, error: &reqwest::Error) -> Failure {
        let host = self.host();
        let text = if error.is_timeout() {
            format!("{host} did not answer {what} in time")
        } else {
            format!("{host} cannot be reached: {}", told(error))
        };
        Failure { verdict: Verdict::Again, wait: None, status: None, text }
    }
}

/// The innermost reason: the outer ones repeat the address, which may be a signed one.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    match innermost.downcast_ref::<reqwest::Error>() {
        Some(_) => "the connection broke".to_owned(),
        None => short(&innermost.to_string()),
    }
}

/// What a server's answer gives as reason, if it does.
fn reason(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let text = body["errors"][0]["message"].as_str().or_else(|| body["error"].as_str())?;
    Some(short(text))
}

/// Text of a stranger: one short line without control characters.
fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_REASON).collect()
}

fn rate_limit(headers: &HeaderMap) -> Option<RateLimit> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse().ok();
    Some(RateLimit { remaining: number("ratelimit-remaining")?, reset: number("ratelimit-reset")? })
}

/// What a transfer may take on a slow line: 100 kB a second.
fn transfer_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / 100_000)
}

/// The clock, for dates in headers.
fn now() -> Stamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Stamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
