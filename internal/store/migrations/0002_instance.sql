-- What the instance on a node boots over the network, JSON; NULL when it boots its disk.
ALTER TABLE nodes ADD COLUMN instance TEXT;
