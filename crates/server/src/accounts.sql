-- Accounts, tokens, devices and acknowledgements of an authority (accounts.rs). No part of the replicated data.
CREATE TABLE IF NOT EXISTS _syncline_account(
    id TEXT PRIMARY KEY,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `hash` is BLAKE3 of the token's text: whoever reads this table cannot enrol.
CREATE TABLE IF NOT EXISTS _syncline_token(
    hash BLOB PRIMARY KEY,
    account TEXT NOT NULL REFERENCES _syncline_account(id),
    expires_ms INTEGER NOT NULL,
    uses_left INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Rows are never deleted: a device's id and its block of INTEGER keys are not handed out twice.
CREATE TABLE IF NOT EXISTS _syncline_device(
    device_id BLOB PRIMARY KEY,
    account TEXT NOT NULL REFERENCES _syncline_account(id),
    public_key BLOB NOT NULL,
    name TEXT NOT NULL,
    platform TEXT NOT NULL,
    app_version TEXT NOT NULL,
    enrolled_ms INTEGER NOT NULL,
    last_seen_ms INTEGER NOT NULL,
    revoked_ms INTEGER,
    -- What it seals its unsent work with once it is revoked; its account's other devices may have it.
    seal_key BLOB,
    key_block INTEGER NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS _syncline_device_account ON _syncline_device(account);

-- How far a device has durably applied each scope.
CREATE TABLE IF NOT EXISTS _syncline_cursor(
    device_id BLOB NOT NULL REFERENCES _syncline_device(device_id),
    scope TEXT NOT NULL,
    seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    -- How far it was handed rows; it tells with its next request that it has them.
    served INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(device_id, scope)
) STRICT, WITHOUT ROWID;

-- Streams of wakes that are open now; emptied when the authority starts.
CREATE TABLE IF NOT EXISTS _syncline_stream(
    connection_id BLOB PRIMARY KEY,
    device_id BLOB NOT NULL,
    since_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
