package direct

import (
	"time"

	"ingot/internal/ingot"
)

// NeedsFirmware is needsFirmware.
func NeedsFirmware(n *ingot.Node, networked bool) string { return needsFirmware(n, networked) }

// ContentPath is contentPath.
var ContentPath = contentPath

// SetDigestWithin is how long a digest may take.
func (d *Deploy) SetDigestWithin(t time.Duration) { d.digestWithin = t }
