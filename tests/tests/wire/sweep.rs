//! Every API at every version that is advertised, asked for something small: the answer must
//! decode, and hold nobody back (behaviour 10).

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::messages::create_acls_request::AclCreation;
use klamm_protocol::messages::delete_acls_request::DeleteAclsFilter;
use klamm_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use klamm_protocol::messages::describe_configs_request::DescribeConfigsResource;
use klamm_protocol::messages::metadata_request::MetadataRequestTopic;
use klamm_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use klamm_protocol::messages::{
    AlterConfigsRequest, AlterPartitionReassignmentsRequest, ApiVersionsRequest, BrokerId,
    ConsumerGroupDescribeRequest, CreateAclsRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteAclsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeAclsRequest, DescribeClientQuotasRequest, DescribeClusterRequest,
    DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest,
    DescribeProducersRequest, DescribeQuorumRequest, DescribeTopicPartitionsRequest,
    ElectLeadersRequest, HeartbeatRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest,
    LeaveGroupRequest, ListConfigResourcesRequest, ListGroupsRequest,
    ListPartitionReassignmentsRequest, MetadataRequest, OffsetDeleteRequest,
    OffsetForLeaderEpochRequest, UnregisterBrokerRequest, UpdateFeaturesRequest,
    alter_configs_request, alter_partition_reassignments_request, create_partitions_request,
    delete_topics_request, describe_producers_request, describe_quorum_request,
    describe_topic_partitions_request, elect_leaders_request, incremental_alter_configs_request,
    list_partition_reassignments_request, offset_delete_request,
};
use klamm_protocol::{Api, ApiRequest};

use crate::batches::batch;
use crate::calls::{
    TIMEOUT_MS, Topic, connect_and_create, creatable, fetch_partition, fetch_request, list_request,
    name, produce_request, text,
};
use crate::groups::calls;
use crate::groups::consumer::Consumer;
use crate::groups::member::Member;
use crate::rig::{connect, ours, unique};

/// What has been asked so far.
struct Sweep {
    connection: Connection,
    topic: Topic,
    swept: BTreeSet<i16>,
}

impl Sweep {
    async fn ask<R: ApiRequest>(
        &mut self,
        request: impl Fn(i16, &Topic) -> R,
        throttle_time_ms: impl Fn(&R::Response) -> i32,
    ) -> Result<()> {
        self.swept.insert(R::API.key());
        let (min, max) = self
            .connection
            .ranges()
            .get(R::API.key())
            .context(R::API.name())?;
        for version in R::API.versions() {
            ensure!(
                (min..=max).contains(&version),
                "{} {version} is not advertised",
                R::API
            );
            let what = || format!("{} {version}", R::API);
            let response = self
                .connection
                .send_version(version, &request(version, &self.topic))
                .await;
            let response = response.with_context(what)?;
            assert_eq!(throttle_time_ms(&response), 0, "{}", what());
        }
        Ok(())
    }

    async fn data(&mut self) -> Result<()> {
        self.ask(
            |_, topic| produce_request(topic, 0, -1, Some(batch(&["x"]))),
            |r| r.throttle_time_ms,
        )
        .await?;
        self.ask(
            |_, topic| fetch_request(topic, vec![fetch_partition(0, 0)]),
            |r| r.throttle_time_ms,
        )
        .await?;
        self.ask(
            |_, topic| list_request(topic, 0, -1),
            |r| r.throttle_time_ms,
        )
        .await?;
        let metadata = |version: i16, topic: &Topic| {
            MetadataRequest::default()
                .with_topics(Some(vec![
                    MetadataRequestTopic::default().with_name(Some(name(&topic.name))),
                ]))
                .with_allow_auto_topic_creation(version < 4)
        };
        self.ask(metadata, |r| r.throttle_time_ms).await?;
        let software = |_: i16, _: &Topic| {
            ApiVersionsRequest::default()
                .with_client_software_name(text("a"))
                .with_client_software_version(text("1"))
        };
        self.ask(software, |r| r.throttle_time_ms).await?;
        let init =
            |_: i16, _: &Topic| InitProducerIdRequest::default().with_transaction_timeout_ms(1000);
        self.ask(init, |r| r.throttle_time_ms).await?;
        let epoch = |_: i16, topic: &Topic| {
            let partition = OffsetForLeaderPartition::default().with_current_leader_epoch(-1);
            let topic = OffsetForLeaderTopic::default()
                .with_topic(name(&topic.name))
                .with_partitions(vec![partition]);
            OffsetForLeaderEpochRequest::default().with_topics(vec![topic])
        };
        self.ask(epoch, |r| r.throttle_time_ms).await?;
        let producers = |_: i16, topic: &Topic| {
            let topic = describe_producers_request::TopicRequest::default()
                .with_name(name(&topic.name))
                .with_partition_indexes(vec![0]);
            DescribeProducersRequest::default().with_topics(vec![topic])
        };
        self.ask(producers, |r| r.throttle_time_ms).await
    }

