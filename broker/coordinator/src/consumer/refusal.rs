//! Why a request is refused: the code and words for people.

use klamm_protocol::{ErrorCode, StrBytes};

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code that clients act on.
    pub code: ErrorCode,
    /// What is wrong, a whole sentence.
    pub message: String,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal {
            code,
            message: message.into(),
        }
    }

    pub(super) fn invalid(message: &str) -> Refusal {
        Refusal::new(ErrorCode::INVALID_REQUEST, message)
    }

    /// The message as a response carries it.
    pub fn wire_message(&self) -> Option<StrBytes> {
        Some(StrBytes::from_string(self.message.clone()))
    }
}
