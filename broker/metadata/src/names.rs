//! What a topic may be called (behaviour 18) and which topics are the cluster's own (24).

use crate::problem::{ErrorCode, Problem};

/// Longest topic name, in bytes: a directory `<topic>-<partition>` must fit a file name in Kafka.
pub const MAX_TOPIC_NAME_LEN: usize = 249;

/// Committed offsets of consumer groups.
pub const GROUP_METADATA_TOPIC: &str = "__consumer_offsets";
/// State of transactions.
pub const TRANSACTION_STATE_TOPIC: &str = "__transaction_state";
/// State of share groups.
pub const SHARE_GROUP_STATE_TOPIC: &str = "__share_group_state";
/// Kafka's name for the log of cluster metadata; never a topic clients may create.
pub const CLUSTER_METADATA_TOPIC: &str = "__cluster_metadata";

/// Whether clients must treat the topic as the cluster's own: excluded from regular-expression
/// subscriptions, refused to producers.
pub fn is_internal(topic: &str) -> bool {
    matches!(
        topic,
        GROUP_METADATA_TOPIC | TRANSACTION_STATE_TOPIC | SHARE_GROUP_STATE_TOPIC
    )
}

/// Checks a topic name: 1-249 characters of ASCII letters, digits, `.`, `_`, `-`; not `.`, not `..`.
///
/// # Errors
/// `INVALID_TOPIC_EXCEPTION`, with the reason. Names of hostile length are not repeated in it.
pub fn check_topic_name(name: &str) -> Result<(), Problem> {
    let reason = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.len() > MAX_TOPIC_NAME_LEN {
        format!(
            "its length of {} is more than the allowed {MAX_TOPIC_NAME_LEN}",
            name.len()
        )
    } else if !name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    {
        format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        )
    } else {
        return Ok(());
    };
    Err(Problem::new(
        ErrorCode::InvalidTopic,
        format!("Topic name is invalid: {reason}"),
    ))
}

/// The form under which two names collide (metric names replace `.` by `_`), or `None` if the
/// name has neither character and so cannot collide with another.
pub fn collision_key(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaviour_18_topic_names() {
        for good in ["a", "A-b_c.9", "...", "_", &"x".repeat(249)] {
            assert!(check_topic_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a b",
            "a/b",
            "ä",
            "a\0",
            "a:b",
            &"x".repeat(250),
        ] {
            let problem = check_topic_name(bad).expect_err(bad);
            assert_eq!(problem.code, ErrorCode::InvalidTopic);
        }
    }

    #[test]
    fn names_collide_by_dot_and_underscore_only() {
        assert_eq!(collision_key("a.b"), collision_key("a_b"));
        assert_ne!(collision_key("a.b"), collision_key("a.c"));
        assert_eq!(collision_key("a-b"), None);
    }

    #[test]
    fn behaviour_24_internal_topics() {
        assert!(is_internal("__consumer_offsets") && is_internal("__transaction_state"));
        assert!(is_internal("__share_group_state"));
        assert!(!is_internal("consumer_offsets"));
    }
}
