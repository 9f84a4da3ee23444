package iscsi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"
)

const (
	// maxRedirects ends a chain of targets that point to one another.
	maxRedirects = 4
	// readyInterval is how long to wait before asking again a disk that is becoming ready.
	readyInterval = 250 * time.Millisecond
)

// Dial connects to the target, logs in, waits until the disk is ready and learns its size. It
// follows redirections. It fails with a *LoginError if the target refuses, and ends with ctx or
// Config.DialTimeout, whichever is first. The session must be closed.
func Dial(ctx context.Context, cfg Config) (*Session, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.DialTimeout,
		fmt.Errorf("%s did not answer within %v; check that it is an iSCSI portal: %w",
			cfg.Address, cfg.DialTimeout, context.DeadlineExceeded))
	defer cancel()
	s := &Session{cfg: cfg, isid: newISID(), slots: make(chan struct{}, cfg.QueueDepth),
		first: make(chan struct{}, 1)}
	if s.link, err = dialLink(ctx, cfg, s.isid); err != nil {
		return nil, err
	}
	if s.disk, err = s.link.learn(ctx); err == nil {
		err = s.bearWitness(ctx)
	}
	if err != nil {
		_ = s.link.close(ctx) // the session is of no use; err says why
		return nil, fmt.Errorf("use LUN %d of %s at %s: %w", cfg.LUN, cfg.Target, cfg.Address, err)
	}
	s.link.reset.Store(false) // whatever happened before us
	s.zeroing.Store(int32(s.disk.zeroing))
	return s, nil
}

// dialLink connects and logs in, and follows redirections.
func dialLink(ctx context.Context, cfg Config, isid [6]byte) (*link, error) {
	for range maxRedirects {
		l, err := connect(ctx, cfg, isid)
		var moved *LoginError
		if errors.As(err, &moved) && moved.Class == 1 && moved.MovedTo != "" {
			cfg.Address = portal(moved.MovedTo)
			continue
		}
		return l, err
	}
	return nil, fmt.Errorf("iSCSI target %s redirects more than %d times, last to %s; "+
		"check the target's portals", cfg.Target, maxRedirects, cfg.Address)
}

// portal takes the portal group tag off a TargetAddress and adds the default port (RFC 7143 13.8).
func portal(address string) string {
	if i := strings.LastIndexByte(address, ','); i >= 0 {
		address = address[:i]
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), defaultPort)
	}
	return address
}

// reach opens the connection. A network that leads nowhere may be one whose cable is out, here or
// there, and is tried again: unlike a refusal that says nothing of the target.
func reach(ctx context.Context, address string) (net.Conn, error) {
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if ctx.Err() != nil && err != nil {
			return nil, context.Cause(ctx)
		}
		if !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-time.After(readyInterval):
		}
	}
}

// connect opens the connection and logs in.
func connect(ctx context.Context, cfg Config, isid [6]byte) (*link, error) {
	conn, err := reach(ctx, cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to iSCSI target %s: %w; check address and port, "+
			"and that the target is running", cfg.Target, err)
	}
	// The login reads and writes the connection directly: a context that ends closes it.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	l, p, err := negotiate(conn, cfg, isid)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = tune(conn, cfg)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("log in to %s at %s: %w", cfg.Target, cfg.Address, err)
	}
	return newLink(cfg, l, p), nil
}

// learn waits until the disk is ready and asks what it is. No other call is in flight yet.
func (l *link) learn(ctx context.Context) (d disk, err error) {
	buf := make([]byte, inquiryLen)
	n, err := l.do(ctx, task{op: "inquiry", cdb: inquiryCDB(), in: buf})
	if err != nil {
		return d, err
	}
	if err := d.parseInquiry(buf[:n]); err != nil {
		return d, err
	}
	if err := l.awaitReady(ctx); err != nil {
		return d, err
	}
	buf = make([]byte, capacityLen)
	n, err = l.do(ctx, task{op: "read capacity", cdb: capacityCDB(), in: buf})
	if err != nil {
		return d, err
	}
	if err := d.parseCapacity(buf[:n]); err != nil {
		return d, err
	}
	return d, l.learnPages(ctx, &d)
}

// awaitReady asks the disk whether it is ready until it says yes, or no for good.
func (l *link) awaitReady(ctx context.Context) error {
	for {
		_, err := l.do(ctx, task{op: "test unit ready", cdb: [16]byte{cdbTestUnitReady}})
		var sense *SenseError
		becoming := errors.As(err, &sense) && sense.Key == SenseNotReady &&
			sense.ASC == 0x04 && sense.ASCQ == 0x01
		if !becoming {
			return err
		}
		timer := time.NewTimer(readyInterval)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// learnPages reads the vital product data that tells which disk it is and bounds transfers and
// zeroing. Disks need not have it.
func (l *link) learnPages(ctx context.Context, d *disk) error {
	d.zeroing = zeroTrial
	supported, err := l.vpd(ctx, vpdSupported)
	if err != nil {
		return err
	}
	for _, page := range []byte{vpdSerial, vpdIdentity, vpdBlockLimits, vpdProvisioning} {
		if !bytes.Contains(supported, []byte{page}) {
			continue
		}
		content, err := l.vpd(ctx, page)
		if err != nil {
			return err
		}
		switch page {
		case vpdSerial:
			d.serial = ascii(content)
		case vpdIdentity:
			d.designators = content
		case vpdBlockLimits:
			d.parseLimits(content)
		case vpdProvisioning:
			d.parseProvisioning(content)
		}
	}
	return nil
}

// vpd reads one page of vital product data; nil if the disk does not have it.
func (l *link) vpd(ctx context.Context, page byte) ([]byte, error) {
	buf := make([]byte, vpdLen)
	op := fmt.Sprintf("inquiry of page %02xh", page)
	n, err := l.do(ctx, task{op: op, cdb: vpdCDB(page), in: buf})
	var sense *SenseError
	if errors.As(err, &sense) && sense.Key == SenseIllegalRequest {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return vpdPage(page, buf[:n]), nil
}
