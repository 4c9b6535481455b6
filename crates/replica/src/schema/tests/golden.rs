//! The statements, letter by letter. A change here changes what devices and authorities build: it must be meant.

use super::super::{authority_ddl, device_ddl};
use super::{NASTY, schema};

fn assert_statements(found: Vec<String>, expected: &[&str]) {
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
}

#[test]
fn quoted_names_expressions_and_indexes() {
    let schema = schema(NASTY[0]);
    let table = schema.table("select").unwrap();
    let device = [
        r#"CREATE TABLE "select"(
  "order" TEXT PRIMARY KEY NOT NULL,
  "group by" NVARCHAR(160) DEFAULT 'it''s',
  "a""b" NUMERIC(10,2),
  "table" BLOB,
  "x[y" TEXT,
  "päron $1" TEXT COLLATE "NOCASE",
  "x;y" DOUBLE PRECISION,
  CHECK ("a""b" > 0 OR [order] <> ')')
)"#,
        r#"CREATE INDEX "i""x" ON "select"("group by" DESC, "table", (lower ("päron $1")) COLLATE "nocase" DESC) WHERE ("a""b" IS NOT NULL AND [order] > '--')"#,
        r#"CREATE UNIQUE INDEX "where" ON "select"("a""b", ([x[y] || `group by`))"#,
    ];
    assert_statements(device_ddl(table), &device);
    let authority = [
        r#"CREATE TABLE "select"(
  "scope_id" TEXT NOT NULL DEFAULT '',
  "order" TEXT NOT NULL,
  "group by" NVARCHAR(160) DEFAULT 'it''s',
  "a""b" NUMERIC(10,2),
  "table" BLOB,
  "x[y" TEXT,
  "päron $1" TEXT COLLATE "NOCASE",
  "x;y" DOUBLE PRECISION,
  PRIMARY KEY("scope_id", "order"),
  CHECK ("a""b" > 0 OR [order] <> ')')
)"#,
        r#"CREATE INDEX "i""x" ON "select"("scope_id", "group by" DESC, "table", (lower ("päron $1")) COLLATE "nocase" DESC) WHERE ("a""b" IS NOT NULL AND [order] > '--')"#,
        r#"CREATE UNIQUE INDEX "where" ON "select"("scope_id", "a""b", ([x[y] || `group by`))"#,
        r#"CREATE TRIGGER "_syncline_scope_select" AFTER INSERT ON "select" WHEN NEW."scope_id" = '' BEGIN
  SELECT RAISE(ABORT, 'table select: scope_id is missing, and there are several accounts') WHERE (SELECT count(*) FROM (SELECT 1 FROM "_syncline_account" LIMIT 2)) = 2;
  SELECT RAISE(ABORT, 'table select: scope_id is missing, and there is no account yet') WHERE NOT EXISTS (SELECT 1 FROM "_syncline_account");
  UPDATE "select" SET "scope_id" = (SELECT "id" FROM "_syncline_account") WHERE "scope_id" = '' AND "order" = NEW."order";
  DELETE FROM "select" WHERE "scope_id" = '' AND "order" = NEW."order";
END"#,
    ];
    assert_statements(authority_ddl(table, &schema).unwrap(), &authority);
}

#[test]
fn a_composite_key() {
    let schema = schema(NASTY[1]);
    let table = schema.table("pair").unwrap();
    let device = [r#"CREATE TABLE "pair"(
  "A" TEXT NOT NULL,
  "b" INTEGER,
  "c" TEXT,
  PRIMARY KEY("b" DESC, "A" COLLATE "nocase"),
  UNIQUE("c"),
  UNIQUE("c", "A" DESC)
)"#];
    assert_statements(device_ddl(table), &device);
    let authority = [
        r#"CREATE TABLE "pair"(
  "scope_id" TEXT NOT NULL DEFAULT '',
  "A" TEXT NOT NULL,
  "b" INTEGER NOT NULL,
  "c" TEXT,
  PRIMARY KEY("scope_id", "b" DESC, "A" COLLATE "nocase"),
  UNIQUE("scope_id", "c"),
  UNIQUE("scope_id", "c", "A" DESC)
)"#,
        r#"CREATE TRIGGER "_syncline_scope_pair" AFTER INSERT ON "pair" WHEN NEW."scope_id" = '' BEGIN
  SELECT RAISE(ABORT, 'table pair: scope_id is missing, and there are several accounts') WHERE (SELECT count(*) FROM (SELECT 1 FROM "_syncline_account" LIMIT 2)) = 2;
  SELECT RAISE(ABORT, 'table pair: scope_id is missing, and there is no account yet') WHERE NOT EXISTS (SELECT 1 FROM "_syncline_account");
  UPDATE "pair" SET "scope_id" = (SELECT "id" FROM "_syncline_account") WHERE "scope_id" = '' AND "b" = NEW."b" AND "A" = NEW."A";
  DELETE FROM "pair" WHERE "scope_id" = '' AND "b" = NEW."b" AND "A" = NEW."A";
END"#,
    ];
    assert_statements(authority_ddl(table, &schema).unwrap(), &authority);
}

