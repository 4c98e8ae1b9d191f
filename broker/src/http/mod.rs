//! The HTTP port: health, metrics, log levels. Nothing of it touches the data path, nor takes many
//! descriptors from it (`listener.rs`).

mod listener;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::node::stopped;
use crate::status::Starting;
use crate::telemetry::{self, LogControl};
use listener::Limited;

#[derive(Clone)]
struct Context {
    starting: Starting,
    logs: Option<LogControl>,
}

/// Serves until `stopping`. Before the node is put together it says what the start waits for.
pub async fn serve(
    listener: TcpListener,
    starting: Starting,
    logs: Option<LogControl>,
    mut stopping: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/", get(index))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/log-levels", get(log_levels).put(set_log_levels))
        .with_state(Context { starting, logs });
    axum::serve(Limited::new(listener), router)
        .with_graceful_shutdown(async move { stopped(&mut stopping).await })
        .await
}

async fn index() -> &'static str {
    "Klamm\n\n\
     /ready       200 once requests are served, 503 with the reason before\n\
     /live        200 while the process turns\n\
     /metrics     Prometheus text format\n\
     /log-levels  GET shows, PUT changes: info,klamm::server=debug\n"
}

async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(context): State<Context>) -> (StatusCode, String) {
    let shared = context.starting.shared();
    if let Err(why) = shared.map_or(Err(None), |shared| shared.ready()) {
        return not_ready(&why.unwrap_or_else(|| context.starting.words()));
    }
    let words = match shared.and_then(|shared| shared.disk_trouble()) {
        Some(trouble) => format!("ready, but its disk is {trouble}\n"),
        None => "ready\n".to_owned(),
    };
    (StatusCode::OK, words)
}

fn not_ready(why: &str) -> (StatusCode, String) {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("not ready: {why}\n"),
    )
}

async fn metrics(State(context): State<Context>) -> Response {
    let Some(shared) = context.starting.shared() else {
        return not_ready(&context.starting.words()).into_response();
    };
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        telemetry::render(shared).await,
    )
        .into_response()
}

async fn log_levels(State(context): State<Context>) -> (StatusCode, String) {
    match &context.logs {
        Some(logs) => (StatusCode::OK, format!("{}\n", logs.get())),
        None => (
            StatusCode::NOT_FOUND,
            "log levels are not under this program's control\n".to_owned(),
        ),
    }
}

async fn set_log_levels(
    State(context): State<Context>,
    directives: String,
) -> (StatusCode, String) {
    let Some(logs) = &context.logs else {
        return (
            StatusCode::NOT_FOUND,
            "log levels are not under this program's control\n".to_owned(),
        );
    };
    match logs.set(directives.trim()) {
        Ok(()) => (StatusCode::OK, format!("{}\n", logs.get())),
        Err(cause) => (StatusCode::BAD_REQUEST, format!("{cause}\n")),
    }
}
