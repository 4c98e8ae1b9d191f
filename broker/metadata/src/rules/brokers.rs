//! Brokers that come and go.

use super::Context;
use crate::command::{BrokerRegistration, Command};
use crate::image::{Partition, given_up, not_registered};
use crate::problem::{ErrorCode, Problem};

/// Checks a broker that wants to join, or to come back.
///
/// # Errors
/// `DUPLICATE_BROKER_REGISTRATION` when a broker with another data directory has the id, or had it before it was
/// unregistered; `INVALID_REQUEST` for a negative id or an address without a host.
pub fn register_broker(
    context: Context<'_>,
    registration: BrokerRegistration,
) -> Result<Command, Problem> {
    if registration.id < 0 {
        return Err(Problem::invalid_request("Invalid negative broker ID."));
    }
    if let Some((name, _)) = registration
        .endpoints
        .iter()
        .find(|(_, endpoint)| endpoint.host.is_empty())
    {
        return Err(Problem::invalid_request(format!(
            "The address of listener {name} has no host."
        )));
    }
    if registration.replica != context.image.replica_number(registration.id) {
        return Err(given_up(registration.id));
    }
    match context.image.broker(registration.id) {
        Some(other) if other.incarnation != registration.incarnation => Err(Problem::new(
            ErrorCode::DuplicateBrokerRegistration,
            format!(
                "Another broker is registered with id {}; give this one its own node.id.",
                registration.id
            ),
        )),
        _ => Ok(Command::RegisterBroker(registration)),
    }
}

/// Checks that a broker can be forgotten (UnregisterBroker). What it still has must be safe without it: a live one
/// has to give its replicas to others first, and one that is gone must leave a majority of each partition.
///
/// # Errors
/// `BROKER_ID_NOT_REGISTERED`; `INVALID_REQUEST` with what to do first.
pub fn unregister_broker(context: Context<'_>, id: i32) -> Result<Command, Problem> {
    let image = context.image;
    let broker = image.broker(id).ok_or_else(|| not_registered(id))?;
    if image.brokers().all(|other| other.id == id) {
        let text = format!("Broker {id} is the only one.");
        return Err(Problem::invalid_request(text));
    }
    let here = image.load(id).replicas;
    if here > 0 && !broker.fenced {
        return Err(Problem::invalid_request(format!(
            "Broker {id} is live and has replicas of {here} partitions: let it give them to others (klamm node drain {id}), or, if it is to be replaced, stop it first."
        )));
    }
    let is_lost = |partition: &&Partition| {
        let live = partition
            .replicas
            .iter()
            .filter(|other| image.is_live(**other));
        partition.replicas.contains(&id) && live.count() * 2 <= partition.replicas.len()
    };
    let lost = image.topics().find_map(|topic| {
        let partition = topic.partitions.iter().find(is_lost)?;
        Some(format!("{}-{}", topic.name, partition.index))
    });
    match lost {
        Some(partition) => Err(Problem::invalid_request(format!(
            "Without broker {id} there is no majority of the replicas of {partition}: bring other replicas of it back first, or delete it."
        ))),
        None => Ok(Command::UnregisterBroker { id }),
    }
}

