package sim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
)

// FleetInterface is the interface inside the namespace that simulated machines share.
const FleetInterface = "fleet1"

// AddFleet makes room for simulated machines (package fleet): an interface that is plugged into
// the bridge, and a pool of addresses of which all are local to the namespace, so that a machine
// has its own as soon as DHCP gave it. A machine with a kernel of its own must not get one of them.
func (n *Network) AddFleet(ctx context.Context, pool netip.Prefix) error {
	return ip(ctx, n.Name(),
		"link add fleet0 type veth peer name "+FleetInterface,
		"link set fleet0 master "+bridgeName+" up",
		// Of two interfaces that answer for an address it is the bridge.
		"link set "+FleetInterface+" arp off up",
		"route add local "+pool.String()+" dev lo")
}

// FleetSocket is a network namespace that simulated machines have to themselves, plugged into a
// network that this host is in. The host's own addresses and routes stay as they are, also while the
// machines have theirs; all of it is gone with the last process inside, however that ended.
type FleetSocket struct {
	inside, outside *Namespace
}

// PlugFleet makes the namespace, with FleetInterface beside the named interface of this host. Where
// that is a bridge the machines reach this host, too; by any other they reach all hosts but this.
func PlugFleet(ctx context.Context, link string) (s *FleetSocket, err error) {
	s = &FleetSocket{}
	if s.outside, err = thisNamespace(); err != nil {
		return nil, err
	}
	if s.inside, err = newNamespace(); err != nil {
		return nil, errors.Join(err, s.outside.close())
	}
	if err := s.plug(ctx, link); err != nil {
		return nil, errors.Join(err, s.inside.close(), s.outside.close())
	}
	return s, nil
}

func (s *FleetSocket) plug(ctx context.Context, link string) error {
	bridge, err := exec.CommandContext(ctx, "ip", "-o", "link", "show", "dev", link, "type", "bridge").Output()
	if err != nil {
		return fmt.Errorf("look at interface %s: %w", link, err)
	}
	end := fmt.Sprintf("name %s netns /proc/%d/fd/%d", FleetInterface, os.Getpid(), s.inside.file.Fd())
	commands := []string{"link add link " + link + " " + end + " type macvlan mode bridge"}
	if len(bridge) > 0 {
		pid := os.Getpid()
		port := fmt.Sprintf("fleet%d", pid)
		// A bridge takes the lowest MAC of its ports: it must not be this one.
		mac := fmt.Sprintf("fe:00:%02x:%02x:%02x:%02x", byte(pid>>24), byte(pid>>16), byte(pid>>8), byte(pid))
		commands = []string{"link add " + port + " address " + mac + " type veth peer " + end,
			"link set " + port + " master " + link + " up"}
	}
	if err := ip(ctx, "", commands...); err != nil {
		return fmt.Errorf("plug the machines in beside %s: %w", link, err)
	}
	return s.inside.Do(func() error {
		return ip(ctx, "", "link set lo up", "link set "+FleetInterface+" up")
	})
}

// Start starts a program inside. The namespace of this host is its file 3, see OutsidePath.
func (s *FleetSocket) Start(cmd *exec.Cmd) error {
	cmd.ExtraFiles = []*os.File{s.outside.file}
	return s.inside.Do(cmd.Start)
}

// OutsidePath is where a program that was started inside finds the namespace of the host.
const OutsidePath = "/proc/self/fd/3"

// Close pulls the plug. What was started inside should have ended.
func (s *FleetSocket) Close() error {
	err := s.inside.Do(func() error { return ip(context.Background(), "", "link del "+FleetInterface) })
	return errors.Join(err, s.inside.close(), s.outside.close())
}

// TakeAddress gives an interface of this process's namespace an address, and the router behind which
// everybody else is unless that is not valid.
func TakeAddress(ctx context.Context, link string, address netip.Prefix, router netip.Addr) error {
	commands := []string{"addr replace " + address.String() + " dev " + link}
	if router.IsValid() {
		commands = append(commands, "route replace default via "+router.String()+" dev "+link)
	}
	return ip(ctx, "", commands...)
}
