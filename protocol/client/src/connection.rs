//! One TCP connection to one broker.
//!
//! ```text
//! start() --queue--> writer task --socket--> broker --socket--> reader task --> Reply
//!                        \---------- pending, oldest first ----------/
//! ```
//!
//! Invariants:
//! - Requests reach the broker in the order in which `start` was called for them, and a broker
//!   answers in that order: the answer that arrives belongs to the oldest pending request. An
//!   answer with another correlation id means that the two sides have lost count; the
//!   connection ends.
//! - At most `max_in_flight` requests are written and unanswered.
//! - When the connection ends, for whatever reason, everything outstanding fails with that
//!   reason, and so does everything started later. A connection is never repaired.
//!
//! Deliberately absent: TLS and SASL, reconnecting (the owner of a connection decides that).

mod socket;

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use klamm_protocol::messages::ApiVersionsRequest;
use klamm_protocol::{ApiMessage, ApiRequest, ErrorCode, FRAME_PREFIX_LEN, StrBytes};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{Error, ServerError};
use crate::versions::ApiRanges;

use socket::{GATHER_FRAMES, Outgoing, Pending, Reader, Then, Waiting, Writer};

/// How to connect and how long to wait.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// `client.id` sent with every request.
    pub client_id: String,
    /// Limit for opening the TCP connection, and again for the version handshake.
    pub connect_timeout: Duration,
    /// Limit for the answer to one request, counted from when it was started. A request whose
    /// answer is late ends the connection.
    pub request_timeout: Duration,
    /// Requests that may be written and unanswered.
    pub max_in_flight: usize,
    /// Largest response accepted, in bytes.
    pub max_response_bytes: usize,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        ConnectionOptions {
            client_id: "klamm-client".to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            max_in_flight: 64,
            max_response_bytes: 256 * 1024 * 1024,
        }
    }
}

/// A connection on which requests are pipelined. Clones share it; it closes with the last clone
/// and the last outstanding [`Reply`].
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    ranges: Arc<ApiRanges>,
}

struct Shared {
    address: String,
    client_id: String,
    request_timeout: Duration,
    next_correlation_id: AtomicI32,
    slots: Arc<Semaphore>,
    queue: mpsc::Sender<Outgoing>,
    pending: Arc<Pending>,
    tasks: [AbortHandle; 2],
}

impl Drop for Shared {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The answer to a request that was started. Dropping it does not take the request back.
pub struct Reply<R: ApiRequest> {
    connection: Connection,
    receiver: oneshot::Receiver<Result<Bytes, Error>>,
    version: i16,
    deadline: Instant,
    request: PhantomData<fn() -> R>,
}

impl<R: ApiRequest> Reply<R> {
    /// Waits for the answer and decodes it.
    ///
    /// # Errors
    /// [`Error::Timeout`] (the connection is ended: later answers could not be trusted to be in
    /// time either), [`Error::Closed`], [`Error::Malformed`].
    pub async fn wait(self) -> Result<R::Response, Error> {
        let shared = &self.connection.shared;
        let frame = match timeout_at(self.deadline, self.receiver).await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) => return Err(self.connection.closed_error()),
            Err(_) => {
                let error = Error::Timeout {
                    address: shared.address.clone(),
                    api: R::API.name(),
                    after: shared.request_timeout,
                };
                self.connection.close_with(error.clone());
                return Err(error);
            }
        };
        klamm_protocol::decode_response::<R>(frame, self.version).map_err(|error| {
            Error::Malformed {
                address: shared.address.clone(),
                what: R::API.name(),
                reason: error.to_string(),
            }
        })
    }
}

impl Connection {
    /// Opens a connection to `host:port` and asks which API versions the broker serves.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Timeout`], or what the version handshake met.
    pub async fn connect(address: &str, options: &ConnectionOptions) -> Result<Connection, Error> {
        let late = || Error::Timeout {
            address: address.to_owned(),
            api: "connect",
            after: options.connect_timeout,
        };
        let refused = |cause| Error::Connect {
            address: address.to_owned(),
            cause: Arc::new(cause),
        };
        let stream = timeout(options.connect_timeout, TcpStream::connect(address))
            .await
            .map_err(|_| late())?
            .map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let mut connection = Connection::over(stream, address, options);
        let ranges = timeout(options.connect_timeout, connection.negotiate()).await;
        connection.ranges = Arc::new(ranges.map_err(|_| late())??);
        Ok(connection)
    }

