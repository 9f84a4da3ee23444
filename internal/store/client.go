package store

import (
	"context"
	"strings"
	"sync"
	"time"

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

// maxClients bounds how many clients are remembered.
const maxClients = 8192

// clients remembers rows by their generations, which every write changes: a look at the
// generations costs a tenth of reading the rows.
type clients struct {
	mu    sync.Mutex // guards known
	known map[string]known
}

type known struct {
	version version
	port    *ingot.Port
	node    *ingot.Node
}

// version is the state of a port's and its node's row. ids are never used again.
type version struct {
	port, portGeneration, node, nodeGeneration int64
}

// clientQuery has one row for every MAC. Generations are read anew each time.
const clientQuery = `SELECT coalesce(ports.id, 0), coalesce(ports.generation, 0),
		coalesce(nodes.id, 0), coalesce(nodes.generation, 0),
		coalesce(leases.address, ''), coalesce(leases.expires_at, 0)
	FROM (SELECT $1 AS mac) AS asked
	LEFT JOIN ports ON ports.address = asked.mac
	LEFT JOIN nodes ON nodes.id = ports.node_id
	LEFT JOIN leases ON leases.mac = asked.mac`

// Client returns what is known of a MAC. Nothing is no error.
func (s *Store) Client(ctx context.Context, mac string) (Client, error) {
	mac = strings.ToLower(mac)
	var v version
	var c Client
	var expires int64
	// A statement by itself is one snapshot. It is too short to be worth being interrupted, which
	// would take a goroutine.
	err := s.client.QueryRowContext(context.WithoutCancel(ctx), mac).Scan(&v.port,
		&v.portGeneration, &v.node, &v.nodeGeneration, &c.Lease.Address, &expires)
	if err != nil {
		return c, explain("look up client "+mac, err)
	}
	if c.Lease.Address != "" {
		c.Lease.MAC, c.Lease.Expires = mac, time.UnixMicro(expires).UTC()
	}
	if v.port == 0 {
		return c, nil
	}
	s.clients.mu.Lock()
	k, ok := s.clients.known[mac]
	s.clients.mu.Unlock()
	if !ok || k.version != v {
		// The rows are of this version or a later one; then the next look reads them again.
		k = known{version: v}
		k.node, k.port, err = s.Machine(ctx, mac)
		if ingot.KindOf(err) == ingot.NotFound {
			return c, nil // deleted just now
		}
		if err != nil {
			return c, err
		}
		s.clients.put(mac, k)
	}
	c.Port, c.Node = k.port, k.node
	return c, nil
}

func (l *clients) put(mac string, k known) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil || len(l.known) >= maxClients {
		l.known = map[string]known{}
	}
	l.known[mac] = k
}
