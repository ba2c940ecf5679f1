//! What can never be taken is parked: an object in the yard's bucket, with the reason, for people to look at. Nothing reads
//! it again by itself, and nothing of it is lost.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use jiff::Timestamp;
use serde_json::json;
use sha2::{Digest, Sha256};
use switchyard_aws::clients::Clients;
use switchyard_core::ports::PortError;
use tracing::warn;

/// The form that parked objects have.
const VERSION: u32 = 1;

/// Where a function parks.
#[derive(Clone, Debug)]
pub struct Parking {
    client: Client,
    bucket: String,
    function: &'static str,
}

impl Parking {
    /// The parking place of this function, in the yard's bucket.
    pub fn new(clients: &Clients, bucket: &str, function: &'static str) -> Self {
        Self { client: clients.s3(), bucket: bucket.to_owned(), function }
    }

    /// Parks what came in, durably. The same again is the same object.
    ///
    /// # Errors
    ///
    /// It could not be stored, and must come again.
    pub async fn park(&self, source: &str, reason: &str, body: &str, now: Timestamp) -> Result<(), PortError> {
        let key = key(self.function, body, now);
        let parked = json!({
            "version": VERSION, "function": self.function, "source": source, "reason": reason, "received_at": now,
            "body": body,
        });
        let put = self.client.put_object().bucket(&self.bucket).key(&key).content_type("application/json");
        let put = put.body(ByteStream::from(parked.to_string().into_bytes()));
        let subject = || format!("object {key} in bucket {}", self.bucket);
        put.send().await.map_err(|error| switchyard_aws::failure::failed("park", subject(), &error))?;
        warn!(source, reason, key, "parked: it can never be taken");
        Ok(())
    }
}

/// Where it lies: by the day it came and what it is.
fn key(function: &str, body: &str, now: Timestamp) -> String {
    let digest: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("parked/{function}/{}/{digest}.json", now.strftime("%Y-%m-%d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_on_the_same_day_lies_at_the_same_place() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let at = key("finding_listener", "x", now);
        assert!(at.starts_with("parked/finding_listener/2027-01-15/2d711642b726b04401627ca9fbac32f5c8530fb1"), "{at}");
        assert_eq!(key("finding_listener", "x", now + jiff::SignedDuration::from_secs(60)), at);
        assert_ne!(key("finding_listener", "y", now), at);
    }
}
