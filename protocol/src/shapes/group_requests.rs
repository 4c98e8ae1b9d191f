//! Layouts of requests to the group coordinator.

use crate::shape::{Shape, boolean, bytes, int8, int32, int64, string, structure, uuid};

pub(crate) const FIND_COORDINATOR: Shape = Shape::flexible_from(
    3,
    &[
        string("Key").until(3),
        int8("KeyType").since(1),
        string("CoordinatorKeys").array().since(4),
    ],
);

pub(crate) const JOIN_GROUP: Shape = Shape::flexible_from(
    6,
    &[
        string("GroupId"),
        int32("SessionTimeoutMs"),
        int32("RebalanceTimeoutMs").since(1),
        string("MemberId"),
        string("GroupInstanceId").since(5).nullable_since(5),
        string("ProtocolType"),
        structure("Protocols", &[string("Name"), bytes("Metadata")]).array(),
        string("Reason").since(8).nullable_since(8),
    ],
);

pub(crate) const SYNC_GROUP: Shape = Shape::flexible_from(
    4,
    &[
        string("GroupId"),
        int32("GenerationId"),
        string("MemberId"),
        string("GroupInstanceId").since(3).nullable_since(3),
        string("ProtocolType").since(5).nullable_since(5),
        string("ProtocolName").since(5).nullable_since(5),
        structure("Assignments", &[string("MemberId"), bytes("Assignment")]).array(),
    ],
);

pub(crate) const HEARTBEAT: Shape = Shape::flexible_from(
    4,
    &[
        string("GroupId"),
        int32("GenerationId"),
        string("MemberId"),
        string("GroupInstanceId").since(3).nullable_since(3),
    ],
);

pub(crate) const LEAVE_GROUP: Shape = Shape::flexible_from(
    4,
    &[
        string("GroupId"),
        string("MemberId").until(2),
        structure(
            "Members",
            &[
                string("MemberId").since(3),
                string("GroupInstanceId").since(3).nullable_since(3),
                string("Reason").since(5).nullable_since(5),
            ],
        )
        .array()
        .since(3),
    ],
);

pub(crate) const OFFSET_COMMIT: Shape = Shape::flexible_from(
    8,
    &[
        string("GroupId"),
        int32("GenerationIdOrMemberEpoch"),
        string("MemberId"),
        string("GroupInstanceId").since(7).nullable_since(7),
        int64("RetentionTimeMs").until(4),
        structure(
            "Topics",
            &[
                string("Name").until(9),
                uuid("TopicId").since(10),
                structure(
                    "Partitions",
                    &[
                        int32("PartitionIndex"),
                        int64("CommittedOffset"),
                        int32("CommittedLeaderEpoch").since(6),
                        string("CommittedMetadata").nullable(),
                    ],
                )
                .array(),
            ],
        )
        .array(),
    ],
);

pub(crate) const OFFSET_FETCH: Shape = Shape::flexible_from(
    6,
    &[
        string("GroupId").until(7),
        structure(
            "Topics",
            &[
                string("Name").until(7),
                int32("PartitionIndexes").array().until(7),
            ],
        )
        .array()
        .until(7)
        .nullable_since(2),
        structure(
            "Groups",
            &[
                string("GroupId").since(8),
                string("MemberId").since(9).nullable_since(9),
                int32("MemberEpoch").since(9),
                structure(
                    "Topics",
                    &[
                        string("Name").since(8).until(9),
                        uuid("TopicId").since(10),
                        int32("PartitionIndexes").array().since(8),
                    ],
                )
                .array()
                .since(8)
                .nullable_since(8),
            ],
        )
        .array()
        .since(8),
        boolean("RequireStable").since(7),
    ],
);

pub(crate) const DESCRIBE_GROUPS: Shape = Shape::flexible_from(
    5,
    &[
        string("Groups").array(),
        boolean("IncludeAuthorizedOperations").since(3),
    ],
);

pub(crate) const LIST_GROUPS: Shape = Shape::flexible_from(
    3,
    &[
        string("StatesFilter").array().since(4),
        string("TypesFilter").array().since(5),
    ],
);

pub(crate) const DELETE_GROUPS: Shape = Shape::flexible_from(2, &[string("GroupsNames").array()]);

/// The only version never became flexible.
pub(crate) const OFFSET_DELETE: Shape = Shape::flexible_from(
    i16::MAX,
    &[
        string("GroupId"),
        structure(
            "Topics",
            &[
                string("Name"),
                structure("Partitions", &[int32("PartitionIndex")]).array(),
            ],
        )
        .array(),
    ],
);

pub(crate) const CONSUMER_GROUP_HEARTBEAT: Shape = Shape::flexible_from(
    0,
    &[
        string("GroupId"),
        string("MemberId"),
        int32("MemberEpoch"),
        string("InstanceId").nullable(),
        string("RackId").nullable(),
        int32("RebalanceTimeoutMs"),
        string("SubscribedTopicNames").array().nullable(),
        string("SubscribedTopicRegex").since(1).nullable_since(1),
        string("ServerAssignor").nullable(),
        structure(
            "TopicPartitions",
            &[uuid("TopicId"), int32("Partitions").array()],
        )
        .array()
        .nullable(),
    ],
);

pub(crate) const CONSUMER_GROUP_DESCRIBE: Shape = Shape::flexible_from(
    0,
    &[
        string("GroupIds").array(),
        boolean("IncludeAuthorizedOperations"),
    ],
);
