package store

import (
	"context"
	"strings"
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
	moment := s.machines.now()
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
	m := s.machines.get(mac)
	if m.like == nil || m.version != v {
		// The rows are of this version or a later one.
		m, err = s.readMachine(ctx, mac, moment)
		if ingot.KindOf(err) == ingot.NotFound {
			return c, nil // deleted just now
		}
		if err != nil {
			return c, err
		}
	}
	c.Node, c.Port, err = m.rows()
	return c, err
}
