//! TLS of the TCP listener: the handshake, and files that are read again when they
//! change, so that a rotated certificate needs no restart.

mod revoked;

use std::{
    collections::HashMap,
    fs,
    io::{self, BufReader, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_parser::time::ASN1Time;

use crate::{
    app::Sidecar,
    config::ListenTls,
    domain::{time::Timestamp, validity::Validity},
    transport::movable::Movable,
};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Largest file.
const MAX_FILE: u64 = 1024 * 1024;
/// Longest name in a client certificate that is taken.
const MAX_NAME: usize = 2048;

/// How often it is told that one ends.
const TELL_EVERY: Duration = Duration::from_secs(24 * 3600);

/// What tells that a file became another one.
type Looks = Vec<Option<(u64, u64, u64, i64, i64)>>;

/// The TLS of one listener.
pub struct Tls {
    files: ListenTls,
    current: ArcSwap<ServerConfig>,
    loaded: Looks,
    /// Of the files as they were loaded.
    validities: Vec<Validity>,
}

/// A connection whose peer is verified as far as it showed a certificate.
pub struct Secured {
    pub stream: Box<TlsStream<Movable>>,
    /// Names in the peer's certificate, as identities have them.
    pub names: Arc<[String]>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file does not do, and why.
    pub fn load(files: ListenTls) -> anyhow::Result<Self> {
        // Before they are read: a change in between is then seen as one.
        let loaded = looks(&files);
        let (current, validities) = server_config(&files)?;
        Ok(Self { files, current: ArcSwap::from(current), loaded, validities })
    }

    /// How long its files are good.
    pub fn validities(&self) -> &[Validity] {
        &self.validities
    }

    /// Takes changed files over, for connections that come then, and tells so. Of
    /// files that do not do it is told why, and the old ones hold. Runs as long as
    /// the listener.
    pub async fn follow(self: Arc<Self>, sidecar: Arc<Sidecar>) {
        let mut seen = self.loaded.clone();
        sidecar.certificates_are(self.validities.clone());
        let mut endings = Endings::default();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            endings.tell(&sidecar);
            let tls = Arc::clone(&self);
            let before = seen.clone();
            // Off the threads that serve: a mount may hang.
            let looked = tokio::task::spawn_blocking(move || {
                let now = looks(&tls.files);
                let read = (now != before).then(|| server_config(&tls.files));
                (now, read)
            });
            let Ok((now, read)) = looked.await else { continue };
            seen = now;
            let taken = match read {
                None => continue,
                Some(Ok((config, validities))) => {
                    self.current.store(config);
                    sidecar.certificates_are(validities);
                    endings = Endings::default();
                    Ok(())
                }
                Some(Err(error)) => Err(format!("{error:#}")),
            };
            sidecar.certificates_changed(taken);
        }
    }

    /// Clients show certificates, or may.
    pub fn asks_certificates(&self) -> bool {
        self.files.client_ca_file.is_some()
    }

    /// Makes a connection secure. A peer that does not go on for `patience` gives its
    /// place back.
    ///
    /// # Errors
    /// Why not; the peer has learned it by TLS's own means.
    pub async fn handshake(&self, socket: TcpStream, patience: Duration) -> io::Result<Secured> {
        let acceptor = TlsAcceptor::from(self.current.load_full());
        let stream = tokio::time::timeout(patience, acceptor.accept(Movable::new(socket)))
            .await
            .map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, "it did not end in limits.handshake_timeout")
        })??;
        let (_, session) = stream.get_ref();
        let names = session.peer_certificates().and_then(<[_]>::first).map(names);
        Ok(Secured { names: names.unwrap_or_default().into(), stream: Box::new(stream) })
    }
}

/// Tells that files end, each once a day.
#[derive(Default)]
struct Endings(HashMap<&'static str, Timestamp>);

impl Endings {
    fn tell(&mut self, sidecar: &Sidecar) {
        let now = sidecar.now();
        for of in sidecar.certificates() {
            let is_told = |told: &Timestamp| now.mono.since(*told) < TELL_EVERY;
            if !of.is_ending(now.wall) || self.0.get(of.file).is_some_and(is_told) {
                continue;
            }
            self.0.insert(of.file, now.mono);
            let until = humantime::format_rfc3339_seconds(UNIX_EPOCH + of.until);
            let (file, told) = (of.file, of.told(now.wall));
            match of.left(now.wall) {
                Some(_) => tracing::warn!(file, %until, "listen.tls.{file} {told}: renew it"),
                None => tracing::error!(file, %until, "listen.tls.{file} {told}: renew it"),
            }
        }
    }
}

/// Names that identities can be known by. Other bytes than printable ASCII are in
/// no name that a config can hold, and would only get into logs.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let uris = certificate.valid_uri_names().map(|uri| format!("URI:{uri}"));
    let dns = certificate.valid_dns_names().map(|dns| format!("DNS:{}", dns.to_ascii_lowercase()));
    uris.chain(dns)
        .filter(|name| name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_graphic()))
        .collect()
}

