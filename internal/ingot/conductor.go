package ingot

import (
	"fmt"
	"slices"
	"strings"
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
	Load     Load   // as of the last heartbeat
	// Draining tells that it shall own no node any more.
	Draining  bool
	Alive     bool // computed by the store: heartbeat younger than the lease
	CreatedAt time.Time
	UpdatedAt *time.Time // last heartbeat
}

// Load is how much a conductor has to do, and how much it can do at once.
type Load struct {
	// Busy are the workers that are at work, of Workers.
	Busy    int `json:"busy"`
	Workers int `json:"workers"`
	// Copying are the images that are being written, of Copies; Waiting are the nodes in line for it.
	Copying int `json:"copying"`
	Copies  int `json:"copies"`
	Waiting int `json:"waiting"`
}

// Keys of Conductor.Services.
const (
	ServiceBoot = "boot" // URL of scripts and boot files
	ServiceBus  = "bus"  // host:port of the mesh
	ServiceTree = "tree" // URL at which it acknowledges what its tree on disk shows; "" is no such tree
	// ServiceMedia is the URL of virtual media at an address that one of several has at a time; "" is no
	// such address, or that it cannot make media.
	ServiceMedia = "media"
)

// Owner returns the host name of the conductor that works on a node, "" if none can: of those that
// are alive, in its group and have its hardware type. All who see the same conductors agree.
func Owner(conductors []*Conductor, n *Node) string {
	return ring.Owner(ring.Bucket(n.UUID), able(conductors, n.ConductorGroup, n.Driver))
}

// able are the host names of those that can work on a group's nodes with a driver.
func able(conductors []*Conductor, group, driver string) []string {
	var names []string
	for _, c := range conductors {
		if c.Alive && !c.Draining && c.Group == group && c.Has(driver) {
			names = append(names, c.Hostname)
		}
	}
	return names
}

// Serving returns the conductors that can serve machines of a hardware type, any if it is "": what
// DHCP may point at is the Address of each of them (S0.11). Group and draining do not matter, for a
// machine is told what is in its row.
func Serving(conductors []*Conductor, driver string) []*Conductor {
	var able []*Conductor
	for _, c := range conductors {
		if c.Alive && c.Services[ServiceBoot] != "" && (driver == "" || c.Has(driver)) {
			able = append(able, c)
		}
	}
	return able
}

// Takes tells whether a conductor shall take its turn with the address of the media URL: one that is drained, or
// that cannot make media and so has no such service, leaves it to the others, if there are any.
func Takes(conductors []*Conductor, hostname, media string) bool {
	i := slices.IndexFunc(conductors, func(c *Conductor) bool { return c.Hostname == hostname })
	if i < 0 || !conductors[i].Draining && conductors[i].Services[ServiceMedia] == media {
		return true
	}
	return !slices.ContainsFunc(conductors, func(c *Conductor) bool {
		return c.Alive && !c.Draining && c.Services[ServiceMedia] == media
	})
}

// A Share is a part of the nodes of one conductor group: those with one of the drivers, in one of
// the buckets (ring.Bucket); nil is all of them, while none is none.
type Share struct {
	Drivers []string
	Buckets []string
}

// Shares returns what a conductor owns in its group, as a query can select it; none if it is not
// there or does not work. What Owner says of a node and this agree.
func Shares(conductors []*Conductor, hostname string) (group string, shares []Share) {
	i := slices.IndexFunc(conductors, func(c *Conductor) bool { return c.Hostname == hostname })
	if i < 0 || !conductors[i].Alive || conductors[i].Draining {
		return "", nil
	}
	own := conductors[i]
	with := map[string]int{} // index of the share whose drivers these conductors have
	for _, d := range own.Drivers {
		able := able(conductors, own.Group, d.Name)
		slices.Sort(able)
		key := strings.Join(able, "\n")
		if i, known := with[key]; known {
			shares[i].Drivers = append(shares[i].Drivers, d.Name)
			continue
		}
		s := Share{Drivers: []string{d.Name}}
		for i := 0; len(able) > 1 && i < ring.Buckets; i++ {
			if bucket := fmt.Sprintf("%03x", i); ring.Owner(bucket, able) == hostname {
				s.Buckets = append(s.Buckets, bucket)
			}
		}
		if len(able) > 1 && s.Buckets == nil {
			s.Buckets = []string{} // others own all of them
		}
		with[key] = len(shares)
		shares = append(shares, s)
	}
	return own.Group, shares
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
