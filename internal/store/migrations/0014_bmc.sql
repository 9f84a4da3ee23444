-- Where the BMC of a node is, as its conductor has found it last; '' is not known. It is no part of the node.
ALTER TABLE nodes ADD COLUMN bmc TEXT NOT NULL DEFAULT '';
CREATE INDEX nodes_bmc ON nodes (bmc) WHERE bmc <> '';