fn looks(files: &ListenTls) -> Looks {
    let clients = [files.client_ca_file.as_ref(), files.client_crl_file.as_ref()];
    let all = [Some(&files.cert_file), Some(&files.key_file)].into_iter().chain(clients);
    all.flatten()
        .map(|path| {
            let of = fs::metadata(path).ok()?;
            Some((of.dev(), of.ino(), of.len(), of.mtime(), of.mtime_nsec()))
        })
        .collect()
}

fn server_config(files: &ListenTls) -> anyhow::Result<(Arc<ServerConfig>, Vec<Validity>)> {
    let mut validities = Vec::new();
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let authorities = certificates(path, "client_ca_file")?;
            // One of several may be the old one of a rotation.
            validities.extend(of_each(path, "client_ca_file", &authorities)?.max_by_key(end));
            for certificate in authorities {
                roots.add(certificate).with_context(|| wrong(path, "client_ca_file"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match &files.client_crl_file {
                None => verifier,
                Some(path) => {
                    let lists = revoked::read(path)?;
                    validities.extend(lists.validity);
                    // An authority without a list: nobody of it is let in. One whose time is
                    // over still tells whom it has in it.
                    verifier.with_crls(lists.lists)
                }
            };
            let verifier = if files.client_cert_required {
                verifier
            } else {
                verifier.allow_unauthenticated()
            };
            builder.with_client_cert_verifier(verifier.build().with_context(|| {
                match &files.client_crl_file {
                    Some(lists) => format!(
                        "{} and {}",
                        wrong(path, "client_ca_file"),
                        wrong(lists, "client_crl_file")
                    ),
                    None => wrong(path, "client_ca_file"),
                }
            })?)
        }
    };
    let chain = certificates(&files.cert_file, "cert_file")?;
    validities.extend(of_each(&files.cert_file, "cert_file", &chain)?.min_by_key(end));
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key_file, "key_file")?)
        .with_context(|| wrong(&files.key_file, "key_file"))?;
    let mut config = builder.with_single_cert(chain, key).with_context(|| {
        format!(
            "{} and {}",
            wrong(&files.cert_file, "cert_file"),
            wrong(&files.key_file, "key_file")
        )
    })?;
    // Nothing else is spoken here, and gRPC clients insist on hearing so.
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A session that goes on where it left off would skip the look at the client's
    // certificate, which may have expired meanwhile.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), validities))
}

fn end(of: &Validity) -> Duration {
    of.until
}

/// How long each certificate of a file is good.
fn of_each(
    path: &Path,
    file: &'static str,
    certificates: &[CertificateDer<'_>],
) -> anyhow::Result<std::vec::IntoIter<Validity>> {
    let mut all = Vec::new();
    for der in certificates {
        let (_, certificate) = x509_parser::parse_x509_certificate(der)
            .map_err(|_| anyhow::anyhow!("{} holds no certificate", wrong(path, file)))?;
        let validity = certificate.validity();
        let (from, until) = (since_epoch(&validity.not_before), since_epoch(&validity.not_after));
        all.push(Validity { file, from, until });
    }
    Ok(all.into_iter())
}

fn since_epoch(time: &ASN1Time) -> Duration {
    Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn certificates(path: &Path, key: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path, key)?;
    let all = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let all = all.with_context(|| wrong(path, key))?;
    anyhow::ensure!(!all.is_empty(), "{} holds no PEM certificate", wrong(path, key));
    Ok(all)
}

fn read(path: &Path, key: &str) -> anyhow::Result<zeroize::Zeroizing<Vec<u8>>> {
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    let file = fs::File::open(path).with_context(|| wrong(path, key))?;
    let read = BufReader::new(file).take(MAX_FILE).read_to_end(&mut bytes);
    read.with_context(|| wrong(path, key))?;
    Ok(bytes)
}

fn wrong(path: &Path, key: &str) -> String {
    format!("listen.tls.{key} {}", path.display())
}
