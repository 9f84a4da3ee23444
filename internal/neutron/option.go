package neutron

import (
	"cmp"
	"context"
	"slices"

	"ingot/internal/ingot"
)

// Option is a DHCP option with which the network's DHCP answers a port.
type Option struct {
	// Name is a number, or one with a tag of dnsmasq in front: "67", "tag:!ipxe,67".
	Name, Value string
	Version     int // of IP; 0 is 4
}

// SetOptions makes these options the only ones of a port, as it was read, among those that have one of
// the names; options with other names stay. Nothing is sent if it is so already. The error is of kind
// Invalid for options that contradict each other.
func (c *Client) SetOptions(ctx context.Context, p *Port, names []string, want []Option) error {
	send, err := changes(p.Options, names, want)
	if err != nil || len(send) == 0 {
		return err
	}
	_, err = c.update(ctx, p.ID, "set the DHCP options of port "+p.ID, map[string]any{"extra_dhcp_opts": send})
	return err
}

// changes are what Neutron has to be sent to get from what it has to what is wished. It merges them by
// name and version with what it has; null removes one.
func changes(have []Option, names []string, want []Option) ([]map[string]any, error) {
	values := map[Option]string{} // by name and version
	var send []map[string]any
	for _, o := range want {
		value := o.Value
		o.Value, o.Version = "", cmp.Or(o.Version, 4)
		switch earlier, twice := values[o]; {
		case twice && earlier == value:
			continue
		case twice:
			// Neutron tries one like this for minutes, and then refuses it.
			return nil, ingot.Errorf(ingot.Invalid, "DHCP option %s has two values, %q and %q", o.Name,
				earlier, value)
		case value == "":
			return nil, ingot.Errorf(ingot.Invalid, "DHCP option %s has no value", o.Name)
		case !slices.Contains(names, o.Name):
			return nil, ingot.Errorf(ingot.Internal, "DHCP option %s is none of those that are taken back: %q",
				o.Name, names)
		}
		values[o] = value
		if !slices.Contains(have, Option{Name: o.Name, Value: value, Version: o.Version}) {
			send = append(send, option(o, value))
		}
	}
	for _, o := range have {
		o.Value = ""
		if _, wanted := values[o]; !wanted && slices.Contains(names, o.Name) {
			send = append(send, option(o, nil))
		}
	}
	return send, nil
}

func option(o Option, value any) map[string]any {
	return map[string]any{"opt_name": o.Name, "opt_value": value, "ip_version": o.Version}
}
