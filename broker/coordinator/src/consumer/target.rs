//! When the group needs another assignment, and computing it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use klamm_records::TopicId;

use super::ConsumerGroup;
use super::metadata_hash::{metadata_hash, racks};
use super::state::{Member, expression};
use super::{expression as regular, state};
use crate::assignor::{Assignor, GroupSpec, MemberSpec, TopicSpec};
use crate::outcome::Outcome;
use crate::records::{
    ConsumerGroupMetadataValue, GroupRecord, RegularExpressionValue, TargetAssignmentMetadataValue,
    TopicPartitions,
};
use crate::request::Environment;

/// Shortest time between two looks at all topics for a group's expressions.
const REFRESH_INTERVAL_MS: i64 = 10_000;

impl ConsumerGroup {
    /// Resolves the expressions again if topics may have come or gone since, not more often than
    /// every ten seconds. Tells whether any matches other topics now.
    pub(super) fn refresh_expressions(&mut self, env: &Environment<'_>, out: &mut Outcome) -> bool {
        let age = env.now_ms - self.soft.refreshed_ms;
        let due = self.soft.topics_seen < self.soft.topics_changed
            || age >= env.settings.regex_refresh_interval_ms;
        if self.state.regexes.is_empty() || !due || (0..REFRESH_INTERVAL_MS).contains(&age) {
            return false;
        }
        self.expressions_resolved(env);
        let expressions: Vec<_> = self.state.regexes.keys().cloned().collect();
        let mut changed = false;
        for expression in expressions {
            changed |= self.resolve_expression(env, &expression, out);
        }
        changed
    }

    /// All expressions are resolved against the topics of now.
    pub(super) fn expressions_resolved(&mut self, env: &Environment<'_>) {
        self.soft.refreshed_ms = env.now_ms;
        self.soft.topics_seen = env.image.last_offset();
    }

    /// Resolves one expression, and writes what it matches if that changed.
    pub(super) fn resolve_expression(
        &mut self,
        env: &Environment<'_>,
        expression: &Arc<str>,
        out: &mut Outcome,
    ) -> bool {
        // One that another version wrote and this one cannot compile matches nothing.
        let topics = regular::compile(expression)
            .map(|regex| regular::resolve(&regex, env.image))
            .unwrap_or_default();
        let known = self.state.regexes.get(expression);
        if known.is_some_and(|known| known.topics == topics) {
            return false;
        }
        let record = GroupRecord::ConsumerGroupRegularExpression {
            group: Arc::clone(&self.group),
            expression: Arc::clone(expression),
            value: Some(RegularExpressionValue {
                topics,
                version: env.image.last_offset(),
                timestamp: env.now_ms,
            }),
        };
        self.write(record, out);
        true
    }

    /// Removes what was resolved for expressions that nobody subscribes by any more.
    pub(super) fn drop_unused_expressions(&mut self, out: &mut Outcome) {
        let used = &self.state.expressions;
        let unused = self
            .state
            .regexes
            .keys()
            .filter(|it| !used.contains_key(*it));
        let unused: Vec<Arc<str>> = unused.cloned().collect();
        for expression in unused {
            let record = GroupRecord::ConsumerGroupRegularExpression {
                group: Arc::clone(&self.group),
                expression,
                value: None,
            };
            self.write(record, out);
        }
    }

    /// Begins a new group epoch if `bump`, or if the metadata of the subscribed topics changed.
    pub(super) fn advance_epoch(&mut self, env: &Environment<'_>, bump: bool, out: &mut Outcome) {
        if !bump && !self.soft.metadata_stale {
            return;
        }
        self.soft.metadata_stale = false;
        let names = self.subscribed_names();
        let hash = metadata_hash(env.image, names.iter().map(|name| &***name));
        drop(names);
        if !bump && hash == self.state.metadata_hash {
            return;
        }
        let record = GroupRecord::ConsumerGroupMetadata {
            group: Arc::clone(&self.group),
            value: Some(ConsumerGroupMetadataValue {
                epoch: self.state.epoch.saturating_add(1),
                metadata_hash: hash,
            }),
        };
        self.write(record, out);
        tracing::info!(group = %self.group, epoch = self.state.epoch, "group epoch begins");
    }

