-- Where devices can be woken that have no open stream (push_token.rs). `code` is the hash of what proves that the token reaches the
-- device; `woken` is how far it had come when it was last woken: it is not woken again until it has come further.
CREATE TABLE IF NOT EXISTS _syncline_push(
    device_id BLOB PRIMARY KEY,
    provider TEXT NOT NULL,
    token TEXT NOT NULL,
    code BLOB NOT NULL,
    verified_ms INTEGER,
    expires_ms INTEGER NOT NULL,
    woken INTEGER
) STRICT, WITHOUT ROWID;
