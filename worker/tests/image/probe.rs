//! The one program of the test image: it does what its first argument says, and tells what it found.
//!
//! It is compiled by the tests with `rustc` alone, static, and lies in an image without anything else.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

extern "C" {
    fn fork() -> i32;
    fn signal(number: i32, handler: usize) -> usize;
    fn _exit(code: i32) -> !;
}

const TERM: i32 = 15;
const IGNORE: usize = 1;

extern "C" fn leave(_: i32) {
    // Of what a handler may do, this is one (signal-safety(7)).
    unsafe { _exit(0) }
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn told<T>(what: &str, done: std::io::Result<T>) {
    match done {
        Ok(_) => println!("{what}: done"),
        Err(error) => println!("{what}: {:?}", error.kind()),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let what = args.get(1).map_or("", String::as_str);
    let number = || what.parse::<usize>().expect("a number");
    let result = || std::env::var("SWITCHYARD_RESULT_PATH").expect("where to write a result");
    let records = || std::env::var("SWITCHYARD_RECORDS_PATH").expect("where to emit records");
    match args.first().map_or("", String::as_str) {
        "exit" => {
            eprintln!("about to exit with {what}");
            std::process::exit(what.parse().expect("a number"));
        }
        "status" => print!("{}", fs::read_to_string("/proc/self/status").expect("/proc is there")),
        "environment" => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        // Who else is there: every process that /proc shows, with what it was started as.
        "processes" => {
            for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
                let name = entry.file_name().into_string().unwrap_or_default();
                if name.bytes().all(|byte| byte.is_ascii_digit()) {
                    let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
                    println!("{name} {}", line.split('\0').next().unwrap_or_default());
                }
            }
        }
        // Whether a file is there to be read.
        "read" => {
            for path in what.split(',') {
                told(path, fs::read(path));
            }
        }
        "arguments" => println!("{args:?}"),
        "eat" => {
            let mut eaten = Vec::new();
            for _ in 0..number() {
                eaten.push(vec![1_u8; 1 << 20]);
            }
            println!("ate {} MiB", eaten.len());
            std::thread::sleep(Duration::from_secs(1));
        }
        "stubborn" => {
            unsafe { signal(TERM, IGNORE) };
            println!("ready");
            sleep_for_ever()
        }
        "polite" => {
            unsafe { signal(TERM, leave as *const () as usize) };
            println!("ready");
            sleep_for_ever()
        }
        "bomb" => {
            let mut made = 0;
            loop {
                match unsafe { fork() } {
                    0 => sleep_for_ever(),
                    -1 => break,
                    _ => made += 1,
                }
            }
            println!("{made} children, and no more");
        }
        "flood" => {
            let line = [b'x'; 1023].into_iter().chain([b'\n']).collect::<Vec<u8>>().repeat(64);
            let mut out = std::io::stdout().lock();
            for _ in 0..number() * 16 {
                out.write_all(&line).expect("somebody reads");
            }
        }
        "result" => fs::write(result(), what).expect("a result can be written"),
        "large-result" => {
            fs::write(result(), format!("\"{}\"", "a".repeat(number() - 2))).expect("a result can be written");
        }
        "emit" | "emit-and-fail" => {
            let line = |n: usize| format!("{{\"kind\":\"asset\",\"id\":\"host:{n}\"}}\n");
            let lines: String = (0..number()).map(line).collect();
            fs::write(records(), lines).expect("records can be written");
            std::process::exit(i32::from(args[0] == "emit-and-fail"));
        }
        "linked-records" => std::os::unix::fs::symlink("/probe", records()).expect("a link can be made"),
        "linked-result" => std::os::unix::fs::symlink("/probe", result()).expect("a link can be made"),
        "folder-result" => fs::create_dir(result()).expect("a folder can be made"),
        "payload" => {
            let uri = std::env::var("SWITCHYARD_PAYLOAD_URI").expect("a large payload is a file");
            let text = fs::read_to_string(uri.strip_prefix("file://").expect("a file")).expect("it can be read");
            println!("{} bytes", text.len());
        }
        "write" => {
            told("/", fs::write("/written", "x"));
            told("/etc", fs::create_dir("/etc/written"));
            told("/tmp", fs::write("/tmp/written", "x"));
            told("the run's folder", fs::write(format!("{}.part", result()), "x"));
        }
        // Each address in turn, as far as it comes in two seconds.
        "reach" => {
            for address in what.split(',').filter(|address| !address.is_empty()) {
                let address: SocketAddr = address.parse().expect("an address");
                let reached = TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok();
                println!("{address} {}", if reached { "reached" } else { "out of reach" });
            }
        }
        // What is lent: each file, whether it can be read, and where in it a secret is, which begins as told.
        "credentials" => {
            let folder = std::env::var("SWITCHYARD_CREDENTIALS").expect("where the credentials are");
            println!("{folder}");
            let mut names: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            for name in names {
                let name = name.into_string().expect("a text");
                let text = fs::read_to_string(format!("{folder}/{name}")).expect("it can be read");
                println!("{name}: {} lines, {} secrets", text.lines().count(), text.matches(what).count());
                told(&format!("write {name}"), fs::write(format!("{folder}/{name}"), "x"));
            }
            told("a file more", fs::write(format!("{folder}/more"), "x"));
            for name in ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"] {
                println!("{name}={}", std::env::var(name).unwrap_or_default());
            }
            let limits = fs::read_to_string("/proc/self/limits").expect("/proc is there");
            println!("{}", limits.lines().find(|line| line.starts_with("Max core")).unwrap_or_default());
        }
        "await-change" => {
            let first = fs::read(what).expect("it can be read");
            while fs::read(what).expect("it can be read") == first {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        "sleep" => std::thread::sleep(Duration::from_millis(number() as u64)),
        other => panic!("`{other}` is nothing this program does"),
    }
}
