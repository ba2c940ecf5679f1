//! The adapters of ECS and Auto Scaling, behind the proxy's rules for what AWS refuses: MiniStack for ECS, moto for groups.

#[path = "../emulated/mod.rs"]
mod emulated;
mod world;
mod tasks_asked_for;
mod tasks_answered;
mod group;
mod leaving;
mod groups;
mod sweeping;
