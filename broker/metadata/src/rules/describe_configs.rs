//! DescribeConfigs and ListConfigResources (behaviours 107, 113, 114).

use std::collections::{BTreeMap, BTreeSet};

use super::Context;
use crate::names;
use crate::problem::{ErrorCode, Problem};
use crate::resource::ConfigResource;
use crate::settings::{Key, Scope, Settings, Source, SynonymValue, find, keys};

/// A resource whose configuration is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeConfigs {
    /// Type, as on the wire.
    pub resource_type: i8,
    /// Name, as on the wire.
    pub resource_name: String,
    /// Which keys; null and empty both mean all.
    pub keys: Option<Vec<String>>,
}

/// A key with its value, as it is shown. Everything is filled in; the handler leaves out synonyms
/// and documentation that were not asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Key.
    pub name: String,
    /// Effective value; `None` for null and for passwords.
    pub value: Option<String>,
    /// Where it comes from: the source of the first synonym.
    pub source: Source,
    /// Whether clients cannot change it.
    pub read_only: bool,
    /// Whether the value is withheld.
    pub sensitive: bool,
    /// All values that could count, highest precedence first.
    pub synonyms: Vec<SynonymValue>,
    /// Number of the type on the wire.
    pub config_type: i8,
    /// What the key means, and whether it does nothing here.
    pub documentation: String,
}

/// Answers one resource of a request.
///
/// # Errors
/// `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_TOPIC_EXCEPTION`; `INVALID_REQUEST` for another broker's id
/// and for types without configuration. `BROKER_LOGGER` is the broker's own to answer.
pub fn describe_configs(
    context: Context<'_>,
    request: &DescribeConfigs,
) -> Result<Vec<ConfigEntry>, Problem> {
    let resource = ConfigResource::parse(request.resource_type, &request.resource_name)?;
    let overrides = context
        .image
        .configs(&resource)
        .cloned()
        .unwrap_or_default();
    let entries = match &resource {
        ConfigResource::Topic(name) => {
            names::check_topic_name(name)?;
            context
                .image
                .topic(name)
                .ok_or_else(Problem::unknown_topic)?;
            topic_entries(context.settings, &overrides)
        }
        ConfigResource::Broker(None) => default_broker_entries(&overrides),
        ConfigResource::Broker(Some(id)) if *id == context.node_id => {
            broker_entries(context.settings)
        }
        ConfigResource::Broker(Some(id)) => {
            return Err(Problem::invalid_request(format!(
                "Unexpected broker id, expected {} or empty string, but received {id}",
                context.node_id
            )));
        }
        ConfigResource::Group(_) => {
            inheriting_entries(Scope::Group, Source::Group, context.settings, &overrides)
        }
        ConfigResource::ClientMetrics(_) => inheriting_entries(
            Scope::ClientMetrics,
            Source::ClientMetrics,
            context.settings,
            &overrides,
        ),
    };
    let asked: Option<BTreeSet<&String>> = request
        .keys
        .as_ref()
        .map(|keys| keys.iter().collect())
        .filter(|keys: &BTreeSet<_>| !keys.is_empty());
    Ok(entries
        .into_iter()
        .filter(|entry| {
            asked
                .as_ref()
                .is_none_or(|asked| asked.contains(&entry.name))
        })
        .collect())
}

/// Every key of a topic with these overrides, by name.
pub fn topic_entries(
    settings: &Settings,
    overrides: &BTreeMap<String, String>,
) -> Vec<ConfigEntry> {
    inheriting_entries(Scope::Topic, Source::Topic, settings, overrides)
}

