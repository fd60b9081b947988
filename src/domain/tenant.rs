//! The tenant id, and which tenant a session is bound to.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

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

impl serde::Serialize for TenantId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

/// As strict as `parse`: what is read back is no more to be trusted.
impl<'de> serde::Deserialize<'de> for TenantId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
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
        None | Some(Claim::Null) => None,
        Some(Claim::Text(text)) if text.is_empty() => None,
        Some(Claim::Text(text)) => Some(TenantId::parse(&text)?),
        Some(Claim::Malformed(shown)) => return Err(Rejection::tenant_malformed(shown)),
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

/// What stands under the tenant key.
#[derive(Debug)]
enum Claim {
    Null,
    Text(String),
    /// With what an error says of it.
    Malformed(&'static str),
}

/// The claim of a JSON object; `None` for any other text.
fn claim(metadata: &str) -> Option<Claim> {
    if metadata.trim().is_empty() {
        return None;
    }
    let read = |members: Members| {
        let mut json = serde_json::Deserializer::from_str(metadata);
        let found = members.deserialize(&mut json).ok()?;
        json.end().ok().map(|()| found)
    };
    if let Some(found) = read(Members { keys: Key::Text, values: true }) {
        return found;
    }
    // JSON may hold what serde_json cannot: numbers out of any range, halves of
    // characters. Such an object still names a tenant, if not one that is valid;
    // to take it for free text would run the session as `default`.
    serde_json::from_str::<IgnoredAny>(metadata).ok()?;
    read(Members { keys: Key::Bytes, values: true })
        .or_else(|| read(Members { keys: Key::Bytes, values: false }))?
}

/// Reads one key of an object and skips the rest without building it, at any
/// depth. Without `values` it only tells whether the key is there.
struct Members {
    keys: Key,
    values: bool,
}

impl<'de> DeserializeSeed<'de> for Members {
    type Value = Option<Claim>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = Option<Claim>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_tenant) = map.next_key_seed(self.keys)? {
            if is_tenant && self.values {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
                if is_tenant {
                    found = Some(Claim::Malformed("a value that is no text"));
                }
            }
        }
        Ok(found)
    }
}

/// How keys are read, to see whether one is the tenant's. As bytes they may hold
/// half a character, and control characters that JSON does not allow.
#[derive(Clone, Copy)]
enum Key {
    Text,
    Bytes,
}

impl<'de> DeserializeSeed<'de> for Key {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        match self {
            Self::Text => json.deserialize_str(self),
            Self::Bytes => json.deserialize_bytes(self),
        }
    }
}

impl Visitor<'_> for Key {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<bool, E> {
        Ok(key == METADATA_KEY.as_bytes())
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == METADATA_KEY)
    }
}

impl<'de> Deserialize<'de> for Claim {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(ClaimVisitor)
    }
}

struct ClaimVisitor;

impl<'de> Visitor<'de> for ClaimVisitor {
    type Value = Claim;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Claim, E> {
        Ok(Claim::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Claim, E> {
        Ok(Claim::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Claim, E> {
        Ok(Claim::Malformed("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Claim, E> {
        Ok(Claim::Malformed("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Claim, E> {
        Ok(Claim::Malformed("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Claim, E> {
        Ok(Claim::Malformed("a number"))
    }

    // The elements are skipped one by one: however deep, nothing recurses.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Claim, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Claim::Malformed("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claim, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Claim::Malformed("an object"))
    }
}

#[cfg(test)]
mod tests {
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
