//! Running a node as this process: what `klamm dev` and `klamm start` have in common.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use klamm_metadata::settings::{SettingError, Settings};
use klamm_storage::OpenError;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing::warn;

use super::error::UserError;
use super::output;
use crate::host::ThisMachine;
use crate::identity::IdentityError;
use crate::node::{Node, NodeOptions, StartError};
use crate::server::BindError;
use crate::status::Starting;
use crate::telemetry::{LogControl, LogFormat, init_logs};

/// How long tasks may take to end once everything is stopped.
const SHUTDOWN: Duration = Duration::from_millis(500);

/// How the node was started: errors say what to try in the same terms.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Started {
    /// `klamm dev`.
    Dev,
    /// `klamm start`.
    Start,
}

/// A node to run.
pub(super) struct Run {
    pub(super) settings: Settings,
    pub(super) data_dir: PathBuf,
    pub(super) http: Option<SocketAddr>,
    pub(super) logs: LogControl,
    pub(super) started: Started,
    /// Whoever started this process holds its standard input open for as long as the node is to run.
    pub(super) until_stdin_ends: bool,
}

/// `KEY=VALUE`.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// Begins to log.
pub(super) fn logs(levels: &str, format: LogFormat) -> Result<LogControl, UserError> {
    init_logs(levels, format).map_err(|cause| {
        UserError::usage(
            "the log levels could not be read",
            cause,
            "--log info, or --log warn,klamm::server=debug",
        )
    })
}

/// Checks settings; all problems are told at once.
pub(super) fn load(fixed: BTreeMap<String, String>) -> Result<Settings, UserError> {
    let (settings, notices) = Settings::load(fixed).map_err(|errors| {
        let causes: Vec<String> = errors.iter().map(SettingError::to_string).collect();
        UserError::usage(
            "the settings cannot be used",
            causes.join("\n       "),
            "klamm config list",
        )
    })?;
    for notice in notices {
        eprintln!("note: {} does nothing here: {}", notice.key, notice.reason);
    }
    Ok(settings)
}

/// Runs the node until it is told to stop. `screen`: what is printed when it serves, given the
/// milliseconds that took.
pub(super) fn run(run: Run, screen: impl FnOnce(&Node, u128) -> String) -> Result<(), UserError> {
    let began = Instant::now();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|cause| no_start(&cause))?;
    let (data_dir, started) = (run.data_dir.clone(), run.started);
    let options = NodeOptions {
        host: Arc::new(ThisMachine),
        settings: run.settings,
        data_dir: run.data_dir,
        http: run.http,
        logs: Some(run.logs),
    };
    let stopped = runtime.block_on(async {
        let stop = stop_signal(run.until_stdin_ends)?.shared();
        let starting = Starting::default();
        let stopped_waiting = async {
            stop.clone().await;
            starting.until_waiting().await;
        };
        let node = tokio::select! {
            node = Node::start(options, starting.clone()) => {
                node.map_err(|error| explain(&error, &data_dir, started))?
            }
            // Nothing was acknowledged. A start that waits for nobody is not broken off.
            () = stopped_waiting => return Ok(()),
        };
        report_recovery(&node);
        output::print(&screen(&node, began.elapsed().as_millis()))?;
        let shared = node.shared().clone();
        tokio::select! {
            () = stop => eprintln!("stopping"),
            () = shared.until_removed() => eprintln!(
                "stopping: node {} was removed from the cluster; its data directory is of no use any more",
                shared.node_id
            ),
        }
        drop(shared);
        node.stop().await.map_err(|cause| {
            UserError::failed(
                "the last checkpoint failed",
                cause.to_string(),
                "start again: everything acknowledged is recovered from the journal",
            )
        })
    });
    // Tasks end, and with them the last users of the index: its library must not be torn down by
    // the end of the process while they run.
    runtime.shutdown_timeout(SHUTDOWN);
    stopped
}

fn no_start(cause: &std::io::Error) -> UserError {
    UserError::failed(
        "the node did not start",
        cause.to_string(),
        "again with fewer programs running",
    )
}