/// Answers ListConfigResources: the resources of the asked types (none asked: of all types), in
/// order of type and name. Version 0 asks for client metrics only.
///
/// # Errors
/// `UNSUPPORTED_VERSION` for a type without configuration.
pub fn list_config_resources(
    context: Context<'_>,
    types: &[i8],
) -> Result<Vec<(i8, String)>, Problem> {
    const ALL: [i8; 5] = [
        ConfigResource::TOPIC,
        ConfigResource::BROKER,
        ConfigResource::BROKER_LOGGER,
        ConfigResource::CLIENT_METRICS,
        ConfigResource::GROUP,
    ];
    let asked: BTreeSet<i8> = if types.is_empty() {
        ALL.into()
    } else {
        types.iter().copied().collect()
    };
    let mut resources = Vec::new();
    for resource_type in asked {
        match resource_type {
            ConfigResource::TOPIC => resources.extend(
                context
                    .image
                    .topics()
                    .map(|topic| (resource_type, topic.name.to_string())),
            ),
            ConfigResource::BROKER | ConfigResource::BROKER_LOGGER => {
                resources.extend(
                    context
                        .image
                        .live_brokers()
                        .map(|broker| (resource_type, broker.id.to_string())),
                );
            }
            ConfigResource::CLIENT_METRICS | ConfigResource::GROUP => {
                let configured = context
                    .image
                    .configured_resources()
                    .filter(|resource| resource.resource_type() == resource_type);
                resources.extend(configured.map(|resource| (resource_type, resource.name())));
            }
            other => {
                return Err(Problem::new(
                    ErrorCode::UnsupportedVersion,
                    format!("Resource type {other} cannot be listed."),
                ));
            }
        }
    }
    Ok(resources)
}

/// Keys whose default the broker's settings give.
fn inheriting_entries(
    scope: Scope,
    own_source: Source,
    settings: &Settings,
    overrides: &BTreeMap<String, String>,
) -> Vec<ConfigEntry> {
    let entries = keys(scope)
        .filter(|key| key.is_shown() || overrides.contains_key(key.name))
        .map(|key| {
            let inherited = settings.inherited(key);
            let mut synonyms = settings.inherited_synonyms(key);
            let own = overrides
                .get(key.name)
                .filter(|value| key.check(value).is_ok())
                .map(|value| key.canonical(value));
            if let Some(own) = &own {
                synonyms.insert(
                    0,
                    SynonymValue {
                        name: key.name.to_owned(),
                        value: Some(own.clone()),
                        source: own_source,
                    },
                );
            }
            let source = if own.is_some() {
                own_source
            } else {
                inherited.source
            };
            let value = own.or_else(|| inherited.value.map(|value| key.canonical(&value)));
            entry(key, key.name, value, source, synonyms)
        });
    entries.collect()
}

fn broker_entries(settings: &Settings) -> Vec<ConfigEntry> {
    let in_table = keys(Scope::Broker)
        .filter(|key| key.is_shown())
        .map(|key| key.name);
    let of_listeners = settings
        .fixed()
        .keys()
        .map(String::as_str)
        .filter(|name| name.starts_with("listener.name."));
    let names: BTreeSet<&str> = in_table.chain(of_listeners).collect();
    let entries = names.into_iter().filter_map(|name| {
        let key = find(Scope::Broker, name)?;
        let resolved = settings.resolve(name)?;
        let synonyms = settings.synonyms(name);
        let source = synonyms
            .first()
            .map_or(Source::Default, |first| first.source);
        let value = resolved.value.map(|value| key.canonical(&value));
        Some(entry(key, name, value, source, synonyms))
    });
    entries.collect()
}

/// Only what is set for all brokers at run time.
fn default_broker_entries(overrides: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
    let entries = overrides.iter().filter_map(|(name, value)| {
        let key = find(Scope::Broker, name)?;
        let value = Some(key.canonical(value)).filter(|_| !key.is_sensitive());
        let source = Source::DynamicDefaultBroker;
        let synonym = SynonymValue {
            name: name.clone(),
            value: value.clone(),
            source,
        };
        Some(entry(key, name, value, source, vec![synonym]))
    });
    entries.collect()
}

fn entry(
    key: &Key,
    name: &str,
    value: Option<String>,
    source: Source,
    synonyms: Vec<SynonymValue>,
) -> ConfigEntry {
    ConfigEntry {
        name: name.to_owned(),
        value: value.filter(|_| !key.is_sensitive()),
        source,
        read_only: !key.is_dynamic(),
        sensitive: key.is_sensitive(),
        synonyms,
        config_type: key.kind.wire_type(),
        documentation: key.full_documentation(),
    }
}
