//! Sending records in batches.
//!
//! ```text
//! send() --> sender task: partitioner, one queue per partition --> link task per broker --> broker
//!                 ^------------------- answers --------------------------/
//! ```
//!
//! The sender task owns all queues and decides what goes when; a link owns the connection to one
//! broker and encodes, compresses and writes. An idempotent producer (the default) has neither
//! duplicates nor gaps nor reordering within a partition as long as no record is reported lost.
//! Without idempotence a retry may duplicate, and may overtake when more than one request is in
//! flight, as with every Kafka client.
//!
//! Deliberately absent: transactions.

mod answers;
mod identity;
mod link;
mod partitioner;
mod queue;
mod sender;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use klamm_protocol::ErrorCode;
use klamm_records::Codec;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::client::Client;
use crate::error::{Error, ServerError};
use crate::record::NewMessage;

pub use partitioner::{murmur2, partition_for_key};

use queue::Pending;
use sender::{Command, Sender};

/// Commands queued before `send` waits; bytes are bounded by `buffer_bytes`.
const COMMAND_QUEUE: usize = 4096;
/// Bytes reckoned for a record besides its key, value and headers.
const RECORD_OVERHEAD: usize = 24;

/// Whose word makes a record acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Nobody's: a record counts as sent when it is written to the connection.
    None,
    /// The leader's alone.
    Leader,
    /// That of all replicas in sync.
    All,
}

impl Acks {
    pub(crate) fn wire(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

/// How a [`Producer`] batches, compresses and retries.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// Whose word makes a record acknowledged.
    pub acks: Acks,
    /// Whether brokers recognise repeated batches (KIP-98). Needs [`Acks::All`].
    pub idempotent: bool,
    /// Compression of batches.
    pub codec: Codec,
    /// How long a batch that is not full waits for more records.
    pub linger: Duration,
    /// Bytes, before compression, at which a batch is full.
    pub batch_bytes: usize,
    /// Bytes, before compression, that one request may carry, a single batch excepted.
    pub request_bytes: usize,
    /// Bytes of unacknowledged records before [`Producer::send`] waits.
    pub buffer_bytes: usize,
    /// Requests in flight per broker; 1 to 5, because brokers remember five batches.
    pub max_in_flight: usize,
    /// How long the leader may wait for the other replicas.
    pub ack_timeout: Duration,
    /// How long a record may take from `send` to acknowledgement, retries included.
    pub delivery_timeout: Duration,
    /// Pause of a partition whose batch failed.
    pub retry_backoff: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        ProducerOptions {
            acks: Acks::All,
            idempotent: true,
            codec: Codec::None,
            linger: Duration::from_millis(5),
            batch_bytes: 64 * 1024,
            request_bytes: 1024 * 1024,
            buffer_bytes: 32 * 1024 * 1024,
            max_in_flight: 5,
            ack_timeout: Duration::from_secs(30),
            delivery_timeout: Duration::from_secs(120),
            retry_backoff: Duration::from_millis(100),
        }
    }
}

/// Where a record ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Partition.
    pub partition: i32,
    /// Offset; -1 when the broker did not say (no acks, or a repeated batch).
    pub offset: i64,
    /// Timestamp in ms: the broker's if the topic says so, else the record's.
    pub timestamp: i64,
}

/// The fate of one record: a future that need not be awaited.
#[derive(Debug)]
pub struct Delivery(oneshot::Receiver<Result<Acknowledged, Error>>);

impl Future for Delivery {
    type Output = Result<Acknowledged, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|fate| fate.unwrap_or(Err(Error::ProducerClosed)))
    }
}

/// Sends records. Clones share batches and connections. When the last is dropped, what was handed
/// over is still sent as long as the runtime lives; [`Producer::flush`] waits for it.
#[derive(Clone)]
pub struct Producer {
    client: Client,
    buffer_bytes: usize,
    room: Arc<Semaphore>,
    commands: mpsc::Sender<Command>,
}

impl Producer {
    /// A producer for topics of the client's cluster.
    ///
    /// # Panics
    /// When idempotence is asked for without [`Acks::All`] or with more than five requests in
    /// flight: brokers could not keep the promise.
    pub fn new(client: Client, options: ProducerOptions) -> Producer {
        assert!(options.max_in_flight > 0, "no request could ever be sent");
        if options.idempotent {
            assert!(
                options.acks == Acks::All,
                "idempotence needs acks from all replicas"
            );
            assert!(
                options.max_in_flight <= 5,
                "brokers remember five batches of a producer"
            );
        }
        let buffer_bytes = options
            .buffer_bytes
            .clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let room = Arc::new(Semaphore::new(buffer_bytes));
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        tokio::spawn(Sender::new(client.clone(), options, Arc::clone(&room)).run(receiver));
        Producer {
            client,
            buffer_bytes,
            room,
            commands,
        }
    }

    /// Hands a record over, waiting while the buffer is full. Its partition is the one given, or
    /// follows from the key, or is the producer's choice.
    ///
    /// Records of one caller to one partition keep their order.
    ///
    /// # Errors
    /// When the topic or the partition given does not exist, or no broker says so; what happens
    /// after the hand-over is told by [`Delivery`].
    pub async fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        mut message: NewMessage,
    ) -> Result<Delivery, Error> {
        let mut known = self.client.topic(topic).await?;
        if let Some(partition) = partition
            && known.partition(partition).is_none()
        {
            known = self.client.refresh_topic(topic).await?;
            if known.partition(partition).is_none() {
                let code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
                let message = format!("topic {topic} has {} partitions", known.partitions.len());
                let error = ServerError {
                    code,
                    message: Some(message),
                };
                return Err(Error::server(
                    format!("topic {topic} partition {partition}"),
                    error,
                ));
            }
        }
        message.timestamp.get_or_insert_with(now_ms);
        // A record larger than the whole buffer goes alone.
        let size = size_of_record(&message).min(self.buffer_bytes);
        let permits = u32::try_from(size).expect("the buffer's size fits");
        let room = self.room.acquire_many(permits).await;
        room.map_err(|_| Error::ProducerClosed)?.forget();
        let (reply, receiver) = oneshot::channel();
        let record = Command::Record {
            topic: known,
            partition,
            record: Pending {
                message,
                size,
                reply,
            },
        };
        self.commands
            .send(record)
            .await
            .map_err(|_| Error::ProducerClosed)?;
        Ok(Delivery(receiver))
    }

    /// Sends what has been handed over without lingering, and waits until the fate of all of it
    /// is known.
    ///
    /// # Errors
    /// [`Error::ProducerClosed`] when the runtime is shutting down.
    pub async fn flush(&self) -> Result<(), Error> {
        let (done, flushed) = oneshot::channel();
        self.commands
            .send(Command::Flush(done))
            .await
            .map_err(|_| Error::ProducerClosed)?;
        flushed.await.map_err(|_| Error::ProducerClosed)
    }
}

fn size_of_record(message: &NewMessage) -> usize {
    let len = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, |bytes| bytes.len());
    let headers = message
        .headers
        .iter()
        .map(|header| header.key.len() + len(&header.value) + 4);
    RECORD_OVERHEAD + len(&message.key) + len(&message.value) + headers.sum::<usize>()
}

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
