//! The broker's doors on AWS, before emulators: roles by STS, secrets of Secrets Manager and Systems Manager, and the
//! broker's own identity. A proxy between them shows what went out.
//!
//! What neither emulator does: hold a trust policy, its external id, a session policy or a source identity against
//! anything; end a session. What was asked for is therefore read at the proxy.

#[path = "../emulated/mod.rs"]
mod emulated;
mod heard;
mod roles;
mod secrets;
mod identity;
