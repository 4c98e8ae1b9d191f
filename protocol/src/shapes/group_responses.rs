//! Layouts of responses of the group coordinator.

use crate::shape::{Shape, boolean, bytes, int8, int16, int32, int64, string, structure, uuid};

pub(crate) const FIND_COORDINATOR: Shape = Shape::flexible_from(
    3,
    &[
        int32("ThrottleTimeMs").since(1),
        int16("ErrorCode").until(3),
        string("ErrorMessage").since(1).until(3).nullable_since(1),
        int32("NodeId").until(3),
        string("Host").until(3),
        int32("Port").until(3),
        structure(
            "Coordinators",
            &[
                string("Key").since(4),
                int32("NodeId").since(4),
                string("Host").since(4),
                int32("Port").since(4),
                int16("ErrorCode").since(4),
                string("ErrorMessage").since(4).nullable_since(4),
            ],
        )
        .array()
        .since(4),
    ],
);

pub(crate) const JOIN_GROUP: Shape = Shape::flexible_from(
    6,
    &[
        int32("ThrottleTimeMs").since(2),
        int16("ErrorCode"),
        int32("GenerationId"),
        string("ProtocolType").since(7).nullable_since(7),
        string("ProtocolName").nullable_since(7),
        string("Leader"),
        boolean("SkipAssignment").since(9),
        string("MemberId"),
        structure(
            "Members",
            &[
                string("MemberId"),
                string("GroupInstanceId").since(5).nullable_since(5),
                bytes("Metadata"),
            ],
        )
        .array(),
    ],
);

pub(crate) const SYNC_GROUP: Shape = Shape::flexible_from(
    4,
    &[
        int32("ThrottleTimeMs").since(1),
        int16("ErrorCode"),
        string("ProtocolType").since(5).nullable_since(5),
        string("ProtocolName").since(5).nullable_since(5),
        bytes("Assignment"),
    ],
);

pub(crate) const HEARTBEAT: Shape =
    Shape::flexible_from(4, &[int32("ThrottleTimeMs").since(1), int16("ErrorCode")]);

pub(crate) const LEAVE_GROUP: Shape = Shape::flexible_from(
    4,
    &[
        int32("ThrottleTimeMs").since(1),
        int16("ErrorCode"),
        structure(
            "Members",
            &[
                string("MemberId").since(3),
                string("GroupInstanceId").since(3).nullable_since(3),
                int16("ErrorCode").since(3),
            ],
        )
        .array()
        .since(3),
    ],
);

pub(crate) const OFFSET_COMMIT: Shape = Shape::flexible_from(
    8,
    &[
        int32("ThrottleTimeMs").since(3),
        structure(
            "Topics",
            &[
                string("Name").until(9),
                uuid("TopicId").since(10),
                structure("Partitions", &[int32("PartitionIndex"), int16("ErrorCode")]).array(),
            ],
        )
        .array(),
    ],
);

pub(crate) const OFFSET_FETCH: Shape = Shape::flexible_from(
    6,
    &[
        int32("ThrottleTimeMs").since(3),
        structure(
            "Topics",
            &[
                string("Name").until(7),
                structure(
                    "Partitions",
                    &[
                        int32("PartitionIndex").until(7),
                        int64("CommittedOffset").until(7),
                        int32("CommittedLeaderEpoch").since(5).until(7),
                        string("Metadata").until(7).nullable(),
                        int16("ErrorCode").until(7),
                    ],
                )
                .array()
                .until(7),
            ],
        )
        .array()
        .until(7),
        int16("ErrorCode").since(2).until(7),
        structure(
            "Groups",
            &[
                string("GroupId").since(8),
                structure(
                    "Topics",
                    &[
                        string("Name").since(8).until(9),
                        uuid("TopicId").since(10),
                        structure(
                            "Partitions",
                            &[
                                int32("PartitionIndex").since(8),
                                int64("CommittedOffset").since(8),
                                int32("CommittedLeaderEpoch").since(8),
                                string("Metadata").since(8).nullable_since(8),
                                int16("ErrorCode").since(8),
                            ],
                        )
                        .array()
                        .since(8),
                    ],
                )
                .array()
                .since(8),
                int16("ErrorCode").since(8),
            ],
        )
        .array()
        .since(8),
    ],
);

