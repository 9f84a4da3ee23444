CREATE TABLE bios_settings (
    node_id    BIGINT PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    settings   TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TABLE boot_files (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    source      TEXT NOT NULL,
    sha256      TEXT NOT NULL,
    name        TEXT NOT NULL DEFAULT '',
    size        BIGINT NOT NULL DEFAULT 0,
    etag        TEXT NOT NULL DEFAULT '',
    modified    TEXT NOT NULL DEFAULT '',
    wanted_at   BIGINT NOT NULL,
    fetcher     TEXT NOT NULL DEFAULT '',
    fetch_until BIGINT NOT NULL DEFAULT 0, checked_at BIGINT NOT NULL DEFAULT 0,
    UNIQUE (source, sha256)
);
CREATE TABLE conductors (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    hostname        TEXT NOT NULL,
    conductor_group TEXT NOT NULL,
    drivers         TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT
, incarnation TEXT NOT NULL DEFAULT '', address TEXT NOT NULL DEFAULT '', services TEXT NOT NULL DEFAULT '{}', version TEXT NOT NULL DEFAULT '', boot_tree TEXT NOT NULL DEFAULT '', draining BOOLEAN NOT NULL DEFAULT FALSE, load TEXT NOT NULL DEFAULT '{}', lease_of TEXT NOT NULL DEFAULT '');
CREATE UNIQUE INDEX conductors_hostname ON conductors (hostname);
CREATE TABLE inventories (
    node_id    BIGINT PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    inventory  TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TABLE journal (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    time    BIGINT NOT NULL,
    node    TEXT NOT NULL,
    mac     TEXT NOT NULL,
    attempt TEXT NOT NULL,
    source  TEXT NOT NULL,
    level   TEXT NOT NULL,
    text    TEXT NOT NULL,
    data    TEXT
);
CREATE INDEX journal_mac ON journal (mac, seq) WHERE node = '';
CREATE INDEX journal_node ON journal (node, seq);
CREATE TABLE journal_pending (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    time    BIGINT NOT NULL,
    node    TEXT NOT NULL,
    mac     TEXT NOT NULL,
    attempt TEXT NOT NULL,
    source  TEXT NOT NULL,
    level   TEXT NOT NULL,
    text    TEXT NOT NULL,
    data    TEXT
);
CREATE TABLE leases (
    mac        TEXT NOT NULL PRIMARY KEY,
    address    TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX leases_address ON leases (address);
CREATE TABLE locks (
    name   TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL
);
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
CREATE INDEX node_history_node_id ON node_history (node_id, id);
CREATE UNIQUE INDEX node_history_uuid ON node_history (uuid);
CREATE TABLE nodes (
    id                     INTEGER PRIMARY KEY AUTOINCREMENT,
    generation             BIGINT NOT NULL,
    uuid                   TEXT NOT NULL,
    name                   TEXT,
    chassis_uuid           TEXT,
    instance_uuid          TEXT,
    driver                 TEXT NOT NULL,
    owner                  TEXT,
    lessee                 TEXT,
    description            TEXT,
    resource_class         TEXT,
    conductor_group        TEXT NOT NULL,
    shard                  TEXT,
    parent_node            TEXT,
    instance_name          TEXT,
    driver_info            TEXT NOT NULL,
    driver_internal_info   TEXT NOT NULL,
    instance_info          TEXT NOT NULL,
    properties             TEXT NOT NULL,
    extra                  TEXT NOT NULL,
    network_data           TEXT NOT NULL,
    interfaces             TEXT NOT NULL,
    power_state            TEXT,
    target_power_state     TEXT,
    provision_state        TEXT NOT NULL,
    target_provision_state TEXT,
    provision_updated_at   BIGINT,
    last_error             TEXT,
    reservation            TEXT,
    maintenance            BOOLEAN NOT NULL,
    maintenance_reason     TEXT,
    fault                  TEXT,
    protected              BOOLEAN NOT NULL,
    protected_reason       TEXT,
    retired                BOOLEAN NOT NULL,
    retired_reason         TEXT,
    automated_clean        BOOLEAN,
    console_enabled        BOOLEAN NOT NULL,
    boot_mode              TEXT,
    secure_boot            BOOLEAN,
    boot_intent            TEXT NOT NULL,
    steps                  TEXT NOT NULL,
    step                   BIGINT NOT NULL,
    wait_until             BIGINT,
    attempt                TEXT,
    created_at             BIGINT NOT NULL,
    updated_at             BIGINT
, instance TEXT, traits TEXT NOT NULL DEFAULT '[]', bmc TEXT NOT NULL DEFAULT '');
CREATE INDEX nodes_bmc ON nodes (bmc) WHERE bmc <> '';
CREATE INDEX nodes_bucket ON nodes (substr(uuid, 34), id);
CREATE INDEX nodes_conductor_group ON nodes (conductor_group, id);
CREATE INDEX nodes_created_at ON nodes (created_at, id);
CREATE INDEX nodes_driver ON nodes (driver, id);
CREATE INDEX nodes_fault ON nodes (fault, id);
CREATE UNIQUE INDEX nodes_instance_uuid ON nodes (instance_uuid);
CREATE INDEX nodes_lessee ON nodes (lessee, id);
CREATE INDEX nodes_maintenance ON nodes (maintenance, id);
CREATE UNIQUE INDEX nodes_name ON nodes (name);
CREATE INDEX nodes_netboot ON nodes (id)
WHERE boot_intent IN ('deploy', 'inspect', 'instance', 'rescue');
CREATE INDEX nodes_owner ON nodes (owner, id);
CREATE INDEX nodes_parent_node ON nodes (parent_node, id);
CREATE INDEX nodes_power_state ON nodes (power_state, id);
CREATE INDEX nodes_provision_state ON nodes (provision_state, id);
CREATE INDEX nodes_provision_updated_at ON nodes (provision_updated_at, id);
CREATE INDEX nodes_reservation ON nodes (reservation, id);
CREATE INDEX nodes_resource_class ON nodes (resource_class, id);
CREATE INDEX nodes_shard ON nodes (shard, id);
CREATE INDEX nodes_updated_at ON nodes (updated_at, id);
CREATE UNIQUE INDEX nodes_uuid ON nodes (uuid);
CREATE INDEX nodes_wait_until ON nodes (wait_until, id);
CREATE TABLE ports (
    id                    INTEGER PRIMARY KEY AUTOINCREMENT,
    generation            BIGINT NOT NULL,
    uuid                  TEXT NOT NULL,
    node_id               BIGINT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    address               TEXT NOT NULL,
    name                  TEXT,
    pxe_enabled           BOOLEAN NOT NULL,
    physical_network      TEXT,
    is_smartnic           BOOLEAN NOT NULL,
    local_link_connection TEXT NOT NULL,
    extra                 TEXT NOT NULL,
    internal_info         TEXT NOT NULL,
    created_at            BIGINT NOT NULL,
    updated_at            BIGINT
);
CREATE UNIQUE INDEX ports_address ON ports (address);
CREATE INDEX ports_created_at ON ports (created_at, id);
CREATE UNIQUE INDEX ports_name ON ports (name);
CREATE INDEX ports_node_id ON ports (node_id, id);
CREATE INDEX ports_physical_network ON ports (physical_network, id);
CREATE INDEX ports_updated_at ON ports (updated_at, id);
CREATE UNIQUE INDEX ports_uuid ON ports (uuid);
CREATE TABLE schema_oldest (
			id INTEGER PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE schema_version (
		version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL);
CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
