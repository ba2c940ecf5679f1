//! Has functions linked without unwind tables where nothing unwinds: a panic of what Lambda runs ends the process
//! (profile `function`), and stripped as it is, no backtrace could name anything.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=no-unwind-tables.ld");
    // Cargo does not name the profile; this one alone is built for size.
    let (level, system) = (env::var("OPT_LEVEL"), env::var("CARGO_CFG_TARGET_OS"));
    if level.is_ok_and(|level| level == "z") && system.is_ok_and(|system| system == "linux") {
        let here = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        let script = Path::new(&here).join("no-unwind-tables.ld");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
}
