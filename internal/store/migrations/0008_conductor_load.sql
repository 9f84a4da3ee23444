-- What a conductor has to do, as of its last heartbeat, JSON.
ALTER TABLE conductors ADD COLUMN load TEXT NOT NULL DEFAULT '{}';
