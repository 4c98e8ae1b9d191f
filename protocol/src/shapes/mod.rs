//! The layouts of all messages that are served, from the message schemas of Kafka 4.3. Versions
//! that are not served are left out: a field without bounds is in every served version.

pub(crate) mod admin_responses;
pub(crate) mod group_requests;
pub(crate) mod group_responses;
pub(crate) mod requests;
pub(crate) mod responses;
