-- Who shares which scope, migration 2. An account's own scope bears its name and has no line here: nobody else is in it.
CREATE TABLE syncline.member(
  scope_id text COLLATE "C" NOT NULL, account text COLLATE "C" NOT NULL REFERENCES syncline.account(id), role text NOT NULL, since_ms bigint NOT NULL,
  PRIMARY KEY(scope_id, account));
CREATE INDEX member_account ON syncline.member(account);

-- Who was in a scope and is not any more: only that takes a scope's rows off a device.
CREATE TABLE syncline.former(account text COLLATE "C" NOT NULL, scope_id text COLLATE "C" NOT NULL, PRIMARY KEY(account, scope_id));

-- `hash` is BLAKE3 of the code's text: whoever reads this table cannot join.
CREATE TABLE syncline.invite(
  hash bytea PRIMARY KEY, scope_id text COLLATE "C" NOT NULL, role text NOT NULL, expires_ms bigint NOT NULL, uses bigint NOT NULL, uses_left bigint NOT NULL);
CREATE INDEX invite_scope ON syncline.invite(scope_id);

-- What a revoked device seals its unsent work with; its account's other devices may have it.
ALTER TABLE syncline.device ADD seal_key bytea;

-- How far a device was handed rows; it tells with its next request that it has them. A line made for it has no time of an acknowledgement.
ALTER TABLE syncline.cursor ADD served bigint NOT NULL DEFAULT 0;

-- Streams of wakes that are open, by server; a server that has not been seen for a while has none.
CREATE TABLE syncline.stream(connection_id bytea PRIMARY KEY, device_id bytea NOT NULL, server bytea NOT NULL, since_ms bigint NOT NULL);
CREATE TABLE syncline.server(id bytea PRIMARY KEY, seen_ms bigint NOT NULL);

-- Where devices can be woken that have no open stream.
CREATE TABLE syncline.push(
  device_id bytea PRIMARY KEY, provider text NOT NULL, token text NOT NULL, code bytea NOT NULL, verified_ms bigint, expires_ms bigint NOT NULL, woken bigint,
  claimed_ms bigint);
