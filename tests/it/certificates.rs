//! Certificates of a test, made by authorities of its own.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};

/// Who signs.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a certificate is to be.
#[derive(Clone, Copy, Default)]
pub struct Wish<'a> {
    pub uri: &'a str,
    pub dns: &'a str,
    pub expired: bool,
    /// Of 90 days, of which so many are left; 0: for ever.
    pub days_left: i64,
    /// For an authority's lists; 0: any.
    pub serial: u64,
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
        // Not the name of what it signs: BoringSSL takes that for self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
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
        if wish.days_left != 0 {
            let now = time::OffsetDateTime::now_utc();
            params.not_before = now - time::Duration::days(90 - wish.days_left);
            // And a bit, so that it is so many whole ones.
            params.not_after = now + time::Duration::hours(wish.days_left * 24 + 1);
        }
        if wish.serial != 0 {
            params.serial_number = Some(wish.serial.into());
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    /// The list of what it has taken back, which should be replaced in so many days.
    pub fn revoked(&self, serials: &[u64], days_left: i64) -> String {
        let now = time::OffsetDateTime::now_utc();
        let revoked = |serial: &u64| rcgen::RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: now - time::Duration::days(1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = rcgen::CertificateRevocationListParams {
            this_update: now - time::Duration::days(90),
            next_update: now + time::Duration::days(days_left),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
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
