//! A group of many members comes up at once: from the first JoinGroup sent to the last assignment
//! received, in a generation that has all of them.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use klamm_protocol::messages::LeaveGroupRequest;
use klamm_protocol::messages::leave_group_request::MemberIdentity;
use tokio::time::Instant;

use crate::measure::{Latencies, Measured};
use crate::member::{Group, Member, join_all};
use crate::peer::Home;
use crate::setup;

/// Arguments of `join`.
#[derive(Args, Clone, Debug)]
pub struct Join {
    /// Members of the group, each on a connection of its own
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    members: u16,
    /// Groups joined one after the other in one run; the median counts
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Groups joined before, not measured
    #[arg(long, default_value_t = 1)]
    warm_up: usize,
}

impl Join {
    pub(super) fn summary(&self) -> String {
        format!(
            "one group of {} members joins at once, {} times after {} not measured",
            self.members, self.repeats, self.warm_up
        )
    }

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        let peer = home.start().await?;
        let partitions = i32::from(self.members);
        setup::create_topic(&peer.address(), partitions).await?;
        let connections = setup::connect(&peer.address(), usize::from(self.members)).await?;
        let first = connections.first().context("no members")?;
        let mut before = peer.usage()?;
        let mut latencies = Latencies::default();
        for repeat in 0..self.warm_up + self.repeats {
            let group = Group {
                id: setup::group_id(repeat),
                topic: setup::TOPIC,
                partitions,
                session_timeout: Duration::from_secs(45),
            };
            setup::coordinator_serves(first, std::slice::from_ref(&group.id)).await?;
            if repeat == self.warm_up {
                before = peer.usage()?;
            }
            let members = connections
                .iter()
                .map(|connection| Member::new(connection.clone(), group.clone()));
            let members: Vec<_> = members.collect();
            let began = Instant::now();
            let members = join_all(members).await?;
            let last = members.iter().map(|member| member.assigned_at).max();
            if repeat >= self.warm_up {
                latencies.record(last.unwrap_or(began) - began);
            }
            leave(&group, &members).await?;
        }
        let after = peer.usage()?;
        let mut measured = vec![
            Measured::milliseconds("join_to_assigned_p50", latencies.percentile(0.5)),
            Measured::milliseconds("join_to_assigned_min", latencies.percentile(0.0)),
            Measured::milliseconds("join_to_assigned_max", latencies.percentile(1.0)),
        ];
        measured.extend(after.since(&before));
        peer.stop().await?;
        Ok(measured)
    }
}

/// All leave with one request, so that no session runs out in a later repeat.
async fn leave(group: &Group, members: &[Member]) -> Result<()> {
    let Some(first) = members.first() else {
        return Ok(());
    };
    let identities = members
        .iter()
        .map(|member| MemberIdentity::default().with_member_id(member.id.clone()));
    let request = LeaveGroupRequest::default()
        .with_group_id(group.id.clone())
        .with_members(identities.collect());
    first.connection().send(&request).await?;
    Ok(())
}
