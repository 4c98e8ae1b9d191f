//! The layers a value comes from, in Kafka's precedence: dynamic per broker, dynamic default of all
//! brokers, static (file and command line), default of the table.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::image::Image;
use crate::resource::ConfigResource;
use crate::settings::key::{Key, Kind, Scope, Support, Synonym, Unit};
use crate::settings::listeners::{self, ListenerError, Listeners};
use crate::settings::quorum::{self, QuorumError, Voter};
use crate::settings::table::{find, keys, unknown_key};
use crate::settings::topic_settings::TopicSettings;
use crate::settings::value::{ValueError, elements, number_per_host, parse_boolean};

/// Where a value comes from. The number is DescribeConfigs' `config_source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum Source {
    /// An override of the topic.
    Topic = 1,
    /// Set at run time for this broker.
    DynamicBroker = 2,
    /// Set at run time for all brokers.
    DynamicDefaultBroker = 3,
    /// The file or the command line of this broker.
    StaticBroker = 4,
    /// The table.
    Default = 5,
    /// An override of the client metrics subscription.
    ClientMetrics = 7,
    /// An override of the group.
    Group = 8,
}

impl Source {
    /// The number on the wire.
    pub fn code(self) -> i8 {
        self as i8
    }
}

/// The broker's settings, resolved. Cheap to clone. Every value in it was checked.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    layers: Arc<Layers>,
}

#[derive(Clone, Default)]
struct Layers {
    dynamic_broker: BTreeMap<String, String>,
    dynamic_default: BTreeMap<String, String>,
    fixed: BTreeMap<String, String>,
}

/// Shows names only: values may be secrets.
impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Layers");
        for (layer, values) in [
            ("dynamic_broker", &self.dynamic_broker),
            ("dynamic_default", &self.dynamic_default),
            ("fixed", &self.fixed),
        ] {
            shown.field(layer, &values.keys().collect::<Vec<_>>());
        }
        shown.finish()
    }
}

/// A value with its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The value in text form; `None` is Kafka's null.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Source,
}

/// One of the values that could count for a key, as DescribeConfigs lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SynonymValue {
    /// The key it was given under.
    pub name: String,
    /// The value under that key, in that key's unit; `None` for a password.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Source,
}

/// A key that was set and does nothing here; to be told once at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The key.
    pub key: String,
    /// Why it does nothing.
    pub reason: &'static str,
}

