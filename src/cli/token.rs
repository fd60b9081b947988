//! `tenantd token`: bearer tokens of identities.

use std::io::Read as _;

use zeroize::Zeroizing;

use crate::domain::access::TokenHash;

/// Shortest token that is hashed: shorter ones can be guessed from their hash.
const MIN_TOKEN: usize = 32;
/// Longest.
const MAX_TOKEN: usize = 1024;

/// Bearer tokens of identities
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Prints a new token, once, and its hash for the config file
    #[command(
        after_help = "Examples:\n  tenantd token new\n  tenantd token new --json\n\nThe token goes to the caller (TENANTD_TOKEN_FILE), the hash into the config file:\n  [[identities]]\n  name = \"acme-agents\"\n  roles = [\"agent\"]\n  tenants = [\"acme\"]\n  tokens = [\"sha256:...\"]\n\nTo rotate, add the new hash, hand the new token over, take the old hash away."
    )]
    New {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Prints the hash of a token that is read from standard input
    #[command(after_help = "Examples:\n  tenantd token hash < token-file")]
    Hash,
}

/// Runs it.
///
/// # Errors
/// No randomness, no token on standard input, or standard output closed.
pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::New { json } => {
            let mut random = Zeroizing::new([0_u8; 32]);
            getrandom::fill(random.as_mut())
                .map_err(|error| anyhow::anyhow!("the system gives no randomness: {error}"))?;
            let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            let token = Zeroizing::new(format!("tnd_{}", *Zeroizing::new(digits)));
            let hash = format!("sha256:{}", TokenHash::of(&token).hex());
            if *json {
                let object = serde_json::json!({ "token": *token, "hash": hash });
                return super::operate::line(&object.to_string());
            }
            super::operate::line(&format!("token  {}", *token))?;
            super::operate::line(&format!("hash   {hash}"))
        }
        Command::Hash => {
            let mut text = Zeroizing::new(String::new());
            std::io::stdin().take(MAX_TOKEN as u64 + 2).read_to_string(&mut text)?;
            let token = text.trim_end_matches(['\r', '\n']);
            let valid = (MIN_TOKEN..=MAX_TOKEN).contains(&token.len())
                && token.bytes().all(|byte| byte.is_ascii_graphic());
            anyhow::ensure!(
                valid,
                "the token on standard input must be one line of {MIN_TOKEN} to {MAX_TOKEN} printable ASCII characters without spaces, got {} characters; `tenantd token new` makes one",
                token.chars().count()
            );
            super::operate::line(&format!("sha256:{}", TokenHash::of(token).hex()))
        }
    }
}
