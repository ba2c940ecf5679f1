//! What goes into one call of SQS, and what its answer means for each entry: HTTP 200 may have done some of them only.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_sqs::types::BatchResultErrorEntry;
use sha2::{Digest, Sha256};
use switchyard_core::job::one_line;
use switchyard_core::ports::{Ambient, Bell, Lane, Message, backoff};
use switchyard_core::wire::encode_doorbell;

use crate::failure::AwsError;

/// Entries that one call takes at most: SQS's limit.
pub(super) const ENTRIES: usize = 10;
/// Bytes that one call takes at most, all bodies together: SQS's limit.
const BATCH_BYTES: usize = 1024 * 1024;
/// What is billed as one request; a hint is not worth a second one.
const CHUNK_BYTES: usize = 64 * 1024;
/// Tries of one entry in all. Three more calls, within a second: whoever waits has the reaper behind it.
const TRIES: u32 = 4;
/// The wait before the second try, doubled from try to try.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest message group id that SQS takes.
const GROUP_BYTES: usize = 128;

/// One doorbell on its way. It is never delayed (SQS could for 900 s at most): what must wait is no dispatched job, and
/// rings when it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) message: Message,
    pub(super) body: String,
    pub(super) group: String,
}

impl Entry {
    pub(super) fn of(bell: &Bell<'_>) -> Self {
        let message = bell.message();
        let hinted = encode_doorbell(message, Some(bell.job));
        let body = if hinted.len() <= CHUNK_BYTES { hinted } else { encode_doorbell(message, None) };
        Self { message, body, group: group(&bell.job.work.caller) }
    }
}

/// The message group of a caller's jobs. On a standard queue groups order nothing: they make it a fair queue, in which
/// a caller with a long backlog does not keep the others waiting.
pub(super) fn group(caller: &str) -> String {
    // SQS's set: letters, digits and ASCII punctuation.
    if (1..=GROUP_BYTES).contains(&caller.len()) && caller.bytes().all(|byte| byte.is_ascii_graphic()) {
        return caller.to_owned();
    }
    let hash = Sha256::digest(caller.as_bytes());
    hash.iter().fold("sha256-".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// The calls that ring these bells: of one lane each, within SQS's limits.
pub(super) fn plan(entries: impl IntoIterator<Item = (Lane, Entry)>) -> Vec<(Lane, Vec<Entry>)> {
    let mut open: BTreeMap<Lane, (usize, Vec<Entry>)> = BTreeMap::new();
    let mut calls = Vec::new();
    for (lane, entry) in entries {
        let (bytes, batch) = open.entry(lane).or_default();
        if batch.len() == ENTRIES || *bytes + entry.body.len() > BATCH_BYTES {
            calls.push((lane, std::mem::take(batch)));
            *bytes = 0;
        }
        *bytes += entry.body.len();
        batch.push(entry);
    }
    calls.extend(open.into_iter().map(|(lane, (_, batch))| (lane, batch)).filter(|(_, batch)| !batch.is_empty()));
    calls
}

/// What an answer means for one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is done.
    Done,
    /// It is not, and the same again may be.
    Again(AwsError),
    /// It is not, and the same again will not be.
    Refused(AwsError),
}

impl Fate {
    /// The same, told by the answer to the request with this id.
    pub(super) fn of_request(self, id: Option<&str>) -> Self {
        match self {
            Self::Done => Self::Done,
            Self::Again(error) => Self::Again(error.of_request(id)),
            Self::Refused(error) => Self::Refused(error.of_request(id)),
        }
    }
}

/// What an answer to a call with so many entries means for each, by its place in the call, which is its id.
pub(super) fn fates<'a>(
    entries: usize,
    done: impl IntoIterator<Item = &'a str>,
    failed: &[BatchResultErrorEntry],
    judge: fn(&BatchResultErrorEntry) -> Fate,
) -> Vec<Fate> {
    // What an answer is silent about may not have happened; doing it twice is harmless.
    let silent = || AwsError {
        code: "no_answer".to_owned(),
        message: "the answer does not speak of this entry".to_owned(),
        request_id: None,
    };
    let mut fates: Vec<Fate> = (0..entries).map(|_| Fate::Again(silent())).collect();
    let done = done.into_iter().map(|id| (id, Fate::Done));
    // Failures last: what is said to be both done and failed is tried again.
    for (id, fate) in done.chain(failed.iter().map(|entry| (entry.id.as_str(), judge(entry)))) {
        if let Some(slot) = id.parse().ok().and_then(|n: usize| fates.get_mut(n)) {
            *slot = fate;
        }
    }
    fates
}

fn read(entry: &BatchResultErrorEntry) -> AwsError {
    let message = one_line(entry.message().unwrap_or("no reason given"), 500);
    AwsError { code: entry.code.clone(), message, request_id: None }
}

