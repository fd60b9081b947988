//! The TCP listener behind TLS: who is let in, as whom, and what happens when
//! certificates change.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tenantd::{domain::access::TokenHash, wire::v1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{
    Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use v1::{session_service_client::SessionServiceClient, watch_service_client::WatchServiceClient};

use crate::{
    certificates::{Authority, Files, Pair, Wish},
    support::{self, Running, eventually, reason},
};

const AGENT: &str = "spiffe://example.org/acme/agent";
const TOKEN: &str = "tnd_0123456789abcdef0123456789abcdef";

fn identities() -> String {
    let hash = TokenHash::of(TOKEN).hex();
    format!(
        "[[identities]]\nname='acme-agents'\nroles=['agent']\ntenants=['acme']\nuris=['{AGENT}']\n\
         [[identities]]\nname='support'\nroles=['viewer']\ntenants=['*']\ndns_names=['support.example.org']\n\
         [[identities]]\nname='by-token'\nroles=['agent']\ntenants=['globex']\ntokens=['sha256:{hash}']\n"
    )
}

/// A client that trusts `ca`, shows a certificate where it has one, and expects
/// the server to be `name`.
async fn client(port: u16, ca: &str, shows: Option<&Pair>, name: &str) -> Result<Channel, String> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .domain_name(name.to_owned());
    if let Some(pair) = shows {
        tls = tls.identity(Identity::from_pem(&pair.certificate, &pair.key));
    }
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await.map_err(|error| format!("{error:?}"))
}

async fn acquire(channel: Channel, id: &str, tenant: &str) -> Result<(), Status> {
    let asked = support::acquire(id, tenant);
    SessionServiceClient::new(channel).acquire_session(asked).await.map(|_| ())
}

/// As a peer meets it: with TLS 1.3 it learns only after its handshake that it was
/// not let in.
async fn try_acquire(port: u16, ca: &str, shows: Option<&Pair>, id: &str) -> Result<(), String> {
    let channel = client(port, ca, shows, "localhost").await?;
    acquire(channel, id, "acme").await.map_err(|status| {
        let reason = reason(&status);
        if reason.is_empty() { format!("{status:?}") } else { reason }
    })
}

