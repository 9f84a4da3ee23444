-- What machines may boot and every conductor keeps: sha256 is '' in the row that says that nodes
-- name the source, and a digest in those that say what it had. fetcher is the conductor that asks
-- the source for it until fetch_until.
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
    fetch_until BIGINT NOT NULL DEFAULT 0,
    UNIQUE (source, sha256)
);
-- What the nodes there are name already.
INSERT INTO boot_files (source, sha256, wanted_at)
SELECT source, '', 0 FROM (
    SELECT driver_info ->> 'deploy_kernel' AS source FROM nodes
    UNION SELECT driver_info ->> 'deploy_ramdisk' FROM nodes
) AS named WHERE length(source) BETWEEN 1 AND 500;
