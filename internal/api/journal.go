package api

import (
	"context"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/journal"
)

// maxWait bounds a long poll; clients ask again.
const maxWait = 60

// showJournal is an extension of ours: the timeline of a node after a sequence number. With
// wait=<seconds> the answer comes as soon as there is something, or empty when time is up.
func showJournal(c *call) (reply, error) {
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	after, err := c.queryInt("after", 0)
	if err != nil {
		return reply{}, err
	}
	limit, err := c.limit()
	if err != nil {
		return reply{}, err
	}
	wait, err := c.queryInt("wait", 0)
	if err != nil {
		return reply{}, err
	}
	query := journal.Query{Node: n.UUID, After: after, Limit: limit}
	entries, err := c.api.o.Journal.Query(c.Context(), query)
	if err == nil && len(entries) == 0 && wait > 0 {
		ctx, cancel := context.WithTimeout(c.Context(),
			time.Duration(min(wait, maxWait))*time.Second)
		defer cancel()
		err = c.api.o.Journal.Wait(ctx, n.UUID, after)
		switch {
		case err == nil:
			entries, err = c.api.o.Journal.Query(c.Context(), query)
		case ctx.Err() != nil:
			err = nil // time is up, or the service ends: nothing new, which is an answer
		}
	}
	if err != nil {
		return reply{}, err
	}
	return reply{body: object{{"journal", append([]ingot.Entry{}, entries...)}}}, nil
}
