//! What the table says of one key.

use std::borrow::Cow;

/// A key of the table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Name, as Kafka has it; ours begin with `klamm.`.
    pub name: &'static str,
    /// What it configures.
    pub scope: Scope,
    /// Type of the value.
    pub kind: Kind,
    /// Default in text form; `None` is Kafka's null.
    pub default: Option<&'static str>,
    /// Which values are in range.
    pub accepts: Accepts,
    /// Whether it changes at run time (broker keys; every other scope is dynamic).
    pub dynamic: Dynamic,
    /// For a topic or group key: the broker keys that give its default, highest precedence first.
    pub synonyms: &'static [Synonym],
    /// What it does here.
    pub support: Support,
    /// Values that Kafka takes and Klamm does not, each with the reason. For a list, elements.
    pub refuses: &'static [(&'static str, &'static str)],
    /// Not shown by DescribeConfigs: a key for tests.
    pub internal: bool,
    /// What it means, with its unit.
    pub documentation: &'static str,
}

/// What a key configures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// A topic.
    Topic,
    /// A broker, or all of them.
    Broker,
    /// A group.
    Group,
    /// A client metrics subscription.
    ClientMetrics,
}

/// Type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`, in any case.
    Boolean,
    /// 16-bit number.
    Short,
    /// 32-bit number.
    Int,
    /// 64-bit number.
    Long,
    /// Floating-point number.
    Double,
    /// Text.
    String,
    /// Texts separated by commas.
    List,
    /// Text that is never shown.
    Password,
    /// Name of a Java class: text here.
    Class,
}

impl Kind {
    /// The number of DescribeConfigs version 3 and later.
    pub fn wire_type(self) -> i8 {
        match self {
            Kind::Boolean => 1,
            Kind::String => 2,
            Kind::Int => 3,
            Kind::Short => 4,
            Kind::Long => 5,
            Kind::Double => 6,
            Kind::List => 7,
            Kind::Class => 8,
            Kind::Password => 9,
        }
    }

    /// Kafka's name of the type, as in its error messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Boolean => "BOOLEAN",
            Kind::Short => "SHORT",
            Kind::Int => "INT",
            Kind::Long => "LONG",
            Kind::Double => "DOUBLE",
            Kind::String => "STRING",
            Kind::List => "LIST",
            Kind::Password => "PASSWORD",
            Kind::Class => "CLASS",
        }
    }
}

/// Which values are in range, beyond what the type says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accepts {
    /// All of the type.
    Anything,
    /// Numbers from here up.
    AtLeast(i64),
    /// Numbers from the first to the last, both included.
    Between(i64, i64),
    /// -1, or numbers from the first to the last.
    MinusOneOrBetween(i64, i64),
    /// Floating-point numbers from 0 to 1.
    Ratio,
    /// One of these texts; for a list, each element, none twice.
    OneOf(&'static [&'static str]),
    /// Elements `host:number`.
    NumberPerHost,
    /// `*`, or elements `partition:broker`.
    ThrottledReplicas,
    /// Text that is not empty; lists with an element and none empty.
    NonEmpty,
    /// Only the empty text, for this reason: ignoring anything else would be dangerous.
    OnlyEmpty(&'static str),
}

/// Whether and how widely a broker key changes at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dynamic {
    /// Only by a restart; `read_only` to clients.
    Static,
    /// For one broker, or for all as a default.
    Cluster,
    /// For one broker only.
    PerBroker,
}

/// What a key does in Klamm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// What Kafka's documentation says.
    Honoured,
    /// Accepted and shown, without effect. The reason is told once at start.
    Inert(&'static str),
    /// Known, and refused with this reason; not shown.
    Refused(&'static str),
}

/// A broker key that gives the default of a topic or group key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synonym {
    /// Name of the broker key.
    pub name: &'static str,
    /// Unit of its value.
    pub unit: Unit,
}

/// Unit of a broker key's value, relative to the key it gives the default of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The same.
    Same,
    /// Minutes, where the other is in milliseconds.
    Minutes,
    /// Hours, where the other is in milliseconds.
    Hours,
}

impl Unit {
    /// The value in the other key's unit. Kafka's own overflow (`log.retention.hours` near the
    /// largest int) saturates; negative means "no limit" and becomes -1.
    pub fn convert(self, value: i64) -> i64 {
        match self {
            Unit::Same => value,
            Unit::Minutes | Unit::Hours if value < 0 => -1,
            Unit::Minutes => value.saturating_mul(60_000),
            Unit::Hours => value.saturating_mul(3_600_000),
        }
    }
}

