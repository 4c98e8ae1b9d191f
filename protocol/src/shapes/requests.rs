//! Layouts of requests, by ascending key.

use crate::shape::{Shape, boolean, bytes, int8, int16, int32, int64, string, structure, uuid};

pub(crate) const PRODUCE: Shape = Shape::flexible_from(
    9,
    &[
        string("TransactionalId").nullable(),
        int16("Acks"),
        int32("TimeoutMs"),
        structure(
            "TopicData",
            &[
                string("Name").until(12),
                uuid("TopicId").since(13),
                structure(
                    "PartitionData",
                    &[int32("Index"), bytes("Records").nullable()],
                )
                .array(),
            ],
        )
        .array(),
    ],
);

pub(crate) const FETCH: Shape = Shape::flexible_from(
    12,
    &[
        string("ClusterId").since(12).nullable_since(12).tagged(0),
        int32("ReplicaId").until(14),
        structure(
            "ReplicaState",
            &[
                int32("ReplicaId").since(15),
                int64("ReplicaEpoch").since(15),
            ],
        )
        .since(15)
        .tagged(1),
        int32("MaxWaitMs"),
        int32("MinBytes"),
        int32("MaxBytes"),
        int8("IsolationLevel"),
        int32("SessionId").since(7),
        int32("SessionEpoch").since(7),
        structure(
            "Topics",
            &[
                string("Topic").until(12),
                uuid("TopicId").since(13),
                structure(
                    "Partitions",
                    &[
                        int32("Partition"),
                        int32("CurrentLeaderEpoch").since(9),
                        int64("FetchOffset"),
                        int32("LastFetchedEpoch").since(12),
                        int64("LogStartOffset").since(5),
                        int32("PartitionMaxBytes"),
                        uuid("ReplicaDirectoryId").since(17).tagged(0),
                        int64("HighWatermark").since(18).tagged(1),
                    ],
                )
                .array(),
            ],
        )
        .array(),
        structure(
            "ForgottenTopicsData",
            &[
                string("Topic").since(7).until(12),
                uuid("TopicId").since(13),
                int32("Partitions").array().since(7),
            ],
        )
        .array()
        .since(7),
        string("RackId").since(11),
    ],
);

pub(crate) const LIST_OFFSETS: Shape = Shape::flexible_from(
    6,
    &[
        int32("ReplicaId"),
        int8("IsolationLevel").since(2),
        structure(
            "Topics",
            &[
                string("Name"),
                structure(
                    "Partitions",
                    &[
                        int32("PartitionIndex"),
                        int32("CurrentLeaderEpoch").since(4),
                        int64("Timestamp"),
                    ],
                )
                .array(),
            ],
        )
        .array(),
        int32("TimeoutMs").since(10),
    ],
);

pub(crate) const METADATA: Shape = Shape::flexible_from(
    9,
    &[
        structure(
            "Topics",
            &[uuid("TopicId").since(10), string("Name").nullable_since(10)],
        )
        .array()
        .nullable_since(1),
        boolean("AllowAutoTopicCreation").since(4),
        boolean("IncludeClusterAuthorizedOperations")
            .since(8)
            .until(10),
        boolean("IncludeTopicAuthorizedOperations").since(8),
    ],
);

pub(crate) const API_VERSIONS: Shape = Shape::flexible_from(
    3,
    &[
        string("ClientSoftwareName").since(3),
        string("ClientSoftwareVersion").since(3),
    ],
);

pub(crate) const CREATE_TOPICS: Shape = Shape::flexible_from(
    5,
    &[
        structure(
            "Topics",
            &[
                string("Name"),
                int32("NumPartitions"),
                int16("ReplicationFactor"),
                structure(
                    "Assignments",
                    &[int32("PartitionIndex"), int32("BrokerIds").array()],
                )
                .array(),
                structure("Configs", &[string("Name"), string("Value").nullable()]).array(),
            ],
        )
        .array(),
        int32("timeoutMs"),
        boolean("validateOnly"),
    ],
);

