//! Wake-ups: who watches a scope hears of commits, also of other servers' and of SQL clients'.
//!
//! Sent after the commit, in a statement of their own: a NOTIFY inside a transaction takes a lock of the whole cluster at commit. A
//! push's travels right behind its COMMIT (`push`); what else moved goes out here, many in one. Where no connection can listen (a pooler stands between), polling finds the same a little later.

use crate::api_error::ApiError;
use crate::postgres::db::{Purpose, Tx};
use crate::postgres::{Inner, accounts, db};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use syncline_core::{ScopeId, Seq};
use tokio::sync::{Notify, broadcast};
use tokio_postgres::AsyncMessage;
use tokio_postgres::types::Type;

/// Wakes that a slow stream may fall behind before it reads its heads anew.
const WAKES: usize = 4_096;
/// How often the database is looked at for what SQL clients wrote.
const POLL: Duration = Duration::from_millis(200);
/// How often the heads of watched scopes are looked at, should no message come.
const HEADS: Duration = Duration::from_secs(1);
/// A scope counts as watched for so long; open streams tell again every four seconds.
const WATCHED: Duration = Duration::from_secs(12);
/// How often a server with streams tells that it lives.
const SEEN: Duration = Duration::from_secs(5);
/// Scopes in one message; PostgreSQL takes 8,000 bytes, and a name has 200 at most.
const TOLD: usize = 30;
/// How long to wait before listening is tried again.
const REST: Duration = Duration::from_secs(5);

/// What moved, on its way to streams and to other servers.
pub struct Wakes {
    streams: broadcast::Sender<(ScopeId, Seq)>,
    outgoing: Mutex<BTreeMap<ScopeId, Seq>>,
    some: Notify,
    watched: Mutex<BTreeMap<ScopeId, (Seq, Instant)>>,
}

impl Wakes {
    /// Returns a hub without anybody.
    pub fn new() -> Wakes {
        Wakes { streams: broadcast::channel(WAKES).0, outgoing: Mutex::default(), some: Notify::new(), watched: Mutex::default() }
    }
    /// Returns a receiver that is told (scope, seq).
    pub fn subscribe(&self) -> broadcast::Receiver<(ScopeId, Seq)> {
        self.streams.subscribe()
    }
    /// Notes that a stream waits for this scope.
    pub fn watched(&self, scope: &ScopeId, head: Seq) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).insert(scope.clone(), (head, Instant::now()));
    }
    /// Tells streams of this server at once, and other servers soon.
    pub fn moved(&self, scope: &ScopeId, head: Option<Seq>) {
        let Some(head) = head else { return };
        self.heard(scope, head);
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner).insert(scope.clone(), head);
        self.some.notify_one();
    }
    /// Tells streams of this server.
    pub fn heard(&self, scope: &ScopeId, head: Seq) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // A message that comes late says less than what is known.
        let known = watched.get_mut(scope).map(|w| {
            let known = w.0;
            w.0 = known.max(head);
            known
        });
        if known.is_none_or(|known| known < head) {
            // No stream is open: nobody to wake.
            let _ = self.streams.send((scope.clone(), head));
        }
    }
    fn take(&self) -> Vec<(ScopeId, Seq)> {
        std::mem::take(&mut *self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }
    fn listed(&self) -> Vec<String> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|_, w| w.1.elapsed() < WATCHED);
        watched.keys().map(|s| s.0.clone()).collect()
    }
}

/// Sends what moved to other servers, until the runtime ends.
pub async fn notify(inner: Arc<Inner>) {
    loop {
        inner.wakes.some.notified().await;
        // What moves while this is on its way goes out together with the next.
        for told in inner.wakes.take().chunks(TOLD) {
            let text = serde_json::to_string(told).unwrap_or_default();
            if let Err(e) = send(&inner, &text).await {
                // Polling finds it.
                tracing::debug!("telling other servers: {e}");
            }
        }
    }
}

async fn send(inner: &Inner, text: &str) -> Result<(), ApiError> {
    let client = inner.pool.get().await.map_err(|e| ApiError::Unavailable(e.to_string()))?;
    client.query_typed("SELECT pg_notify('syncline', $1)", &[(&text, Type::TEXT)]).await?;
    Ok(())
}

