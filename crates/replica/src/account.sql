-- State of the account that an app reads and writes like its own rows. These two are what it sees; their rows travel in synced tables
-- of another name (account_tables.rs), because at the authority `scope_id` is every table's own column. Triggers keep both alike.
CREATE TABLE syncline_read_markers(
  scope_id TEXT NOT NULL, thread_key TEXT NOT NULL DEFAULT '', read_up_to INTEGER NOT NULL DEFAULT 0, unread INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(scope_id, thread_key)) WITHOUT ROWID;
CREATE TABLE syncline_scope_settings(scope_id TEXT NOT NULL, key TEXT NOT NULL, value, PRIMARY KEY(scope_id, key)) WITHOUT ROWID;

-- What this device does otherwise than the account: never leaves it.
CREATE TABLE syncline_local_settings(key TEXT PRIMARY KEY NOT NULL, value) WITHOUT ROWID;

-- Rows of others in tables that count unread ones, by the bundle that made them.
CREATE TABLE _syncline_unread(scope INTEGER NOT NULL, tbl INTEGER NOT NULL, key BLOB NOT NULL, created INTEGER NOT NULL, PRIMARY KEY(scope, created, tbl, key)) WITHOUT ROWID;

CREATE VIEW syncline_unread(scope_id, n) AS
SELECT s.scope_id, max(
  (SELECT count(*) FROM _syncline_unread u JOIN _syncline_row r ON r.scope = u.scope AND r.tbl = u.tbl AND r.key = u.key AND r.kind = 0
   WHERE u.scope = s.n AND u.created > coalesce((SELECT m.read_up_to FROM syncline_read_markers m WHERE m.scope_id = s.scope_id AND m.thread_key = ''), 0)),
  coalesce((SELECT m.unread <> 0 FROM syncline_read_markers m WHERE m.scope_id = s.scope_id AND m.thread_key = ''), 0))
FROM _syncline_scope s;
