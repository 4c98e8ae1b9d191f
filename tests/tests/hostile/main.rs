//! Hostile inputs, each a line with its outcome; whatever comes, who behaves is served.
//!
//! The numbers are those of the list of bad inputs: framing (1 to 16), headers and decoding (17 to
//! 35), record batches (36 to 72), Produce, Fetch and their kin (73 to 88), administration (122 to
//! 139, as far as it needs no authorisation). Groups (89 to 106) are in `wire`.
//!
//! After every line ([`watch::Watch`]): the process lives and nothing in it panicked; a client that
//! behaves sees a p99 within twice its normal; resident memory is back within twice the bytes that
//! came in; a counter of `/metrics` has moved; nothing of the payload is in the log.
//!
//! A line that disturbs the client is tried again against a fresh measure of what is normal: on a
//! shared machine a slow moment is nobody's fault, three in a row are.
//! `KLAMM_HOSTILE=22` runs the lines of that number only.

mod admin;
#[path = "../wire/batches.rs"]
mod batches;
#[path = "../wire/calls.rs"]
#[expect(dead_code, reason = "shared with the tests of the wire")]
mod calls;
mod decoding;
mod framing;
mod records;
mod requests;
mod rig;
mod watch;

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use klamm_protocol::ErrorCode;

use crate::rig::Target;
use crate::watch::Watch;

/// What came of a hostile input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The broker closed the connection.
    Closed,
    /// It answered with this error, or with none.
    Code(ErrorCode),
    /// It answered as if nothing were wrong, and the case has checked what.
    Served,
}

/// What should come of it.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    Closed,
    Codes(&'static [ErrorCode]),
    Served,
}

impl Expect {
    fn accepts(&self, found: &Found) -> bool {
        match (self, found) {
            (Expect::Closed, Found::Closed) | (Expect::Served, Found::Served) => true,
            (Expect::Codes(codes), Found::Code(code)) => codes.contains(code),
            _ => false,
        }
    }

    /// Series of which one must move, by prefix.
    fn counters(&self) -> &'static [&'static str] {
        match self {
            Expect::Closed => &[
                "klamm_protocol_rejects_total",
                "klamm_connections_ended_total{why=\"slow\"}",
                "klamm_connections_ended_total{why=\"idle\"}",
                "klamm_connections_ended_total{why=\"io\"}",
            ],
            Expect::Codes(_) => &["klamm_request_errors_total"],
            Expect::Served => &["klamm_requests_total", "klamm_connections_ended_total"],
        }
    }
}

type Run = Pin<Box<dyn Future<Output = Result<Found>> + Send>>;

/// One line of the table.
pub(crate) struct Case {
    number: u16,
    what: &'static str,
    expect: Expect,
    /// Longest time it may take.
    within: Duration,
    /// Bytes that it rightly costs for good.
    costs: u64,
    /// Bytes that it rightly costs for a moment, beyond what every line may.
    peaks: u64,
    run: Box<dyn Fn() -> Run + Send>,
}

/// A line: what is sent is made anew for every try.
pub(crate) fn case<F>(
    number: u16,
    what: &'static str,
    expect: Expect,
    run: impl Fn() -> F + Send + 'static,
) -> Case
where
    F: Future<Output = Result<Found>> + Send + 'static,
{
    Case {
        number,
        what,
        expect,
        within: Duration::from_secs(3),
        costs: 0,
        peaks: 0,
        run: Box::new(move || Box::pin(run())),
    }
}

impl Case {
    /// With more time than usual.
    pub(crate) fn within(mut self, within: Duration) -> Case {
        self.within = within;
        self
    }

    /// Makes something that stays, of so many bytes.
    pub(crate) fn costs(mut self, bytes: u64) -> Case {
        self.costs = bytes;
        self
    }

    /// Takes so many bytes more than most while it is answered.
    pub(crate) fn peaks(mut self, bytes: u64) -> Case {
        self.peaks = bytes;
        self
    }

    /// A line that answers with one of these codes.
    pub(crate) fn codes<F>(
        number: u16,
        what: &'static str,
        codes: &'static [ErrorCode],
        run: impl Fn() -> F + Send + 'static,
    ) -> Case
    where
        F: Future<Output = Result<Option<i16>>> + Send + 'static,
    {
        case(number, what, Expect::Codes(codes), move || {
            let code = run();
            async move {
                Ok(match code.await? {
                    Some(code) => Found::Code(ErrorCode(code)),
                    None => Found::Closed,
                })
            }
        })
    }

    async fn check(&self, watch: &Watch) -> Result<()> {
        const TRIES: u32 = 4;
        let mut attempt = 1;
        loop {
            let before = watch.before()?;
            let began = Instant::now();
            let found = tokio::time::timeout(self.within + Duration::from_secs(5), (self.run)())
                .await
                .with_context(|| format!("nothing came of it in {:?}", began.elapsed()))??;
            let took = began.elapsed();
            ensure!(
                self.expect.accepts(&found),
                "{found:?} where {:?} is due",
                self.expect
            );
            let mut verdict = watch.after(&before, self).await?;
            if took > self.within {
                verdict = Err(format!("took {took:?}"));
            }
            match verdict {
                Ok(()) => return Ok(()),
                Err(disturbed) if attempt < TRIES => {
                    attempt += 1;
                    eprintln!("     again, {}: {disturbed}", self.what);
                    watch.calm().await?;
                }
                Err(disturbed) => bail!("{disturbed}, {TRIES} times in a row"),
            }
        }
    }
}

async fn run(
    group: &str,
    make: impl AsyncFnOnce(&'static Target) -> Result<Vec<Case>>,
) -> Result<()> {
    let target = rig::target();
    // One after the other: what a line does must not be taken for what another does.
    let _turn = target.turn.lock().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let watch = Watch::start(target).await?;
    let only: Option<u16> = std::env::var("KLAMM_HOSTILE")
        .ok()
        .and_then(|number| number.parse().ok());
    // The group before may have used up the topics that may be created at once.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut failed = Vec::new();
    let mut passed = 0;
    for case in make(target).await? {
        if only.is_some_and(|only| only != case.number) {
            continue;
        }
        let began = Instant::now();
        match case.check(&watch).await {
            Ok(()) => {
                passed += 1;
                eprintln!(
                    "ok   {:3} {} ({} ms)",
                    case.number,
                    case.what,
                    began.elapsed().as_millis()
                );
            }
            Err(error) => {
                eprintln!("FAIL {:3} {}: {error:#}", case.number, case.what);
                failed.push(format!("{} {}: {error:#}", case.number, case.what));
            }
        }
    }
    eprintln!("{group}: {passed} passed, {} failed", failed.len());
    watch.end().await?;
    ensure!(failed.is_empty(), "{group}:\n  {}", failed.join("\n  "));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_framing() -> Result<()> {
    run("framing", framing::cases).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_headers_and_decoding() -> Result<()> {
    run("headers and decoding", decoding::cases).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_record_batches() -> Result<()> {
    run("record batches", records::cases).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_produce_fetch_and_offsets() -> Result<()> {
    run("produce, fetch, offsets", requests::cases).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_administration() -> Result<()> {
    run("administration", admin::cases).await
}
