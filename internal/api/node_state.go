package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/rpc"
)

func showStates(c *call) (reply, error) {
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	return reply{body: stateFields.project(c, n, full)}, nil
}

// accepted is 202 with the place where the change shows.
func accepted(n *node) reply {
	return reply{status: http.StatusAccepted, location: "/v1/nodes/" + n.UUID + "/states"}
}

// powerTargets are the power actions and the first microversion of each.
var powerTargets = map[ingot.PowerState]int{ingot.PowerOn: 1, ingot.PowerOff: 1,
	ingot.Rebooting: 1, ingot.SoftReboot: softMinor, ingot.SoftPowerOff: softMinor}

// softMinor is the first microversion with soft power actions and timeouts.
const softMinor = 27

func setPowerState(c *call) (reply, error) {
	args, err := c.decodeArgs("target", "timeout")
	if err != nil {
		return reply{}, err
	}
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	word, err := mandatoryText(args, "target")
	if err != nil {
		return reply{}, err
	}
	target := ingot.PowerState(word)
	if c.minor < powerTargets[target] || c.minor < softMinor && args["timeout"] != nil {
		return reply{}, notAcceptable()
	}
	timeout, err := seconds(args["timeout"])
	if err != nil {
		return reply{}, err
	}
	if powerTargets[target] == 0 {
		return reply{}, notPossible(word, c.PathValue("ident"), string(n.PowerState))
	}
	// A machine that is being cleaned must not lose power in the middle.
	if contains([]lifecycle.State{lifecycle.Cleaning, lifecycle.CleanWait}, n.ProvisionState) {
		return reply{}, notPossible(word, c.PathValue("ident"), n.ProvisionState)
	}
	err = c.api.o.Conductor.SetPower(c.Context(), n.UUID,
		rpc.PowerRequest{Target: target, Timeout: timeout})
	if err != nil {
		return reply{}, err
	}
	return accepted(n), nil
}

// firmwareMinor is the first microversion in which boot mode and Secure Boot can be set.
const firmwareMinor = 76

func setBootMode(c *call) (reply, error) {
	n, target, err := c.firmwareTarget()
	if err != nil {
		return reply{}, err
	}
	mode, _ := target.(string)
	if mode != "uefi" && mode != "bios" {
		return reply{}, invalid("Invalid boot mode %s specified; target is 'uefi' or 'bios'", pythonText(target))
	}
	if err := c.api.o.Conductor.SetBootMode(c.Context(), n.UUID, mode); err != nil {
		return reply{}, err
	}
	return accepted(n), nil
}

func setSecureBoot(c *call) (reply, error) {
	n, target, err := c.firmwareTarget()
	if err != nil {
		return reply{}, err
	}
	on, err := boolean("target", target)
	if err != nil {
		return reply{}, err
	}
	if err := c.api.o.Conductor.SetSecureBoot(c.Context(), n.UUID, on.(bool)); err != nil {
		return reply{}, err
	}
	return accepted(n), nil
}

// firmwareTarget reads what the firmware of a machine is to be. On the way from one state to another it is left
// alone.
func (c *call) firmwareTarget() (*node, any, error) {
	args, err := c.decodeArgs("target")
	if err != nil {
		return nil, nil, err
	}
	n, err := c.pathNode()
	if err != nil {
		return nil, nil, err
	}
	if args["target"] == nil {
		return nil, nil, invalid("Missing mandatory parameter: target")
	}
	if !lifecycle.Rests(lifecycle.State(n.ProvisionState)) {
		return nil, nil, ingot.Errorf(ingot.Conflict, "Node %s is in state %s: how its firmware boots is not changed "+
			"on the way. Try again when it is over.", n.UUID, n.ProvisionState)
	}
	return n, args["target"], nil
}

// maxTimeout bounds the time a caller may ask a conductor to wait for a power action.
const maxTimeout = 24 * time.Hour

func seconds(v any) (time.Duration, error) {
	if v == nil {
		return 0, nil
	}
	n, err := json.Number(pythonText(v)).Int64()
	switch {
	case err != nil:
		return 0, invalid("Expected an integer for timeout: %s", pythonText(v))
	case n < 1:
		return 0, invalid("timeout has to be positive integer")
	case n > int64(maxTimeout/time.Second):
		return 0, invalid("timeout has to be at most %d seconds", maxTimeout/time.Second)
	}
	return time.Duration(n) * time.Second, nil
}

// notPossible is Ironic's InvalidStateRequested.
func notPossible(action, node, state string) error {
	return invalid(`The requested action "%s" can not be performed on node "%s" while it is in `+
		`state "%s".`, action, node, or(state, "None"))
}

func setMaintenance(c *call) (reply, error) {
	args, err := c.decodeArgs("reason")
	if err != nil {
		return reply{}, err
	}
	reason, err := textArg(args, "reason")
	if err != nil {
		return reply{}, err
	}
	_, err = c.changeNode(rpc.UpdateOptions{}, func(n *node) error {
		n.Maintenance, n.MaintenanceReason = true, reason
		return nil
	})
	return reply{status: http.StatusAccepted}, err
}

func clearMaintenance(c *call) (reply, error) {
	_, err := c.changeNode(rpc.UpdateOptions{}, func(n *node) error {
		n.Maintenance, n.MaintenanceReason, n.Fault = false, "", ""
		return nil
	})
	return reply{status: http.StatusAccepted}, err
}

// validationOrder is how Ironic orders the results; kinds it does not name come after.
var validationOrder = []string{"boot", "deploy", "management", "network", "power", "bios",
	"console", "inspect", "raid", "rescue", "storage"}

func validateNode(c *call) (reply, error) {
	ident := c.PathValue("ident")
	if ident == "" {
		ident = or(c.query.Get("node_uuid"), c.query.Get("node"))
	}
	if ident == "" {
		return reply{}, invalid("Missing mandatory parameter: node")
	}
	n, err := c.allowedNode(ident)
	if err != nil {
		return reply{}, err
	}
	results, err := c.api.o.Conductor.Validate(c.Context(), n.UUID)
	if err != nil {
		return reply{}, err
	}
	kinds := slices.Clone(validationOrder)
	for _, kind := range slices.Sorted(maps.Keys(results)) {
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	var body object
	for _, kind := range kinds {
		if r, ok := results[kind]; ok {
			body = append(body, member{kind, r})
		}
	}
	return reply{body: body}, nil
}

func showBootDevice(c *call) (reply, error) {
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	d, err := c.api.o.Conductor.BootDevice(c.Context(), n.UUID)
	if err != nil {
		return reply{}, err
	}
	return reply{body: object{{"boot_device", nullable(d.Device)}, {"persistent", d.Persistent}}},
		nil
}

func setBootDevice(c *call) (reply, error) {
	args, err := c.decodeArgs("boot_device", "persistent")
	if err != nil {
		return reply{}, err
	}
	device, err := mandatoryText(args, "boot_device")
	if err != nil {
		return reply{}, err
	}
	d := rpc.BootDevice{Device: device}
	if v := args["persistent"]; v != nil {
		b, err := boolean("persistent", v)
		if err != nil {
			return reply{}, err
		}
		d.Persistent = b.(bool)
	}
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	if err := c.api.o.Conductor.SetBootDevice(c.Context(), n.UUID, d); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusNoContent}, nil
}

func listBootDevices(c *call) (reply, error) {
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	devices, err := c.api.o.Conductor.SupportedBootDevices(c.Context(), n.UUID)
	if err != nil {
		return reply{}, err
	}
	return reply{body: object{{"supported_boot_devices", append([]string{}, devices...)}}}, nil
}