    async fn topics(&mut self) -> Result<()> {
        let create = |_: i16, _: &Topic| {
            CreateTopicsRequest::default()
                .with_topics(vec![creatable(&unique("sweep"), 1, &[])])
                .with_timeout_ms(TIMEOUT_MS)
        };
        self.ask(create, |r| r.throttle_time_ms).await?;
        let delete = |version: i16, _: &Topic| {
            let missing = name(&unique("missing"));
            let request = DeleteTopicsRequest::default().with_timeout_ms(TIMEOUT_MS);
            if version < 6 {
                return request.with_topic_names(vec![missing]);
            }
            request.with_topics(vec![
                delete_topics_request::DeleteTopicState::default().with_name(Some(missing)),
            ])
        };
        self.ask(delete, |r| r.throttle_time_ms).await?;
        let records = |_: i16, topic: &Topic| {
            let partition = DeleteRecordsPartition::default().with_offset(0);
            let topic = DeleteRecordsTopic::default()
                .with_name(name(&topic.name))
                .with_partitions(vec![partition]);
            DeleteRecordsRequest::default()
                .with_topics(vec![topic])
                .with_timeout_ms(TIMEOUT_MS)
        };
        self.ask(records, |r| r.throttle_time_ms).await?;
        let grow = |_: i16, topic: &Topic| {
            let topic = create_partitions_request::CreatePartitionsTopic::default()
                .with_name(name(&topic.name))
                .with_count(2)
                .with_assignments(None);
            CreatePartitionsRequest::default()
                .with_topics(vec![topic])
                .with_timeout_ms(TIMEOUT_MS)
                .with_validate_only(true)
        };
        self.ask(grow, |r| r.throttle_time_ms).await?;
        let describe = |_: i16, topic: &Topic| {
            let topic = describe_topic_partitions_request::TopicRequest::default()
                .with_name(name(&topic.name));
            DescribeTopicPartitionsRequest::default()
                .with_topics(vec![topic])
                .with_response_partition_limit(10)
        };
        self.ask(describe, |r| r.throttle_time_ms).await?;
        let elect = |_: i16, topic: &Topic| {
            let topic = elect_leaders_request::TopicPartitions::default()
                .with_topic(name(&topic.name))
                .with_partitions(vec![0]);
            ElectLeadersRequest::default()
                .with_topic_partitions(Some(vec![topic]))
                .with_timeout_ms(TIMEOUT_MS)
        };
        self.ask(elect, |r| r.throttle_time_ms).await?;
        let reassign = |_: i16, topic: &Topic| {
            let partition = alter_partition_reassignments_request::ReassignablePartition::default()
                .with_replicas(None);
            let topic = alter_partition_reassignments_request::ReassignableTopic::default()
                .with_name(name(&topic.name))
                .with_partitions(vec![partition]);
            AlterPartitionReassignmentsRequest::default()
                .with_topics(vec![topic])
                .with_timeout_ms(TIMEOUT_MS)
        };
        self.ask(reassign, |r| r.throttle_time_ms).await?;
        let moving = |_: i16, topic: &Topic| {
            let topic =
                list_partition_reassignments_request::ListPartitionReassignmentsTopics::default()
                    .with_name(name(&topic.name))
                    .with_partition_indexes(vec![0]);
            ListPartitionReassignmentsRequest::default()
                .with_topics(Some(vec![topic]))
                .with_timeout_ms(TIMEOUT_MS)
        };
        self.ask(moving, |r| r.throttle_time_ms).await?;
        let unknown =
            |_: i16, _: &Topic| UnregisterBrokerRequest::default().with_broker_id(BrokerId(9_999));
        self.ask(unknown, |r| r.throttle_time_ms).await
    }

