//! Reading and checking one value, by Kafka's rules and with its messages.

use std::collections::{BTreeMap, BTreeSet};

use super::key::{Accepts, Key, Kind, Support};

/// Why a value is not accepted for a key. The text is Kafka's where Kafka has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Wrong type or out of range.
    #[error("Invalid value {value} for configuration {key}: {why}")]
    Invalid {
        /// The key.
        key: String,
        /// The value; `[hidden]` for a password.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// Kafka takes this value, Klamm does not.
    #[error("Value {value} for configuration {key} is not supported: {why}")]
    Unsupported {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// Why, and what to do.
        why: &'static str,
    },
    /// Kafka knows or knew this key, Klamm refuses it.
    #[error("Configuration {key} is not supported: {why}")]
    Refused {
        /// The key.
        key: &'static str,
        /// Why, and what to do.
        why: &'static str,
    },
}

impl Key {
    /// Checks a value as a client or a file gives it.
    ///
    /// # Errors
    /// [`ValueError`], whose text answers the client with `INVALID_CONFIG`.
    pub fn check(&self, text: &str) -> Result<(), ValueError> {
        if let Support::Refused(why) = self.support {
            return Err(ValueError::Refused {
                key: self.name,
                why,
            });
        }
        let text = text.trim();
        match self.kind {
            Kind::Boolean if parse_boolean(text).is_none() => {
                return Err(self.invalid(text, "Expected value to be either true or false"));
            }
            Kind::Short => self.check_number::<i16>(text)?,
            Kind::Int => self.check_number::<i32>(text)?,
            Kind::Long => self.check_number::<i64>(text)?,
            Kind::Double => self.check_double(text)?,
            Kind::List => self.check_list(text)?,
            Kind::String | Kind::Class | Kind::Password => self.check_text(text)?,
            Kind::Boolean => {}
        }
        self.check_supported(text)
    }

    /// The value in the form DescribeConfigs shows: trimmed, lists without spaces.
    pub fn canonical(&self, text: &str) -> String {
        match self.kind {
            Kind::List => elements(text).collect::<Vec<_>>().join(","),
            Kind::Boolean => text.trim().to_ascii_lowercase(),
            _ => text.trim().to_owned(),
        }
    }

    fn invalid(&self, text: &str, why: impl Into<String>) -> ValueError {
        let value = if self.is_sensitive() {
            "[hidden]"
        } else {
            text
        };
        ValueError::Invalid {
            key: self.name.to_owned(),
            value: value.to_owned(),
            why: why.into(),
        }
    }

    fn check_number<N: std::str::FromStr + Into<i64>>(&self, text: &str) -> Result<(), ValueError> {
        let Ok(number) = text.parse::<N>() else {
            return Err(self.invalid(text, format!("Not a number of type {}", self.kind.name())));
        };
        let number: i64 = number.into();
        let (least, most) = match self.accepts {
            Accepts::AtLeast(least) => (least, i64::MAX),
            Accepts::Between(least, most) => (least, most),
            Accepts::MinusOneOrBetween(..) if number == -1 => return Ok(()),
            Accepts::MinusOneOrBetween(least, most) => (least, most),
            _ => return Ok(()),
        };
        if number < least {
            return Err(self.invalid(text, format!("Value must be at least {least}")));
        }
        if number > most {
            return Err(self.invalid(text, format!("Value must be no more than {most}")));
        }
        Ok(())
    }

    fn check_double(&self, text: &str) -> Result<(), ValueError> {
        match text.parse::<f64>() {
            Ok(number) if self.accepts == Accepts::Ratio && number < 0.0 => {
                Err(self.invalid(text, "Value must be at least 0"))
            }
            Ok(number) if self.accepts == Accepts::Ratio && number > 1.0 => {
                Err(self.invalid(text, "Value must be no more than 1"))
            }
            Ok(number) if number.is_finite() => Ok(()),
            _ => Err(self.invalid(text, "Not a number of type DOUBLE")),
        }
    }

