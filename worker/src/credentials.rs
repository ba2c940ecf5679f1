//! Credentials in the hands of a run: borrowed before its program starts, renewed while it runs, gone when it has ended.
//!
//! They lie in a folder of the run that is in memory and its own user's, and whose path the program finds in
//! SWITCHYARD_CREDENTIALS; AWS's SDKs ask for theirs at an endpoint. No variable of the environment holds a secret.

mod ask;
mod endpoint;
mod files;
mod folder;
mod renew;
mod seal;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use secrecy::ExposeSecret;
use switchyard_core::job::{Failure, StopCause};
use switchyard_core::lend::{Credential, Kind, Loan, Scope};
use switchyard_core::ports::{Ambient, Assignment, LogLine, LogSink, Message, Outcome, Stream};
use tokio::sync::watch;

pub use self::ask::ANSWER;
use self::ask::Unlent;
use self::endpoint::Endpoint;
use self::files::Files;
pub use self::folder::Vault;
pub use self::seal::seal;

/// The variable with the path of the folder that a run's credentials lie in.
pub const CREDENTIALS: &str = "SWITCHYARD_CREDENTIALS";
/// Where that folder is in a container.
pub const IN_CONTAINER: &str = "/switchyard/credentials";

/// The size of a core dump, in bytes, that means none at all. With 0 a kernel still hands the memory to a program that
/// `core_pattern` names; with 1 it ends the dump before it begins, whatever takes it (Linux, fs/coredump.c), and as a file
/// one byte is less than the least that it writes.
pub(crate) const NO_CORE_BYTES: i64 = 1;

/// Who is to read what is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A process of this machine, which runs as the same user.
    Process,
    /// A program in a container: of another user, and in a network of its own, from which no endpoint here is reached.
    Container,
}

/// What a program is handed so that it finds its credentials. Nothing of it is secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// What it finds in its environment.
    pub variables: Vec<(String, String)>,
    /// The folder on this machine; none where nothing is lent.
    pub folder: Option<PathBuf>,
}

/// One credential of a run, by the name under which the run finds it.
struct Slot {
    name: String,
    scope: Scope,
    held: Mutex<Held>,
}

/// What is lent under one name.
#[derive(Default)]
struct Held {
    /// The newest loan, and when it was made. None before the first, and after one that ended and could not be renewed.
    newest: Option<(Timestamp, Loan)>,
    /// Loans in whose place newer ones came: a program may use them still.
    earlier: Vec<Loan>,
}

impl Slot {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Every change is made whole before anything in it can panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a loan that was made at `at` in the place of the last.
    fn put(&self, at: Timestamp, loan: Loan) {
        let mut held = self.held();
        let before = held.newest.replace((at, loan));
        held.earlier.extend(before.map(|(_, loan)| loan));
    }

    /// When the first of those ends that were replaced.
    fn first_end(&self) -> Option<Timestamp> {
        self.held().earlier.iter().map(|loan| loan.until).min()
    }

    /// Takes back what may not be used any more.
    fn take_ended(&self, now: Timestamp) -> Vec<Loan> {
        let mut held = self.held();
        let mut ended: Vec<Loan> = held.earlier.extract_if(.., |loan| loan.until <= now).collect();
        if held.newest.as_ref().is_some_and(|(_, loan)| loan.until <= now) {
            ended.extend(held.newest.take().map(|(_, loan)| loan));
        }
        ended
    }

    /// Takes back all of it.
    fn take_all(&self) -> Vec<Loan> {
        let Held { newest, mut earlier } = std::mem::take(&mut *self.held());
        earlier.extend(newest.map(|(_, loan)| loan));
        earlier
    }
}

/// What one run was lent. Let go, its folder is removed and its endpoint closed; [`Lent::end`] also gives everything back.
pub struct Lent<'a> {
    assignment: &'a Assignment<'a>,
    ambient: &'a dyn Ambient,
    log: &'a dyn LogSink,
    slots: Arc<[Slot]>,
    files: Files,
    endpoint: Option<Endpoint>,
    handed: Handed,
    /// Questions under way.
    asking: watch::Sender<u32>,
}

