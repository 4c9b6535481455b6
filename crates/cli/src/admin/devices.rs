//! `syncline admin devices`: who syncs, how far each one is behind, and which are connected and yet do not fetch.

use super::{Opened, Place, check_account};
use crate::exit::{Exit, failure};
use crate::output::{Output, count, say};
use crate::when;
use syncline_core::DeviceId;
use syncline_core::ids::hex;
use syncline_server::accounts;
use syncline_server::delivery::{self, DevicePlace};

/// Lists devices with their cursor, how far they are behind, and when they were last heard of
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline admin devices --data ./authority --account ada")]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Only this account's
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Prints what opens the file that this revoked device sealed, for `syncline devices DB unseal FILE --key`
    #[arg(long, value_name = "ID")]
    seal_key: Option<String>,
}

/// Reads in one snapshot and prints.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let now = when::now_ms();
    let running = args.place.is_served();
    let opened = args.place.open()?;
    if let Some(id) = &args.seal_key {
        return seal_key(&opened, id, out);
    }
    let lines = match opened {
        Opened::Sqlite(mut conn) => {
            let tx = conn.transaction()?;
            check_account(&accounts::accounts(&tx)?, args.account.as_deref())?;
            delivery::places(&tx, args.account.as_deref(), running, now)?
        }
        Opened::Postgres(postgres) => {
            check_account(&postgres.accounts()?, args.account.as_deref())?;
            postgres.places(args.account.as_deref(), now)?
        }
    };
    if out.json {
        out.document(&lines)?;
    } else if lines.is_empty() {
        say("no devices yet; `syncline attach` with a token from `syncline admin token` enrols one");
    } else {
        let head = ["account", "device", "name", "platform", "app", "cursor", "behind, as it last told", "last seen", "stream"];
        out.table(head, lines.into_iter().map(|line| row(line, now)))?;
    }
    Ok(Exit::Done)
}

fn seal_key(opened: &Opened, id: &str, out: Output) -> anyhow::Result<Exit> {
    let device = DeviceId::parse(id).ok_or_else(|| failure(Exit::Usage, "a device id has 32 hex digits; `syncline admin devices` lists them"))?;
    let (seal_key, public_key) = match opened {
        Opened::Sqlite(conn) => accounts::seal_key(conn, None, device)?,
        Opened::Postgres(postgres) => postgres.seal_key(device)?,
    };
    let key = format!("{}-{}", hex(&seal_key), hex(&public_key));
    if out.json {
        out.document(&serde_json::json!({ "device_id": device, "key": key }))?
    } else {
        out.line(key)?
    }
    say("whoever has this and the file reads what the device had not sent; give it to its owner alone");
    Ok(Exit::Done)
}

fn row(line: DevicePlace, now: i64) -> [String; 9] {
    let behind = match (line.device.revoked_ms, line.lag_bundles) {
        (Some(at), _) => format!("revoked {}", when::told(at, now)),
        (None, 0) => "up to date".into(),
        (None, n) => format!("{}, {}", count(n, "bundle"), when::length(line.lag_seconds * 1000)),
    };
    let shown = if line.scopes.len() > 1 { format!(" in {}", line.scope_id) } else { String::new() };
    let cursor = line.cursor.map_or("not told yet".into(), |seq| format!("{seq} of {}{shown}", line.head));
    let stream = match (line.stream_since_ms, line.connected_stale) {
        (None, _) => String::new(),
        (Some(_), false) => "open".into(),
        (Some(_), true) => "open, but stale".into(),
    };
    let device = line.device;
    let seen = when::told(device.last_seen_ms, now);
    [device.account, device.device_id.to_string(), device.name, device.platform, device.app_version, cursor, behind, seen, stream]
}
