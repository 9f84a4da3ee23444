package redfish_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
)

// What a service lists beside the cards from which a machine can boot is as in DMTF's mock-up of a rack server: a
// VLAN of one of them, and the way to the BMC.
func TestInventoryHasTheCardsOfTheMachine(t *testing.T) {
	t.Parallel()
	const nics = system + "/EthernetInterfaces"
	bodies := []string{
		`"Id": "NIC1", "MACAddress": "12:44:6A:3B:04:11", "LinkStatus": "LinkUp", "SpeedMbps": 1000,
			"EthernetInterfaceType": "Physical", "Status": {"State": "Enabled", "Health": "OK"}`,
		`"Id": "VLAN1", "MACAddress": "12:44:6a:3b:04:11", "VLAN": {"VLANEnable": true, "VLANId": 101}`,
		`"Id": "NIC2", "MACAddress": null, "PermanentMACAddress": "AA:BB:CC:DD:EE:00", "LinkStatus": "NoLink"`,
		`"Id": "ToManager", "MACAddress": "AA:BB:CC:DD:EE:FE", "Links": {"HostInterface":
			{"@odata.id": "/redfish/v1/Managers/BMC/HostInterfaces/1"}}`,
		`"Id": "Bridge", "MACAddress": "AA:BB:CC:DD:EE:01", "EthernetInterfaceType": "Virtual"`,
		`"Id": "NIC3", "MACAddress": "AA:BB:CC:DD:EE:02", "Status": {"State": "Disabled"}`,
		`"Id": "NIC4", "MACAddress": ""`,
	}
	answers := map[string]http.HandlerFunc{"GET " + system: text(200, `{"@odata.id": "`+system+`",
		"EthernetInterfaces": {"@odata.id": "`+nics+`"}}`)}
	members := ""
	for i, body := range bodies {
		path := fmt.Sprintf("%s/%d", nics, i)
		answers["GET "+path] = text(200, "{"+body+"}")
		members += `, {"@odata.id": "` + path + `"}`
	}
	answers["GET "+nics] = text(200, `{"Members": [`+members[2:]+`]}`)
	_, c := start(t, answers)
	s, err := c.System(t.Context(), system)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Inventory(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range got.NICs {
		names = append(names, n.Name+" "+n.MAC)
	}
	if !slices.Equal(names, []string{"NIC1 12:44:6A:3B:04:11", "NIC2 AA:BB:CC:DD:EE:00"}) ||
		*got.NICs[0].Linked == *got.NICs[1].Linked {
		t.Errorf("cards: %v", names)
	}
}
