package store

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"ingot/internal/ingot"
)

// machine is a row of the join of a port and its node.
type machine struct {
	node ingot.Node
	port ingot.Port
}

// machineColumns are the columns of Machine. Every one costs: a fifth of them is read in a third
// of the time.
var machineColumns = slices.Concat(
	bootColumns(&nodes, func(m *machine) *ingot.Node { return &m.node }),
	bootColumns(&ports, func(m *machine) *ingot.Port { return &m.port }))

// bootColumns lists the columns of a table that boot answers need.
func bootColumns[T any](t *table[T], in func(*machine) *T) []column[machine] {
	var list []column[machine]
	for _, c := range t.columns {
		if c.use.has(boot) {
			list = append(list, column[machine]{name: t.name + "." + c.name,
				at: func(m *machine) any {
					if o, ok := c.at(in(m)).(document[ingot.Object]); ok {
						return bootObject{o}
					}
					return c.at(in(m))
				}})
		}
	}
	return list
}

// bootMembers are the members of objects that boot answers use, as they are in JSON.
var bootMembers = []string{`"kernel_append_params"`, `"root_device"`, `"ip_address"`}

// bootObject decodes an object only if it may have one of bootMembers. Few have, and to decode
// those of one node costs as much as to read it.
type bootObject struct{ document[ingot.Object] }

func (o bootObject) Scan(src any) error {
	text, ok := src.(string)
	if ok && !slices.ContainsFunc(bootMembers, func(name string) bool {
		return strings.Contains(text, name)
	}) {
		*o.v = ingot.Object{}
		return nil
	}
	return o.document.Scan(src)
}

// machines is the statement of Machine.
var machines = (&table[machine]{columns: machineColumns,
	name: "ports JOIN nodes ON nodes.id = ports.node_id"}).selectFrom() +
	" WHERE ports.address = $1"

// Machine returns the port with that address and its node, NotFound if there is none. Every DHCP
// packet and every boot script needs them, so they have only the fields that those use: of the
// node UUID, Name, Driver, DriverInfo, InstanceInfo, Properties, Interfaces, ProvisionState,
// LastError, BootIntent, Attempt and Instance; of the port Address, PXEEnabled and Extra. Objects have at
// least the members kernel_append_params, root_device and ip_address. Neither can be stored again.
//
// It is one prepared statement outside of a transaction, a snapshot by itself, and does not
// watch ctx, which would cost two more goroutines and a fifth of the time.
func (s *Store) Machine(ctx context.Context, mac string) (*ingot.Node, *ingot.Port, error) {
	m := new(machine)
	into := make([]any, len(machineColumns))
	for i, c := range machineColumns {
		into[i] = c.at(m)
	}
	err := s.machine.QueryRowContext(context.WithoutCancel(ctx), strings.ToLower(mac)).Scan(into...)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil, ingot.Errorf(ingot.NotFound, "No node has a port with MAC address %s.",
			mac)
	case err != nil:
		return nil, nil, explain("read machine "+mac, err)
	}
	return &m.node, &m.port, nil
}