    /// Computes the target of the group epoch if that has not been done, and the last time is an
    /// assignment interval ago.
    pub(super) fn advance_target(&mut self, env: &Environment<'_>, out: &mut Outcome) {
        let interval = i64::from(env.settings.group(&self.group).assignment_interval_ms);
        let last = self.state.target_timestamp;
        // A time before the last assignment is from a clock that was put back: nothing to wait for.
        let due = last == 0
            || interval == 0
            || env.now_ms < last
            || env.now_ms >= last.saturating_add(interval);
        if self.state.target_epoch >= self.state.epoch || !due {
            return;
        }
        let assignor = self.assignor(env);
        for (member, partitions) in self.compute_targets(env, assignor) {
            let record = GroupRecord::ConsumerGroupTargetAssignmentMember {
                group: Arc::clone(&self.group),
                member,
                value: Some(partitions),
            };
            self.write(record, out);
        }
        let record = GroupRecord::ConsumerGroupTargetAssignmentMetadata {
            group: Arc::clone(&self.group),
            value: Some(TargetAssignmentMetadataValue {
                assignment_epoch: self.state.epoch,
                assignment_timestamp: env.now_ms,
            }),
        };
        self.write(record, out);
        tracing::info!(
            group = %self.group,
            epoch = self.state.epoch,
            assignor = assignor.name(),
            members = self.state.members.len(),
            "assignment computed"
        );
    }

    /// The assignor that most members ask for; among equals, and when nobody asks, the first that
    /// the broker offers.
    pub(super) fn assignor(&self, env: &Environment<'_>) -> Assignor {
        let offered = &env.settings.consumer_assignors;
        let mut votes: HashMap<&str, usize> = HashMap::new();
        for member in self.state.members.values() {
            if let Some(name) = &member.metadata.server_assignor {
                *votes.entry(name).or_default() += 1;
            }
        }
        let known = offered.iter().filter_map(|name| Assignor::named(name));
        known
            .enumerate()
            .max_by_key(|(rank, assignor)| {
                let votes = votes.get(assignor.name()).copied();
                (votes.unwrap_or_default(), Reverse(*rank))
            })
            .map_or(Assignor::Uniform, |(_, assignor)| assignor)
    }

    /// The targets that differ from those that are recorded.
    fn compute_targets(
        &self,
        env: &Environment<'_>,
        assignor: Assignor,
    ) -> Vec<(Arc<str>, TopicPartitions)> {
        let nothing = TopicPartitions::new();
        let spec = self.spec(env, &nothing);
        let targets = assignor.assign(&spec);
        let members = self.state.members.keys().cloned();
        members
            .zip(targets)
            .filter(|(member, target)| self.state.targets.get(member) != Some(target))
            .collect()
    }

    fn spec<'a>(&'a self, env: &Environment<'a>, nothing: &'a TopicPartitions) -> GroupSpec<'a> {
        let image = env.image;
        let names = self.subscribed_names();
        let existing = names.iter().filter_map(|name| image.topic(name));
        let topics: BTreeMap<TopicId, _> = existing.map(|topic| (topic.id, topic)).collect();
        let indexes: HashMap<&str, usize> = topics.values().map(|it| &*it.name).zip(0..).collect();
        let topics = topics.into_values().map(|topic| TopicSpec {
            id: topic.id,
            racks: topic
                .partitions
                .iter()
                .map(|it| racks(image, &it.replicas).collect())
                .collect(),
        });
        let mut subscriptions = HashMap::new();
        let members = self.state.members.iter().map(|(id, member)| {
            let metadata = &member.metadata;
            let key = (&metadata.subscribed_topic_names, expression(metadata));
            let topics = subscriptions
                .entry(key)
                .or_insert_with(|| self.subscription(member, &indexes));
            MemberSpec {
                id,
                instance: metadata.instance_id.as_deref(),
                rack: metadata.rack_id.as_deref(),
                topics: Arc::clone(topics),
                assigned: self.state.targets.get(id).unwrap_or(nothing),
            }
        });
        GroupSpec {
            members: members.collect(),
            topics: topics.collect(),
        }
    }

    fn subscription(&self, member: &Member, indexes: &HashMap<&str, usize>) -> Arc<[usize]> {
        let resolved = expression(&member.metadata).and_then(|it| self.state.regexes.get(it));
        let matched = resolved.into_iter().flat_map(|resolved| &resolved.topics);
        let names = member.metadata.subscribed_topic_names.iter().chain(matched);
        let topics: BTreeSet<usize> = names.filter_map(|it| indexes.get(&**it).copied()).collect();
        topics.into_iter().collect()
    }

    /// The names of all topics that members subscribe to, ascending.
    fn subscribed_names(&self) -> BTreeSet<&Arc<str>> {
        let state::State {
            names,
            regexes,
            expressions,
            ..
        } = &self.state;
        let used = regexes
            .iter()
            .filter(|(it, _)| expressions.contains_key(*it));
        let matched = used.flat_map(|(_, resolved)| &resolved.topics);
        names.keys().chain(matched).collect()
    }
}
