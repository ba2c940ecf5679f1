//! The tool `port-scan`: which TCP ports of a host are open, found by connecting to each.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use switchyard_core::job::one_line;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::ToolError;
use switchyard_builtins::addresses::Allowed;

/// The version of a report's JSON.
const REPORT_VERSION: u64 = 1;
/// The most ports of one scan.
pub const PORTS_MAX: usize = 4096;
/// The most addresses of one name that are scanned. All of them are judged.
pub const ADDRESSES_MAX: usize = 8;
/// The most connections at once: what leaves room under the usual limit of 1,024 open files.
pub const CONCURRENCY_MAX: u16 = 256;
/// What is read of what a service says first.
const BANNER_BYTES: usize = 80;

/// A scan that can be made.
#[derive(Clone, Debug)]
pub struct Scan {
    target: String,
    ports: Vec<u16>,
    allowed: Allowed,
    concurrency: usize,
    timeout: Duration,
    banners: bool,
}

/// How a scan goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Connections at once, up to [`CONCURRENCY_MAX`].
    pub concurrency: u16,
    /// How long a port has to answer, and to say something.
    pub timeout: Duration,
    /// Whether what a service says first is kept.
    pub banners: bool,
}

/// What a port did.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Port {
    /// It took the connection, and said this; nothing unless banners are asked for.
    Open(Option<String>),
    /// It refused.
    Closed,
    /// Nothing came back, or word that nothing can.
    Filtered,
}

/// What was found at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    address: IpAddr,
    open: Vec<(u16, Option<String>)>,
    closed: usize,
    filtered: usize,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    target: String,
    ports: usize,
    addresses_in_all: usize,
    hosts: Vec<Host>,
}

impl Scan {
    /// A scan of `target`, a name or an address. `ports` are numbers and ranges (`22,80,8000-8100`); `allow` are the
    /// networks that may be reached: without any, this machine only.
    ///
    /// # Errors
    ///
    /// [`ToolError::BadInput`] names the part that cannot be used.
    pub fn new(target: &str, ports: &str, allow: &[String], manner: Manner) -> Result<Self, ToolError> {
        let bad = |message: String| Err(ToolError::BadInput(message));
        let mut networks = Vec::new();
        for text in allow {
            match text.parse::<IpNet>() {
                Ok(network) => networks.push(network),
                Err(_) => {
                    let text = one_line(text, 60);
                    return bad(format!("--allow: `{text}` is no network: expected one such as 10.0.0.0/8"));
                }
            }
        }
        if target.is_empty() || target.len() > 253 {
            return bad("the target: expected the name or address of a host".to_owned());
        }
        if !(1..=CONCURRENCY_MAX).contains(&manner.concurrency) {
            return bad(format!("--concurrency: expected 1 to {CONCURRENCY_MAX}"));
        }
        Ok(Self {
            target: target.to_owned(),
            ports: read_ports(ports)?,
            allowed: Allowed::loopback(networks),
            concurrency: usize::from(manner.concurrency),
            timeout: manner.timeout,
            banners: manner.banners,
        })
    }

    /// Makes the scan. Dropped before its end, it leaves no connection.
    ///
    /// # Errors
    ///
    /// [`ToolError::Refused`] before any connection where an address of the target may not be reached;
    /// [`ToolError::Failed`] where the name cannot be resolved, or this machine cannot make connections.
    pub async fn run(&self) -> Result<Report, ToolError> {
        let target = one_line(&self.target, 253);
        let addresses = self.addresses(&target).await?;
        for address in &addresses {
            let judged = self.allowed.judge(*address);
            judged.map_err(|refused| ToolError::Refused { target: target.clone(), refused })?;
        }
        let new = |address: &IpAddr| Host { address: *address, open: Vec::new(), closed: 0, filtered: 0 };
        let mut hosts: Vec<Host> = addresses.iter().take(ADDRESSES_MAX).map(new).collect();
        let scanned = hosts.len();
        // Port by port, so that no host is asked for many at once when there are several.
        let mut next = self.ports.iter().flat_map(|port| (0..scanned).map(move |host| (host, *port)));
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < self.concurrency
                && let Some((host, port)) = next.next()
            {
                let address = SocketAddr::new(hosts[host].address, port);
                let (timeout, banners) = (self.timeout, self.banners);
                under_way.spawn(async move { (host, port, probe(address, timeout, banners).await) });
            }
            let Some(done) = under_way.join_next().await else { break };
            let failed = |cause| ToolError::Failed { what: format!("scan {target}"), cause };
            let (host, port, found) = done.map_err(|error| failed(io::Error::other(error)))?;
            let host = &mut hosts[host];
            match found.map_err(failed)? {
                Port::Open(banner) => host.open.push((port, banner)),
                Port::Closed => host.closed += 1,
                Port::Filtered => host.filtered += 1,
            }
        }
        hosts.iter_mut().for_each(|host| host.open.sort());
        Ok(Report { target, ports: self.ports.len(), addresses_in_all: addresses.len(), hosts })
    }

    async fn addresses(&self, target: &str) -> Result<BTreeSet<IpAddr>, ToolError> {
        if let Ok(address) = self.target.parse() {
            return Ok(BTreeSet::from([address]));
        }
        let failed = |cause| ToolError::Failed { what: format!("resolve the name {target}"), cause };
        let found = tokio::net::lookup_host((self.target.as_str(), 0)).await.map_err(failed)?;
        let found: BTreeSet<IpAddr> = found.map(|found| found.ip()).collect();
        if found.is_empty() { Err(failed(io::Error::other("it has no address"))) } else { Ok(found) }
    }
}

