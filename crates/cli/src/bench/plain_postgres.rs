//! The reference of pushes to PostgreSQL: the same rows, written by a plain client.

use super::bed::{NOTES, visit_id};
use anyhow::Context;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

/// Rows in one statement.
const AT_ONCE: usize = 1_000;
const TABLE: &str = "
CREATE SCHEMA syncline_bench;
CREATE TABLE syncline_bench.visit(id TEXT PRIMARY KEY, customer TEXT NOT NULL, day TEXT NOT NULL, minutes BIGINT NOT NULL, fee FLOAT8, notes TEXT)";
const INSERT: &str = "
INSERT INTO syncline_bench.visit
SELECT u.id, 'Baker & Daughters', '2026-11-21', u.minutes, u.fee, $4 FROM unnest($1::text[], $2::bigint[], $3::float8[]) u(id, minutes, fee)";

/// Returns the seconds in which `n` rows are durable, in one transaction and statements of 1,000 rows; none of it stays.
pub fn insert(url: &str, n: usize) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut client, connection) = tokio_postgres::connect(url, NoTls)
            .await
            .context("connecting to PostgreSQL for the reference, which speaks no TLS; name the database by a URL without it")?;
        tokio::spawn(connection);
        client.batch_execute("DROP SCHEMA IF EXISTS syncline_bench CASCADE").await?;
        client.batch_execute(TABLE).await?;
        let (start, done) = (std::time::Instant::now(), write(&mut client, n).await);
        let seconds = start.elapsed().as_secs_f64();
        client.batch_execute("DROP SCHEMA syncline_bench CASCADE").await?;
        done.map(|()| seconds)
    })
}

async fn write(client: &mut Client, n: usize) -> anyhow::Result<()> {
    let tx = client.transaction().await?;
    for from in (0..n).step_by(AT_ONCE) {
        let numbers = from..n.min(from + AT_ONCE);
        let ids: Vec<String> = numbers.clone().map(visit_id).collect();
        let minutes: Vec<i64> = numbers.clone().map(|n| n as i64 % 480).collect();
        let fees: Vec<f64> = numbers.map(|n| n as f64 * 0.25).collect();
        tx.query_typed(INSERT, &[(&ids, Type::TEXT_ARRAY), (&minutes, Type::INT8_ARRAY), (&fees, Type::FLOAT8_ARRAY), (&NOTES, Type::TEXT)]).await?;
    }
    Ok(tx.commit().await?)
}