impl<'a> Lent<'a> {
    /// Borrows all that a run is to have, by name, and lays it out for its program.
    ///
    /// # Errors
    ///
    /// How the run ends because something is not lent, or because it is to end. Nothing of it is left then.
    pub async fn take(
        vault: &Vault,
        wanted: Vec<(&str, Scope)>,
        reader: Reader,
        assignment: &'a Assignment<'a>,
        ambient: &'a dyn Ambient,
        log: &'a dyn LogSink,
    ) -> Result<Self, Outcome> {
        seal::seal();
        let run = Message::of(&assignment.job);
        // Before anything is borrowed: what has no place to go is not asked for.
        let folder = vault.folder(run, reader, ambient).map_err(|error| {
            failed("no_credentials_folder", &format!("there is no folder for the run's credentials: {error}"), false)
        })?;
        let files = Files::new(folder, reader);
        let slots: Arc<[Slot]> = wanted
            .into_iter()
            .map(|(name, scope)| Slot { name: name.to_owned(), scope, held: Mutex::default() })
            .collect();
        let default = default_of_aws(&slots);
        let endpoint = match (reader, default) {
            (Reader::Process, Some(_)) => Some(Endpoint::open(ambient).await.map_err(|error| {
                failed("no_credentials_endpoint", &format!("cannot listen on 127.0.0.1 for AWS's SDKs: {error}"), false)
            })?),
            (Reader::Process, None) | (Reader::Container, _) => None,
        };
        let handed = files.handed(&slots, default.zip(endpoint.as_ref()));
        let lent = Self { assignment, ambient, log, slots, files, endpoint, handed, asking: watch::Sender::new(0) };
        match lent.borrow().await {
            Ok(()) => Ok(lent),
            Err(outcome) => {
                lent.end().await;
                Err(outcome)
            }
        }
    }

    /// Borrows under every name at once, and writes what comes.
    async fn borrow(&self) -> Result<(), Outcome> {
        let each = self.slots.iter().map(|slot| ask::persistently(self.ambient, || self.ask(slot)));
        let mut each = futures_util::future::join_all(each);
        let left = self.assignment.deadline.duration_since(self.ambient.now());
        let asked = tokio::select! {
            biased;
            cause = self.assignment.stop.raised() => Err(stopped(cause)),
            () = tokio::time::sleep(left.try_into().unwrap_or_default()) => Err(Outcome::TimedOut),
            lent = &mut each => Ok(lent),
        };
        let lent = match asked {
            Ok(lent) => lent,
            Err(outcome) => {
                self.hear_out(each).await;
                return Err(outcome);
            }
        };
        for (slot, lent) in self.slots.iter().zip(lent) {
            if let Err(unlent) = lent {
                return Err(ask::outcome(&slot.name, unlent, self.assignment, self.ambient).await);
            }
        }
        let written = self.slots.iter().try_for_each(|slot| self.files.put(slot));
        let written = written.and_then(|()| self.files.put_profiles(&self.slots));
        let written =
            written.and_then(|()| self.endpoint.as_ref().map_or(Ok(()), |it| self.files.put_token(it.token())));
        written.map_err(|error| {
            failed("no_credentials_folder", &format!("cannot write the run's credentials: {error}"), false)
        })
    }

    /// What the program is handed.
    pub fn handed(&self) -> &Handed {
        &self.handed
    }

    /// Renews what is lent, and answers the endpoint, for as long as the run lasts.
    pub async fn during<T>(&self, run: impl Future<Output = T>) -> T {
        let mut renewing = futures_util::future::join_all(self.slots.iter().map(|slot| self.renew(slot)));
        let answering = async {
            match &self.endpoint {
                Some(endpoint) => endpoint.serve(&self.slots).await,
                None => std::future::pending::<Infallible>().await,
            }
        };
        let ended = tokio::select! {
            biased;
            ended = run => ended,
            never = answering => match never {},
            _ = &mut renewing => unreachable!("a run is lent something, and that is looked after until it ends"),
        };
        self.wipe();
        self.hear_out(renewing).await;
        ended
    }

    /// Removes the run's folder, if it is there: its program has ended.
    fn wipe(&self) {
        if let Err(error) = self.files.remove_all() {
            let job = &self.assignment.job;
            tracing::warn!(job.id = %job.id, job.epoch = %job.epoch, trace.id = %job.trace_id(), %error, "the folder of a run's credentials is left behind");
        }
    }

