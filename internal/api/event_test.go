package api_test

import (
	"context"
	"strings"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/journal"
)

// bound is an event as Neutron sends it.
const bound = `{"event": "network.bind_port", "port_id": "` + portID + `",
	"mac_address": "52-54-00-00-00-01", "status": "ACTIVE", "device_id": "` + nodeID + `",
	"binding:host_id": "` + nodeID + `", "binding:vnic_type": "baremetal"}`

func TestAnEventOfNeutronIsInTheJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.addNode(nil)
	w.mustCreatePort(&ingot.Port{UUID: portID, NodeID: n.ID, Address: "52:54:00:00:00:01"})
	stranger := strings.Replace(bound, "00-01", "00-02", 1)
	w.at("1.54", "POST", "/v1/events", `{"events": [`+stranger+`, `+bound+`]}`).want(204)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it writes what there is, and ends
	if err := w.journal.Run(ctx); err != nil {
		t.Fatal(err)
	}
	entries, err := w.journal.Query(t.Context(), journal.Query{})
	if err != nil {
		t.Fatal(err)
	}
	const want = "Neutron says: network.bind_port of port " + portID + ", status ACTIVE"
	if len(entries) != 1 || entries[0].Node != nodeID || entries[0].Text != want {
		t.Errorf("journal %+v, want %q", entries, want)
	}
	w.at("1.53", "POST", "/v1/events", `{"events": [`+bound+`]}`).want(404)
}

func TestBadEventsAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	with := func(old, replacement string) string {
		return `{"events": [` + bound + `, ` + strings.Replace(bound, old, replacement, 1) + `]}`
	}
	for _, c := range []struct{ body, text string }{
		{`{}`, "Schema error for events: 'events' is a required property"},
		{`{"events": {}}`, "Schema error for events: {} is not of type 'array'"},
		{`{"events": []}`, "Schema error for events: [] is too short"},
		{`{"events": [1]}`, "Schema error for events: 1 is not of type 'object'"},
		{with("bind_port", "bind"), "Schema error for events: 'network.bind' is not one of " +
			"['network.bind_port', 'network.unbind_port', 'network.delete_port']"},
		{with(`"status": "ACTIVE", `, ""), "Schema error for events: 'status' is a required property"},
		{with("52-54", "52"), "Expected valid MAC address for mac_address: 52-00-00-00-01"},
		{with(portID, "x"), "Expected UUID for port_id: x"},
		{with("device_id", "device"), "Schema error for events: Additional properties are not allowed " +
			"('device' was unexpected)"},
	} {
		w.do("POST", "/v1/events", c.body).refused(400, c.text)
	}
}
