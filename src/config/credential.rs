//! `env:NAME`, `file:PATH`, `vault:PATH#FIELD`, or a literal.

use std::path::Path;

use crate::domain::provider::{CredentialRef, Secret};

/// Reads a reference. Relative paths start at the config file's folder.
///
/// # Errors
/// What would be valid; never the text itself.
pub fn parse(text: &str, folder: &Path) -> Result<CredentialRef, String> {
    if text.is_empty() {
        return Err(
            "must not be empty; use env:NAME, file:PATH, vault:PATH#FIELD or a literal".to_owned()
        );
    }
    if let Some(name) = text.strip_prefix("env:") {
        let valid = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        return if valid {
            Ok(CredentialRef::Env(name.to_owned()))
        } else {
            Err("env: must be followed by a variable name of [A-Za-z0-9_]".to_owned())
        };
    }
    if let Some(path) = text.strip_prefix("file:") {
        return if path.is_empty() || path.contains('\0') {
            Err("file: must be followed by a path".to_owned())
        } else {
            Ok(CredentialRef::File(folder.join(path)))
        };
    }
    if let Some(place) = text.strip_prefix("vault:") {
        let rule = "vault: must be followed by MOUNT/PATH#FIELD, for example vault:secret/acme/openai#api_key";
        let (path, field) = place.split_once('#').ok_or(rule)?;
        let named = |part: &str| !part.is_empty() && !part.contains(char::is_control);
        let whole = path.split('/').count() >= 2 && path.split('/').all(|p| named(p) && p != "..");
        return if whole && named(field) {
            Ok(CredentialRef::Vault { path: path.to_owned(), field: field.to_owned() })
        } else {
            Err(rule.to_owned())
        };
    }
    if let Some(literal) = text.strip_prefix("literal:") {
        return Ok(CredentialRef::Literal(Secret::new(literal.to_owned())));
    }
    let scheme = text.split_once(':').map(|(scheme, _)| scheme);
    if scheme.is_some_and(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphabetic())) {
        return Err("has an unknown scheme; use env:NAME, file:PATH, vault:PATH#FIELD, or literal:TEXT for a key that holds a colon".to_owned());
    }
    Ok(CredentialRef::Literal(Secret::new(text.to_owned())))
}
