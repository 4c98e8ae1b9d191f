//! Brokers that come and go.

use super::Context;
use crate::command::{BrokerRegistration, Command};
use crate::problem::{ErrorCode, Problem};

/// Checks a broker that wants to join, or to come back.
///
/// # Errors
/// `DUPLICATE_BROKER_REGISTRATION` when a live broker with another data directory has the id;
/// `INVALID_REQUEST` for a negative id or an address without a host.
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
    match context.image.broker(registration.id) {
        Some(other) if !other.fenced && other.incarnation != registration.incarnation => {
            Err(Problem::new(
                ErrorCode::DuplicateBrokerRegistration,
                format!(
                    "Another broker is registered with id {}; give this one its own node.id.",
                    registration.id
                ),
            ))
        }
        _ => Ok(Command::RegisterBroker(registration)),
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
    let broker = context.image.broker(id).ok_or_else(|| {
        Problem::new(
            ErrorCode::BrokerIdNotRegistered,
            format!("Broker ID {id} is not currently registered."),
        )
    })?;
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
    use crate::testing::{Cluster, registration};

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
            register_broker(cluster.context(), other).is_ok(),
            "the old one is gone"
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
}
