//! File descriptors: as many as the system gives, and some kept back from
//! connections, so that the state, sources and credentials can always be reached.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept for everything but connections, at most half of all.
const KEPT_BACK: u64 = 256;

/// Raises the limit to the most that this process may have; what it is then.
/// None: there is no limit.
pub fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

/// Places for connections on each of `listeners`: as many as are wanted, or as there
/// are descriptors for.
pub fn places(wanted: usize, listeners: usize, limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return wanted };
    let rest = limit - KEPT_BACK.min(limit / 2);
    let each = usize::try_from(rest).unwrap_or(usize::MAX) / listeners.max(1);
    wanted.min(each.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        assert_eq!(places(10_000, 2, None), 10_000);
        assert_eq!(places(10_000, 2, Some(1_048_576)), 10_000);
        assert_eq!(places(10_000, 2, Some(4096)), 1920);
        assert_eq!(places(10_000, 1, Some(100)), 50);
        assert_eq!(places(4, 1, Some(100)), 4);
        assert_eq!(places(10_000, 2, Some(1)), 1);
    }
}
