//! The same protos as the sidecar's.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let descriptors = protox::compile(
        ["tenantd/v1/session_service.proto", "tenantd/v1/watch_service.proto"],
        ["../../proto"],
    )?;
    tonic_prost_build::configure().build_client(false).compile_fds(descriptors)?;
    Ok(())
}
