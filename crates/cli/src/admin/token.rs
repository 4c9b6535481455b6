//! `syncline admin token`: what a device enrols with.

use super::{Opened, Place};
use crate::exit::{Exit, failure};
use crate::output::{Output, say};
use crate::when;
use rusqlite::TransactionBehavior;
use syncline_server::accounts;

/// Makes an enrolment token, and the account if it is new; prints the token alone on stdout
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline attach notes.db --server http://127.0.0.1:4840 --token \"$(syncline admin token --data ./authority --account ada)\"")]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// The account, by its id
    #[arg(long, value_name = "NAME")]
    account: String,
    /// How long it may be used: 30s, 15m, 2h, 7d
    #[arg(long, default_value = "15m", value_parser = when::parse_length)]
    ttl: i64,
    /// How many devices may enrol with it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
}

/// Makes the token in one transaction and prints it.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|e| failure(Exit::Internal, format!("the system gave no random bytes: {e}")))?;
    let now = when::now_ms();
    let token = match args.place.open_or_create()? {
        Opened::Sqlite(mut conn) => {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let token = accounts::create_token(&tx, &args.account, random, args.ttl, args.uses, now)?;
            tx.commit()?;
            token
        }
        Opened::Postgres(postgres) => postgres.create_token(&args.account, random, args.ttl, args.uses)?,
    };
    if out.json {
        out.document(&serde_json::json!({ "token": token, "account": args.account, "uses": args.uses, "expires_ms": now.saturating_add(args.ttl) }))?;
        return Ok(Exit::Done);
    }
    out.line(token)?;
    say(format!(
        "good for {} during the next {}; give it to `syncline attach --token`",
        crate::output::count(args.uses.into(), "device"),
        when::length(args.ttl)
    ));
    Ok(Exit::Done)
}
