//! Pools that grow: looks and kicks on MiniStack (queues, table) and moto (groups), behind the fault proxy.

#[path = "../emulated/mod.rs"]
mod emulated;
mod kicks;
mod looks;
mod scene;
