-- The settings of a machine's firmware as they were read last, as a list in JSON.
CREATE TABLE bios_settings (
    node_id    BIGINT PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    settings   TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);
