-- What others have to know of a conductor: where it is and what it offers.
ALTER TABLE conductors ADD COLUMN incarnation TEXT NOT NULL DEFAULT '';
ALTER TABLE conductors ADD COLUMN address TEXT NOT NULL DEFAULT '';
ALTER TABLE conductors ADD COLUMN services TEXT NOT NULL DEFAULT '{}';
ALTER TABLE conductors ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE conductors ADD COLUMN boot_tree TEXT NOT NULL DEFAULT '';
ALTER TABLE conductors ADD COLUMN draining BOOLEAN NOT NULL DEFAULT FALSE;
-- What all who share the store have in common, such as the key of their mesh.
CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
-- What a conductor owns is found by the end of the UUIDs, see package ring.
CREATE INDEX nodes_bucket ON nodes (substr(uuid, 34), id);
