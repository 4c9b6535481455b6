-- What only a device has, format 1.

-- Holds pend too, so that it can be counted and listed without looking at the rows.
CREATE INDEX _syncline_row_pending ON _syncline_row(scope, seq, pend) WHERE pend IS NOT NULL;

-- Where a row of a shared scope is; the account's own are found by their key.
CREATE INDEX _syncline_row_home ON _syncline_row(tbl, key) WHERE scope > 1;

-- Rows whose scope is their parent's, and whose parent is in another one or not here yet: looked at again with every change.
CREATE TABLE _syncline_stray(tbl INTEGER NOT NULL, key BLOB NOT NULL, PRIMARY KEY(tbl, key)) WITHOUT ROWID;

-- Attempts to push a bundle; seq is set once the authority has acknowledged it, passed once the cursor has gone by.
-- A bundle that held every row offered between two numbers of our sequence names those (first, last), else its rows.
CREATE TABLE _syncline_attempt(
  scope INTEGER NOT NULL, source BLOB NOT NULL, id INTEGER NOT NULL, attempt INTEGER NOT NULL,
  nonce INTEGER NOT NULL, frozen_at INTEGER NOT NULL, first INTEGER, last INTEGER, rows BLOB NOT NULL,
  seq INTEGER, passed INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(scope, source, id, attempt)) WITHOUT ROWID;

-- Points of the authority's past that this device has seen, thinned out with age.
CREATE TABLE _syncline_checkpoint(scope INTEGER NOT NULL, seq INTEGER NOT NULL, chain BLOB NOT NULL, PRIMARY KEY(scope, seq)) WITHOUT ROWID;

-- Pages of a delta that is not complete yet, as they came.
CREATE TABLE _syncline_stage(scope INTEGER NOT NULL, n INTEGER NOT NULL, page BLOB NOT NULL, PRIMARY KEY(scope, n));

-- What confirmed rows were before the edits that are pending, and what `ask` columns were before their last write, as JSON; and what the authority
-- has beside a pending row of a table that rejects, framed as in a delta.
CREATE TABLE _syncline_base(
  scope INTEGER NOT NULL, tbl INTEGER NOT NULL, key BLOB NOT NULL, version INTEGER NOT NULL, row BLOB NOT NULL, PRIMARY KEY(scope, tbl, key)) WITHOUT ROWID;
CREATE TABLE _syncline_apart(
  scope INTEGER NOT NULL, tbl INTEGER NOT NULL, key BLOB NOT NULL, partial INTEGER NOT NULL, remote BLOB NOT NULL, PRIMARY KEY(scope, tbl, key)) WITHOUT ROWID;

-- Rows with an `ask` column of which concurrent, different values are kept.
CREATE TABLE _syncline_asked(
  scope INTEGER NOT NULL, tbl INTEGER NOT NULL, key BLOB NOT NULL, since INTEGER NOT NULL, PRIMARY KEY(scope, tbl, key)) WITHOUT ROWID;

-- Pending rows that go together or not at all.
CREATE TABLE _syncline_together(
  scope INTEGER NOT NULL, tbl INTEGER NOT NULL, key BLOB NOT NULL, grp INTEGER NOT NULL, PRIMARY KEY(scope, tbl, key)) WITHOUT ROWID;
CREATE INDEX _syncline_together_group ON _syncline_together(grp, scope);

-- What waits for a decision, one line per column that differs, as the view shows it: the oldest 1,000 rows.
CREATE TABLE _syncline_inbox(id TEXT NOT NULL, tbl TEXT NOT NULL, key TEXT NOT NULL, col TEXT, base, local, remote, reason TEXT NOT NULL, since INTEGER NOT NULL);
-- The account's devices, as the authority last told.
CREATE TABLE _syncline_device(
  n INTEGER PRIMARY KEY, device_id TEXT NOT NULL, name TEXT NOT NULL, platform TEXT NOT NULL, app_version TEXT NOT NULL,
  last_seen INTEGER NOT NULL, revoked INTEGER);

-- The ring of sync events.
CREATE TABLE _syncline_event(id INTEGER PRIMARY KEY, at INTEGER NOT NULL, event TEXT NOT NULL);
