-- The sidecar in PostgreSQL, migration 4: tables that were there before Syncline. docs/format.md says what each column means.

-- What was found of an adopted table: its schema, scope and columns, as JSON.
ALTER TABLE syncline.tbl ADD COLUMN adopted text;

-- Scopes of an adopted table are the values of its scope column: one that is new becomes an account.
CREATE FUNCTION syncline.make_scopes(ids text[]) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  new_ids text[];
BEGIN
  SELECT array_agg(DISTINCT i) INTO new_ids FROM unnest(ids) i WHERE NOT EXISTS (SELECT FROM syncline.scope s WHERE s.scope_id = i);
  IF new_ids IS NULL THEN
    RETURN;
  END IF;
  IF EXISTS (SELECT FROM unnest(new_ids) i WHERE btrim(i) = '' OR octet_length(i) > 200) THEN
    RAISE EXCEPTION 'the scope of a synced row must have 1 to 200 bytes' USING HINT = 'it is an account''s name';
  END IF;
  INSERT INTO syncline.account(id, created_ms) SELECT i, (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM unnest(new_ids) i ON CONFLICT DO NOTHING;
  INSERT INTO syncline.scope(scope_id) SELECT i FROM unnest(new_ids) i ON CONFLICT DO NOTHING;
END $$;
