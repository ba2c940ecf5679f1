//! A program in a container finds the same in its folder. Where no container engine answers, each of these tests says so and
//! passes.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use bollard::query_parameters::ListContainersOptionsBuilder;
use serde_json::json;
use switchyard_core::job::{Phase, StopCause};

use crate::bench::{Bench, CANARY, Does, Setup};
use crate::image::{Image, docker, engine};

async fn bench(test: &str, setup: Setup) -> Option<(Bench, Image)> {
    let engine = engine(test).await?;
    let image = Image::with_probe(&engine).await;
    let containers = Some((engine, image.name.clone()));
    Some((Bench::new(Setup { containers, ..setup }), image))
}

#[tokio::test]
async fn its_user_can_read_what_is_lent_and_write_none_of_it() {
    let Some((bench, _image)) = bench("its_user_can_read_what_is_lent_and_write_none_of_it", Setup::default()).await
    else {
        return;
    };
    let ended = bench.run("container", json!({ "do": "credentials", "what": CANARY })).await;
    assert_eq!(ended.job.phase(), Phase::Succeeded, "{} {:?}", ended.told(), ended.log);
    insta::assert_snapshot!(ended.log.join("\n"));
}

#[tokio::test]
async fn what_is_renewed_is_seen_in_the_container() {
    let setup = Setup { does: vec![Does::Issues(Duration::from_secs(3))], ..Setup::default() };
    let Some((bench, _image)) = bench("what_is_renewed_is_seen_in_the_container", setup).await else { return };
    let changing = "/switchyard/credentials/search";
    let ended = bench.run("container", json!({ "do": "await-change", "what": changing })).await;
    assert_eq!(ended.job.phase(), Phase::Succeeded, "{} {:?}", ended.told(), ended.log);
    assert!(bench.vendor.asked() >= 3, "{}", bench.vendor.asked());
}

#[tokio::test]
async fn nothing_of_it_is_in_a_volume_or_in_what_the_engine_tells() {
    let Some((bench, _image)) =
        bench("nothing_of_it_is_in_a_volume_or_in_what_the_engine_tells", Setup::default()).await
    else {
        return;
    };
    let engine = engine("").await.unwrap();
    let docker = docker(&engine).await;
    let looking = async {
        bench.vendor.asked_at_least(2).await;
        let label = format!("switchyard.job={}", bench.runs.running()[0].id);
        let filters = HashMap::from([("label", vec![label])]);
        for _ in 0..1500 {
            let options = ListContainersOptionsBuilder::new().filters(&filters).build();
            let listed = docker.list_containers(Some(options)).await.unwrap();
            if let Some(id) = listed.into_iter().find_map(|found| found.id) {
                let told = docker.inspect_container(&id, None).await.unwrap();
                bench.leave.raise(StopCause::Drain);
                bench.leave.hurry();
                return told;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no container runs");
    };
    let (ended, told) = tokio::join!(bench.run("container", json!({ "do": "stubborn", "what": "" })), looking);
    assert_eq!(ended.job.interruptions, 1, "{}", ended.told());
    assert!(!format!("{told:?}").contains(CANARY));
    let mounts = told.mounts.unwrap();
    let bound = mounts.iter().find(|mount| mount.destination.as_deref() == Some("/switchyard/credentials")).unwrap();
    assert_eq!((bound.typ.as_ref().map(ToString::to_string).as_deref(), bound.rw), (Some("bind"), Some(false)));
}

#[tokio::test]
async fn an_engine_that_does_not_see_the_folder_is_given_nothing() {
    // A path that means this folder here, and nothing to the engine: as where the worker is itself in a container.
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let opened = std::fs::File::open(place.path()).unwrap();
    let opened = rustix::io::fcntl_dupfd_cloexec(&opened, 900).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let setup = Setup { places: Some(vec![path]), ..Setup::default() };
    let Some((bench, _image)) = bench("an_engine_that_does_not_see_the_folder_is_given_nothing", setup).await else {
        return;
    };
    let ended = bench.run("container", json!({ "do": "exit", "what": "0" })).await;
    assert_eq!(ended.job.phase(), Phase::Delayed, "{}", ended.told());
    assert!(ended.told().contains("credentials_not_shared"), "{}", ended.told());
}
