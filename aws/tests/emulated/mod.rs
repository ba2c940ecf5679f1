//! The emulators that tests of this package run against: started once, found by every test of every process, and reached
//! through a fault proxy of the test's own.

#![allow(dead_code, unused_imports, unused_macros, reason = "each test takes what it needs of it")]

pub(crate) mod yard;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// An emulator of AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emulator {
    /// MiniStack.
    MiniStack,
    /// moto.
    Moto,
}

impl Emulator {
    /// Where it answers.
    pub(crate) fn endpoint(self) -> &'static str {
        let (ministack, moto) = endpoints();
        match self {
            Self::MiniStack => ministack,
            Self::Moto => moto,
        }
    }

    /// Its name in names of resources.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MiniStack => "ministack",
            Self::Moto => "moto",
        }
    }
}

fn endpoints() -> &'static (String, String) {
    static ENDPOINTS: OnceLock<(String, String)> = OnceLock::new();
    ENDPOINTS.get_or_init(|| from_environment().or_else(running).unwrap_or_else(started))
}

/// As `make test` says.
fn from_environment() -> Option<(String, String)> {
    Some((std::env::var("SWITCHYARD_TEST_MINISTACK").ok()?, std::env::var("SWITCHYARD_TEST_MOTO").ok()?))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// As another test's start left them: a look at two ports instead of a script.
fn running() -> Option<(String, String)> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let endpoint = |name: &str| {
        let port: u16 =
            std::fs::read_to_string(target.join("emulators").join(format!("{name}.port"))).ok()?.trim().parse().ok()?;
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        Some(format!("http://127.0.0.1:{port}"))
    };
    Some((endpoint("ministack")?, endpoint("moto")?))
}

fn started() -> (String, String) {
    let script = root().join("infra/emulators/run.sh");
    let output = Command::new("sh").arg(&script).arg("start").output().expect("sh starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "the emulators do not start: {}", String::from_utf8_lossy(&output.stderr));
    let endpoint = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)).expect("an endpoint");
        line.trim_start_matches('=').to_owned()
    };
    (endpoint("SWITCHYARD_TEST_MINISTACK"), endpoint("SWITCHYARD_TEST_MOTO"))
}

/// Makes one test of each function for each emulator; of those of `one` for MiniStack alone, where a second emulator shows
/// nothing more or a test takes a thousand calls. The function is given what `open` makes of the emulator.
macro_rules! on_emulators {
    ($open:expr; both { $($both:ident)* } one { $($one:ident)* }) => {
        mod ministack {
            $crate::emulated::on_emulators! { @tests $open, MiniStack, $($both)* $($one)* }
        }
        mod moto {
            $crate::emulated::on_emulators! { @tests $open, Moto, $($both)* }
        }
    };
    (@tests $open:expr, $emulator:ident, $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                use super::*;
                $crate::emulated::block(async {
                    super::$name(&$open($crate::emulated::Emulator::$emulator).await).await
                });
            }
        )*
    };
}
pub(crate) use on_emulators;

/// Runs a test that has to wait for something. The proxy has threads of its own.
pub(crate) fn block<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test)
}

/// A name that no other test uses, of this run or another.
pub(crate) fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{:x}-{:x}-{count}", now.as_millis() & 0xffff_ffff, std::process::id())
}
