package store

import (
	"context"
	"strings"
	"sync"

	"ingot/internal/ingot"
)

// A Client is what the rows say of who asks for an address.
type Client struct {
	// Port and Node are what Machine returns, nil together if nobody enrolled the MAC. They are
	// shared by all callers, who must not change them.
	Port *ingot.Port
	Node *ingot.Node
	// Lease is the lease of the MAC, also an expired one; the zero value if there is none.
	Lease ingot.Lease
}

// Client returns what is known of a MAC. Nothing is no error.
func (s *Store) Client(ctx context.Context, mac string) (Client, error) {
	mac = strings.ToLower(mac)
	var c Client
	var err error
	if c.Lease, err = s.knownLease(ctx, mac); err != nil {
		return c, err
	}
	c.Node, c.Port, err = s.Machine(ctx, mac)
	if ingot.KindOf(err) == ingot.NotFound {
		err = nil
	}
	return c, err
}

// leaseMemory has all leases by MAC, as they are in the rows: to read one costs more than the rest
// of an answer. It holds where this Store is the only one that writes them, see machines.
type leaseMemory struct {
	writing sync.Mutex // held from before a change of leases until it is remembered

	mu    sync.RWMutex           // guards known
	known map[string]ingot.Lease // nil: to be read
}

// knownLease returns the lease of a MAC, the zero value if there is none.
func (s *Store) knownLease(ctx context.Context, mac string) (ingot.Lease, error) {
	if s.shared {
		lease, err := s.Lease(ctx, mac)
		if ingot.KindOf(err) == ingot.NotFound {
			return ingot.Lease{}, nil
		}
		return lease, err
	}
	l := &s.leases
	l.mu.RLock()
	lease, read := l.known[mac], l.known != nil
	l.mu.RUnlock()
	if read {
		return lease, nil
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	all, err := s.Leases(ctx)
	if err != nil {
		return lease, err
	}
	known := make(map[string]ingot.Lease, len(all))
	for _, lease := range all {
		known[lease.MAC] = lease
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known = known
	return known[mac], nil
}

// writeLeases runs fn as writeBeside does and remembers its changes; what it removes is of the zero
// value. After an error, which may be one of a commit that happened, the rows have to tell.
func (s *Store) writeLeases(ctx context.Context, doing string,
	fn func(tx *tx, changed map[string]ingot.Lease) error) error {
	l := &s.leases
	l.writing.Lock()
	defer l.writing.Unlock()
	changed := map[string]ingot.Lease{}
	err := s.writeBeside(ctx, doing, func(tx *tx) error {
		clear(changed)
		return fn(tx, changed)
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		l.known = nil
	case l.known != nil:
		for mac, lease := range changed {
			if l.known[mac] = lease; lease == (ingot.Lease{}) {
				delete(l.known, mac)
			}
		}
	}
	return err
}
