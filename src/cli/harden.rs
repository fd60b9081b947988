//! Keeps the process's memory, which holds tenants' keys, in the process.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core file, also none that a handler of the system's would take (it does not
/// look at the limit), and no debugger or reader of `/proc/PID/mem` and `environ`
/// but root's.
///
/// # Errors
/// The system's own.
pub fn harden() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
