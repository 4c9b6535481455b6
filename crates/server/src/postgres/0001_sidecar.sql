-- The sidecar in PostgreSQL, migration 1. Released migrations are never changed; a new one is a new file.
-- Every key leads with the scope, so that scopes can be spread. docs/format.md says what each column means.

CREATE TABLE syncline.meta(name text PRIMARY KEY, value text NOT NULL);

CREATE TABLE syncline.account(id text COLLATE "C" PRIMARY KEY, created_ms bigint NOT NULL);

-- `hash` is BLAKE3 of the token's text: whoever reads this table cannot enrol.
CREATE TABLE syncline.token(
  hash bytea PRIMARY KEY, account text COLLATE "C" NOT NULL REFERENCES syncline.account(id), expires_ms bigint NOT NULL, uses_left bigint NOT NULL);

-- Rows are never deleted: a device's id and its block of INTEGER keys are not handed out twice.
CREATE TABLE syncline.device(
  device_id bytea PRIMARY KEY, account text COLLATE "C" NOT NULL REFERENCES syncline.account(id), public_key bytea NOT NULL,
  name text NOT NULL, platform text NOT NULL, app_version text NOT NULL,
  enrolled_ms bigint NOT NULL, last_seen_ms bigint NOT NULL, revoked_ms bigint, key_block bigint NOT NULL UNIQUE);
CREATE INDEX device_account ON syncline.device(account);

-- How far a device has durably applied each scope.
CREATE TABLE syncline.cursor(
  scope_id text COLLATE "C" NOT NULL, device_id bytea NOT NULL, seq bigint NOT NULL, at_ms bigint NOT NULL, PRIMARY KEY(scope_id, device_id));

-- One row per scope. Who holds its lock commits to the scope: nothing else orders commits.
CREATE TABLE syncline.scope(
  scope_id text COLLATE "C" PRIMARY KEY, seq bigint NOT NULL DEFAULT 0, digest bigint NOT NULL DEFAULT 0, floor bigint NOT NULL DEFAULT 0);

-- Synced tables and the columns outside their keys whose values travel; c never changes its meaning.
CREATE TABLE syncline.tbl(n integer PRIMARY KEY, name text NOT NULL, def text NOT NULL);
CREATE UNIQUE INDEX tbl_name ON syncline.tbl(lower(name COLLATE "C"));
CREATE TABLE syncline.col(tbl integer NOT NULL REFERENCES syncline.tbl(n), c integer NOT NULL, name text NOT NULL, PRIMARY KEY(tbl, c));

-- Row states with all their values. kind: 0 shown in its table, 1 tombstone, 2 gravestone.
CREATE TABLE syncline.row(
  scope_id text COLLATE "C" NOT NULL, tbl integer NOT NULL, key bytea NOT NULL, seq bigint NOT NULL, created bigint NOT NULL,
  kind smallint NOT NULL, hash bigint NOT NULL, state bytea NOT NULL, vals bytea NOT NULL, colseqs bytea,
  PRIMARY KEY(scope_id, tbl, key));
CREATE INDEX row_seq ON syncline.row(scope_id, seq, tbl, key);

-- The bundle log: name, time, origin and size of every bundle, and the chain after it.
CREATE TABLE syncline.bundle(
  scope_id text COLLATE "C" NOT NULL, seq bigint NOT NULL, source bytea NOT NULL, id bigint NOT NULL, nonce bigint NOT NULL,
  device bytea, at_ms bigint NOT NULL, row_count bigint NOT NULL, chain bytea NOT NULL, PRIMARY KEY(scope_id, seq));
CREATE UNIQUE INDEX bundle_name ON syncline.bundle(scope_id, source, id);

-- How far each source has come, and the highest attempt seen at its next bundle.
CREATE TABLE syncline.source(
  scope_id text COLLATE "C" NOT NULL, source bytea NOT NULL, device bytea NOT NULL, watermark bigint NOT NULL, attempt bigint NOT NULL,
  PRIMARY KEY(scope_id, source));

-- What SQL clients wrote: which key of which table, never a value. op: 1 inserted, 2 updated, 3 deleted.
CREATE SEQUENCE syncline.capture_id;
CREATE TABLE syncline.capture(
  scope_id text COLLATE "C" NOT NULL, id bigint NOT NULL DEFAULT nextval('syncline.capture_id'), tx xid8 NOT NULL, tbl integer NOT NULL,
  op smallint NOT NULL, at_ms bigint NOT NULL, key text[] NOT NULL, PRIMARY KEY(scope_id, id));
CREATE INDEX capture_tx ON syncline.capture(tx);

-- The order in which writing transactions committed: a deferred trigger draws it, as the last thing that they do.
CREATE SEQUENCE syncline.commit_order;
CREATE TABLE syncline.writer_tx(tx xid8 PRIMARY KEY, ord bigint);

CREATE FUNCTION syncline.note_commit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
  UPDATE syncline.writer_tx SET ord = nextval('syncline.commit_order') WHERE tx = NEW.tx;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER note_commit AFTER INSERT ON syncline.writer_tx DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION syncline.note_commit();

-- The scope of a row that a plain INSERT leaves out: the only account's.
CREATE FUNCTION syncline.only_scope() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  ids text[];
BEGIN
  SELECT array_agg(id) INTO ids FROM (SELECT id FROM syncline.account LIMIT 2) a;
  IF ids IS NULL THEN
    RAISE EXCEPTION 'scope_id is missing, and there is no account yet' USING HINT = 'make one with `syncline admin token --account NAME`';
  ELSIF cardinality(ids) > 1 THEN
    RAISE EXCEPTION 'scope_id is missing, and there are several accounts' USING HINT = 'name the account in scope_id';
  END IF;
  RETURN ids[1];
END $$;

CREATE FUNCTION syncline.no_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'table % is synced; TRUNCATE leaves no trace of the rows that it removes', TG_TABLE_NAME USING HINT = 'use DELETE';
END $$;
