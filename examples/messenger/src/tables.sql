-- Ordinary tables. `IF NOT EXISTS` makes the script safe to repeat on a file that got its tables from the account.
CREATE TABLE IF NOT EXISTS conversations(
    id TEXT PRIMARY KEY,
    title TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS messages(
    id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16)))),
    conversation_id TEXT NOT NULL,
    sender TEXT NOT NULL,
    body TEXT NOT NULL,
    sent_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')));
-- "Read by", for everybody in the conversation to see. How far this account has read is its own affair: syncline_read_markers.
CREATE TABLE IF NOT EXISTS receipts(
    conversation_id TEXT NOT NULL,
    reader TEXT NOT NULL,
    read_to TEXT NOT NULL,
    PRIMARY KEY(conversation_id, reader));
-- What is being written on this device. Never leaves it.
CREATE TABLE IF NOT EXISTS drafts(conversation_id TEXT PRIMARY KEY, body TEXT NOT NULL);
