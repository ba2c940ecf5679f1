//! What a run is lent, from its start to every kind of end: by a yard in memory with a real broker, to real programs.

mod bench;
#[path = "../image/mod.rs"]
mod image;
mod containers;
mod ends;
mod refused;
mod sdk;

use std::time::Duration;

use bench::{Bench, CANARY, Does, Setup};
use switchyard_core::job::Phase;
use switchyard_core::lend::LoanOutcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Puts what a program finds where the test sees it: names complete last, so that nothing is read in half.
const TELL: &str = r#"
    set -e
    cd OUT
    cp -r "$SWITCHYARD_CREDENTIALS" files
    stat -c '%n %a %u' "$SWITCHYARD_CREDENTIALS" "$SWITCHYARD_CREDENTIALS"/* | sed "s|$SWITCHYARD_CREDENTIALS|.|" >modes
    env | sort >environment
    grep -i 'core file' /proc/self/limits >limits
    printf %s "$AWS_CONTAINER_CREDENTIALS_FULL_URI" >uri.part && mv uri.part uri
"#;

#[tokio::test]
async fn a_program_finds_each_loan_in_a_file_of_its_own_that_nobody_else_can_read() {
    let bench = Bench::new(Setup::default());
    let ended = bench.script("all", TELL).await;
    assert_eq!(ended.job.phase(), Phase::Succeeded, "{}", ended.told());
    let token = bench.seen("files/code").unwrap();
    let value = bench.seen("files/search").unwrap();
    assert!(token.starts_with(&format!("{CANARY}-token-")), "{token}");
    assert!(value.starts_with(&format!("{CANARY}-value-")), "{value}");
    let cloud: serde_json::Value = serde_json::from_str(&bench.seen("files/cloud.json").unwrap()).unwrap();
    assert_eq!(cloud["Version"], 1);
    assert!(cloud["AccessKeyId"].as_str().unwrap().starts_with("ASIA"));
    assert!(cloud["SecretAccessKey"].as_str().unwrap().starts_with(&format!("{CANARY}-key-")));
    assert!(cloud["SessionToken"].as_str().unwrap().starts_with(&format!("{CANARY}-session-")));
    let until: jiff::Timestamp = cloud["Expiration"].as_str().unwrap().parse().unwrap();
    assert!(until.subsec_nanosecond() == 0 && until > jiff::Timestamp::now());
    let user = rustix::process::geteuid().as_raw();
    let modes = format!(
        ". 700 {user}\n./cloud.json 600 {user}\n./code 600 {user}\n./endpoint.token 600 {user}\n./search 600 {user}"
    );
    assert_eq!(bench.seen("modes").unwrap(), modes);
    let environment = bench.seen("environment").unwrap();
    assert!(!environment.contains(CANARY), "no variable holds a secret");
    assert!(!environment.contains(&bench.seen("files/endpoint.token").unwrap()), "nor what the endpoint asks for");
    let names: Vec<&str> = environment.lines().filter_map(|line| line.split('=').next()).collect();
    for name in
        ["SWITCHYARD_CREDENTIALS", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]
    {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert!(!names.contains(&"AWS_CONFIG_FILE"), "one role needs no profiles");
    // Soft and hard: with 1 the kernel begins no dump, whatever takes it; with 0, where this process had that already, none
    // as a file.
    let limits = bench.seen("limits").unwrap();
    let limits: Vec<&str> = limits.split_whitespace().skip(4).take(2).collect();
    assert!(limits == ["1", "1"] || limits == ["0", "0"], "{limits:?}");
    assert_eq!(ended.log, Vec::<String>::new());
}

#[tokio::test]
async fn what_borrows_nothing_costs_nothing() {
    let bench = Bench::new(Setup::default());
    let ended = bench.script("none", "env >OUT/environment").await;
    assert_eq!(ended.job.phase(), Phase::Succeeded, "{}", ended.told());
    let environment = bench.seen("environment").unwrap();
    assert!(!environment.contains("SWITCHYARD_CREDENTIALS") && !environment.contains("AWS_"), "{environment}");
    assert_eq!((bench.vendor.asked(), ended.notes.len()), (0, 0));
    assert_eq!(std::fs::read_dir(bench.place.path()).unwrap().count(), 0, "no folder was made");
}

#[tokio::test]
async fn several_roles_are_profiles_and_neither_is_taken_unasked() {
    let bench = Bench::new(Setup::default());
    let ended = bench.script("several", TELL).await;
    assert_eq!(ended.job.phase(), Phase::Succeeded, "{}", ended.told());
    assert_eq!(bench.seen("uri").as_deref(), Some(""));
    let environment = bench.seen("environment").unwrap();
    let folder = environment.lines().find_map(|line| line.strip_prefix("SWITCHYARD_CREDENTIALS=")).unwrap();
    assert!(environment.contains(&format!("AWS_CONFIG_FILE={folder}/config.ini")), "{environment}");
    let expected = format!(
        "[profile one]\ncredential_process = cat \"{folder}/one.json\"\n\
         [profile two]\ncredential_process = cat \"{folder}/two.json\""
    );
    assert_eq!(bench.seen("files/config.ini").unwrap(), expected);
}

/// One request to an endpoint, with these headers; the status line and the body.
async fn ask(uri: &str, method: &str, path: &str, headers: &str) -> (String, String) {
    let (address, _) = uri.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

#[tokio::test]
async fn the_endpoint_tells_nothing_to_whoever_does_not_show_the_run_s_token() {
    let bench = Bench::new(Setup::default());
    let script = format!("{TELL}\nuntil [ -e go ]; do sleep 0.02; done");
    let asking = async {
        let uri = bench.comes("uri").await;
        let token = bench.seen("files/endpoint.token").unwrap();
        let with = |token: &str| format!("authorization: {token}\r\n");
        let wrong = [
            ("no token", String::new()),
            ("an empty one", with("")),
            ("another", with(&"0".repeat(64))),
            ("a part of it", with(&token[..63])),
            ("more than it", with(&format!("{token}0"))),
            ("as a bearer's", with(&format!("Bearer {token}"))),
            ("in capitals", with(&token.to_uppercase())),
        ];
        for (what, headers) in wrong {
            for (method, path) in [("GET", "/cloud"), ("GET", "/nothing"), ("POST", "/cloud")] {
                let (status, body) = ask(&uri, method, path, &headers).await;
                assert_eq!(status, "HTTP/1.1 403 Forbidden", "{what} {method} {path}");
                assert!(!body.contains(CANARY) && !body.contains("ASIA") && !body.contains("cloud"), "{body}");
            }
        }
        for (method, path, expected) in [
            ("GET", "/cloud", "HTTP/1.1 200 OK"),
            ("HEAD", "/cloud", "HTTP/1.1 405 Method Not Allowed"),
            ("GET", "/", "HTTP/1.1 404 Not Found"),
            ("GET", "/cloud/x", "HTTP/1.1 404 Not Found"),
            ("GET", "/search", "HTTP/1.1 404 Not Found"),
        ] {
            let (status, body) = ask(&uri, method, path, &with(&token)).await;
            assert_eq!(status, expected, "{method} {path}");
            assert_eq!(body.contains(CANARY), expected.contains("200"), "{method} {path}");
        }
        let (_, body) = ask(&uri, "GET", "/cloud", &with(&token)).await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let file: serde_json::Value = serde_json::from_str(&bench.seen("files/cloud.json").unwrap()).unwrap();
        assert_eq!(
            (&body["AccessKeyId"], &body["SecretAccessKey"], &body["Token"], &body["Expiration"]),
            (&file["AccessKeyId"], &file["SecretAccessKey"], &file["SessionToken"], &file["Expiration"]),
        );
        // What is no HTTP, and what never ends, is answered or cut off; the next is answered.
        let (address, _) = uri.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let long = format!("x: {}\r\n", "y".repeat(20_000));
        let (status, _) = ask(&uri, "GET", "/cloud", &long).await;
        assert!(!status.contains("200"), "{status}");
        assert_eq!(ask(&uri, "GET", "/cloud", &with(&token)).await.0, "HTTP/1.1 200 OK");
        drop(silent);
        bench.put("go");
    };
    let (ended, ()) = tokio::join!(bench.script("all", &script), asking);
    assert_eq!(ended.job.phase(), Phase::Succeeded, "{}", ended.told());
}

#[tokio::test]
async fn a_loan_is_renewed_in_its_file_and_at_the_endpoint_before_it_ends() {
    let bench = Bench::new(Setup { does: vec![Does::Issues(Duration::from_secs(3))], ..Setup::default() });
    // A reader that reads all the time never finds half a file, and none that is missing.
    let script = format!(
        "{TELL}
         first=$(cat \"$SWITCHYARD_CREDENTIALS/search\") before=$(cat \"$SWITCHYARD_CREDENTIALS/cloud.json\")
         while now=$(cat \"$SWITCHYARD_CREDENTIALS/search\") && [ ${{#now}} -ge ${{#first}} ] && [ \"$now\" = \"$first\" ]; do :; done
         while [ \"$(cat \"$SWITCHYARD_CREDENTIALS/cloud.json\")\" = \"$before\" ]; do :; done
         [ ${{#now}} -ge ${{#first}} ]
         cat \"$SWITCHYARD_CREDENTIALS/cloud.json\" >renewed.part && mv renewed.part renewed
         until [ -e go ]; do sleep 0.02; done"
    );
    let asking = async {
        let uri = bench.comes("uri").await;
        bench.comes("renewed").await;
        let headers = format!("authorization: {}\r\n", bench.seen("files/endpoint.token").unwrap());
        let (_, body) = ask(&uri, "GET", "/cloud", &headers).await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let first: serde_json::Value = serde_json::from_str(&bench.seen("files/cloud.json").unwrap()).unwrap();
        assert_ne!(body["AccessKeyId"], first["AccessKeyId"], "the newest is served");
        bench.put("go");
    };
    let (ended, ()) = tokio::join!(bench.script("all", &script), asking);
    assert_eq!(ended.job.phase(), Phase::Succeeded, "{}", ended.told());
    assert!(bench.vendor.asked() >= 6, "three loans, and each at least twice");
    let lent = |note: &&switchyard_core::lend::LoanNote| matches!(note.outcome, LoanOutcome::Lent { .. });
    assert_eq!(ended.notes.iter().filter(lent).count(), bench.vendor.asked() as usize);
    assert_eq!(ended.log, Vec::<String>::new(), "nothing has to be said of it");
}
