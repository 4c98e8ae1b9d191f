#![expect(clippy::unwrap_used, reason = "tests")]

use tokio::io::duplex;

use super::*;

const NODE_1: NodeId = NodeId(1 << 32);
const NODE_2: NodeId = NodeId(2 << 32);

fn credentials(node: NodeId, cluster_id: &str, secret: Option<&str>) -> Credentials {
    Credentials {
        identity: PeerIdentity {
            node,
            session: node.0 + 5,
            cluster_id: cluster_id.to_owned(),
        },
        secret: secret.map(|secret| ClusterSecret::new(secret.as_bytes())),
    }
}

type Dialled = Result<PeerIdentity, HandshakeError>;
type Accepted = Result<(PeerIdentity, Lane), HandshakeError>;

async fn meet(
    dialler: &Credentials,
    acceptor: &Credentials,
    wanted: Option<NodeId>,
) -> (Dialled, Accepted) {
    let (mut there, mut here) = duplex(4096);
    futures::join!(
        dial(&mut there, dialler, Lane::Data, wanted),
        accept(&mut here, acceptor, |_, _| None),
    )
}

#[tokio::test]
async fn both_learn_who_the_other_is() {
    for (secret, cluster) in [(Some("s"), "abc"), (None, "abc"), (Some("s"), "")] {
        let us = credentials(NODE_1, cluster, secret);
        let them = credentials(NODE_2, "abc", secret);
        let (dialled, accepted) = meet(&us, &them, Some(NODE_2)).await;
        assert_eq!(dialled.unwrap(), them.identity);
        assert_eq!(accepted.unwrap(), (us.identity.clone(), Lane::Data));
    }
}

#[tokio::test]
async fn another_secret_is_refused_on_both_sides() {
    for (ours, theirs) in [(Some("a"), Some("b")), (None, Some("b")), (Some("a"), None)] {
        let us = credentials(NODE_1, "abc", ours);
        let (dialled, accepted) = meet(&us, &credentials(NODE_2, "abc", theirs), None).await;
        assert!(
            matches!(dialled, Err(HandshakeError::WrongSecret)),
            "{dialled:?}"
        );
        assert!(
            matches!(accepted, Err(HandshakeError::WrongSecret)),
            "{accepted:?}"
        );
    }
}

#[tokio::test]
async fn strangers_to_the_cluster_are_told_why() {
    let us = credentials(NODE_1, "abc", Some("s"));
    let cases = [
        (
            credentials(NODE_2, "xyz", Some("s")),
            None,
            "belongs to cluster",
        ),
        (
            credentials(NODE_2, "abc", Some("s")),
            Some(NodeId(NODE_2.0 + 1)),
            "was expected",
        ),
    ];
    for (them, wanted, words) in cases {
        let (dialled, accepted) = meet(&us, &them, wanted).await;
        assert!(dialled.unwrap_err().to_string().contains(words));
        assert!(accepted.unwrap_err().to_string().contains(words));
    }
    let mut twin = us.clone();
    twin.identity.session += 1;
    let (dialled, _) = meet(&us, &twin, None).await;
    assert!(dialled.unwrap_err().to_string().contains("two processes"));
}

#[tokio::test]
async fn a_false_acceptor_is_not_believed() {
    // It knows all about the protocol, but not the secret, and says "welcome".
    let us = credentials(NODE_1, "abc", Some("s"));
    let (mut there, mut here) = duplex(4096);
    let imposter = async {
        let mut hello = [0; HELLO_LEN];
        here.read_exact(&mut hello).await.unwrap();
        let mut challenge = BytesMut::new();
        challenge.put_slice(MAGIC);
        challenge.put_u8(VERSION);
        challenge.put_slice(&[7; NONCE_LEN]);
        here.write_all(&challenge).await.unwrap();
        let (_, proof) = read_body(&mut here).await.unwrap();
        let mut verdict = BytesMut::new();
        verdict.put_u8(1);
        put_identity(&mut verdict, &credentials(NODE_2, "abc", None).identity);
        // The best it has: the proof it was just shown.
        send_body(&mut here, &verdict, &proof).await.unwrap();
    };
    let (dialled, ()) = futures::join!(dial(&mut there, &us, Lane::Control, None), imposter);
    assert!(
        matches!(dialled, Err(HandshakeError::WrongSecret)),
        "{dialled:?}"
    );
}

#[tokio::test]
async fn other_programs_are_recognised() {
    let us = credentials(NODE_1, "abc", Some("s"));
    let cases: [(&[u8], &str); 4] = [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
        (&[0, 0, 0, 20, 0, 18, 0, 3], "Kafka"),
        (&[0x16, 3, 1, 2, 0], "TLS"),
        (b"hello?", "does not speak"),
    ];
    for (bytes, name) in cases {
        let (mut there, mut here) = duplex(4096);
        there.write_all(bytes).await.unwrap();
        let error = accept(&mut here, &us, |_, _| None).await.unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_secret_is_not_shown() {
    let us = credentials(NODE_1, "abc", Some("hush"));
    assert!(!format!("{us:?}").contains("hush"));
}