/// The ports in a list of numbers and ranges, each once.
fn read_ports(text: &str) -> Result<Vec<u16>, ToolError> {
    let mut ports = BTreeSet::new();
    for part in text.split(',') {
        let part = part.trim();
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        let range = number(first).zip(number(last)).filter(|(first, last)| first <= last);
        let Some((first, last)) = range else {
            let part = one_line(part, 40);
            let expected = "expected numbers from 1 to 65535 and ranges, such as 22,80,8000-8100";
            return Err(ToolError::BadInput(format!("--ports: `{part}`: {expected}")));
        };
        ports.extend(first..=last);
    }
    if ports.len() > PORTS_MAX {
        let message = format!("--ports: {} ports; at most {PORTS_MAX} are scanned at once", ports.len());
        return Err(ToolError::BadInput(message));
    }
    Ok(ports.into_iter().collect())
}

/// Connects to one port.
///
/// # Errors
///
/// What is this machine's fault and says nothing of the port.
async fn probe(address: SocketAddr, timeout: Duration, banners: bool) -> io::Result<Port> {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Err(_) => Ok(Port::Filtered),
        // A connection that met itself: nothing listens there (RFC 9293, simultaneous open).
        Ok(Ok(stream)) if stream.local_addr().ok() == Some(address) => Ok(Port::Closed),
        Ok(Ok(stream)) if banners => Ok(Port::Open(banner(stream, timeout).await)),
        Ok(Ok(_)) => Ok(Port::Open(None)),
        Ok(Err(error)) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Ok(Port::Closed),
            ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied => Ok(Port::Filtered),
            // What a firewall or a router answered for it (icmp(7)).
            _ if error.raw_os_error().is_some_and(is_of_the_network) => Ok(Port::Filtered),
            _ => Err(error),
        },
    }
}

/// Whether an error tells of the way to a host, and not of this machine: host down, machine not on the network, protocol
/// not available.
fn is_of_the_network(code: i32) -> bool {
    use rustix::io::Errno;
    [Errno::HOSTDOWN, Errno::NONET, Errno::NOPROTOOPT].iter().any(|errno| errno.raw_os_error() == code)
}

/// The first printable bytes of what a service says unasked.
async fn banner(mut stream: TcpStream, timeout: Duration) -> Option<String> {
    let mut bytes = [0; BANNER_BYTES];
    let read = tokio::time::timeout(timeout, stream.read(&mut bytes)).await.ok()?.ok()?;
    let text = bytes[..read].iter().map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { ' ' });
    let text = one_line(&text.collect::<String>(), BANNER_BYTES);
    (!text.is_empty()).then_some(text)
}

impl Report {
    /// The report as JSON.
    pub fn to_json(&self) -> Value {
        let hosts: Vec<Value> = self.hosts.iter().map(Host::to_json).collect();
        json!({
            "version": REPORT_VERSION,
            "target": self.target,
            "ports": self.ports,
            "addresses_in_all": self.addresses_in_all,
            "addresses": hosts,
        })
    }

