//! A yard on MiniStack with a pool's group on moto, behind one proxy.

use std::sync::Arc;

use serde_json::json;
use switchyard_aws::clients::Clients;
use switchyard_aws::fleet_autoscaling::Groups;
use switchyard_aws::fleet_scaler::{Looked, Round, Scaler};
use switchyard_aws::home::{Home, Names};
use switchyard_aws::kicks_lambda::LambdaKicks;
use switchyard_aws::ledger_dynamodb::LIVE;
use switchyard_builtins::system::System;
use switchyard_core::catalog::Catalog;
use switchyard_core::intake::{self, Prepared, Sender, Taking};
use switchyard_core::job::Holder;
use switchyard_core::policies::{Policies, Shelf};
use switchyard_core::ports::{Room, Worker, Yard};
use switchyard_core::route::{Limits, PoolName};
use switchyard_faults::{Proxy, Service, Settings as ProxySettings, When};

use crate::emulated::Emulator;
use crate::emulated::yard::{clients, clients_with, home_as, names, pools, yard};

pub(crate) const LOOK: &str = "DescribeAutoScalingGroups";
pub(crate) const SET: &str = "SetDesiredCapacity";
pub(crate) const INVOKE: &str = "POST /2015-03-31/functions/yard-fleet_scaler/invocations";

const CAPABILITIES: &str = r#"
version: 1
capabilities:
  - name: nothing
    summary: Does nothing
    run: { command: ["true"] }
    needs: { timeout_seconds: 600 }
    route: { only: [standard] }
"#;

/// The yard, its group, and who looks at it.
pub(crate) struct Scene {
    pub(crate) proxy: Proxy,
    pub(crate) home: Home,
    pub(crate) yard: Yard,
    pub(crate) scaler: Scaler,
    names: Names,
    /// Whoever sets the test up and looks at what came of it, past the proxy.
    direct: Clients,
}

impl Scene {
    /// Runs a test in a yard whose pool `standard` has a group of none that may have `max`, and takes that away after it.
    pub(crate) async fn with(max: i32, test: impl AsyncFnOnce(&Scene)) {
        let settings = ProxySettings { keep_requests: true, ..ProxySettings::new(Emulator::MiniStack.endpoint()) };
        let settings = settings.upstream_for(Service::AutoScaling, Emulator::Moto.endpoint());
        let proxy = Proxy::start(settings).unwrap();
        // No emulator has the function.
        proxy.script().play(When::call(Service::named("lambda"), INVOKE), "");
        let names = names("scaling");
        let direct = clients(Emulator::Moto.endpoint(), "SETUP");
        let (client, name) = (direct.autoscaling(), format!("{}-standard", names.queues));
        let template = client.create_launch_configuration().launch_configuration_name(&name);
        template.image_id("ami-12345678").instance_type("t3.micro").send().await.unwrap();
        let group = client.create_auto_scaling_group().auto_scaling_group_name(&name).launch_configuration_name(&name);
        let group = group.min_size(0).max_size(max).desired_capacity(0).availability_zones("us-east-1a");
        group.send().await.unwrap();

        let (home, yard) = process(&proxy, &names, "YARD");
        home.declare(&clients(&proxy.endpoint(), "SETUP"), &pools()).await.unwrap();
        let scaler = scaler(&proxy, &names);
        let scene = Scene { proxy, home, yard, scaler, names, direct };
        test(&scene).await;
        let client = scene.direct.autoscaling();
        client.delete_auto_scaling_group().auto_scaling_group_name(&name).force_delete(true).send().await.unwrap();
        client.delete_launch_configuration().launch_configuration_name(&name).send().await.unwrap();
    }

    /// Another process of the yard.
    pub(crate) fn another(&self) -> Yard {
        process(&self.proxy, &self.names, "OTHER").1
    }

    /// Another process of the scaler.
    pub(crate) fn another_scaler(&self) -> Scaler {
        scaler(&self.proxy, &self.names)
    }

    /// Takes so many jobs at once.
    pub(crate) async fn submit(&self, jobs: usize) {
        submit(&self.yard, jobs).await;
    }

