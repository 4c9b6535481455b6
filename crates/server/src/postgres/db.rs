//! Connections and transactions. Every statement goes unnamed and nothing outlives its transaction, so that a pooler which hands
//! a connection on after each transaction may stand between.
//!
//! The way to the database and back is what a small push waits for. Statements whose results do not depend on each other are
//! awaited together (`join`): they travel in one go, in the order in which they are named, and the database does them in that order.

use crate::api_error::ApiError;
use crate::postgres::tls::Tls;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Timeouts};
use futures_util::future::join;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Config, Row};

/// Connections of one server process.
const CONNECTIONS: usize = 16;
/// How long a request waits for a connection.
const WAIT: Duration = Duration::from_secs(10);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A bound value and its type: statements are not prepared, so the types come along.
pub type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// Makes a pool for a URL.
pub fn pool(config: &Config, tls: Tls) -> Result<Pool, String> {
    let mut config = config.clone();
    config.connect_timeout(CONNECT).application_name("syncline");
    let manager = Manager::from_config(config, tls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    let timeouts = Timeouts { wait: Some(WAIT), create: Some(CONNECT), recycle: Some(CONNECT) };
    Pool::builder(manager).max_size(CONNECTIONS).timeouts(timeouts).runtime(deadpool_postgres::Runtime::Tokio1).build().map_err(|e| e.to_string())
}

/// A transaction. Dropped without `commit` or `rollback` it takes its connection with it, and the database undoes it.
pub struct Tx {
    client: Option<Object>,
    /// Statements that go along with the next one: what begins the transaction, and settings of it.
    ahead: Mutex<String>,
}

/// What a transaction is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// One statement, which is a transaction by itself.
    Look,
    /// One snapshot for all its statements.
    Read,
    /// Each statement sees what is committed by then.
    Write,
}

