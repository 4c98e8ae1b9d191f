//! How errors are put into answers.

use std::sync::Arc;

use klamm_protocol::messages::{JoinGroupResponse, SyncGroupResponse};
use klamm_protocol::{ErrorCode, StrBytes};

use super::member::ParkedJoin;
use crate::outcome::Outcome;
use crate::request::{Answer, Ticket};

/// First JoinGroup version whose answer may lack a protocol name.
const NULLABLE_PROTOCOL_NAME_VERSION: i16 = 7;

/// A string for the wire.
pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A string for the wire that may be missing.
pub(super) fn text_or_null(text: Option<&Arc<str>>) -> Option<StrBytes> {
    text.map(|text| self::text(text))
}

/// Answers a join with an error.
pub(super) fn refuse_join(join: ParkedJoin, member_id: &str, code: ErrorCode, out: &mut Outcome) {
    let no_name =
        (join.version < NULLABLE_PROTOCOL_NAME_VERSION).then(|| StrBytes::from_static_str(""));
    let answer = JoinGroupResponse::default()
        .with_error_code(code.code())
        .with_protocol_name(no_name)
        .with_member_id(text(member_id));
    out.answer(join.ticket, Answer::JoinGroup(answer));
}

/// Answers a sync with an error.
pub(super) fn refuse_sync(ticket: Ticket, code: ErrorCode, out: &mut Outcome) {
    let answer = SyncGroupResponse::default().with_error_code(code.code());
    out.answer(ticket, Answer::SyncGroup(answer));
}