/// The command that takes a broker out of, or puts it back into, the set of live brokers; `None`
/// when it is so already.
///
/// # Errors
/// `BROKER_ID_NOT_REGISTERED`.
pub fn fence_broker(
    context: Context<'_>,
    id: i32,
    fenced: bool,
) -> Result<Option<Command>, Problem> {
    let broker = (context.image.broker(id)).ok_or_else(|| not_registered(id))?;
    Ok((broker.fenced != fenced).then_some(Command::FenceBroker {
        id,
        epoch: broker.epoch,
        fenced,
    }))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::Outcome;
    use crate::testing::{Cluster, map, registration, topic_id};

    #[test]
    fn an_id_belongs_to_one_live_data_directory() {
        let mut cluster = Cluster::single();
        assert!(
            register_broker(cluster.context(), registration(1, None)).is_ok(),
            "a restart"
        );
        let other = BrokerRegistration {
            incarnation: Uuid::from_u128(99),
            ..registration(1, None)
        };
        let problem = register_broker(cluster.context(), other.clone()).expect_err("alive");
        assert_eq!(problem.code, ErrorCode::DuplicateBrokerRegistration);
        let fence = fence_broker(cluster.context(), 1, true)
            .expect("registered")
            .expect("a change");
        cluster.apply(&fence);
        assert!(
            register_broker(cluster.context(), other).is_err(),
            "its promises are those of a disk that may come back"
        );
        assert_eq!(fence_broker(cluster.context(), 1, true), Ok(None));
        assert!(fence_broker(cluster.context(), 2, true).is_err());
    }

    #[test]
    fn addresses_need_a_host() {
        let mut bad = registration(2, None);
        bad.endpoints
            .values_mut()
            .for_each(|endpoint| endpoint.host.clear());
        assert!(register_broker(Cluster::single().context(), bad).is_err());
        assert!(register_broker(Cluster::single().context(), registration(-1, None)).is_err());
    }

    fn fence(cluster: &mut Cluster, id: i32) {
        let fence = fence_broker(cluster.context(), id, true);
        cluster.apply(&fence.expect("registered").expect("a change"));
    }

    #[test]
    fn a_broker_is_forgotten_when_nothing_is_lost_with_it() {
        let mut cluster = Cluster::new(&[None, None, None]);
        let replicas = |name: &str, number, replicas: &[i32]| Command::CreateTopic {
            name: name.into(),
            id: topic_id(number),
            partitions: vec![replicas.to_vec()],
            configs: map(&[]),
        };
        cluster.apply(&replicas("t", 1, &[1, 2, 3]));
        let refused = |cluster: &Cluster, id| {
            let refused = unregister_broker(cluster.context(), id).expect_err("refused");
            (refused.code, refused.message)
        };
        assert_eq!(refused(&cluster, 9).0, ErrorCode::BrokerIdNotRegistered);
        assert!(refused(&cluster, 3).1.contains("klamm node drain 3"));
        fence(&mut cluster, 3);
        assert!(unregister_broker(cluster.context(), 3).is_ok());
        cluster.apply(&replicas("u", 2, &[3]));
        assert!(refused(&cluster, 3).1.contains("u-0"));
        fence(&mut cluster, 2);
        assert!(refused(&cluster, 3).1.contains("t-0"));
        assert!(refused(&Cluster::single(), 1).1.contains("the only one"));
    }

    #[test]
    fn a_directory_that_was_given_up_never_comes_back() {
        let mut cluster = Cluster::new(&[None, None, None]);
        cluster.apply(&Command::CreateTopic {
            name: "t".into(),
            id: topic_id(1),
            partitions: vec![vec![3, 1, 2], vec![1, 2]],
            configs: map(&[]),
        });
        fence(&mut cluster, 3);
        let old = registration(3, None);
        let forget = unregister_broker(cluster.context(), 3).expect("allowed");
        assert_eq!(cluster.apply(&forget), Outcome::Done);
        assert_eq!(cluster.image.replica_number(3), 1);
        assert!(register_broker(cluster.context(), old.clone()).is_err());
        assert!(matches!(
            cluster.apply(&Command::RegisterBroker(old)),
            Outcome::Refused(_)
        ));
        let topic = cluster.image.topic("t").expect("there").clone();
        assert_eq!(topic.partitions[0].replicas, [3, 1, 2], "to be built anew");
        assert!(topic.partitions[0].founders().is_empty());
        assert_eq!(topic.partitions[1].founders(), [1, 2]);
        let numbers = [3, 1].map(|id| topic.partitions[0].number(id));
        assert_eq!((numbers, topic.partitions[1].number(3)), ([1, 0], 0));
        let stored = cluster.image.encode();
        cluster.image = crate::Image::decode(&stored).expect("read");

        let new = BrokerRegistration {
            incarnation: Uuid::from_u128(77),
            replica: 1,
            ..registration(3, None)
        };
        let register = register_broker(cluster.context(), new).expect("allowed");
        assert_eq!(cluster.apply(&register), Outcome::Done);
        assert_eq!(cluster.image.replica_number(3), 1);
        fence(&mut cluster, 3);
        let forget = unregister_broker(cluster.context(), 3).expect("allowed");
        cluster.apply(&forget);
        assert_eq!(cluster.image.replica_number(3), 2);
    }
}
