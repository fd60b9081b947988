//! Spans that nobody reads are not made: h2 has a dozen a call, below `INFO`.

use std::process::Command;

use tenantd::telemetry::{install, logs::LogFormat};
use tracing::level_filters::LevelFilter;

#[test]
fn at_the_default_log_level_no_library_has_its_spans_made() {
    // In a process of its own: its log is for all of it.
    let own = std::env::current_exe().unwrap();
    let child = "spans::what_the_log_lets_through";
    let ended = Command::new(own)
        .args(["--ignored", "--exact", child])
        .env_remove("TENANTD_LOG")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by the test above"]
fn what_the_log_lets_through() {
    let _exports = install(LogFormat::Json).unwrap();
    assert_eq!(LevelFilter::current(), LevelFilter::INFO, "what is below costs one load");
    let call = tracing::info_span!(target: "tenantd::rpc", "rpc");
    assert!(call.is_disabled(), "calls have a span where there is a tracer");
    assert!(!tracing::info_span!("other").is_disabled(), "lines may have theirs");
}
