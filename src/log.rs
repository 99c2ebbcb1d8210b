//! The log: one line an event, on standard error.

use std::io::{IsTerminal, stderr};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::LogArgs;

/// What happens is worth a line; details are not.
const DEFAULT_LEVEL: u8 = 3;

/// Starts logging at the level that was asked for.
pub(crate) fn start(args: LogArgs) {
    let level = args.log_level.unwrap_or(DEFAULT_LEVEL).saturating_add(args.verbose);
    let filter = match level {
        0 => LevelFilter::OFF,
        1 => LevelFilter::ERROR,
        2 => LevelFilter::WARN,
        3 => LevelFilter::INFO,
        4 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // Libraries have their own idea of what is worth a line; ours are the ones that know.
    let libraries = if filter < LevelFilter::DEBUG { filter.min(LevelFilter::ERROR) } else { filter };
    let targets =
        Targets::new().with_default(libraries).with_targets([("aysfs", filter), ("access", filter)]);
    let lines = tracing_subscriber::fmt::layer().with_ansi(stderr().is_terminal()).with_writer(stderr);
    tracing_subscriber::registry().with(lines).with(targets).init();
}
