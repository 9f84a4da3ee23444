package ingot

import (
	"strings"
	"time"
)

// Port is one network interface of a node; Address is its MAC, lower case with colons.
type Port struct {
	ID         int64
	Generation int64

	UUID                string
	NodeID              int64
	NodeUUID            string
	Address             string
	Name                string
	PXEEnabled          bool
	PhysicalNetwork     string
	IsSmartNIC          bool
	LocalLinkConnection Object
	Extra               Object
	InternalInfo        Object

	CreatedAt time.Time
	UpdatedAt *time.Time
}

// Keys of InternalInfo: the ids of the ports of Neutron that a port has, in the network of its instance and
// in that on which it is deployed. Named as in Ironic.
const (
	TenantVIF       = "tenant_vif_port_id"
	ProvisioningVIF = "provisioning_vif_port_id"
)

// VIF returns the id of the port of Neutron that p has, "" if none, and what for.
func (p *Port) VIF() (id, use string) {
	for _, key := range []string{ProvisioningVIF, TenantVIF} {
		if id, _ := p.InternalInfo[key].(string); id != "" {
			return id, strings.TrimSuffix(key, "_vif_port_id")
		}
	}
	return "", ""
}

// Lease binds an IPv4 address to a MAC on the provisioning network until Expires. Leases live
// in the store so that any conductor can renew any lease.
type Lease struct {
	Address string // IPv4, dotted
	MAC     string
	Expires time.Time
}
