//! What a rule or the image answers when it says no: a Kafka error code and a sentence.

use std::fmt;

/// The Kafka error codes that metadata rules answer with. The number is the one on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i16)]
pub enum ErrorCode {
    /// `UNKNOWN_TOPIC_OR_PARTITION`
    UnknownTopicOrPartition = 3,
    /// `INVALID_TOPIC_EXCEPTION`
    InvalidTopic = 17,
    /// `TOPIC_ALREADY_EXISTS`
    TopicAlreadyExists = 36,
    /// `INVALID_PARTITIONS`
    InvalidPartitions = 37,
    /// `INVALID_REPLICATION_FACTOR`
    InvalidReplicationFactor = 38,
    /// `INVALID_REPLICA_ASSIGNMENT`
    InvalidReplicaAssignment = 39,
    /// `INVALID_CONFIG`
    InvalidConfig = 40,
    /// `INVALID_REQUEST`
    InvalidRequest = 42,
    /// `UNSUPPORTED_VERSION`
    UnsupportedVersion = 35,
    /// `POLICY_VIOLATION`
    PolicyViolation = 44,
    /// `TOPIC_DELETION_DISABLED`
    TopicDeletionDisabled = 73,
    /// `STALE_BROKER_EPOCH`
    StaleBrokerEpoch = 77,
    /// `THROTTLING_QUOTA_EXCEEDED`
    ThrottlingQuotaExceeded = 89,
    /// `NO_REASSIGNMENT_IN_PROGRESS`
    NoReassignmentInProgress = 85,
    /// `INVALID_UPDATE_VERSION`
    InvalidUpdateVersion = 95,
    /// `UNKNOWN_TOPIC_ID`
    UnknownTopicId = 100,
    /// `DUPLICATE_BROKER_REGISTRATION`
    DuplicateBrokerRegistration = 101,
    /// `BROKER_ID_NOT_REGISTERED`
    BrokerIdNotRegistered = 102,
    /// `INCONSISTENT_CLUSTER_ID`
    InconsistentClusterId = 104,
}

impl ErrorCode {
    /// The code as it goes on the wire.
    pub fn code(self) -> i16 {
        self as i16
    }
}

/// A refusal: the code a client acts on and the message a person reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What the client acts on.
    pub code: ErrorCode,
    /// What a person reads: a whole sentence, goes into `error_message`.
    pub message: String,
}

impl Problem {
    /// A refusal with `code` and a sentence.
    pub fn new(code: ErrorCode, message: impl fmt::Display) -> Problem {
        Problem {
            code,
            message: message.to_string(),
        }
    }

    /// Not now, but later.
    pub fn throttled(message: impl fmt::Display) -> Problem {
        Problem::new(ErrorCode::ThrottlingQuotaExceeded, message)
    }

    pub(crate) fn invalid_request(message: impl fmt::Display) -> Problem {
        Problem::new(ErrorCode::InvalidRequest, message)
    }

    pub(crate) fn invalid_config(message: impl fmt::Display) -> Problem {
        Problem::new(ErrorCode::InvalidConfig, message)
    }

    pub(crate) fn unknown_topic() -> Problem {
        Problem::new(
            ErrorCode::UnknownTopicOrPartition,
            "This server does not host this topic-partition.",
        )
    }

    pub(crate) fn unknown_topic_id() -> Problem {
        Problem::new(
            ErrorCode::UnknownTopicId,
            "This server does not host this topic ID.",
        )
    }
}
