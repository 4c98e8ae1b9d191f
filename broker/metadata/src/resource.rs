//! The things that carry configuration, with their numbers on the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// Something that has dynamic configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigResource {
    /// A topic, by name.
    Topic(String),
    /// One broker, or with `None` the default of all brokers (the empty name on the wire).
    Broker(Option<i32>),
    /// A client metrics subscription (KIP-714), by name.
    ClientMetrics(String),
    /// A group, by id (KIP-848 and later group types).
    Group(String),
}

impl ConfigResource {
    /// `TOPIC` on the wire.
    pub const TOPIC: i8 = 2;
    /// `BROKER` on the wire.
    pub const BROKER: i8 = 4;
    /// `BROKER_LOGGER` on the wire. Log levels are not metadata: the broker answers for them itself.
    pub const BROKER_LOGGER: i8 = 8;
    /// `CLIENT_METRICS` on the wire.
    pub const CLIENT_METRICS: i8 = 16;
    /// `GROUP` on the wire.
    pub const GROUP: i8 = 32;

    /// Reads a resource as requests name it.
    ///
    /// # Errors
    /// `INVALID_REQUEST` for a type without configuration, a broker name that is not an id, or an
    /// empty name where there is no cluster-wide default.
    pub fn parse(resource_type: i8, name: &str) -> Result<ConfigResource, Problem> {
        let named = |what: &str| {
            if name.is_empty() {
                Err(Problem::invalid_request(format!(
                    "Default {what} resources are not allowed."
                )))
            } else {
                Ok(name.to_owned())
            }
        };
        match resource_type {
            Self::TOPIC => named("topic").map(ConfigResource::Topic),
            Self::CLIENT_METRICS => named("client metrics").map(ConfigResource::ClientMetrics),
            Self::GROUP => named("group").map(ConfigResource::Group),
            Self::BROKER if name.is_empty() => Ok(ConfigResource::Broker(None)),
            Self::BROKER => match name.parse::<i32>() {
                Ok(id) if id >= 0 => Ok(ConfigResource::Broker(Some(id))),
                Ok(_) => Err(Problem::invalid_request("Invalid negative broker ID.")),
                Err(_) => Err(Problem::invalid_request(format!(
                    "Node id must be an integer, but it is: {name}"
                ))),
            },
            other => Err(Problem::invalid_request(format!(
                "Unknown resource type {other}"
            ))),
        }
    }

    /// The type's number on the wire.
    pub fn resource_type(&self) -> i8 {
        match self {
            ConfigResource::Topic(_) => Self::TOPIC,
            ConfigResource::Broker(_) => Self::BROKER,
            ConfigResource::ClientMetrics(_) => Self::CLIENT_METRICS,
            ConfigResource::Group(_) => Self::GROUP,
        }
    }

    /// The name on the wire; empty for the default of all brokers.
    pub fn name(&self) -> String {
        match self {
            ConfigResource::Topic(name)
            | ConfigResource::ClientMetrics(name)
            | ConfigResource::Group(name) => name.clone(),
            ConfigResource::Broker(id) => id.map(|id| id.to_string()).unwrap_or_default(),
        }
    }
}

impl fmt::Display for ConfigResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigResource::Topic(name) => write!(f, "topic '{name}'"),
            ConfigResource::Broker(Some(id)) => write!(f, "broker {id}"),
            ConfigResource::Broker(None) => f.write_str("all brokers"),
            ConfigResource::ClientMetrics(name) => {
                write!(f, "client metrics subscription '{name}'")
            }
            ConfigResource::Group(name) => write!(f, "group '{name}'"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::ErrorCode;

    #[test]
    fn resources_round_trip_through_the_wire_form() {
        for resource in [
            ConfigResource::Topic("t".into()),
            ConfigResource::Broker(Some(3)),
            ConfigResource::Broker(None),
            ConfigResource::ClientMetrics("m".into()),
            ConfigResource::Group("g".into()),
        ] {
            assert_eq!(
                ConfigResource::parse(resource.resource_type(), &resource.name()),
                Ok(resource)
            );
        }
    }

    #[test]
    fn bad_resources_are_invalid_requests() {
        for (resource_type, name) in [
            (2, ""),
            (16, ""),
            (32, ""),
            (4, "x"),
            (4, "-1"),
            (8, "1"),
            (0, "x"),
            (77, "x"),
        ] {
            let problem = ConfigResource::parse(resource_type, name).expect_err("must be refused");
            assert_eq!(
                problem.code,
                ErrorCode::InvalidRequest,
                "{resource_type} {name}"
            );
        }
    }
}
