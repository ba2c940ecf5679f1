//! The adapters of ECS and Auto Scaling against services that answer what a test has written down: nothing of AWS and no
//! emulator is needed.

mod support;
mod world;
mod tasks_asked_for;
mod tasks_answered;
mod groups;
