//! A W&B server for tests: checks what it is sent as strictly as the real one, or more so, keeps it, and fails on
//! command.
//!
//! Over HTTP: `GET /__state` is a [`Store`] as JSON, `POST /__fault` takes a [`Fault`], `POST /__reset` forgets the
//! faults. In Rust: [`Server`].

#![allow(dead_code, missing_docs, unreachable_pub, unused_imports)]

pub mod faults;
pub mod graphql;
pub mod store;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use base64::Engine;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use self::{faults::Faults, graphql::Schema};
pub use self::{
    faults::{Fault, What},
    store::{Client, Run, Store},
};

/// The key that the server takes, of the right length and made of nothing.
pub const KEY: &str = "0123456789abcdef0123456789abcdef01234567";
/// The entity that the key belongs to.
pub const ENTITY: &str = "tester";

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Entities that the key may write to; `forbidden` answers 403, all others 404.
    pub entities: Vec<String>,
    /// Whether it says that it takes console lines as JSON.
    pub structured_console: bool,
    /// Whether rows are only compared, not read: for benchmarks.
    pub cheap: bool,
    /// Whether a client of a shared run may write after another has completed it: nobody orders the ranks of a script.
    pub late_clients: bool,
}

impl Default for Options {
    fn default() -> Options {
        let entities = vec![ENTITY.to_owned(), "team".to_owned()];
        Options {
            address: ([127, 0, 0, 1], 0).into(),
            entities,
            structured_console: true,
            cheap: false,
            late_clients: false,
        }
    }
}

/// A running server; it ends with the process.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
    address: SocketAddr,
}

struct Inner {
    options: Options,
    schema: Schema,
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    started: Instant,
}

/// The connection breaks without an answer.
#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken on purpose")
    }
}

impl std::error::Error for Broken {}

type Answer = Response<Full<Bytes>>;

impl Server {
    /// Starts one in a thread of its own.
    pub fn start() -> Server {
        Server::with(Options::default())
    }

