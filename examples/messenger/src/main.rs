//! A messenger in a terminal: conversations that accounts share, on all their devices, read state and all; sending needs no network.
//!
//! One function per command. A conversation is a scope (syncline.toml beside this file), its rows are ordinary rows. Only making a
//! conversation, inviting and accepting ask the server; everything else is written here and goes with the next sync.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use syncline::read::ReadTo;
use syncline::rusqlite::{Connection, Transaction};
use syncline::{Config, Database, Error, MemberRole, Options, Outcome, SyncOptions};

const TABLES: &str = include_str!("tables.sql");
const CONFIG: &str = include_str!("syncline.toml");
/// An invitation is good for a week and for one account.
const INVITE_MS: i64 = 7 * 24 * 3600 * 1000;

const HELP: &str = "chat FILE COMMAND

  join URL TOKEN NAME      puts this file on an account, as the device NAME
  new TITLE                makes a conversation
  invite CONVERSATION      prints a code for another account
  accept CODE              comes into a conversation
  list                     lists conversations, with what is unread
  send CONVERSATION TEXT   writes a message, also offline
  draft CONVERSATION TEXT  keeps what is being written, on this device alone
  peek CONVERSATION        shows it
  read CONVERSATION        shows it, and marks it as read on all devices of the account
  mute CONVERSATION        mutes it on all devices of the account; again, and it is not
  leave CONVERSATION       leaves it: its rows leave this account's devices
  who                      tells who is online
  sync · watch             sends and fetches; stays and does so

A conversation may be named by its title or the first letters of its id.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some((file, command)) = args.split_first() else { return help() };
    let done = match *command {
        ["join", url, token, name] => join(file, url, token, name),
        ["new", title] => open(file).and_then(|db| new(&db, title)),
        ["invite", conversation] => open(file).and_then(|db| invite(&db, conversation)),
        ["accept", code] => open(file).and_then(|db| accept(&db, code)),
        ["list"] => open(file).and_then(|db| list(&db)),
        ["send", conversation, text] => open(file).and_then(|db| send(&db, conversation, text)),
        ["draft", conversation, text] => open(file).and_then(|db| draft(&db, conversation, text)),
        ["peek", conversation] => open(file).and_then(|db| show(&db, &find(&db, conversation)?)),
        ["read", conversation] => open(file).and_then(|db| read(&db, conversation)),
        ["mute", conversation] => open(file).and_then(|db| mute(&db, conversation)),
        ["leave", conversation] => open(file).and_then(|db| db.leave_scope(&find(&db, conversation)?).and_then(|()| sync(&db))),
        ["who"] => open(file).and_then(|db| who(&db)),
        ["sync"] => open(file).and_then(|db| sync(&db)),
        ["watch"] => open(file).and_then(|db| watch(&db)),
        _ => return help(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(e.exit_code())
        }
    }
}

fn help() -> ExitCode {
    eprintln!("{HELP}");
    ExitCode::from(2)
}

/// Makes the tables that are missing and has them synced as syncline.toml says. Safe to repeat.
fn make_tables(path: &Path) -> Result<(), Error> {
    Connection::open(path).and_then(|conn| conn.execute_batch(TABLES)).map_err(Error::app)?;
    let config = Config::parse(CONFIG).map_err(|e| Error::Refused(e.to_string()))?;
    Database::init(path, &SyncOptions { config, ..SyncOptions::default() }).map(drop)
}

fn open(file: &str) -> Result<Database, Error> {
    let path = PathBuf::from(file);
    if !path.exists() {
        return Err(Error::Refused(format!("{file} is not there yet; `join` makes it")));
    }
    Database::open(&path, Options::default())
}

fn join(file: &str, url: &str, token: &str, name: &str) -> Result<(), Error> {
    let path = PathBuf::from(file);
    make_tables(&path)?;
    let db = Database::open(&path, Options::default())?;
    db.attach(url, token, name)?;
    sync(&db)
}

/// Returns who this is: messages bear the account's id.
fn me(db: &Database) -> Result<String, Error> {
    db.status()?.account.ok_or_else(|| Error::Refused("this file is on no account yet; `join` puts it on one".into()))
}

/// Returns the id of a conversation that is called so, or whose id begins so.
fn find(db: &Database, called: &str) -> Result<String, Error> {
    let sql = "SELECT id FROM conversations WHERE title = ?1 OR substr(id, 1, length(?1)) = ?1 LIMIT 2";
    match &db.query(sql, [called], |r| r.get::<_, String>(0))?[..] {
        [id] => Ok(id.clone()),
        [] => Err(Error::Refused(format!("there is no conversation `{called}` here; `list` names them"))),
        _ => Err(Error::Refused(format!("more than one conversation is called `{called}`; name one by its id, as `list` does"))),
    }
}

/// The server chooses the id, so that nobody can take it.
fn new(db: &Database, title: &str) -> Result<(), Error> {
    let scope = db.create_scope(None)?.scope_id.to_string();
    db.write(|tx| tx.execute("INSERT INTO conversations(id, title) VALUES(?1, ?2)", [&scope, title]))?;
    println!("{scope}");
    sync(db)
}

fn invite(db: &Database, conversation: &str) -> Result<(), Error> {
    println!("{}", db.invite(&find(db, conversation)?, MemberRole::Writer, INVITE_MS, 1)?.code);
    Ok(())
}

