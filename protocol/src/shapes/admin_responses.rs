//! Layouts of responses to administration, by ascending key.

use crate::shape::{
    Shape, boolean, float64, int8, int16, int32, int64, string, structure, uint16, uuid,
};

pub(crate) const CREATE_TOPICS: Shape = Shape::flexible_from(
    5,
    &[
        int32("ThrottleTimeMs"),
        structure(
            "Topics",
            &[
                string("Name"),
                uuid("TopicId").since(7),
                int16("ErrorCode"),
                string("ErrorMessage").nullable(),
                int16("TopicConfigErrorCode").since(5).tagged(0),
                int32("NumPartitions").since(5),
                int16("ReplicationFactor").since(5),
                structure(
                    "Configs",
                    &[
                        string("Name").since(5),
                        string("Value").since(5).nullable_since(5),
                        boolean("ReadOnly").since(5),
                        int8("ConfigSource").since(5),
                        boolean("IsSensitive").since(5),
                    ],
                )
                .array()
                .since(5)
                .nullable_since(5),
            ],
        )
        .array(),
    ],
);

pub(crate) const DELETE_TOPICS: Shape = Shape::flexible_from(
    4,
    &[
        int32("ThrottleTimeMs"),
        structure(
            "Responses",
            &[
                string("Name").nullable_since(6),
                uuid("TopicId").since(6),
                int16("ErrorCode"),
                string("ErrorMessage").since(5).nullable_since(5),
            ],
        )
        .array(),
    ],
);

