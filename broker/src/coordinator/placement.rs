//! Which partition of `__consumer_offsets` a group lives in, and what that topic is made of.

use klamm_metadata::names::GROUP_METADATA_TOPIC;
use klamm_metadata::rules::NewTopic;
use klamm_metadata::settings::Settings;

/// The partition of a group: Java's `abs(groupId.hashCode()) % partitions`, as in Kafka, so that a log
/// that Kafka wrote is found again. `partitions` is positive.
pub fn partition_of(group: &str, partitions: i32) -> i32 {
    // Kafka's `Utils.abs`: the one number without a positive form counts as 0.
    java_hash(group).checked_abs().unwrap_or(0) % partitions
}

/// `String.hashCode()` of Java, over UTF-16 units.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    })
}

/// `__consumer_offsets` as it is created on the first use of groups. A cluster with fewer brokers than
/// `offsets.topic.replication.factor` has as many replicas as brokers, so that a single node works.
pub fn offsets_topic(settings: &Settings, live_brokers: usize) -> NewTopic {
    let wanted = settings.int("offsets.topic.replication.factor");
    let brokers = i32::try_from(live_brokers).unwrap_or(i32::MAX).max(1);
    let config = |name: &str, value: String| (name.to_owned(), Some(value));
    NewTopic {
        name: GROUP_METADATA_TOPIC.to_owned(),
        partitions: settings.int("offsets.topic.num.partitions"),
        replication_factor: i16::try_from(wanted.min(brokers)).unwrap_or(i16::MAX),
        assignments: Vec::new(),
        configs: vec![
            config("cleanup.policy", "compact".to_owned()),
            config("compression.type", "producer".to_owned()),
            config(
                "segment.bytes",
                settings.int("offsets.topic.segment.bytes").to_string(),
            ),
        ],
    }
}

#[cfg(test)]
mod tests {
    use klamm_metadata::settings::Settings;

    use super::{java_hash, offsets_topic, partition_of};

    /// Values of `String.hashCode()` in a JVM.
    #[test]
    fn hashes_are_javas() {
        for (text, hash) in [
            ("", 0),
            ("a", 97),
            ("group", 98_629_247),
            ("my-consumer-group", 1_513_705_513),
            ("\u{e9}", 233),
            ("\u{1f600}", 1_772_899),
            ("polygenelubricants", i32::MIN),
        ] {
            assert_eq!(java_hash(text), hash, "{text}");
        }
    }

    #[test]
    fn the_hash_without_a_positive_form_is_partition_0() {
        assert_eq!(partition_of("polygenelubricants", 50), 0);
        assert_eq!(partition_of("group", 50), 98_629_247 % 50);
        assert_eq!(partition_of("my-consumer-group", 50), 1_513_705_513 % 50);
        assert_eq!(partition_of("anything", 1), 0);
    }

    #[test]
    fn replicas_are_no_more_than_brokers() {
        let settings = Settings::default();
        for (brokers, replicas) in [(0, 1), (1, 1), (2, 2), (3, 3), (9, 3)] {
            let topic = offsets_topic(&settings, brokers);
            assert_eq!((topic.partitions, topic.replication_factor), (50, replicas));
        }
    }
}
