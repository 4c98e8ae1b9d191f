//! Plain words for clients that speak something else to the Kafka port.

use std::sync::atomic::{AtomicI64, Ordering};

use klamm_protocol::Sniffed;
use tracing::warn;

use crate::node::Shared;

/// At most one log line in this time, per kind of mistake.
const LOG_INTERVAL_MS: i64 = 10_000;

static LAST_TLS_LINE: AtomicI64 = AtomicI64::new(i64::MIN);
static LAST_HTTP_LINE: AtomicI64 = AtomicI64::new(i64::MIN);

/// Metric label of the mistake, and bytes to answer before closing.
pub(super) fn of(sniffed: Sniffed, shared: &Shared) -> (&'static str, Option<String>) {
    let http = shared.http_address();
    match sniffed {
        Sniffed::Http => {
            if due(&LAST_HTTP_LINE, shared.steady.now_ms()) {
                warn!(
                    http,
                    "a client speaks HTTP on the Kafka port; HTTP is at the address given"
                );
            }
            let text = format!(
                "This is Klamm's Kafka port: it speaks the Kafka protocol, not HTTP.\n\
                 HTTP (health, metrics) is at http://{http}/\n"
            );
            let answer = format!(
                "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            );
            ("http", Some(answer))
        }
        Sniffed::Tls => {
            if due(&LAST_TLS_LINE, shared.steady.now_ms()) {
                warn!(
                    "a client speaks TLS on a PLAINTEXT listener and was refused; set \
                     security.protocol=PLAINTEXT in the client"
                );
            }
            ("tls", None)
        }
        Sniffed::Kafka | Sniffed::Other => ("other", None),
    }
}

fn due(last: &AtomicI64, now_ms: i64) -> bool {
    let before = last.load(Ordering::Relaxed);
    now_ms.saturating_sub(before) >= LOG_INTERVAL_MS
        && last
            .compare_exchange(before, now_ms, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
}
