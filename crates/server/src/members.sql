-- Who shares which scope (members.rs). An account's own scope bears its name and has no line here: nobody else is in it.
CREATE TABLE IF NOT EXISTS _syncline_member(
    scope_id TEXT NOT NULL,
    account TEXT NOT NULL REFERENCES _syncline_account(id),
    role TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY(scope_id, account)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS _syncline_member_account ON _syncline_member(account);

-- Who was in a scope and is not any more: only that takes a scope's rows off a device. An authority that merely does not know of a
-- membership (it may have been put back from a backup) takes nothing away.
CREATE TABLE IF NOT EXISTS _syncline_former(
    account TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    PRIMARY KEY(account, scope_id)
) STRICT, WITHOUT ROWID;

-- `hash` is BLAKE3 of the code's text: whoever reads this table cannot join.
CREATE TABLE IF NOT EXISTS _syncline_invite(
    hash BLOB PRIMARY KEY,
    scope_id TEXT NOT NULL,
    role TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    uses INTEGER NOT NULL,
    uses_left INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS _syncline_invite_scope ON _syncline_invite(scope_id);
