//! What can go wrong between a caller and a broker, and whether trying again can help.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use klamm_protocol::ErrorCode;

/// A broker's answer that an operation failed: Kafka's error code and the broker's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// Kafka's error code, never `NONE`.
    pub code: ErrorCode,
    /// The broker's message where the API has one.
    pub message: Option<String>,
}

impl ServerError {
    /// `Ok` for `NONE`, else the error.
    pub fn check(code: i16, message: Option<&str>) -> Result<(), ServerError> {
        let code = ErrorCode(code);
        if code.is_none() {
            return Ok(());
        }
        let message = message.filter(|text| !text.is_empty()).map(str::to_owned);
        Err(ServerError { code, message })
    }

    /// Whether Kafka's clients repeat a request answered with this code.
    pub fn is_retriable(&self) -> bool {
        self.code.is_retriable()
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.code.name(), self.code.code())?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServerError {}

/// Why a call failed. Cheap to clone: when a connection breaks, everything that waits on it
/// fails with the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The TCP connection could not be opened.
    #[error("connecting to {address}: {cause}")]
    Connect {
        /// Address dialled, `host:port`.
        address: String,
        /// What the operating system said.
        cause: Arc<io::Error>,
    },
    /// No answer, or no connection, within the time allowed.
    #[error("no answer from {address} to {api} within {} ms", after.as_millis())]
    Timeout {
        /// Address dialled.
        address: String,
        /// What was waited for.
        api: &'static str,
        /// Time waited.
        after: Duration,
    },
    /// The connection ended while the answer was outstanding.
    #[error("connection to {address} closed: {reason}")]
    Closed {
        /// Address of the broker.
        address: String,
        /// Who closed it and why.
        reason: String,
    },
    /// Client and broker share no version of the API.
    #[error(
        "{address} does not serve {api} in a version this client speaks (broker {broker}, client {client})"
    )]
    UnsupportedVersion {
        /// Address of the broker.
        address: String,
        /// Name of the API.
        api: &'static str,
        /// The broker's range, or "none".
        broker: String,
        /// The client's range.
        client: String,
    },
    /// A request could not be written in the version chosen.
    #[error("encoding {api}: {reason}")]
    Encode {
        /// Name of the API.
        api: &'static str,
        /// What did not fit.
        reason: String,
    },
    /// Bytes from the broker that are not what the protocol says.
    #[error("malformed {what} from {address}: {reason}")]
    Malformed {
        /// Address of the broker.
        address: String,
        /// What was being decoded.
        what: &'static str,
        /// Where it went wrong.
        reason: String,
    },
    /// The broker refused.
    #[error("{context}: {error}")]
    Server {
        /// What was asked, such as `topic orders partition 3`.
        context: String,
        /// The broker's answer.
        error: ServerError,
    },
    /// Retried until the deadline; carries what happened last.
    #[error("gave up after {} ms: {last}", after.as_millis())]
    Deadline {
        /// Time spent.
        after: Duration,
        /// The last failure.
        last: Box<Error>,
    },
    /// None of the bootstrap addresses answered.
    #[error("no bootstrap broker answered: {last}")]
    Unreachable {
        /// The failure of the address tried last.
        last: Box<Error>,
    },
    /// A record batch could not be built from the records given.
    #[error("building a record batch: {reason}")]
    Batch {
        /// What did not fit.
        reason: String,
    },
    /// The producer ended before the record was sent.
    #[error("the producer was closed")]
    ProducerClosed,
}

impl Error {
    pub(crate) fn server(context: impl Into<String>, error: ServerError) -> Error {
        Error::Server {
            context: context.into(),
            error,
        }
    }

    /// The broker's error code, looking through [`Error::Deadline`].
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Error::Server { error, .. } => Some(error),
            Error::Deadline { last, .. } => last.server_error(),
            _ => None,
        }
    }

    /// Whether the same request may succeed later, perhaps at another broker.
    pub fn is_retriable(&self) -> bool {
        match self {
            Error::Connect { .. }
            | Error::Timeout { .. }
            | Error::Closed { .. }
            | Error::Unreachable { .. } => true,
            Error::Server { error, .. } => error.is_retriable(),
            Error::UnsupportedVersion { .. }
            | Error::Encode { .. }
            | Error::Malformed { .. }
            | Error::Deadline { .. }
            | Error::Batch { .. }
            | Error::ProducerClosed => false,
        }
    }

    /// Whether no broker could be spoken to at all, as opposed to one that refused.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Error::Connect { .. }
            | Error::Timeout { .. }
            | Error::Closed { .. }
            | Error::Unreachable { .. } => true,
            Error::Deadline { last, .. } => last.is_unreachable(),
            _ => false,
        }
    }
}