impl Tx {
    /// Begins a transaction; the database hears of it with its first statement.
    pub async fn begin(pool: &Pool, purpose: Purpose) -> Result<Tx, ApiError> {
        let client = pool.get().await.map_err(|e| ApiError::Unavailable(format!("the database does not answer ({})", told(&e))))?;
        let begin = match purpose {
            Purpose::Look => "",
            Purpose::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Purpose::Write => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '10s'",
        };
        Ok(Tx { client: Some(client), ahead: Mutex::new(begin.into()) })
    }
    /// Lets a statement without values, which cannot fail, go along with the next one.
    pub fn ahead(&self, sql: &str) {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.push_str("; ");
        ahead.push_str(sql);
    }
    fn take_ahead(&self) -> String {
        std::mem::take(&mut *self.ahead.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// Whether the database has not heard of it.
    fn is_unheard(&self) -> bool {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).starts_with("BEGIN")
    }
    /// Runs one statement, which is a transaction by itself.
    pub async fn look(pool: &Pool, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, ApiError> {
        let mut tx = Tx::begin(pool, Purpose::Look).await?;
        let rows = tx.query(sql, params).await?;
        drop(tx.client.take());
        Ok(rows)
    }
    fn client(&self) -> Result<&Object, ApiError> {
        self.client.as_ref().ok_or_else(|| ApiError::Internal("a transaction was used after its end".into()))
    }
    /// Runs a statement with bound values.
    pub async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, ApiError> {
        self.raw(sql, params).await.map_err(ApiError::from)
    }
    /// Runs a statement and keeps PostgreSQL's own error, where a constraint may object.
    pub async fn raw(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Failed> {
        let client = self.client().map_err(Failed::Api)?;
        let ahead = self.take_ahead();
        if ahead.is_empty() {
            return client.query_typed(sql, params).await.map_err(Failed::Database);
        }
        let (first, rows) = join(client.batch_execute(&ahead), client.query_typed(sql, params)).await;
        first.and(rows).map_err(Failed::Database)
    }
    /// Runs a statement that gives one row.
    pub async fn query_one(&self, sql: &str, params: &[Param<'_>]) -> Result<Row, ApiError> {
        self.query(sql, params).await?.into_iter().next().ok_or_else(|| ApiError::Internal(format!("no row: {sql}")))
    }
    /// Runs statements without values.
    pub async fn batch(&self, sql: &str) -> Result<(), ApiError> {
        Ok(self.raw_batch(sql).await?)
    }
    /// The same, keeping PostgreSQL's own error.
    pub async fn raw_batch(&self, sql: &str) -> Result<(), Failed> {
        let client = self.client().map_err(Failed::Api)?;
        let ahead = self.take_ahead();
        if ahead.is_empty() {
            return client.batch_execute(sql).await.map_err(Failed::Database);
        }
        let (first, then) = join(client.batch_execute(&ahead), client.batch_execute(sql)).await;
        first.and(then).map_err(Failed::Database)
    }
    /// Ends the transaction; what it wrote is durable when this returns.
    pub async fn commit(self) -> Result<(), ApiError> {
        self.commit_after(async |_| Ok(()), "").await
    }
    /// Does one thing more, ends the transaction, and runs a statement that stands for itself, all in the same go.
    pub async fn commit_after(mut self, last: impl AsyncFnOnce(&Tx) -> Result<(), ApiError>, then: &str) -> Result<(), ApiError> {
        // Where the last thing failed, the COMMIT undoes.
        let end = format!("COMMIT; {then}");
        let (done, ended) = join(last(&self), self.batch(&end)).await;
        done.and(ended)?;
        drop(self.client.take());
        Ok(())
    }
    /// Undoes the transaction.
    pub async fn rollback(mut self) -> Result<(), ApiError> {
        self.end("ROLLBACK").await
    }
    /// Leaves a transaction that has written nothing; nobody waits for the database to hear of it.
    pub fn leave(mut self) {
        let Some(client) = self.client.take() else { return };
        if self.is_unheard() {
            return;
        }
        tokio::spawn(async move {
            if client.batch_execute("ROLLBACK").await.is_err() {
                drop(Object::take(client));
            }
        });
    }
    async fn end(&mut self, how: &str) -> Result<(), ApiError> {
        if !self.is_unheard() {
            self.batch(how).await?;
        }
        // Back to the pool: there is nothing to undo.
        drop(self.client.take());
        Ok(())
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if let Some(client) = self.client.take().filter(|_| !self.is_unheard()) {
            drop(Object::take(client));
        }
    }
}

/// Why a statement failed.
#[derive(Debug)]
pub enum Failed {
    /// PostgreSQL, or the way to it.
    Database(tokio_postgres::Error),
    /// Ourselves.
    Api(ApiError),
}

impl From<Failed> for ApiError {
    fn from(e: Failed) -> ApiError {
        match e {
            Failed::Database(e) => e.into(),
            Failed::Api(e) => e,
        }
    }
}

impl From<ApiError> for Failed {
    fn from(e: ApiError) -> Failed {
        Failed::Api(e)
    }
}

impl From<tokio_postgres::Error> for ApiError {
    fn from(e: tokio_postgres::Error) -> ApiError {
        let Some(db) = e.as_db_error() else {
            return match e.is_closed() || std::error::Error::source(&e).is_some_and(|s| s.is::<std::io::Error>()) {
                true => ApiError::Unavailable("the connection to the database broke".into()),
                false => ApiError::Internal(format!("talking to PostgreSQL: {}", told(&e))),
            };
        };
        let code = db.code();
        if [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::LOCK_NOT_AVAILABLE].contains(code) {
            contended()
        } else if *code == SqlState::DISK_FULL {
            ApiError::StorageFull
        } else if code.code().starts_with("57P") || code.code().starts_with("08") || *code == SqlState::TOO_MANY_CONNECTIONS {
            ApiError::Unavailable("the database is shutting down or has no connection left".into())
        } else if *code == SqlState::QUERY_CANCELED {
            ApiError::Unavailable("the database cancelled a statement".into())
        } else if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
            ApiError::Unavailable("the database takes no writes (it is a standby); name the primary".into())
        } else {
            ApiError::Internal(format!("PostgreSQL {}: {}", code.code(), db.message()))
        }
    }
}

const CONTENDED: &str = "somebody else is writing the same rows";

/// Makes the error of a transaction that is worth another try at once.
pub fn contended() -> ApiError {
    ApiError::Unavailable(CONTENDED.into())
}

/// Whether another try at once makes sense.
pub fn is_contended(e: &ApiError) -> bool {
    matches!(e, ApiError::Unavailable(why) if why == CONTENDED)
}

/// Returns an error with its causes.
pub fn told(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        out += &format!(": {c}");
        cause = c.source();
    }
    out
}

/// Makes an error for the log.
pub fn internal(doing: &str, e: impl std::fmt::Display) -> ApiError {
    ApiError::Internal(format!("{doing}: {e}"))
}
