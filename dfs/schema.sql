-- The namespace, version 2 (docs/formats/namespace.md). 4611686018427387904 = 2^62 = "still holds".
CREATE TABLE store(key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT;
CREATE TABLE storage_node(
  id TEXT PRIMARY KEY,
  path TEXT NOT NULL UNIQUE,
  weight REAL NOT NULL CHECK(weight > 0),
  capacity INTEGER CHECK(capacity > 0),
  state TEXT NOT NULL DEFAULT 'active' CHECK(state IN ('active', 'draining'))
) STRICT;
CREATE TABLE txn(
  id INTEGER PRIMARY KEY,
  request TEXT NOT NULL UNIQUE,
  changes_digest BLOB NOT NULL,
  time_ms INTEGER NOT NULL,
  chain BLOB NOT NULL
) STRICT;
CREATE TABLE snapshot(name TEXT PRIMARY KEY, txn INTEGER NOT NULL, time_ms INTEGER NOT NULL) STRICT;
CREATE TABLE node(id INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK(kind IN ('file', 'dir'))) STRICT;
CREATE TABLE dentry(
  parent INTEGER NOT NULL REFERENCES node(id),
  name TEXT NOT NULL,
  node INTEGER NOT NULL REFERENCES node(id),
  from_txn INTEGER NOT NULL,
  to_txn INTEGER NOT NULL DEFAULT 4611686018427387904 CHECK(to_txn > from_txn),
  PRIMARY KEY(parent, name, from_txn)
) STRICT, WITHOUT ROWID;
CREATE INDEX dentry_node ON dentry(node);
CREATE TABLE changed(
  node INTEGER NOT NULL REFERENCES node(id),
  txn INTEGER NOT NULL,
  PRIMARY KEY(node, txn)
) STRICT, WITHOUT ROWID;
CREATE INDEX changed_txn ON changed(txn);
CREATE TABLE replication(
  node INTEGER PRIMARY KEY REFERENCES node(id),
  replicas INTEGER NOT NULL CHECK(replicas >= 1)
) STRICT;
CREATE TABLE file(
  node INTEGER PRIMARY KEY REFERENCES node(id),
  size INTEGER NOT NULL CHECK(size >= 0),
  records INTEGER,
  records_mode TEXT NOT NULL CHECK(records_mode IN ('lines', 'none')),
  content_id BLOB NOT NULL,
  chunk_count INTEGER NOT NULL
) STRICT;
CREATE TABLE file_chunk(
  node INTEGER NOT NULL REFERENCES file(node),
  seq INTEGER NOT NULL,
  chunk BLOB NOT NULL CHECK(length(chunk) = 32),
  offset INTEGER NOT NULL,
  length INTEGER NOT NULL CHECK(length > 0),
  records INTEGER,
  continues INTEGER NOT NULL CHECK(continues IN (0, 1)),
  PRIMARY KEY(node, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO node VALUES (1, 'dir');
