//! Replication that an operator holds back while partitions move (KIP-73): from settings to what klamm-raft is told.
//!
//! `kafka-reassign-partitions --throttle` sets four of them: on each broker concerned a rate for what it sends and one for what it
//! is sent, on the topic the replicas at either end. What goes to voters is not held back: see [`klamm_raft::Throttle`].

use std::collections::BTreeMap;

use klamm_metadata::settings::{Settings, TopicSettings};
use klamm_metadata::{ConfigResource, Image};
use klamm_raft::{Followers, Group, Throttle};

const FOLLOWER_RATE: &str = "follower.replication.throttled.rate";

/// A rate as klamm-raft takes it, where 0 is no limit.
fn rate(bytes_per_second: i64) -> u64 {
    match bytes_per_second {
        i64::MAX => 0,
        // Nothing at all would never be told from a fault.
        rate => u64::try_from(rate).unwrap_or(0).max(1),
    }
}

/// This node's rate as a leader, and what each broker that has a rate is sent.
pub fn rates(settings: &Settings, image: &Image) -> (u64, BTreeMap<i32, u64>) {
    let follower = |id: i32| {
        let configs = image.configs(&ConfigResource::Broker(Some(id)))?;
        let value = configs.get(FOLLOWER_RATE)?.trim().parse().ok()?;
        Some((id, rate(value)))
    };
    let followers = image.brokers().filter_map(|broker| follower(broker.id));
    let leader = settings.long("leader.replication.throttled.rate");
    (rate(leader), followers.collect())
}

/// Tells a partition's group what the settings of its topic hold back.
pub fn hold_back(group: &Group, settings: &TopicSettings, partition: i32) {
    let here = group.node().broker();
    group.set_throttle(of_partition(settings, partition, here));
}

/// What is held back of a partition where it is led by broker `here`.
fn of_partition(settings: &TopicSettings, partition: i32, here: i32) -> Throttle {
    let followers = settings.throttled_followers.brokers(partition);
    Throttle {
        leader: settings.throttled_leaders.contains(partition, here),
        followers: followers.map_or(Followers::All, Followers::Of),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn topic(leaders: &str, followers: &str) -> TopicSettings {
        let overrides = [
            ("leader.replication.throttled.replicas", leaders),
            ("follower.replication.throttled.replicas", followers),
        ];
        let overrides = overrides.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Settings::default().topic(&BTreeMap::from(overrides))
    }

    fn followers(brokers: &[i32]) -> Followers {
        Followers::Of(BTreeSet::from_iter(brokers.iter().copied()))
    }

    #[test]
    fn replicas_are_named_by_partition_and_broker() {
        let settings = topic("0:1, 1:2", "0:3,0:2,1:3");
        let expected = Throttle {
            leader: true,
            followers: followers(&[2, 3]),
        };
        assert_eq!(of_partition(&settings, 0, 1), expected);
        let expected = Throttle {
            leader: false,
            followers: followers(&[3]),
        };
        assert_eq!(of_partition(&settings, 1, 1), expected);
        assert_eq!(of_partition(&settings, 2, 1), Throttle::default());
        let all = of_partition(&topic("*", "*"), 7, 1);
        assert!(all.leader && all.followers == Followers::All);
        assert_eq!(of_partition(&topic("", ""), 0, 1), Throttle::default());
    }

    #[test]
    fn no_limit_is_the_largest_number_and_nothing_is_the_least() {
        assert_eq!([i64::MAX, 0, 5_000_000].map(rate), [0, 1, 5_000_000]);
    }
}