pub(crate) const DESCRIBE_GROUPS: Shape = Shape::flexible_from(
    5,
    &[
        int32("ThrottleTimeMs").since(1),
        structure(
            "Groups",
            &[
                int16("ErrorCode"),
                string("ErrorMessage").since(6).nullable_since(6),
                string("GroupId"),
                string("GroupState"),
                string("ProtocolType"),
                string("ProtocolData"),
                structure(
                    "Members",
                    &[
                        string("MemberId"),
                        string("GroupInstanceId").since(4).nullable_since(4),
                        string("ClientId"),
                        string("ClientHost"),
                        bytes("MemberMetadata"),
                        bytes("MemberAssignment"),
                    ],
                )
                .array(),
                int32("AuthorizedOperations").since(3),
            ],
        )
        .array(),
    ],
);

pub(crate) const LIST_GROUPS: Shape = Shape::flexible_from(
    3,
    &[
        int32("ThrottleTimeMs").since(1),
        int16("ErrorCode"),
        structure(
            "Groups",
            &[
                string("GroupId"),
                string("ProtocolType"),
                string("GroupState").since(4),
                string("GroupType").since(5),
            ],
        )
        .array(),
    ],
);

pub(crate) const DELETE_GROUPS: Shape = Shape::flexible_from(
    2,
    &[
        int32("ThrottleTimeMs"),
        structure("Results", &[string("GroupId"), int16("ErrorCode")]).array(),
    ],
);

/// The only version never became flexible.
pub(crate) const OFFSET_DELETE: Shape = Shape::flexible_from(
    i16::MAX,
    &[
        int16("ErrorCode"),
        int32("ThrottleTimeMs"),
        structure(
            "Topics",
            &[
                string("Name"),
                structure("Partitions", &[int32("PartitionIndex"), int16("ErrorCode")]).array(),
            ],
        )
        .array(),
    ],
);

pub(crate) const CONSUMER_GROUP_HEARTBEAT: Shape = Shape::flexible_from(
    0,
    &[
        int32("ThrottleTimeMs"),
        int16("ErrorCode"),
        string("ErrorMessage").nullable(),
        string("MemberId").nullable(),
        int32("MemberEpoch"),
        int32("HeartbeatIntervalMs"),
        structure(
            "Assignment",
            &[structure(
                "TopicPartitions",
                &[uuid("TopicId"), int32("Partitions").array()],
            )
            .array()],
        )
        .nullable(),
    ],
);

pub(crate) const CONSUMER_GROUP_DESCRIBE: Shape = Shape::flexible_from(
    0,
    &[
        int32("ThrottleTimeMs"),
        structure(
            "Groups",
            &[
                int16("ErrorCode"),
                string("ErrorMessage").nullable(),
                string("GroupId"),
                string("GroupState"),
                int32("GroupEpoch"),
                int32("AssignmentEpoch"),
                string("AssignorName"),
                structure(
                    "Members",
                    &[
                        string("MemberId"),
                        string("InstanceId").nullable(),
                        string("RackId").nullable(),
                        int32("MemberEpoch"),
                        string("ClientId"),
                        string("ClientHost"),
                        string("SubscribedTopicNames").array(),
                        string("SubscribedTopicRegex").nullable(),
                        structure(
                            "Assignment",
                            &[structure(
                                "TopicPartitions",
                                &[
                                    uuid("TopicId"),
                                    string("TopicName"),
                                    int32("Partitions").array(),
                                ],
                            )
                            .array()],
                        ),
                        structure(
                            "TargetAssignment",
                            &[structure(
                                "TopicPartitions",
                                &[
                                    uuid("TopicId"),
                                    string("TopicName"),
                                    int32("Partitions").array(),
                                ],
                            )
                            .array()],
                        ),
                        int8("MemberType").since(1),
                    ],
                )
                .array(),
                int32("AuthorizedOperations"),
            ],
        )
        .array(),
    ],
);
