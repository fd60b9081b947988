//! Compiles `proto/` with protox, so that no protoc has to be installed, and
//! keeps the descriptor set (with comments) for server reflection.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use prost::Message as _;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

const PROTOS: [&str; 4] = [
    "tenantd/v1/session_service.proto",
    "tenantd/v1/watch_service.proto",
    "tenantd/v1/admin_service.proto",
    "tenantd/v1/tenant_config_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::Compiler::new(["proto"])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(PROTOS)?
        .file_descriptor_set();
    fs::write(out.join("tenantd.v1.bin"), descriptors.encode_to_vec())?;
    served(&descriptors, &out)?;
    // `reason.proto` is reached through `event.proto`.
    tonic_prost_build::configure()
        // A generated Debug would print keys; `wire` writes a redacting one.
        .skip_debug(["tenantd.v1.Credential", "tenantd.v1.ResolveTenantResponse"])
        .compile_fds(descriptors)?;
    Ok(())
}

/// Answers with parts that are encoded once and sent many times: a tenant's config, and
/// what watchers are told.
const SPLICED: [(&str, &[&str]); 5] = [
    ("AcquireSessionResponse", &["SessionConfig"]),
    ("GetSessionConfigResponse", &["SessionConfig"]),
    // They have the two above in them.
    ("WorkAnswer", &[]),
    ("WorkResponse", &[]),
    ("WatchSessionsResponse", &["Event", "Session", "Tenant"]),
];

/// Of these, those that carry credentials.
const WITH_CONFIG: [&str; 4] =
    ["AcquireSessionResponse", "GetSessionConfigResponse", "WorkAnswer", "WorkResponse"];

/// `SessionService` and `WatchService` once more as they are served: such a part is
/// `bytes`, which look the same on the wire, so that what was encoded once is put in as
/// it is. All other types are those of `wire::v1`.
fn served(descriptors: &FileDescriptorSet, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut descriptors = descriptors.clone();
    let mut prost = tonic_prost_build::Config::new();
    let mut tonic = tonic_prost_build::configure().build_client(false);
    let spliced = |message: &str| SPLICED.iter().find(|(name, _)| *name == message);
    for file in &mut descriptors.file {
        if file.package() != "tenantd.v1" {
            continue;
        }
        file.service.retain(|service| matches!(service.name(), "SessionService" | "WatchService"));
        let enums = file.enum_type.iter().map(|of| of.name().to_owned());
        let messages = file.message_type.iter().map(|of| of.name().to_owned());
        for name in enums.chain(messages).filter(|name| spliced(name).is_none()) {
            tonic = tonic
                .extern_path(format!(".tenantd.v1.{name}"), format!("crate::wire::v1::{name}"));
        }
        for message in &mut file.message_type {
            let Some((_, parts)) = spliced(message.name()) else { continue };
            for field in &mut message.field {
                let kind = field.type_name().trim_start_matches(".tenantd.v1.").to_owned();
                if parts.contains(&kind.as_str()) {
                    field.type_name = None;
                    field.set_type(Type::Bytes);
                }
            }
        }
    }
    let folder = out.join("served");
    fs::create_dir_all(&folder)?;
    prost.bytes(["."]);
    tonic
        .out_dir(folder)
        .skip_debug(WITH_CONFIG.map(|name| format!("tenantd.v1.{name}")))
        .compile_fds_with_config(descriptors, prost)?;
    Ok(())
}
