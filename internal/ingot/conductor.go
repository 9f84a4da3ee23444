package ingot

import "time"

// Conductor is the row with which a conductor says that it lives and what it can do.
type Conductor struct {
	ID        int64
	Hostname  string
	Group     string
	Drivers   []Driver
	Alive     bool // computed by the store: heartbeat younger than the lease
	CreatedAt time.Time
	UpdatedAt *time.Time // last heartbeat
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
