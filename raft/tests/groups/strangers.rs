//! Who is let in at the port for peers, and what a peer may do to a node.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use klamm_raft::{
    ClusterSecret, Groups, HandshakeError, NodeId, PeerService, Peers, PeersOptions, Proposal,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::fixture::*;
use crate::nodes::{Cluster, Echo, id, peers_options};

/// A node without groups; where it listens.
async fn host(options: PeersOptions) -> (Peers, String) {
    serving(options, Arc::new(Echo)).await
}

async fn serving(options: PeersOptions, service: Arc<dyn PeerService>) -> (Peers, String) {
    let runtime = tokio::runtime::Handle::current();
    let peers = Peers::new(options.clone(), runtime.clone());
    let groups = Groups::with_transport(
        crate::fixture::options(options.node),
        runtime,
        Arc::new(|group, cause| panic!("group {group} failed: {cause}")),
        Arc::new(peers.clone()),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    peers.serve(listener, groups, service);
    (peers, address)
}

type Change<'a> = &'a dyn Fn(&mut PeersOptions);

fn guest(options: PeersOptions) -> Peers {
    Peers::new(options, tokio::runtime::Handle::current())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_find_out_who_is_there_and_ask() {
    let (host, address) = host(peers_options(id(1))).await;
    let guest = guest(peers_options(id(2)));
    assert_eq!(guest.probe(&address).await.unwrap(), host.identity());
    let asked = guest.ask_at(&address, Bytes::from_static(b"hello")).await;
    assert_eq!(asked.unwrap().1, "2.1:hello");
    guest.set_peers(&BTreeMap::from([
        (id(1), address),
        (id(2), "ignored".to_owned()),
    ]));
    eventually("a connection", || {
        guest.status().iter().all(|peer| peer.alive)
    })
    .await;
    assert_eq!(guest.status().len(), 1);
    let answer = guest.ask(id(1), Bytes::from_static(b"again")).await;
    assert_eq!(answer.unwrap(), "2.1:again");
    let refused = guest.ask(id(1), Bytes::from_static(b"fail")).await;
    assert_eq!(refused.unwrap_err().to_string(), "no such thing");
    let unknown = guest.ask(id(9), Bytes::new()).await.unwrap_err();
    assert!(
        unknown.to_string().contains("9.1 is not known"),
        "{unknown}"
    );
    host.stop();
    eventually("that it is gone", || {
        !guest.status().iter().any(|peer| peer.alive)
    })
    .await;
    assert!(guest.status()[0].trouble.is_some());
    assert!(guest.ask(id(1), Bytes::new()).await.is_err());
    guest.stop();
}

/// Takes questions, and never answers.
struct Mute(Notify);

impl PeerService for Mute {
    fn call(&self, _: NodeId, _: Bytes) -> BoxFuture<'static, io::Result<Bytes>> {
        self.0.notify_one();
        Box::pin(std::future::pending())
    }
}

/// A node that is taken out of the roster, and may come back to it, must leave nobody waiting: a group that does sends
/// its follower nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_peer_that_is_let_go_is_told() {
    let mute = Arc::new(Mute(Notify::new()));
    let (host, address) = serving(peers_options(id(1)), mute.clone()).await;
    let guest = guest(peers_options(id(2)));
    guest.set_peers(&BTreeMap::from([(id(1), address)]));
    eventually("a connection", || {
        guest.status().iter().all(|peer| peer.alive)
    })
    .await;
    let asking = {
        let guest = guest.clone();
        tokio::spawn(async move { guest.ask(id(1), Bytes::new()).await })
    };
    mute.0.notified().await;
    assert!(!asking.is_finished());
    guest.set_peers(&BTreeMap::new());
    let answer = tokio::time::timeout(Duration::from_secs(10), asking).await;
    let error = answer.expect("it is told").unwrap().unwrap_err();
    assert!(error.to_string().contains("any more"), "{error}");
    host.stop();
    guest.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_do_not_belong_are_refused_in_plain_words() {
    let (host, address) = host(peers_options(id(1))).await;
    host.set_peers(&BTreeMap::from([(id(3), "127.0.0.1:1".to_owned())]));
    let with = |change: Change<'_>| {
        let mut options = peers_options(id(2));
        change(&mut options);
        guest(options)
    };
    let wrong_secret = with(&|options| options.secret = Some(ClusterSecret::new(b"other")));
    assert!(matches!(
        wrong_secret.probe(&address).await,
        Err(HandshakeError::WrongSecret)
    ));
    let no_secret = with(&|options| options.secret = None);
    assert!(matches!(
        no_secret.probe(&address).await,
        Err(HandshakeError::WrongSecret)
    ));
    let cases: [(Change<'_>, &str); 2] = [
        (
            &|options| options.cluster_id = "elsewhere".to_owned(),
            "belongs to cluster elsewhere",
        ),
        (&|options| options.node = id(1), "two processes"),
    ];
    for (change, words) in cases {
        let error = with(change).probe(&address).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Refused(_)), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    // One with a disk that was replaced may ask, so that it can be told, and nothing else.
    let old = with(&|options| options.node = NodeId::new(3, 0));
    old.probe(&address).await.unwrap();
    old.set_peers(&BTreeMap::from([(id(1), address.clone())]));
    eventually("it is refused", || {
        let status = old.status();
        let mut troubles = status.iter().filter_map(|peer| peer.trouble.as_ref());
        troubles.any(|trouble| trouble.contains("its disk was replaced"))
    })
    .await;
    old.stop();
    // Of a disk that was replaced not everybody has heard yet.
    let replaced = with(&|options| options.node = NodeId::new(3, 2));
    replaced.probe(&address).await.unwrap();
    // A node of no cluster yet may look around.
    let homeless = with(&|options| options.cluster_id = String::new());
    assert_eq!(
        homeless.probe(&address).await.unwrap().cluster_id,
        "test-cluster"
    );
    assert!(host.counters().refused >= 5);
    host.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_clients_are_shown_the_door() {
    let mut options = peers_options(id(1));
    options.handshake_deadline = Duration::from_millis(300);
    let (host, address) = host(options).await;
    let http = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let kafka = [0, 0, 0, 10, 0, 18, 0, 3, 0, 0, 0, 1, 0, 0];
    let greedy = [b"KLMP\x02\x01".as_slice(), &[7; 32], &[0xff; 200]].concat();
    let cases: [(&[u8], &[u8]); 4] = [
        (http, b"HTTP/1.1 400"),
        (&kafka, b""),
        (&[0xff; 4096], b""),
        (&greedy, b"KLMP"),
    ];
    for (sent, answered) in cases {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let begun = Instant::now();
        // A reset is an answer, too.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.starts_with(answered), "{answer:?}");
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
    // Who says nothing is not waited for.
    let mut silent = TcpStream::connect(&address).await.unwrap();
    assert_eq!(silent.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    // And all that was no harm to others.
    guest(peers_options(id(2))).probe(&address).await.unwrap();
    host.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_too_large_costs_its_connection_only() {
    let mut options = peers_options(id(1));
    options.max_frame_bytes = 1 << 20;
    let (host, address) = host(options).await;
    let guest = guest(peers_options(id(2)));
    guest.set_peers(&BTreeMap::from([(id(1), address)]));
    eventually("a connection", || {
        guest.status().iter().all(|peer| peer.alive)
    })
    .await;
    assert!(guest.ask(id(1), vec![7; 2 << 20].into()).await.is_err());
    eventually("the next connection", || {
        guest.status().iter().all(|peer| peer.trouble.is_none())
    })
    .await;
    let answer = guest.ask(id(1), Bytes::from_static(b"small")).await;
    assert_eq!(answer.unwrap(), "2.1:small");
    host.stop();
    guest.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_never_answers_is_given_up() {
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = deaf.local_addr().unwrap().to_string();
    let mut options = peers_options(id(2));
    options.handshake_deadline = Duration::from_millis(200);
    let error = guest(options).probe(&address).await.unwrap_err();
    assert!(matches!(error, HandshakeError::TimedOut), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_peer_holds_a_bounded_amount_and_nobody_up() {
    let cluster = Cluster::start(3, 1).await;
    cluster.append(1, None, 100).await;
    let (leader, term) = cluster.leader(1, None).await;
    let slow = (leader + 1) % 3;
    cluster.isolate(slow, true);
    let bound = peers_options(id(1)).max_in_flight_bytes;
    let mut answers = Vec::new();
    for n in 0..200 {
        let proposal = Proposal::Batch {
            batch: batch(1, 500_000),
            expected_offset: 1 + n,
        };
        answers.push(propose(&cluster.run(leader).group(1), term, proposal));
    }
    for pending in answers {
        answer(pending).await.unwrap();
        for peer in cluster.run(leader).peers.status() {
            assert!(peer.in_flight_bytes <= bound);
        }
    }
    cluster.isolate(slow, false);
    assert_eq!(cluster.agree(1).await, 201);
    cluster.stop_and_compare(1).await;
}
