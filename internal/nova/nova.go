// Package nova tells Nova of an OpenStack cloud that a machine of one of its servers was switched on
// or off, so that it does not find a difference and act against it. Nobody waits for Nova: what it
// could not be told it finds out itself, when it next compares power states.
//
// Read Notifier first.
package nova

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"ingot/internal/ingot"
	"ingot/internal/keystone"
)

// microversion is the first one of Nova with power-update events.
const microversion = "2.76"

// Change is a machine that was switched on or off.
type Change struct {
	Node   string // UUID, for the journal
	Server string // UUID of the server of Nova that is on the machine
	State  ingot.PowerState
}

// tags are Nova's names of power states.
var tags = map[ingot.PowerState]string{ingot.PowerOn: "POWER_ON", ingot.PowerOff: "POWER_OFF"}

// Client asks one Nova. Its methods may be called concurrently.
type Client struct{ service *keystone.Service }

// New returns a client of the Nova that a session finds. at is its URL, "" if the catalog knows it.
func New(s *keystone.Session, at string) *Client {
	return &Client{s.Service("Nova", "compute", at)}
}

// event is a Change on the wire, and Nova's answer to it.
type event struct {
	Name   string `json:"name"`
	Server string `json:"server_uuid"`
	Tag    string `json:"tag"`
	Code   int    `json:"code,omitempty"`
}

type events struct {
	Events []event `json:"events"`
}

// errNone says that the cloud has no Nova.
var errNone = ingot.Errorf(ingot.NotFound, "the cloud has no Nova")

// tell sends changes of different servers in one request. refused has an error for each change that Nova
// did not take, by server; err is that of the request, errNone if nobody can be asked.
func (c *Client) tell(ctx context.Context, changes []Change) (refused map[string]error, err error) {
	if _, err := c.service.URL(ctx); ingot.KindOf(err) == ingot.Invalid {
		return nil, fmt.Errorf("%w: %w", errNone, err)
	}
	sent := events{make([]event, len(changes))}
	for i, one := range changes {
		sent.Events[i] = event{Name: "power-update", Server: one.Server, Tag: tags[one.State]}
	}
	var answer events
	err = c.service.Do(ctx, "tell of power states", func(client *gophercloud.ServiceClient) error {
		if !strings.Contains(client.Endpoint, "/v2") {
			client.Endpoint += "v2.1/"
		}
		client.Microversion = microversion
		_, err := client.Post(ctx, client.ServiceURL("os-server-external-events"), sent, &answer,
			&gophercloud.RequestOpts{OkCodes: []int{http.StatusOK, http.StatusMultiStatus}})
		return err
	})
	if err != nil {
		return nil, err
	}
	refused = map[string]error{}
	for _, e := range answer.Events {
		switch {
		case e.Code == http.StatusNotFound:
			refused[e.Server] = ingot.Errorf(ingot.NotFound, "Nova has no server %s", e.Server)
		case e.Code >= http.StatusBadRequest:
			refused[e.Server] = ingot.Errorf(ingot.Conflict, "Nova answers %d for server %s; 422 says that "+
				"no compute service has it", e.Code, e.Server)
		}
	}
	return refused, nil
}
