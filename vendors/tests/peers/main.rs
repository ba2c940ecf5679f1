//! The lenders before peers on loopback that check what a vendor checks, with a library of their own: signatures, audiences,
//! times, fields, tokens. Every secret of these tests has a mark in it, which no log line, error or `Debug` output may show.

mod scene;
mod google;
mod entra;
mod github;
mod granted;
mod refused;
mod lying;
mod weather;
mod secrets;
