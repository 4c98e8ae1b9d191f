//! `klamm dev`: one durable node on this machine.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use klamm_metadata::settings::Settings;
use tracing::warn;

use super::error::UserError;
use super::node::{self, Run, Started, addresses, key_value, load};
use super::nodes;
use crate::node::Node;
use crate::telemetry::LogFormat;

/// Arguments of `klamm dev`.
#[derive(Args)]
pub(super) struct DevArgs {
    /// Data directory; made if it is not there, kept when the node stops.
    #[arg(long, value_name = "DIR", default_value = "./.klamm")]
    pub(super) data: PathBuf,
    /// Where Kafka clients connect; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub(super) listen: String,
    /// Where health and metrics are served; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644")]
    pub(super) http: SocketAddr,
    /// Run a cluster of so many nodes on this machine: Kafka and HTTP ports count up from the ones given,
    /// ids from `node.id`; `{id}` in the value of a setting stands for a node's own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(super) nodes: u16,
    /// Keep data in a temporary directory that is deleted when the node stops.
    #[arg(long, conflicts_with = "data")]
    pub(super) ephemeral: bool,
    /// Any setting by Kafka's name; may be given often. `klamm config list` shows all.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(super) settings: Vec<(String, String)>,
    /// Log levels, such as info or warn,klamm::server=debug.
    #[arg(long, value_name = "LEVELS", env = "KLAMM_LOG", default_value = "warn")]
    pub(super) log: String,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "auto")]
    log_format: LogFormat,
}

/// Runs the node, or several, until told to stop.
pub(super) fn run(args: DevArgs) -> Result<(), UserError> {
    let logs = node::logs(&args.log, args.log_format)?;
    let ephemeral = Ephemeral::new(args.ephemeral)?;
    let data_dir = ephemeral.dir.clone().unwrap_or_else(|| args.data.clone());
    if args.nodes > 1 {
        return nodes::run(&args, &data_dir);
    }
    let run = Run {
        settings: settings(&args, &data_dir)?,
        data_dir: data_dir.clone(),
        http: Some(args.http),
        logs,
        started: Started::Dev,
        until_stdin_ends: false,
    };
    let is_ephemeral = ephemeral.dir.is_some();
    node::run(run, |node, took_ms| {
        first_screen(node, &data_dir, is_ephemeral, took_ms)
    })
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
    lines.extend(addresses(node));
    let bootstrap = node.addresses().first().map(|(_, at)| at.to_string());
    lines.extend(first_steps(&bootstrap.unwrap_or_default()));
    let kept = if ephemeral {
        "data is deleted"
    } else {
        "data is kept"
    };
    lines.push(format!("Ctrl-C stops; {kept}."));
    lines.push("ready\n".to_owned());
    lines.join("\n")
}

/// What to try first.
pub(super) fn first_steps(bootstrap: &str) -> [String; 4] {
    let option = if bootstrap == "127.0.0.1:9092" {
        String::new()
    } else {
        format!(" --bootstrap {bootstrap}")
    };
    [
        String::new(),
        format!("Try    klamm topic create hello -p 3{option}"),
        format!("       echo hi | klamm produce hello{option}"),
        format!("       klamm consume hello --from beginning{option}"),
    ]
}