/// Why the static settings cannot be used. All of them are found at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// No such key; the text names the nearest.
    #[error("{0}")]
    Unknown(String),
    /// A value that is not accepted.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// Listeners that do not fit together.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// Quorum addresses that cannot be read.
    #[error(transparent)]
    Quorum(#[from] QuorumError),
    /// Settings that contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

const LAYERS: [Source; 4] = [
    Source::DynamicBroker,
    Source::DynamicDefaultBroker,
    Source::StaticBroker,
    Source::Default,
];

impl Settings {
    /// Settings from what the file and the command line say, whole and checked.
    ///
    /// # Errors
    /// Everything that is wrong: unknown keys, values, contradictions.
    pub fn load(
        fixed: BTreeMap<String, String>,
    ) -> Result<(Settings, Vec<Notice>), Vec<SettingError>> {
        let mut errors = Vec::new();
        let mut notices = Vec::new();
        for (name, value) in &fixed {
            let Some(key) = find(Scope::Broker, name) else {
                errors.push(SettingError::Unknown(unknown_key(Scope::Broker, name)));
                continue;
            };
            if let Err(error) = key.check(value) {
                errors.push(error.into());
            } else if let Support::Inert(reason) = key.support {
                notices.push(Notice {
                    key: name.clone(),
                    reason,
                });
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let settings = Settings {
            layers: Arc::new(Layers {
                fixed,
                ..Layers::default()
            }),
        };
        let contradictions = settings.contradictions();
        if contradictions.is_empty() {
            Ok((settings, notices))
        } else {
            Err(contradictions)
        }
    }

    /// The same static settings under the dynamic ones of an image. A stored value that this
    /// program does not accept (a newer one wrote it) does not count.
    #[must_use]
    pub fn with_dynamic(&self, image: &Image, node_id: i32) -> Settings {
        let layer = |resource: &ConfigResource| {
            let configs = image.configs(resource).into_iter().flatten();
            configs
                .filter(|(name, value)| {
                    find(Scope::Broker, name)
                        .is_some_and(|key| key.is_dynamic() && key.check(value).is_ok())
                })
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        };
        Settings {
            layers: Arc::new(Layers {
                dynamic_broker: layer(&ConfigResource::Broker(Some(node_id))),
                dynamic_default: layer(&ConfigResource::Broker(None)),
                fixed: self.layers.fixed.clone(),
            }),
        }
    }

    /// A broker key's own value and where it comes from; other names of it do not count.
    /// `None` for a name that is neither in the table nor set.
    pub fn resolve(&self, name: &str) -> Option<Resolved> {
        LAYERS
            .iter()
            .find_map(|&source| {
                let value = self.at(source, name)?;
                Some(Resolved {
                    value: Some(value.to_owned()),
                    source,
                })
            })
            .or_else(|| {
                find(Scope::Broker, name).map(|_| Resolved {
                    value: None,
                    source: Source::Default,
                })
            })
    }

    /// All values that could count for a broker key, under all its names, highest precedence first:
    /// the first one counts (behaviour 113).
    pub fn synonyms(&self, name: &str) -> Vec<SynonymValue> {
        match family(name) {
            Some(family) => self
                .candidates(family)
                .map(|(candidate, _)| candidate)
                .collect(),
            None => {
                let own = LAYERS
                    .iter()
                    .filter_map(|&source| Some((source, self.at(source, name)?)));
                own.map(|(source, value)| shown(name, value, source))
                    .collect()
            }
        }
    }

    /// The value a topic or group key has without an override, in the key's unit.
    pub fn inherited(&self, key: &Key) -> Resolved {
        let first = self.candidates(key.synonyms).next();
        match first {
            Some((candidate, synonym)) => Resolved {
                value: convert(synonym.unit, candidate.value),
                source: candidate.source,
            },
            None => Resolved {
                value: key.default.map(str::to_owned),
                source: Source::Default,
            },
        }
    }

    /// The values that a topic or group key's broker keys have, highest precedence first.
    pub fn inherited_synonyms(&self, key: &Key) -> Vec<SynonymValue> {
        self.candidates(key.synonyms)
            .map(|(candidate, _)| candidate)
            .collect()
    }

    /// The settings of a topic with these overrides.
    pub fn topic(&self, overrides: &BTreeMap<String, String>) -> TopicSettings {
        TopicSettings::resolve(self, overrides)
    }

    /// Names that were set for all brokers at run time, with their values.
    pub fn dynamic_defaults(&self) -> &BTreeMap<String, String> {
        &self.layers.dynamic_default
    }

    /// Names set by the file or the command line.
    pub fn fixed(&self) -> &BTreeMap<String, String> {
        &self.layers.fixed
    }

    /// A `BOOLEAN` broker key.
    ///
    /// # Panics
    /// These getters panic for a key that is not in the table, is of another type, or is null: the
    /// name is the program's own.
    pub fn boolean(&self, name: &'static str) -> bool {
        parse_boolean(&self.known(name, &[Kind::Boolean]))
            .expect("values are checked when they enter a layer")
    }

    /// An `INT` or `SHORT` broker key.
    ///
    /// # Panics
    /// As [`Settings::boolean`].
    pub fn int(&self, name: &'static str) -> i32 {
        self.known(name, &[Kind::Int, Kind::Short])
            .trim()
            .parse()
            .expect("values are checked when they enter a layer")
    }

    /// A `LONG`, `INT` or `SHORT` broker key.
    ///
    /// # Panics
    /// As [`Settings::boolean`].
    pub fn long(&self, name: &'static str) -> i64 {
        let kinds = [Kind::Long, Kind::Int, Kind::Short];
        self.known(name, &kinds)
            .trim()
            .parse()
            .expect("values are checked when they enter a layer")
    }

    /// A `DOUBLE` broker key.
    ///
    /// # Panics
    /// As [`Settings::boolean`].
    pub fn double(&self, name: &'static str) -> f64 {
        self.known(name, &[Kind::Double])
            .trim()
            .parse()
            .expect("values are checked when they enter a layer")
    }

    /// A `STRING`, `CLASS` or `PASSWORD` broker key; `None` when it is null.
    ///
    /// # Panics
    /// If the key is not in the table or of another type.
    pub fn text(&self, name: &'static str) -> Option<String> {
        self.raw(name, &[Kind::String, Kind::Class, Kind::Password])
            .map(|text| text.trim().to_owned())
    }

    /// A `LIST` broker key; empty when it is null.
    ///
    /// # Panics
    /// If the key is not in the table or of another type.
    pub fn list(&self, name: &'static str) -> Vec<String> {
        let text = self.raw(name, &[Kind::List]).unwrap_or_default();
        elements(&text).map(str::to_owned).collect()
    }

    /// `node.id`, or `broker.id` where only that is set.
    pub fn node_id(&self) -> i32 {
        let older = self.int("broker.id");
        if older >= 0 && self.at(Source::StaticBroker, "node.id").is_none() {
            older
        } else {
            self.int("node.id")
        }
    }

    /// The data directory: `log.dirs`, else `log.dir`.
    pub fn log_dir(&self) -> String {
        match self.list("log.dirs").into_iter().next() {
            Some(dir) => dir,
            None => self.text("log.dir").expect("log.dir has a default"),
        }
    }

    /// Listeners, read and checked.
    ///
    /// # Errors
    /// [`ListenerError`]. Never after [`Settings::load`], since listeners are static.
    pub fn listeners(&self) -> Result<Listeners, ListenerError> {
        Listeners::read(self)
    }

    /// `klamm.http.listener`: host (all interfaces when empty) and port; `None` for no HTTP.
    ///
    /// # Errors
    /// [`ListenerError`]. Never after [`Settings::load`].
    pub fn http_listener(&self) -> Result<Option<(String, u16)>, ListenerError> {
        listeners::parse_http(&self.text("klamm.http.listener").unwrap_or_default())
    }

    /// `max.connections.per.ip.overrides`: connections by host name or address.
    pub fn connections_per_ip_overrides(&self) -> BTreeMap<String, i32> {
        let text = self
            .text("max.connections.per.ip.overrides")
            .unwrap_or_default();
        number_per_host(&text).expect("values are checked when they enter a layer")
    }

    /// `controller.quorum.bootstrap.servers`, read and checked.
    ///
    /// # Errors
    /// [`QuorumError`]. Never after [`Settings::load`].
    pub fn bootstrap_servers(&self) -> Result<Vec<(String, u16)>, QuorumError> {
        quorum::parse_bootstrap_servers(&self.list("controller.quorum.bootstrap.servers").join(","))
    }

    /// `controller.quorum.voters`, read and checked.
    ///
    /// # Errors
    /// [`QuorumError`]. Never after [`Settings::load`].
    pub fn voters(&self) -> Result<Vec<Voter>, QuorumError> {
        quorum::parse_voters(&self.list("controller.quorum.voters").join(","))
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.layers.fixed.contains_key(name)
    }

    fn known(&self, name: &'static str, kinds: &[Kind]) -> String {
        self.raw(name, kinds)
            .unwrap_or_else(|| panic!("setting {name} is null and has no default"))
    }

    fn raw(&self, name: &'static str, kinds: &[Kind]) -> Option<String> {
        let key = find(Scope::Broker, name)
            .unwrap_or_else(|| panic!("setting {name} is not in the table"));
        assert!(
            kinds.contains(&key.kind),
            "setting {name} is of type {}",
            key.kind.name()
        );
        self.resolve(name)?.value
    }

    fn at(&self, source: Source, name: &str) -> Option<&str> {
        match source {
            Source::DynamicBroker => self.layers.dynamic_broker.get(name).map(String::as_str),
            Source::DynamicDefaultBroker => {
                self.layers.dynamic_default.get(name).map(String::as_str)
            }
            Source::StaticBroker => self.layers.fixed.get(name).map(String::as_str),
            Source::Default => {
                find(Scope::Broker, name)
                    .filter(|key| key.name == name)?
                    .default
            }
            Source::Topic | Source::ClientMetrics | Source::Group => None,
        }
    }

    fn candidates(
        &self,
        names: &'static [Synonym],
    ) -> impl Iterator<Item = (SynonymValue, &'static Synonym)> {
        LAYERS.iter().flat_map(move |&source| {
            names.iter().filter_map(move |synonym| {
                Some((
                    shown(synonym.name, self.at(source, synonym.name)?, source),
                    synonym,
                ))
            })
        })
    }

    fn contradictions(&self) -> Vec<SettingError> {
        let mut errors: Vec<SettingError> = Vec::new();
        errors.extend(self.listeners().err().map(SettingError::from));
        errors.extend(self.voters().err().map(SettingError::from));
        errors.extend(self.bootstrap_servers().err().map(SettingError::from));
        errors.extend(self.http_listener().err().map(SettingError::from));
        let mut contradiction = |text: String| errors.push(SettingError::Contradiction(text));
        if self.is_set("node.id")
            && self.is_set("broker.id")
            && self.int("node.id") != self.int("broker.id")
        {
            contradiction(format!(
                "node.id is {} and broker.id is {}: they are two names of one thing, leave broker.id out.",
                self.int("node.id"),
                self.int("broker.id")
            ));
        }
        let dirs = self.list("log.dirs");
        if dirs.len() > 1 {
            contradiction(format!(
                "log.dirs names {} directories: give one, and spread it over disks below it (LVM, RAID).",
                dirs.len()
            ));
        }
        let mut roles = self.list("process.roles");
        roles.sort();
        if roles != ["broker", "controller"] {
            contradiction(format!(
                "process.roles is '{}': every node has both roles, set process.roles=broker,controller or leave it out.",
                roles.join(",")
            ));
        }
        if self.text("klamm.cluster.secret").is_some()
            && self.text("klamm.cluster.secret.file").is_some()
        {
            contradiction(
                "klamm.cluster.secret and klamm.cluster.secret.file are both set: give one."
                    .to_owned(),
            );
        }
        errors
    }
}

/// The broker keys that are names of the same thing as `name`, in other units.
fn family(name: &str) -> Option<&'static [Synonym]> {
    let is_family = |key: &&Key| {
        key.synonyms.len() > 1 && key.synonyms.iter().any(|synonym| synonym.name == name)
    };
    keys(Scope::Topic).find(is_family).map(|key| key.synonyms)
}

fn shown(name: &str, value: &str, source: Source) -> SynonymValue {
    let key = find(Scope::Broker, name);
    let value = match key {
        Some(key) if key.is_sensitive() => None,
        Some(key) => Some(key.canonical(value)),
        None => Some(value.to_owned()),
    };
    SynonymValue {
        name: name.to_owned(),
        value,
        source,
    }
}

fn convert(unit: Unit, value: Option<String>) -> Option<String> {
    match unit {
        Unit::Same => value,
        Unit::Minutes | Unit::Hours => {
            let number = value?
                .parse::<i64>()
                .expect("only numbers have a unit, and they are checked");
            Some(unit.convert(number).to_string())
        }
    }
}

#[cfg(test)]
mod tests;
