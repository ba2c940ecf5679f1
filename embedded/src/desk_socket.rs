//! A child's desk: calls go over a Unix socket that the child was born with, so that there is no address anybody else
//! could connect to, and the yard's end sees at once when the child is gone, and the child when the yard is.
//!
//! One JSON text a line each way: a number, a space, and the call or answer of that number. Calls overlap: a beat may
//! wait while a report goes through.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use switchyard_core::lend::{Answer, Loan, LoanRequest};
use switchyard_core::ports::{
    Beat, Claim, Claimed, Desk, Emission, LogLine, Message, Order, PortError, Report, Reported, Voucher, describe,
};
use switchyard_core::records::Emitted;
use switchyard_core::wire::{self, DeskAnswer, DeskCall, LoanAnswer, LoanCall};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

/// The longest line: a result of 1 MiB whose every byte JSON writes as six, twice quoted at worst, and room around it.
const LINE_BYTES: u64 = 16 * 1024 * 1024;

/// A numbered line.
fn numbered(number: u64, text: &str) -> Zeroizing<String> {
    // Room for all of it at once: a text that grows leaves copies behind.
    let mut line = Zeroizing::new(String::with_capacity(text.len() + 24));
    line.push_str(&number.to_string());
    line.push(' ');
    line.push_str(text);
    line.push('\n');
    line
}

async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<(u64, Zeroizing<String>)>> {
    let mut line = Zeroizing::new(String::new());
    let read = (&mut *reader).take(LINE_BYTES).read_line(&mut line).await?;
    if read == 0 {
        return Ok(None);
    }
    let torn = || io::Error::new(io::ErrorKind::InvalidData, "a torn or overlong line");
    let text = line.strip_suffix('\n').ok_or_else(torn)?;
    let (number, text) = text.split_once(' ').ok_or_else(torn)?;
    Ok(Some((number.parse().map_err(|_| torn())?, Zeroizing::new(text.to_owned()))))
}

