//! `syncline devices`: the account's devices. Listing, naming, revoking, and opening what a revoked one sealed.

use crate::device::{Reach, open_to_sync};
use crate::exit::{Exit, failure};
use crate::output::{Output, count, say};
use crate::when;
use std::path::PathBuf;
use syncline::sealed::SealKey;

/// Lists the account's devices; renames, revokes, and opens what a revoked one sealed
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
    }
    Ok(Exit::Done)
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
