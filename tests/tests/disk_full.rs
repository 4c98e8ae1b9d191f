//! A full disk: producing is refused before the reserve is gone, reading goes on, writing resumes
//! by itself when space returns, and nothing acknowledged is lost (R11). Members of groups whose
//! heartbeats could not be answered meanwhile are members still.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use klamm_client::{Client, Connection, ConnectionOptions, NewMessage, Producer, ProducerOptions};
use klamm_protocol::messages::{
    ConsumerGroupHeartbeatRequest, FindCoordinatorRequest, GroupId, TopicName,
};
use klamm_protocol::{ErrorCode, StrBytes};
use klamm_tests::broker::Broker;
use klamm_tests::history::{History, value};
use klamm_tests::load::{self, TOPIC};
use klamm_tests::volume::Volume;

const VOLUME_MEBIBYTES: u64 = 768;
const BALLAST_BYTES: u64 = 320 << 20;
const RECORD_BYTES: usize = 500_000;
const SESSION: Duration = Duration::from_secs(4);
const SETTINGS: [&str; 12] = [
    "--set",
    "klamm.checkpoint.bytes=16777216",
    "--set",
    "klamm.disk.reserve.bytes=134217728",
    "--set",
    "group.consumer.min.session.timeout.ms=4000",
    "--set",
    "group.consumer.session.timeout.ms=4000",
    "--set",
    "group.consumer.min.heartbeat.interval.ms=500",
    "--set",
    "group.consumer.heartbeat.interval.ms=500",
];

/// The only member of a group of the consumer protocol (KIP-848), which writes what it decides.
struct Member {
    connection: Connection,
    id: StrBytes,
    epoch: i32,
}

impl Member {
    async fn join(address: &str) -> Result<Member> {
        let mut member = Member {
            connection: Connection::connect(address, &ConnectionOptions::default()).await?,
            id: StrBytes::from_static_str("one-that-stays"),
            epoch: 0,
        };
        for _ in 0..100 {
            match member.heartbeat().await? {
                (ErrorCode::NONE, epoch) => {
                    member.epoch = epoch;
                    return Ok(member);
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        bail!("no coordinator took the member in")
    }

    async fn heartbeat(&self) -> Result<(ErrorCode, i32)> {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(StrBytes::from_static_str("patient")))
            .with_member_id(self.id.clone())
            .with_member_epoch(self.epoch)
            .with_rebalance_timeout_ms(60_000)
            .with_subscribed_topic_names(Some(vec![TopicName(StrBytes::from_static_str(TOPIC))]))
            .with_topic_partitions(Some(Vec::new()));
        let find = FindCoordinatorRequest::default()
            .with_coordinator_keys(vec![StrBytes::from_static_str("patient")]);
        // The first one makes the offsets topic.
        self.connection.send_version(4, &find).await?;
        let answer = self.connection.send_version(0, &request).await?;
        Ok((ErrorCode(answer.error_code), answer.member_epoch))
    }

    /// Heartbeats for so long; the last answer.
    async fn stay(&self, period: Duration) -> Result<ErrorCode> {
        let until = Instant::now() + period;
        loop {
            let (code, _) = self.heartbeat().await?;
            if Instant::now() >= until {
                return Ok(code);
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

struct Writer {
    producer: Producer,
    history: History,
    next: u64,
}

impl Writer {
    async fn new(address: &str) -> Result<Writer> {
        let client = Client::connect(address, load::patient()).await?;
        let options = ProducerOptions {
            idempotent: true,
            delivery_timeout: Duration::from_secs(3),
            ..ProducerOptions::default()
        };
        Ok(Writer {
            producer: Producer::new(client, options),
            history: History::default(),
            next: 0,
        })
    }

    /// One record; whether it was acknowledged.
    async fn write(&mut self) -> Result<bool> {
        let number = self.next;
        self.next += 1;
        let message = NewMessage {
            value: Some(value(0, number, RECORD_BYTES).into()),
            ..NewMessage::default()
        };
        match self.producer.send(TOPIC, Some(0), message).await?.await {
            Ok(told) => {
                self.history
                    .acknowledged(told.partition, told.offset, 0, number)?;
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_until_there_is_space() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(volume) = Volume::or_skip(dir.path(), VOLUME_MEBIBYTES) else {
        return Ok(());
    };
    let ballast = volume.path().join("ballast");
    let file = std::fs::File::create(&ballast)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BALLAST_BYTES)?;
    let broker = Broker::start(&volume.path().join("data"), 0, &SETTINGS)?;
    load::create_topic(&broker.address).await?;

    let mut writer = Writer::new(&broker.address).await?;
    let member = Member::join(&broker.address).await?;
    let began = Instant::now();
    while writer.write().await? {
        let (code, _) = member.heartbeat().await?;
        let may_be = [ErrorCode::NONE, ErrorCode::COORDINATOR_NOT_AVAILABLE];
        ensure!(may_be.contains(&code), "{code}");
        ensure!(
            began.elapsed() < Duration::from_secs(120),
            "the disk never got full"
        );
    }
    let before = writer.history.len();
    ensure!(
        before > 50,
        "only {before} records before the disk was full"
    );
    let (_, metrics) = broker.get("/metrics")?;
    ensure!(
        metrics.contains("klamm_writable 0"),
        "the metric does not say that the disk is full"
    );
    ensure!(
        metrics.contains("KAFKA_STORAGE_ERROR"),
        "clients are not told KAFKA_STORAGE_ERROR"
    );
    writer
        .history
        .check(0, &load::read_partition(&broker.address, 0).await?)?;

    let code = member.stay(SESSION * 2).await?;
    ensure!(code == ErrorCode::COORDINATOR_NOT_AVAILABLE, "full: {code}");
    drop(file);
    std::fs::remove_file(&ballast)?;
    // A producer that gave up a batch starts anew, as applications do.
    let mut resumed = Writer {
        history: writer.history,
        next: writer.next,
        ..Writer::new(&broker.address).await?
    };
    let began = Instant::now();
    while !resumed.write().await? {
        if began.elapsed() > Duration::from_secs(30) {
            bail!("writing did not resume");
        }
    }
    resumed
        .history
        .check(0, &load::read_partition(&broker.address, 0).await?)?;
    let code = member.stay(SESSION / 2).await?;
    ensure!(code == ErrorCode::NONE, "the member lost its place: {code}");
    let (_, clean) = broker.stop()?;
    ensure!(clean, "the stop was not clean");
    Ok(())
}
