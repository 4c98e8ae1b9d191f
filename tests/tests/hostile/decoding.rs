//! Group B: headers and bodies that lie about what follows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::{ApiVersionsRequest, CreateTopicsRequest, FetchRequest};

use crate::calls::{Topic, creatable, fetch_partition, fetch_request, text};
use crate::rig::{CANARY, Raw, Target, after, ask, framed, head};
use crate::{Case, Expect, Found, case};

const METADATA: i16 = 3;
const CREATE_TOPICS: i16 = 19;
const API_VERSIONS: i16 = 18;
const OFFSET_COMMIT: i16 = 8;

/// A request head and these bytes behind it: the connection is closed, at once.
fn closed(number: u16, what: &'static str, head: Vec<u8>, body: &[u8]) -> Case {
    let bytes = framed(&[&head[..], body].concat());
    case(number, what, Expect::Closed, move || after(bytes.clone())).within(Duration::from_secs(1))
}

/// Likewise, but answered.
fn served(number: u16, what: &'static str, head: Vec<u8>, body: &[u8]) -> Case {
    let bytes = framed(&[&head[..], body].concat());
    case(number, what, Expect::Served, move || after(bytes.clone()))
}

fn client_id(number: u16, what: &'static str, len: i16, id: &[u8], expect: Expect) -> Case {
    let mut request = head(API_VERSIONS, 0, false);
    request.truncate(8);
    request.extend_from_slice(&len.to_be_bytes());
    request.extend_from_slice(id);
    case(number, what, expect, move || after(framed(&request)))
}

fn heads() -> Vec<Case> {
    let long = [CANARY.as_bytes(), &[b'\n'; 32_000]].concat();
    let len = i16::try_from(long.len()).expect("fits");
    let illegal = || async {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text("-\n\x1b[31m"))
            .with_client_software_version(text("1"));
        Ok(ask(3, &request).await?.map(|answer| answer.error_code))
    };
    let too_new = || async {
        let mut raw = Raw::connect().await?;
        raw.write(&framed(&head(API_VERSIONS, 99, true))).await?;
        let frame = raw.frame().await?.context("closed")?;
        ensure!(frame[4..6] == [0, 35] && frame.len() >= 16, "{frame:?}");
        Ok(Found::Served)
    };
    vec![
        closed(17, "API 9999", head(9999, 0, false), &[]),
        closed(17, "API -1", head(-1, 0, false), &[]),
        closed(18, "Metadata 99", head(METADATA, 99, true), &[0; 20]),
        closed(18, "Metadata -1", head(METADATA, -1, true), &[0; 20]),
        case(18, "ApiVersions 99", Expect::Served, too_new),
        Case::codes(
            19,
            "an illegal name of software",
            &[ErrorCode::INVALID_REQUEST],
            illegal,
        ),
        client_id(20, "a client id of length -2", -2, &[], Expect::Closed),
        client_id(21, "a client id of 32 KiB", len, &long, Expect::Served),
        client_id(
            21,
            "a client id that is no text",
            4,
            &[0xff, 0xfe, 0, 0xc0],
            Expect::Served,
        ),
        closed(
            33,
            "CreateTopics 5 with the old header",
            head(CREATE_TOPICS, 5, false),
            &[2, 0xff, 0xff, 0xff],
        ),
    ]
}

fn lengths() -> Vec<Case> {
    let old = || head(METADATA, 0, false);
    let flexible = || head(METADATA, 9, true);
    let string = |len: i16| [&[0, 0, 0, 1][..], &len.to_be_bytes(), b"x"].concat();
    let mut topic_then_null = vec![0, 0, 0, 1];
    topic_then_null.extend_from_slice(&[0xff, 0xff, 0, 0, 0, 1, 0, 1]);
    vec![
        closed(
            22,
            "54 million topics in five bytes",
            old(),
            &[0x03, 0x3c, 0x0c, 0x00, 0xb6],
        ),
        closed(
            23,
            "an array of 0x7ffffffe",
            old(),
            &[0x7f, 0xff, 0xff, 0xfe],
        ),
        closed(
            23,
            "an array of 0x7ffffffe in CreateTopics",
            head(CREATE_TOPICS, 2, false),
            &[0x7f, 0xff, 0xff, 0xfe],
        ),
        closed(
            24,
            "a compact array of 0xffffffff",
            flexible(),
            &[0xff, 0xff, 0xff, 0xff, 0x0f],
        ),
        closed(25, "a string of -5", old(), &string(-5)),
        closed(25, "an array of -2", old(), &[0xff, 0xff, 0xff, 0xfe]),
        closed(
            26,
            "a varint of 6 bytes",
            flexible(),
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        ),
        closed(26, "a varint that never ends", flexible(), &[0xff; 64]),
        closed(29, "a string past the end", old(), &string(100)),
        closed(
            30,
            "null for a name",
            head(CREATE_TOPICS, 2, false),
            &topic_then_null,
        ),
        closed(
            30,
            "null for a group id",
            head(OFFSET_COMMIT, 2, false),
            &[0xff, 0xff, 0, 0],
        ),
    ]
}

