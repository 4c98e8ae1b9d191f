//! A wire that can be cut: forwards TCP both ways, and stops one way or both without closing anything, as a network does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    /// What the dialler sends does not arrive.
    pub(crate) there: Arc<AtomicBool>,
    /// What the acceptor sends does not arrive.
    pub(crate) back: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let (there, back) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (to, ways) = (target.clone(), (there.clone(), back.clone()));
        let task = tokio::spawn(async move {
            let mut pipes = JoinSet::new();
            loop {
                let (from, _) = listener.accept().await.unwrap();
                let (to, ways) = (*to.lock(), ways.clone());
                pipes.spawn(async move {
                    let Ok(to) = TcpStream::connect(to).await else {
                        return;
                    };
                    from.set_nodelay(true).unwrap();
                    to.set_nodelay(true).unwrap();
                    let ((from_read, from_write), (to_read, to_write)) =
                        (from.into_split(), to.into_split());
                    tokio::select! {
                        () = pipe(from_read, to_write, &ways.0) => {}
                        () = pipe(to_read, from_write, &ways.1) => {}
                    }
                });
            }
        })
        .abort_handle();
        Proxy {
            address,
            target,
            there,
            back,
            task,
        }
    }

    pub(crate) fn target(&self) -> SocketAddr {
        *self.target.lock()
    }

    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *self.target.lock() = target;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pipe(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        while cut.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}
