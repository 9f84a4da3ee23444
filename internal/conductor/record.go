package conductor

import (
	"context"
	"time"
)

// recordAfter is how old that is which others put on record for a conductor: longer than entries are
// gathered before they are appended, and than a store is slow.
const recordAfter = 5 * time.Second

// recordPending completes the journals of nodes that a conductor changed which was killed before it
// wrote there why.
func (c *Conductor) recordPending(ctx context.Context) error {
	count, err := c.o.Store.RecordPending(ctx, c.o.Store.Now().Add(-recordAfter))
	if count > 0 {
		c.o.Log.Info("what a conductor that died had no time to put into the journal is there now",
			"entries", count)
	}
	return err
}
