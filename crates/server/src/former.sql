-- Who was in which shared scope and is in it no more, however that came about: devices take rows away for this word only, not because
-- an authority that was put back to an earlier state does not know of a membership.
CREATE TABLE IF NOT EXISTS _syncline_former(account TEXT NOT NULL, scope_id TEXT NOT NULL, PRIMARY KEY(account, scope_id)) STRICT, WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS _syncline_member_left AFTER DELETE ON _syncline_member BEGIN
  INSERT INTO _syncline_former(account, scope_id) SELECT OLD.account, OLD.scope_id
    WHERE NOT EXISTS (SELECT 1 FROM _syncline_former WHERE account = OLD.account AND scope_id = OLD.scope_id);
END;
CREATE TRIGGER IF NOT EXISTS _syncline_member_back AFTER INSERT ON _syncline_member BEGIN
  DELETE FROM _syncline_former WHERE account = NEW.account AND scope_id = NEW.scope_id;
END;