    /// The report for people.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}, ports tried: {}", self.target, self.ports);
        let left = self.addresses_in_all - self.hosts.len();
        if left > 0 {
            let _ = write!(text, "; addresses left out: {left}");
        }
        for Host { address, open, closed, filtered } in &self.hosts {
            let _ = write!(text, "\n{address}: {} open, {closed} closed, {filtered} filtered", open.len());
            for (port, banner) in open {
                let _ =
                    write!(text, "\n  {port}/tcp open{}", banner.iter().map(|b| format!("  {b}")).collect::<String>());
            }
        }
        text
    }
}

impl Host {
    fn to_json(&self) -> Value {
        let open: Vec<Value> =
            self.open.iter().map(|(port, banner)| json!({ "port": port, "banner": banner })).collect();
        json!({
            "address": self.address.to_string(),
            "open": open,
            "closed": self.closed,
            "filtered": self.filtered,
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    const MANNER: Manner = Manner { concurrency: 64, timeout: Duration::from_secs(30), banners: false };

    fn scan(target: &str, ports: &str, allow: &[&str]) -> Result<Scan, ToolError> {
        let allow: Vec<String> = allow.iter().map(|text| (*text).to_owned()).collect();
        Scan::new(target, ports, &allow, MANNER)
    }

    #[test]
    fn ports_are_numbers_and_ranges_within_a_bound() {
        assert_eq!(read_ports("443, 22,80-82,81").unwrap(), [22, 80, 81, 82, 443]);
        assert_eq!(read_ports("1-4096").unwrap().len(), PORTS_MAX);
        let bad = ["", ",", "0", "65536", "82-80", "80-", "-80", "1-2-3", "ssh", "1-4097", "80;443", "\u{1b}[31m"];
        let told: Vec<String> = bad.iter().map(|text| read_ports(text).unwrap_err().to_string()).collect();
        insta::assert_snapshot!(told.join("\n"));
    }

    #[tokio::test]
    async fn what_is_not_allowed_is_refused_before_any_connection() {
        let mut told = Vec::new();
        for (target, allow) in [
            ("10.0.0.1", [].as_slice()),
            ("8.8.8.8", &[]),
            ("169.254.169.254", &["169.254.0.0/16"]),
            ("::ffff:10.0.0.1", &["192.168.0.0/16"]),
            ("2001:db8::1", &[]),
        ] {
            let error = scan(target, "1", allow).unwrap().run().await.unwrap_err();
            assert!(error.is_permanent());
            told.push(switchyard_core::ports::describe(&error));
        }
        for (target, ports, allow) in [("", "1", [].as_slice()), (&"a".repeat(254), "1", &[]), ("a", "1", &["b"])] {
            told.push(scan(target, ports, allow).unwrap_err().to_string());
        }
        insta::assert_snapshot!(told.join("\n"));
    }

    #[tokio::test]
    async fn open_ports_are_told_from_closed_ones_at_every_address() {
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = { TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port() };
        let port = open.local_addr().unwrap().port();
        let report = scan("127.0.0.1", &format!("{port},{closed}"), &[]).unwrap().run().await.unwrap();
        let host = Host { address: "127.0.0.1".parse().unwrap(), open: vec![(port, None)], closed: 1, filtered: 0 };
        assert_eq!(report, Report { target: "127.0.0.1".to_owned(), ports: 2, addresses_in_all: 1, hosts: vec![host] });
        let named = scan("localhost", &port.to_string(), &[]).unwrap().run().await.unwrap();
        assert!(named.hosts.iter().any(|host| host.open == [(port, None)]), "{named:?}");
    }

    #[tokio::test]
    async fn a_banner_is_told_without_what_drives_a_terminal() {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = service.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut stream = service.accept().await.unwrap().0;
            stream.write_all(b"SSH-2.0-\x1b[31mexample\xff\r\n").await.unwrap();
        });
        let scan = Scan { banners: true, ..scan("127.0.0.1", &port.to_string(), &[]).unwrap() };
        let report = scan.run().await.unwrap();
        assert_eq!(report.hosts[0].open, [(port, Some("SSH-2.0- [31mexample".to_owned()))]);
        assert!(report.to_text().ends_with(&format!("{port}/tcp open  SSH-2.0- [31mexample")), "{}", report.to_text());
    }

    #[tokio::test]
    async fn a_scan_of_all_it_may_be_ends_with_every_port_counted() {
        let scan = Scan { concurrency: usize::from(CONCURRENCY_MAX), ..scan("127.0.0.1", "1-4096", &[]).unwrap() };
        let report = scan.run().await.unwrap();
        let host = &report.hosts[0];
        assert_eq!(host.open.len() + host.closed + host.filtered, PORTS_MAX);
    }
}
