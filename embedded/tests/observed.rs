//! What runs show of their needs outlives the yard that saw it.

use std::sync::Arc;
use std::time::Duration;

use switchyard_builtins::system::System;
use switchyard_core::policies::Shelf;
use switchyard_core::ports::Usage;
use switchyard_embedded::home::{Home, Setup};
use switchyard_embedded::launcher_process::TaskProgram;

fn setup() -> Setup {
    Setup {
        shelf: Arc::new(Shelf::default()),
        policies: None,
        task: TaskProgram { program: "/bin/false".into(), args: vec![] },
        tasks: 1,
        retention: Duration::from_secs(60),
        engine: None,
        vendors: None,
    }
}

#[tokio::test]
async fn what_was_observed_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open = async || Home::open(folder.path(), setup(), Arc::new(System)).await.unwrap();
    let home = open().await;
    let observed = Arc::clone(home.yard.shelf.observed());
    for seconds in 1..=30 {
        observed.note("digest", Duration::from_secs(seconds), Usage { max_rss_mib: Some(40), ..Usage::default() });
    }
    let before = observed.of("digest").unwrap();
    home.close().await;
    let home = open().await;
    assert_eq!(home.yard.shelf.observed().of("digest"), Some(before));
    assert_eq!(home.yard.shelf.observed().take_changed(), [], "nothing is written again that did not change");
    home.close().await;
}
