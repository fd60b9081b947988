//! The `tenantd` binary: see `tenantd::cli`.

fn main() -> std::process::ExitCode {
    tenantd::cli::main()
}