async fn write_lines(mut half: OwnedWriteHalf, mut lines: mpsc::Receiver<Zeroizing<String>>) {
    while let Some(line) = lines.recv().await {
        if half.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Serves one child until it closes its end. It may speak of `run` and of nothing else.
///
/// # Errors
///
/// The connection broke, or the child said what no child says.
pub async fn serve(stream: UnixStream, desk: Arc<dyn Desk>, run: Message) -> io::Result<()> {
    let (read, write) = stream.into_split();
    let (answers, queue) = mpsc::channel::<Zeroizing<String>>(64);
    let writer = tokio::spawn(write_lines(write, queue));
    let mut reader = BufReader::new(read);
    let (mut calls, mut beats) = (JoinSet::new(), JoinSet::new());
    let ended = loop {
        let line = tokio::select! {
            line = read_line(&mut reader) => line,
            Some(_) = calls.join_next(), if !calls.is_empty() => continue,
            Some(_) = beats.join_next(), if !beats.is_empty() => continue,
        };
        let (number, text) = match line {
            Ok(Some(line)) => line,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        let call = match wire::decode_call(&text) {
            Ok(call) => call,
            Err(error) => break Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        };
        let (desk, answers) = (Arc::clone(&desk), answers.clone());
        let kind = if matches!(call, DeskCall::Beat(..)) { &mut beats } else { &mut calls };
        kind.spawn(async move {
            let answer = if speaks_of(&call) == Some(run) || beats_for(&call, run) {
                answer(desk.as_ref(), call).await
            } else {
                DeskAnswer::Failed { message: "this child was launched for another run".to_owned(), retryable: false }
            };
            // The child is gone: it needs no answer.
            let _ = answers.send(numbered(number, &wire::encode_answer(&answer))).await;
        });
    };
    // What the child said before it closed counts; only beats that wait for an order are cut short.
    while calls.join_next().await.is_some() {}
    beats.shutdown().await;
    drop(answers);
    writer.abort();
    ended
}

fn speaks_of(call: &DeskCall) -> Option<Message> {
    match call {
        DeskCall::Claim(claim) => Some(Message { id: claim.id, epoch: claim.epoch }),
        DeskCall::Beat(..) => None,
        DeskCall::Log(voucher, _) => Some(Message { id: voucher.id, epoch: voucher.epoch }),
        DeskCall::Emit(voucher, _) => Some(Message { id: voucher.id, epoch: voucher.epoch }),
        DeskCall::Settle(report) => Some(Message { id: report.voucher.id, epoch: report.voucher.epoch }),
        DeskCall::Loan(LoanCall::Lend(LoanRequest { voucher, .. }) | LoanCall::TakeBack(voucher, _)) => {
            Some(Message { id: voucher.id, epoch: voucher.epoch })
        }
    }
}

fn beats_for(call: &DeskCall, run: Message) -> bool {
    match call {
        DeskCall::Beat(beat, _) => beat.running.iter().all(|other| *other == run),
        DeskCall::Claim(_) | DeskCall::Log(..) | DeskCall::Emit(..) | DeskCall::Settle(_) | DeskCall::Loan(_) => false,
    }
}

async fn answer(desk: &dyn Desk, call: DeskCall) -> DeskAnswer {
    let answered = match call {
        DeskCall::Claim(claim) => desk.claim(&claim).await.map(DeskAnswer::Claimed),
        DeskCall::Beat(beat, patience) => desk.beat(&beat, patience).await.map(DeskAnswer::Orders),
        DeskCall::Log(voucher, lines) => desk.log(&voucher, &lines).await.map(|()| DeskAnswer::Logged),
        DeskCall::Emit(voucher, lines) => desk.emit(&voucher, &lines).await.map(DeskAnswer::Emitted),
        DeskCall::Settle(report) => desk.settle(&report).await.map(DeskAnswer::Reported),
        DeskCall::Loan(LoanCall::Lend(request)) => {
            desk.borrow(&request).await.map(|answer| DeskAnswer::Loan(LoanAnswer::Answer(answer)))
        }
        DeskCall::Loan(LoanCall::TakeBack(voucher, loan)) => {
            desk.give_back(&voucher, &loan).await.map(|()| DeskAnswer::Loan(LoanAnswer::TakenBack))
        }
    };
    answered.unwrap_or_else(|error| DeskAnswer::Failed { message: describe(&error), retryable: error.retryable })
}

type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<DeskAnswer>>>>>;

/// The child's end of the socket.
pub struct SocketDesk {
    calls: mpsc::Sender<Zeroizing<String>>,
    waiting: Waiting,
    next: AtomicU64,
}

fn lock(waiting: &Waiting) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<DeskAnswer>>>> {
    // A panic in between leaves a map without half-done entries.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SocketDesk {
    /// The desk at the other end of `stream`. `gone` runs when the yard closes it.
    pub fn new(stream: UnixStream, gone: impl FnOnce() + Send + 'static) -> Self {
        let (read, write) = stream.into_split();
        let (calls, queue) = mpsc::channel(64);
        tokio::spawn(write_lines(write, queue));
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let answered = Arc::clone(&waiting);
        tokio::spawn(async move {
            let mut reader = BufReader::new(read);
            while let Ok(Some((number, text))) = read_line(&mut reader).await {
                let Ok(answer) = wire::decode_answer(&text) else { break };
                if let Some(waiter) = lock(&answered).as_mut().and_then(|waiting| waiting.remove(&number)) {
                    // Whoever asked may have gone on.
                    let _ = waiter.send(answer);
                }
            }
            lock(&answered).take();
            gone();
        });
        Self { calls, waiting, next: AtomicU64::new(1) }
    }

    async fn call(&self, operation: &'static str, call: &DeskCall) -> Result<DeskAnswer, PortError> {
        let closed = || PortError::permanent(operation, "the desk", "the yard has closed the connection");
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).as_mut().ok_or_else(closed)?.insert(number, answer);
        self.calls.send(numbered(number, &wire::encode_call(call))).await.map_err(|_| closed())?;
        match answered.await.map_err(|_| closed())? {
            DeskAnswer::Failed { message, retryable: true } => {
                Err(PortError::retryable(operation, "the desk", message))
            }
            DeskAnswer::Failed { message, retryable: false } => {
                Err(PortError::permanent(operation, "the desk", message))
            }
            answer => Ok(answer),
        }
    }
}

fn unexpected(operation: &'static str) -> PortError {
    PortError::permanent(operation, "the desk", "the answer is not one to this call")
}

#[async_trait]
impl Desk for SocketDesk {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, PortError> {
        match self.call("claim at", &DeskCall::Claim(claim.clone())).await? {
            DeskAnswer::Claimed(claimed) => Ok(claimed),
            _ => Err(unexpected("claim at")),
        }
    }

    async fn beat(&self, beat: &Beat, patience: Duration) -> Result<Vec<Order>, PortError> {
        match self.call("beat at", &DeskCall::Beat(beat.clone(), patience)).await? {
            DeskAnswer::Orders(orders) => Ok(orders),
            _ => Err(unexpected("beat at")),
        }
    }

    async fn log(&self, voucher: &Voucher, lines: &[LogLine]) -> Result<(), PortError> {
        match self.call("log at", &DeskCall::Log(voucher.clone(), lines.to_vec())).await? {
            DeskAnswer::Logged => Ok(()),
            _ => Err(unexpected("log at")),
        }
    }

    async fn emit(&self, voucher: &Voucher, lines: &[Emitted]) -> Result<Emission, PortError> {
        match self.call("emit at", &DeskCall::Emit(voucher.clone(), lines.to_vec())).await? {
            DeskAnswer::Emitted(emission) => Ok(emission),
            _ => Err(unexpected("emit at")),
        }
    }

    async fn settle(&self, report: &Report) -> Result<Reported, PortError> {
        match self.call("settle at", &DeskCall::Settle(report.clone())).await? {
            DeskAnswer::Reported(reported) => Ok(reported),
            _ => Err(unexpected("settle at")),
        }
    }

    async fn borrow(&self, request: &LoanRequest) -> Result<Answer, PortError> {
        match self.call("borrow at", &DeskCall::Loan(LoanCall::Lend(request.clone()))).await? {
            DeskAnswer::Loan(LoanAnswer::Answer(answer)) => Ok(answer),
            _ => Err(unexpected("borrow at")),
        }
    }

    async fn give_back(&self, voucher: &Voucher, loan: &Loan) -> Result<(), PortError> {
        let call = DeskCall::Loan(LoanCall::TakeBack(voucher.clone(), Box::new(loan.clone())));
        match self.call("give back at", &call).await? {
            DeskAnswer::Loan(LoanAnswer::TakenBack) => Ok(()),
            _ => Err(unexpected("give back at")),
        }
    }
}
