//! What a command says when it fails: three lines on stderr and an exit code.
//!
//! ```text
//! error: topic orders was not created
//! cause: TOPIC_ALREADY_EXISTS (36): Topic 'orders' already exists.
//! try:   klamm topic describe orders
//! ```

use std::fmt;
use std::process::ExitCode;

use klamm_client::{Error, ServerError};
use klamm_protocol::ErrorCode;

/// Exit codes of every command; 0 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The operation failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No broker could be spoken to (`EX_UNAVAILABLE` of sysexits).
    Unreachable = 69,
}

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserError {
    /// What failed.
    pub what: String,
    /// Why.
    pub cause: String,
    /// What the user may do about it: a command, or a sentence.
    pub try_: String,
    /// How the process ends.
    pub exit: Exit,
}

impl UserError {
    /// An operation that failed.
    pub fn failed(
        what: impl Into<String>,
        cause: impl Into<String>,
        try_: impl Into<String>,
    ) -> Self {
        UserError {
            what: what.into(),
            cause: cause.into(),
            try_: try_.into(),
            exit: Exit::Failed,
        }
    }

    /// A command line that makes no sense.
    pub fn usage(
        what: impl Into<String>,
        cause: impl Into<String>,
        try_: impl Into<String>,
    ) -> Self {
        UserError {
            exit: Exit::Usage,
            ..UserError::failed(what, cause, try_)
        }
    }

    /// What the client met while doing `what`. `name` is the topic or group it was about, if any.
    pub fn from_client(what: impl Into<String>, name: Option<&str>, error: &Error) -> Self {
        let what = what.into();
        match error.server_error() {
            Some(refused) => UserError::refused(what, name, refused),
            None if error.is_unreachable() => UserError {
                what,
                cause: format!("{error} (protocol PLAINTEXT)"),
                try_: "start a broker with `klamm dev`, or name one with --bootstrap HOST:PORT"
                    .to_owned(),
                exit: Exit::Unreachable,
            },
            None if matches!(error, Error::UnsupportedVersion { .. }) => UserError::failed(
                what,
                error.to_string(),
                "--bootstrap with a broker that serves it",
            ),
            None => UserError::failed(what, error.to_string(), "klamm topic list"),
        }
    }

    /// What a broker refused while doing `what`; `name` as above.
    pub fn refused(what: impl Into<String>, name: Option<&str>, error: &ServerError) -> Self {
        UserError::failed(
            what,
            error.to_string(),
            advice(name.unwrap_or("NAME"), error.code),
        )
    }

    /// The exit code for the process.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }
}

/// What failed of several things that were wanted.
#[derive(Debug, Default)]
pub(super) struct Failures(Vec<UserError>);

impl Failures {
    /// Notes one.
    pub(super) fn add(&mut self, error: UserError) {
        debug_assert!(
            error.exit != Exit::Usage,
            "a broker's answer is no fault of the command line"
        );
        self.0.push(error);
    }

    /// Those noted so far.
    pub(super) fn errors(&self) -> &[UserError] {
        &self.0
    }

    /// Reports all but the last, which is the command's own failure.
    pub(super) fn end(mut self) -> Result<(), UserError> {
        let last = self.0.pop();
        for error in self.0 {
            eprintln!("{error}");
        }
        last.map_or(Ok(()), Err)
    }
}

fn advice(name: &str, code: ErrorCode) -> String {
    match code {
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => {
            format!("klamm topic list, or klamm topic create {name}")
        }
        ErrorCode::TOPIC_ALREADY_EXISTS => format!("klamm topic describe {name}"),
        ErrorCode::INVALID_TOPIC_EXCEPTION => {
            "a name of up to 249 letters, digits, '.', '_' and '-'".to_owned()
        }
        ErrorCode::INVALID_REPLICATION_FACTOR => {
            "-r with at most as many replicas as there are brokers".to_owned()
        }
        ErrorCode::INVALID_PARTITIONS => {
            "-p with a number above 0 and above the present one: partitions cannot be taken away"
                .to_owned()
        }
        ErrorCode::INVALID_CONFIG => {
            "kafka.apache.org/documentation/#topicconfigs lists keys and values".to_owned()
        }
        ErrorCode::OFFSET_OUT_OF_RANGE => "--from beginning, or --from end".to_owned(),
        ErrorCode::MESSAGE_TOO_LARGE => format!("klamm topic alter {name} -c max.message.bytes=N"),
        ErrorCode::NOT_ENOUGH_REPLICAS | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND => {
            format!("klamm topic describe {name} shows which replicas are missing")
        }
        ErrorCode::GROUP_ID_NOT_FOUND => "klamm group list".to_owned(),
        ErrorCode::INVALID_GROUP_ID => "a group id that is not empty".to_owned(),
        ErrorCode::NON_EMPTY_GROUP | ErrorCode::UNKNOWN_MEMBER_ID => {
            format!("stop the members that klamm group describe {name} shows, then the same again")
        }
        ErrorCode::TOPIC_AUTHORIZATION_FAILED
        | ErrorCode::GROUP_AUTHORIZATION_FAILED
        | ErrorCode::CLUSTER_AUTHORIZATION_FAILED => {
            "ask whoever runs the cluster for access".to_owned()
        }
        code if code.is_retriable() => "again in a moment; the brokers' logs say more".to_owned(),
        _ => "the brokers' logs say more".to_owned(),
    }
}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "error: {}\ncause: {}\ntry:   {}",
            self.what, self.cause, self.try_
        )
    }
}

impl std::error::Error for UserError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_why_and_what_to_try() {
        let refused = ServerError {
            code: ErrorCode::TOPIC_ALREADY_EXISTS,
            message: Some("it exists".to_owned()),
        };
        let error = UserError::refused("topic orders was not created", Some("orders"), &refused);
        assert_eq!(
            error.to_string(),
            "error: topic orders was not created\n\
             cause: TOPIC_ALREADY_EXISTS (36): it exists\n\
             try:   klamm topic describe orders"
        );
        assert_eq!(error.exit, Exit::Failed);
    }

    #[test]
    fn a_broker_that_is_away_is_not_a_refusal() {
        let cause =
            std::sync::Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        let away = Error::Connect {
            address: "127.0.0.1:1".to_owned(),
            cause,
        };
        let error = UserError::from_client("topics were not listed", None, &away);
        assert_eq!(error.exit, Exit::Unreachable);
        assert!(error.cause.contains("127.0.0.1:1"), "{}", error.cause);
    }
}
