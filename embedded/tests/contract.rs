//! The contract suite on this home: SQLite, folders, and a launcher that starts nothing.

use std::sync::Arc;
use std::time::Duration;

use switchyard_builtins::system::System;
use switchyard_core::contract::{Case, UNMAPPED_ROOM};
use switchyard_core::contract_suite;
use switchyard_core::ports::{Ambient, FixedFleet, NoLender, Yard};
use switchyard_embedded::blobs_folder::FolderBlobs;
use switchyard_embedded::folder::Folder;
use switchyard_embedded::herald_file::FileHerald;
use switchyard_embedded::lanes_sqlite::SqliteLanes;
use switchyard_embedded::launcher_process::{ProcessLauncher, TaskProgram};
use switchyard_embedded::ledger_sqlite::SqliteLedger;
use switchyard_embedded::logs_folder::FolderLogs;
use switchyard_embedded::siding_folder::FolderSiding;
use switchyard_embedded::store::Store;
use switchyard_worker::roster::Roster;

fn on_sqlite(case: Case) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let ambient: Arc<dyn Ambient> = Arc::new(System);
        let store = Arc::new(Store::open(&folder.database()).unwrap());
        let ledger = SqliteLedger::new(Arc::clone(&store), Arc::clone(&ambient)).with_unmapped_room(UNMAPPED_ROOM);
        // It serves no yard: a launch is noted, and no process starts.
        let task = TaskProgram { program: "/bin/false".into(), args: vec![] };
        let launcher =
            ProcessLauncher::new(task, 1, "contract".into(), ambient.nonce(), folder.clone(), ledger.clone(), None);
        let yard = Yard {
            ledger: Arc::new(ledger.clone()),
            lanes: Arc::new(SqliteLanes::new(ledger)),
            launcher: Arc::new(launcher),
            blobs: Arc::new(FolderBlobs::new(&folder)),
            logs: Arc::new(FolderLogs::new(&folder)),
            herald: Arc::new(FileHerald::new(&folder)),
            ambient,
            workers: Arc::new(Roster::default()),
            fleet: Arc::new(FixedFleet),
            lender: Arc::new(NoLender),
            conveyor: None,
            siding: Arc::new(FolderSiding::new(&folder)),
            shelf: Arc::default(),
            turnstile: Arc::default(),
            meters: Arc::default(),
            retention: Duration::from_secs(3600),
        };
        case(&yard).await;
        store.close();
    });
}

contract_suite!(on_sqlite);
