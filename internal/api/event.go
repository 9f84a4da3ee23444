package api

import (
	"fmt"
	"net/http"
	"slices"

	"ingot/internal/ingot"
)

// eventMinor is the first microversion with events.
const eventMinor = 54

// event is what Neutron tells of one of its ports.
type event struct {
	name, portID, mac, status string
	device, host, vnicType    string
}

// eventFields is what an event may have.
var eventFields = fields[event]{
	text("event", func(e *event) *string { return &e.name }).
		as(schema{types: []string{"string"}, convert: eventName}).may(create).must(),
	text("port_id", func(e *event) *string { return &e.portID }).
		as(schema{types: []string{"string"}, convert: uuid}).may(create).must(),
	text("mac_address", func(e *event) *string { return &e.mac }).
		as(schema{types: []string{"string"}, convert: mac}).may(create).must(),
	text("status", func(e *event) *string { return &e.status }).
		as(schema{types: []string{"string"}}).may(create).must(),
	text("device_id", func(e *event) *string { return &e.device }).as(uuidOrNull).may(create),
	text("binding:host_id", func(e *event) *string { return &e.host }).as(uuidOrNull).may(create),
	text("binding:vnic_type", func(e *event) *string { return &e.vnicType }).may(create),
}

var eventNames = []string{"network.bind_port", "network.unbind_port", "network.delete_port"}

func eventName(_ string, v any) (any, error) {
	if name, _ := v.(string); !slices.Contains(eventNames, name) {
		return nil, schemaError("events", pythonRepr(v)+" is not one of ["+pythonList(eventNames)+"]")
	}
	return v, nil
}

// postEvents takes what Neutron tells of its ports. Nobody waits for it; it is put into the journal of
// the machine that it is about.
func postEvents(c *call) (reply, error) {
	events, err := c.decodeEvents()
	if err != nil {
		return reply{}, err
	}
	for _, e := range events {
		c.api.o.Log.DebugContext(c.Context(), "event", "event", e.name, "port", e.portID, "mac", e.mac,
			"status", e.status, "device", e.device, "host", e.host, "type", e.vnicType)
		if err := c.record(e); err != nil {
			return reply{}, err
		}
	}
	return reply{status: http.StatusNoContent}, nil
}

// decodeEvents reads the events of the body. One that is wrong refuses all.
func (c *call) decodeEvents() ([]*event, error) {
	args, err := c.decodeArgs("events")
	if err != nil {
		return nil, err
	}
	list, ok := args["events"].([]any)
	switch {
	case args["events"] == nil:
		return nil, schemaError("events", "'events' is a required property")
	case !ok:
		return nil, schemaError("events", pythonRepr(args["events"])+" is not of type 'array'")
	case len(list) == 0:
		return nil, schemaError("events", "[] is too short")
	}
	events := make([]*event, len(list))
	for i, v := range list {
		values, err := eventFields.check("events", v, create)
		if err != nil {
			return nil, err
		}
		events[i] = &event{}
		eventFields.apply(events[i], values)
	}
	return events, nil
}

// record tells the node whose port has the address, if there is one and somebody keeps a journal.
func (c *call) record(e *event) error {
	if c.api.o.Journal == nil {
		return nil
	}
	n, _, err := c.api.o.Store.Machine(c.Context(), e.mac)
	switch {
	case ingot.KindOf(err) == ingot.NotFound:
		return nil
	case err != nil:
		return err
	}
	c.api.o.Journal.Add(ingot.Entry{Node: n.UUID, MAC: e.mac, Source: "network", Level: ingot.LevelInfo,
		Text: fmt.Sprintf("Neutron says: %s of port %s, status %s", e.name, e.portID, e.status)})
	return nil
}
