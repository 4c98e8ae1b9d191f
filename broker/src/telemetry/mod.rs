//! What operators see of the broker from outside: metrics and logs.

mod logs;
mod metrics;
mod scrape;

pub use logs::{LogControl, LogFormat, init_logs};
pub use metrics::{METRICS, Metrics, RepairOutcome};
pub use scrape::render;
