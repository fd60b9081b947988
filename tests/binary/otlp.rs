//! What an OpenTelemetry collector gets: rotel, a real one, over both protocols. It
//! prints what it received, by the official messages.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tenantd::wire::v1::session_service_client::SessionServiceClient;
use tonic::Request;

use crate::{
    catalog,
    support::{Start, acquire, eventually, free, release, skipped, text},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A collector of its own.
struct Collector {
    child: Child,
    dir: tempfile::TempDir,
    grpc: String,
    http: String,
}

impl Collector {
    /// None, told, where it cannot be had.
    fn start() -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy-tools.sh");
        let found = Command::new(script).output().unwrap();
        if !found.status.success() {
            skipped(&text(&found));
            return None;
        }
        let agent = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
        let dir = tempfile::tempdir().unwrap();
        let (grpc, http) = (free().to_string(), free().to_string());
        let child = Command::new(agent.join("rotel-agent"))
            .args(["start", "--exporter", "blackhole", "--debug-log-verbosity", "detailed"])
            .args(["--debug-log", "traces", "--debug-log", "metrics"])
            .args(["--otlp-grpc-endpoint", &grpc, "--otlp-http-endpoint", &http])
            .stdout(fs::File::create(dir.path().join("out")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let collector = Self { child, dir, grpc, http };
        eventually("the collector listens", || {
            let is_open = |at: &str| std::net::TcpStream::connect(at).is_ok();
            is_open(&collector.grpc) && is_open(&collector.http)
        });
        Some(collector)
    }

    fn got(&self) -> String {
        fs::read_to_string(self.dir.path().join("out")).unwrap_or_default()
    }

    fn spans(&self) -> Vec<Span> {
        self.got().split("\nSpan #").skip(1).map(Span::read).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A span, as it arrived.
#[derive(Debug, Clone)]
struct Span {
    name: String,
    fields: BTreeMap<String, String>,
    attributes: BTreeMap<String, String>,
    /// Traces and spans that it is linked to, as they are printed.
    links: String,
}

impl Span {
    fn read(printed: &str) -> Self {
        let printed = printed.split("\nResource").next().unwrap();
        let (head, links) = printed.split_once("Links:").unwrap_or((printed, ""));
        let (mut fields, mut attributes) = (BTreeMap::new(), BTreeMap::new());
        for line in head.lines() {
            if let Some((key, value)) =
                line.trim().strip_prefix("-> ").and_then(|of| of.split_once(": "))
            {
                let value = value.split_once('(').map_or("", |(_, of)| of.trim_end_matches(')'));
                attributes.insert(key.to_owned(), value.to_owned());
            } else if let Some((key, value)) = line.split_once(':') {
                fields.insert(key.trim().to_owned(), value.trim().to_owned());
            }
        }
        let name = fields.get("Name").cloned().unwrap_or_default();
        Self { name, fields, attributes, links: links.to_owned() }
    }

    fn is(&self, key: &str, value: &str) -> bool {
        self.attributes.get(key).is_some_and(|of| of == value)
    }
}

fn traced(
    request: tenantd::wire::v1::AcquireSessionRequest,
) -> Request<tenantd::wire::v1::AcquireSessionRequest> {
    let mut request = Request::new(request);
    let parent = format!("00-{TRACE}-{CALLER}-01");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

async fn arrives(protocol: &str) {
    let Some(collector) = Collector::start() else { return };
    let at = if protocol == "grpc" { &collector.grpc } else { &collector.http };
    let endpoint = format!("http://{at}");
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_METRIC_EXPORT_INTERVAL", "300"),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ("TENANTD_LOG_FORMAT", "json"),
    ];
    let config = "[tenants.acme]\ncap=1\n";
    let running = Start { config, env: &env, ..Start::default() }.run();
    let mut client = SessionServiceClient::new(running.channel().await);
    let mut first = acquire("s1", "acme");
    first.agent_name = "support".to_owned();
    client.acquire_session(traced(first)).await.unwrap();
    client.acquire_session(traced(acquire("s2", "acme"))).await.unwrap_err();
    client.release_session(release("s1")).await.unwrap();
    eventually("all spans and metrics have arrived", || {
        let spans = collector.spans();
        let has = |name: &str| spans.iter().any(|of| of.name.ends_with(name));
        ["/AcquireSession", "/ReleaseSession", "resolve", "admit", "session"]
            .iter()
            .all(|of| has(of))
            && collector.got().contains("-> Name: tenantd.sessions.rejected")
    });
    let spans = collector.spans();
    let calls: Vec<_> = spans.iter().filter(|of| of.name.ends_with("/AcquireSession")).collect();
    assert_eq!(calls.len(), 2, "one span for each call: {spans:?}");
    for call in &calls {
        assert_eq!(call.name, "tenantd.v1.SessionService/AcquireSession");
        assert_eq!(call.fields["Kind"], "SPAN_KIND_SERVER");
        assert_eq!(call.fields["Trace ID"], TRACE, "the caller's trace goes on");
        assert_eq!(call.fields["Parent ID"], CALLER);
        assert!(call.is("rpc.system.name", "grpc"));
        assert!(call.is("rpc.method", "tenantd.v1.SessionService/AcquireSession"));
        assert!(call.is("tenant", "acme"), "{call:?}");
        // What the caller may not have is no error of the server.
        assert_eq!(call.fields["Status code"], "STATUS_CODE_UNSET");
        let noise = ["code.", "thread.", "busy_ns"];
        assert!(!call.attributes.keys().any(|key| noise.iter().any(|of| key.starts_with(of))));
    }
    let granted = calls.iter().find(|of| of.is("rpc.response.status_code", "OK")).unwrap();
    assert!(granted.is("session_id", "s1") && granted.is("agent_name", "support"), "{granted:?}");
    let refused =
        calls.iter().find(|of| of.is("rpc.response.status_code", "RESOURCE_EXHAUSTED")).unwrap();
    assert!(refused.is("reason", "TENANT_AT_CAP") && refused.is("session_id", "s2"), "{refused:?}");
    for name in ["resolve", "admit"] {
        let child = spans
            .iter()
            .find(|of| of.name == name && of.fields["Parent ID"] == granted.fields["ID"]);
        let child = child.unwrap_or_else(|| panic!("no {name} below the acquire: {spans:?}"));
        assert!(child.is("tenant", "acme"), "{child:?}");
    }
    let session = spans.iter().find(|of| of.name == "session").unwrap();
    let linked = |of: &str| session.links.contains(of);
    assert!(linked(TRACE) && linked(&granted.fields["ID"]), "to its acquire: {session:?}");
    let ended = spans.iter().find(|of| of.name.ends_with("/ReleaseSession")).unwrap();
    assert_eq!(session.fields["Parent ID"], ended.fields["ID"], "and told where it ended");
    assert!(session.is("tenant", "acme") && session.is("session_id", "s1"), "{session:?}");
    assert!(session.is("outcome", "success"), "{session:?}");

    let got = collector.got();
    for resource in ["service.name: Str(tenantd)", "deployment.environment.name: Str(test)"] {
        assert!(got.contains(resource), "{resource}");
    }
    // Each metric that arrived is one of the list.
    let known = catalog::metrics();
    let arrived: Vec<_> = got
        .split("Descriptor:\n     -> Name: ")
        .skip(1)
        .map(|of| of.lines().next().unwrap())
        .collect();
    assert!(arrived.len() > 20);
    for name in arrived {
        assert!(known.iter().any(|of| of == name), "{name} is in no list");
    }
    let line = running.said();
    let of_acquire = line.lines().find(|of| of.contains("session_acquired")).unwrap();
    assert!(of_acquire.contains(TRACE), "the log line has the trace: {of_acquire}");
    assert!(of_acquire.contains(&granted.fields["ID"]), "and the span: {of_acquire}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_metrics_and_traces_over_grpc() {
    arrives("grpc").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_metrics_and_traces_over_http() {
    arrives("http/protobuf").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_gone_holds_up_no_acquire_and_no_end() {
    let endpoint = format!("http://{}", free());
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let mut running = Start { env: &env, ..Start::default() }.run();
    let mut client = SessionServiceClient::new(running.channel().await);
    for n in 0..200 {
        let id = format!("s{n}");
        client.acquire_session(traced(acquire(&id, "acme"))).await.unwrap();
        client.release_session(release(&id)).await.unwrap();
    }
    running.signal("TERM");
    assert_eq!(running.ends(), Some(0));
}
