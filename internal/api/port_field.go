package api

import (
	"slices"
	"time"

	"ingot/internal/ingot"
)

type port = ingot.Port

// portFields is the representation of a port, in the order of the wire.
var portFields = fields[port]{
	text("uuid", func(p *port) *string { return &p.UUID }).as(uuidOrNull).may(create).list(),
	moment("created_at", func(p *port) *time.Time { return &p.CreatedAt }),
	moment("updated_at", func(p *port) *time.Time { return p.UpdatedAt }),
	text("address", func(p *port) *string { return &p.Address }).
		as(schema{types: []string{"string"}, convert: mac}).may(both).must().list(),
	freeForm("extra", func(p *port) *ingot.Object { return &p.Extra }).may(both),
	freeForm("internal_info", func(p *port) *ingot.Object { return &p.InternalInfo }).since(18),
	flag("is_smartnic", func(p *port) *bool { return &p.IsSmartNIC }).since(53).may(both),
	freeForm("local_link_connection", func(p *port) *ingot.Object {
		return &p.LocalLinkConnection
	}).since(19).as(schema{types: []string{"null", "object"}, convert: localLink}).may(both),
	text("name", func(p *port) *string { return &p.Name }).since(88).may(both).limit(255),
	text("physical_network", func(p *port) *string { return &p.PhysicalNetwork }).since(34).
		may(both).limit(64),
	flag("pxe_enabled", func(p *port) *bool { return &p.PXEEnabled }).since(19).may(both).
		stored(func(p *port, v any) {
			enabled, given := v.(bool)
			p.PXEEnabled = enabled || !given // true is the default
		}),
	text("node_uuid", func(p *port) *string { return &p.NodeUUID }).
		as(schema{types: []string{"string"}, convert: uuid}).may(both).must(),
	computed("links", func(c *call, p *port) any { return c.links("ports", p.UUID) }).list(),
	computed("portgroup_uuid", func(*call, *port) any { return nil }).since(24).may(both).
		as(schema{types: []string{"string", "null"}, convert: noPortgroup}),
}

// noPortgroup refuses port groups: there are none to refer to.
func noPortgroup(_ string, v any) (any, error) {
	return nil, invalid("Portgroup %s could not be found.", pythonText(v))
}

// linkKeys are the members of local_link_connection.
var linkKeys = []string{"port_id", "switch_id", "switch_info", "hostname", "network_type"}

// localLink checks where a port is plugged in: empty, or an unmanaged network, or the port of a
// switch, or the port of a smart NIC.
func localLink(name string, v any) (any, error) {
	link, _ := v.(ingot.Object)
	for key, value := range link {
		if !slices.Contains(linkKeys, key) {
			return nil, schemaError(name, "Additional properties are not allowed ("+
				pythonQuote(key)+" was unexpected)")
		}
		if _, ok := value.(string); !ok {
			return nil, schemaError(name, pythonRepr(value)+" is not of type 'string'")
		}
	}
	kind, typed := link["network_type"]
	if typed && kind != "managed" && kind != "unmanaged" {
		return nil, schemaError(name, pythonRepr(kind)+" is not one of ['managed', 'unmanaged']")
	}
	has := func(key string) bool { return link[key] != nil }
	if len(link) == 0 || kind == "unmanaged" ||
		has("port_id") && (has("switch_id") || has("hostname")) {
		return link, nil
	}
	return nil, schemaError(name, "'port_id' and 'switch_id' (or 'hostname') are required "+
		"properties")
}
