//! The generated wire types of `tenantd.v1`, and the two things that generated
//! code gets wrong for secrets: `Debug` that prints them, and memory that keeps
//! them after use.

use std::fmt;

use zeroize::Zeroize as _;

/// Package `tenantd.v1`, generated from `proto/` by `build.rs`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("tenantd.v1");
}

/// `SessionService` and `WatchService` as they are served: a config, and what watchers are
/// told, is encoded already.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod served {
    include!(concat!(env!("OUT_DIR"), "/served/tenantd.v1.rs"));
}

/// The encoded descriptor set of `tenantd.v1`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tenantd.v1.bin"));

impl fmt::Debug for v1::Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential([redacted])")
    }
}

impl fmt::Debug for served::AcquireSessionResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireSessionResponse")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for served::GetSessionConfigResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GetSessionConfigResponse([redacted])")
    }
}

impl Drop for v1::Credential {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

impl std::fmt::Debug for v1::ResolveTenantResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResolveTenantResponse")
            .field("config", &self.config.as_ref().map(|_| "[redacted]"))
            .field("unchanged", &self.unchanged)
            .finish_non_exhaustive()
    }
}

/// All methods of the API and of health, as `package.Service/Method`.
#[must_use]
pub fn methods() -> Vec<String> {
    use prost::Message as _;
    let mut methods = Vec::new();
    for set in [FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
        let Ok(set) = prost_types::FileDescriptorSet::decode(set) else { continue };
        for file in set.file.iter().filter(|file| !file.service.is_empty()) {
            for service in &file.service {
                methods.extend(service.method.iter().map(|method| {
                    format!("{}.{}/{}", file.package(), service.name(), method.name())
                }));
            }
        }
    }
    methods
}
