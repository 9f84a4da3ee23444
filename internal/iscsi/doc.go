// Package iscsi is an iSCSI initiator (RFC 7143) in user space: it logs in to one logical unit of
// one target and reads, writes and zeroes its blocks. It needs neither root nor a kernel module.
//
// It leaves to others what is on the disk (partitions, images), discovery of targets (the caller
// knows address and name), and starting again after a lost connection: a session that is lost
// stays lost, every call in flight gets an error that matches ErrLost, and the caller dials anew.
// Header and data digests, mutual CHAP, multiple connections and error recovery levels above
// zero are not negotiated.
//
// How it works: Dial logs in synchronously (login.go), then two goroutines own the connection.
// The reader (reader.go) takes PDUs off the wire, puts Data-In straight into the caller's memory
// and turns each R2T into an entry of the outbox. The writer (writer.go) sends the outbox,
// answers before new commands, and holds new commands back while the target's command window
// (RFC 7143 4.2.2.1) is shut. Callers only queue a task and wait for it, so any number of them
// may call at once. Data is sent from the caller's memory by vectored writes, never copied.
//
// Read first: Dial in dial.go, then do in session.go.
package iscsi
