-- Ordinary tables. `IF NOT EXISTS` makes the script safe to repeat on a file that got its tables from the account.
CREATE TABLE IF NOT EXISTS customer(
    id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(8)))),
    name TEXT NOT NULL,
    phone TEXT,
    address TEXT);
CREATE TABLE IF NOT EXISTS job(
    id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(8)))),
    customer_id TEXT NOT NULL REFERENCES customer(id),
    title TEXT NOT NULL,
    technician TEXT,
    starts_at TEXT,
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'cancelled')),
    minutes INTEGER NOT NULL DEFAULT 0,
    report TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS task(
    id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(8)))),
    job_id TEXT NOT NULL REFERENCES job(id),
    title TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS note(
    id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(8)))),
    job_id TEXT NOT NULL REFERENCES job(id),
    author TEXT NOT NULL,
    text TEXT NOT NULL,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')));
CREATE TABLE IF NOT EXISTS photo(
    id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(8)))),
    job_id TEXT NOT NULL REFERENCES job(id),
    name TEXT NOT NULL,
    bytes BLOB NOT NULL);
-- Who works here. Never leaves the device.
CREATE TABLE IF NOT EXISTS me(one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL);