fn accept(db: &Database, code: &str) -> Result<(), Error> {
    db.accept_invite(code)?;
    sync(db)?;
    list(db)
}

fn list(db: &Database) -> Result<(), Error> {
    let sql = "SELECT c.id, c.title, coalesce(u.n, 0),
                 EXISTS (SELECT 1 FROM syncline_scope_settings s WHERE s.scope_id = c.id AND s.key = 'mute' AND s.value = 1),
                 coalesce((SELECT m.sender || ': ' || m.body FROM messages m WHERE m.conversation_id = c.id ORDER BY m.sent_at DESC, m.id DESC LIMIT 1), '')
               FROM conversations c LEFT JOIN syncline_unread u ON u.scope_id = c.id ORDER BY 3 > 0 DESC, c.title";
    let lines = db.query(sql, [], |r| {
        let (id, title, unread): (String, String, i64) = (r.get(0)?, r.get(1)?, r.get(2)?);
        let (muted, last): (bool, String) = (r.get(3)?, r.get(4)?);
        let unread = if unread > 0 { format!(" ({unread} unread)") } else { String::new() };
        Ok(format!("{} {title}{unread}{}  {last}", &id[..id.len().min(6)], if muted { " [muted]" } else { "" }))
    })?;
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn send(db: &Database, conversation: &str, text: &str) -> Result<(), Error> {
    let (id, me) = (find(db, conversation)?, me(db)?);
    db.write(|tx: &Transaction| {
        tx.execute("INSERT INTO messages(conversation_id, sender, body) VALUES(?1, ?2, ?3)", [&id, &me, text])?;
        tx.execute("DELETE FROM drafts WHERE conversation_id = ?1", [&id])
    })?;
    sync(db)
}

fn draft(db: &Database, conversation: &str, text: &str) -> Result<(), Error> {
    let id = find(db, conversation)?;
    db.write(|tx| tx.execute("INSERT OR REPLACE INTO drafts(conversation_id, body) VALUES(?1, ?2)", [&id, text])).map(drop)
}

/// Shows a conversation: each message with who has read it, what waits here, and the draft.
fn show(db: &Database, id: &str) -> Result<(), Error> {
    let print = |sql: &str| {
        let lines = db.query(sql, [id], |r| r.get::<_, String>(0))?;
        lines.iter().for_each(|line| println!("{line}"));
        Ok::<(), Error>(())
    };
    print("SELECT '# ' || title FROM conversations WHERE id = ?1")?;
    print(
        "SELECT m.sender || ': ' || m.body || coalesce('  (read by ' || (SELECT group_concat(r.reader, ', ') FROM receipts r
           WHERE r.conversation_id = m.conversation_id AND r.reader <> m.sender AND r.read_to >= m.sent_at) || ')', '')
         FROM messages m WHERE m.conversation_id = ?1 ORDER BY m.sent_at, m.id",
    )?;
    print("SELECT '(' || count(*) || ' waiting to be sent)' FROM syncline_pending WHERE scope_id = ?1 AND tbl = 'messages' HAVING count(*) > 0")?;
    print("SELECT '> ' || body FROM drafts WHERE conversation_id = ?1")
}

/// Shows a conversation and marks it as read: privately for this account's devices, and with a receipt for the others.
fn read(db: &Database, conversation: &str) -> Result<(), Error> {
    let (id, me) = (find(db, conversation)?, me(db)?);
    show(db, &id)?;
    db.mark_read(&id, ReadTo::Latest)?;
    db.write(|tx| {
        tx.execute(
            "INSERT INTO receipts(conversation_id, reader, read_to) SELECT ?1, ?2, max(sent_at) FROM messages WHERE conversation_id = ?1 HAVING count(*) > 0
             ON CONFLICT(conversation_id, reader) DO UPDATE SET read_to = excluded.read_to WHERE read_to < excluded.read_to",
            [&id, &me],
        )
    })?;
    sync(db)
}

/// A setting of the account about one conversation: a row like any other, on all its devices.
fn mute(db: &Database, conversation: &str) -> Result<(), Error> {
    let id = find(db, conversation)?;
    let sql = "INSERT INTO syncline_scope_settings(scope_id, key, value) VALUES(?1, 'mute', 1) ON CONFLICT(scope_id, key) DO UPDATE SET value = 1 - value";
    db.write(|tx| tx.execute(sql, [&id]))?;
    sync(db)
}

fn who(db: &Database) -> Result<(), Error> {
    db.tell_presence("here", Duration::from_secs(60))?;
    for seen in db.presence()?.accounts {
        println!("{} is {}", seen.account, if seen.online { "online" } else { "offline" });
    }
    Ok(())
}

/// Sends and fetches. Being offline is no error: what is written here is kept, and goes later.
fn sync(db: &Database) -> Result<(), Error> {
    let report = db.sync_once(None, |_| {});
    match (&report.outcome, &report.error) {
        (Outcome::Refused | Outcome::Damaged | Outcome::Failed, Some(error)) => Err(Error::Refused(error.message.clone())),
        (_, Some(error)) => {
            eprintln!("{}", error.message);
            Ok(())
        }
        (_, None) => Ok(()),
    }
}

fn watch(db: &Database) -> Result<(), Error> {
    let changes = db.observe(&["conversations", "messages", "receipts"])?;
    let _sync = db.start_sync()?;
    list(db)?;
    for _ in changes {
        println!("--");
        list(db)?;
    }
    Ok(())
}