    /// Asks for one credential, and keeps what is lent.
    async fn ask(&self, slot: &Slot) -> Result<(), Unlent> {
        let _under_way = UnderWay::begin(&self.asking);
        let loan = ask::once(&self.assignment.loans, &slot.scope).await?;
        slot.put(self.ambient.now(), loan);
        Ok(())
    }

    /// Goes on with what asks until no answer is under way any more, but not for long.
    async fn hear_out<T>(&self, asking: impl Future<Output = T>) {
        let mut under_way = self.asking.subscribe();
        tokio::select! {
            biased;
            _ = under_way.wait_for(|asking| *asking == 0) => {}
            _ = asking => {}
            () = self.assignment.stop.hurried() => {}
            () = tokio::time::sleep(ask::HEARD_OUT) => {}
        }
    }

    /// Says something in the job's log.
    async fn say(&self, text: String) {
        self.log.write(vec![LogLine { at: self.ambient.now(), stream: Stream::Yard, text }]).await;
    }
}

/// A question that is under way, for as long as this lives.
struct UnderWay<'a>(&'a watch::Sender<u32>);

impl<'a> UnderWay<'a> {
    fn begin(asking: &'a watch::Sender<u32>) -> Self {
        asking.send_modify(|asking| *asking += 1);
        Self(asking)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|asking| *asking -= 1);
    }
}

/// Which of a run's loans AWS's SDKs find without being told a profile: the only one of AWS, or the one named `aws`.
fn default_of_aws(slots: &[Slot]) -> Option<&str> {
    let mut of_aws = slots.iter().filter(|slot| slot.scope.kind() == Kind::Aws);
    match (of_aws.next(), of_aws.next()) {
        (Some(only), None) => Some(&only.name),
        _ => slots.iter().find(|slot| slot.name == "aws" && slot.scope.kind() == Kind::Aws).map(|slot| &*slot.name),
    }
}

/// Temporary credentials of AWS, where a loan is of those.
struct OfAws<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
    session_token: &'a str,
    /// When it ends, to the second, as SDKs read it (RFC 3339).
    expiration: String,
}

impl<'a> OfAws<'a> {
    fn of(loan: &'a Loan) -> Option<Self> {
        match &loan.credential {
            Credential::Aws { access_key_id, secret_access_key, session_token } => Some(Self {
                access_key_id,
                secret_access_key: secret_access_key.expose_secret(),
                session_token: session_token.expose_secret(),
                expiration: format!("{:.0}", loan.until),
            }),
            Credential::Token(_) | Credential::Value(_) => None,
        }
    }
}

/// What a run is that was ended for this cause.
fn stopped(cause: StopCause) -> Outcome {
    match cause {
        StopCause::Deadline => Outcome::TimedOut,
        StopCause::Cancel | StopCause::Stale | StopCause::Drain => Outcome::Stopped(cause),
    }
}

fn failed(code: &str, message: &str, permanent: bool) -> Outcome {
    Outcome::Failed { failure: Failure::new(code, message), permanent }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of a run's loans, and whether each is one of AWS.
    type Loans = &'static [(&'static str, bool)];

    fn slots(of: Loans) -> Vec<Slot> {
        let scope = |aws: bool| match aws {
            true => Scope::Aws { role: "arn:aws:iam::123456789012:role/x".to_owned() },
            false => Scope::Global { secret: "x".to_owned() },
        };
        of.iter()
            .map(|(name, aws)| Slot { name: (*name).to_owned(), scope: scope(*aws), held: Mutex::default() })
            .collect()
    }

    #[test]
    fn the_only_loan_of_aws_or_the_one_named_aws_is_what_sdks_find_by_themselves() {
        let cases: [(Loans, Option<&str>); 6] = [
            (&[("target", true), ("search", false)], Some("target")),
            (&[("target", true), ("aws", true)], Some("aws")),
            (&[("aws", true), ("target", true)], Some("aws")),
            (&[("one", true), ("two", true)], None),
            (&[("aws", false), ("one", true), ("two", true)], None),
            (&[("search", false)], None),
        ];
        for (of, expected) in cases {
            assert_eq!(default_of_aws(&slots(of)), expected, "{of:?}");
        }
    }
}
