-- The sidecar, format 1. Released versions of this file are never changed; a new format is a new file.
-- docs/format.md says what each column means.

CREATE TABLE _syncline_meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- Writers, numbered so that a stamp takes nine bytes in a row's state. mine: 1 for an opening of this file, 2
-- for one that stamps no more.
CREATE TABLE _syncline_writer(n INTEGER PRIMARY KEY, writer BLOB NOT NULL UNIQUE, mine INTEGER NOT NULL DEFAULT 0);

-- One row per scope: this replica's own sequence and, on a device, how far it has come with the authority's. role: what the account
-- may do there, NULL where it is no member; head: where the authority was, as it last said; ask: whether the next request asks
-- about it; acked: the cursor that the authority was last sent.
CREATE TABLE _syncline_scope(
  n INTEGER PRIMARY KEY,
  scope_id TEXT NOT NULL UNIQUE,
  seq INTEGER NOT NULL DEFAULT 0,
  digest INTEGER NOT NULL DEFAULT 0,
  chain BLOB,
  floor INTEGER NOT NULL DEFAULT 0,
  cursor BLOB,
  resync INTEGER NOT NULL DEFAULT 0,
  stage BLOB,
  role TEXT,
  head INTEGER NOT NULL DEFAULT 0,
  ask INTEGER NOT NULL DEFAULT 0,
  acked BLOB);

-- Synced tables, and tables that others sync and that are not here yet (present = 0).
CREATE TABLE _syncline_table(
  n INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE COLLATE NOCASE,
  def TEXT NOT NULL,
  generation INTEGER NOT NULL DEFAULT 0,
  present INTEGER NOT NULL DEFAULT 1);

-- Columns outside the key whose values travel; c never changes its meaning.
CREATE TABLE _syncline_column(
  tbl INTEGER NOT NULL,
  c INTEGER NOT NULL,
  name TEXT NOT NULL COLLATE NOCASE,
  present INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY(tbl, c)) WITHOUT ROWID;

-- What the bits of a captured mask meant, per generation of a table's triggers.
CREATE TABLE _syncline_generation(
  tbl INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  columns TEXT NOT NULL,
  PRIMARY KEY(tbl, generation)) WITHOUT ROWID;

-- The capture log, append-only; emptied by every absorb. No unique constraint beyond its number: it cannot fail the app's statement.
CREATE TABLE _syncline_log(
  id INTEGER PRIMARY KEY, tbl, op, generation, at, mask, scope, k0, k1, k2, k3);

-- Not empty while a transaction of Syncline's writes business tables: triggers then capture nothing.
CREATE TABLE _syncline_applying(x);

-- Row states. kind: 0 shown in its table, 1 tombstone, 2 gravestone, 3 shelved, 4 its table is not here.
CREATE TABLE _syncline_row(
  scope INTEGER NOT NULL,
  tbl INTEGER NOT NULL,
  key BLOB NOT NULL,
  seq INTEGER NOT NULL,
  version INTEGER NOT NULL,
  created INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  hash INTEGER NOT NULL,
  pend BLOB,
  state BLOB NOT NULL,
  colseqs BLOB,
  image BLOB,
  PRIMARY KEY(scope, tbl, key)) WITHOUT ROWID;

-- Rows that wait for a decision, with the refusal as the authority gave it. local: the values of a row whose key another row
-- bears now, as JSON; NULL where the row itself has them.
CREATE TABLE _syncline_parked(
  scope INTEGER NOT NULL, tbl INTEGER NOT NULL, key BLOB NOT NULL,
  reason TEXT NOT NULL, message TEXT NOT NULL, refusal BLOB NOT NULL, since INTEGER NOT NULL, local BLOB,
  PRIMARY KEY(scope, tbl, key)) WITHOUT ROWID;

-- Values that lost to concurrent ones, without type affinity. seq: at the authority the bundle in which they lost or came; on a
-- device 0 until the authority is known to have the entry.
CREATE TABLE _syncline_journal(
  id BLOB PRIMARY KEY, scope INTEGER NOT NULL, tbl INTEGER NOT NULL, key BLOB NOT NULL, col TEXT NOT NULL,
  lost, lost_hlc INTEGER NOT NULL, lost_writer BLOB NOT NULL, won, reason TEXT NOT NULL,
  at INTEGER NOT NULL, seq INTEGER NOT NULL, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX _syncline_journal_seq ON _syncline_journal(scope, seq);

-- Rows that their table cannot hold for now.
CREATE TABLE _syncline_shelved(
  scope INTEGER NOT NULL, tbl INTEGER NOT NULL, key BLOB NOT NULL,
  reason TEXT NOT NULL, message TEXT NOT NULL, since INTEGER NOT NULL,
  PRIMARY KEY(scope, tbl, key)) WITHOUT ROWID;
