//! DescribeConfigs and ListConfigResources (behaviours 107, 113, 114).

use std::borrow::Cow;
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
    pub documentation: Cow<'static, str>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;
    use crate::testing::{Cluster, map, settings};

    fn ask(
        cluster: &Cluster,
        resource_type: i8,
        name: &str,
        keys: Option<&[&str]>,
    ) -> Result<Vec<ConfigEntry>, Problem> {
        let keys = keys.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect());
        describe_configs(
            cluster.context(),
            &DescribeConfigs {
                resource_type,
                resource_name: name.into(),
                keys,
            },
        )
    }

    fn set(cluster: &mut Cluster, resource: ConfigResource, configs: &[(&str, &str)]) {
        cluster.apply(&Command::AlterConfigs {
            resource,
            sets: map(configs),
            removes: vec![],
        });
        cluster.settings = cluster.settings.with_dynamic(&cluster.image, 1);
    }

    fn synonyms(entry: &ConfigEntry) -> Vec<(&str, &str, i8)> {
        let synonyms = entry.synonyms.iter();
        synonyms
            .map(|synonym| {
                (
                    synonym.name.as_str(),
                    synonym.value.as_deref().unwrap_or("null"),
                    synonym.source.code(),
                )
            })
            .collect()
    }

    #[test]
    fn behaviour_113_sources_and_synonyms_of_a_topic() {
        let mut cluster = Cluster::single().with_topic("t", 1, &[("retention.ms", "7")]);
        cluster.settings = settings(&[("log.retention.hours", "2")]);
        set(
            &mut cluster,
            ConfigResource::Broker(None),
            &[("log.retention.ms", "9")],
        );
        set(
            &mut cluster,
            ConfigResource::Broker(Some(1)),
            &[("log.retention.ms", "8")],
        );
        let entry = ask(&cluster, 2, "t", Some(&["retention.ms"]))
            .expect("exists")
            .remove(0);
        assert_eq!(
            (entry.value.as_deref(), entry.source),
            (Some("7"), Source::Topic)
        );
        let expected = [
            ("retention.ms", "7", 1),
            ("log.retention.ms", "8", 2),
            ("log.retention.ms", "9", 3),
            ("log.retention.hours", "2", 4),
            ("log.retention.hours", "168", 5),
        ];
        assert_eq!(synonyms(&entry)[..4], expected[..4]);
        assert_eq!(synonyms(&entry)[4], expected[4]);
        assert!(
            !entry.read_only
                && !entry.sensitive
                && entry.config_type == 5
                && entry.documentation.contains("milliseconds")
        );
    }

    #[test]
    fn behaviour_113_null_and_empty_mean_all_keys() {
        let cluster = Cluster::single().with_topic("t", 1, &[]);
        let all = ask(&cluster, 2, "t", None).expect("exists");
        assert_eq!(ask(&cluster, 2, "t", Some(&[])), Ok(all.clone()));
        assert!(all.len() >= 30 && all.iter().any(|entry| entry.name == "cleanup.policy"));
        for hidden in ["internal.segment.bytes", "message.format.version"] {
            assert!(all.iter().all(|entry| entry.name != hidden), "{hidden}");
        }
        assert_eq!(ask(&cluster, 2, "t", Some(&["no.such.key"])), Ok(vec![]));
    }

    #[test]
    fn behaviour_107_a_value_equal_to_the_default_is_an_override() {
        let cluster = Cluster::single().with_topic("t", 1, &[("retention.ms", "604800000")]);
        let entry = ask(&cluster, 2, "t", Some(&["retention.ms"]))
            .expect("exists")
            .remove(0);
        assert_eq!(entry.source, Source::Topic);
        let other = ask(&cluster, 2, "t", Some(&["segment.bytes"]))
            .expect("exists")
            .remove(0);
        assert_eq!(
            (other.source, synonyms(&other)),
            (
                Source::Default,
                vec![("log.segment.bytes", "1073741824", 5)]
            )
        );
    }

    #[test]
    fn behaviour_113_broker_resources() {
        let mut cluster = Cluster::single();
        cluster.settings = settings(&[("klamm.cluster.secret", "hush"), ("num.partitions", "3")]);
        set(
            &mut cluster,
            ConfigResource::Broker(None),
            &[("message.max.bytes", "5")],
        );
        let entries = ask(&cluster, 4, "1", None).expect("this broker");
        let entry = |name: &str| entries.iter().find(|entry| entry.name == name).expect(name);
        assert_eq!(entry("klamm.cluster.secret").value, None);
        assert!(entry("klamm.cluster.secret").sensitive && entry("klamm.cluster.secret").read_only);
        assert!(
            entry("klamm.cluster.secret")
                .synonyms
                .iter()
                .all(|synonym| synonym.value.is_none())
        );
        assert_eq!(
            (
                entry("num.partitions").value.as_deref(),
                entry("num.partitions").source
            ),
            (Some("3"), Source::StaticBroker)
        );
        assert!(entry("num.partitions").read_only && !entry("message.max.bytes").read_only);
        assert_eq!(
            entry("message.max.bytes").source,
            Source::DynamicDefaultBroker
        );
        assert_eq!(
            synonyms(entry("log.retention.ms")),
            [("log.retention.hours", "168", 5)]
        );
        let defaults = ask(&cluster, 4, "", None).expect("cluster default");
        assert_eq!(
            defaults
                .iter()
                .map(|entry| entry.name.as_str())
                .collect::<Vec<_>>(),
            ["message.max.bytes"]
        );
        assert_eq!(
            ask(&cluster, 4, "2", None)
                .expect_err("another broker")
                .code,
            ErrorCode::InvalidRequest
        );
        assert_eq!(
            ask(&cluster, 4, "x", None).expect_err("no id").code,
            ErrorCode::InvalidRequest
        );
    }

    #[test]
    fn unknown_resources() {
        let cluster = Cluster::single();
        assert_eq!(
            ask(&cluster, 2, "gone", None).expect_err("gone").code,
            ErrorCode::UnknownTopicOrPartition
        );
        assert_eq!(
            ask(&cluster, 2, "a b", None).expect_err("bad").code,
            ErrorCode::InvalidTopic
        );
        assert_eq!(
            ask(&cluster, 99, "x", None).expect_err("bad").code,
            ErrorCode::InvalidRequest
        );
    }

    #[test]
    fn groups_and_client_metrics_have_their_keys() {
        let mut cluster = Cluster::single();
        set(
            &mut cluster,
            ConfigResource::ClientMetrics("m".into()),
            &[("interval.ms", "500")],
        );
        let entries = ask(&cluster, 16, "m", None).expect("keys");
        assert_eq!(entries[0].source, Source::ClientMetrics);
        let group = ask(&cluster, 32, "g", Some(&["consumer.session.timeout.ms"]))
            .expect("keys")
            .remove(0);
        assert_eq!(
            (group.value.as_deref(), group.source),
            (Some("45000"), Source::Default)
        );
    }

    #[test]
    fn resources_are_listed() {
        let mut cluster = Cluster::new(&[None, None]).with_topic("t", 1, &[]);
        set(
            &mut cluster,
            ConfigResource::ClientMetrics("m".into()),
            &[("interval.ms", "500")],
        );
        let all = list_config_resources(cluster.context(), &[]).expect("known types");
        let named = |resource_type, name: &str| (resource_type, name.to_owned());
        assert_eq!(
            all,
            [
                named(2, "t"),
                named(4, "1"),
                named(4, "2"),
                named(8, "1"),
                named(8, "2"),
                named(16, "m")
            ]
        );
        assert_eq!(
            list_config_resources(cluster.context(), &[16]),
            Ok(vec![named(16, "m")])
        );
        assert_eq!(
            list_config_resources(cluster.context(), &[1])
                .expect_err("unknown")
                .code,
            ErrorCode::UnsupportedVersion
        );
    }
}
