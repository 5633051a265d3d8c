//! Facts for other programs over HTTP: figures for Prometheus, the status and the events as JSON.
//!
//! A reader like any viewer: it asks the supervisor over the job's own socket when it is asked itself, on a thread of
//! its own. However many ask, and however slowly they read, the supervisor makes two snapshots a second at most.

mod address;
mod source;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State as Shared},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::{interval, sleep, timeout},
};

use self::{address::Listener, source::Source};
pub use self::{
    address::{Address, Asked, Door},
    source::{About, Connector},
};
use super::clock;
use crate::domain::{
    exposition::{self, Format},
    report::{SCHEMA, Status},
};

/// Connections at the same time; more wait until one is done.
const MOST: usize = 16;
/// How long one may take, from its first byte to the last.
const LIFETIME: Duration = Duration::from_secs(30);
/// How long the question may take: a scraper sends it in one piece, and who dawdles holds a place for others.
const QUESTION: Duration = Duration::from_secs(3);
/// How often it is looked whether a log cleaner took the socket.
const UPKEEP: Duration = Duration::from_secs(60);
/// Pause after a connection that could not be accepted, as when descriptors run out.
const BACK_OFF: Duration = Duration::from_millis(200);

const PAGES: &str = "/metrics  figures for Prometheus
/status   the job as JSON, as elastictop status --json prints it
/events   what happened, one JSON object a line; ?since=SEQ for what came after that number
/healthz  200 while nothing is wrong, else 503 with the reasons
";

/// Serves on a thread of its own until the process ends.
///
/// # Errors
/// A thread that cannot be started.
pub fn start(door: Door, about: About) -> std::io::Result<()> {
    let serve = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime.and_then(|runtime| runtime.block_on(run(door, about))) {
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "facts are not served"),
        }
    };
    std::thread::Builder::new().name("elastictop-http".into()).spawn(serve).map(drop)
}

/// Serves until it is dropped.
///
/// # Errors
/// A socket that the event loop does not take.
pub async fn run(door: Door, about: About) -> std::io::Result<()> {
    let pages = pages(Source::new(about), matches!(door.address, Address::Tcp(_)));
    let places = Arc::new(Semaphore::new(MOST));
    match (door.listener, door.address) {
        (Listener::Tcp(listener), _) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let place = places.clone().acquire_owned().await;
                match listener.accept().await {
                    Ok((stream, _)) => answer(stream, pages.clone(), place),
                    Err(_) => sleep(BACK_OFF).await,
                }
            }
        }
        (Listener::Unix(listener), address) => {
            let mut listener = UnixListener::from_std(listener)?;
            let mut upkeep = interval(UPKEEP);
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => answer(stream, pages.clone(), places.clone().acquire_owned().await),
                        Err(_) => sleep(BACK_OFF).await,
                    },
                    _ = upkeep.tick() => {
                        if let Address::Unix(path) = &address
                            && !path.exists()
                            && let Ok(again) = address::listen(path).and_then(UnixListener::from_std)
                        {
                            listener = again;
                        }
                    }
                }
            }
        }
    }
}

fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    pages: Router,
    place: impl Send + 'static,
) {
    tokio::spawn(async move {
        let mut http = hyper::server::conn::http1::Builder::new();
        http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(QUESTION);
        let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
        // Who leaves early, sends no HTTP or takes too long gets no more.
        let _ = timeout(LIFETIME, served).await;
        drop(place);
    });
}

fn pages(source: Source, over_tcp: bool) -> Router {
    let router = Router::new()
        .route("/", get(PAGES))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/events", get(events))
        .route("/healthz", get(healthz))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "there is no such page; / lists all") })
        .with_state(Arc::new(source));
    if over_tcp { router.layer(middleware::from_fn(local_names)) } else { router }
}

/// A web page that a browser of this machine shows may have its own name lead here: only names of this machine are
/// answered.
async fn local_names(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default().to_owned());
    let is_local = host.is_none_or(|host| {
        let whole: Option<std::net::SocketAddr> = host.parse().ok();
        let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
        let ip: Option<std::net::IpAddr> = name.parse().ok();
        name == "localhost"
            || ip.is_some_and(|ip| ip.is_loopback())
            || whole.is_some_and(|whole| whole.ip().is_loopback())
            || host == "[::1]"
    });
    if is_local {
        next.run(request).await
    } else {
        refuse(StatusCode::FORBIDDEN, "only names of this machine are answered, such as localhost")
    }
}

fn refuse(status: StatusCode, why: &str) -> Response {
    (status, axum::Json(json!({ "schema": SCHEMA, "error": why }))).into_response()
}

async fn metrics(Shared(source): Shared<Arc<Source>>, headers: HeaderMap) -> Response {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::accepted(accepted.unwrap_or_default());
    match source.state().await {
        Ok(state) => {
            let text = exposition::write(&state, &source.own(), clock::wall(), format);
            ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
        }
        Err(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

async fn status(Shared(source): Shared<Arc<Source>>) -> Response {
    match source.state().await {
        Ok(state) => axum::Json(Status::new(&state, clock::wall())).into_response(),
        Err(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

async fn healthz(Shared(source): Shared<Arc<Source>>) -> Response {
    match source.state().await {
        Ok(state) => {
            let reasons = exposition::complaints(&state);
            let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let body = json!({
                "schema": SCHEMA, "healthy": reasons.is_empty(), "state": state.state, "reasons": reasons,
            });
            (status, axum::Json(body)).into_response()
        }
        Err(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

async fn events(Shared(source): Shared<Arc<Source>>, uri: Uri) -> Response {
    let since = match uri.query() {
        None | Some("") => Some(0),
        Some(query) => query.strip_prefix("since=").and_then(|number| number.parse().ok()),
    };
    let Some(since) = since else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "the only question is since=SEQ, with the number of an event",
        );
    };
    // The disk may be slow: others are answered meanwhile.
    let read = tokio::task::spawn_blocking(move || source.events(since)).await;
    match read {
        Ok(Ok(Some(lines))) => ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response(),
        Ok(Ok(None)) => refuse(StatusCode::NOT_FOUND, "elastictop did not start this job: it has no journal"),
        Ok(Err(error)) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("cannot read the journal: {error}"))
        }
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "reading the journal failed"),
    }
}

/// Removes what a server that ends leaves.
pub fn clean_up(address: Option<&Address>) {
    if let Some(Address::Unix(path)) = address {
        // One that is gone already needs no removal.
        let _ = std::fs::remove_file(path);
    }
}
