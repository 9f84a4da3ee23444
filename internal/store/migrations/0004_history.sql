-- What went wrong with a node, and how its operations ended; the newest of them are kept.
CREATE TABLE node_history (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid       TEXT NOT NULL,
    node_id    BIGINT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    severity   TEXT NOT NULL,
    event_type TEXT NOT NULL,
    event      TEXT NOT NULL,
    conductor  TEXT NOT NULL
);
CREATE UNIQUE INDEX node_history_uuid ON node_history (uuid);
CREATE INDEX node_history_node_id ON node_history (node_id, id);