    async fn configs(&mut self) -> Result<()> {
        let describe = |_: i16, topic: &Topic| {
            let resource = DescribeConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text(&topic.name))
                .with_configuration_keys(None);
            DescribeConfigsRequest::default()
                .with_resources(vec![resource])
                .with_include_synonyms(true)
        };
        self.ask(describe, |r| r.throttle_time_ms).await?;
        let alter = |_: i16, topic: &Topic| {
            let config = alter_configs_request::AlterableConfig::default()
                .with_name(text("retention.ms"))
                .with_value(Some(text("1000000")));
            let resource = alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text(&topic.name))
                .with_configs(vec![config]);
            AlterConfigsRequest::default()
                .with_resources(vec![resource])
                .with_validate_only(true)
        };
        self.ask(alter, |r| r.throttle_time_ms).await?;
        let incremental = |_: i16, topic: &Topic| {
            let config = incremental_alter_configs_request::AlterableConfig::default()
                .with_name(text("retention.ms"))
                .with_value(Some(text("1000000")));
            let resource = incremental_alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text(&topic.name))
                .with_configs(vec![config]);
            IncrementalAlterConfigsRequest::default()
                .with_resources(vec![resource])
                .with_validate_only(true)
        };
        self.ask(incremental, |r| r.throttle_time_ms).await?;
        self.ask(
            |_, _| ListConfigResourcesRequest::default(),
            |r| r.throttle_time_ms,
        )
        .await?;
        self.ask(
            |_, _| DescribeLogDirsRequest::default().with_topics(None),
            |r| r.throttle_time_ms,
        )
        .await
    }

    async fn offsets(&mut self) -> Result<()> {
        self.ask(
            |version, _| calls::find_request(version, "sweep"),
            |r| r.throttle_time_ms,
        )
        .await?;
        calls::coordinated(&self.connection, "sweep").await?;
        let commit = |_: i16, topic: &Topic| {
            calls::commit_request("sweep", topic, vec![calls::committed(0, 1)])
        };
        self.ask(commit, |r| r.throttle_time_ms).await?;
        let read = |version: i16, topic: &Topic| {
            calls::offsets_request(version, "sweep", Some(&[(topic, &[0])]))
        };
        self.ask(read, |r| r.throttle_time_ms).await?;
        let forget = |_: i16, topic: &Topic| {
            let topic = offset_delete_request::OffsetDeleteRequestTopic::default()
                .with_name(name(&topic.name))
                .with_partitions(vec![
                    offset_delete_request::OffsetDeleteRequestPartition::default(),
                ]);
            OffsetDeleteRequest::default()
                .with_group_id(calls::group_id("sweep"))
                .with_topics(vec![topic])
        };
        self.ask(forget, |r| r.throttle_time_ms).await
    }

    async fn groups(&mut self) -> Result<()> {
        // Without a protocol nobody gets in, so nobody is waited for.
        let member = Member::over(self.connection.clone(), "sweep").with_protocols(&[]);
        self.ask(|_, _| member.join_request(), |r| r.throttle_time_ms)
            .await?;
        self.ask(|_, _| member.sync_request(&[]), |r| r.throttle_time_ms)
            .await?;
        let beat =
            |_: i16, _: &Topic| HeartbeatRequest::default().with_group_id(calls::group_id("sweep"));
        self.ask(beat, |r| r.throttle_time_ms).await?;
        let leave = |version: i16, _: &Topic| {
            let request = LeaveGroupRequest::default().with_group_id(calls::group_id("sweep"));
            if version < 3 {
                return request.with_member_id(text("nobody"));
            }
            request.with_members(vec![member.identity()])
        };
        self.ask(leave, |r| r.throttle_time_ms).await?;
        let names = vec![calls::group_id("sweep")];
        let describe =
            |_: i16, _: &Topic| DescribeGroupsRequest::default().with_groups(names.clone());
        self.ask(describe, |r| r.throttle_time_ms).await?;
        self.ask(|_, _| ListGroupsRequest::default(), |r| r.throttle_time_ms)
            .await?;
        let delete =
            |_: i16, _: &Topic| DeleteGroupsRequest::default().with_groups_names(names.clone());
        self.ask(delete, |r| r.throttle_time_ms).await?;
        let consumer = Consumer::over(self.connection.clone(), &unique("sweep"), &[&self.topic]);
        self.ask(|_, _| consumer.join_request(), |r| r.throttle_time_ms)
            .await?;
        let describe = |_: i16, _: &Topic| {
            ConsumerGroupDescribeRequest::default().with_group_ids(names.clone())
        };
        self.ask(describe, |r| r.throttle_time_ms).await
    }

    async fn cluster(&mut self) -> Result<()> {
        self.ask(
            |_, _| DescribeClusterRequest::default().with_endpoint_type(1),
            |r| r.throttle_time_ms,
        )
        .await?;
        let quorum = |_: i16, _: &Topic| {
            let topic = describe_quorum_request::TopicData::default()
                .with_topic_name(name("__cluster_metadata"))
                .with_partitions(vec![describe_quorum_request::PartitionData::default()]);
            DescribeQuorumRequest::default().with_topics(vec![topic])
        };
        self.ask(quorum, |_| 0).await?;
        self.ask(
            |_, _| UpdateFeaturesRequest::default().with_timeout_ms(TIMEOUT_MS),
            |r| r.throttle_time_ms,
        )
        .await?;
        let quotas = |_: i16, _: &Topic| DescribeClientQuotasRequest::default();
        self.ask(quotas, |r| r.throttle_time_ms).await?;
        let acls = |_: i16, _: &Topic| {
            DescribeAclsRequest::default()
                .with_resource_type_filter(1)
                .with_pattern_type_filter(1)
                .with_operation(1)
                .with_permission_type(1)
        };
        self.ask(acls, |r| r.throttle_time_ms).await?;
        let create = |_: i16, _: &Topic| {
            let creation = AclCreation::default()
                .with_resource_type(2)
                .with_resource_name(text("t"))
                .with_resource_pattern_type(3)
                .with_principal(text("User:a"))
                .with_host(text("*"))
                .with_operation(3)
                .with_permission_type(3);
            CreateAclsRequest::default().with_creations(vec![creation])
        };
        self.ask(create, |r| r.throttle_time_ms).await?;
        let delete = |_: i16, _: &Topic| {
            let filter = DeleteAclsFilter::default()
                .with_resource_type_filter(2)
                .with_pattern_type_filter(3)
                .with_operation(3)
                .with_permission_type(3);
            DeleteAclsRequest::default().with_filters(vec![filter])
        };
        self.ask(delete, |r| r.throttle_time_ms).await
    }
}

