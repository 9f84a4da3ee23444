package direct

import "time"

// ContentPath is contentPath.
var ContentPath = contentPath

// SetDigestWithin is how long a digest may take.
func (d *Deploy) SetDigestWithin(t time.Duration) { d.digestWithin = t }
