//! How an agent reaches the sidecar, and what it shows there.

use std::net::SocketAddr;

use tenantd::domain::access::TokenHash;

use crate::{
    certificates::{Authority, Files, Wish},
    config::KEY,
};

const URI: &str = "spiffe://example.org/faults/agent";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The unix socket, as the sidecar's own user.
    Socket,
    /// TLS, with a client certificate.
    Certificate,
    /// TLS, with a bearer token.
    Token,
}

impl Link {
    /// The one of the agent that is started as the `n`th. Each kind of agent takes
    /// each of them in turn, since there are three kinds.
    pub const fn of(n: usize) -> Self {
        match n % 4 {
            0 | 2 => Self::Socket,
            1 => Self::Certificate,
            _ => Self::Token,
        }
    }

    pub const ALL: [Self; 3] = [Self::Socket, Self::Certificate, Self::Token];

    /// What the table calls the sessions that were granted over it.
    pub const fn sessions(self) -> &'static str {
        match self {
            Self::Socket => "grants, unix socket",
            Self::Certificate => "grants, TLS certificate",
            Self::Token => "grants, TLS and token",
        }
    }

    pub fn is_tls(self) -> bool {
        self != Self::Socket
    }
}

/// The TCP listener: where it is, and the certificates and tokens of it.
pub struct Secure {
    pub address: SocketAddr,
    servers: Authority,
    files: Files,
    token: String,
}

impl Secure {
    pub fn new() -> Self {
        let (servers, clients) = (Authority::new(), Authority::new());
        let files = Files::new(&servers.server(), &clients.pem());
        std::fs::write(files.path("ca.pem"), servers.pem()).unwrap();
        let agent = clients.issue(Wish { uri: URI, ..Wish::default() });
        std::fs::write(files.path("agent.pem"), agent.certificate).unwrap();
        std::fs::write(files.path("agent.key"), agent.key).unwrap();
        // Searched for like every other key.
        let token = format!("{KEY}bearer-{:032x}", u128::from(rand_bits()));
        Self { address: free_address(), servers, files, token }
    }

    /// Another certificate of the same authority, as a renewal brings it.
    pub fn renew(&self) {
        self.files.serve(&self.servers.server());
    }

    /// The part of the sidecar's config.
    pub fn config(&self) -> String {
        let hash = TokenHash::of(&self.token).hex();
        let agent = "roles = [\"agent\"]\ntenants = [\"*\"]\n";
        self.files.config("optional")
            + &format!("[[identities]]\nname = \"by-certificate\"\n{agent}uris = [\"{URI}\"]\n")
            + &format!("[[identities]]\nname = \"by-token\"\n{agent}tokens = [\"sha256:{hash}\"]\n")
    }

    /// What an agent's process is told, whichever client it is.
    pub fn environment(&self, link: Link) -> Vec<(&'static str, String)> {
        let file = |name| self.files.path(name).display().to_string();
        let trusts = ("TENANTD_CA_FILE", file("ca.pem"));
        match link {
            Link::Socket => Vec::new(),
            Link::Certificate => vec![
                trusts,
                ("TENANTD_CERT_FILE", file("agent.pem")),
                ("TENANTD_KEY_FILE", file("agent.key")),
            ],
            Link::Token => vec![trusts, ("TENANTD_TOKEN", self.token.clone())],
        }
    }
}

/// One that stays free while no sidecar runs: below those that the kernel gives to
/// whoever connects.
pub fn free_address() -> SocketAddr {
    let first = 20_000 + u16::try_from(rand_bits() % 10_000).unwrap();
    (first..32_000)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .find(|address| std::net::TcpListener::bind(address).is_ok())
        .expect("a port is free")
}

/// Other ones in each run; no seed decides them.
fn rand_bits() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}
