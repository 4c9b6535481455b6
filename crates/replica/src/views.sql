-- What an app may read. Keys are JSON arrays of the key's values where those are text or integers, as in `status --json`.

CREATE VIEW syncline_pending(scope_id, tbl, key, op, since, state, reason) AS
SELECT s.scope_id, t.name, hex(r.key),
  CASE WHEN r.kind IN (1, 2) THEN 'delete' WHEN r.version = 0 THEN 'insert' ELSE 'update' END,
  p.since, CASE WHEN p.reason IS NULL THEN 'pending' ELSE 'parked' END, p.reason
FROM _syncline_row r JOIN _syncline_scope s ON s.n = r.scope JOIN _syncline_table t ON t.n = r.tbl
LEFT JOIN _syncline_parked p ON p.scope = r.scope AND p.tbl = r.tbl AND p.key = r.key
WHERE r.pend IS NOT NULL;

CREATE VIEW syncline_row_status(tbl, key, state) AS
SELECT t.name, hex(r.key),
  CASE WHEN p.reason IS NOT NULL OR r.kind = 3 THEN 'conflict' WHEN r.pend IS NOT NULL THEN 'pending' ELSE 'synced' END
FROM _syncline_row r JOIN _syncline_table t ON t.n = r.tbl
LEFT JOIN _syncline_parked p ON p.scope = r.scope AND p.tbl = r.tbl AND p.key = r.key
WHERE r.kind IN (0, 3);

CREATE VIEW syncline_scopes(scope_id, role, last_bundle_seq_seen, head) AS
SELECT scope_id, 'admin', (SELECT max(seq) FROM _syncline_checkpoint c WHERE c.scope = s.n), (SELECT max(seq) FROM _syncline_checkpoint c WHERE c.scope = s.n)
FROM _syncline_scope s;

CREATE VIEW syncline_status(pending, parked, shelved, captured) AS
SELECT (SELECT count(*) FROM _syncline_row WHERE pend IS NOT NULL), (SELECT count(*) FROM _syncline_parked),
  (SELECT count(*) FROM _syncline_shelved), (SELECT count(*) FROM _syncline_log);

CREATE VIEW syncline_journal(id, tbl, key, col, lost_value, lost_by, won_value, at, expires_at) AS
SELECT lower(hex(j.id)), t.name, hex(j.key), j.col, j.lost, lower(hex(j.lost_writer)), j.won, j.at, j.at + 2592000000
FROM _syncline_journal j JOIN _syncline_table t ON t.n = j.tbl;