pub(crate) const DELETE_TOPICS: Shape = Shape::flexible_from(
    4,
    &[
        structure(
            "Topics",
            &[
                string("Name").since(6).nullable_since(6),
                uuid("TopicId").since(6),
            ],
        )
        .array()
        .since(6),
        string("TopicNames").array().until(5),
        int32("TimeoutMs"),
    ],
);

pub(crate) const DELETE_RECORDS: Shape = Shape::flexible_from(
    2,
    &[
        structure(
            "Topics",
            &[
                string("Name"),
                structure("Partitions", &[int32("PartitionIndex"), int64("Offset")]).array(),
            ],
        )
        .array(),
        int32("TimeoutMs"),
    ],
);

pub(crate) const INIT_PRODUCER_ID: Shape = Shape::flexible_from(
    2,
    &[
        string("TransactionalId").nullable(),
        int32("TransactionTimeoutMs"),
        int64("ProducerId").since(3),
        int16("ProducerEpoch").since(3),
    ],
);

pub(crate) const OFFSET_FOR_LEADER_EPOCH: Shape = Shape::flexible_from(
    4,
    &[
        int32("ReplicaId").since(3),
        structure(
            "Topics",
            &[
                string("Topic"),
                structure(
                    "Partitions",
                    &[
                        int32("Partition"),
                        int32("CurrentLeaderEpoch"),
                        int32("LeaderEpoch"),
                    ],
                )
                .array(),
            ],
        )
        .array(),
    ],
);

pub(crate) const DESCRIBE_ACLS: Shape = Shape::flexible_from(
    2,
    &[
        int8("ResourceTypeFilter"),
        string("ResourceNameFilter").nullable(),
        int8("PatternTypeFilter"),
        string("PrincipalFilter").nullable(),
        string("HostFilter").nullable(),
        int8("Operation"),
        int8("PermissionType"),
    ],
);

pub(crate) const CREATE_ACLS: Shape = Shape::flexible_from(
    2,
    &[structure(
        "Creations",
        &[
            int8("ResourceType"),
            string("ResourceName"),
            int8("ResourcePatternType"),
            string("Principal"),
            string("Host"),
            int8("Operation"),
            int8("PermissionType"),
        ],
    )
    .array()],
);

pub(crate) const DELETE_ACLS: Shape = Shape::flexible_from(
    2,
    &[structure(
        "Filters",
        &[
            int8("ResourceTypeFilter"),
            string("ResourceNameFilter").nullable(),
            int8("PatternTypeFilter"),
            string("PrincipalFilter").nullable(),
            string("HostFilter").nullable(),
            int8("Operation"),
            int8("PermissionType"),
        ],
    )
    .array()],
);

pub(crate) const DESCRIBE_CONFIGS: Shape = Shape::flexible_from(
    4,
    &[
        structure(
            "Resources",
            &[
                int8("ResourceType"),
                string("ResourceName"),
                string("ConfigurationKeys").array().nullable(),
            ],
        )
        .array(),
        boolean("IncludeSynonyms"),
        boolean("IncludeDocumentation").since(3),
    ],
);

pub(crate) const ALTER_CONFIGS: Shape = Shape::flexible_from(
    2,
    &[
        structure(
            "Resources",
            &[
                int8("ResourceType"),
                string("ResourceName"),
                structure("Configs", &[string("Name"), string("Value").nullable()]).array(),
            ],
        )
        .array(),
        boolean("ValidateOnly"),
    ],
);

pub(crate) const DESCRIBE_LOG_DIRS: Shape = Shape::flexible_from(
    2,
    &[
        structure("Topics", &[string("Topic"), int32("Partitions").array()])
            .array()
            .nullable(),
    ],
);

pub(crate) const CREATE_PARTITIONS: Shape = Shape::flexible_from(
    2,
    &[
        structure(
            "Topics",
            &[
                string("Name"),
                int32("Count"),
                structure("Assignments", &[int32("BrokerIds").array()])
                    .array()
                    .nullable(),
            ],
        )
        .array(),
        int32("TimeoutMs"),
        boolean("ValidateOnly"),
    ],
);