/// A null list of topics, not created, no operations; then these tags.
fn tagged(tags: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0][..], tags].concat()
}

fn tags() -> Vec<Case> {
    let at = || head(METADATA, 9, true);
    let in_head = |tags: &[u8]| [&head(METADATA, 9, false)[..], tags].concat();
    let unknown = [&[1, 0x7f, 0x80, 0x80, 0x40][..], &vec![7; 1 << 20]].concat();
    vec![
        closed(
            27,
            "2 billion tags",
            at(),
            &tagged(&[0xff, 0xff, 0xff, 0xff, 0x07]),
        ),
        closed(
            27,
            "2 billion tags in the header",
            in_head(&[0xff, 0xff, 0xff, 0xff, 0x07]),
            &[],
        ),
        closed(27, "a tag past the end", at(), &tagged(&[1, 5, 0x7f, 0])),
        closed(27, "a tag twice", at(), &tagged(&[2, 5, 1, 0, 5, 1, 0])),
        closed(
            27,
            "tags out of order",
            at(),
            &tagged(&[2, 6, 1, 0, 5, 1, 0]),
        ),
        closed(
            27,
            "a tag twice in the header",
            in_head(&[2, 5, 1, 0, 5, 1, 0]),
            &tagged(&[0]),
        ),
        served(28, "an unknown tag of 1 MiB", at(), &tagged(&unknown)),
    ]
}

/// Metadata 9 for half a million topics whose name is empty: two bytes each.
fn costly() -> Vec<u8> {
    const COUNT: usize = 500_000;
    // COUNT + 1 as a varint.
    let mut body = vec![0xa1, 0xc2, 0x1e];
    body.extend(std::iter::repeat_n([1, 0], COUNT).flatten());
    body.extend_from_slice(&[0; 4]);
    body
}

pub(crate) async fn cases(_target: &'static Target) -> Result<Vec<Case>> {
    let zero_id = || async {
        let nobody = Topic {
            name: String::new(),
            id: uuid::Uuid::nil(),
        };
        let request = fetch_request(&nobody, vec![fetch_partition(0, 0)]);
        let answer = ask::<FetchRequest>(13, &request).await?;
        Ok(answer.map(|answer| {
            let of_topic = answer.responses.first();
            of_topic.map_or(answer.error_code, |topic| topic.partitions[0].error_code)
        }))
    };
    let names = |count: u32| {
        let mut body = (count).to_be_bytes().to_vec();
        for number in 0..count {
            body.extend_from_slice(&[0, 7]);
            body.extend_from_slice(format!("{number:07}").as_bytes());
        }
        body.push(0);
        body
    };
    let million = framed(&[head(METADATA, 4, false), names(1_000_000)].concat());
    let large = || async move {
        // A body that is refused, as large as a request before authentication would be.
        let many = vec![creatable(CANARY, -5, &[("x", "y")]); 2000];
        let request = CreateTopicsRequest::default().with_topics(many);
        let answer = ask(5, &request).await?.context("closed")?;
        Ok(Some(answer.topics[0].error_code))
    };
    let mut cases = heads();
    cases.extend(lengths());
    cases.extend(tags());
    cases.extend([
        closed(
            31,
            "1 MiB that would be 100 MiB",
            head(METADATA, 9, true),
            &costly(),
        ),
        Case::codes(32, "topic id zero", &[ErrorCode::UNKNOWN_TOPIC_ID], zero_id),
        served(
            34,
            "1,000 bytes behind the body",
            head(METADATA, 1, false),
            &[&[0xff; 4][..], &[7; 1000]].concat(),
        ),
        case(
            35,
            "Metadata for a million names",
            Expect::Served,
            move || {
                let million = million.clone();
                async move {
                    // Answered or refused: what counts is that nobody notices.
                    after(million).await?;
                    Ok(Found::Served)
                }
            },
        )
        .within(Duration::from_secs(6))
        // A name of 9 bytes takes 72 decoded (16 for each byte are granted) and 104 in the answer.
        .peaks(112 << 20),
        Case::codes(
            30,
            "one topic 2,000 times",
            &[ErrorCode::INVALID_REQUEST],
            large,
        ),
    ]);
    Ok(cases)
}