#[tokio::test]
async fn behaviour_10_every_advertised_version_is_served_without_throttling() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let mut sweep = Sweep {
        connection,
        topic,
        swept: BTreeSet::new(),
    };
    sweep.data().await?;
    sweep.topics().await?;
    sweep.configs().await?;
    sweep.offsets().await?;
    sweep.groups().await?;
    sweep.cluster().await?;
    let table: BTreeSet<i16> = Api::ALL.iter().map(|api| api.key()).collect();
    assert_eq!(sweep.swept, table, "every API of the table is swept");
    Ok(())
}

/// Nothing is advertised that is not served: no key and no version beside the table.
#[tokio::test]
async fn what_is_advertised_is_the_table() -> Result<()> {
    let connection = connect().await?;
    for version in 0..=4_i16 {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text("a"))
            .with_client_software_version(text("1"));
        let response = connection.send_version(version, &request).await?;
        let listed: BTreeSet<i16> = response.api_keys.iter().map(|api| api.api_key).collect();
        assert_eq!(
            listed.len(),
            response.api_keys.len(),
            "a key is listed once"
        );
        for api in Api::ALL {
            let row = response
                .api_keys
                .iter()
                .find(|row| row.api_key == api.key())
                .context(api.name())?;
            let range = api.advertised_versions();
            if ours() {
                assert_eq!(
                    (row.min_version, row.max_version),
                    (*range.start(), *range.end()),
                    "{api}"
                );
            } else {
                ensure!(
                    row.min_version <= *range.start() && *range.end() <= row.max_version,
                    "{api}: {row:?}"
                );
            }
        }
        if ours() {
            assert_eq!(listed.len(), Api::ALL.len());
        }
    }
    ensure!(connection.ranges().get(Api::Produce.key()) == Some((0, 13)));
    Ok(())
}

#[tokio::test]
async fn features_that_may_be_off_are_kept_from_old_clients() -> Result<()> {
    let connection = connect().await?;
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("a"))
        .with_client_software_version(text("1"));
    let old = connection.send_version(3, &request).await?;
    ensure!(
        old.supported_features
            .iter()
            .all(|feature| feature.min_version > 0),
        "{old:?}"
    );
    let new = connection.send_version(4, &request).await?;
    ensure!(new.finalized_features_epoch >= 0);
    let version = new
        .finalized_features
        .iter()
        .find(|feature| &*feature.name == "metadata.version");
    ensure!(
        version.is_some_and(|feature| feature.max_version_level >= 7),
        "{new:?}"
    );
    Ok(())
}
