//! Pull: what an answer tells one scope's device, read in one snapshot.

use crate::api_error::ApiError;
use crate::commit::{Receipt, chain_at, find_bundle, watermark};
use rusqlite::params;
use syncline_core::{Chain, Delta, HistoryId, Limits, ScopeAnswer, ScopeRequest, Seq, planted};
use syncline_replica::{Doing, Error, Reading, Scope, Tx};

/// Compares a device's past with this authority's, before anything else of the request is looked at.
///
/// Returns the newest common point if they differ.
pub fn compare_pasts(tx: &Tx, scope: &Scope, history: HistoryId, request: &ScopeRequest) -> Result<Option<Seq>, Error> {
    if planted::on("push_before_history") {
        return Ok(None);
    }
    let is_ours = |seq: Seq, chain: Chain| -> Result<bool, Error> { Ok(chain_at(tx, scope, seq)? == Some(chain)) };
    let mut differs = false;
    if let Some(cursor) = request.cursor {
        differs |= cursor.history != history || !is_ours(cursor.seq, cursor.chain)?;
    }
    for ack in request.acked.iter().filter(|_| !planted::on("acked_not_checked")) {
        differs |= find_bundle(tx, scope, ack.source, ack.id)?.is_none_or(|b| b.nonce != ack.nonce || b.seq != ack.seq);
    }
    if !differs {
        return Ok(None);
    }
    for (seq, chain) in request.checkpoints.iter().take(64) {
        if is_ours(*seq, *chain)? {
            return Ok(Some(*seq));
        }
    }
    Ok(Some(Seq(0)))
}

/// Reads the answer for one scope. Must run inside one read snapshot that is not older than the receipt.
pub fn read_answer(tx: &mut Tx, scope: &Scope, request: &ScopeRequest, receipt: Option<Receipt>, limits: &Limits) -> Result<ScopeAnswer, ApiError> {
    let mut answer = ScopeAnswer { scope: scope.id.clone(), watermark: watermark(tx, scope, request.source)?, ..ScopeAnswer::default() };
    let fresh = receipt.as_ref().and_then(|r| r.fresh.clone());
    answer.outcome = receipt.map(|r| r.outcome);
    let head = tx.head(scope.n)?;
    let chain = chain_at(tx, scope, head)?.ok_or_else(|| Error::Damaged("the chain has no head".into()))?;
    let at = request.cursor.map_or(Seq(0), |c| c.seq);
    let (from, after) = match &request.page {
        Some(page) => {
            if chain_at(tx, scope, page.head)? != Some(page.chain) && !planted::on("stage_kept_across_histories") {
                answer.stage_void = true;
                return Ok(answer);
            }
            (page.from, Some(&page.after))
        }
        None => (at, None),
    };
    // Only what the device has not got may be left out as its own: a page in the middle of a delta never does.
    let own = fresh.as_ref().filter(|_| request.page.is_none() || planted::on("own_left_out_of_pages")).map(|(seq, altered)| (*seq, altered));
    // A row that is gone since the first page may have been in it.
    let skip = if request.hydrate && from.0 == 0 { request.page.as_ref().map_or(head, |p| p.began) } else { Seq(0) };
    let most = limits.page_bytes.saturating_mul(16);
    let bytes = (request.page_bytes as usize).clamp(1, most);
    let page = tx.read_page(scope, &Reading { from, after, bytes, skip_gravestones_to: skip, own, to: head })?;
    // Counted once per delta: counting costs the rows that are counted.
    let left = match &page.next {
        Some(next) if request.page.is_none() => tx.rows_left(scope, next)?,
        _ => 0,
    };
    let journal = if page.next.is_none() { tx.journal_to_send(scope, from, head)? } else { vec![] };
    let floor: i64 = tx.conn.query_row("SELECT floor FROM _syncline_scope WHERE n = ?1", params![scope.n], |r| r.get(0)).doing("reading the floor")?;
    answer.delta = Some(Delta {
        scope: scope.id.clone(),
        from,
        to: head,
        chain,
        floor: Seq(floor as u64),
        digest: tx.digest(scope.n)?,
        next: page.next,
        rows_left: left,
        rows: page.rows,
        journal,
    });
    Ok(answer)
}
