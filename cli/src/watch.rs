//! `--watch`: the same page again and again, until nothing of it can change or nobody watches any more.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::exit::Failure;

/// How often a page is drawn anew.
const EVERY: Duration = Duration::from_secs(2);

/// Whether there is more to see.
pub(crate) enum Page {
    /// It may change.
    Living(String),
    /// It will not change any more.
    Final(String),
}

/// Shows what `page` answers until that is final. On a terminal each page takes the place of the one before; elsewhere a page is
/// printed when it differs from the last.
pub(crate) fn watch(mut page: impl FnMut() -> Result<Page, Failure>) -> Result<(), Failure> {
    let terminal = std::io::stdout().is_terminal();
    let mut last = String::new();
    loop {
        let (text, done) = match page()? {
            Page::Living(text) => (text, false),
            Page::Final(text) => (text, true),
        };
        if text != last {
            if terminal {
                draw(&text)?;
            } else {
                crate::show::print(&text)?;
            }
        }
        if done {
            return Ok(());
        }
        last = text;
        std::thread::sleep(EVERY);
    }
}

fn draw(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    // Home, and clear to the end (ECMA-48: CUP, ED): what scrolled away before stays readable.
    let drawn = writeln!(out, "\u{1b}[H\u{1b}[J{text}").and_then(|()| out.flush());
    match drawn {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        drawn => drawn.map_err(|cause| Failure::io("write to standard output", cause)),
    }
}
