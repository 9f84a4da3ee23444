package ingot

import "time"

// Entry is one line of a node's journal: something the machine did or was told.
type Entry struct {
	Seq     int64     `json:"seq"` // grows; given by the store
	Time    time.Time `json:"time"`
	Node    string    `json:"node"`              // UUID; "" for machines nobody knows
	MAC     string    `json:"mac,omitempty"`     // where only the MAC is known
	Attempt string    `json:"attempt,omitempty"` // Attempt.ID
	// Source is who saw it: dhcp, tftp, http, script, agent, step, power, bmc, iscsi, image,
	// state, api, network.
	Source string `json:"source"`
	// Level is info, warning or error.
	Level string `json:"level"`
	Text  string `json:"text"` // one sentence for a person
	// Data holds figures for programs: bytes, rate, eta, url, device...
	Data Object `json:"data,omitempty"`
	// Pending is its number among those that are on record with the change of a node, and have no
	// place in the journal yet; 0 for others.
	Pending int64 `json:"-"`
}

// DataServer is the key of Data under which the server is that a machine goes on with: the
// Incarnation of its conductor.
const DataServer = "server"

// Levels of an Entry.
const (
	LevelInfo    = "info"
	LevelWarning = "warning"
	LevelError   = "error"
)

// Keys of Data in entries of the source script that are read again. A machine that waits in the line
// for its boot files is not silent, and what it waited is not its fault.
const (
	// DataPlace is the place in the line, from 1, of a machine that waits.
	DataPlace = "place"
	// DataWaited is how many seconds a machine waited that was let in.
	DataWaited = "waited_seconds"
)