#[test]
fn a_strict_table_without_rowid() {
    let schema = schema(NASTY[4]);
    let table = schema.table("tight").unwrap();
    let device = [r#"CREATE TABLE "tight"(
  "a" TEXT,
  "b" INT,
  "c" ANY,
  PRIMARY KEY("a", "b")
) STRICT, WITHOUT ROWID"#];
    assert_statements(device_ddl(table), &device);
    let authority = [
        r#"CREATE TABLE "tight"(
  "scope_id" TEXT NOT NULL DEFAULT '',
  "a" TEXT NOT NULL,
  "b" INT NOT NULL,
  "c" ANY,
  PRIMARY KEY("scope_id", "a", "b")
) STRICT, WITHOUT ROWID"#,
        r#"CREATE TRIGGER "_syncline_scope_tight" AFTER INSERT ON "tight" WHEN NEW."scope_id" = '' BEGIN
  SELECT RAISE(ABORT, 'table tight: scope_id is missing, and there are several accounts') WHERE (SELECT count(*) FROM (SELECT 1 FROM "_syncline_account" LIMIT 2)) = 2;
  SELECT RAISE(ABORT, 'table tight: scope_id is missing, and there is no account yet') WHERE NOT EXISTS (SELECT 1 FROM "_syncline_account");
  UPDATE "tight" SET "scope_id" = (SELECT "id" FROM "_syncline_account") WHERE "scope_id" = '' AND "a" = NEW."a" AND "b" = NEW."b";
  DELETE FROM "tight" WHERE "scope_id" = '' AND "a" = NEW."a" AND "b" = NEW."b";
END"#,
    ];
    assert_statements(authority_ddl(table, &schema).unwrap(), &authority);
}

#[test]
fn foreign_keys_and_their_triggers() {
    let schema = schema(NASTY[7]);
    let table = schema.table("child").unwrap();
    let device = [r#"CREATE TABLE "child"(
  "id" TEXT PRIMARY KEY NOT NULL,
  "p" TEXT,
  "q1" TEXT DEFAULT 'dq',
  "q2" INT,
  "self" TEXT,
  "r" TEXT NOT NULL DEFAULT 'none',
  FOREIGN KEY("p") REFERENCES "parent" ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY("self") REFERENCES "child"("id") ON DELETE SET NULL,
  FOREIGN KEY("r") REFERENCES "parent"("code") ON DELETE SET DEFAULT,
  FOREIGN KEY("q1", "q2") REFERENCES "parent"("a", "b") ON DELETE SET NULL ON UPDATE SET NULL,
  FOREIGN KEY("p") REFERENCES "parent"
)"#];
    assert_statements(device_ddl(table), &device);
    let authority = [
        r#"CREATE TABLE "child"(
  "scope_id" TEXT NOT NULL DEFAULT '',
  "id" TEXT NOT NULL,
  "p" TEXT,
  "q1" TEXT DEFAULT 'dq',
  "q2" INT,
  "self" TEXT,
  "r" TEXT NOT NULL DEFAULT 'none',
  PRIMARY KEY("scope_id", "id"),
  FOREIGN KEY("scope_id", "p") REFERENCES "parent"("scope_id", "id") ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
  FOREIGN KEY("scope_id", "self") REFERENCES "child"("scope_id", "id") DEFERRABLE INITIALLY DEFERRED,
  FOREIGN KEY("scope_id", "r") REFERENCES "parent"("scope_id", "code") DEFERRABLE INITIALLY DEFERRED,
  FOREIGN KEY("scope_id", "q1", "q2") REFERENCES "parent"("scope_id", "a", "b") DEFERRABLE INITIALLY DEFERRED,
  FOREIGN KEY("scope_id", "p") REFERENCES "parent"("scope_id", "id") DEFERRABLE INITIALLY DEFERRED
)"#,
        r#"CREATE TRIGGER "_syncline_scope_child" AFTER INSERT ON "child" WHEN NEW."scope_id" = '' BEGIN
  SELECT RAISE(ABORT, 'table child: scope_id is missing, and there are several accounts') WHERE (SELECT count(*) FROM (SELECT 1 FROM "_syncline_account" LIMIT 2)) = 2;
  SELECT RAISE(ABORT, 'table child: scope_id is missing, and there is no account yet') WHERE NOT EXISTS (SELECT 1 FROM "_syncline_account");
  UPDATE "child" SET "scope_id" = (SELECT "id" FROM "_syncline_account") WHERE "scope_id" = '' AND "id" = NEW."id";
  DELETE FROM "child" WHERE "scope_id" = '' AND "id" = NEW."id";
END"#,
        r#"CREATE TRIGGER "_syncline_fk_child_1_d" AFTER DELETE ON "child" BEGIN
  UPDATE "child" SET "self" = NULL WHERE "scope_id" = OLD."scope_id" AND OLD."id" = "self";
END"#,
        r#"CREATE TRIGGER "_syncline_fk_child_2_d" AFTER DELETE ON "parent" BEGIN
  UPDATE "child" SET "r" = ('none') WHERE "scope_id" = OLD."scope_id" AND OLD."code" = "r";
END"#,
        r#"CREATE TRIGGER "_syncline_fk_child_3_d" AFTER DELETE ON "parent" BEGIN
  UPDATE "child" SET "q1" = NULL, "q2" = NULL WHERE "scope_id" = OLD."scope_id" AND OLD."a" = "q1" AND OLD."b" = "q2";
END"#,
        r#"CREATE TRIGGER "_syncline_fk_child_3_u" AFTER UPDATE OF "a", "b" ON "parent" WHEN OLD."a" IS NOT NEW."a" OR OLD."b" IS NOT NEW."b" BEGIN
  UPDATE "child" SET "q1" = NULL, "q2" = NULL WHERE "scope_id" = OLD."scope_id" AND OLD."a" = "q1" AND OLD."b" = "q2";
END"#,
    ];
    assert_statements(authority_ddl(table, &schema).unwrap(), &authority);
}
