//! Who shall read which partition: the assignors that run on the broker (KIP-848).
//!
//! Owns: [`Assignor`], pure functions from members, topics and the target so far to the next
//! target. Invariants, whatever the input: every partition of a topic somebody subscribes to has
//! exactly one owner, who subscribes to it; equal input gives equal output; a balanced target whose
//! input did not change stays.
//!
//! Deliberately absent: the rack-aware reshuffling that Kafka's `range` once did. Ranges are
//! contiguous so that joined topics are read by the same member, and racks would break that.
//! `uniform` prefers a member in a replica's rack for every partition it has to place anyway; it
//! never gives up balance or moves a partition for it.

mod heterogeneous;
mod homogeneous;
mod plan;
mod range;

use std::sync::Arc;

use klamm_records::TopicId;

use crate::records::TopicPartitions;
use plan::Plan;

/// A built-in assignor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Equal shares, as few moves as possible.
    Uniform,
    /// Contiguous ranges of each topic, the same ranges of topics with equal partition counts.
    Range,
}

/// A group as an assignor sees it.
#[derive(Clone, Debug)]
pub struct GroupSpec<'a> {
    /// Members, ascending by id, each once.
    pub members: Vec<MemberSpec<'a>>,
    /// The topics that somebody subscribes to and that exist, ascending by id, each once.
    pub topics: Vec<TopicSpec<'a>>,
}

/// A member as an assignor sees it.
#[derive(Clone, Debug)]
pub struct MemberSpec<'a> {
    /// Member id.
    pub id: &'a str,
    /// `group.instance.id` of a static member.
    pub instance: Option<&'a str>,
    /// `client.rack`.
    pub rack: Option<&'a str>,
    /// Indexes into [`GroupSpec::topics`], ascending. Members that subscribe alike share it.
    pub topics: Arc<[usize]>,
    /// Its target so far. May name topics and partitions that are gone.
    pub assigned: &'a TopicPartitions,
}

/// A topic as an assignor sees it.
#[derive(Clone, Debug)]
pub struct TopicSpec<'a> {
    /// Its id.
    pub id: TopicId,
    /// The racks of the replicas of each partition; as long as there are partitions, empty inside
    /// when racks are not known.
    pub racks: Vec<Vec<&'a str>>,
}

impl Assignor {
    /// The assignor of a name, as in `group.consumer.assignors`.
    pub fn named(name: &str) -> Option<Assignor> {
        match name {
            "uniform" => Some(Assignor::Uniform),
            "range" => Some(Assignor::Range),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// The target of each member, in the order of [`GroupSpec::members`].
    pub fn assign(self, spec: &GroupSpec<'_>) -> Vec<TopicPartitions> {
        let mut plan = Plan::new(spec);
        match self {
            _ if spec.members.is_empty() => {}
            Assignor::Range => range::assign(&mut plan),
            Assignor::Uniform if spec.is_homogeneous() => homogeneous::assign(&mut plan),
            Assignor::Uniform => heterogeneous::assign(&mut plan),
        }
        plan.into_targets()
    }
}

impl GroupSpec<'_> {
    /// Whether all members subscribe to the same topics.
    fn is_homogeneous(&self) -> bool {
        let mut topics = self.members.iter().map(|member| &member.topics);
        let Some(first) = topics.next() else {
            return true;
        };
        topics.all(|other| Arc::ptr_eq(first, other) || first == other)
    }
}