    fn check_text(&self, text: &str) -> Result<(), ValueError> {
        match self.accepts {
            Accepts::OneOf(values) if !values.contains(&text) => Err(self.invalid(
                text,
                format!("String must be one of: {}", values.join(", ")),
            )),
            Accepts::OnlyEmpty(why) if !text.is_empty() => Err(ValueError::Unsupported {
                key: self.name.to_owned(),
                value: text.to_owned(),
                why,
            }),
            Accepts::NumberPerHost if number_per_host(text).is_none() => {
                Err(self.invalid(text, "must be a list in the form host:number,host:number"))
            }
            Accepts::NonEmpty if text.is_empty() => {
                Err(self.invalid(text, "String must be non-empty"))
            }
            _ => Ok(()),
        }
    }

    fn check_list(&self, text: &str) -> Result<(), ValueError> {
        let mut seen = BTreeSet::new();
        for element in elements(text) {
            match self.accepts {
                Accepts::OneOf(values) if !values.contains(&element) => {
                    return Err(self.invalid(
                        text,
                        format!("String must be one of: {}", values.join(", ")),
                    ));
                }
                Accepts::OneOf(_) if !seen.insert(element) => {
                    return Err(self.invalid(text, format!("'{element}' is given twice")));
                }
                Accepts::NonEmpty if element.is_empty() => {
                    return Err(self.invalid(text, "an element of the list is empty"));
                }
                Accepts::ThrottledReplicas if text != "*" && !is_partition_and_broker(element) => {
                    let why = "must be the literal '*' or a list of replicas in the form partition:broker,partition:broker";
                    return Err(self.invalid(text, why));
                }
                _ => {}
            }
        }
        if self.accepts == Accepts::NonEmpty && text.is_empty() {
            return Err(self.invalid(text, "the list is empty"));
        }
        Ok(())
    }

    fn check_supported(&self, text: &str) -> Result<(), ValueError> {
        let canonical = self.canonical(text);
        let parts: Vec<&str> = if self.kind == Kind::List {
            elements(text).collect()
        } else {
            vec![canonical.as_str()]
        };
        for (refused, why) in self.refuses {
            if parts.contains(refused) {
                return Err(ValueError::Unsupported {
                    key: self.name.to_owned(),
                    value: (*refused).to_owned(),
                    why,
                });
            }
        }
        Ok(())
    }
}

/// `true` or `false`, in any case.
pub(super) fn parse_boolean(text: &str) -> Option<bool> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// Elements of a list value; none for an empty text.
pub(crate) fn elements(text: &str) -> impl Iterator<Item = &str> {
    let text = text.trim();
    text.split(',')
        .map(str::trim)
        .filter(move |_| !text.is_empty())
}

/// Reads `host:number,..`; an IPv6 address keeps its colons, the last one counts.
pub(super) fn number_per_host(text: &str) -> Option<BTreeMap<String, i32>> {
    let entries = elements(text).map(|element| {
        let (host, number) = element.rsplit_once(':')?;
        let number = number
            .trim()
            .parse::<i32>()
            .ok()
            .filter(|number| *number >= 0)?;
        Some((host.trim().to_owned(), number)).filter(|(host, _)| !host.is_empty())
    });
    entries.collect()
}

