//! Row-level security as a second wall: within a transaction of a scope the server is an unprivileged role that sees the rows of
//! that scope and no others, whatever a statement asks for.
//!
//! The role is the operator's to make (docs/postgres.md). For everybody else the tables are as open as they were. Role and
//! scopes are set for one transaction at a time, so a pooler may stand between.

use crate::api_error::ApiError;
use crate::postgres::adopt::Scoped;
use crate::postgres::db::Tx;
use crate::postgres::registry::{Registry, Table, literal};
use syncline_core::schema::quote;
use tokio_postgres::types::Type;

/// Tables of the sidecar with rows of scopes, and what the role may do there.
const SIDECAR: [(&str, &str); 8] = [
    ("scope", "SELECT, UPDATE"),
    ("row", "SELECT, INSERT, UPDATE, DELETE"),
    ("bundle", "SELECT, INSERT"),
    ("source", "SELECT, INSERT, UPDATE"),
    ("capture", "SELECT, DELETE"),
    ("journal", "SELECT, INSERT, DELETE"),
    ("cursor", "SELECT"),
    ("member", "SELECT"),
];
/// Tables of the sidecar that are of no scope and that a scope's transaction reads.
const SHARED: [&str; 4] = ["meta", "tbl", "col", "writer_tx"];

/// Builds the wall for a role where it does not stand yet, and remembers it for all servers; without a role, says which one is remembered.
pub async fn build(tx: &Tx, role: Option<&str>) -> Result<Option<String>, ApiError> {
    let Some(role) = role else { return known(tx).await };
    let sql = "SELECT rolsuper OR rolbypassrls, pg_has_role(current_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = $1";
    let rows = tx.query(sql, &[(&role, Type::TEXT)]).await?;
    let name = quote(role);
    match rows.first().map(|r| (r.get(0), r.get(1))) {
        None => return Err(ApiError::BadRequest(format!("there is no role `{role}`; CREATE ROLE {name} NOLOGIN"))),
        Some((true, _)) => return Err(ApiError::BadRequest(format!("role `{role}` sees all rows; ALTER ROLE {name} NOSUPERUSER NOBYPASSRLS"))),
        Some((false, false)) => return Err(ApiError::BadRequest(format!("the server's user may not become `{role}`; GRANT {name} TO CURRENT_USER"))),
        Some((false, true)) => {}
    }
    tx.batch(&format!("GRANT USAGE ON SCHEMA syncline TO {name}")).await?;
    for (table, rights) in SIDECAR {
        tx.batch(&format!("GRANT {rights} ON syncline.{table} TO {name}")).await?;
        protect(tx, &format!("syncline.{table}"), "scope_id", role).await?;
    }
    for table in SHARED {
        tx.batch(&format!("GRANT SELECT ON syncline.{table} TO {name}")).await?;
    }
    for t in Registry::read(tx).await?.all() {
        cover(tx, t, role).await?;
    }
    let sql = "INSERT INTO syncline.meta(name, value) VALUES('scoped_role', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    tx.query(sql, &[(&role, Type::TEXT)]).await?;
    Ok(Some(role.to_owned()))
}

async fn known(tx: &Tx) -> Result<Option<String>, ApiError> {
    Ok(tx.query("SELECT value FROM syncline.meta WHERE name = 'scoped_role'", &[]).await?.first().map(|r| r.get(0)))
}

/// Takes a new business table behind the wall, if there is one.
pub async fn cover_new(tx: &Tx, t: &Table) -> Result<(), ApiError> {
    match known(tx).await? {
        Some(role) => cover(tx, t, &role).await,
        None => Ok(()),
    }
}

async fn cover(tx: &Tx, t: &Table, role: &str) -> Result<(), ApiError> {
    let name = quote(role);
    let schema = t.adopted.as_ref().map_or("public", |a| &a.schema);
    tx.batch(&format!("GRANT USAGE ON SCHEMA {} TO {name}; GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {name}", quote(schema), t.place)).await?;
    let scope = match t.adopted.as_ref().map(|a| &a.scope) {
        None => "scope_id".to_owned(),
        Some(Scoped::Column(column, _)) => format!("{}::text", quote(column)),
        Some(Scoped::Account(id)) => literal(id),
    };
    protect(tx, &t.place, &scope, role).await
}

/// Restricts the role to rows of its scopes. Who else had the table open keeps it so.
async fn protect(tx: &Tx, place: &str, scope: &str, role: &str) -> Result<(), ApiError> {
    let sql = "SELECT relrowsecurity, EXISTS (SELECT FROM pg_policy p JOIN pg_roles r ON r.oid = ANY(p.polroles)
                 WHERE p.polrelid = c.oid AND p.polname = 'syncline_wall' AND r.rolname = $2) FROM pg_class c WHERE c.oid = to_regclass($1)";
    let row = tx.query_one(sql, &[(&place, Type::TEXT), (&role, Type::TEXT)]).await?;
    let (was_secured, stands): (bool, bool) = (row.get(0), row.get(1));
    if stands {
        return Ok(());
    }
    let name = quote(role);
    let inside = format!("{scope} = ANY(nullif(current_setting('syncline.scopes', true), '')::text[])");
    let open_to = if was_secured { &name } else { "PUBLIC" };
    tx.batch(&format!(
        "ALTER TABLE {place} ENABLE ROW LEVEL SECURITY;
         DROP POLICY IF EXISTS syncline_open ON {place};
         CREATE POLICY syncline_open ON {place} TO {open_to} USING (true) WITH CHECK (true);
         DROP POLICY IF EXISTS syncline_wall ON {place};
         CREATE POLICY syncline_wall ON {place} AS RESTRICTIVE TO {name} USING ({inside}) WITH CHECK ({inside})"
    ))
    .await
}

/// Makes the rest of a transaction one of these scopes.
pub async fn enter(tx: &Tx, role: Option<&str>, scopes: &[&str]) -> Result<(), ApiError> {
    let Some(role) = role else { return Ok(()) };
    let sql = "SELECT set_config('syncline.scopes', $2::text[]::text, true), set_config('role', $1, true)";
    tx.query(sql, &[(&role, Type::TEXT), (&scopes, Type::TEXT_ARRAY)]).await?;
    Ok(())
}
