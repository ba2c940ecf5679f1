//! The ledger on DynamoDB: one test for each trap of DynamoDB's and of the design, on two emulators behind the fault proxy.

#[path = "../emulated/mod.rs"]
mod emulated;
mod scene;

mod lost_answers;
mod processes;
mod sizes;
mod time_to_live;
mod weather;

/// Makes a test of each on each emulator.
macro_rules! on_both_emulators {
    ($($name:ident)*) => {
        mod ministack {
            $(#[test] fn $name() { crate::scene::on(crate::emulated::Emulator::MiniStack, super::$name); })*
        }
        mod moto {
            $(#[test] fn $name() { crate::scene::on(crate::emulated::Emulator::Moto, super::$name); })*
        }
    };
}
use on_both_emulators;
