package api

import (
	"net/http"

	"ingot/internal/ingot"
	"ingot/internal/policy"
	"ingot/internal/rpc"
)

// vifMinor is the first microversion with VIFs.
const vifMinor = 28

func listVIFs(c *call) (reply, error) {
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	ids, err := c.api.o.Conductor.VIFs(c.Context(), n.UUID)
	if err != nil {
		return reply{}, err
	}
	vifs := make([]object, len(ids))
	for i, id := range ids {
		vifs[i] = object{{"id", id}}
	}
	return reply{body: object{{"vifs", vifs}}}, nil
}

func attachVIF(c *call) (reply, error) {
	body, err := c.decode()
	if err != nil {
		return reply{}, err
	}
	v, err := asVIF(c.minor, body)
	if err != nil {
		return reply{}, err
	}
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	if !c.who.May(policy.NodeVIFAttach) {
		v.Project = c.who.Project // it may be a tenant, who has the node but not all of the cloud's ports
	}
	if err := c.api.o.Conductor.AttachVIF(c.Context(), n.UUID, v); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusNoContent}, nil
}

// asVIF reads what is to be attached. As in Ironic it may have members that mean nothing here.
func asVIF(minor int, body any) (v rpc.VIF, err error) {
	o, ok := body.(ingot.Object)
	switch {
	case !ok:
		return v, schemaError("vif", pythonRepr(body)+" is not of type 'object'")
	case o["id"] == nil:
		return v, schemaError("vif", "'id' is a required property")
	case o["port_uuid"] != nil && o["portgroup_uuid"] != nil:
		return v, invalid("Cannot specify both port_uuid and portgroup_uuid")
	case o["portgroup_uuid"] != nil:
		_, err := noPortgroup("portgroup_uuid", o["portgroup_uuid"])
		return v, err
	}
	if v.ID, err = vifID(minor, "id", o["id"]); err != nil || o["port_uuid"] == nil {
		return v, err
	}
	port, err := uuid("port_uuid", o["port_uuid"])
	if err != nil {
		return v, err
	}
	v.PortUUID = port.(string)
	return v, nil
}

// vifID checks the name of a VIF, mostly the UUID of a port of Neutron. Name is what messages call it.
func vifID(minor int, name string, v any) (string, error) {
	id, ok := v.(string)
	switch {
	case ok && isUUID(id):
		return canonicalUUID(id), nil
	case !ok || !validName(minor, id):
		return "", invalid("Expected UUID or name for %s: %s", name, pythonText(v))
	}
	return id, nil
}

func detachVIF(c *call) (reply, error) {
	id, err := vifID(c.minor, "vif_id", c.PathValue("vif"))
	if err != nil {
		return reply{}, err
	}
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	if err := c.api.o.Conductor.DetachVIF(c.Context(), n.UUID, id); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusNoContent}, nil
}
