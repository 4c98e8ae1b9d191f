//! Connections of the HTTP port: few, and none for long. What is served there is small and quick, and
//! a descriptor that an idle browser holds is one that a segment cannot have.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections at a time; more wait to be accepted.
const MOST: usize = 32;
/// A connection on which nothing moves for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// One that is used is closed after this: clients that send a byte now and then hold it no longer.
const LONGEST: Duration = Duration::from_secs(120);

/// Accepts up to [`MOST`] connections.
pub(super) struct Limited {
    socket: TcpListener,
    permits: Arc<Semaphore>,
}

impl Limited {
    pub(super) fn new(socket: TcpListener) -> Limited {
        Limited {
            socket,
            permits: Arc::new(Semaphore::new(MOST)),
        }
    }
}

impl Listener for Limited {
    type Io = Timed<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        // Tokio's listener waits where it fails for want of descriptors.
        let (stream, peer) = Listener::accept(&mut self.socket).await;
        (Timed::new(stream, permit, IDLE, LONGEST), peer)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.socket.local_addr()
    }
}

/// A connection that ends at its deadlines.
pub(super) struct Timed<S> {
    stream: S,
    patience: Duration,
    idle: Pin<Box<Sleep>>,
    ends: Instant,
    _permit: OwnedSemaphorePermit,
}

impl<S> Timed<S> {
    fn new(
        stream: S,
        permit: OwnedSemaphorePermit,
        patience: Duration,
        longest: Duration,
    ) -> Timed<S> {
        let now = Instant::now();
        Timed {
            stream,
            patience,
            idle: Box::pin(tokio::time::sleep_until(now + patience)),
            ends: now + longest,
            _permit: permit,
        }
    }

    /// Takes the result of a transfer: progress moves the deadline, waiting ends at it.
    fn watched<T>(
        &mut self,
        context: &mut Context<'_>,
        moved: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            let until = (Instant::now() + self.patience).min(self.ends);
            self.idle.as_mut().reset(until);
            return moved;
        }
        self.idle
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watched(context, moved)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, moved)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_flush(context);
        self.watched(context, moved)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watched(context, moved)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Semaphore;

    use tokio::time::Instant;

    use super::Timed;

    const PATIENCE: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_connection_ends_when_idle_and_when_old() {
        let permits = Arc::new(Semaphore::new(1));
        let permit = permits.clone().acquire_owned().await.expect("open");
        let (near, mut far) = tokio::io::duplex(64);
        let mut timed = Timed::new(near, permit, PATIENCE, PATIENCE * 5);
        let began = Instant::now();
        let slow = tokio::spawn(async move {
            while far.write_all(b"x").await.is_ok() {
                tokio::time::sleep(PATIENCE / 4).await;
            }
        });
        let mut byte = [0];
        let error = loop {
            match timed.read(&mut byte).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= PATIENCE * 5, "{:?}", began.elapsed());
        slow.abort();
        drop(timed);
        let permit = permits.clone().try_acquire_owned().expect("given back");
        let (near, _far) = tokio::io::duplex(64);
        let began = Instant::now();
        let mut silent = Timed::new(near, permit, PATIENCE, PATIENCE * 100);
        assert!(silent.read(&mut byte).await.is_err());
        assert!((PATIENCE..PATIENCE * 50).contains(&began.elapsed()));
    }
}
