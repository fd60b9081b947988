//! The tenant id, and which tenant a session is bound to.

use std::{fmt, sync::Arc};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::reject::Rejection;

/// The metadata key that names the tenant.
pub const METADATA_KEY: &str = "tenant";
/// Longest tenant id, in characters.
pub const MAX_LEN: usize = 128;
/// How many characters of a malformed id an error shows.
const SHOWN: usize = 48;

/// A valid tenant id. The only way to make one is to validate, so whoever holds
/// one may use it as a key, a label or a log field.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// The tenant of sessions that name none.
    #[must_use]
    pub fn default_tenant() -> Self {
        Self(Arc::from("default"))
    }

    /// Trims ASCII white space, then takes 1-128 characters of `[A-Za-z0-9_-]`.
    ///
    /// # Errors
    /// `TENANT_MALFORMED`, with the value escaped and cut.
    pub fn parse(raw: &str) -> Result<Self, Rejection> {
        let id = raw.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}');
        let valid = (1..=MAX_LEN).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if valid { Ok(Self(Arc::from(id))) } else { Err(Rejection::tenant_malformed(&shown(raw))) }
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for TenantId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A value as an error may show it: quoted, ASCII, cut. Metadata is written by
/// strangers, and this ends in logs and terminals.
fn shown(raw: &str) -> String {
    let cut: String = raw.chars().take(SHOWN).collect();
    let more = if cut.len() < raw.len() { "..." } else { "" };
    format!("\"{}\"{more} ({} characters)", cut.escape_default(), raw.chars().count())
}

/// Binds a session to its tenant from the dispatcher's raw metadata and an
/// optional explicit id. Room first, then job, the job wins; text that is not a
/// JSON object is somebody's free text and names no tenant.
///
/// # Errors
/// `TENANT_MALFORMED`, or `TENANT_CONFLICT` when the explicit tenant differs
/// from the one in the metadata.
pub fn bind(job: &str, room: &str, explicit: &str) -> Result<TenantId, Rejection> {
    // The job's key shadows the room's even when its value is empty.
    let claimed = match claim(job).or_else(|| claim(room)) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) => Some(TenantId::parse(&text)?),
        Some(other) => return Err(Rejection::tenant_malformed(kind_of(&other))),
    };
    if explicit.is_empty() {
        return Ok(claimed.unwrap_or_else(TenantId::default_tenant));
    }
    let explicit = TenantId::parse(explicit)?;
    match claimed {
        Some(claimed) if claimed != explicit => {
            Err(Rejection::tenant_conflict(&explicit, &claimed))
        }
        _ => Ok(explicit),
    }
}

const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The value under the tenant key of a JSON object; `None` for any other text.
fn claim(metadata: &str) -> Option<Value> {
    if metadata.trim().is_empty() {
        return None;
    }
    let mut json = serde_json::Deserializer::from_str(metadata);
    let found = TenantKey.deserialize(&mut json).ok()?;
    json.end().ok()?;
    found
}

/// Reads one key of an object and skips the rest without building it.
struct TenantKey;

impl<'de> DeserializeSeed<'de> for TenantKey {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TenantKey {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == METADATA_KEY {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Case {
        #[serde(default)]
        job: String,
        #[serde(default)]
        room: String,
        #[serde(default)]
        explicit: String,
        ok: Option<String>,
        reject: Option<String>,
    }

    #[derive(Deserialize)]
    struct Contract {
        cases: Vec<Case>,
    }

    #[test]
    fn every_contract_case_binds_the_tenant_it_says() {
        let contract: Contract =
            serde_json::from_str(include_str!("../../tests/contract/tenants.json")).unwrap();
        assert!(contract.cases.len() > 30);
        for case in contract.cases {
            let bound = bind(&case.job, &case.room, &case.explicit);
            let got = bound.as_ref().map(TenantId::as_str).map_err(|r| r.reason.name());
            let want = case.ok.as_deref().ok_or_else(|| case.reject.as_deref().unwrap());
            assert_eq!(
                got, want,
                "job {:?} room {:?} explicit {:?}",
                case.job, case.room, case.explicit
            );
        }
    }

    #[test]
    fn a_malformed_id_is_shown_escaped_and_cut() {
        let hostile = format!("\u{1b}[31m\n{}", "x".repeat(500));
        let refused = TenantId::parse(&hostile).unwrap_err();
        assert!(refused.message.is_ascii() && !refused.message.contains(['\u{1b}', '\n']));
        assert!(refused.message.len() < 300, "{}", refused.message);
    }

    #[test]
    fn deep_nesting_beside_the_key_does_not_hide_it() {
        let deep =
            format!("{{\"x\":{}{},\"tenant\":\"acme\"}}", "[".repeat(5000), "]".repeat(5000));
        assert_eq!(bind(&deep, "", "").unwrap().as_str(), "acme");
    }
}
