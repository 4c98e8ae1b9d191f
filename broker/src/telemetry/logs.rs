//! Logs by `tracing`: text on a terminal, JSON elsewhere, levels per module, changeable at run time.

use std::io::IsTerminal;

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// Changes log levels while the program runs.
#[derive(Clone, Debug)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogControl {
    /// Puts `directives` in force, such as `info` or `warn,klamm::server=debug`.
    pub fn set(&self, directives: &str) -> Result<(), String> {
        let filter = parse(directives).map_err(|error| error.to_string())?;
        self.handle
            .reload(filter)
            .map_err(|error| error.to_string())
    }

    /// Directives in force.
    pub fn get(&self) -> String {
        self.handle
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }
}

/// Levels per module. openraft logs each state it is in as a warning or information: it is heard
/// only when it is named.
fn parse(directives: &str) -> Result<EnvFilter, ParseError> {
    let quiet = if directives.contains("openraft") {
        ""
    } else {
        // Its heartbeats report an error when a group ends before them, as with every deleted topic.
        "openraft=error,openraft::core::heartbeat=off,"
    };
    EnvFilter::builder().parse(format!("{quiet}{directives}"))
}

/// Starts logging to stderr. `directives` come from `--log` or `KLAMM_LOG`.
pub fn init_logs(directives: &str, format: LogFormat) -> Result<LogControl, String> {
    let filter = parse(directives).map_err(|error| error.to_string())?;
    let (filter, handle) = reload::Layer::new(filter);
    let terminal = std::io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter);
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let result = if json {
        registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .try_init()
    } else {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        registry
            .with(fmt::layer().with_ansi(colour).with_writer(std::io::stderr))
            .try_init()
    };
    result.map_err(|error| error.to_string())?;
    Ok(LogControl { handle })
}
