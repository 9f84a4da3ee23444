-- When an old row was last found to be in use, so that the nodes are not searched for it each time.
ALTER TABLE boot_files ADD COLUMN checked_at BIGINT NOT NULL DEFAULT 0;
