//! The four layers over a live upstream, which each test starts itself.

mod emulator;

mod forwards;
mod program;
mod rules;
mod script;
mod weather;
