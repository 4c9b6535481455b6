-- The sidecar in PostgreSQL, migration 5: tombstones are found without a look at the rows that live.
CREATE INDEX row_dead ON syncline.row(scope_id, seq) WHERE kind = 1;
