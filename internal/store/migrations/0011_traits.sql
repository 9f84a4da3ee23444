-- What a machine has to offer, a JSON list of names.
ALTER TABLE nodes ADD COLUMN traits TEXT NOT NULL DEFAULT '[]';
