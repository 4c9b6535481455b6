//! Enrolment, and with it a device's tables: made where the authority lacks them, never taken away.

use crate::accounts::Enrolled;
use crate::api_error::ApiError;
use crate::postgres::db::{Failed, Tx};
use crate::postgres::registry::{Registry, register};
use crate::postgres::{accounts, ddl};
use syncline_core::{EnrolRequest, EnrolResponse, HistoryId, Schema, ScopeId};
use syncline_replica::schema::{SchemaError, merge_schema, validate};
use tokio_postgres::types::Type;

/// Enrols a device: token, account, scope, schema. Enrolments come one after another, commits go on meanwhile.
pub async fn enrol(tx: &Tx, request: &EnrolRequest, history: HistoryId, now_ms: i64) -> Result<EnrolResponse, ApiError> {
    if request.version != syncline_core::VERSION {
        return Err(ApiError::UpgradeRequired(format!("the server speaks version {} of the protocol; update the older of the two", syncline_core::VERSION)));
    }
    tx.query("SELECT value FROM syncline.meta WHERE name = 'schema_number' FOR UPDATE", &[]).await?;
    let Enrolled { account, key_block } = accounts::enrol(tx, request, now_ms).await?;
    if let Some(schema) = &request.schema {
        take(tx, schema).await?;
    }
    let schema = Registry::read(tx).await?.schema();
    Ok(EnrolResponse { scopes: vec![ScopeId(account.clone())], account, history, schema, server_time_ms: now_ms, key_block })
}

/// Adds a device's tables and columns to the authority's.
async fn take(tx: &Tx, theirs: &Schema) -> Result<(), ApiError> {
    let refused = |e: SchemaError| ApiError::BadRequest(e.to_string());
    validate(theirs).map_err(refused)?;
    let before = Registry::read(tx).await?;
    let merged = merge_schema(&before.schema(), theirs).map_err(refused)?;
    if merged.new_tables.is_empty() && merged.new_columns.is_empty() && merged.schema.version == before.version {
        return Ok(());
    }
    let mut changed = merged.new_tables.clone();
    changed.extend(merged.schema.tables.iter().filter(|t| merged.new_columns.iter().any(|c| c.0.eq_ignore_ascii_case(&t.name))).cloned());
    let reasons = ddl::refusals(&changed, &merged.schema);
    if !reasons.is_empty() {
        return Err(ApiError::BadRequest(reasons.join("\n")));
    }
    for sql in ddl::create(&merged.new_tables, &merged.schema) {
        run(tx, &sql).await?;
    }
    for (table, column) in &merged.new_columns {
        if let Some(sql) = merged.schema.table(table).and_then(|t| ddl::add_column(column, &merged.schema, t)) {
            run(tx, &sql).await?;
        }
    }
    for def in &changed {
        register(tx, def).await?;
    }
    if merged.schema.version > 0 {
        let sql = "INSERT INTO syncline.meta(name, value) VALUES('schema_version', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        tx.query(sql, &[(&merged.schema.version.to_string(), Type::TEXT)]).await?;
    }
    tx.batch("UPDATE syncline.meta SET value = (value::bigint + 1)::text WHERE name = 'schema_number'").await?;
    let registry = Registry::read(tx).await?;
    for table in registry.all().filter(|t| changed.iter().any(|c| c.name.eq_ignore_ascii_case(&t.def.name))) {
        for sql in ddl::capture(table) {
            run(tx, &sql).await?;
        }
    }
    Ok(())
}

/// Runs a statement of a schema; what PostgreSQL has against it is for the person who brought it.
async fn run(tx: &Tx, sql: &str) -> Result<(), ApiError> {
    match tx.raw_batch(sql).await {
        Ok(()) => Ok(()),
        Err(Failed::Database(e)) => match e.as_db_error() {
            Some(db) if db.code().code().starts_with("42") || db.code().code().starts_with("54") || db.code().code().starts_with("0A") => {
                Err(ApiError::BadRequest(format!("making the tables in PostgreSQL: {}; change the schema where it was made", db.message())))
            }
            _ => Err(e.into()),
        },
        Err(e) => Err(e.into()),
    }
}
