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
	// again is how often it tells all later on: whoever has missed that, or was told by one that stood still in
	// the midst of telling.
	again = 30 * time.Second
	// rest is for how long a host that cannot add the address leaves it to others.
	rest = 30 * time.Second
)

// Lock is who holds the address, in the store. Its methods may run twice.
type Lock interface {
	// Take tells whether this conductor has it now. After an error it may have it.
	Take(ctx context.Context) (bool, error)
	// Give ends that, also if this conductor does not have it.
	Give(ctx context.Context) error
}

// Holder holds the address while it is this conductor's turn. All fields but Interface are needed.
type Holder struct {
	Address netip.Addr // IPv4
	// Interface is where the address goes if it is of a network there. "", or of none: the one that has the smallest
	// network with it.
	Interface string
	Lock      Lock
	// Left is how long this conductor may act, 0 or less if others may take over: it renews nothing beyond.
	Left func() time.Duration
	// Lease ends when Left is over.
	Lease func() context.Context
	// Willing tells whether it shall hold the address: one that is about to stop does not.
	Willing func() bool
	Log     *slog.Logger

	link  *net.Interface
	mine  bool      // the lock may be this conductor's
	kept  bool      // though it was to be given back, and the log has it
	since time.Time // when the address was added; zero: it is not held
	told  time.Time // when all were told the last time
	// failed says that the address could not be added, and that the log has it; it is not tried before next.
	failed bool
	next   time.Time
}

// Check tells why the address cannot be held on this host, as far as can be told beforehand.
func (h *Holder) Check() (err error) {
	if h.link, err = interfaceOf(h.Address, h.Interface); err != nil {
		return ingot.Errorf(ingot.Invalid, "boot.service_address: %w", err)
	}
	// To take away what nobody has takes the same right as to add it.
	err = netlink.RemoveAddress(h.link.Index, netip.PrefixFrom(netip.IPv4Unspecified(), 32))
	if errors.Is(err, unix.EPERM) {
		return ingot.Errorf(ingot.Invalid, "boot.service_address: %s (doc/cluster.md): %w", missing(err), err)
	}
	if err := announcing(h.link); err != nil {
		return ingot.Errorf(ingot.Invalid, "boot.service_address: nobody can be told that %s is here; %s (doc/cluster.md): %w",
			h.Address, missing(err), err)
	}
	return nil
}

// missing is what to do about a refusal of the kernel.
func missing(err error) string {
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return "give this service the address family AF_PACKET (RestrictAddressFamilies of its unit)"
	}
	return "give this service the capabilities CAP_NET_ADMIN and CAP_NET_RAW"
}

// Run holds the address until ctx ends, and then gives it up. The error is only of a host that has it by itself.
func (h *Holder) Run(ctx context.Context) error {
	if err := h.free(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	defer func() { h.give(context.WithoutCancel(ctx), "this conductor stops") }()
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
	switch {
	case !h.Willing():
		h.give(ctx, "it is left to other conductors")
		return
	case !h.connected():
		h.give(ctx, "the interface has no link")
		return
	case time.Now().Before(h.next):
		h.give(ctx, "it could not be added")
		return
	case h.stay() <= 0:
		h.drop("the lease of this conductor is about to end")
		return
	}
	asking, cancel := context.WithTimeout(ctx, pace)
	held, err := h.Lock.Take(asking)
	cancel()
	h.mine = held || err != nil
	switch {
	case err != nil && h.since.IsZero():
		return // the store is away, which others say
	case !h.mine:
		h.drop("another conductor has it")
		return
	}
	// With an error the lease, which is not renewed then either, says for how long the lock is good.
	h.hold(ctx)
}

// hold adds the address, or renews it, and tells all where it is. The process may have stood still at any line
// before, so each step asks anew how much of the lease is left.
func (h *Holder) hold(ctx context.Context) {
	stay := h.stay()
	if stay <= 0 {
		h.drop("the lease of this conductor is about to end")
		return
	}
	if err := netlink.AddAddress(h.link.Index, h.prefix(), stay); err != nil {
		h.fail(ctx, err)
		return
	}
	h.failed, h.kept = false, false
	if h.since.IsZero() {
		h.since, h.told = time.Now(), time.Time{}
		h.Log.Info("holding the service address", "address", h.Address, "interface", h.link.Name)
	}
	if time.Since(h.since) >= announced && time.Since(h.told) < again {
		return
	}
	if h.stay() <= 0 {
		h.drop("the lease of this conductor is about to end")
		return
	}
	h.told = time.Now()
	if err := announce(h.link, h.Address); err != nil {
		h.Log.Warn("nobody is told that the service address is here now; they find out by themselves", "error", err)
	}
}

// stay is for how long the kernel may keep the address, of whole seconds; 0 or less: not at all.
func (h *Holder) stay() time.Duration { return min(life, h.Left()).Truncate(time.Second) }

// connected tells whether the interface has a network at its other end. It may be another one of that name now.
func (h *Holder) connected() bool {
	link, err := net.InterfaceByName(h.link.Name)
	if err != nil {
		return false
	}
	h.link = link
	return link.Flags&net.FlagRunning != 0
}

// fail says that this host cannot hold the address; another one may.
func (h *Holder) fail(ctx context.Context, err error) {
	if !h.failed {
		remedy := "see what `ip address` says of " + h.link.Name
		if errors.Is(err, unix.EPERM) {
			remedy = missing(err)
		}
		h.Log.Error("the service address cannot be added; "+remedy, "address", h.Address, "error", err)
	}
	h.failed, h.next = true, time.Now().Add(rest)
	h.give(ctx, "it could not be added")
}

// give leaves the address to others. It is called again and again until the lock is given back, too.
func (h *Holder) give(ctx context.Context, why string) {
	h.drop(why)
	if !h.mine {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, life)
	defer cancel()
	if err := h.Lock.Give(ctx); err != nil {
		if !h.kept {
			h.Log.Warn("nobody has the service address until its lock is given back, which is tried again", "error", err)
		}
		h.kept = true
		return
	}
	h.mine, h.kept = false, false
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

// interfaceOf is the interface that has a network with an address in it: the named one if it has, else the one
// whose network is the smallest.
func interfaceOf(a netip.Addr, name string) (best *net.Interface, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	bits, own := -1, ""
	for _, link := range all {
		for _, p := range prefixes(&link) {
			switch {
			case p.Addr() == a:
				own = link.Name
			case p.Contains(a) && link.Name == name:
				return &link, nil
			case p.Contains(a) && p.Bits() > bits:
				best, bits = &link, p.Bits()
			}
		}
	}
	switch {
	case best != nil:
		return best, nil
	case own != "":
		return nil, ingot.Errorf(ingot.Invalid, "%s is the only address of its network that this host has, on interface "+
			"%s: give it another one, and choose one here that no host has", a, own)
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
