//! The sidecar's schema in PostgreSQL: numbered migrations, each applied once, safe to repeat, by whichever server comes first.

use crate::api_error::ApiError;
use crate::postgres::db::Tx;
use crate::postgres::registry::Registry;
use syncline_core::HistoryId;
use tokio_postgres::types::Type;

/// All migrations, in order; their numbers are their places, from 1. Before each: how many a program must know to run on what it
/// makes. From the first release on that is one less than its number, or fewer: so two adjacent versions run side by side.
const MIGRATIONS: [(i32, &str); 5] = [
    (1, include_str!("0001_sidecar.sql")),
    (2, include_str!("0002_members.sql")),
    (3, include_str!("0003_journal.sql")),
    (4, include_str!("0004_adopted.sql")),
    (5, include_str!("0005_collect.sql")),
];
/// Servers that start at the same time migrate one after another: the key of the lock that the transaction holds.
const LOCK: i64 = 0x5379_6e63_6c69_6e65;

/// Brings the sidecar up to date. Refuses a database that a later version has migrated, unless it says that this one may run on it.
pub async fn migrate(tx: &Tx, fresh: HistoryId) -> Result<HistoryId, ApiError> {
    tx.query("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
    tx.batch(
        "CREATE SCHEMA IF NOT EXISTS syncline;
         CREATE TABLE IF NOT EXISTS syncline.migration(n integer PRIMARY KEY, least integer NOT NULL, at timestamptz NOT NULL DEFAULT now())",
    )
    .await?;
    let row = tx.query_one("SELECT coalesce(max(n), 0), coalesce(max(least), 0) FROM syncline.migration", &[]).await?;
    let (done, least): (i32, i32) = (row.get(0), row.get(1));
    if least as usize > MIGRATIONS.len() {
        return Err(ApiError::UpgradeRequired(format!(
            "the database's sidecar has migration {done}, which asks for a program that knows {least}; this one knows {}. Run the version that made it, or a later one",
            MIGRATIONS.len()
        )));
    }
    for (i, (least, sql)) in MIGRATIONS.iter().enumerate().skip(done as usize) {
        tx.batch(sql).await?;
        tx.query("INSERT INTO syncline.migration(n, least) VALUES($1, $2)", &[(&(i as i32 + 1), Type::INT4), (least, Type::INT4)]).await?;
    }
    tx.batch("INSERT INTO syncline.meta(name, value) VALUES('schema_number', '1') ON CONFLICT DO NOTHING").await?;
    let sql = "INSERT INTO syncline.meta(name, value) VALUES('history_id', $1) ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING value";
    let text: String = tx.query_one(sql, &[(&fresh.to_string(), Type::TEXT)]).await?.get(0);
    HistoryId::parse(&text).ok_or_else(|| ApiError::Internal("the sidecar's history_id is damaged".into()))
}

/// Finds out whether sequences, bundle log and tables belong together; returns what does not.
pub async fn check(tx: &Tx) -> Result<Vec<String>, ApiError> {
    let mut found = Vec::new();
    let sql = "SELECT s.scope_id, s.seq, count(b.seq), coalesce(max(b.seq), 0)
               FROM syncline.scope s LEFT JOIN syncline.bundle b ON b.scope_id = s.scope_id
               GROUP BY s.scope_id HAVING s.seq <> count(b.seq) OR s.seq <> coalesce(max(b.seq), 0) ORDER BY 1 LIMIT 20";
    for row in tx.query(sql, &[]).await? {
        let (scope, seq, count, last): (String, i64, i64, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
        found.push(format!("scope {scope} is at {seq}, its bundle log has {count} bundles up to {last}"));
    }
    for t in Registry::read(tx).await?.all() {
        if !tx.query_one("SELECT to_regclass($1) IS NOT NULL", &[(&t.place, Type::TEXT)]).await?.get::<_, bool>(0) {
            found.push(format!("its table `{}` is missing", t.def.name));
        }
    }
    Ok(found)
}
