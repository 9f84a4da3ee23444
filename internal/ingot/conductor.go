package ingot

import (
	"slices"
	"time"

	"ingot/internal/ring"
)

// Conductor is the row with which a conductor says that it lives and what it can do.
type Conductor struct {
	ID       int64
	Hostname string
	Group    string
	Drivers  []Driver
	// Incarnation is another one for each process: of two with one name the second is refused.
	Incarnation string
	// Address is the IP address at which machines and other conductors find it (S0.12).
	Address string
	// Services has host:port or URL of what it offers, keyed by one of the constants below.
	Services map[string]string
	Version  string // of the program
	BootTree string // digest of the boot files it can serve
	// Draining tells that it shall own no node any more.
	Draining  bool
	Alive     bool // computed by the store: heartbeat younger than the lease
	CreatedAt time.Time
	UpdatedAt *time.Time // last heartbeat
}

// Keys of Conductor.Services.
const (
	ServiceAPI  = "api"  // URL
	ServiceBoot = "boot" // URL of scripts and boot files
	ServiceBus  = "bus"  // host:port of the mesh
)

// Owner returns the host name of the conductor that works on a node, "" if none can: of those that
// are alive, in its group and have its hardware type. All who see the same conductors agree.
func Owner(conductors []*Conductor, n *Node) string {
	var able []string
	for _, c := range conductors {
		if c.Alive && !c.Draining && c.Group == n.ConductorGroup && c.Has(n.Driver) {
			able = append(able, c.Hostname)
		}
	}
	return ring.Owner(ring.Bucket(n.UUID), able)
}

// Has tells whether a hardware type is enabled there.
func (c *Conductor) Has(driver string) bool {
	return slices.ContainsFunc(c.Drivers, func(d Driver) bool { return d.Name == driver })
}

// Driver describes a hardware type as one conductor has it enabled.
type Driver struct {
	Name string `json:"name"`
	// Default and Enabled are keyed by interface kind: "power", "boot"...
	Default map[string]string   `json:"default"`
	Enabled map[string][]string `json:"enabled"`
	// Properties are the driver_info keys it understands, with a help text each.
	Properties map[string]string `json:"properties"`
}
