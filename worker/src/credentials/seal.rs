//! No picture of this process's memory, nor of its programs', is ever taken.

use std::sync::Once;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use super::NO_CORE_BYTES;
use crate::process::MARK;

/// Seals this process for good, from its first loan on, or from when a worker of AWS begins: it leaves no core dump, and neither does any program that it
/// starts, which inherits the limit; and no other process of the same user can look into its memory.
///
/// A process that carries a mark stays readable to its user (prctl(2), `PR_SET_DUMPABLE`): one that is not shows its
/// environment to root alone, and a yard that is started again would not find what an earlier one left. It is lent no more than
/// its own program has.
pub fn seal() {
    static SEALED: Once = Once::new();
    SEALED.call_once(|| {
        // A limit that was lowered cannot be raised again.
        let none = NO_CORE_BYTES.unsigned_abs();
        let least = getrlimit(Resource::Core).maximum.map_or(none, |most| most.min(none));
        if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(least), maximum: Some(least) }) {
            tracing::warn!(%error, "core dumps cannot be ruled out");
        }
        if std::env::var_os(MARK).is_none()
            && let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable)
        {
            tracing::warn!(%error, "this process's memory can be looked into");
        }
    });
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn a_sealed_process_leaves_no_core_dump_and_shows_its_memory_to_nobody() {
        seal();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let Rlimit { current, maximum } = getrlimit(Resource::Core);
        assert!(current <= Some(1) && maximum <= Some(1), "{current:?} {maximum:?}");
        // What this process must know of itself it still can.
        std::fs::read_link("/proc/self/exe").unwrap();
        std::fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap();
    }
}