pub(crate) const ELECT_LEADERS: Shape = Shape::flexible_from(
    2,
    &[
        int8("ElectionType").since(1),
        structure(
            "TopicPartitions",
            &[string("Topic"), int32("Partitions").array()],
        )
        .array()
        .nullable(),
        int32("TimeoutMs"),
    ],
);

pub(crate) const INCREMENTAL_ALTER_CONFIGS: Shape = Shape::flexible_from(
    1,
    &[
        structure(
            "Resources",
            &[
                int8("ResourceType"),
                string("ResourceName"),
                structure(
                    "Configs",
                    &[
                        string("Name"),
                        int8("ConfigOperation"),
                        string("Value").nullable(),
                    ],
                )
                .array(),
            ],
        )
        .array(),
        boolean("ValidateOnly"),
    ],
);

pub(crate) const ALTER_PARTITION_REASSIGNMENTS: Shape = Shape::flexible_from(
    0,
    &[
        int32("TimeoutMs"),
        boolean("AllowReplicationFactorChange").since(1),
        structure(
            "Topics",
            &[
                string("Name"),
                structure(
                    "Partitions",
                    &[
                        int32("PartitionIndex"),
                        int32("Replicas").array().nullable(),
                    ],
                )
                .array(),
            ],
        )
        .array(),
    ],
);

pub(crate) const LIST_PARTITION_REASSIGNMENTS: Shape = Shape::flexible_from(
    0,
    &[
        int32("TimeoutMs"),
        structure(
            "Topics",
            &[string("Name"), int32("PartitionIndexes").array()],
        )
        .array()
        .nullable(),
    ],
);

pub(crate) const DESCRIBE_CLIENT_QUOTAS: Shape = Shape::flexible_from(
    1,
    &[
        structure(
            "Components",
            &[
                string("EntityType"),
                int8("MatchType"),
                string("Match").nullable(),
            ],
        )
        .array(),
        boolean("Strict"),
    ],
);

pub(crate) const DESCRIBE_QUORUM: Shape = Shape::flexible_from(
    0,
    &[structure(
        "Topics",
        &[
            string("TopicName"),
            structure("Partitions", &[int32("PartitionIndex")]).array(),
        ],
    )
    .array()],
);

pub(crate) const UPDATE_FEATURES: Shape = Shape::flexible_from(
    0,
    &[
        int32("timeoutMs"),
        structure(
            "FeatureUpdates",
            &[
                string("Feature"),
                int16("MaxVersionLevel"),
                boolean("AllowDowngrade").until(0),
                int8("UpgradeType").since(1),
            ],
        )
        .array(),
        boolean("ValidateOnly").since(1),
    ],
);

pub(crate) const UNREGISTER_BROKER: Shape = Shape::flexible_from(0, &[int32("BrokerId")]);

pub(crate) const DESCRIBE_CLUSTER: Shape = Shape::flexible_from(
    0,
    &[
        boolean("IncludeClusterAuthorizedOperations"),
        int8("EndpointType").since(1),
        boolean("IncludeFencedBrokers").since(2),
    ],
);

pub(crate) const DESCRIBE_PRODUCERS: Shape = Shape::flexible_from(
    0,
    &[structure(
        "Topics",
        &[string("Name"), int32("PartitionIndexes").array()],
    )
    .array()],
);

pub(crate) const LIST_CONFIG_RESOURCES: Shape =
    Shape::flexible_from(0, &[int8("ResourceTypes").array().since(1)]);

pub(crate) const DESCRIBE_TOPIC_PARTITIONS: Shape = Shape::flexible_from(
    0,
    &[
        structure("Topics", &[string("Name")]).array(),
        int32("ResponsePartitionLimit"),
        structure("Cursor", &[string("TopicName"), int32("PartitionIndex")]).nullable(),
    ],
);
