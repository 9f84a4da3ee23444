-- What one conductor at a time has or does. A lock is its holder's, an incarnation, for as long as that lives.
CREATE TABLE locks (
    name   TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL
);
