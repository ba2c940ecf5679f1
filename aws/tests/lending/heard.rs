//! Everything that is logged, and that no secret is in it.

use std::io::Write;
use std::sync::{Mutex, OnceLock};

use switchyard_core::ports::describe;

/// In every secret of these tests.
pub(crate) const MARK: &str = "CANARY";

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Ear;

impl Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// From now on.
pub(crate) fn listen() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_writer(|| Ear)
            .init();
    });
}

/// None of these was logged; something was.
pub(crate) fn nothing_of(secrets: &[&str]) {
    let said = String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned();
    assert!(!said.is_empty(), "nothing was heard");
    for secret in secrets.iter().chain(&[MARK]) {
        assert!(!said.contains(secret), "a secret was logged");
    }
}

/// An error in all its forms.
pub(crate) fn said(error: &(dyn std::error::Error + 'static)) -> String {
    let said = format!("{} {error:?}", describe(error));
    assert!(!said.contains(MARK), "a secret is told: {said}");
    said
}
