// Package target is an iSCSI target for simulated machines (RFC 7143, SBC-3): one disk, any
// number of sessions of one connection each, CHAP. It is what a deploy ramdisk's kernel would be,
// for machines that have none, and small enough for hundreds in one process: a session costs one
// goroutine and one buffer.
//
// It shares no code with ingot's own initiator (package iscsi), so that each proves the other. It
// offers no digests and no recovery beyond a new login; targets of other people are what those
// are tested with. Read Serve first, then session.go.
package target

import (
	"context"
	"errors"
	"net"
	"sync"
)

// BlockSize is the logical block size in bytes.
const BlockSize = 512

// Disk is what is behind the target. Offsets and lengths are whole blocks inside the disk.
// Methods may be called concurrently by several sessions.
type Disk interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	// Zero makes n bytes read as zeros.
	Zero(off, n int64) error
	// Size is the capacity in bytes.
	Size() int64
}

// A Target serves a disk.
type Target struct {
	// Name is the iSCSI name, LUN the number of the disk.
	Name string
	LUN  uint64
	Disk Disk
	// User and Secret are for CHAP with MD5; without a user nobody is asked.
	User, Secret string
	// Serial is the unit serial number.
	Serial string
}

// Serve answers initiators until the context ends; then it closes the listener and all sessions
// and returns nil.
func (t *Target) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var sessions sync.WaitGroup
	defer sessions.Wait()
	defer cancel() // before the wait: sessions end with the listener
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return err
		}
		sessions.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			// How a session ended matters to the initiator, which knows it.
			_ = newSession(t, conn).run()
		})
	}
}

// errProtocol ends a session whose initiator does what it was told not to.
var errProtocol = errors.New("the initiator broke the iSCSI protocol")
