//! The contract suite on AWS's adapters, on two emulators behind the fault proxy. With `SWITCHYARD_TEST_SEED` set, in the
//! storm of that seed.

mod emulated;

use std::sync::Arc;

use emulated::yard::{clients, home, names, pools, proxy, yard};
use emulated::{Emulator, block};
use switchyard_builtins::system::System;
use switchyard_core::contract::Case;
use switchyard_core::contract_suite;

fn on(emulator: Emulator, case: Case) {
    block(async {
        let proxy = proxy(emulator);
        let clients = clients(&proxy.endpoint(), "CONTRACT");
        let home = home(&clients, names(emulator.name()), Arc::new(System));
        home.declare(&clients, &pools()).await.unwrap();
        case(&yard(&home)).await;
    });
}

mod ministack {
    use super::*;

    fn on_ministack(case: Case) {
        on(Emulator::MiniStack, case);
    }

    contract_suite!(on_ministack);
}

mod moto {
    use super::*;

    fn on_moto(case: Case) {
        on(Emulator::Moto, case);
    }

    contract_suite!(on_moto);
}
