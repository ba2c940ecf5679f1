//! What a container can see of the machine it runs on: the demo's image is this program and nothing else.
//! Compiled by itself, static, with nothing but the standard library.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

fn main() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let (uid, capabilities) = (field("Uid:"), field("CapEff:"));
    let root = match fs::write("/left-behind", "x") {
        Ok(()) => "writable".to_owned(),
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => "read-only".to_owned(),
        Err(error) => error.to_string(),
    };
    let metadata = SocketAddr::from(([169, 254, 169, 254], 80));
    let metadata = match TcpStream::connect_timeout(&metadata, Duration::from_millis(300)) {
        Ok(_) => "reached".to_owned(),
        Err(error) => format!("out of reach ({})", error.kind()),
    };
    let mut names: Vec<String> = env::vars().map(|(name, _)| name).collect();
    names.sort();
    println!("user {uid}, effective capabilities {capabilities}");
    println!("the root file system is {root}");
    println!("the instance metadata service is {metadata}");
    println!("the environment has {}", names.join(", "));
    let result = format!("{{\"uid\":\"{uid}\",\"root\":\"{root}\",\"metadata\":\"{metadata}\"}}");
    if let Ok(path) = env::var("SWITCHYARD_RESULT_PATH") {
        if let Err(error) = fs::write(path, result) {
            eprintln!("cannot write the result: {error}");
            std::process::exit(1);
        }
    }
}
