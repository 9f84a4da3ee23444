-- What is to be put into the journal and is on record with the change of a node that it is about, so
-- that it is not lost with a process that is killed in between.
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
