//! Certificates of a test, made by authorities of its own.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};

/// Who signs.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a certificate is to be.
#[derive(Clone, Copy, Default)]
pub struct Wish<'a> {
    pub uri: &'a str,
    pub dns: &'a str,
    pub expired: bool,
    /// For servers, where a client's is the usual.
    pub server: bool,
}

pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn issue(&self, wish: Wish<'_>) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let names = &mut params.subject_alt_names;
        if !wish.uri.is_empty() {
            names.push(SanType::URI(wish.uri.try_into().unwrap()));
        }
        if !wish.dns.is_empty() {
            names.push(SanType::DnsName(wish.dns.try_into().unwrap()));
        }
        params.extended_key_usages = vec![if wish.server {
            ExtendedKeyUsagePurpose::ServerAuth
        } else {
            ExtendedKeyUsagePurpose::ClientAuth
        }];
        if wish.expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    /// Of a server that is called "localhost".
    pub fn server(&self) -> Pair {
        self.issue(Wish { dns: "localhost", server: true, ..Wish::default() })
    }
}

/// The files of one listener.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new(server: &Pair, clients: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.serve(server);
        files.trust(clients);
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn serve(&self, pair: &Pair) {
        write(&self.path("server.pem"), &pair.certificate);
        write(&self.path("server.key"), &pair.key);
    }

    pub fn trust(&self, pem: &str) {
        write(&self.path("clients.pem"), pem);
    }

    /// As the config names them.
    pub fn config(&self, client_cert: &str) -> String {
        let path = |name| self.path(name).display().to_string();
        format!(
            "[listen.tls]\ncert_file='{}'\nkey_file='{}'\nclient_ca_file='{}'\nclient_cert='{client_cert}'\n",
            path("server.pem"),
            path("server.key"),
            path("clients.pem"),
        )
    }
}

/// In one step, and private.
fn write(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, path).unwrap();
}
