//! `klamm start`: one node, as an operator's configuration file says.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use clap::Args;
use klamm_metadata::settings::{Settings, parse_properties, parse_toml};

use super::error::UserError;
use super::node::{self, Run, Started, addresses, key_value, load};
use crate::node::Node;
use crate::telemetry::LogFormat;

/// Arguments of `klamm start`.
#[derive(Args)]
pub(super) struct StartArgs {
    /// Kafka's server.properties of a node in combined mode, or TOML with the same keys if it ends in
    /// .toml.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// A setting that overrides the file's; may be given often.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    settings: Vec<(String, String)>,
    /// Log levels, such as info or warn,klamm::server=debug.
    #[arg(long, value_name = "LEVELS", env = "KLAMM_LOG", default_value = "warn")]
    log: String,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "auto")]
    log_format: LogFormat,
    /// Stop when standard input ends, too: for a program that runs nodes.
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

/// Runs the node until it is told to stop.
pub(super) fn run(args: StartArgs) -> Result<(), UserError> {
    let logs = node::logs(&args.log, args.log_format)?;
    let mut fixed = read(&args.config)?;
    fixed.extend(args.settings);
    let settings = load(fixed)?;
    let run = Run {
        data_dir: settings.log_dir().into(),
        http: http(&settings)?,
        settings,
        logs,
        started: Started::Start,
        until_stdin_ends: args.until_stdin_ends,
    };
    let data_dir = run.data_dir.clone();
    node::run(run, |node, took_ms| screen(node, &data_dir, took_ms))
}

fn read(path: &Path) -> Result<BTreeMap<String, String>, UserError> {
    let what = format!("the configuration {} could not be read", path.display());
    let text = std::fs::read_to_string(path).map_err(|cause| {
        UserError::usage(
            what.clone(),
            cause.to_string(),
            "klamm start --config server.properties; klamm cluster init writes one",
        )
    })?;
    let is_toml = path
        .extension()
        .is_some_and(|extension| extension == "toml");
    let parsed = if is_toml {
        parse_toml(&text)
    } else {
        parse_properties(&text)
    };
    parsed.map_err(|cause| UserError::usage(what, cause.to_string(), "correct the file"))
}

fn http(settings: &Settings) -> Result<Option<SocketAddr>, UserError> {
    let listener = settings
        .http_listener()
        .expect("checked when the settings were loaded");
    let Some((host, port)) = listener else {
        return Ok(None);
    };
    let host = if host.is_empty() { "0.0.0.0" } else { &host };
    let refuse = |cause: String| {
        UserError::usage(
            "the node did not start",
            format!("klamm.http.listener: {host} has no address: {cause}"),
            "klamm.http.listener=127.0.0.1:9644, or empty for no HTTP",
        )
    };
    let mut found = (host, port)
        .to_socket_addrs()
        .map_err(|cause| refuse(cause.to_string()))?;
    let first = found.next();
    first.map(Some).ok_or_else(|| refuse("none".to_owned()))
}

fn screen(node: &Node, data_dir: &Path, took_ms: u128) -> String {
    let image = node.shared().controller.image();
    let mut lines = vec![
        String::new(),
        format!(
            "klamm {}  node {} of cluster {}  started in {took_ms} ms",
            env!("CARGO_PKG_VERSION"),
            node.shared().node_id,
            image.cluster_id().unwrap_or_default()
        ),
        String::new(),
        format!("  Data   {}", data_dir.display()),
    ];
    lines.extend(addresses(node));
    lines.push("ready\n".to_owned());
    lines.join("\n")
}