/// Hears what other servers send, until the runtime ends.
pub async fn listen(inner: Arc<Inner>) {
    loop {
        if let Err(e) = hear(&inner).await {
            tracing::debug!("listening to other servers: {e}; polling goes on");
        }
        tokio::time::sleep(REST).await;
    }
}

async fn hear(inner: &Arc<Inner>) -> Result<(), ApiError> {
    let mut config = inner.config.clone();
    config.application_name("syncline listener").keepalives_idle(Duration::from_secs(30));
    let (client, mut connection) = config.connect(inner.tls.clone()).await?;
    let hub = inner.clone();
    let hearing = tokio::spawn(async move {
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notification(told)) => {
                    for (scope, seq) in serde_json::from_str::<Vec<(ScopeId, Seq)>>(told.payload()).unwrap_or_default() {
                        hub.wakes.heard(&scope, seq);
                    }
                }
                Ok(_) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    });
    client.batch_execute("LISTEN syncline").await?;
    let ended = hearing.await.map_err(|e| db::internal("listening", e))?;
    drop(client);
    Ok(ended?)
}

/// Looks for what SQL clients wrote and for commits that no message told of, until the runtime ends.
pub async fn poll(inner: Arc<Inner>) {
    let mut heads_due = Instant::now();
    let mut seen_due = Instant::now();
    loop {
        tokio::time::sleep(POLL).await;
        let now = Instant::now();
        if now >= seen_due && inner.streams.load(std::sync::atomic::Ordering::Relaxed) {
            seen_due = now + SEEN;
            if let Err(e) = seen(&inner).await {
                tracing::debug!("telling that this server lives: {e}");
            }
        }
        let heads = if now >= heads_due { inner.wakes.listed() } else { vec![] };
        if !heads.is_empty() {
            heads_due = now + HEADS;
        }
        match look(&inner, &heads).await {
            Ok(captured) => {
                for scope in captured {
                    if let Err(e) = inner.absorb(&scope).await {
                        tracing::error!("taking in what SQL clients wrote to scope {scope}: {e}");
                    }
                }
            }
            Err(e) => tracing::debug!("looking at the database: {e}"),
        }
    }
}

async fn seen(inner: &Inner) -> Result<(), ApiError> {
    let tx = Tx::begin(&inner.pool, Purpose::Write).await?;
    let mut server = [0; 8];
    server.iter_mut().zip(inner.source.0.iter().zip(&inner.writer.0)).for_each(|(out, (a, b))| *out = a ^ b);
    accounts::server_seen(&tx, &server, inner.env().now_ms).await?;
    tx.commit().await
}

/// Returns scopes with captured writes; tells streams of heads that moved.
async fn look(inner: &Inner, heads: &[String]) -> Result<Vec<ScopeId>, ApiError> {
    let tx = Tx::begin(&inner.pool, Purpose::Read).await?;
    let captured = tx.query("SELECT DISTINCT scope_id FROM syncline.capture LIMIT 1000", &[]).await?;
    if !heads.is_empty() {
        let sql = "SELECT scope_id, seq FROM syncline.scope WHERE scope_id = ANY($1)";
        for row in tx.query(sql, &[(&heads, Type::TEXT_ARRAY)]).await? {
            inner.wakes.heard(&ScopeId(row.get(0)), Seq(row.get::<_, i64>(1) as u64));
        }
    }
    tx.rollback().await?;
    if captured.is_empty() {
        let tx = Tx::begin(&inner.pool, Purpose::Read).await?;
        let stale: bool = tx.query_one("SELECT EXISTS (SELECT FROM syncline.writer_tx)", &[]).await?.get(0);
        tx.rollback().await?;
        if stale {
            let tx = Tx::begin(&inner.pool, Purpose::Write).await?;
            tx.batch("DELETE FROM syncline.writer_tx w WHERE NOT EXISTS (SELECT FROM syncline.capture c WHERE c.tx = w.tx)").await?;
            tx.commit().await?;
        }
    }
    Ok(captured.iter().map(|r| ScopeId(r.get(0))).collect())
}
