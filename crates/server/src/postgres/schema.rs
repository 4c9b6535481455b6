//! Enrolment, and with it a device's tables: made where the authority lacks them, never taken away.

use crate::accounts::Enrolled;
use crate::api_error::ApiError;
use crate::postgres::absorb::{absorb, put_back};
use crate::postgres::db::{Failed, Tx};
use crate::postgres::registry::{Registry, Table, register};
use crate::postgres::rows::{self, COLUMNS, Record};
use crate::postgres::scope::Scope;
use crate::postgres::{Env, accounts, ddl, home, wall};
use std::sync::Arc;
use syncline_core::{EnrolRequest, EnrolResponse, HistoryId, Key, Schema, ScopeId, TableDef};
use syncline_replica::policies::change_rules;
use syncline_replica::schema::{SchemaError, merge_schema, validate};
use tokio_postgres::types::Type;

/// Enrols a device: token, account, scope, schema. Enrolments come one after another, commits go on meanwhile.
pub async fn enrol(tx: &Tx, request: &EnrolRequest, history: HistoryId, env: &Env) -> Result<EnrolResponse, ApiError> {
    if request.version != syncline_core::VERSION {
        return Err(ApiError::UpgradeRequired(format!("the server speaks version {} of the protocol; update the older of the two", syncline_core::VERSION)));
    }
    tx.query("SELECT value FROM syncline.meta WHERE name = 'schema_number' FOR UPDATE", &[]).await?;
    let Enrolled { account, key_block } = accounts::enrol(tx, request, env.now_ms).await?;
    if let Some(schema) = &request.schema {
        take(tx, schema, env).await?;
    }
    let schema = Registry::read(tx).await?.schema();
    Ok(EnrolResponse { scopes: vec![ScopeId(account.clone())], account, history, schema, server_time_ms: env.now_ms, key_block })
}

/// Takes the schema of an enrolled device over, unless the operator says otherwise.
pub async fn push(tx: &Tx, schema: &Schema, env: &Env) -> Result<Schema, ApiError> {
    tx.query("SELECT value FROM syncline.meta WHERE name = 'schema_number' FOR UPDATE", &[]).await?;
    if !tx.query("SELECT 1 FROM syncline.meta WHERE name = 'schema_push' AND value = '0'", &[]).await?.is_empty() {
        return Err(ApiError::Forbidden("the operator takes schemas himself; ask for the change".into()));
    }
    take(tx, schema, env).await?;
    Ok(Registry::read(tx).await?.schema())
}

/// Adds a device's tables and columns to the authority's.
async fn take(tx: &Tx, theirs: &Schema, env: &Env) -> Result<(), ApiError> {
    let refused = |e: SchemaError| ApiError::BadRequest(e.to_string());
    validate(theirs).map_err(refused)?;
    let before = Registry::read(tx).await?;
    let merged = merge_schema(&before.schema(), theirs).map_err(refused)?;
    let ruled = new_rules(&merged.schema, theirs)?;
    if merged.new_tables.is_empty() && merged.new_columns.is_empty() && ruled.is_empty() && merged.schema.version == before.version {
        return Ok(());
    }
    let mut changed = merged.new_tables.clone();
    changed.extend(merged.schema.tables.iter().filter(|t| merged.new_columns.iter().any(|c| c.0.eq_ignore_ascii_case(&t.name))).cloned());
    let mut reasons = ddl::refusals(&changed, &merged.schema);
    let is_adopted = |name: &str| before.find(name).is_some_and(|t| t.adopted.is_some());
    for (table, column) in merged.new_columns.iter().filter(|(table, _)| is_adopted(table)) {
        let why = format!("table `{table}`: it was adopted, and column `{}` is not in it", column.name);
        reasons.push(format!("{why}; the operator adds the column with ALTER TABLE and starts the server anew"));
    }
    for table in &merged.new_tables {
        for key in table.foreign_keys.iter().filter(|k| is_adopted(&k.table)) {
            reasons.push(format!("table `{}`: it points at `{}`, which was adopted; the operator makes it and adopts it too", table.name, key.table));
        }
    }
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
    for def in changed.iter().chain(&ruled) {
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
        wall::cover_new(tx, table).await?;
    }
    let new_or_ruled = |t: &&Arc<Table>| changed.iter().chain(&ruled).any(|c| c.name.eq_ignore_ascii_case(&t.def.name));
    for sql in registry.all().filter(new_or_ruled).flat_map(|t| home::keep(t)) {
        run(tx, &sql).await?;
    }
    for def in &ruled {
        if let Some(t) = registry.find(&def.name) {
            follow(tx, &t, env, &before).await?;
        }
    }
    Ok(())
}

/// Returns the tables of which a device declares other rules of merging than the authority has, as they become.
pub fn new_rules(ours: &Schema, theirs: &Schema) -> Result<Vec<TableDef>, ApiError> {
    let mut out = Vec::new();
    for declared in &theirs.tables {
        let Some(known) = ours.table(&declared.name) else { continue };
        let def = change_rules(known, declared).map_err(|why| ApiError::BadRequest(format!("table `{}`: {why}", known.name)))?;
        if !def.same_rules(known) {
            out.push(def);
        }
    }
    Ok(out)
}

/// Makes the rows of a table follow its new rules, scope by scope; what was written before is absorbed by the old ones.
pub async fn follow(tx: &Tx, t: &Arc<Table>, env: &Env, before: &Registry) -> Result<(), ApiError> {
    let scopes = tx.query("SELECT DISTINCT scope_id FROM syncline.row WHERE tbl = $1 ORDER BY 1", &[(&t.n, Type::INT4)]).await?;
    for scope in scopes {
        let Some(mut scope) = Scope::lock(tx, &ScopeId(scope.get(0))).await? else { continue };
        absorb(tx, before, &mut scope, env).await?;
        let sql = format!("SELECT {COLUMNS} FROM syncline.row WHERE scope_id = $1 AND tbl = $2 AND key > $3 ORDER BY key LIMIT 5000");
        let mut last: Vec<u8> = Vec::new();
        loop {
            let rows = tx.query(&sql, &[(&scope.id.0, Type::TEXT), (&t.n, Type::INT4), (&last, Type::BYTEA)]).await?;
            let Some(end) = rows.last() else { break };
            last = end.get(2);
            let mut changed: Vec<(Key, Record)> = Vec::new();
            let mut unlike = Vec::new();
            for row in &rows {
                let (_, key, mut record) = Record::from_row(row)?;
                let shown = record.state.clone();
                if record.state.adopt(&t.policies) {
                    if (0..t.columns.len()).any(|c| record.state.cell(c).map(|x| &x.value) != shown.cell(c).map(|x| &x.value)) {
                        unlike.push((t.clone(), key.clone(), record.state.clone()));
                    }
                    scope.add_digest(record.settle(t, &key));
                    changed.push((key, record));
                }
            }
            let saved: Vec<(i32, &Key, &Record)> = changed.iter().map(|(key, record)| (t.n, key, record)).collect();
            rows::save(tx, &scope.id.0, &saved).await?;
            put_back(tx, &scope, &unlike).await?;
        }
        scope.save(tx).await?;
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
