//! What runs emitted and is no record, in the yard's bucket: an object a batch, for people to look at.

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use jiff::Timestamp;
use switchyard_core::ports::{Parked, PortError, Siding};
use switchyard_core::wire;

use crate::clients::Clients;
use crate::failure::failed;

/// Parks in a bucket.
#[derive(Clone, Debug)]
pub struct S3Siding {
    client: Client,
    bucket: String,
}

impl S3Siding {
    /// The siding in `bucket`, below `parked/records/`.
    pub fn new(clients: &Clients, bucket: &str) -> Self {
        Self { client: clients.s3(), bucket: bucket.to_owned() }
    }
}

#[async_trait]
impl Siding for S3Siding {
    async fn park(&self, parked: &[Parked]) -> Result<(), PortError> {
        let Some(first) = parked.first() else { return Ok(()) };
        let key = key(parked, first.at);
        let mut text = String::new();
        for one in parked {
            text.push_str(&wire::encode_parked(one));
            text.push('\n');
        }
        let put = self.client.put_object().bucket(&self.bucket).key(&key).content_type("application/x-ndjson");
        let put = put.body(ByteStream::from(text.into_bytes())).send().await;
        let subject = || format!("object {key} in bucket {}", self.bucket);
        put.map_err(|error| failed("park", subject(), &error))?;
        tracing::warn!(key, items = parked.len(), reason = %first.refused, "parked: these can never be records");
        Ok(())
    }
}

/// Where they lie: by the day they came and what they are, so that the same batch again is the same object.
fn key(parked: &[Parked], at: Timestamp) -> String {
    format!("parked/records/{}/{}.ndjson", at.strftime("%Y-%m-%d"), Parked::digest(parked))
}

#[cfg(test)]
mod tests {
    use switchyard_core::job::{Epoch, JobId};
    use switchyard_core::records::{Code, Emitted, Refused};

    use super::*;

    #[test]
    fn the_same_batch_on_the_same_day_lies_at_the_same_place() {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let parked = |n: u64, later: i64| {
            let line = Emitted { job: JobId::keyed("tests", "one"), epoch: Epoch(1), n, at, line: "{".to_owned() };
            let now = at + jiff::SignedDuration::from_secs(later);
            Parked::of(&line, "stream", Refused::new(Code::NotJson, "it is not JSON"), now)
        };
        let place = key(&[parked(1, 0), parked(2, 0)], at);
        assert!(place.starts_with("parked/records/2027-01-15/"), "{place}");
        assert_eq!(key(&[parked(1, 60), parked(2, 60)], at), place);
        assert_ne!(key(&[parked(1, 0)], at), place);
    }
}