    fn over(stream: TcpStream, address: &str, options: &ConnectionOptions) -> Connection {
        let (read_half, write_half) = stream.into_split();
        let (queue, outgoing) = mpsc::channel(GATHER_FRAMES);
        let pending = Arc::new(Pending::default());
        let writer = Writer {
            address: address.to_owned(),
            socket: write_half,
            pending: Arc::clone(&pending),
        };
        let reader = Reader {
            address: address.to_owned(),
            socket: read_half,
            buffer: BytesMut::new(),
            max_response_bytes: options.max_response_bytes,
            pending: Arc::clone(&pending),
        };
        let tasks = [
            tokio::spawn(writer.run(outgoing)).abort_handle(),
            tokio::spawn(reader.run()).abort_handle(),
        ];
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            client_id: options.client_id.clone(),
            request_timeout: options.request_timeout,
            next_correlation_id: AtomicI32::new(0),
            slots: Arc::new(Semaphore::new(options.max_in_flight.max(1))),
            queue,
            pending,
            tasks,
        });
        Connection {
            shared,
            ranges: Arc::new(ApiRanges::default()),
        }
    }

    /// Asks in the newest version first; a broker that is older answers error 35 in the layout of
    /// version 0, from which the newest common version is taken (KIP-511).
    async fn negotiate(&self) -> Result<ApiRanges, Error> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("klamm-client"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let mut version = *ApiVersionsRequest::API.versions().end();
        loop {
            let response = self.send_version(version, &request).await?;
            let ranges = ApiRanges::new(&response);
            if ErrorCode(response.error_code) == ErrorCode::UNSUPPORTED_VERSION && version > 0 {
                let common = ranges.newest_common::<ApiVersionsRequest>().unwrap_or(0);
                version = common.min(version - 1);
                continue;
            }
            ServerError::check(response.error_code, None).map_err(|error| {
                Error::server(format!("ApiVersions at {}", self.address()), error)
            })?;
            return Ok(ranges);
        }
    }

    /// Address dialled, `host:port`.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// The API versions that the broker serves.
    pub fn ranges(&self) -> &ApiRanges {
        &self.ranges
    }

    /// Why the connection has ended, if it has.
    pub fn closed(&self) -> Option<Error> {
        self.shared.pending.closed()
    }

    /// The newest version of a request that both sides speak.
    ///
    /// # Errors
    /// [`Error::UnsupportedVersion`] when there is none.
    pub fn version_of<R: ApiRequest>(&self) -> Result<i16, Error> {
        self.ranges
            .newest_common::<R>()
            .ok_or_else(|| Error::UnsupportedVersion {
                address: self.shared.address.clone(),
                api: R::API.name(),
                broker: match self.ranges.get(R::API.key()) {
                    Some((min, max)) => format!("{min}-{max}"),
                    None => "none".to_owned(),
                },
                client: format!("{}-{}", R::API.versions().start(), R::API.versions().end()),
            })
    }

    /// Sends a request in the newest common version and waits for the answer.
    ///
    /// # Errors
    /// Whatever [`Connection::start`] and [`Reply::wait`] return. An error code inside the
    /// response is not an error here.
    pub async fn send<R: ApiRequest>(&self, request: &R) -> Result<R::Response, Error> {
        self.send_version(self.version_of::<R>()?, request).await
    }

    /// Sends a request in a version of the caller's choice and waits for the answer.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub async fn send_version<R: ApiRequest>(
        &self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, Error> {
        self.start(version, request).await?.wait().await
    }

    /// Queues a request behind those started before and returns its answer to come. Waits while
    /// `max_in_flight` requests are unanswered.
    ///
    /// # Errors
    /// [`Error::Encode`], or why the connection has ended.
    pub async fn start<R: ApiRequest>(&self, version: i16, request: &R) -> Result<Reply<R>, Error> {
        let correlation_id = self.next_correlation_id();
        let frame = self.encode_as(correlation_id, version, request)?;
        let receiver = self.enqueue(correlation_id, frame).await?;
        let deadline = Instant::now() + self.shared.request_timeout;
        Ok(Reply {
            connection: self.clone(),
            receiver,
            version,
            deadline,
            request: PhantomData,
        })
    }

    /// Sends a request that the broker does not answer, Produce with acks 0, and waits until it is
    /// written to the socket.
    ///
    /// # Errors
    /// [`Error::Encode`], or why the connection has ended.
    pub async fn send_unanswered<R: ApiRequest>(
        &self,
        version: i16,
        request: &R,
    ) -> Result<(), Error> {
        let frame = self.encode_as(self.next_correlation_id(), version, request)?;
        let (tell, written) = oneshot::channel();
        let then = Then::Written(tell);
        let queued = self.shared.queue.send(Outgoing { frame, then }).await;
        queued.map_err(|_| self.closed_error())?;
        written.await.map_err(|_| self.closed_error())
    }

    /// Sends a frame as it is (without its size, which is put in front) and returns the next
    /// answer, also without size. For tests that speak the protocol by hand: bytes 4 to 8 must
    /// hold the correlation id, as they do in every request.
    ///
    /// # Errors
    /// [`Error::Encode`] for a frame too short or too long to be one, or as [`Connection::send`].
    pub async fn exchange(&self, frame: Bytes) -> Result<Bytes, Error> {
        let unfit = |reason: &str| Error::Encode {
            api: "frame",
            reason: reason.to_owned(),
        };
        let size = i32::try_from(frame.len()).map_err(|_| unfit("larger than 2 GiB"))?;
        let id = frame.get(4..8).and_then(|bytes| bytes.try_into().ok());
        let correlation_id = i32::from_be_bytes(id.ok_or_else(|| unfit("no correlation id"))?);
        let mut whole = BytesMut::with_capacity(FRAME_PREFIX_LEN + frame.len());
        whole.extend_from_slice(&size.to_be_bytes());
        whole.extend_from_slice(&frame);
        let receiver = self.enqueue(correlation_id, whole.freeze()).await?;
        match timeout(self.shared.request_timeout, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.closed_error()),
            Err(_) => {
                let after = self.shared.request_timeout;
                let error = Error::Timeout {
                    address: self.shared.address.clone(),
                    api: "frame",
                    after,
                };
                self.close_with(error.clone());
                Err(error)
            }
        }
    }

    async fn enqueue(
        &self,
        correlation_id: i32,
        frame: Bytes,
    ) -> Result<oneshot::Receiver<Result<Bytes, Error>>, Error> {
        let slot = Arc::clone(&self.shared.slots).acquire_owned().await;
        let slot = slot.map_err(|_| self.closed_error())?;
        let (reply, receiver) = oneshot::channel();
        let then = Then::Answer(Waiting {
            correlation_id,
            reply,
            _slot: slot,
        });
        let queued = self.shared.queue.send(Outgoing { frame, then }).await;
        queued.map_err(|_| self.closed_error())?;
        Ok(receiver)
    }

    fn encode_as<R: ApiRequest>(
        &self,
        correlation_id: i32,
        version: i16,
        request: &R,
    ) -> Result<Bytes, Error> {
        klamm_protocol::encode_request(
            version,
            correlation_id,
            Some(&self.shared.client_id),
            request,
        )
        .map_err(|error| Error::Encode {
            api: R::API.name(),
            reason: error.to_string(),
        })
    }

    fn next_correlation_id(&self) -> i32 {
        self.shared
            .next_correlation_id
            .fetch_add(1, Ordering::Relaxed)
    }

    fn close_with(&self, error: Error) {
        self.shared.pending.close(error);
        for task in &self.shared.tasks {
            task.abort();
        }
    }

    fn closed_error(&self) -> Error {
        self.closed().unwrap_or_else(|| Error::Closed {
            address: self.shared.address.clone(),
            reason: "by this client".to_owned(),
        })
    }
}

#[cfg(test)]
#[path = "connection_test.rs"]
mod tests;
