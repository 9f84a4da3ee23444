package api

import (
	"net/http"
	"slices"
	"strings"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/netboot"
	"ingot/internal/rpc"
)

// The microversions of what agents in ramdisks call.
const (
	ramdiskMinor      = 22
	agentVersionMinor = 36
	agentTokenMinor   = 62
	agentCAMinor      = 68
	agentStatusMinor  = 72
)

const (
	// heartbeatTimeout is within how many seconds an agent has to send a heartbeat; it takes a third of it
	// or a half.
	heartbeatTimeout = 300
	// maxAddresses of one machine are looked at.
	maxAddresses = 64
)

// errUnknownRamdisk is the answer to whoever runs on no machine that an agent is awaited from. It is the
// same for nodes that are not there and for those in another state.
var errUnknownRamdisk = ingot.Errorf(ingot.NotFound, "Resource could not be found.")

// lookUp tells an agent which node it runs on, and gives out its token.
func lookUp(c *call) (reply, error) {
	uuid, err := c.ramdiskNode()
	if err != nil {
		return reply{}, err
	}
	n, err := c.api.o.Store.Node(c.Context(), uuid)
	if ingot.KindOf(err) == ingot.NotFound {
		return reply{}, errUnknownRamdisk
	}
	if err != nil {
		return reply{}, err
	}
	if info, _ := lifecycle.InfoOf(lifecycle.State(n.ProvisionState)); !info.Lookup || n.Attempt == nil ||
		n.Attempt.Agent == nil {
		return reply{}, errUnknownRamdisk
	}
	var token any // older agents know of none, and are not heard
	if c.minor >= agentTokenMinor {
		given, err := c.api.o.Conductor.AgentToken(c.Context(), n.UUID)
		if ingot.KindOf(err) == ingot.NotFound {
			return reply{}, errUnknownRamdisk
		}
		if err != nil {
			return reply{}, err
		}
		token = given
	}
	return reply{body: object{
		{"node", object{
			{"uuid", n.UUID},
			{"properties", mask(n.Properties)},
			{"instance_info", maskInstance(n.InstanceInfo)},
			{"driver_internal_info", mask(n.DriverInternalInfo)},
			{"links", c.links("nodes", n.UUID)},
		}},
		{"config", agentConfig(token)},
	}}, nil
}

// ramdiskNode is the UUID of the node that the query is about. One that names none that is known is about
// none that is awaited.
func (c *call) ramdiskNode() (string, error) {
	asked := strings.ToLower(c.query.Get("node_uuid"))
	if asked != "" && !ingot.IsUUID(asked) {
		return "", invalid("Expected UUID for node_uuid: %s", asked)
	}
	var macs []string
	for text := range strings.SplitSeq(c.query.Get("addresses"), ",") {
		mac, err := netboot.ParseMAC(strings.TrimSpace(text))
		if err == nil && !slices.Contains(macs, mac) && len(macs) < maxAddresses {
			macs = append(macs, mac)
		}
	}
	switch {
	case asked != "":
		return asked, nil
	case len(macs) == 0:
		return "", invalid("At least one of 'addresses' and 'node_uuid' parameters is required")
	}
	var found string
	for _, mac := range macs {
		n, _, err := c.api.o.Store.Machine(c.Context(), mac)
		switch {
		case ingot.KindOf(err) == ingot.NotFound:
			continue
		case err != nil:
			return "", err
		case found != "" && found != n.UUID: // a machine is one node
			return "", errUnknownRamdisk
		}
		found = n.UUID
	}
	if found == "" {
		return "", errUnknownRamdisk
	}
	return found, nil
}

// agentConfig is what an agent is told of the installation, with Ironic's members and defaults.
func agentConfig(token any) object {
	return object{
		{"metrics", object{
			{"backend", "noop"}, {"prepend_host", false}, {"prepend_uuid", false},
			{"prepend_host_reverse", true}, {"global_prefix", nil},
		}},
		{"metrics_statsd", object{{"statsd_host", "localhost"}, {"statsd_port", 8125}}},
		{"heartbeat_timeout", heartbeatTimeout},
		{"agent_token", token},
		{"agent_token_required", true},
		{"disable_deep_image_inspection", false},
		{"permitted_image_formats", []string{"raw", "gpt", "qcow2", "iso"}},
		{"enable_bios_bootloader_install", false},
	}
}

// takeHeartbeat takes what an agent says of itself.
func takeHeartbeat(c *call) (reply, error) {
	args, err := c.decodeArgs("callback_url", "agent_version", "agent_token", "agent_verify_ca",
		"agent_status", "agent_status_message")
	if err != nil {
		return reply{}, err
	}
	var h rpc.Heartbeat
	if h.URL, err = mandatoryText(args, "callback_url"); err != nil {
		return reply{}, err
	}
	var status, message string
	for _, arg := range []struct {
		name string
		to   *string
	}{{"agent_version", &h.Version}, {"agent_token", &h.Token}, {"agent_verify_ca", &h.CA},
		{"agent_status", &status}, {"agent_status_message", &message}} {
		if *arg.to, err = textArg(args, arg.name); err != nil {
			return reply{}, err
		}
	}
	switch {
	case h.Version != "" && c.minor < agentVersionMinor:
		return reply{}, invalid(`Field "agent_version" not recognised`)
	case (status != "" || message != "") && c.minor < agentStatusMinor:
		return reply{}, invalid(`Fields "agent_status" and "agent_status_message" not recognised.`)
	case args["agent_verify_ca"] != nil && c.minor < agentCAMinor:
		return reply{}, invalid(`Field "agent_verify_ca" not recognised in this version`)
	}
	// Agents know UUIDs. Names could be guessed by whoever wants to know which nodes there are.
	ident := strings.ToLower(c.PathValue("ident"))
	if !ingot.IsUUID(ident) {
		return reply{}, ingot.Errorf(ingot.NotFound, "Node %s could not be found.", c.PathValue("ident"))
	}
	n, err := c.api.o.Store.Node(c.Context(), ident)
	switch {
	case err != nil:
		return reply{}, err
	case args["agent_token"] == nil:
		return reply{}, invalid("Agent token is required for heartbeat processing.")
	case status != "" && !slices.Contains([]string{"start", "end", "error"}, status):
		return reply{}, invalid("Agent status is invalid. Valid states are start,end,error.")
	case h.Version == "" && status == "":
		return reply{}, invalid("Agent did not transmit a version, and a version is required. Please " +
			"update the agent being used.")
	}
	if err := c.api.o.Conductor.Heartbeat(c.Context(), n.UUID, h); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusAccepted}, nil
}
