//! AllocateProducerIds: blocks of ids for idempotent and transactional producers.

use super::Context;
use crate::command::Command;
use crate::problem::{ErrorCode, Problem};

/// Producer ids that a broker gets at once, as in Kafka.
pub const PRODUCER_ID_BLOCK: u32 = 1000;

/// The command that reserves the next block for a broker; the block is in its outcome.
///
/// # Errors
/// `BROKER_ID_NOT_REGISTERED`, or `STALE_BROKER_EPOCH` for an earlier registration.
pub fn allocate_producer_ids(
    context: Context<'_>,
    broker: i32,
    epoch: i64,
) -> Result<Command, Problem> {
    let registered = context.image.broker(broker).ok_or_else(|| {
        Problem::new(
            ErrorCode::BrokerIdNotRegistered,
            format!("Broker ID {broker} is not currently registered."),
        )
    })?;
    if registered.epoch != epoch {
        return Err(Problem::new(
            ErrorCode::StaleBrokerEpoch,
            format!(
                "Broker {broker} registered at epoch {}, not {epoch}.",
                registered.epoch
            ),
        ));
    }
    Ok(Command::AllocateProducerIds {
        broker,
        count: PRODUCER_ID_BLOCK,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::testing::Cluster;

    #[test]
    fn blocks_are_for_registered_brokers() {
        let mut cluster = Cluster::single();
        let epoch = cluster.image.broker(1).expect("registered").epoch;
        let command = allocate_producer_ids(cluster.context(), 1, epoch).expect("allowed");
        assert_eq!(
            cluster.apply(&command),
            Outcome::ProducerIds {
                first: 0,
                count: PRODUCER_ID_BLOCK
            }
        );
        let code = |broker, epoch| {
            allocate_producer_ids(cluster.context(), broker, epoch)
                .expect_err("refused")
                .code
        };
        assert_eq!(code(2, epoch), ErrorCode::BrokerIdNotRegistered);
        assert_eq!(code(1, epoch + 1), ErrorCode::StaleBrokerEpoch);
    }
}
