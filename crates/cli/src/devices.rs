//! `syncline devices`: the account's devices. Listing, naming, revoking, and opening what a revoked one sealed.

use crate::device::{Reach, open_to_sync};
use crate::exit::{Exit, failure};
use crate::output::{Output, count, say};
use crate::when;
use std::path::PathBuf;
use std::time::Duration;
use syncline::Database;
use syncline::sealed::SealKey;

/// Lists the account's devices; renames, revokes, and opens what a revoked one sealed; presence and push tokens
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline devices app.db
  syncline devices app.db rename 3f2a91c0 \"Ada's tablet\"
  syncline devices app.db revoke 3f2a91c0")]
pub struct Args {
    /// The database
    db: PathBuf,
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Gives a device another name
    #[command(after_help = "Example:\n  syncline devices app.db rename 3f2a91c0 \"Ada's tablet\"")]
    Rename {
        /// Its id; the first digits do, where they mean one
        id: String,
        /// What people call it from now on
        name: String,
    },
    /// Takes a device out of the account: its streams end within 5 seconds, it seals what it could not send, and drops its rows
    #[command(after_help = "Example:\n  syncline devices app.db revoke 3f2a91c0")]
    Revoke {
        /// Its id; the first digits do, where they mean one
        id: String,
    },
    /// Takes in what a revoked device of this account sealed: its rows wait here to be sent
    #[command(after_help = "Example:\n  syncline devices app.db unseal phone.db.sealed\n  syncline sync app.db")]
    Unseal {
        /// The file that the revoked device wrote beside its database
        file: PathBuf,
        /// What opens it, as `syncline admin devices --seal-key ID` tells; the server is asked if it is left out
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
    /// Shows who is online: this account's devices, and accounts that share a scope with it; or tells what this device does
    #[command(after_help = "Example:\n  syncline devices app.db presence\n  syncline devices app.db presence --tell typing --ttl 10s")]
    Presence {
        /// Tells this, a word or two; an empty one takes it back
        #[arg(long, value_name = "STATUS")]
        tell: Option<String>,
        /// How long it is good, at most 5m
        #[arg(long, value_name = "TIME", default_value = "1m", value_parser = when::parse_length, requires = "tell")]
        ttl: i64,
    },
    /// Shows, sets or clears where this device is woken while it has no stream
    #[command(after_help = "Example:
  syncline devices app.db push-token --set fcm:TOKEN --ttl 30d
  syncline devices app.db push-token --code CODE     # what came by push: proves that wakes arrive")]
    PushToken {
        /// The push service and its token for this device
        #[arg(long, value_name = "PROVIDER:TOKEN", conflicts_with_all = ["code", "clear"])]
        set: Option<String>,
        /// How long the token is good, at most 180d
        #[arg(long, value_name = "TIME", default_value = "30d", value_parser = when::parse_length, requires = "set")]
        ttl: i64,
        /// The code that came by push
        #[arg(long, value_name = "CODE", conflicts_with = "clear")]
        code: Option<String>,
        /// Forgets it
        #[arg(long)]
        clear: bool,
    },
}

/// Lists, or does what is asked.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let db = open_to_sync(&args.db, &args.reach)?;
    match args.action {
        None => {
            let devices = match db.devices() {
                Err(syncline::Error::Link(e)) if e.is_network() => {
                    say("offline: these are the devices as they were last heard of");
                    db.devices_known()?
                }
                other => other?,
            };
            if out.json {
                out.document(&devices)?;
            } else {
                let now = when::now_ms();
                let own = db.status()?.device_id;
                let rows = devices.into_iter().map(|d| {
                    let name = if own.as_deref() == Some(&d.device_id) { format!("{} (this one)", d.name) } else { d.name };
                    let state = d.revoked.map_or(String::new(), |at| format!("revoked {}", when::told(at, now)));
                    [d.device_id, name, d.platform, d.app_version, when::told(d.last_seen, now), state]
                });
                out.table(["device", "name", "platform", "app", "last seen", ""], rows)?;
            }
        }
        Some(Action::Rename { id, name }) => {
            let device = db.rename_device(&id, &name)?;
            if out.json { out.document(&device)? } else { out.line(format!("{} is called {} now", device.device_id, device.name))? }
        }
        Some(Action::Revoke { id }) => {
            let device = db.revoke_device(&id)?;
            say(
                "its next request is refused; it then seals what it could not send into a file beside its database, which `syncline devices DB unseal FILE` opens on another device",
            );
            if out.json { out.document(&device)? } else { out.line(format!("revoked {} ({})", device.device_id, device.name))? }
        }
        Some(Action::Unseal { file, key }) => {
            let key = key.map(|text| parse_key(&text)).transpose()?;
            let unsealed = db.unseal(&file, key)?;
            if out.json {
                out.document(&unsealed)?;
            } else {
                out.line(format!("{} taken in, {} known here already", count(unsealed.taken, "row"), unsealed.known))?;
            }
            if unsealed.elsewhere > 0 {
                say(format!("{} are of scopes that this device is not in; open the file on one that is", count(unsealed.elsewhere, "row")));
            }
            for (table, row) in &unsealed.aside {
                say(format!("not taken in, because its key is another row's here: {table} {row}; insert it under another key"));
            }
            say("next: `syncline sync` sends them");
        }
        Some(Action::Presence { tell, ttl }) => {
            if let Some(status) = tell {
                db.tell_presence(&status, span(ttl))?;
            }
            show_presence(&db, out)?;
        }
        Some(Action::PushToken { set, ttl, code, clear }) => {
            if let Some(set) = set {
                let (provider, token) = set.split_once(':').ok_or_else(|| failure(Exit::Usage, "name the push service and its token as PROVIDER:TOKEN"))?;
                db.set_push_token(provider, token, span(ttl))?;
                say("next: the app gets a code by push; `syncline devices DB push-token --code CODE` gives it back");
            } else if let Some(code) = code {
                db.verify_push_token(&code)?;
            } else if clear {
                db.clear_push_token()?;
            }
            show_push_token(&db, out)?;
        }
    }
    Ok(Exit::Done)
}

