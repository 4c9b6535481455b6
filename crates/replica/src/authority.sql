-- What only an authority has, format 1.

CREATE INDEX _syncline_row_seq ON _syncline_row(scope, seq);

-- The bundle log: name, time, origin and size of every bundle, and the chain after it.
CREATE TABLE _syncline_bundle(
  scope INTEGER NOT NULL, seq INTEGER NOT NULL, source BLOB NOT NULL, id INTEGER NOT NULL, nonce INTEGER NOT NULL,
  device BLOB, at INTEGER NOT NULL, row_count INTEGER NOT NULL, chain BLOB NOT NULL,
  PRIMARY KEY(scope, seq)) WITHOUT ROWID;
CREATE UNIQUE INDEX _syncline_bundle_name ON _syncline_bundle(scope, source, id);

-- How far each source has come, and the highest attempt seen at its next bundle.
CREATE TABLE _syncline_source(
  scope INTEGER NOT NULL, source BLOB NOT NULL, device BLOB, watermark INTEGER NOT NULL DEFAULT 0, attempt INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(scope, source)) WITHOUT ROWID;
