-- The sidecar in PostgreSQL, migration 3: the conflict journal. docs/format.md says what each column means.

-- Values that lost against concurrent ones, so that they can be put back. `lost` and `won` are encoded values.
CREATE TABLE syncline.journal(
  scope_id text COLLATE "C" NOT NULL, id bytea NOT NULL, tbl integer NOT NULL, key bytea NOT NULL, col text NOT NULL, lost bytea NOT NULL,
  lost_hlc bigint NOT NULL, lost_writer bytea NOT NULL, won bytea NOT NULL, reason text NOT NULL, at_ms bigint NOT NULL, seq bigint NOT NULL,
  size bigint NOT NULL, PRIMARY KEY(scope_id, id));
CREATE INDEX journal_seq ON syncline.journal(scope_id, seq);
