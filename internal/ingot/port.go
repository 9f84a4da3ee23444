package ingot

import "time"

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

// Lease binds an IPv4 address to a MAC on the provisioning network until Expires. Leases live
// in the store so that any conductor can renew any lease.
type Lease struct {
	Address string // IPv4, dotted
	MAC     string
	Expires time.Time
}
