//! `syncline scopes`: sharing. Who is in which scope, inviting, joining, leaving.

use crate::device::{Reach, open_to_sync};
use crate::exit::{Exit, failure};
use crate::output::{Output, count, say};
use crate::when;
use serde::Serialize;
use std::path::PathBuf;
use syncline::{Database, MemberRole};

/// Lists the scopes of the account, and shares them: create, invite, accept, members, role, remove, leave
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline scopes app.db create trip-2026
  syncline scopes app.db invite trip-2026 --role writer
  syncline scopes theirs.db accept syi_...")]
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
    /// Makes a scope to share
    #[command(after_help = "Example:\n  syncline scopes app.db create trip-2026")]
    Create {
        /// Its id, as the rows' scope column will have it; one is made if it is left out
        scope: Option<String>,
    },
    /// Makes an invitation and prints its code, alone on stdout; only an admin may
    #[command(
        after_help = "Example:\n  syncline scopes app.db invite trip-2026 --role reader --ttl 1h --uses 3\n  syncline scopes app.db invite trip-2026 --withdraw"
    )]
    Invite {
        /// The scope
        scope: String,
        /// What the invited may do: reader, writer or admin
        #[arg(long, default_value = "writer", value_parser = role)]
        role: MemberRole,
        /// How long it is good: 30s, 15m, 2h, 7d
        #[arg(long, default_value = "7d", value_parser = when::parse_length)]
        ttl: i64,
        /// How many accounts may use it
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// Makes all open invitations to the scope void instead
        #[arg(long, conflicts_with_all = ["role", "ttl", "uses"])]
        withdraw: bool,
    },
    /// Joins the scope that an invitation is for
    #[command(after_help = "Example:\n  syncline scopes app.db accept syi_...")]
    Accept {
        /// The invitation's code
        code: String,
    },
    /// Lists a scope's members
    #[command(after_help = "Example:\n  syncline scopes app.db members trip-2026")]
    Members {
        /// The scope
        scope: String,
    },
    /// Gives a member another role; only an admin may
    #[command(after_help = "Example:\n  syncline scopes app.db role trip-2026 bertram reader")]
    Role {
        /// The scope
        scope: String,
        /// The member's account
        account: String,
        /// reader, writer or admin
        #[arg(value_parser = role)]
        role: MemberRole,
    },
    /// Takes a member out; only an admin may
    #[command(after_help = "Example:\n  syncline scopes app.db remove trip-2026 bertram")]
    Remove {
        /// The scope
        scope: String,
        /// The member's account
        account: String,
    },
    /// Leaves a scope: its rows leave this account's devices
    #[command(after_help = "Example:\n  syncline scopes app.db leave trip-2026")]
    Leave {
        /// The scope
        scope: String,
    },
}

fn role(word: &str) -> Result<MemberRole, String> {
    MemberRole::parse(word).ok_or_else(|| "it is reader, writer or admin".into())
}

/// A scope of the account, and how far this device has it.
#[derive(Serialize)]
struct Line {
    scope_id: String,
    role: MemberRole,
    /// What this device has applied; none before its first sync of it.
    cursor: Option<u64>,
}

/// Lists, or does what is asked.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let db = open_to_sync(&args.db, &args.reach)?;
    match args.action {
        None => list(&db, out),
        Some(Action::Create { scope }) => {
            let made = db.create_scope(scope.as_deref())?;
            say("next: `syncline scopes DB invite SCOPE` lets others in");
            show(out, &made, &made.scope_id.0)
        }
        Some(Action::Invite { scope, withdraw: true, .. }) => {
            let gone = db.withdraw_invites(&scope)?;
            show(out, &serde_json::json!({ "withdrawn": gone }), &format!("{} void", count(gone, "invitation")))
        }
        Some(Action::Invite { scope, role, ttl, uses, .. }) => {
            let invitation = db.invite(&scope, role, ttl, uses)?;
            say(format!("whoever has this code joins {scope} as {role}: `syncline scopes DB accept CODE`"));
            show(out, &invitation, &invitation.code)
        }
        Some(Action::Accept { code }) => {
            let joined = db.accept_invite(&code)?;
            say("next: `syncline sync` brings its rows");
            show(out, &joined, &format!("joined {} as {}", joined.scope_id, joined.role))
        }
        Some(Action::Members { scope }) => {
            let members = db.members(&scope)?;
            if out.json {
                out.document(&members)?;
            } else {
                let now = when::now_ms();
                let since = |at: i64| if at == 0 { String::new() } else { when::told(at, now) };
                out.table(["account", "role", "since"], members.into_iter().map(|m| [m.account, m.role.to_string(), since(m.since_ms)]))?;
            }
            Ok(Exit::Done)
        }
        Some(Action::Role { scope, account, role }) => {
            db.set_role(&scope, &account, role)?;
            show(out, &serde_json::json!({ "scope_id": scope, "account": account, "role": role }), &format!("{account} is {role} in {scope}"))
        }
        Some(Action::Remove { scope, account }) => {
            db.remove_member(&scope, &account)?;
            show(out, &serde_json::json!({ "scope_id": scope, "account": account, "role": null }), &format!("{account} is out of {scope}"))
        }
        Some(Action::Leave { scope }) => {
            if db.status()?.account.as_deref() == Some(scope.as_str()) {
                return Err(failure(Exit::Usage, "this is the account's own scope; `syncline detach` takes a device out of the account"));
            }
            db.leave_scope(&scope)?;
            say("its rows leave this device with the next sync");
            show(out, &serde_json::json!({ "scope_id": scope, "role": null }), &format!("left {scope}"))
        }
    }
}

fn list(db: &Database, out: Output) -> anyhow::Result<Exit> {
    let here = db.status()?.scopes;
    let cursor = |id: &str| here.iter().find(|s| s.scope_id == id).map(|s| s.cursor);
    let lines: Vec<Line> = match db.scopes() {
        Ok(known) => known.into_iter().map(|s| Line { cursor: cursor(&s.scope_id.0), scope_id: s.scope_id.0, role: s.role }).collect(),
        Err(syncline::Error::Link(e)) if e.is_network() => {
            say("offline: this is what the device knew at its last sync");
            let role = |word: &str| MemberRole::parse(word).unwrap_or(MemberRole::Reader);
            here.iter().map(|s| Line { scope_id: s.scope_id.clone(), role: role(&s.role), cursor: Some(s.cursor) }).collect()
        }
        Err(e) => return Err(e.into()),
    };
    if out.json {
        out.document(&lines)?;
    } else {
        let here = |cursor: Option<u64>| cursor.map_or("not here yet".into(), |seq| seq.to_string());
        out.table(["scope", "role", "cursor"], lines.into_iter().map(|l| [l.scope_id, l.role.to_string(), here(l.cursor)]))?;
    }
    Ok(Exit::Done)
}

fn show(out: Output, document: &impl Serialize, text: &str) -> anyhow::Result<Exit> {
    if out.json {
        out.document(document)?
    } else {
        out.line(text)?
    }
    Ok(Exit::Done)
}