/// What the server has to say of a handshake, to a client that only listens.
async fn handshake(port: u16, ca: &str, shows: Option<&Pair>) -> String {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let mut config = match shows {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = "localhost".try_into().unwrap();
    let said = match connector.connect(name, socket).await {
        Ok(mut stream) => stream.read_to_end(&mut Vec::new()).await.map(|_| ()),
        Err(error) => Err(error),
    };
    format!("{said:?}")
}

struct Scene {
    running: Running,
    port: u16,
    servers: Authority,
    clients: Authority,
    files: Files,
}

async fn scene(client_cert: &str) -> Scene {
    let (servers, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&servers.server(), &clients.pem());
    let (running, port) = support::start_tcp(&(identities() + &files.config(client_cert))).await;
    Scene { running, port, servers, clients, files }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_the_identity_that_its_certificate_names() {
    let Scene { running, port, servers, clients, .. } = scene("required").await;
    let ca = servers.pem();
    let agent = clients.issue(Wish { uri: AGENT, ..Wish::default() });
    let channel = client(port, &ca, Some(&agent), "localhost").await.unwrap();
    acquire(channel.clone(), "s1", "acme").await.unwrap();
    let said = acquire(channel.clone(), "s2", "globex").await.unwrap_err();
    assert_eq!(reason(&said), "NOT_PERMITTED");
    let listed = v1::ListSessionsRequest::default();
    let said = WatchServiceClient::new(channel.clone()).list_sessions(listed).await.unwrap_err();
    assert_eq!(reason(&said), "NOT_PERMITTED", "an agent is no viewer");
    let viewer = clients.issue(Wish { dns: "Support.example.org", ..Wish::default() });
    let viewer = client(port, &ca, Some(&viewer), "localhost").await.unwrap();
    let listed = WatchServiceClient::new(viewer.clone())
        .list_sessions(v1::ListSessionsRequest::default())
        .await
        .unwrap();
    assert_eq!(listed.into_inner().sessions.len(), 1);
    let said = acquire(viewer, "s3", "acme").await.unwrap_err();
    assert_eq!(reason(&said), "NOT_PERMITTED");
    // Whoever is in, and known to no identity, may nothing; the event names it.
    let mut watch = running.watches().await;
    let mut events =
        watch.watch_sessions(v1::WatchSessionsRequest::default()).await.unwrap().into_inner();
    let other = clients.issue(Wish { uri: "spiffe://example.org/other", ..Wish::default() });
    assert_eq!(try_acquire(port, &ca, Some(&other), "s4").await, Err("NOT_PERMITTED".to_owned()));
    let nameless = clients.issue(Wish::default());
    assert_eq!(
        try_acquire(port, &ca, Some(&nameless), "s5").await,
        Err("NOT_PERMITTED".to_owned())
    );
    let actor = loop {
        let item = events.message().await.unwrap().unwrap().item.unwrap();
        if let v1::watch_sessions_response::Item::Event(event) = item
            && event.kind() == v1::EventKind::SessionRejected
            && event.actor.starts_with("URI:")
        {
            break event.actor;
        }
    };
    assert_eq!(actor, "URI:spiffe://example.org/other");
    // Taken away, it is refused at its next call, over the connection that it has.
    let text = std::fs::read_to_string(&running.config).unwrap();
    support::write(
        &running.config,
        &text.replace("roles=['agent']\ntenants=['acme']", "roles=['viewer']\ntenants=['acme']"),
    );
    eventually("its role is revoked", || {
        let channel = channel.clone();
        async move {
            let said = acquire(channel, "s1", "acme").await;
            said.is_err_and(|said| reason(&said) == "NOT_PERMITTED")
        }
    })
    .await;
    running.stop().await;
}

/// Whatever a client shows that is not a valid certificate of the right authority,
/// it gets no further than the handshake; and a client of ours trusts no other server.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_fails_for_whatever_is_expired_foreign_or_for_something_else() {
    let Scene { running, port, servers, clients, .. } = scene("required").await;
    let (ca, foreign) = (servers.pem(), Authority::new());
    let wish = Wish { uri: AGENT, ..Wish::default() };
    let good = clients.issue(wish);
    try_acquire(port, &ca, Some(&good), "good").await.unwrap();
    let cases = [
        ("no certificate", None, "CertificateRequired"),
        ("expired", Some(clients.issue(Wish { expired: true, ..wish })), "CertificateExpired"),
        // Authorities of a test are all called the same: it is the signature that tells.
        ("another authority's", Some(foreign.issue(wish)), "DecryptError"),
        (
            "a server's",
            Some(clients.issue(Wish { server: true, ..wish })),
            "UnsupportedCertificate",
        ),
        ("of the servers' authority", Some(servers.issue(wish)), "DecryptError"),
    ];
    for (what, shows, alert) in cases {
        let said = handshake(port, &ca, shows.as_ref()).await;
        assert!(said.contains(alert), "{what}: {said}");
        assert!(try_acquire(port, &ca, shows.as_ref(), "bad").await.is_err(), "{what}");
    }
    // The other way round.
    let said = client(port, &foreign.pem(), Some(&good), "localhost").await.unwrap_err();
    assert!(said.contains("BadSignature") || said.contains("UnknownIssuer"), "{said}");
    let said = client(port, &ca, Some(&good), "elsewhere.example.org").await.unwrap_err();
    assert!(said.contains("NotValidForName"), "{said}");
    // No session came of any of it.
    let mut watches = running.watches().await;
    let listed = watches.list_sessions(v1::ListSessionsRequest::default()).await.unwrap();
    let listed: Vec<_> = listed.into_inner().sessions.into_iter().map(|s| s.session_id).collect();
    assert_eq!(listed, ["good"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_server_is_not_trusted() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let server =
        servers.issue(Wish { dns: "localhost", server: true, expired: true, ..Wish::default() });
    let files = Files::new(&server, &clients.pem());
    let (running, port) = support::start_tcp(&(identities() + &files.config("required"))).await;
    let good = clients.issue(Wish { uri: AGENT, ..Wish::default() });
    let said = client(port, &servers.pem(), Some(&good), "localhost").await.unwrap_err();
    assert!(said.contains("Expired"), "{said}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_certificates_hold_for_new_connections_and_broken_ones_change_nothing() {
    let Scene { running, port, servers, clients, files } = scene("required").await;
    let good = clients.issue(Wish { uri: AGENT, ..Wish::default() });
    let live = client(port, &servers.pem(), Some(&good), "localhost").await.unwrap();
    acquire(live.clone(), "before", "acme").await.unwrap();
    // Half of a rotation, as a writer that was cut off leaves it.
    support::write(&files.path("server.pem"), "-----BEGIN CERTIFICATE-----\nAA");
    // A new server certificate, of a new authority; then one for the clients.
    let new_servers = Authority::new();
    files.serve(&new_servers.server());
    let (new_ca, shows) = (new_servers.pem(), &good);
    eventually("the new certificate is served", || {
        let new_ca = new_ca.clone();
        async move { client(port, &new_ca, Some(shows), "localhost").await.is_ok() }
    })
    .await;
    assert!(client(port, &servers.pem(), Some(&good), "localhost").await.is_err());
    acquire(live.clone(), "during", "acme").await.expect("what is connected goes on");
    let new_clients = Authority::new();
    files.trust(&new_clients.pem());
    let new = new_clients.issue(Wish { uri: AGENT, ..Wish::default() });
    eventually("the new authority is trusted", || {
        let (new_ca, new) = (new_ca.clone(), &new);
        async move { try_acquire(port, &new_ca, Some(new), "after").await.is_ok() }
    })
    .await;
    let said = try_acquire(port, &new_ca, Some(&good), "after").await.unwrap_err();
    assert!(!said.contains("NOT_PERMITTED"), "the old authority is trusted no more: {said}");
    // Files that do not do: what was holds, and an event says why.
    let mut watch = running.watches().await;
    let asked = v1::WatchSessionsRequest::default();
    let mut events = watch.watch_sessions(asked).await.unwrap().into_inner();
    support::write(&files.path("server.key"), "nonsense");
    let said = loop {
        let item = events.message().await.unwrap().unwrap().item.unwrap();
        if let v1::watch_sessions_response::Item::Event(event) = item
            && let Some(v1::event::Detail::SidecarReloaded(reloaded)) = event.detail
            && !reloaded.ok
        {
            break reloaded.error;
        }
    };
    assert!(said.contains("listen.tls.key_file") && !said.contains("nonsense"), "{said}");
    try_acquire(port, &new_ca, Some(&new), "after").await.expect("the old files hold");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_certificates_are_optional_a_token_does_and_a_wrong_one_is_not_overlooked() {
    let Scene { running, port, servers, clients, .. } = scene("optional").await;
    let ca = servers.pem();
    let with = |token: &str, tenant: &str| {
        let mut asked = Request::new(support::acquire("s", tenant));
        asked.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        asked
    };
    let bare = client(port, &ca, None, "localhost").await.unwrap();
    let mut sessions = SessionServiceClient::new(bare);
    sessions.acquire_session(with(TOKEN, "globex")).await.unwrap();
    let refused = [
        sessions.acquire_session(with(TOKEN, "acme")).await,
        sessions.acquire_session(with("tnd_wrong", "globex")).await,
        sessions.acquire_session(support::acquire("s", "globex")).await,
    ];
    for said in refused {
        assert_eq!(reason(&said.unwrap_err()), "NOT_PERMITTED");
    }
    // The token decides where both are shown.
    let agent = clients.issue(Wish { uri: AGENT, ..Wish::default() });
    let both = client(port, &ca, Some(&agent), "localhost").await.unwrap();
    let mut sessions = SessionServiceClient::new(both);
    sessions.acquire_session(support::acquire("t", "acme")).await.unwrap();
    let said = sessions.acquire_session(with(TOKEN, "acme")).await.unwrap_err();
    assert_eq!(reason(&said), "NOT_PERMITTED");
    let said = sessions.acquire_session(with("tnd_wrong", "acme")).await.unwrap_err();
    assert_eq!(reason(&said), "NOT_PERMITTED");
    // A certificate that is shown must be a good one, though none is asked for.
    let expired = clients.issue(Wish { uri: AGENT, expired: true, ..Wish::default() });
    let said = try_acquire(port, &ca, Some(&expired), "u").await.unwrap_err();
    assert!(!said.contains("NOT_PERMITTED"), "{said}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_gets_nothing_and_holds_up_nobody() {
    let Scene { running, port, servers, clients, .. } = scene("required").await;
    let at = ("127.0.0.1", port);
    // Peers that say nothing, or half a hello, and stay.
    let mut idle = Vec::new();
    for n in 0..100 {
        let mut peer = tokio::net::TcpStream::connect(at).await.unwrap();
        if n % 2 == 0 {
            peer.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).await.unwrap();
        }
        idle.push(peer);
    }
    for garbage in
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 600]]
    {
        let mut peer = tokio::net::TcpStream::connect(at).await.unwrap();
        peer.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let _ = peer.read_to_end(&mut answer).await;
        assert!(answer.len() < 16, "an alert at most: {answer:?}");
    }
    let plain = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    if let Ok(channel) = plain.connect().await {
        acquire(channel, "s", "acme").await.expect_err("is no TLS");
    }
    let good = clients.issue(Wish { uri: AGENT, ..Wish::default() });
    try_acquire(port, &servers.pem(), Some(&good), "s").await.unwrap();
    drop(idle);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_takes_all_identities_away_opens_nothing() {
    let hash = TokenHash::of(TOKEN).hex();
    let text = format!(
        "[[identities]]\nname='a'\nroles=['agent']\ntenants=['*']\ntokens=['sha256:{hash}']\n"
    );
    let (running, port) = support::start_tcp(&text).await;
    let bare = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    let bare = bare.connect().await.unwrap();
    let said = acquire(bare.clone(), "s", "acme").await.unwrap_err();
    assert_eq!(reason(&said), "NOT_PERMITTED");
    support::write(&running.config, "# nobody\n");
    eventually("the edit holds", || async {
        running.sidecar.config().access.identities().is_empty()
    })
    .await;
    let said = acquire(bare, "s", "acme").await.unwrap_err();
    assert_eq!(reason(&said), "NOT_PERMITTED");
    running.stop().await;
    // One that had none at its start is open, and closes with the first.
    let (running, port) = support::start_tcp("").await;
    let bare = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    let bare = bare.connect().await.unwrap();
    acquire(bare.clone(), "s", "acme").await.unwrap();
    support::write(&running.config, &text);
    eventually("it is closed", || {
        let bare = bare.clone();
        async move {
            acquire(bare, "s", "acme").await.is_err_and(|said| reason(&said) == "NOT_PERMITTED")
        }
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_all_places_from_afar_takes_none_of_the_agents_here() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&servers.server(), &clients.pem());
    let config =
        format!("[limits]\nmax_connections=4\n{}{}", identities(), files.config("optional"));
    let (running, port) = support::start_tcp(&config).await;
    let all = async {
        let mut there = Vec::new();
        for _ in 0..4 {
            there.push(client(port, &servers.pem(), None, "localhost").await.unwrap());
        }
        for _ in 0..3 {
            let mut watches = running.watches().await;
            watches.list_sessions(v1::ListSessionsRequest::default()).await.unwrap();
        }
    };
    let answered = tokio::time::timeout(std::time::Duration::from_secs(20), all).await;
    assert!(answered.is_ok(), "somebody waits for a place");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_taken_back_opens_no_connection() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&servers.server(), &clients.pem());
    let list = files.path("revoked.pem");
    support::write(&list, &clients.revoked(&[7], 30));
    let setting = format!("client_crl_file='{}'\n", list.display());
    let config = files.config("required") + &setting + &identities();
    let (running, port) = support::start_tcp(&config).await;
    let ca = servers.pem();
    let with = |serial| clients.issue(Wish { uri: AGENT, serial, ..Wish::default() });
    let (seventh, eighth, ninth) = (with(7), with(8), with(9));
    let is_let_in = async |pair: &Pair, id: &str| try_acquire(port, &ca, Some(pair), id).await;
    assert!(is_let_in(&seventh, "s7").await.is_err());
    let said = handshake(port, &ca, Some(&seventh)).await;
    assert!(said.contains("CertificateRevoked"), "{said}");
    is_let_in(&eighth, "s8").await.unwrap();
    // Taken back while the sidecar runs.
    support::write(&list, &clients.revoked(&[7, 8], 30));
    eventually("the new list holds", || async { is_let_in(&eighth, "s8").await.is_err() }).await;
    let said = handshake(port, &ca, Some(&eighth)).await;
    assert!(said.contains("CertificateRevoked"), "{said}");
    is_let_in(&ninth, "s9").await.unwrap();
    let is_ending = async || {
        let all = running.sidecar.figures().await.certificates;
        let list = all.iter().find(|(of, _)| of.file == "client_crl_file");
        list.map(|(_, is_ending)| *is_ending)
    };
    assert_eq!(is_ending().await, Some(false));
    // A list that is late still tells whom it has in it, and lets the others in.
    support::write(&list, &clients.revoked(&[7, 9], -1));
    eventually("the late list holds", || async { is_let_in(&ninth, "s8").await.is_err() }).await;
    let said = handshake(port, &ca, Some(&ninth)).await;
    assert!(said.contains("CertificateRevoked"), "{said}");
    is_let_in(&eighth, "s8").await.unwrap();
    assert_eq!(is_ending().await, Some(true), "and that it is late is told");
    // One that does not do changes nothing.
    let mut watch = running.watches().await;
    let asked = v1::WatchSessionsRequest::default();
    let mut events = watch.watch_sessions(asked).await.unwrap().into_inner();
    support::write(&list, "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    let told = async {
        loop {
            let item = events.message().await.unwrap().unwrap().item.unwrap();
            if let v1::watch_sessions_response::Item::Event(event) = item
                && event.kind() == v1::EventKind::SidecarReloaded
            {
                return format!("{event:?}");
            }
        }
    };
    let told = tokio::time::timeout(std::time::Duration::from_secs(20), told).await.unwrap();
    assert!(told.contains("listen.tls.client_crl_file"), "{told}");
    is_let_in(&eighth, "s8").await.unwrap();
    assert!(is_let_in(&ninth, "s9").await.is_err());
    // Where an authority has no list nobody knows who is left of its certificates.
    support::write(&list, &servers.revoked(&[], 30));
    eventually("nobody is let in", || async { is_let_in(&eighth, "s8").await.is_err() }).await;
    running.stop().await;
}
