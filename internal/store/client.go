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
	// Port and Node are nil together, if nobody enrolled the MAC. They are shared by all
	// callers, who must not change them.
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
		if k, err = s.readClient(ctx, mac); err != nil {
			return c, err
		}
	}
	c.Port, c.Node = k.port, k.node
	return c, nil
}

// readClient reads the rows of a MAC and remembers them. No port, deleted just now, is no error.
func (s *Store) readClient(ctx context.Context, mac string) (k known, err error) {
	err = s.read(ctx, "read client "+mac, func(tx *tx) error {
		if k.port, err = findPort(ctx, tx, mac, "address"); err != nil {
			return err
		}
		k.node, err = findNode(ctx, tx, k.port.NodeUUID)
		return err
	})
	if ingot.KindOf(err) == ingot.NotFound {
		return known{}, nil
	}
	if err != nil {
		return known{}, err
	}
	k.version = version{k.port.ID, k.port.Generation, k.node.ID, k.node.Generation}
	s.clients.mu.Lock()
	defer s.clients.mu.Unlock()
	if s.clients.known == nil || len(s.clients.known) >= maxClients {
		s.clients.known = map[string]known{}
	}
	s.clients.known[mac] = k
	return k, nil
}

// prepare makes the statements that are used for each packet of a client.
func (s *Store) prepare(ctx context.Context) (err error) {
	s.client, err = s.reader.PrepareContext(ctx, clientQuery)
	return err
}
