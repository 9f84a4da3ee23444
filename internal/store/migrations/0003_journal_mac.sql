-- By address alone only machines without a node are looked for. An index over all entries made
-- each of them a quarter more expensive.
DROP INDEX journal_mac;
CREATE INDEX journal_mac ON journal (mac, seq) WHERE node = '';
