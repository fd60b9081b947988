//! The sidecar's config, whole and half-written, and the keys that are in it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use crate::{dice::Dice, link::Secure};

/// Begins every secret.
pub const KEY: &str = "k3y-";
/// Tenants with an entry, with their cap.
pub const TENANTS: [(&str, Option<u32>); 4] =
    [("sibling", Some(4)), ("acme", Some(6)), ("globex", Some(4)), ("initech", None)];
/// An agent's cap, over all tenants.
pub const AGENT: (&str, u32) = ("narrow", 4);

const BREAKER: &str = "breaker = { min_samples = 4, cooldown = \"1s\", cooldown_max = \"3s\", probe_healthy_after = \"1s\" }";

/// The file.
pub struct File {
    pub path: PathBuf,
    pub machine: u32,
    /// Keys are others in each generation.
    pub generation: u32,
    /// Where Prometheus would ask.
    pub scraped: std::net::SocketAddr,
    pub secure: Secure,
}

impl File {
    pub fn text(&self) -> String {
        let mut text = format!(
            "[limits]\nmax_sessions = {}\nheartbeat = \"1s\"\ntenant_idle_after = \"1s\"\n\
             [lease]\npending = \"5s\"\nttl = \"6s\"\nttl_min = \"1s\"\ngrace = \"5s\"\n\
             [drain]\ntimeout = \"20s\"\n\
             [telemetry]\nprometheus = \"{}\"\n\
             [agents.{}]\ncap = {}\n",
            self.machine, self.scraped, AGENT.0, AGENT.1
        );
        text.push_str(&self.secure.config());
        text.push_str(&format!("[defaults]\n{BREAKER}\n"));
        text.push_str(&provider("defaults", "defaults", self.generation));
        for (tenant, cap) in TENANTS {
            text.push_str(&format!("[tenants.{tenant}]\n"));
            if let Some(cap) = cap {
                text.push_str(&format!("cap = {cap}\n"));
            }
            if tenant != "sibling" {
                text.push_str(&format!("{BREAKER}\n"));
            }
            text.push_str(&provider(&format!("tenants.{tenant}"), tenant, self.generation));
        }
        text
    }

    /// As long as a careless editor has written: the sibling's entry is whole, and
    /// what comes after it is cut anywhere.
    pub fn half(&self, dice: &mut Dice) -> String {
        let text = self.text();
        let from = text.find("[tenants.acme]").unwrap();
        let more = dice.roll((text.len() - from) as u64);
        text[..from + usize::try_from(more).unwrap()].to_owned()
    }

    /// Writes as an editor without care does: into the file itself.
    pub fn write(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

fn provider(table: &str, whose: &str, generation: u32) -> String {
    format!(
        "[{table}.providers.llm]\nprovider = \"openai\"\ncredential = \"{KEY}{whose}-{generation}\"\n"
    )
}

/// Whether a session of this tenant may have been given this key: its own of any
/// generation, or that of the defaults where its entry was cut off for a while.
pub fn may_have(tenant: &str, key: &str) -> bool {
    let Some((whose, generation)) = key.strip_prefix(KEY).and_then(|of| of.rsplit_once('-')) else {
        return false;
    };
    (whose == tenant || whose == "defaults") && generation.parse::<u32>().is_ok()
}
