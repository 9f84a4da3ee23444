// Package vip has one of several conductors hold an address on its network interface: who asks there finds one
// that lives. Who it is the store decides, by a lock that is worth as much as its holder's lease; that the
// address goes with the process the kernel sees to, which is told each second that it may stay three more. Who
// is killed, stopped or frozen loses the address without anybody's help.
//
// Read Holder first. What is served at the address is for others, on all hosts alike.
package vip

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/ingot"
	"ingot/internal/netlink"
)

const (
	// pace is how often the address is renewed by who has it, and looked after by the others.
	pace = time.Second
	// life is for how long the kernel keeps it without being told. Two times in a row may be late.
	life = 3 * time.Second
	// late is by how much the kernel may be late to remove it.
	late = time.Second
	// announced is for how long a new holder tells all each second: who had it before may answer, too,
	// until its kernel has removed it, and whoever asks in between has to be told again.
	announced = 10 * time.Second
)

// Lock is who holds the address, in the store. Its methods may run twice.
type Lock interface {
	// Take tells whether this conductor has it now.
	Take(ctx context.Context) (bool, error)
	Give(ctx context.Context) error
}

// Holder holds the address while it is this conductor's turn. All fields are needed.
type Holder struct {
	Address netip.Addr // IPv4
	Lock    Lock
	// Left is how long this conductor may act, 0 or less if others may take over: it renews nothing beyond.
	Left func() time.Duration
	// Lease ends when Left is over.
	Lease func() context.Context
	// Willing tells whether it shall hold the address: one that is about to stop does not.
	Willing func() bool
	Log     *slog.Logger

	link   *net.Interface
	since  time.Time // when it was taken; zero: it is not held
	failed bool      // and the log has it
}

// Check tells why the address cannot be held on this host, as far as can be told beforehand.
func (h *Holder) Check() (err error) {
	if h.link, err = interfaceOf(h.Address); err != nil {
		return ingot.Errorf(ingot.Invalid, "boot.service_address: %w", err)
	}
	return nil
}

// Run holds the address until ctx ends, and then gives it up. The error is only of a host that has it by itself.
func (h *Holder) Run(ctx context.Context) error {
	if err := h.free(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), life)
		defer cancel()
		h.give(ctx)
	}()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		h.look(ctx)
		var over <-chan struct{}
		if !h.since.IsZero() {
			over = h.Lease().Done()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-over:
			h.drop("the lease of this conductor has ended")
		case <-tick.C:
		}
	}
}

// free waits until the kernel has removed what a killed process before this one has left. An address that stays
// is the host's own.
func (h *Holder) free(ctx context.Context) error {
	for begun := time.Now(); has(h.link, h.Address); {
		if time.Since(begun) > life+2*late {
			return ingot.Errorf(ingot.Invalid, "boot.service_address %s is an address of this host's interface %s: choose one "+
				"that no host has, and take it out of the host's configuration", h.Address, h.link.Name)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pace / 4):
		}
	}
	return nil
}

// look does what is to be done now.
func (h *Holder) look(ctx context.Context) {
	if !h.Willing() {
		h.give(ctx)
		return
	}
	stay := min(life, h.Left()).Truncate(time.Second)
	if stay <= 0 {
		h.drop("the lease of this conductor is about to end")
		return
	}
	asking, cancel := context.WithTimeout(ctx, pace)
	held, err := h.Lock.Take(asking)
	cancel()
	switch {
	case err != nil && h.since.IsZero():
		return // the store is away, which others say
	case err == nil && !held:
		h.drop("another conductor has it")
		return
	}
	// With an error the lease, which is not renewed then either, says for how long the lock is good.
	if err := netlink.AddAddress(h.link.Index, h.prefix(), stay); err != nil {
		h.fail(ctx, err)
		return
	}
	h.failed = false
	if h.since.IsZero() {
		h.since = time.Now()
		h.Log.Info("holding the service address", "address", h.Address, "interface", h.link.Name)
	}
	if time.Since(h.since) < announced {
		if err := announce(h.link, h.Address); err != nil {
			h.Log.Warn("nobody is told that the service address is here now; they find out by themselves", "error", err)
		}
	}
}

// fail says that this host cannot hold the address; another one may.
func (h *Holder) fail(ctx context.Context, err error) {
	if !h.failed {
		remedy := "see what `ip address` says of " + h.link.Name
		if errors.Is(err, unix.EPERM) {
			remedy = "give this service the capability CAP_NET_ADMIN"
		}
		h.Log.Error("the service address cannot be added; "+remedy, "address", h.Address, "error", err)
	}
	h.failed = true
	h.give(ctx)
}

// give leaves the address to others.
func (h *Holder) give(ctx context.Context) {
	held := !h.since.IsZero()
	h.drop("it is given up")
	if !held && !h.failed {
		return
	}
	if err := h.Lock.Give(ctx); err != nil {
		h.Log.Warn("the lock of the service address is given back when the lease ends", "error", err)
	}
}

// drop removes the address.
func (h *Holder) drop(why string) {
	if h.since.IsZero() {
		return
	}
	h.since = time.Time{}
	h.Log.Info("not holding the service address any more", "address", h.Address, "why", why)
	err := netlink.RemoveAddress(h.link.Index, h.prefix())
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		h.Log.Error("the service address is removed by the kernel", "after", life, "error", err)
	}
}

// prefix is the address alone: the routes of the interface, and what this host calls itself, stay as they are.
func (h *Holder) prefix() netip.Prefix { return netip.PrefixFrom(h.Address, 32) }

// interfaceOf is the interface that has a network with an address in it.
func interfaceOf(a netip.Addr) (*net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, link := range all {
		for _, p := range prefixes(&link) {
			if p.Addr() != a && p.Contains(a) {
				return &link, nil
			}
		}
	}
	return nil, ingot.Errorf(ingot.Invalid, "no interface of this host has a network with %s; `ip -br address` shows "+
		"those that it has", a)
}

func has(link *net.Interface, a netip.Addr) bool {
	for _, p := range prefixes(link) {
		if p.Addr() == a {
			return true
		}
	}
	return false
}

func prefixes(link *net.Interface) (list []netip.Prefix) {
	addresses, err := link.Addrs()
	if err != nil && !os.IsNotExist(err) {
		return nil
	}
	for _, at := range addresses {
		if p, err := netip.ParsePrefix(at.String()); err == nil {
			list = append(list, p)
		}
	}
	return list
}
