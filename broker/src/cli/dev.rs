//! `klamm dev`: one durable node on this machine.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use klamm_metadata::settings::{SettingError, Settings};
use klamm_storage::OpenError;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use super::error::UserError;
use super::output;
use crate::identity::IdentityError;
use crate::node::{Node, NodeOptions, StartError};
use crate::server::BindError;
use crate::telemetry::{LogFormat, init_logs};

/// How long tasks may take to end once everything is stopped.
const SHUTDOWN: Duration = Duration::from_millis(500);

/// Arguments of `klamm dev`.
#[derive(Args)]
pub(super) struct DevArgs {
    /// Data directory; made if it is not there, kept when the node stops.
    #[arg(long, value_name = "DIR", default_value = "./.klamm")]
    data: PathBuf,
    /// Where Kafka clients connect; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    listen: String,
    /// Where health and metrics are served; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644")]
    http: SocketAddr,
    /// Keep data in a temporary directory that is deleted when the node stops.
    #[arg(long, conflicts_with = "data")]
    ephemeral: bool,
    /// Any setting by Kafka's name; may be given often. `klamm config list` shows all.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    settings: Vec<(String, String)>,
    /// Log levels, such as info or warn,klamm::server=debug.
    #[arg(long, value_name = "LEVELS", env = "KLAMM_LOG", default_value = "warn")]
    log: String,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "auto")]
    log_format: LogFormat,
}

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// Runs the node until it is told to stop.
pub(super) fn run(args: DevArgs) -> Result<(), UserError> {
    let began = Instant::now();
    let logs = init_logs(&args.log, args.log_format).map_err(|cause| {
        UserError::usage(
            "the log levels could not be read",
            cause,
            "--log info, or --log warn,klamm::server=debug",
        )
    })?;
    let ephemeral = Ephemeral::new(args.ephemeral)?;
    let data_dir = ephemeral.dir.clone().unwrap_or_else(|| args.data.clone());
    let settings = settings(&args, &data_dir)?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|cause| {
            UserError::failed(
                "the node did not start",
                cause.to_string(),
                "again with fewer programs running",
            )
        })?;
    let options = NodeOptions {
        settings,
        data_dir: data_dir.clone(),
        http: Some(args.http),
        logs: Some(logs),
    };
    let stopped = runtime.block_on(async {
        let stop = stop_signal()?;
        let node = Node::start(options)
            .await
            .map_err(|error| explain(&error, &data_dir))?;
        report_recovery(&node);
        let screen = first_screen(
            &node,
            &data_dir,
            ephemeral.dir.is_some(),
            began.elapsed().as_millis(),
        );
        output::print(&screen)?;
        stop.await;
        eprintln!("stopping");
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

fn settings(args: &DevArgs, data_dir: &Path) -> Result<Settings, UserError> {
    let mut fixed = BTreeMap::from([
        ("node.id".to_owned(), "1".to_owned()),
        (
            "listeners".to_owned(),
            format!("PLAINTEXT://{}", args.listen),
        ),
        ("log.dirs".to_owned(), data_dir.display().to_string()),
    ]);
    fixed.extend(args.settings.iter().cloned());
    load(fixed)
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

/// Resolves when SIGTERM or Ctrl-C comes. The handlers are in place when this returns.
fn stop_signal() -> Result<impl Future<Output = ()>, UserError> {
    let handler = |kind| {
        signal(kind).map_err(|cause| {
            UserError::failed(
                "the node did not start",
                cause.to_string(),
                "again with fewer programs running",
            )
        })
    };
    let (mut terminate, mut interrupt) = (
        handler(SignalKind::terminate())?,
        handler(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// A temporary directory that goes away with the node.
struct Ephemeral {
    dir: Option<PathBuf>,
}

impl Ephemeral {
    fn new(wanted: bool) -> Result<Ephemeral, UserError> {
        if !wanted {
            return Ok(Ephemeral { dir: None });
        }
        let dir = std::env::temp_dir().join(format!("klamm-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).map_err(|cause| {
            UserError::failed(
                format!("the temporary directory {} was not made", dir.display()),
                cause.to_string(),
                "TMPDIR=DIR klamm dev --ephemeral, with a directory you may write to",
            )
        })?;
        Ok(Ephemeral { dir: Some(dir) })
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir
            && let Err(cause) = std::fs::remove_dir_all(dir)
        {
            warn!(dir = %dir.display(), %cause, "failed to delete the temporary directory");
        }
    }
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

fn first_screen(node: &Node, data_dir: &Path, ephemeral: bool, took_ms: u128) -> String {
    let mut lines = vec![String::new()];
    let durability = if ephemeral {
        let warning = "NOT KEPT: temporary, deleted when the node stops";
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        if colour {
            format!("\x1b[1;33m{warning}\x1b[0m")
        } else {
            warning.to_owned()
        }
    } else {
        "durable: on disk before every answer".to_owned()
    };
    lines.push(format!(
        "klamm {}  one node, id {}  started in {took_ms} ms",
        env!("CARGO_PKG_VERSION"),
        node.shared().node_id
    ));
    lines.push(String::new());
    lines.push(format!("  Data   {} ({durability})", data_dir.display()));
    let mut bootstrap = String::new();
    for (name, address) in node.addresses() {
        if bootstrap.is_empty() {
            bootstrap = address.to_string();
        }
        lines.push(format!(
            "  Kafka  {address}  ({name})  bootstrap.servers={address}"
        ));
    }
    if let Some(http) = node.http() {
        lines.push(format!("  HTTP   http://{http}  (/ready /live /metrics)"));
    }
    let option = if bootstrap == "127.0.0.1:9092" {
        String::new()
    } else {
        format!(" --bootstrap {bootstrap}")
    };
    lines.push(String::new());
    lines.push(format!("Try    klamm topic create hello -p 3{option}"));
    lines.push(format!("       echo hi | klamm produce hello{option}"));
    lines.push(format!(
        "       klamm consume hello --from beginning{option}"
    ));
    let kept = if ephemeral {
        "data is deleted"
    } else {
        "data is kept"
    };
    lines.push(format!("Ctrl-C stops; {kept}."));
    lines.push("ready\n".to_owned());
    lines.join("\n")
}

/// What failed, why, and what to try.
fn explain(error: &StartError, data_dir: &Path) -> UserError {
    let what = "the node did not start";
    let cause = error.to_string();
    let advice = match error {
        StartError::Bind(BindError::Busy { .. }) => {
            "stop that process, or choose other ports: klamm dev --listen 127.0.0.1:0 --http 127.0.0.1:0".to_owned()
        }
        StartError::Bind(_) => "an address of this machine: klamm dev --listen 127.0.0.1:9092".to_owned(),
        StartError::Open(OpenError::Locked { .. }) => {
            "stop that process, or use another directory: klamm dev --data DIR".to_owned()
        }
        StartError::Open(OpenError::NewerFormat { .. }) | StartError::Identity(IdentityError::Newer { .. }) => {
            "the newer version of klamm that wrote it; nothing was changed".to_owned()
        }
        StartError::Identity(IdentityError::OtherNode { found, .. }) => {
            format!("klamm dev --set node.id={found}, or another directory: --data DIR")
        }
        StartError::Open(OpenError::Failed { .. }) | StartError::Identity(IdentityError::Unreadable { .. }) => {
            format!("check that {} may be written to and its disk works, or use --data DIR", data_dir.display())
        }
        StartError::Storage(_) | StartError::Raft(_) | StartError::Metadata(_) => {
            format!("klamm dev --log debug, and keep {}: it holds your data", data_dir.display())
        }
    };
    UserError::failed(what, cause, advice)
}
