-- Whose heartbeat updated_at is, where another process has taken the name since; '' is the incarnation's own.
ALTER TABLE conductors ADD COLUMN lease_of TEXT NOT NULL DEFAULT '';
