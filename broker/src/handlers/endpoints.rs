//! Addresses of brokers on the listener the client came in on (behaviour 12).

use kafka_protocol::messages::BrokerId;
use kafka_protocol::messages::produce_response::NodeEndpoint as ProduceEndpoint;
use kafka_protocol::protocol::StrBytes;
use klamm_metadata::Broker;
use klamm_protocol::NodeEndpoint;

use crate::context::RequestContext;

/// A live broker as this client may reach it.
pub(super) struct Address {
    pub(super) id: i32,
    pub(super) host: StrBytes,
    pub(super) port: i32,
    pub(super) rack: Option<StrBytes>,
}

/// All live brokers that have the client's listener.
pub(super) fn live(ctx: &RequestContext) -> Vec<Address> {
    let image = ctx.shared.controller.image();
    image
        .live_brokers()
        .filter_map(|broker| address(ctx, broker))
        .collect()
}

/// A broker as this client may reach it; `None` without the client's listener.
pub(super) fn address(ctx: &RequestContext, broker: &Broker) -> Option<Address> {
    let endpoint = ctx.shared.endpoint(broker, &ctx.connection)?;
    Some(Address {
        id: broker.id,
        host: super::text(&endpoint.host),
        port: i32::from(endpoint.port),
        rack: broker.rack.as_deref().map(super::text),
    })
}

/// Id of the broker that a client should send changes to. Any accepts them; the one that leads the metadata
/// group has the shortest way.
pub(super) fn controller(ctx: &RequestContext) -> i32 {
    let leader = ctx.shared.controller.group().leadership().leader;
    leader
        .map(klamm_raft::NodeId::broker)
        .filter(|leader| live(ctx).iter().any(|address| address.id == *leader))
        .unwrap_or(ctx.shared.node_id)
}

/// For the leader hints of Produce (KIP-951).
pub(super) fn produce(ctx: &RequestContext) -> Vec<ProduceEndpoint> {
    live(ctx)
        .into_iter()
        .map(|address| {
            ProduceEndpoint::default()
                .with_node_id(BrokerId(address.id))
                .with_host(address.host)
                .with_port(address.port)
                .with_rack(address.rack)
        })
        .collect()
}

/// For the leader hints of Fetch (KIP-951).
pub(super) fn fetch(ctx: &RequestContext) -> Vec<NodeEndpoint> {
    live(ctx)
        .into_iter()
        .map(|address| NodeEndpoint {
            node_id: address.id,
            host: address.host,
            port: address.port,
            rack: address.rack,
        })
        .collect()
}