const fn key(scope: Scope, kind: Kind, name: &'static str, default: Option<&'static str>) -> Key {
    let dynamic = match scope {
        Scope::Broker => Dynamic::Static,
        _ => Dynamic::Cluster,
    };
    Key {
        name,
        scope,
        kind,
        default,
        accepts: Accepts::Anything,
        dynamic,
        synonyms: &[],
        support: Support::Honoured,
        refuses: &[],
        internal: false,
        documentation: "",
    }
}

/// A topic key. `default` must hold when no broker synonym is set.
pub(super) const fn topic(kind: Kind, name: &'static str, default: &'static str) -> Key {
    key(Scope::Topic, kind, name, Some(default))
}

/// A broker key.
pub(super) const fn broker(kind: Kind, name: &'static str, default: &'static str) -> Key {
    key(Scope::Broker, kind, name, Some(default))
}

/// A broker key whose default is null.
pub(super) const fn broker_null(kind: Kind, name: &'static str) -> Key {
    key(Scope::Broker, kind, name, None)
}

/// A group key.
pub(super) const fn group(kind: Kind, name: &'static str, default: &'static str) -> Key {
    key(Scope::Group, kind, name, Some(default))
}

/// A client metrics key.
pub(super) const fn client_metrics(kind: Kind, name: &'static str, default: &'static str) -> Key {
    key(Scope::ClientMetrics, kind, name, Some(default))
}

/// A synonym in the same unit.
pub(super) const fn same(name: &'static str) -> Synonym {
    Synonym {
        name,
        unit: Unit::Same,
    }
}

/// A synonym in another unit.
pub(super) const fn unit(name: &'static str, unit: Unit) -> Synonym {
    Synonym { name, unit }
}

impl Key {
    pub(super) const fn at_least(self, least: i64) -> Key {
        Key {
            accepts: Accepts::AtLeast(least),
            ..self
        }
    }

    pub(super) const fn between(self, least: i64, most: i64) -> Key {
        Key {
            accepts: Accepts::Between(least, most),
            ..self
        }
    }

    pub(super) const fn accepts(self, accepts: Accepts) -> Key {
        Key { accepts, ..self }
    }

    pub(super) const fn one_of(self, values: &'static [&'static str]) -> Key {
        Key {
            accepts: Accepts::OneOf(values),
            ..self
        }
    }

    /// Changeable at run time, cluster-wide or per broker.
    pub(super) const fn cluster(self) -> Key {
        Key {
            dynamic: Dynamic::Cluster,
            ..self
        }
    }

    /// Changeable at run time, per broker only.
    pub(super) const fn per_broker(self) -> Key {
        Key {
            dynamic: Dynamic::PerBroker,
            ..self
        }
    }

    pub(super) const fn from(self, synonyms: &'static [Synonym]) -> Key {
        Key { synonyms, ..self }
    }

    pub(super) const fn inert(self, why: &'static str) -> Key {
        Key {
            support: Support::Inert(why),
            ..self
        }
    }

    pub(super) const fn refused(self, why: &'static str) -> Key {
        Key {
            support: Support::Refused(why),
            ..self
        }
    }

    pub(super) const fn refuses(self, refuses: &'static [(&'static str, &'static str)]) -> Key {
        Key { refuses, ..self }
    }

    pub(super) const fn internal(self) -> Key {
        Key {
            internal: true,
            ..self
        }
    }

    pub(super) const fn doc(self, documentation: &'static str) -> Key {
        Key {
            documentation,
            ..self
        }
    }

    /// Whether the value must never be shown.
    pub fn is_sensitive(&self) -> bool {
        self.kind == Kind::Password
    }

    /// Whether clients can change it (behaviour 113: `read_only` is the opposite).
    pub fn is_dynamic(&self) -> bool {
        self.dynamic != Dynamic::Static
    }

    /// The documentation, with a sentence on what the key does not do here.
    pub fn full_documentation(&self) -> Cow<'static, str> {
        match self.support {
            Support::Inert(why) => Cow::Owned(format!(
                "{} (Accepted without effect: {why}.)",
                self.documentation
            )),
            Support::Honoured | Support::Refused(_) => Cow::Borrowed(self.documentation),
        }
    }

    /// Whether DescribeConfigs and help show it.
    pub fn is_shown(&self) -> bool {
        !self.internal && !matches!(self.support, Support::Refused(_))
    }
}