fn is_partition_and_broker(element: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    element
        .split_once(':')
        .is_some_and(|(partition, broker)| number(partition) && number(broker))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::settings::key::Scope;
    use crate::settings::table::{find, keys};

    fn check(scope: Scope, name: &str, value: &str) -> Result<(), String> {
        find(scope, name)
            .expect(name)
            .check(value)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn values_of_topics() {
        for (name, good, bad) in [
            (
                "retention.ms",
                &["-1", "0", " 5 ", "+5", "9223372036854775807"][..],
                &["-2", "", "1.5", "9223372036854775808", "5ms"][..],
            ),
            (
                "max.message.bytes",
                &["0", "2147483647"],
                &["-1", "2147483648"],
            ),
            ("segment.bytes", &["1048576"], &["1048575", "14"]),
            (
                "preallocate",
                &["true", "FALSE", " True "],
                &["yes", "1", ""],
            ),
            (
                "min.cleanable.dirty.ratio",
                &["0", "0.5", "1", "1e-3"],
                &["-0.1", "1.1", "x", "NaN", "inf"],
            ),
            (
                "compression.type",
                &["producer", "zstd", " gzip "],
                &["brotli", "", "GZIP"],
            ),
            (
                "compression.gzip.level",
                &["-1", "1", "9"],
                &["0", "10", "-2"],
            ),
            (
                "compression.zstd.level",
                &["-131072", "22"],
                &["23", "-131073"],
            ),
            (
                "cleanup.policy",
                &["delete", "", " delete "],
                &[
                    "compact",
                    "compact,delete",
                    "delete,delete",
                    "keep",
                    "delete,",
                ],
            ),
            (
                "leader.replication.throttled.replicas",
                &["", "*", "0:1", "0:1, 1:2"],
                &["x", "0:", "0:1,*", ":1", "0:1,"],
            ),
            (
                "message.timestamp.type",
                &["CreateTime", "LogAppendTime"],
                &["createtime"],
            ),
            (
                "unclean.leader.election.enable",
                &["false"],
                &["true", "TRUE"],
            ),
            ("remote.storage.enable", &["false"], &["true"]),
            ("message.format.version", &[], &["2.8", "3.0-IV1"]),
        ] {
            for value in good {
                assert_eq!(check(Scope::Topic, name, value), Ok(()), "{name}={value}");
            }
            for value in bad {
                assert!(check(Scope::Topic, name, value).is_err(), "{name}={value}");
            }
        }
    }

    #[test]
    fn values_of_brokers() {
        assert_eq!(check(Scope::Broker, "authorizer.class.name", ""), Ok(()));
        assert!(
            check(
                Scope::Broker,
                "authorizer.class.name",
                "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
            )
            .is_err()
        );
        assert_eq!(
            check(
                Scope::Broker,
                "max.connections.per.ip.overrides",
                "127.0.0.1:5,::1:6"
            ),
            Ok(())
        );
        assert!(check(Scope::Broker, "max.connections.per.ip.overrides", "host").is_err());
        assert!(check(Scope::Broker, "zookeeper.connect", "localhost:2181").is_err());
        assert!(
            check(Scope::Broker, "log.dirs", "").is_err()
                && check(Scope::Broker, "log.dirs", "a,,b").is_err()
        );
    }

    #[test]
    fn messages_are_those_of_kafka() {
        for (name, value, message) in [
            (
                "retention.ms",
                "x",
                "Invalid value x for configuration retention.ms: Not a number of type LONG",
            ),
            (
                "retention.ms",
                "-2",
                "Invalid value -2 for configuration retention.ms: Value must be at least -1",
            ),
            (
                "compression.lz4.level",
                "18",
                "Invalid value 18 for configuration compression.lz4.level: Value must be no more than 17",
            ),
            (
                "preallocate",
                "yes",
                "Invalid value yes for configuration preallocate: Expected value to be either true or false",
            ),
            (
                "message.timestamp.type",
                "x",
                "Invalid value x for configuration message.timestamp.type: String must be one of: CreateTime, LogAppendTime",
            ),
        ] {
            assert_eq!(check(Scope::Topic, name, value), Err(message.to_owned()));
        }
        assert_eq!(
            check(Scope::Broker, "log.cleanup.policy", "delete,compact"),
            Err("Value compact for configuration log.cleanup.policy is not supported: log compaction is not supported yet; \
                 use cleanup.policy=delete"
                .to_owned())
        );
    }

    #[test]
    fn canonical_values() {
        let canonical = |name, value| find(Scope::Topic, name).expect(name).canonical(value);
        assert_eq!(
            canonical("leader.replication.throttled.replicas", " 0:1 , 1:2 "),
            "0:1,1:2"
        );
        assert_eq!(canonical("preallocate", " TRUE "), "true");
    }

    proptest! {
        #[test]
        fn any_text_is_judged_and_stays_judged_alike(text in ".{0,20}|-?[0-9]{1,20}|[a-z*:,0-9]{0,12}") {
            for key in [Scope::Topic, Scope::Broker, Scope::Group, Scope::ClientMetrics].into_iter().flat_map(keys) {
                if key.check(&text).is_ok() {
                    prop_assert_eq!(key.check(&key.canonical(&text)), Ok(()), "{}", key.name);
                }
            }
        }
    }
}
