//! `klamm config`: the one table of settings, for people and for scripts.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use klamm_metadata::settings::{Dynamic, Key, Scope, Settings, Support, keys};
use serde::Serialize;

use super::error::UserError;
use super::node::{key_value, load};
use super::output::{self, Format, Table};

/// What to do with settings.
#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// List settings: value, where it comes from, default, whether it can change at run time.
    List(ListArgs),
}

/// Arguments of `klamm config list`.
#[derive(Args)]
pub(super) struct ListArgs {
    /// Only settings whose name contains this.
    filter: Option<String>,
    /// A setting as `klamm dev` would be given it.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    settings: Vec<(String, String)>,
    /// Table for people, or JSON with documentation for scripts.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    scope: &'static str,
    value: Option<String>,
    source: &'static str,
    default: Option<&'static str>,
    #[serde(rename = "type")]
    kind: &'static str,
    dynamic: &'static str,
    honoured: bool,
    documentation: String,
}

/// Runs `klamm config`.
pub(super) fn run(command: &ConfigCommand) -> Result<(), UserError> {
    let ConfigCommand::List(args) = command;
    let settings = load(args.settings.iter().cloned().collect::<BTreeMap<_, _>>())?;
    let rows: Vec<Row> = [Scope::Broker, Scope::Topic]
        .into_iter()
        .flat_map(keys)
        .filter(|key| key.is_shown())
        .filter(|key| {
            args.filter
                .as_deref()
                .is_none_or(|filter| key.name.contains(filter))
        })
        .map(|key| row(key, &settings))
        .collect();
    match args.output {
        Format::Json => output::print_json(&rows),
        Format::Table => {
            let mut table = Table::new(&["NAME", "SCOPE", "VALUE", "SOURCE", "DYNAMIC"]);
            for row in rows {
                let value = row.value.unwrap_or_else(|| "-".to_owned());
                table.row(
                    [row.name, row.scope, &value, row.source, row.dynamic]
                        .map(str::to_owned)
                        .to_vec(),
                );
            }
            output::print(&table.render())
        }
    }
}

fn row(key: &'static Key, settings: &Settings) -> Row {
    let resolved = match key.scope {
        Scope::Broker => settings.resolve(key.name),
        _ => Some(settings.inherited(key)),
    };
    let (value, is_set) = match resolved {
        Some(resolved) => (resolved.value, settings.fixed().contains_key(key.name)),
        None => (None, false),
    };
    let mut documentation = key.documentation.to_owned();
    if let Support::Inert(reason) = key.support {
        documentation.push_str(&format!(" Does nothing here: {reason}."));
    }
    Row {
        name: key.name,
        scope: if key.scope == Scope::Broker {
            "broker"
        } else {
            "topic"
        },
        value: value.filter(|_| !key.is_sensitive()),
        source: if is_set { "set" } else { "default" },
        default: key.default,
        kind: key.kind.name(),
        dynamic: match key.dynamic {
            Dynamic::Static => "no",
            Dynamic::Cluster => "cluster",
            Dynamic::PerBroker => "broker",
        },
        honoured: key.support == Support::Honoured,
        documentation,
    }
}
