//! Where the stores' tests put things: a bucket, a log group and a bus of their own on an emulator.

use std::sync::Arc;

use aws_sdk_sqs::types::QueueAttributeName;
use jiff::Timestamp;
use switchyard_aws::clients::Clients;
use switchyard_aws::logs_cloudwatch::CloudWatchLogs;
use switchyard_core::catalog::Catalog;
use switchyard_core::memory::Memory;
use switchyard_core::ports::{Blobs, Herald, Logs, Yard};
use switchyard_core::route::Limits;
use switchyard_faults::Proxy;

use crate::emulated::yard::{clients_with, proxy};
use crate::emulated::{Emulator, unique};

/// An emulator behind a proxy, and clients that reach it.
pub(crate) struct Place {
    pub(crate) proxy: Proxy,
    pub(crate) clients: Clients,
}

impl Place {
    pub(crate) async fn open(emulator: Emulator) -> Self {
        let proxy = proxy(emulator);
        let clients = clients_with(&proxy.endpoint(), "STORES", |settings| settings.attempts = 3);
        Self { proxy, clients }
    }

    pub(crate) async fn bucket(&self) -> String {
        let name = unique("switchyard-blobs");
        self.clients.s3().create_bucket().bucket(&name).send().await.unwrap();
        name
    }

    pub(crate) async fn group(&self) -> String {
        let name = unique("/switchyard/jobs");
        self.clients.logs().create_log_group().log_group_name(&name).send().await.unwrap();
        name
    }

    pub(crate) async fn bus(&self) -> String {
        let name = unique("switchyard");
        self.clients.eventbridge().create_event_bus().name(&name).send().await.unwrap();
        name
    }

    /// A queue's URL and ARN.
    pub(crate) async fn queue(&self) -> (String, String) {
        let sqs = self.clients.sqs();
        let url = sqs.create_queue().queue_name(unique("announced")).send().await.unwrap().queue_url.unwrap();
        let attributes = sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::QueueArn);
        let arn = attributes.send().await.unwrap().attributes.unwrap().remove(&QueueAttributeName::QueueArn).unwrap();
        (url, arn)
    }

    /// Logs in a group of their own.
    pub(crate) async fn logs(&self) -> CloudWatchLogs {
        self.logs_in(&self.group().await)
    }

    pub(crate) fn logs_in(&self, group: &str) -> CloudWatchLogs {
        CloudWatchLogs::new(&self.clients, group, Arc::new(memory()))
    }
}

/// A home in memory at this moment: its chance, its time, and whatever door a test does not put in its place.
pub(crate) fn memory() -> Memory {
    Memory::new(Timestamp::now(), u64::try_from(Timestamp::now().as_microsecond()).unwrap())
}

/// A yard in memory with these doors in the place of its own.
pub(crate) fn yard(blobs: Arc<dyn Blobs>, logs: Arc<dyn Logs>, herald: Arc<dyn Herald>) -> Yard {
    Yard { blobs, logs, herald, ..memory().yard(Catalog::default(), Limits::default()) }
}