/// Resolves when SIGTERM or Ctrl-C comes. The handlers are in place when this returns.
pub(super) fn stop_signal(until_stdin_ends: bool) -> Result<impl Future<Output = ()>, UserError> {
    let handler = |kind| signal(kind).map_err(|cause| no_start(&cause));
    let (mut terminate, mut interrupt) = (
        handler(SignalKind::terminate())?,
        handler(SignalKind::interrupt())?,
    );
    let mut ended = None;
    if until_stdin_ends {
        let (end, end_seen) = oneshot::channel::<()>();
        ended = Some(end_seen);
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || {
                let mut nothing = [0; 64];
                while std::io::stdin()
                    .read(&mut nothing)
                    .is_ok_and(|read| read > 0)
                {}
                drop(end);
            })
            .map_err(|cause| no_start(&cause))?;
    }
    let ended = async move {
        match ended {
            Some(ended) => drop(ended.await),
            None => std::future::pending().await,
        }
    };
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = ended => {}
        }
    })
}

/// A partition needs files and a client a socket: take what the system allows.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        limit.current = limit.maximum;
        if let Err(cause) = setrlimit(Resource::Nofile, limit) {
            warn!(%cause, "failed to raise the limit of open files");
        }
    }
}

fn report_recovery(node: &Node) {
    let report = node.recovery();
    if report.torn_tail_bytes > 0 {
        eprintln!(
            "note: the last stop was not clean: {} bytes that were never acknowledged were cut off the journal",
            report.torn_tail_bytes
        );
    }
    for corrupt in &report.corrupt {
        eprintln!("warning: corrupt data: {corrupt}");
    }
}

/// The lines of the first screen that say where the node is.
pub(super) fn addresses(node: &Node) -> Vec<String> {
    let kafka = node.addresses().iter().map(|(name, address)| {
        format!("  Kafka  {address}  ({name})  bootstrap.servers={address}")
    });
    let http = node.http();
    let http = http.map(|http| format!("  HTTP   http://{http}  (/ready /live /metrics)"));
    kafka.chain(http).collect()
}

/// What failed, why, and what to try.
fn explain(error: &StartError, data_dir: &Path, started: Started) -> UserError {
    let dev = started == Started::Dev;
    let what = "the node did not start";
    let cause = error.to_string();
    let advice = match error {
        StartError::Bind(BindError::Busy { .. }) if dev => {
            "stop that process, or choose other ports: klamm dev --listen 127.0.0.1:0 --http 127.0.0.1:0".to_owned()
        }
        StartError::Bind(BindError::Busy { .. }) => {
            "stop that process, or choose other ports in listeners and klamm.http.listener".to_owned()
        }
        StartError::Bind(_) if dev => "an address of this machine: klamm dev --listen 127.0.0.1:9092".to_owned(),
        StartError::Bind(_) => "an address of this machine in listeners; what clients are told goes into advertised.listeners".to_owned(),
        StartError::Open(OpenError::Locked { .. }) if dev => {
            "stop that process, or use another directory: klamm dev --data DIR".to_owned()
        }
        StartError::Open(OpenError::Locked { .. }) => "stop that process, or use another directory in log.dirs".to_owned(),
        StartError::Open(OpenError::NewerFormat { .. }) | StartError::Identity(IdentityError::Newer { .. }) => {
            "the newer version of klamm that wrote it; nothing was changed".to_owned()
        }
        StartError::Identity(IdentityError::OtherNode { found, .. }) if dev => {
            format!("klamm dev --set node.id={found}, or another directory: --data DIR")
        }
        StartError::Identity(IdentityError::OtherNode { found, .. }) => {
            format!("node.id={found}, or another directory in log.dirs")
        }
        StartError::Open(OpenError::Failed { .. }) | StartError::Identity(IdentityError::Unreadable { .. }) => {
            let other = if dev { "--data DIR" } else { "another one in log.dirs" };
            format!("check that {} may be written to and its disk works, or use {other}", data_dir.display())
        }
        StartError::Control(_) => "a higher limit of processes: ulimit -u".to_owned(),
        StartError::Shape(_) => "klamm cluster init --nodes HOST,HOST,HOST shows settings of a whole cluster".to_owned(),
        StartError::Entry(_) => "what the cause says; no data was changed".to_owned(),
        StartError::Storage(_) | StartError::Raft(_) | StartError::Metadata(_) => {
            let again = if dev { "klamm dev" } else { "klamm start" };
            format!("{again} --log debug, and keep {}: it holds your data", data_dir.display())
        }
    };
    UserError::failed(what, cause, advice)
}
