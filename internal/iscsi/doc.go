// Package iscsi is an iSCSI initiator (RFC 7143) in user space: it logs in to one logical unit of
// one target and reads, writes and zeroes its blocks. It needs neither root nor a kernel module.
//
// It leaves to others what is on the disk (partitions, images) and discovery of targets (the
// caller knows address and name). Multiple connections and error recovery levels above zero are
// not negotiated.
//
// How it works: a Session has one link, which is one logged-in connection (link.go). Login is
// synchronous (login.go), then two goroutines own the connection. The reader (reader.go) takes
// PDUs off the wire, puts Data-In straight into the caller's memory and turns each R2T into an
// entry of the outbox. The writer (writer.go) sends the outbox, answers before new commands, and
// holds new commands back while the target's command window (RFC 7143 4.2.2.1) is shut. Callers
// only queue a task and wait for it, so any number of them may call at once. Data is sent from the
// caller's memory by vectored writes, never copied. A third goroutine (ping.go) asks a silent
// target whether it is alive.
//
// A lost link is replaced (reconnect.go), within Config.ReconnectTimeout, and each caller that has
// no answer yet repeats its command on the new one. That is right only if the same disk is there,
// in the same state. The same disk: size, block size, names, serial number and device
// identification are compared, and CHAP has to succeed. The same state: a target acknowledges
// writes that are in its memory only, so one that was restarted since may have forgotten what was
// written after the last Sync. Such a session ends with ErrLost, and the caller writes everything
// again; it goes on if nothing was written since the last Sync. How a restart is noticed is told
// at bearWitness. Before anything is repeated the unit is reset, so that nothing of the link before
// can still be under way. A target that cannot keep a reservation key and reports no reset either is
// trusted.
//
// Read first: Dial in dial.go, then do in session.go.
package iscsi
