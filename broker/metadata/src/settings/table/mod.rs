//! THE table of keys. One file per subject; everything else looks keys up here.

mod broker_groups;
mod broker_kafka;
mod broker_log;
mod broker_network;
mod broker_node;
mod broker_security;
mod broker_transactions;
mod klamm;
mod others;
mod reasons;
mod topic;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::key::{Key, Scope};
use super::suggest::nearest;

const PARTS: &[&[Key]] = &[
    topic::KEYS,
    broker_node::KEYS,
    broker_network::KEYS,
    broker_log::KEYS,
    broker_groups::KEYS,
    broker_transactions::KEYS,
    broker_security::KEYS,
    broker_kafka::KEYS,
    klamm::KEYS,
    others::KEYS,
];

static BY_NAME: LazyLock<BTreeMap<(Scope, &'static str), &'static Key>> = LazyLock::new(|| {
    PARTS
        .iter()
        .flat_map(|part| part.iter())
        .map(|key| ((key.scope, key.name), key))
        .collect()
});

/// A key by scope and name. For a broker, `listener.name.<listener>.<key>` (and with a SASL mechanism
/// before the key) finds the key it is the listener's form of.
pub fn find(scope: Scope, name: &str) -> Option<&'static Key> {
    if let Some(key) = BY_NAME.get(&(scope, name)) {
        return Some(key);
    }
    if scope != Scope::Broker {
        return None;
    }
    let (_, base) = name.strip_prefix("listener.name.")?.split_once('.')?;
    let exact = BY_NAME.get(&(scope, base));
    let with_mechanism = || BY_NAME.get(&(scope, base.split_once('.')?.1));
    exact.or_else(with_mechanism).copied()
}

/// All keys of a scope, by name, refused and internal ones too.
pub fn keys(scope: Scope) -> impl Iterator<Item = &'static Key> {
    BY_NAME
        .range((scope, "")..)
        .map(|(_, key)| *key)
        .take_while(move |key| key.scope == scope)
}

/// A sentence about a name that is no key: with the nearest one that is, in the same scope or, since
/// the two are easily confused, in the other.
pub fn unknown_key(scope: Scope, name: &str) -> String {
    let what = match scope {
        Scope::Topic => "topic config name",
        Scope::Broker => "broker config name",
        Scope::Group => "group config name",
        Scope::ClientMetrics => "client metrics configuration",
    };
    let shown: String = name.chars().take(200).collect();
    let candidates = keys(scope).filter(|key| key.is_shown()).map(|key| key.name);
    let other_scope = match scope {
        Scope::Topic if find(Scope::Broker, name).is_some() => " It is a setting of the broker.",
        Scope::Broker if find(Scope::Topic, name).is_some() => " It is a setting of a topic.",
        _ => "",
    };
    match nearest(name, candidates) {
        Some(near) if other_scope.is_empty() => {
            format!("Unknown {what}: {shown}. Did you mean {near}?")
        }
        _ => format!("Unknown {what}: {shown}.{other_scope}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::settings::key::{Accepts, Support};

    fn all() -> impl Iterator<Item = &'static Key> {
        PARTS.iter().flat_map(|part| part.iter())
    }

    #[test]
    fn no_key_is_defined_twice() {
        let mut seen = BTreeSet::new();
        for key in all() {
            assert!(
                seen.insert((key.scope, key.name)),
                "{} is defined twice",
                key.name
            );
        }
    }

    #[test]
    fn every_key_is_documented_and_has_a_valid_default() {
        for key in all() {
            assert!(
                key.documentation.len() > 20 && key.documentation.ends_with('.'),
                "{}: {}",
                key.name,
                key.documentation
            );
            if let (Some(default), false) =
                (key.default, matches!(key.support, Support::Refused(_)))
            {
                assert_eq!(key.check(default), Ok(()), "{}", key.name);
                assert_eq!(key.canonical(default), default, "{}", key.name);
            }
            if let Support::Inert(why) | Support::Refused(why) = key.support {
                assert!(why.len() > 20, "{}", key.name);
            }
            if key.accepts == Accepts::Ratio {
                assert_eq!(key.kind, crate::settings::Kind::Double, "{}", key.name);
            }
        }
    }

    #[test]
    fn every_synonym_is_a_broker_key_of_the_same_type_family_and_default() {
        for key in all() {
            for synonym in key.synonyms {
                let broker = find(Scope::Broker, synonym.name);
                assert!(broker.is_some(), "{} names {}", key.name, synonym.name);
            }
        }
    }

    #[test]
    fn every_refused_value_is_otherwise_valid() {
        for key in all() {
            for (value, _) in key.refuses {
                let plain = Key {
                    refuses: &[],
                    ..*key
                };
                assert_eq!(plain.check(value), Ok(()), "{}", key.name);
                assert!(key.check(value).is_err(), "{}", key.name);
            }
        }
    }

    #[test]
    fn listener_forms_find_their_key() {
        for name in [
            "listener.name.internal.ssl.keystore.location",
            "listener.name.x.scram-sha-256.sasl.jaas.config",
        ] {
            assert!(find(Scope::Broker, name).is_some(), "{name}");
        }
        assert!(find(Scope::Broker, "listener.name.x.nothing").is_none());
        assert!(find(Scope::Broker, "listener.name.").is_none());
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        assert_eq!(
            unknown_key(Scope::Topic, "retention.m"),
            "Unknown topic config name: retention.m. Did you mean retention.ms?"
        );
        assert_eq!(
            unknown_key(Scope::Broker, "retention.ms"),
            "Unknown broker config name: retention.ms. It is a setting of a topic."
        );
        assert_eq!(
            unknown_key(Scope::Broker, "zzzzzzzzzzzzzzzzzzz"),
            "Unknown broker config name: zzzzzzzzzzzzzzzzzzz."
        );
    }
}
