-- What an app may read. Keys are JSON arrays of the key's values where those are text or integers, as in `status --json`.

CREATE VIEW syncline_pending(scope_id, tbl, key, op, since, state, reason) AS
SELECT s.scope_id, t.name, hex(r.key),
  CASE WHEN r.kind IN (1, 2) THEN 'delete' WHEN r.version = 0 THEN 'insert' ELSE 'update' END,
  p.since, CASE WHEN p.reason IS NULL AND NOT (s.n > 1 AND (s.role IS NULL OR s.role = 'reader') AND EXISTS (SELECT 1 FROM _syncline_meta WHERE name = 'device_id')) THEN 'pending' ELSE 'parked' END,
  coalesce(p.reason, CASE WHEN s.n > 1 AND (s.role IS NULL OR s.role = 'reader') AND EXISTS (SELECT 1 FROM _syncline_meta WHERE name = 'device_id') THEN 'forbidden' END)
FROM _syncline_row r JOIN _syncline_scope s ON s.n = r.scope JOIN _syncline_table t ON t.n = r.tbl
LEFT JOIN _syncline_parked p ON p.scope = r.scope AND p.tbl = r.tbl AND p.key = r.key
WHERE r.pend IS NOT NULL;

CREATE VIEW syncline_row_status(tbl, key, state) AS
SELECT t.name, hex(r.key),
  CASE WHEN r.kind = 3 OR p.local IS NOT NULL THEN 'conflict' WHEN p.reason IS NOT NULL THEN 'parked' WHEN r.pend IS NOT NULL THEN 'pending' ELSE 'synced' END
FROM _syncline_row r JOIN _syncline_table t ON t.n = r.tbl
LEFT JOIN _syncline_parked p ON p.scope = r.scope AND p.tbl = r.tbl AND p.key = r.key
WHERE r.kind IN (0, 3);

CREATE VIEW syncline_scopes(scope_id, role, last_bundle_seq_seen, head) AS
SELECT scope_id, CASE n WHEN 1 THEN 'admin' ELSE role END, (SELECT max(seq) FROM _syncline_checkpoint c WHERE c.scope = s.n),
  max(head, coalesce((SELECT max(seq) FROM _syncline_checkpoint c WHERE c.scope = s.n), 0))
FROM _syncline_scope s;

CREATE VIEW syncline_devices(device_id, name, platform, app_version, last_seen, revoked) AS
SELECT device_id, name, platform, app_version, last_seen, revoked FROM _syncline_device ORDER BY n;

-- The state is derived as `Database::status` derives it, but for `syncing`, which is a lock and no fact of the file. Times are in ms.
CREATE VIEW syncline_status(state, pending, parked, shelved, asked, captured, oldest_pending_at, last_synced_at, next_retry_at, last_error_code, last_error) AS
SELECT
  CASE
    WHEN parked + shelved + asked > 0 OR for_somebody THEN 'needs_attention'
    WHEN code IS NOT NULL THEN 'offline'
    WHEN synced IS NULL OR now - synced > 3600000 THEN 'stale'
    WHEN pending + captured > 0 AND now - oldest > 3600000 THEN 'stale'
    WHEN pending + captured > 0 THEN 'local_changes_pending'
    ELSE 'synced'
  END,
  pending, parked, shelved, asked, captured, CASE WHEN pending + captured > 0 THEN oldest END, synced, retry, code, message
FROM (
  SELECT *, code IN ('no_key', 'unauthorized', 'device_revoked', 'forbidden', 'upgrade_required', 'quota_exceeded', 'schema_behind', 'damaged', 'format',
    'bad_url', 'disk_full', 'storage_full', 'protocol', 'internal', 'refused', 'bad_request', 'too_large', 'migrating') AS for_somebody
  FROM (
    SELECT (SELECT count(*) FROM _syncline_row WHERE pend IS NOT NULL) AS pending, (SELECT count(*) FROM _syncline_parked)
        + (SELECT count(*) FROM _syncline_row r WHERE pend IS NOT NULL AND scope IN (SELECT n FROM _syncline_scope WHERE n > 1 AND (role IS NULL OR role = 'reader'))
             AND EXISTS (SELECT 1 FROM _syncline_meta WHERE name = 'device_id')
             AND NOT EXISTS (SELECT 1 FROM _syncline_parked p WHERE p.scope = r.scope AND p.tbl = r.tbl AND p.key = r.key)) AS parked,
      (SELECT count(*) FROM _syncline_shelved) AS shelved, (SELECT count(*) FROM _syncline_asked) AS asked, (SELECT count(*) FROM _syncline_log) AS captured,
      coalesce(min((SELECT value FROM _syncline_meta WHERE name = 'oldest_pending_at'), (SELECT min(at) FROM _syncline_log)),
        (SELECT value FROM _syncline_meta WHERE name = 'oldest_pending_at'), (SELECT min(at) FROM _syncline_log)) AS oldest,
      (SELECT value FROM _syncline_meta WHERE name = 'last_synced_at') AS synced, (SELECT value FROM _syncline_meta WHERE name = 'next_retry_at') AS retry,
      (SELECT json_extract(value, '$.code') FROM _syncline_meta WHERE name = 'last_error') AS code,
      (SELECT json_extract(value, '$.message') FROM _syncline_meta WHERE name = 'last_error') AS message,
      CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER) AS now));

CREATE VIEW syncline_conflicts(id, tbl, key, col, base, local, remote, reason, since) AS
SELECT id, tbl, key, col, base, local, remote, reason, since FROM _syncline_inbox;

CREATE VIEW syncline_journal(id, tbl, key, col, lost_value, lost_by, won_value, at, expires_at) AS
SELECT lower(hex(j.id)), t.name, hex(j.key), j.col, j.lost,
  -- A writer's first bytes are its device's last (core/src/ids.rs).
  coalesce((SELECT name FROM _syncline_device WHERE substr(device_id, -8) = lower(substr(hex(j.lost_writer), 1, 8))), lower(hex(j.lost_writer))), j.won, j.at, j.at + 2592000000
FROM _syncline_journal j JOIN _syncline_table t ON t.n = j.tbl;
