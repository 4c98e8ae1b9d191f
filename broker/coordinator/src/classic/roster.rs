//! The members, with counts that the rules ask for all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::member::{Member, Protocol};

/// Members by id and by instance id.
///
/// Invariant: the counts are those of the members. Members are therefore changed by
/// [`Roster::change`], [`Roster::change_all`] and [`Roster::set_protocols`] only.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: BTreeMap<Arc<str>, Member>,
    instances: BTreeMap<Arc<str>, Arc<str>>,
    /// How many members support a protocol.
    support: BTreeMap<Arc<str>, usize>,
    /// How many members wait in a join.
    joining: usize,
    /// How many members owe a sync.
    owing_sync: usize,
}

impl Roster {
    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn first(&self) -> Option<&Member> {
        self.members.values().next()
    }

    pub fn get(&self, id: &str) -> Option<&Member> {
        self.members.get(id)
    }

    pub fn by_instance(&self, instance_id: &str) -> Option<&Arc<str>> {
        self.instances.get(instance_id)
    }

    pub fn joining(&self) -> usize {
        self.joining
    }

    pub fn owing_sync(&self) -> usize {
        self.owing_sync
    }

    /// Adds a member whose id and instance id are not in use.
    pub fn insert(&mut self, mut member: Member) {
        if let Some(instance_id) = member.instance_id() {
            let old = self
                .instances
                .insert(Arc::clone(instance_id), Arc::clone(member.id()));
            assert!(old.is_none(), "two members of one instance id");
        }
        for protocol in &mut member.protocols {
            self.support(protocol);
        }
        self.count(&member);
        let old = self.members.insert(Arc::clone(member.id()), member);
        assert!(old.is_none(), "two members of one id");
    }

    pub fn remove(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        if let Some(instance_id) = member.instance_id() {
            self.instances.remove(instance_id);
        }
        self.uncount(&member);
        for protocol in &member.protocols {
            self.withdraw(&protocol.name);
        }
        Some(member)
    }

    /// Changes one member: anything but its protocols.
    pub fn change<R>(&mut self, id: &str, change: impl FnOnce(&mut Member) -> R) -> Option<R> {
        let member = self.members.get_mut(id)?;
        let before = (member.join.is_some(), member.owes_sync);
        let result = change(member);
        let after = (member.join.is_some(), member.owes_sync);
        self.joining = self.joining - usize::from(before.0) + usize::from(after.0);
        self.owing_sync = self.owing_sync - usize::from(before.1) + usize::from(after.1);
        Some(result)
    }

    /// Changes every member: anything but its protocols.
    pub fn change_all(&mut self, mut change: impl FnMut(&mut Member)) {
        (self.joining, self.owing_sync) = (0, 0);
        for member in self.members.values_mut() {
            change(member);
            self.joining += usize::from(member.join.is_some());
            self.owing_sync += usize::from(member.owes_sync);
        }
    }

    /// Replaces the protocols of a member.
    pub fn set_protocols(&mut self, id: &str, mut protocols: Vec<Protocol>) {
        if !self.members.contains_key(id) {
            return;
        }
        for protocol in &mut protocols {
            self.support(protocol);
        }
        if let Some(member) = self.members.get_mut(id) {
            std::mem::swap(&mut member.protocols, &mut protocols);
        }
        for old in &protocols {
            self.withdraw(&old.name);
        }
    }

    /// Whether all members support one of these protocols.
    pub fn supports_any<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> bool {
        names.any(|name| self.support.get(name).copied().unwrap_or(0) == self.members.len())
    }

    /// The longest rebalance timeout, in ms.
    pub fn rebalance_timeout_ms(&self) -> i64 {
        self.members
            .values()
            .map(|member| i64::from(member.rebalance_timeout_ms))
            .fold(0, i64::max)
    }

    /// The protocol that most members prefer among those that all support. Of equals, the one that
    /// `tie_breaker` prefers.
    pub fn vote(&self, tie_breaker: &str) -> Option<Arc<str>> {
        let candidates: BTreeSet<&Arc<str>> = self
            .support
            .iter()
            .filter(|(_, count)| **count == self.members.len())
            .map(|(name, _)| name)
            .collect();
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            let preferred = member
                .protocols
                .iter()
                .find(|protocol| candidates.contains(&protocol.name));
            if let Some(protocol) = preferred {
                *votes.entry(&protocol.name).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        self.members
            .get(tie_breaker)?
            .protocols
            .iter()
            .map(|protocol| &protocol.name)
            .find(|name| votes.get(name).copied() == Some(most))
            .cloned()
    }

    fn count(&mut self, member: &Member) {
        self.joining += usize::from(member.join.is_some());
        self.owing_sync += usize::from(member.owes_sync);
    }

    fn uncount(&mut self, member: &Member) {
        self.joining -= usize::from(member.join.is_some());
        self.owing_sync -= usize::from(member.owes_sync);
    }

    /// Counts a supporter; its copy of the name becomes the one that all share.
    fn support(&mut self, protocol: &mut Protocol) {
        match self.support.get_key_value(&protocol.name) {
            Some((shared, _)) => protocol.name = Arc::clone(shared),
            None => {
                self.support.insert(Arc::clone(&protocol.name), 0);
            }
        }
        if let Some(count) = self.support.get_mut(&protocol.name) {
            *count += 1;
        }
    }

    fn withdraw(&mut self, name: &str) {
        if let Some(count) = self.support.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.support.remove(name);
            }
        }
    }
}
