package driver

import (
	"regexp"
	"strings"

	"ingot/internal/ingot"
)

// Identity is how one kind of BMC tells which machine it belongs to. Addresses are given to other
// machines, and whoever switches by address alone switches off a stranger.
type Identity struct {
	// Key names the machine: in driver_info what a person says, in driver_internal_info what its BMC
	// said first.
	Key  string
	Name string // for people: "system GUID"
	// Address is the key of driver_info to check when it is another machine.
	Address string
}

// anyMachine is the value of Identity.Key with which machines are not compared.
const anyMachine = "any"

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Said is what a person says which machine it is; "" if nothing. Invalid if it cannot be one.
func (i Identity) Said(n *ingot.Node) (string, error) {
	said := strings.ToLower(Text(n.DriverInfo, i.Key))
	if said != "" && said != anyMachine && !uuidForm.MatchString(said) {
		return "", ingot.Errorf(ingot.Invalid, "driver_info %s of node %s is %q; it must be a UUID or %q",
			i.Key, n.UUID, said, anyMachine)
	}
	return said, nil
}

// MachineUUID is a UUID that a BMC tells, in the form in which they are compared; "" if it is none, or was
// never set: all digits are 0 or f then.
func MachineUUID(text string) string {
	id := strings.ToLower(strings.TrimSpace(text))
	if !uuidForm.MatchString(id) || strings.Trim(id, "0-") == "" || strings.Trim(id, "f-") == "" {
		return ""
	}
	return id
}

// Forget makes the next machine the first one.
func (i Identity) Forget(n *ingot.Node) { delete(n.DriverInternalInfo, i.Key) }

// Compare compares the machine, whose UUID ask reads from the BMC, with the one on record; the first one
// is put on record. A BMC that has none ("") proves nothing and is believed.
func (i Identity) Compare(t *Task, bmc string, ask func() (string, error)) error {
	known, err := i.Said(t.Node)
	if err != nil || known == anyMachine {
		return err
	}
	id, err := ask()
	if err != nil || id == "" {
		return err
	}
	if known == "" {
		known = Text(t.Node.DriverInternalInfo, i.Key)
	}
	switch known {
	case id:
		return nil
	case "":
		if t.Node.DriverInternalInfo == nil {
			t.Node.DriverInternalInfo = ingot.Object{}
		}
		t.Node.DriverInternalInfo[i.Key] = id
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "BMC %s belongs to another machine: its %s is %s, "+
		"that of node %s is %s. Nothing was done to it. Check %s; if it is the node's "+
		"machine with a new main board, tell so with: baremetal node set %s --driver-info %s=%s",
		bmc, i.Name, id, t.Node.UUID, known, i.Address, t.Node.UUID, i.Key, id)
}
