//! Progress bars of long jobs: shown on a terminal, absent elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a bar looks at the job.
const REFRESH: Duration = Duration::from_millis(100);

/// A bar of bytes for a job of `what`; `indicatif` hides it when standard error is not a terminal.
pub(crate) fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = "{prefix:>9} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {msg} (eta {eta})";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is valid").progress_chars("=> "));
    bar.set_prefix(what);
    bar
}

/// A bar for a job of so many steps, which the job itself moves on.
pub(crate) fn steps(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = "{prefix:>9} [{bar:30}] {pos}/{len} (eta {eta}) {wide_msg}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is valid").progress_chars("=> "));
    bar.set_prefix(what);
    bar.enable_steady_tick(REFRESH);
    bar
}

/// Runs `job`, and lets `show` bring `bar` up to date meanwhile.
pub(crate) async fn watch<T>(
    bar: ProgressBar,
    show: impl Fn(&ProgressBar),
    job: impl Future<Output = T>,
) -> T {
    let mut job = std::pin::pin!(job);
    let mut ticks = tokio::time::interval(REFRESH);
    loop {
        tokio::select! {
            done = &mut job => {
                bar.finish_and_clear();
                return done;
            }
            _ = ticks.tick() => show(&bar),
        }
    }
}