    /// Looks at all pools, and answers what came of `standard`.
    pub(crate) async fn look(&self) -> Looked {
        look(&self.scaler, &self.yard).await
    }

    /// What the group is to be.
    pub(crate) async fn desired(&self) -> u32 {
        self.group().await.0
    }

    /// What the group is to be, and its instances' ids.
    pub(crate) async fn group(&self) -> (u32, Vec<String>) {
        let groups = Groups::new(&self.direct, &self.names.queues).look(&[PoolName::STANDARD]).await.unwrap();
        let group = groups.into_values().next().unwrap();
        (group.desired, group.instances.into_iter().map(|instance| instance.id).collect())
    }

    /// A worker on an instance says that it runs so many of its two slots.
    pub(crate) async fn enter(&self, instance: &str, busy: u32, leaving: bool) {
        let room = |slots| Room { slots, milli_vcpu: slots * 1000, memory_mib: slots * 1024 };
        let worker = Worker {
            holder: Holder(format!("{instance}/0")),
            pool: PoolName::STANDARD,
            capacity: room(2),
            free: room(2 - busy),
            since: self.yard.ambient.now(),
            leaving,
        };
        self.home.ledger.enter(&worker).await.unwrap();
    }

    /// How often an operation was asked for.
    pub(crate) fn count(&self, operation: &str) -> usize {
        self.proxy.records().all().iter().filter(|record| record.operation == operation).count()
    }

    /// Sizes that the group was set to.
    pub(crate) fn sizes(&self) -> Vec<String> {
        let sets = self.proxy.records().requests(SET);
        sets.iter().map(|set| set["DesiredCapacity"].as_str().unwrap().to_owned()).collect()
    }
}

fn process(proxy: &Proxy, names: &Names, client: &str) -> (Home, Yard) {
    let clients = clients_with(&proxy.endpoint(), client, |settings| settings.attempts = 3);
    let home = home_as(&clients, names.clone(), Arc::new(System), LIVE);
    let catalog = Catalog::parse("test", CAPABILITIES, &[], &Default::default()).unwrap();
    let policies = Policies { catalog, limits: Limits::default(), ..Policies::default() };
    let fleet = Arc::new(LambdaKicks::new(&clients, "yard-fleet_scaler", home.ledger.clone()));
    let yard = Yard { shelf: Arc::new(Shelf::new(policies)), fleet, ..yard(&home) };
    (home, yard)
}

fn scaler(proxy: &Proxy, names: &Names) -> Scaler {
    let clients = clients_with(&proxy.endpoint(), "SCALER", |settings| settings.attempts = 1);
    let home = home_as(&clients, names.clone(), Arc::new(System), LIVE);
    Scaler::new(Groups::new(&clients, &names.queues), home.lanes, home.ledger)
}

pub(crate) async fn look(scaler: &Scaler, yard: &Yard) -> Looked {
    let Round { pools, failures } = scaler.round(&yard.policies().limits, None, &*yard.ambient).await;
    let mut standard = pools.into_iter().find(|looked| looked.pool == PoolName::STANDARD).unwrap();
    standard.failures.extend(failures);
    standard
}

pub(crate) async fn prepared(yard: &Yard, jobs: usize) -> Vec<Prepared> {
    let (submission, digest) = intake::read(json!({ "capability": "nothing" }).to_string().as_bytes()).unwrap();
    let (situation, sender) = (yard.situation().await, Sender { caller: "tester", key: None });
    let one = |_| {
        let (now, random) = (yard.ambient.now(), yard.ambient.random());
        intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random).unwrap()
    };
    (0..jobs).map(one).collect()
}

pub(crate) async fn accept(yard: &Yard, batch: Vec<Prepared>) {
    let taken = intake::accept(yard, batch).await.unwrap();
    assert!(taken.iter().all(|taken| taken.as_ref().is_ok_and(|taken| taken.fresh)));
}

pub(crate) async fn submit(yard: &Yard, jobs: usize) {
    accept(yard, prepared(yard, jobs).await).await;
}