/// What a failed entry of a send or a release means.
pub(super) fn judge(entry: &BatchResultErrorEntry) -> Fate {
    // A throttle is the sender's fault to SQS; it passes all the same.
    if entry.sender_fault && !entry.code.contains("Throttl") && !entry.code.ends_with("OverLimit") {
        Fate::Refused(read(entry))
    } else {
        Fate::Again(read(entry))
    }
}

/// What a failed entry of a deletion or a release means: a message that is gone, or in other hands by now, leaves
/// nothing to do. AWS calls an old receipt good and deletes nothing; emulators, and AWS for some, call it invalid.
pub(super) fn judge_receipt(entry: &BatchResultErrorEntry) -> Fate {
    let message = entry.message().unwrap_or_default();
    // Codes come with and without the prefix of the old protocol.
    match entry.code.rsplit('.').next().unwrap_or_default() {
        "ReceiptHandleIsInvalid" | "MessageNotInflight" => Fate::Done,
        // "Value … for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for
        // visibility timeout change."
        "InvalidParameterValue" if message.contains("ReceiptHandle") => Fate::Done,
        _ => judge(entry),
    }
}

/// Why an entry was not done, and whether the same again can help.
pub(super) type Undone = (AwsError, bool);

/// Does all entries by `call`, those that may pass again and again, and only those; answers in their order. A call that
/// fails as a whole was repeated by the SDK already.
pub(super) async fn persist<E, F, Fut>(ambient: &dyn Ambient, entries: &[E], call: F) -> Vec<Result<(), Undone>>
where
    E: Clone + Send + Sync,
    F: Fn(Vec<E>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Vec<Fate>, Undone>> + Send,
{
    let mut outcomes: Vec<Result<(), Undone>> = entries.iter().map(|_| Ok(())).collect();
    let mut left: Vec<usize> = (0..entries.len()).collect();
    for tried in 1..=TRIES {
        let answered = call(left.iter().filter_map(|n| entries.get(*n).cloned()).collect()).await;
        let mut again = Vec::new();
        match answered {
            Err(undone) => left.iter().for_each(|n| outcomes[*n] = Err(undone.clone())),
            Ok(fates) => {
                for (n, fate) in left.iter().zip(fates) {
                    outcomes[*n] = match fate {
                        Fate::Done => Ok(()),
                        Fate::Refused(error) => Err((error, false)),
                        Fate::Again(error) => {
                            again.push(*n);
                            Err((error, true))
                        }
                    };
                }
            }
        }
        left = again;
        if left.is_empty() || tried == TRIES {
            break;
        }
        ambient.pause(backoff(FIRST_PAUSE, tried, ambient.chance())).await;
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use switchyard_core::dispatch;
    use switchyard_core::job::{Job, Tier};
    use switchyard_core::memory::Memory;

    use super::*;
    use crate::testing::a_job;

    fn entry(n: usize, bytes: usize) -> Entry {
        Entry { message: Message::of(&a_job(&n.to_string())), body: "x".repeat(bytes), group: "g".into() }
    }

    fn lane(tier: Tier) -> Lane {
        Lane { tier, ..dispatch::lane(&a_job("ana")) }
    }

    fn failed(n: usize, code: &str, sender_fault: bool, message: &str) -> BatchResultErrorEntry {
        let entry = BatchResultErrorEntry::builder().id(n.to_string()).code(code).sender_fault(sender_fault);
        entry.message(message).build().unwrap()
    }

    #[test]
    fn bells_go_in_tens_and_a_mebibyte_by_lane() {
        let tiers = [Tier::Standard, Tier::Priority];
        let calls = plan((0..45).map(|n| (lane(tiers[n % 2]), entry(n, 10))));
        let sizes: Vec<(Tier, usize)> = calls.iter().map(|(lane, batch)| (lane.tier, batch.len())).collect();
        let mut standard: Vec<usize> =
            sizes.iter().filter(|size| size.0 == Tier::Standard).map(|size| size.1).collect();
        standard.sort_unstable();
        assert_eq!((standard, sizes.len()), (vec![3, 10, 10], 6));
        let large = plan((0..5).map(|n| (lane(Tier::Standard), entry(n, 300 * 1024))));
        assert_eq!(large.iter().map(|(_, batch)| batch.len()).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(plan([]), []);
    }

    #[test]
    fn a_hint_that_would_be_billed_as_another_request_stays_at_home() {
        let mut job = a_job("ana");
        let bell = |job: &Job| Entry::of(&Bell { lane: lane(Tier::Standard), job }).body;
        assert!(bell(&job).contains(r#""record":{"#));
        job.timeline = vec![job.timeline[0].clone(); 1000];
        assert_eq!(bell(&job), encode_doorbell(Message::of(&job), None));
    }

    #[test]
    fn a_message_group_is_the_caller_or_its_hash_where_sqs_would_refuse_it() {
        assert_eq!(group("arn:aws:iam::123456789012:role/ci"), "arn:aws:iam::123456789012:role/ci");
        for caller in ["", "team blue", "ünlü", "a\u{1}b", &"x".repeat(129)] {
            let group = group(caller);
            assert!(group.len() == 71 && group.bytes().all(|byte| byte.is_ascii_graphic()), "{group}");
        }
        assert_ne!(group("team blue"), group("team  blue"));
    }

    #[test]
    fn a_batch_of_ten_with_partial_failures_repeats_only_those_that_can_pass() {
        let failures = [
            failed(2, "InternalError", false, "try again"),
            failed(5, "InvalidMessageContents", true, "characters"),
            failed(7, "RequestThrottled", true, "slow down"),
            failed(11, "InternalError", false, "nobody asked"),
        ];
        let done = ["0", "1", "3", "4", "6", "8", "what"];
        let fates = fates(10, done, &failures, judge);
        let again: Vec<usize> = (0..10).filter(|n| matches!(fates[*n], Fate::Again(_))).collect();
        let refused: Vec<usize> = (0..10).filter(|n| matches!(fates[*n], Fate::Refused(_))).collect();
        assert_eq!((again, refused), (vec![2, 7, 9], vec![5]), "the answer was silent about the last");
    }

    #[test]
    fn a_receipt_that_is_over_is_no_failure_and_an_unknown_error_is_one() {
        let gone = "Value A for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available \
                    for visibility timeout change.";
        for (code, message) in [
            ("ReceiptHandleIsInvalid", "The input receipt handle is invalid."),
            ("AWS.SimpleQueueService.MessageNotInflight", ""),
            ("InvalidParameterValue", gone),
        ] {
            assert_eq!(judge_receipt(&failed(0, code, true, message)), Fate::Done, "{code}");
        }
        for (code, sender_fault) in [("InvalidParameterValue", true), ("AccessDenied", true), ("WhoKnows", true)] {
            assert!(matches!(judge_receipt(&failed(0, code, sender_fault, "")), Fate::Refused(_)), "{code}");
        }
        assert!(matches!(judge_receipt(&failed(0, "InternalError", false, "")), Fate::Again(_)));
        assert!(matches!(judge(&failed(0, "OverLimit", true, "")), Fate::Again(_)), "it passes when others delete");
    }

    /// Answers the entries of successive calls by a script of fates, and records the calls.
    async fn persisted(script: Vec<Result<Vec<Fate>, Undone>>) -> (Vec<Vec<u8>>, Vec<Result<(), Undone>>) {
        let (script, calls) = (Mutex::new(script.into_iter()), Mutex::new(Vec::new()));
        let home = Memory::new(jiff::Timestamp::UNIX_EPOCH, 1);
        let outcomes = persist(&home, &[0_u8, 1, 2], |entries| {
            calls.lock().unwrap().push(entries);
            let answer = script.lock().unwrap().next().expect("no further call");
            async move { answer }
        });
        let outcomes = outcomes.await;
        (calls.into_inner().unwrap(), outcomes)
    }

    fn error() -> AwsError {
        AwsError { code: "InternalError".into(), message: "m".into(), request_id: None }
    }

    #[tokio::test]
    async fn only_failed_entries_are_sent_again_and_so_often_at_most() {
        let (calls, outcomes) = persisted(vec![
            Ok(vec![Fate::Again(error()), Fate::Done, Fate::Refused(error())]),
            Ok(vec![Fate::Again(error())]),
            Ok(vec![Fate::Done]),
        ])
        .await;
        assert_eq!(calls, [vec![0, 1, 2], vec![0], vec![0]]);
        assert_eq!(outcomes, [Ok(()), Ok(()), Err((error(), false))]);
        let fails = || Ok(vec![Fate::Again(error()); 3]);
        let (calls, outcomes) = persisted(vec![fails(), fails(), fails(), fails()]).await;
        assert_eq!((calls.len(), outcomes), (4, vec![Err((error(), true)); 3]));
    }

    #[tokio::test]
    async fn a_call_that_fails_as_a_whole_is_not_made_again_and_fails_what_was_left() {
        let (calls, outcomes) =
            persisted(vec![Ok(vec![Fate::Done, Fate::Again(error()), Fate::Done]), Err((error(), true))]).await;
        assert_eq!(calls, [vec![0, 1, 2], vec![1]]);
        assert_eq!(outcomes, [Ok(()), Err((error(), true)), Ok(())]);
    }
}