pub(crate) const DELETE_RECORDS: Shape = Shape::flexible_from(
    2,
    &[
        int32("ThrottleTimeMs"),
        structure(
            "Topics",
            &[
                string("Name"),
                structure(
                    "Partitions",
                    &[
                        int32("PartitionIndex"),
                        int64("LowWatermark"),
                        int16("ErrorCode"),
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
        int32("ThrottleTimeMs"),
        int16("ErrorCode"),
        string("ErrorMessage").nullable(),
        structure(
            "Resources",
            &[
                int8("ResourceType"),
                string("ResourceName"),
                int8("PatternType"),
                structure(
                    "Acls",
                    &[
                        string("Principal"),
                        string("Host"),
                        int8("Operation"),
                        int8("PermissionType"),
                    ],
                )
                .array(),
            ],
        )
        .array(),
    ],
);

pub(crate) const CREATE_ACLS: Shape = Shape::flexible_from(
    2,
    &[
        int32("ThrottleTimeMs"),
        structure(
            "Results",
            &[int16("ErrorCode"), string("ErrorMessage").nullable()],
        )
        .array(),
    ],
);

pub(crate) const DELETE_ACLS: Shape = Shape::flexible_from(
    2,
    &[
        int32("ThrottleTimeMs"),
        structure(
            "FilterResults",
            &[
                int16("ErrorCode"),
                string("ErrorMessage").nullable(),
                structure(
                    "MatchingAcls",
                    &[
                        int16("ErrorCode"),
                        string("ErrorMessage").nullable(),
                        int8("ResourceType"),
                        string("ResourceName"),
                        int8("PatternType"),
                        string("Principal"),
                        string("Host"),
                        int8("Operation"),
                        int8("PermissionType"),
                    ],
                )
                .array(),
            ],
        )
        .array(),
    ],
);

pub(crate) const DESCRIBE_CONFIGS: Shape = Shape::flexible_from(
    4,
    &[
        int32("ThrottleTimeMs"),
        structure(
            "Results",
            &[
                int16("ErrorCode"),
                string("ErrorMessage").nullable(),
                int8("ResourceType"),
                string("ResourceName"),
                structure(
                    "Configs",
                    &[
                        string("Name"),
                        string("Value").nullable(),
                        boolean("ReadOnly"),
                        int8("ConfigSource"),
                        boolean("IsSensitive"),
                        structure(
                            "Synonyms",
                            &[string("Name"), string("Value").nullable(), int8("Source")],
                        )
                        .array(),
                        int8("ConfigType").since(3),
                        string("Documentation").since(3).nullable(),
                    ],
                )
                .array(),
            ],
        )
        .array(),
    ],
);

pub(crate) const ALTER_CONFIGS: Shape = Shape::flexible_from(
    2,
    &[
        int32("ThrottleTimeMs"),
        structure(
            "Responses",
            &[
                int16("ErrorCode"),
                string("ErrorMessage").nullable(),
                int8("ResourceType"),
                string("ResourceName"),
            ],
        )
        .array(),
    ],
);

pub(crate) const DESCRIBE_LOG_DIRS: Shape = Shape::flexible_from(
    2,
    &[
        int32("ThrottleTimeMs"),
        int16("ErrorCode").since(3),
        structure(
            "Results",
            &[
                int16("ErrorCode"),
                string("LogDir"),
                structure(
                    "Topics",
                    &[
                        string("Name"),
                        structure(
                            "Partitions",
                            &[
                                int32("PartitionIndex"),
                                int64("PartitionSize"),
                                int64("OffsetLag"),
                                boolean("IsFutureKey"),
                            ],
                        )
                        .array(),
                    ],
                )
                .array(),
                int64("TotalBytes").since(4),
                int64("UsableBytes").since(4),
            ],
        )
        .array(),
    ],
);

pub(crate) const CREATE_PARTITIONS: Shape = Shape::flexible_from(
    2,
    &[
        int32("ThrottleTimeMs"),
        structure(
            "Results",
            &[
                string("Name"),
                int16("ErrorCode"),
                string("ErrorMessage").nullable(),
            ],
        )
        .array(),
    ],
);

pub(crate) const ELECT_LEADERS: Shape = Shape::flexible_from(
    2,
    &[
        int32("ThrottleTimeMs"),
        int16("ErrorCode").since(1),
        structure(
            "ReplicaElectionResults",
            &[
                string("Topic"),
                structure(
                    "PartitionResult",
                    &[
                        int32("PartitionId"),
                        int16("ErrorCode"),
                        string("ErrorMessage").nullable(),
                    ],
                )
                .array(),
            ],
        )
        .array(),
    ],
);

pub(crate) const INCREMENTAL_ALTER_CONFIGS: Shape = Shape::flexible_from(
    1,
    &[
        int32("ThrottleTimeMs"),
        structure(
            "Responses",
            &[
                int16("ErrorCode"),
                string("ErrorMessage").nullable(),
                int8("ResourceType"),
                string("ResourceName"),
            ],
        )
        .array(),
    ],
);

pub(crate) const ALTER_PARTITION_REASSIGNMENTS: Shape = Shape::flexible_from(
    0,
    &[
        int32("ThrottleTimeMs"),
        boolean("AllowReplicationFactorChange").since(1),
        int16("ErrorCode"),
        string("ErrorMessage").nullable(),
        structure(
            "Responses",
            &[
                string("Name"),
                structure(
                    "Partitions",
                    &[
                        int32("PartitionIndex"),
                        int16("ErrorCode"),
                        string("ErrorMessage").nullable(),
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
        int32("ThrottleTimeMs"),
        int16("ErrorCode"),
        string("ErrorMessage").nullable(),
        structure(
            "Topics",
            &[
                string("Name"),
                structure(
                    "Partitions",
                    &[
                        int32("PartitionIndex"),
                        int32("Replicas").array(),
                        int32("AddingReplicas").array(),
                        int32("RemovingReplicas").array(),
                    ],
                )
                .array(),
            ],
        )
        .array(),
    ],
);

pub(crate) const DESCRIBE_CLIENT_QUOTAS: Shape = Shape::flexible_from(
    1,
    &[
        int32("ThrottleTimeMs"),
        int16("ErrorCode"),
        string("ErrorMessage").nullable(),
        structure(
            "Entries",
            &[
                structure(
                    "Entity",
                    &[string("EntityType"), string("EntityName").nullable()],
                )
                .array(),
                structure("Values", &[string("Key"), float64("Value")]).array(),
            ],
        )
        .array()
        .nullable(),
    ],
);

pub(crate) const DESCRIBE_QUORUM: Shape = Shape::flexible_from(
    0,
    &[
        int16("ErrorCode"),
        string("ErrorMessage").since(2).nullable_since(2),
        structure(
            "Topics",
            &[
                string("TopicName"),
                structure(
                    "Partitions",
                    &[
                        int32("PartitionIndex"),
                        int16("ErrorCode"),
                        string("ErrorMessage").since(2).nullable_since(2),
                        int32("LeaderId"),
                        int32("LeaderEpoch"),
                        int64("HighWatermark"),
                        structure(
                            "CurrentVoters",
                            &[
                                int32("ReplicaId"),
                                uuid("ReplicaDirectoryId").since(2),
                                int64("LogEndOffset"),
                                int64("LastFetchTimestamp").since(1),
                                int64("LastCaughtUpTimestamp").since(1),
                            ],
                        )
                        .array(),
                        structure(
                            "Observers",
                            &[
                                int32("ReplicaId"),
                                uuid("ReplicaDirectoryId").since(2),
                                int64("LogEndOffset"),
                                int64("LastFetchTimestamp").since(1),
                                int64("LastCaughtUpTimestamp").since(1),
                            ],
                        )
                        .array(),
                    ],
                )
                .array(),
            ],
        )
        .array(),
        structure(
            "Nodes",
            &[
                int32("NodeId").since(2),
                structure(
                    "Listeners",
                    &[
                        string("Name").since(2),
                        string("Host").since(2),
                        uint16("Port").since(2),
                    ],
                )
                .array()
                .since(2),
            ],
        )
        .array()
        .since(2),
    ],
);

pub(crate) const UPDATE_FEATURES: Shape = Shape::flexible_from(
    0,
    &[
        int32("ThrottleTimeMs"),
        int16("ErrorCode"),
        string("ErrorMessage").nullable(),
        structure(
            "Results",
            &[
                string("Feature"),
                int16("ErrorCode"),
                string("ErrorMessage").nullable(),
            ],
        )
        .array()
        .until(1),
    ],
);

pub(crate) const LIST_CONFIG_RESOURCES: Shape = Shape::flexible_from(
    0,
    &[
        int32("ThrottleTimeMs"),
        int16("ErrorCode"),
        structure(
            "ConfigResources",
            &[string("ResourceName"), int8("ResourceType").since(1)],
        )
        .array(),
    ],
);

pub(crate) const UNREGISTER_BROKER: Shape = Shape::flexible_from(
    0,
    &[
        int32("ThrottleTimeMs"),
        int16("ErrorCode"),
        string("ErrorMessage").nullable(),
    ],
);
