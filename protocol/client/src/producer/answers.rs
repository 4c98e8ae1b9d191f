//! What an answer to Produce means.

use std::collections::HashMap;

use klamm_protocol::ErrorCode;
use klamm_protocol::messages::ProduceResponse;
use klamm_protocol::messages::produce_response::PartitionProduceResponse;

use crate::client::Client;
use crate::cluster::Cluster;

use super::link::Shipment;

/// What is said of one shipment.
pub(super) fn answer_for<'a>(
    shipment: &Shipment,
    response: &'a ProduceResponse,
) -> Option<&'a PartitionProduceResponse> {
    let id = shipment.topic.id.0;
    let mut topics = response.responses.iter();
    // Answers carry the name or, from version 13 on, the id instead.
    let topic = topics.find(|topic| {
        if topic.name.0.is_empty() {
            topic.topic_id == id
        } else {
            topic.name.0 == *shipment.topic.name
        }
    })?;
    topic
        .partition_responses
        .iter()
        .find(|answer| answer.index == shipment.partition)
}

/// A broker that does not lead says who does (KIP-951).
pub(super) fn learn_leaders(client: &Client, shipments: &[Shipment], response: &ProduceResponse) {
    let mut leaders: HashMap<&str, Vec<(i32, i32, i32)>> = HashMap::new();
    for shipment in shipments {
        let told = answer_for(shipment, response).map(|answer| &answer.current_leader);
        if let Some(told) = told.filter(|told| told.leader_id.0 >= 0) {
            let of_topic = leaders.entry(&shipment.topic.name).or_default();
            of_topic.push((shipment.partition, told.leader_id.0, told.leader_epoch));
        }
    }
    for (topic, leaders) in leaders {
        client.learn_leaders(topic, &leaders);
    }
}

/// Who leads the partition of a shipment, as far as is known.
pub(super) fn leader_of(cluster: &Cluster, shipment: &Shipment) -> Option<i32> {
    let topic = cluster.topics.get(&shipment.topic.name)?;
    topic.partition(shipment.partition)?.leader
}

/// Whether a broker that answers so may have written the batch, and it may stay: then it must not
/// be sent again under another identity, which would make it another batch.
pub(super) fn may_be_appended(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::REQUEST_TIMED_OUT
            | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND
            // A leader that is deposed says so of records under way, too.
            | ErrorCode::NOT_LEADER_OR_FOLLOWER
            | ErrorCode::KAFKA_STORAGE_ERROR
            | ErrorCode::UNKNOWN_SERVER_ERROR
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_is_deposed_may_have_written_the_batch() {
        assert!(may_be_appended(ErrorCode::NOT_LEADER_OR_FOLLOWER));
        assert!(may_be_appended(ErrorCode::REQUEST_TIMED_OUT));
        assert!(!may_be_appended(ErrorCode::NOT_ENOUGH_REPLICAS));
        assert!(!may_be_appended(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    }
}
