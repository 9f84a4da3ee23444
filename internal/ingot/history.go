package ingot

import "time"

// Severity is the wire string of what an entry of a node's history is.
type Severity string

// Severities.
const (
	SeverityError Severity = "ERROR"
	SeverityInfo  Severity = "INFO"
)

// History is one entry of a node's history: an error, or how an operation ended. It outlasts
// last_error, and is written in one transaction with it. The journal tells the steps between.
type History struct {
	ID        int64
	UUID      string
	NodeID    int64
	CreatedAt time.Time
	Severity  Severity
	Type      string // "provisioning", "power"...
	Event     string // what happened
	Conductor string // host name
}