    /// Starts one that behaves as told.
    pub fn with(options: Options) -> Server {
        let listener = std::net::TcpListener::bind(options.address).expect("an address to listen on");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let address = listener.local_addr().expect("an address");
        let store = Store { cheap: options.cheap, late_clients: options.late_clients, ..Store::default() };
        let inner = Arc::new(Inner {
            options,
            schema: Schema::read(),
            store: Mutex::new(store),
            faults: Mutex::new(Faults::new()),
            started: Instant::now(),
        });
        let serving = Arc::clone(&inner);
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serve(serving, listener)).expect("a socket that accepts");
        });
        Server { inner, address }
    }

    /// What `WANDB_BASE_URL` should be.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was received.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.inner.store.lock().expect("no panic with the store")
    }

    /// Makes something go wrong from now on.
    pub fn fail(&self, fault: Fault) {
        self.inner.faults.lock().expect("no panic with the faults").add(fault);
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        self.inner.faults.lock().expect("no panic with the faults").clear();
    }

    /// Waits until something holds.
    ///
    /// # Panics
    /// It does not within a minute.
    pub fn wait_for(&self, what: &str, holds: impl Fn(&Store) -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !holds(&self.store()) {
            assert!(Instant::now() < until, "{what}: not within a minute; {:?}", self.store().violations);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Panics with the broken rules, if there are any.
    pub fn assert_sound(&self) {
        let store = self.store();
        assert!(store.violations.is_empty(), "{:#?}", store.violations);
    }
}

async fn serve(inner: Arc<Inner>, listener: std::net::TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        let inner = Arc::clone(&inner);
        tokio::spawn(async move {
            let service = service_fn(|request| inner.answer(request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl Inner {
    async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Broken> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
        match path.as_str() {
            "/__state" => {
                let store = self.store.lock().expect("the store");
                return Ok(text(StatusCode::OK, serde_json::to_vec(&*store).expect("JSON")));
            }
            "/__fault" => {
                return Ok(match serde_json::from_slice(&body) {
                    Ok(fault) => {
                        self.faults.lock().expect("the faults").add(fault);
                        text(StatusCode::OK, "{}")
                    }
                    Err(error) => text(StatusCode::BAD_REQUEST, error.to_string()),
                });
            }
            "/__reset" => {
                self.faults.lock().expect("the faults").clear();
                return Ok(text(StatusCode::OK, "{}"));
            }
            _ => {}
        }
        let (class, kind) = kind(&path, &head.method, &body);
        let what = {
            let mut store = self.store.lock().expect("the store");
            *store.requests.entry(kind.clone()).or_default() += 1;
            if class == "file_stream" {
                store.stream_times.push(self.started.elapsed().as_millis() as u64);
            }
            let what = self.faults.lock().expect("the faults").draw(&class, &kind);
            store.faults += u64::from(what.is_some());
            what
        };
        match &what {
            Some(What::DropBefore | What::Down { .. }) => return Err(Broken),
            Some(What::Status { status, retry_after }) => {
                let status = StatusCode::from_u16(*status).expect("a status");
                let mut answer = text(status, json!({"error": "failed on purpose"}).to_string());
                if let Some(after) = retry_after {
                    answer.headers_mut().insert("retry-after", after.parse().expect("a header"));
                }
                return Ok(answer);
            }
            Some(What::Slow { ms }) => tokio::time::sleep(Duration::from_millis(*ms)).await,
            _ => {}
        }
        let stopped = matches!(what, Some(What::Stopped));
        let mut answer = self.process(&class, &path, &head.headers, &body, stopped);
        match what {
            Some(What::DropAfter) => return Err(Broken),
            Some(What::RateLimit { remaining, reset }) => {
                let headers = answer.headers_mut();
                headers.insert("ratelimit-remaining", remaining.to_string().parse().expect("a header"));
                headers.insert("ratelimit-reset", reset.to_string().parse().expect("a header"));
            }
            _ => {}
        }
        Ok(answer)
    }

    fn process(&self, class: &str, path: &str, headers: &HeaderMap, body: &Bytes, stopped: bool) -> Answer {
        if class == "PUT" {
            return self.put(path, headers, body);
        }
        let expected =
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("api:{KEY}")));
        if header(headers, "authorization") != Some(&expected) {
            return error(StatusCode::UNAUTHORIZED, "user is not logged in");
        }
        match class {
            "graphql" => self.graphql(headers, body),
            "file_stream" => self.file_stream(path, headers, body, stopped),
            _ => {
                self.store.lock().expect("the store").violation(format!("no such place: {path}"));
                error(StatusCode::NOT_FOUND, "no such place")
            }
        }
    }

    fn graphql(&self, headers: &HeaderMap, body: &[u8]) -> Answer {
        let mut store = self.store.lock().expect("the store");
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let operation = match self.schema.check(&body) {
            Ok(operation) => operation,
            Err(why) => {
                store.violation(format!("GraphQL: {why}: {}", body["query"].as_str().unwrap_or("no query")));
                return error(StatusCode::BAD_REQUEST, &why);
            }
        };
        let asynchronous = header(headers, "x-wandb-use-async-filestream") == Some("true");
        let client = header(headers, "x-wandb-client-id").filter(|_| asynchronous).unwrap_or_default();
        if asynchronous && client.is_empty() {
            store.violation("GraphQL: asynchronous without a client id");
        }
        let arguments = &operation.arguments;
        let input = arguments.get("input").and_then(Value::as_object);
        let named = |key: &str| {
            let given = input.and_then(|input| input.get(key)).or_else(|| arguments.get(key));
            given.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let entity = match named("entityName") {
            none if none.is_empty() => ENTITY.to_owned(),
            entity => entity,
        };
        if !self.options.entities.contains(&entity) {
            let status = if entity == "forbidden" { StatusCode::FORBIDDEN } else { StatusCode::NOT_FOUND };
            return error(status, &format!("entity {entity} not found or permission denied"));
        }
        let answer = match operation.field.as_str() {
            "viewer" => json!({
                "id": "U1", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "t@example.org",
                "admin": false, "flags": "{}", "teams": {"edges": []},
            }),
            "serverInfo" => json!({
                "features": [{"name": "STRUCTURED_CONSOLE_LOGS", "isEnabled": self.options.structured_console}],
                "cliVersionInfo": {}, "latestLocalVersionInfo": null,
            }),
            "upsertBucket" => match store.upsert(input.expect("checked"), &entity, client) {
                Ok(answer) => answer,
                Err(why) => {
                    store.violation(format!("UpsertBucket: {why}"));
                    return error(StatusCode::BAD_REQUEST, &why);
                }
            },
            "model" | "project" => {
                let project = named("name");
                let run =
                    asked_run(&body).and_then(|run| store.runs.get(&format!("{entity}/{project}/{run}")));
                let bucket = run.map_or(Value::Null, Run::bucket);
                json!({
                    "id": "P1", "name": project, "entityName": entity, "entity": {"id": "E1", "name": entity},
                    "bucket": bucket, "run": bucket,
                })
            }
            "createRunFiles" => {
                let run = named("runName");
                let place = format!("{entity}/{}/{run}", named("projectName"));
                let files =
                    input.and_then(|input| input.get("files")?.as_array()).cloned().unwrap_or_default();
                let files = files.iter().filter_map(Value::as_str).map(|name| {
                    let url =
                        format!("http://{}/storage/{place}/{name}", header(headers, "host").unwrap_or("?"));
                    json!({"id": name, "name": name, "uploadUrl": url, "uploadHeaders": []})
                });
                json!({"runID": "R1", "uploadHeaders": ["X-Test-Storage:yes"], "files": files.collect::<Vec<_>>()})
            }
            "notifyScriptableRunAlert" => json!({"success": true}),
            _ => Value::Null,
        };
        text(StatusCode::OK, operation.answer(answer).to_string())
    }

    fn file_stream(&self, path: &str, headers: &HeaderMap, body: &[u8], stopped: bool) -> Answer {
        let mut store = self.store.lock().expect("the store");
        let key = path.trim_start_matches("/files/").trim_end_matches("/file_stream");
        let key = percent_decoded(key);
        let asynchronous = header(headers, "x-wandb-use-async-filestream") == Some("true");
        let client = header(headers, "x-wandb-async-client-id").filter(|_| asynchronous).unwrap_or_default();
        if asynchronous && client.is_empty() {
            store.violation("file_stream: asynchronous without a client id");
        }
        let status = store.stream(&key, client, asynchronous, body);
        let exit_code = store.runs.get(&key).and_then(|run| run.exit_code);
        let answer = json!({"exitcode": exit_code, "limits": {}, "stopped": stopped});
        text(StatusCode::from_u16(status).expect("a status"), answer.to_string())
    }

    fn put(&self, path: &str, headers: &HeaderMap, body: &Bytes) -> Answer {
        let mut store = self.store.lock().expect("the store");
        if headers.contains_key("authorization") {
            store.violation("PUT: the key was sent to storage");
        }
        if header(headers, "x-test-storage") != Some("yes") {
            store.violation("PUT: the headers of CreateRunFiles are missing");
        }
        let length = header(headers, "content-length").and_then(|length| length.parse().ok());
        if length != Some(body.len()) {
            store.violation("PUT: no Content-Length");
        }
        let path = percent_decoded(path.trim_start_matches("/storage/"));
        let mut parts = path.splitn(4, '/');
        let key = parts.by_ref().take(3).collect::<Vec<_>>().join("/");
        let name = parts.next().unwrap_or_default().to_owned();
        match store.runs.get_mut(&key) {
            Some(run) => {
                run.files.insert(name, String::from_utf8_lossy(body).into_owned());
                text(StatusCode::OK, "")
            }
            None => {
                store.violation(format!("PUT: no run {key}"));
                error(StatusCode::NOT_FOUND, "no such run")
            }
        }
    }
}

/// Class and kind of a request: a kind of the class `graphql` is the name of its operation.
fn kind(path: &str, method: &Method, body: &[u8]) -> (String, String) {
    if method == Method::PUT {
        return ("PUT".into(), "PUT".into());
    }
    if path == "/graphql" {
        let body: BTreeMap<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let name = body.get("operationName").and_then(Value::as_str).unwrap_or("unnamed").to_owned();
        return ("graphql".into(), name);
    }
    let class = if path.ends_with("/file_stream") { "file_stream" } else { path };
    (class.into(), class.into())
}

/// The run that a query on a project is about: a variable, whatever its name.
fn asked_run(body: &Value) -> Option<String> {
    let variables = body["variables"].as_object()?;
    let query: String = body["query"].as_str()?.split_whitespace().collect();
    for field in ["bucket(name:$", "run(name:$"] {
        if let Some((_, rest)) = query.split_once(field) {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            return variables.get(&name)?.as_str().map(str::to_owned);
        }
    }
    None
}

fn percent_decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [byte, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| *byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                rest = &after[2..];
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert("content-type", "application/json".parse().expect("a header"));
    answer
}

fn error(status: StatusCode, message: &str) -> Answer {
    text(status, json!({"errors": [{"message": message}], "error": message}).to_string())
}
