//! The yard's tokens, in its folder: made, listed, changed and removed, whether or not the yard runs.

use std::path::Path;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::json;
use switchyard_api::admit::Role;
use switchyard_api::tokens::{LOCAL, TokenFile, Tokens, TokensError, secret_of};
use switchyard_builtins::system::System;
use switchyard_core::ports::Ambient;
use switchyard_embedded::folder::{Folder, write_private};

use crate::args::Token;
use crate::exit::Failure;
use crate::show::{print, print_json};

/// Does what `switchyard token` was asked. The only thing that ever prints a secret, and only the one it has just made.
pub(crate) fn run(root: &Path, asked: &Token, json: bool) -> Result<u8, Failure> {
    let folder = Folder::at(root);
    if !root.is_dir() {
        let root = root.display();
        return Err(Failure::BadInput(format!("there is no yard in {root}: `switchyard local` makes one")));
    }
    let _edit = lock(&folder)?;
    let mut tokens = take_over(&folder, &System)?;
    match asked {
        Token::List => list(&tokens, json),
        Token::Create { name, role } => {
            let role: Role = role.parse().map_err(Failure::BadInput)?;
            let secret = secret_of(System.random());
            tokens.create(name, role, &secret, System.now()).map_err(refused)?;
            save(&folder, &tokens)?;
            show_once(name, role, &secret, json)
        }
        Token::Rotate { name } => {
            let secret = secret_of(System.random());
            let role = tokens.rotate(name, &secret, System.now()).map_err(refused)?;
            if name == LOCAL {
                // Before the list: whatever ends in between, the next look at the folder finishes it.
                write(&folder.token(), &secret)?;
            }
            save(&folder, &tokens)?;
            show_once(name, role, &secret, json)
        }
        Token::Revoke { name } => {
            tokens.revoke(name).map_err(refused)?;
            save(&folder, &tokens)?;
            Ok(0)
        }
    }
}

fn refused(error: TokensError) -> Failure {
    Failure::BadInput(error.to_string())
}

fn list(tokens: &Tokens, json: bool) -> Result<u8, Failure> {
    if json {
        let token = |token: &switchyard_api::tokens::Token| json!({ "name": token.name, "role": token.role.as_str(), "created_at": format!("{:.3}", token.created) });
        print_json(&tokens.iter().map(token).collect::<Vec<_>>())?;
        return Ok(0);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["NAME", "ROLE", "CREATED"]);
    for token in tokens.iter() {
        table.add_row([token.name.clone(), token.role.to_string(), format!("{:.3}", token.created)]);
    }
    print(&table.trim_fmt())?;
    Ok(0)
}

fn show_once(name: &str, role: Role, secret: &str, json: bool) -> Result<u8, Failure> {
    if json {
        print_json(&json!({ "name": name, "role": role.as_str(), "token": secret }))?;
    } else {
        // The secret alone on standard output, for `$(...)`.
        print(secret)?;
        eprintln!("the token of `{name}`, a {role}; it is not shown again");
    }
    Ok(0)
}

/// The tokens of a yard that opens.
pub(crate) fn open(folder: &Folder, ambient: &dyn Ambient) -> Result<TokenFile, Failure> {
    let _edit = lock(folder)?;
    take_over(folder, ambient)?;
    let path = folder.tokens();
    TokenFile::open(&path).map_err(|cause| Failure::io(format!("read {}", path.display()), cause))
}

fn lock(folder: &Folder) -> Result<impl Drop, Failure> {
    // What is done under it takes milliseconds, most of them for the disk.
    folder.lock_tokens(Duration::from_secs(10)).map_err(|cause| Failure::io("lock the list of tokens", cause))
}

/// The tokens in the folder. What is missing is made: the list, and this machine's own token, which lies beside it in
/// plain text and counts as it lies there.
fn take_over(folder: &Folder, ambient: &dyn Ambient) -> Result<Tokens, Failure> {
    let path = folder.tokens();
    let mut tokens = match read(&path)? {
        Some(text) => Tokens::from_json(&text)
            .map_err(|error| Failure::CannotOpen(format!("{}: {error}", path.display()).into()))?,
        None => Tokens::default(),
    };
    let secret = match read(&folder.token())? {
        Some(secret) if !secret.trim().is_empty() => secret.trim().to_owned(),
        Some(_) | None => {
            let secret = secret_of(ambient.random());
            write(&folder.token(), &secret)?;
            secret
        }
    };
    if tokens.find(&secret).is_some_and(|token| token.name == LOCAL) {
        return Ok(tokens);
    }
    let now = ambient.now();
    match tokens.rotate(LOCAL, &secret, now) {
        Ok(_) => {}
        Err(_) => tokens.create(LOCAL, Role::Operator, &secret, now).map_err(refused)?,
    }
    save(folder, &tokens)?;
    Ok(tokens)
}

fn save(folder: &Folder, tokens: &Tokens) -> Result<(), Failure> {
    write(&folder.tokens(), &tokens.to_json())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    write_private(path, text.as_bytes()).map_err(|cause| Failure::io(format!("write {}", path.display()), cause))
}

/// What a file holds that only its owner may read.
fn read(path: &Path) -> Result<Option<String>, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(Failure::io(format!("read {}", path.display()), cause)),
    };
    let mode = std::fs::metadata(path).map_err(|cause| Failure::io(format!("read {}", path.display()), cause))?;
    if mode.permissions().mode() & 0o077 != 0 && !text.trim().is_empty() {
        let path = path.display();
        return Err(Failure::CannotOpen(
            format!("{path} can be read by others: run chmod 600 on it, or remove it for a new token").into(),
        ));
    }
    Ok(Some(text))
}
