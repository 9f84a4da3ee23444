-- What was found in a machine when it was inspected last, as JSON.
CREATE TABLE inventories (
    node_id    BIGINT PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    inventory  TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);
