//! Compiles `proto/` with protox, so that no protoc has to be installed, and
//! keeps the descriptor set (with comments) for server reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

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
    // `reason.proto` is reached through `event.proto`.
    tonic_prost_build::configure()
        // A generated Debug would print keys; `wire` writes a redacting one.
        .skip_debug(["tenantd.v1.Credential", "tenantd.v1.ResolveTenantResponse"])
        .compile_fds(descriptors)?;
    Ok(())
}