fn span(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn show_presence(db: &Database, out: Output) -> anyhow::Result<()> {
    let seen = db.presence()?;
    if out.json {
        return out.document(&seen);
    }
    let names = db.devices()?;
    let name = |id: &str| names.iter().find(|d| d.device_id == id).map_or_else(|| id.to_owned(), |d| d.name.clone());
    let line = |kind: &str, name: String, online: bool, status: Option<String>| {
        [kind.to_owned(), name, if online { "online".into() } else { "offline".into() }, status.unwrap_or_default()]
    };
    let devices = seen.devices.into_iter().map(|d| line("device", name(&d.device_id), d.online, d.status));
    let accounts = seen.accounts.into_iter().map(|a| line("account", a.account, a.online, a.status));
    out.table(["", "name", "", "status"], devices.chain(accounts))
}

fn show_push_token(db: &Database, out: Output) -> anyhow::Result<()> {
    let state = db.push_token()?;
    if out.json {
        return out.document(&state);
    }
    match state {
        Some(state) => {
            let proven = if state.verified { "verified" } else { "not verified yet" };
            out.line(format!("{}: {proven}, good until {}", state.provider, when::told(state.expires_ms, when::now_ms())))
        }
        None => out.line("no push token"),
    }
}

/// Reads `SEAL_KEY-PUBLIC_KEY`.
fn parse_key(text: &str) -> anyhow::Result<SealKey> {
    match text.trim().split_once('-') {
        Some((seal_key, public_key)) if seal_key.len() == 64 && public_key.len() == 64 => {
            Ok(SealKey { seal_key: seal_key.into(), public_key: public_key.into() })
        }
        _ => Err(failure(Exit::Usage, "a key is what `syncline admin devices --seal-key ID` prints: 64 hex digits, `-`, 64 hex digits")),
    }
}
