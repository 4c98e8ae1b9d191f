//! What Klamm's answers say beyond Kafka's: tagged fields (KIP-482), which other clients pass over.
//!
//! The numbers are far from those that Kafka gives out, which count from zero in each structure.

/// In a DescribeLogDirs result: what troubles the disk, as text. Absent when nothing does.
pub const DISK_TROUBLE_TAG: i32 = 10_000;
